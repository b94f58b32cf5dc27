"""A schema registry for tests, on 127.0.0.1 and a free port: it knows the schemas it is given, by id, and no others."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class _Server(ThreadingHTTPServer):
    # Joined by server_close, so that no thread outlives a test.
    daemon_threads = False

    def __init__(self, schemas: Mapping[int, Mapping[str, Any]]) -> None:
        self.schemas = schemas
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/subjects":
            return self._answer(200, [])
        number = path.removeprefix("/schemas/ids/")
        schema = self.server.schemas.get(int(number)) if number.isdigit() else None
        if schema is None:
            return self._answer(404, {"error_code": 40403, "message": "Schema not found"})
        return self._answer(200, {"schema": json.dumps(schema)})

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""


@contextmanager
def schema_registry(schemas: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """A registry that knows these schemas: its URL. It ends with the block."""
    server = _Server(schemas)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
