"""Endpoints that say what they got: for gunicorn (`wsgi`), uvicorn (`asgi`), and by itself on Python's http.server. Argument: a port."""

import base64
import hashlib
import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from multipart import MultipartParser, parse_options_header


def told(content_type, rcpt_to, body):
    kind, options = parse_options_header(content_type)
    if kind == "application/json":
        data = json.loads(body)
        recipients = data["envelope"]["recipients"]
        content = b"".join(base64.b64decode(attachment["content"]) for attachment in data["attachments"])
    elif kind == "multipart/form-data":
        parser = MultipartParser(io.BytesIO(body), options["boundary"], content_length=len(body), part_limit=10**4, spool_limit=2**26, memory_limit=2**27)
        parts = [(part.name, part.raw) for part in parser]
        recipients = [raw.decode() for name, raw in parts if name.startswith("envelope[recipients]")]
        content = b"".join(raw for name, raw in parts if name in ("attachments[]", "message"))
    elif rcpt_to is not None:
        recipients, content = rcpt_to.split(","), body
    else:
        recipients, content = [], body
        while content.startswith(b"X-Original-To: "):
            line, content = content.split(b"\r\n", 1)
            recipients.append(line.split(b": ", 1)[1].decode())
    digest = lambda octets: hashlib.sha256(octets).hexdigest()
    return json.dumps({"recipients": digest("\n".join(recipients).encode()), "content": digest(content)}).encode()


def wsgi(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    answer = told(environ["CONTENT_TYPE"], environ.get("HTTP_MAILSLUICE_RCPT_TO"), body)
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    fields = {name: value.decode() for name, value in scope["headers"]}
    body, more = [], True
    while more:
        event = await receive()
        body.append(event.get("body", b""))
        more = event.get("more_body", False)
    answer = told(fields[b"content-type"], fields.get(b"mailsluice-rcpt-to"), b"".join(body))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": answer})


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = told(self.headers["Content-Type"], self.headers["Mailsluice-Rcpt-To"], body)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
