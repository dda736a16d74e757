"""A product that keeps its tenants in SQLite and needs one route: `POST /authorize.json` says who takes a recipient, and where its mail goes.

    [[route]]
    recipients = ["*"]
    url = "https://app.example.com/inbound"
    authorize_url = "https://app.example.com/authorize.json"
    authorize_to = ["self"]

Arguments: a port, a database. `POST /tenants` puts rows of it: {"domain": ..., "url": ..., "token": ...}."""

import json
import sqlite3
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATABASE = sys.argv[2]


def connect():
    return sqlite3.connect(DATABASE, timeout=30)


class Application(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/authorize.json":
            self.authorize(data["to"])
        elif self.path == "/tenants":
            with connect() as database:
                database.executemany("REPLACE INTO tenants VALUES (:domain, :url, :token)", data)
            self.answer(204, "", None)
        else:
            self.answer(404, "text/plain", "no such page")

    def authorize(self, recipient):
        domain = recipient.rpartition("@")[2].lower()
        row = connect().execute("SELECT url, token FROM tenants WHERE domain = ?", (domain,)).fetchone()
        if row is None:
            self.answer(404, "text/plain", f"nobody has {domain} here")
        else:
            url, token = row
            place = {"url": url, "headers": {"Authorization": f"Bearer {token}"}}
            # A tenant that moves is followed within a second.
            self.answer(200, "application/json", json.dumps(place), "max-age=1")

    def answer(self, status, kind, body, cache=None):
        octets = (body or "").encode()
        self.send_response(status)
        if body is not None:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(octets)))
        if cache:
            self.send_header("Cache-Control", cache)
        self.end_headers()
        self.wfile.write(octets)

    def log_message(self, *_):
        pass


with connect() as database:
    database.execute("CREATE TABLE IF NOT EXISTS tenants (domain TEXT PRIMARY KEY, url TEXT NOT NULL, token TEXT NOT NULL)")
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Application).serve_forever()
