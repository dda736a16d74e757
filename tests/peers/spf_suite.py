"""Reads the open SPF test suite from where its Debian package put it. Prints a JSON list of scenarios: a root zone's records, the
names that are silent, the cases. Argument: the file."""

import gzip
import json
import sys

import yaml

# As the DNS numbers them; SPF is the type that RFC 7208 gave up.
TYPES = {"A": 1, "CNAME": 5, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SPF": 99}


def escaped(octets):
    return "".join(f"\\{octet:03d}" for octet in octets)


def absolute(name):
    """A name of a zone file: whatever is in it, only its dots part labels."""
    labels = name.rstrip(".").split(".")
    return "".join(escaped(label.encode()) + "." for label in labels)


def rdata(kind, value):
    if kind in ("TXT", "SPF"):
        strings = [value] if isinstance(value, str) else value
        octets = [string.encode() for string in strings] or [b""]
        pieces = [string[i : i + 255] for string in octets for i in range(0, max(len(string), 1), 255)]
        return " ".join(f'"{escaped(piece)}"' for piece in pieces)
    if kind == "MX":
        return f"{value[0]} {absolute(value[1])}"
    if kind in ("CNAME", "PTR"):
        return absolute(value)
    return value


def records_of(entries):
    """Pairs of type and value. Where no TXT record is given, the SPF ones stand for TXT too (the suite's own rule)."""
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    if not any(kind == "TXT" for kind, _ in pairs):
        pairs += [("TXT", value) for kind, value in pairs if kind == "SPF"]
    return [(kind, value) for kind, value in pairs if value != "NONE"]


scenarios = []
for document in yaml.safe_load_all(gzip.open(sys.argv[1])):
    zone, silent = [], []
    for name, entries in document["zonedata"].items():
        records = records_of(entries)
        zone += [f"{absolute(name)} {kind} {rdata(kind, value)}" for kind, value in records]
        if "TIMEOUT" in entries:
            silent.append({"name": name, "but_for": sorted({TYPES[kind] for kind, _ in records})})
    cases = [
        {
            "name": name,
            "ip": case["host"],
            "helo": case["helo"],
            "from": case["mailfrom"],
            "results": case["result"] if isinstance(case["result"], list) else [case["result"]],
        }
        for name, case in document["tests"].items()
    ]
    scenarios.append({"name": document["description"], "zone": "\n".join(zone), "silent": silent, "cases": cases})
print(json.dumps(scenarios))
