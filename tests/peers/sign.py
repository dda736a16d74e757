"""Makes keys and signs messages by dkimpy. Argument: a directory for NAME.eml and cases.json. Prints the zone's records, relative to `test.`."""

import base64
import json
import subprocess
import sys
import time
from pathlib import Path

import dkim
from nacl.signing import SigningKey

directory = Path(sys.argv[1])
cases, records = [], []


def rsa_key(bits=2048):
    pem = subprocess.run(["openssl", "genrsa", "-traditional", str(bits)], capture_output=True, check=True).stdout
    public = subprocess.run(["openssl", "rsa", "-pubout", "-outform", "DER"], input=pem, capture_output=True, check=True).stdout
    return pem, base64.b64encode(public).decode()


def txt(name, value):
    pieces = " ".join(f'"{value[i:i + 200]}"' for i in range(0, len(value), 200))
    records.append(f"{name} TXT {pieces}")


pem, public = rsa_key()
other_pem, _ = rsa_key()
short_pem, short_public = rsa_key(768)
ed = SigningKey.generate()
ed_private = base64.b64encode(bytes(ed))
ed_public = base64.b64encode(bytes(ed.verify_key)).decode()

for domain in ("signed", "sub.signed", "strict", "nodmarc"):
    txt(f"rsa._domainkey.{domain}", f"v=DKIM1; k=rsa; p={public}")
    txt(f"ed._domainkey.{domain}", f"v=DKIM1; k=ed25519; p={ed_public}")
    txt(f"revoked._domainkey.{domain}", "v=DKIM1; k=rsa; p=")
    txt(f"short._domainkey.{domain}", f"v=DKIM1; k=rsa; p={short_public}")
    txt(domain, "v=spf1 ip4:192.0.2.1 -all")
txt("_dmarc.signed", "v=DMARC1; p=reject; sp=quarantine")
txt("_dmarc.strict", "v=DMARC1; p=reject; adkim=s; aspf=s")
txt("sub.strict", "v=spf1 ip4:192.0.2.1 -all")
txt("rsa._domainkey.sub.strict", f"v=DKIM1; k=rsa; p={public}")

# Keys that are not for this mail, or for no hash that is accepted (RFC 6376 section 3.6.1).
txt("reports._domainkey.signed", f"v=DKIM1; s=tlsrpt; k=rsa; p={public}")
txt("mail._domainkey.signed", f"v=DKIM1; s=tlsrpt:email; h=sha1:sha256; k=rsa; p={public}")
txt("hash._domainkey.signed", f"v=DKIM1; h=sha1; k=rsa; p={public}")
# Policies as they are published by mistake (RFC 7489 section 6.6.3).
txt("_dmarc.twice", "v=DMARC1; p=reject")
txt("_dmarc.twice", "v=DMARC1; p=none")
txt("_dmarc.lower", "v=dmarc1; p=reject")
txt("_dmarc.typo", "v=DMARC1; p=rejct; rua=mailto:dmarc@typo.test")
txt("_dmarc.silent", "v=DMARC1; p=rejct")

BODY = b"Hello \t world  \r\n\r\nlast line\r\n\r\n\r\n"


def message(author):
    return f"From: Alice  <alice@{author}>\r\nTo: bob@example.test\r\nSubject:  a  subject\r\nDate: Tue, 24 Nov 2026 12:00:00 +0000\r\nMessage-ID: <m@{author}>\r\n\r\n".encode() + BODY


def sign(octets, domain, selector=b"rsa", key=pem, kind=b"rsa-sha256", canonical=(b"relaxed", b"relaxed"), **options):
    signature = dkim.sign(octets, selector, domain.encode(), key, canonicalize=canonical, signature_algorithm=kind, **options)
    return signature + octets


