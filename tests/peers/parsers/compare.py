"""Our reading of messages beside that of Python's `email`, `mailparser` and `postal-mime`. Argument: a folder with NAME.eml, our NAME.json, and
`others` (by others.mjs). Prints how often each rule explains a difference; a difference without a rule is printed whole, and the end is 1."""
import base64, collections, email, email.policy, email.utils, hashlib, json, pathlib, re, sys

folder = pathlib.Path(sys.argv[1])
others = json.loads((folder / "others").read_text())


def squeezed(text):
    """Without what layouts, line ends and decoders of broken octets make of it."""
    return re.sub(r"[\s\u00a0\ufeff\u200b\0-\x1f]+", "", text)


def of_hash(octets):
    """Some change line ends, or keep the one before a delimiter."""
    text = re.sub(r"[ \t]+(?=\n)", "", octets.decode("latin-1").replace("\r", "")).rstrip("\t\n\v\f \u00a0")
    return hashlib.sha256(text.encode("latin-1")).hexdigest()


def by_python(octets):
    message = email.message_from_bytes(octets, policy=email.policy.default)
    plain, html, files = [], [], []

    def walk(part):
        if part.is_multipart() and part.get_content_maintype() == "multipart":
            for inner in part.get_payload():
                walk(inner)
            return
        kind = part.get_content_type()
        if part.get_content_maintype() == "message" and part.is_multipart():
            content = b"".join(inner.as_bytes() for inner in part.get_payload())
        else:
            content = part.get_payload(decode=True) or b""
        is_file = part.get_content_disposition() == "attachment" or kind not in ("text/plain", "text/html")
        if is_file:
            files.append({"name": part.get_filename() or "", "type": kind, "hash": of_hash(content)})
            return
        try:
            text = content.decode(part.get_content_charset() or "utf-8", "replace")
        except LookupError:
            text = content.decode("utf-8", "replace")
        (plain if kind == "text/plain" else html).append(text)

    walk(message)
    senders = message.get_all("From") or []
    return {
        "subject": str(message.get("Subject") or ""),
        "from": [a.addr_spec for sender in senders[:1] for a in sender.addresses],
        "plain": "\n".join(plain),
        "html": "\n".join(html),
        "attachments": files,
    }


def by_us(octets, body):
    def field(name):
        value = body["headers"].get(name) or ""
        return value if isinstance(value, str) else value[0]

    return {
        "subject": field("subject"),
        "from": [address for _, address in email.utils.getaddresses([field("from")]) if address],
        "plain": body["plain"],
        "html": body["html"],
        "attachments": [
            {"name": part["file_name"], "type": part["content_type"].split(";")[0], "hash": of_hash(base64.b64decode(part["content"]))}
            for part in body["attachments"]
        ],
    }


def facts(octets, ours):
    """What is so of a message, for rules to look at."""
    head = octets.split(b"\r\n\r\n", 1)[0]
    lower = octets.lower()
    return {
        "octets": octets,
        "head": head,
        "lower": lower,
        "high": any(octet > 127 for octet in octets),
        "nested": b"message/rfc822" in lower or b"message/global" in lower,
    }


RULES = []


def rule(name, parsers="*", values="*"):
    """A difference is explained if this function says so; the first rule that does counts."""

    def add(test):
        RULES.append((name, parsers, values, test))
        return test

    return add


def hashes(files, but=lambda file: False):
    return collections.Counter(file["hash"] for file in files if not but(file))


def types(octets):
    """Content types that the message names, its parts' included."""
    return re.findall(rb"(?im)^content-type\s*:\s*([^;\s]*)", octets)


def delimiters(octets):
    return set(re.findall(rb'(?i)boundary[ \t]*=\s*"?([^";\r\n]+)', octets))


def encoded(text):
    """As it would look read octet by octet."""
    for charset in ("cp1252", "latin-1"):
        try:
            yield squeezed(text.encode(charset, "surrogateescape").decode("utf-8"))
        except ValueError:
            pass


@rule("NUL, and what cannot be decoded, is U+FFFD, one or several", values="subject plain html")
def _(a, b, about, ours, theirs):
    return squeezed(a).replace("\ufffd", "") == squeezed(b).replace("\ufffd", "")


