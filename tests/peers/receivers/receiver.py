"""Werkzeug's, Django's and Starlette's form parsers and Python's JSON as endpoints: POST /PARSER. Prints the ports that they listen on:
the one of the WSGI server, then the one of the ASGI server. `GET /got` says what the last request was: {fields: {name: [text]}, files}
or {json}. A parser's error is a 500 with its text."""
import asyncio, base64, json, socket, threading

import django.conf, django.core.handlers.wsgi, django.http
import uvicorn
import werkzeug, werkzeug.serving
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response as StarletteResponse
from starlette.routing import Route

SIZE = 64 << 20
django.conf.settings.configure(
    SECRET_KEY="x",
    DATA_UPLOAD_MAX_MEMORY_SIZE=SIZE,
    DATA_UPLOAD_MAX_NUMBER_FIELDS=100_000,
    DATA_UPLOAD_MAX_NUMBER_FILES=100_000,
    ALLOWED_HOSTS=["*"],
)
got = None


def a_file(name, file_name, kind, content):
    return {"name": name, "file_name": file_name, "type": kind, "content": base64.b64encode(content).decode()}


class Request(werkzeug.Request):
    max_form_memory_size = SIZE
    max_form_parts = 100_000


def by_werkzeug(environ):
    request = Request(environ)
    files = [a_file(name, file.filename, file.content_type, file.read()) for name, file in request.files.items(multi=True)]
    return {"fields": dict(request.form.lists()), "files": files}


def by_django(environ):
    request = django.core.handlers.wsgi.WSGIRequest(environ)
    files = [a_file(name, file.name, file.content_type, file.read()) for name, list in request.FILES.lists() for file in list]
    return {"fields": dict(request.POST.lists()), "files": files}


def by_json(environ):
    return {"json": json.loads(werkzeug.Request(environ).get_data())}


def wsgi(environ, start_response):
    global got
    if environ["REQUEST_METHOD"] == "GET":
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(got).encode()]
    try:
        got = {"/werkzeug": by_werkzeug, "/django": by_django, "/json": by_json}[environ["PATH_INFO"]](environ)
    except Exception as error:
        start_response("500 Error", [("Content-Type", "text/plain")])
        return [f"{environ['PATH_INFO']}: {error!r}".encode()]
    start_response("204 No Content", [])
    return []


async def by_starlette(request: StarletteRequest):
    global got
    try:
        async with request.form(max_fields=100_000, max_files=100_000, max_part_size=SIZE) as form:
            fields, files = {}, []
            for name, value in form.multi_items():
                if isinstance(value, str):
                    fields.setdefault(name, []).append(value)
                else:
                    files.append(a_file(name, value.filename, value.content_type, await value.read()))
        got = {"fields": fields, "files": files}
    except Exception as error:
        return StarletteResponse(f"/starlette: {error!r}", 500, media_type="text/plain")
    return StarletteResponse(status_code=204)


listener = socket.create_server(("127.0.0.1", 0))
asgi = uvicorn.Server(uvicorn.Config(Starlette(routes=[Route("/starlette", by_starlette, methods=["POST"])]), log_level="warning"))
threading.Thread(target=lambda: asyncio.run(asgi.serve([listener])), daemon=True).start()
server = werkzeug.serving.make_server("127.0.0.1", 0, wsgi, threaded=True)
print(f"listening on {server.port} {listener.getsockname()[1]}", flush=True)
server.serve_forever()