class Tagged(dkim.DKIM):
    """Signs with tags that dkimpy has no option for; None takes one away."""

    tags = {}

    def gen_header(self, fields, include_headers, *rest, **named):
        kept = [(name, self.tags.get(name, value)) for name, value in fields if name != b"b"]
        names = [name for name, _ in kept]
        added = [(name, value) for name, value in self.tags.items() if name not in names]
        fields[:] = kept + added + [field for field in fields if field[0] == b"b"]
        signed = [name.strip().lower() for name in dict(fields)[b"h"].split(b":")]
        return super().gen_header(fields, signed, *rest, **named)


def tagged(octets, domain, tags, **options):
    signer = Tagged(octets)
    signer.tags = tags
    return signer.sign(b"rsa", domain.encode(), pem, canonicalize=(b"relaxed", b"relaxed"), **options) + octets


def at(seconds_from_now):
    return str(int(time.time()) + seconds_from_now).encode()


def case(name, octets, dkim_results, dmarc, ip="203.0.113.9", sender="bounce@elsewhere.test", policy=None):
    (directory / f"{name}.eml").write_bytes(octets)
    cases.append({"name": name, "dkim": dkim_results, "dmarc": dmarc, "ip": ip, "from": sender, "policy": policy})


plain = message("signed.test")
for header in (b"simple", b"relaxed"):
    for body in (b"simple", b"relaxed"):
        name = f"rsa-{header.decode()}-{body.decode()}"
        case(name, sign(plain, "signed.test", canonical=(header, body)), ["pass"], "pass", policy="reject")
case("ed25519", sign(plain, "signed.test", b"ed", ed_private, b"ed25519-sha256"), ["pass"], "pass")
case("unsigned", plain, [], "fail")
case("unsigned-with-spf", plain, [], "pass", ip="192.0.2.1", sender="alice@signed.test")
case("body-altered", sign(plain, "signed.test") + b"one more line\r\n", ["fail"], "fail")
case("header-altered", sign(plain, "signed.test").replace(b"a  subject", b"another subject"), ["fail"], "fail")
case("relaxed-whitespace", sign(plain, "signed.test").replace(b"Hello \t world  \r\n", b"Hello world\r\n").replace(b"Alice  <", b"Alice <"), ["pass"], "pass")
case("simple-whitespace", sign(plain, "signed.test", canonical=(b"simple", b"simple")).replace(b"Hello \t world", b"Hello world"), ["fail"], "fail")
case("wrong-key", sign(plain, "signed.test", key=other_pem), ["fail"], "fail")
case("no-key", sign(plain, "signed.test", selector=b"missing"), ["permerror"], "fail")
case("revoked-key", sign(plain, "signed.test", selector=b"revoked"), ["permerror"], "fail")
# A signature over a part of the body (l=) lets anybody append to it: it is looked at, and not accepted (RFC 6376 section 8.2).
case("partial-body", sign(plain, "signed.test", length=True), ["neutral"], "fail")
case("expired", tagged(plain, "signed.test", {b"t": at(-7200), b"x": at(-3600)}), ["fail"], "fail")
case("not-yet-expired", tagged(plain, "signed.test", {b"t": at(-3600), b"x": at(3600)}), ["pass"], "pass")
case("expired-and-fresh", tagged(sign(plain, "signed.test"), "signed.test", {b"t": at(-7200), b"x": at(-3600)}), ["fail", "pass"], "pass")
# A signature that does not cover the author says nothing about him (RFC 6376 section 5.4).
case("author-not-signed", tagged(plain, "signed.test", {b"h": b"to : subject"}), ["permerror"], "fail")
case("endless-domain", tagged(plain, "signed.test", {b"d": b"a." * 5000 + b"test", b"s": b"s" * 5000}), ["permerror"], "fail")
case("endless-author", message("a." * 300 + "test"), [], "permerror")
case("identity-elsewhere", tagged(plain, "signed.test", {b"i": b"@elsewhere.test"}), ["fail"], "fail")
case("no-signature-at-all", b"DKIM-Signature: v=1; a=rsa-sha256; b=\r\n" + plain, ["neutral"], "fail")
case("not-base64", b"DKIM-Signature: v=1; a=rsa-sha256; d=signed.test; s=rsa; h=from; bh=!; b=!\r\n" + plain, ["neutral"], "fail")
# However many there are, ten are looked at.
case("many-malformed", b"DKIM-Signature: v=1; a=rsa-sha256; b=\r\n" * 2000 + sign(plain, "signed.test"), ["pass"] + ["neutral"] * 9, "pass")
case("many-fields", tagged(plain, "signed.test", {b"h": b" : ".join([b"from"] + [b"x-%d" % n for n in range(300)])}), ["neutral"], "fail")
# SHA-1 and keys under 1024 bits prove nothing (RFC 8301 section 3).
case("sha1", sign(plain, "signed.test", kind=b"rsa-sha1"), ["neutral"], "fail")
case("short-key", sign(plain, "signed.test", selector=b"short", key=short_pem), ["fail"], "fail")
case("name-server-refuses", sign(message("author.example"), "author.example"), ["temperror"], "temperror")
both = sign(sign(plain, "signed.test"), "signed.test", b"ed", ed_private, b"ed25519-sha256")
case("two-signatures", both, ["pass", "pass"], "pass")
mixed = sign(sign(plain, "signed.test", key=other_pem), "signed.test", b"ed", ed_private, b"ed25519-sha256")
case("one-of-two", mixed, ["pass", "fail"], "pass")
case("aligned-relaxed", sign(message("sub.signed.test"), "signed.test"), ["pass"], "pass")
case("subdomain-policy", message("sub.signed.test"), [], "fail", policy="quarantine")
case("not-aligned", sign(plain, "nodmarc.test"), ["pass"], "fail")
case("strict-aligned", sign(message("strict.test"), "strict.test"), ["pass"], "pass")
case("strict-not-aligned", sign(message("strict.test"), "sub.strict.test"), ["pass"], "fail")
case("strict-spf-not-aligned", message("strict.test"), [], "fail", ip="192.0.2.1", sender="a@sub.strict.test")
case("no-policy", sign(message("nodmarc.test"), "nodmarc.test"), ["pass"], "none")