@rule("octets that are not of the declared charset, or of none: a guess instead of U+FFFD", values="subject plain html")
def _(a, b, about, ours, theirs):
    return b.count("\ufffd") > a.count("\ufffd") or any(0xDC80 <= ord(c) <= 0xDCFF for c in b)


@rule("UTF-8 under another label", values="subject plain html")
def _(a, b, about, ours, theirs):
    return squeezed(a) in encoded(b)


@rule("a charset, or a code within one, that they do not know", values="subject plain html")
def _(a, b, about, ours, theirs):
    # The same but for what is not ASCII, or escapes left in the text.
    ascii = lambda text: re.sub(r"[^!-~]+", "", text)
    return (about["high"] or b"charset" in about["lower"] or b"=?" in about["head"]) and ("\x1b" in b or ascii(a) == ascii(b))


@rule("a multipart in which no delimiter came is text", values="plain")
def _(a, b, about, ours, theirs):
    return not b.strip() and not ours["html"] and not ours["attachments"] and b"multipart" in about["lower"]


@rule("of repeated fields the first", values="subject from")
def _(a, b, about, ours, theirs):
    return len(re.findall(rb"(?im)^(subject|from)[ \t]*:", about["head"])) > 2 or len(re.findall(rb"(?im)^from[ \t]*:", about["head"])) > 1


@rule("encoded words that are not written as they should be", values="subject")
def _(a, b, about, ours, theirs):
    return "=?" in b and "=?" not in a


@rule("where the header ends: before the first line that is no field, unless it goes on; a fold that has lost its blank", values="subject from plain html attachments")
def _(a, b, about, ours, theirs):
    lines = re.split(rb"\r\n(?![ \t])", about["head"])
    odd = lambda line: not re.match(rb"[!-9;-~\x80-\xff]+[ \t]*:", line)
    # Of the message, or of a part: a field's line that was folded without a blank, or a text without a blank line above it.
    parts = [part for one in delimiters(about["octets"]) for part in about["octets"].split(b"\r\n--" + one + b"\r\n")[1:]]
    heads = [part.split(b"\r\n\r\n")[0] for part in parts if not part.startswith(b"\r\n")]
    return any(map(odd, lines)) or any(odd(line) for head in heads for line in head.splitlines() if not line[:1].isspace())


@rule("who reads a field of addresses: we give its text", values="from")
def _(a, b, about, ours, theirs):
    return bool(theirs["from"] or ours["from"])


@rule("a message, a report or a key within is one file, as it came", values="attachments plain html subject")
def _(a, b, about, ours, theirs):
    kinds = [kind.lower() for kind in types(about["octets"])]
    return any(kind.startswith((b"message/", b"text/rfc822-headers", b"multipart/digest")) for kind in kinds)


@rule("a content type that is none says nothing: the content is a text, or a file if it has a name", values="plain html attachments")
def _(a, b, about, ours, theirs):
    token = rb"[!#$%&'*+.^_`{|}~0-9A-Za-z-]+"
    return any(not re.fullmatch(token + b"/" + token, kind) for kind in types(about["octets"]))


@rule("a transfer encoding that is written otherwise, unknown, or not that of the content", values="plain html attachments")
def _(a, b, about, ours, theirs):
    known = {b"base64", b"quoted-printable", b"7bit", b"8bit", b"binary"}
    names = re.findall(rb"(?im)^content-transfer-encoding[ \t]*:[ \t]*([^\r\n]*)", about["octets"])
    return any(name.strip().lower() not in known for name in names)


@rule("texts are joined, and no text of the other kind is made of them", "mailparser postal-mime", "plain html")
def _(a, b, about, ours, theirs):
    plain = lambda text: re.sub(r"<br/?>|</?div>", "", squeezed(text))
    ascii = lambda text: re.sub(r"[^!-~]+", "", text)
    return plain(a) == plain(b) or ascii(a) in ascii(b) or all(squeezed(line) in squeezed(b) for line in a.splitlines())


@rule("files that are text are decoded by them, and named by a charset that they do not know", "mailparser postal-mime", "attachments")
def _(a, b, about, ours, theirs):
    is_text = lambda file: file["type"].startswith("text/")
    return hashes(a, is_text) == hashes(b, is_text)


