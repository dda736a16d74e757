"""Reads what an endpoint got, with parsers of its own, and compares it with the message. Argument: a directory with NAME.eml, NAME.FORMAT.fields, NAME.FORMAT.body."""

import base64
import email
import email.policy
import io
import json
import sys
from email.header import decode_header, make_header
from pathlib import Path

from multipart import MultipartParser, parse_options_header

EXPECTED_ENVELOPE = {
    "to": "bob@example.test",
    "from": "alice@sender.test",
    "helo_domain": "client.test",
    "remote_ip": "127.0.0.1",
}


def fields_of(path):
    return dict(line.split(": ", 1) for line in path.read_text().splitlines())


def form(fields, body):
    kind, options = parse_options_header(fields["content-type"])
    assert kind == "multipart/form-data", kind
    parser = MultipartParser(io.BytesIO(body), options["boundary"], content_length=len(body), part_limit=10**4, spool_limit=2**26, memory_limit=2**27)
    return [(part.name, part.filename, part.content_type, part.raw) for part in parser]


def attachments(message):
    """Decoded octets of each leaf that is no body text, in message order."""
    found = []

    def walk(part, top):
        if part.get_content_type() == "message/rfc822":
            found.append(None)
            return
        if part.is_multipart():
            for child in part.get_payload():
                walk(child, False)
            return
        body = part.get_content_type() in ("text/plain", "text/html") and part.get_content_disposition() != "attachment"
        if not body or (part.get_filename() and not top):
            found.append(part.get_payload(decode=True) or b"")

    walk(message, True)
    return found


def parts_of(part):
    """All parts but those inside an attached message."""
    yield part
    if part.is_multipart() and part.get_content_type() != "message/rfc822":
        for child in part.get_payload():
            yield from parts_of(child)


def texts(message, kind):
    return [
        p.get_payload(decode=True).decode(p.get_content_charset() or "utf-8", "replace").replace("\r\n", "\n").strip()
        for p in parts_of(message)
        if p.get_content_type() == kind and p.get_content_disposition() != "attachment" and not p.get_filename()
    ]


def unfolded(value):
    decoded = str(make_header(decode_header(value)))
    return " ".join(decoded.replace("\r\n", " ").replace("\n", " ").split())


def check_json(message, fields, body):
    value = json.loads(body.decode("utf-8", "strict"))
    assert list(value) == ["headers", "envelope", "plain", "html", "reply_plain", "attachments"], list(value)
    envelope = value["envelope"]
    for key, expected in EXPECTED_ENVELOPE.items():
        assert envelope[key] == expected, (key, envelope[key])
    assert envelope["recipients"] == ["bob@example.test"] and envelope["tls"] is False
    by_name = {}
    for name, text in message.items():
        by_name.setdefault(name.lower().replace("-", "_"), []).append(unfolded(text))
    for name, expected in by_name.items():
        got = value["headers"][name]
        got = [" ".join(text.split()) for text in ([got] if isinstance(got, str) else got)]
        assert got == expected, (name, got, expected)
    assert set(value["headers"]) == set(by_name)
    for key, kind in (("plain", "text/plain"), ("html", "text/html")):
        for text in texts(message, kind):
            assert text in value[key], (key, text, value[key])
    expected = attachments(message)
    assert len(value["attachments"]) == len(expected), (len(value["attachments"]), len(expected))
    for got, octets in zip(value["attachments"], expected):
        content = base64.b64decode(got["content"], validate=True)
        assert got["size"] == len(content)
        assert octets is None or content == octets, (content, octets)
        assert got["disposition"] in ("attachment", "inline")
    return value


def check_multipart(message, fields, body, as_json):
    parts = form(fields, body)
    plain = {name: raw.decode() for name, filename, _, raw in parts if filename is None}
    for key, expected in EXPECTED_ENVELOPE.items():
        assert plain[f"envelope[{key}]"] == expected, key
    assert plain["envelope[recipients][0]"] == "bob@example.test"
    assert plain["envelope[tls]"] in ("false", "0"), plain["envelope[tls]"]
    for name, got in as_json["headers"].items():
        if isinstance(got, str):
            assert plain[f"headers[{name}]"] == got, name
        else:
            for n, text in enumerate(got):
                assert plain[f"headers[{name}][{n}]"] == text, name
    for name in ("plain", "html", "reply_plain"):
        assert plain.get(name, "").replace("\r\n", "\n") == as_json[name], name
    files = [(filename, kind, raw) for name, filename, kind, raw in parts if name == "attachments[]"]
    assert len(files) == len(as_json["attachments"])
    for (filename, kind, raw), expected in zip(files, as_json["attachments"]):
        assert raw == base64.b64decode(expected["content"])
        assert kind.split(";")[0] == expected["content_type"], (kind, expected["content_type"])
        assert filename == expected["file_name"] or not filename.isascii(), (filename, expected["file_name"])


def check_raw(octets, fields, body):
    parts = form(fields, body)
    whole = [(filename, raw) for name, filename, _, raw in parts if name == "message"]
    assert whole == [(None, octets)], "the message as a plain field, unaltered"
    plain = {name: raw.decode() for name, _, _, raw in parts if name != "message"}
    for key, expected in EXPECTED_ENVELOPE.items():
        assert plain[f"envelope[{key}]"] == expected, key


directory = Path(sys.argv[1])
count = 0
for path in sorted(directory.glob("*.eml")):
    octets = path.read_bytes()
    message = email.message_from_bytes(octets)
    name = path.with_suffix("").name

    def got(kind):
        return fields_of(directory / f"{name}.{kind}.fields"), (directory / f"{name}.{kind}.body").read_bytes()

    try:
        as_json = check_json(message, *got("json"))
        check_multipart(message, *got("multipart"), as_json)
        check_raw(octets, *got("raw"))
    except AssertionError as error:
        sys.exit(f"{name}: {error!r} {error.__traceback__.tb_next.tb_lineno if error.__traceback__.tb_next else ''}")
    count += 1
print(count)