case("key-for-reports", sign(plain, "signed.test", selector=b"reports"), ["permerror"], "fail")
case("key-for-mail-too", sign(plain, "signed.test", selector=b"mail"), ["pass"], "pass")
case("key-for-sha1", sign(plain, "signed.test", selector=b"hash"), ["permerror"], "fail")
case("two-policies", message("twice.test"), [], "none")
case("policy-in-lower-case", message("lower.test"), [], "none")
case("policy-misspelt", message("typo.test"), [], "fail", policy="none")
case("policy-misspelt-and-nobody-to-tell", message("silent.test"), [], "none")


def written(author):
    return plain.replace(b"Alice  <alice@signed.test>", author)


case("author-with-comment", written(b"alice@signed(x).test"), [], "fail", policy="reject")
case("author-in-pieces", written(b"alice @ signed .\r\n test"), [], "fail", policy="reject")
two_angles = written(b"<boss@signed.test><alice@nodmarc.test>")
case("two-authors-in-brackets", sign(two_angles, "nodmarc.test"), ["pass"], "none")
case("two-authors-in-brackets-with-spf", two_angles, [], "none", ip="192.0.2.1", sender="alice@nodmarc.test")
case("two-domains-in-one-address", sign(written(b"<boss@signed.test@strict.test>"), "strict.test"), ["pass"], "none")
case("quoted-name-with-an-address", sign(written(b'"boss@strict.test, <x@strict.test>" <alice@signed.test>'), "signed.test"), ["pass"], "pass")

# To measure with; they pass all three.
for name, size in (("small", 4000), ("large", 400000)):
    text = plain + b"This line is part of a text that goes on for a while, as texts do.\r\n" * (size // 68 + 1)
    case(name, sign(text, "signed.test"), ["pass"], "pass", ip="192.0.2.1", sender="alice@signed.test")

(directory / "cases.json").write_text(json.dumps(cases))
print("\n".join(records))