@rule("base64 that is cut, stands in several pieces, or has something behind it", values="plain html attachments")
def _(a, b, about, ours, theirs):
    whole = rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
    parts = re.findall(rb"(?ims)^content-transfer-encoding[ \t]*:[ \t]*base64.*?\r\n\r\n(.*?)(?=\r\n--|\Z)", about["octets"])
    return any(not re.fullmatch(whole, re.sub(rb"\s", b"", part)) for part in parts)


@rule("a delimiter that they do not know: folded, with characters that are none of a token's, or not announced", values="plain html attachments")
def _(a, b, about, ours, theirs):
    return not any((theirs["plain"].strip(), theirs["html"].strip())) and b"multipart" in about["lower"]


@rule("a multipart of which it finds no part is a file to it", "email", "attachments")
def _(a, b, about, ours, theirs):
    return any(file["type"].startswith("multipart/") for file in b)


@rule("a delimiter is the whole line", values="plain html attachments")
def _(a, b, about, ours, theirs):
    lines = [line.rstrip() for line in about["octets"].split(b"\r\n") if line.startswith(b"--")]
    return any(line.startswith(b"--" + one) and line[2 + len(one) :] not in (b"", b"--") for one in delimiters(about["octets"]) for line in lines)


@rule("UTF-7 and HZ, which they do not know", "mailparser postal-mime", "subject plain")
def _(a, b, about, ours, theirs):
    return b"charset=utf-7" in about["lower"].replace(b'"', b"") or b"=?utf-7" in about["lower"] or b"charset=hz" in about["lower"].replace(b'"', b"")


@rule("octets of no declared charset: another guess", values="subject plain html")
def _(a, b, about, ours, theirs):
    return not re.search(rb"charset[ \t]*=[ \t]*[\"']?(?!us-ascii)[a-z]", about["lower"])


@rule("quoted-printable that they leave as it is", values="plain html")
def _(a, b, about, ours, theirs):
    return bool(re.search("=[0-9A-F]{2}", b)) and not re.search("=[0-9A-F]{2}", a)


@rule("an empty boundary is none, and only a multipart has one", values="plain html")
def _(a, b, about, ours, theirs):
    return b'boundary=""' in about["lower"] or bool(re.search(rb"content-type\s*:\s*text/[^;]*;\s*boundary", about["lower"]))


@rule("a disposition that is unknown", values="plain html attachments")
def _(a, b, about, ours, theirs):
    kinds = re.findall(rb"(?im)^content-disposition[ \t]*:[ \t]*([^;\r\n]*)", about["octets"])
    return any(kind.strip().lower() not in (b"inline", b"attachment") for kind in kinds)


used, wrong, compared = collections.Counter(), [], 0
for file in sorted(folder.glob("*.eml")):
    octets = file.read_bytes()
    ours = by_us(octets, json.loads(file.with_suffix(".json").read_bytes()))
    read = dict(others[file.name])
    try:
        read["email"] = by_python(octets)
    except Exception as error:
        read["email"] = {"error": repr(error)}
    about = facts(octets, ours)
    for parser, theirs in read.items():
        if "error" in theirs:
            used[f"{parser}: it fails"] += 1
            continue
        for value in ("subject", "from", "plain", "html", "attachments"):
            compared += 1
            a, b = ours[value], theirs[value]
            if value in ("subject", "plain", "html"):
                same = squeezed(a) == squeezed(b)
            elif value == "from":
                same = [x.lower() for x in a] == [x.lower() for x in b if x]
            else:
                same = sorted(x["hash"] for x in a) == sorted(x["hash"] for x in b)
            if same:
                continue
            for name, parsers, values, test in RULES:
                if (parsers == "*" or parser in parsers.split()) and (values == "*" or value in values.split()) and test(a, b, about, ours, theirs):
                    used[f"{parser}: {value}: {name}"] += 1
                    break
            else:
                used[f"{parser}: {value}: -"] += 1
                wrong.append(f"{file.name}: {parser}: {value}:\n  ours   {str(a)[:700]!r}\n  theirs {str(b)[:700]!r}")
print(len(others), "messages,", compared, "values,", sum(used.values()), "differences")
for name, count in sorted(used.items()):
    print(f"  {count:4} {name}")
if wrong:
    print(f"{len(wrong)} without a rule:", *wrong, sep="\n")
    sys.exit(1)
