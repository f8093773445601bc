"""The page and its events over HTTP, on loopback alone.

`/` and its files have no secrets and need no token. What shows or changes something needs it: see `requests`.

    GET  /events         server-sent events: everything at first, then what changes; each has the time
    GET  /breaker?name=  the details of one breaker, asked of the processes that have it
    POST /force-open, /disable, /reset   orders, as JSON: name, and for the first two ttl (seconds) and reason
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, Final, cast
from urllib.parse import SplitResult, parse_qs, urlsplit

from grpc_breaker._web.calls import Calls
from grpc_breaker._web.fleet import Fleet
from grpc_breaker._web.requests import (
    LONGEST_NAME,
    ORDERS,
    RefusedError,
    body_length,
    check_origin,
    check_token,
    read_order,
)

ADDRESS: Final = "127.0.0.1"
MOST_READERS: Final = 16
"""Pages that are open at the same time."""
HEARTBEAT: Final = 2.0
"""Seconds after which a page hears the time, where there is no news: it tells a quiet day from a dead server."""
PATIENCE: Final = 10.0
"""Seconds that a browser has to send its request, and to take what is sent to it."""
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def _read_files() -> dict[str, tuple[str, bytes]]:
    """Type and content of the page's files, by path."""
    found: dict[str, tuple[str, bytes]] = {}
    for file in (files("grpc_breaker._web") / "static").iterdir():
        kind = _TYPES[file.name[file.name.rfind(".") :]]
        found["/" if file.name == "index.html" else f"/{file.name}"] = (kind, file.read_bytes())
    return found


class PageServer(ThreadingHTTPServer):
    """The server. `serve_forever` runs it; `shutdown`, in another thread, ends it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self,
        port: int,
        fleet: Fleet,
        calls: Calls,
        token: str,
        *,
        most_readers: int = MOST_READERS,
        patience: float = PATIENCE,
    ) -> None:
        """Listen.

        Raises:
            OSError: The port is taken.
        """
        super().__init__((ADDRESS, port), _Handler)
        self.fleet = fleet
        self.calls = calls
        self.token = token
        self.files = _read_files()
        self.places = threading.BoundedSemaphore(most_readers)
        self.patience = patience

    @property
    def address(self) -> str:
        """Where the page is, with the token of this run; what is after the # is never sent to anyone."""
        return f"http://{ADDRESS}:{self.server_port}/#{self.token}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of browsers that went away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def _url_of(path: str) -> SplitResult:
    """The path and the query that a request is for."""
    try:
        return urlsplit(path)
    except ValueError:  # as of "http://["
        raise RefusedError(400, "the address of the request cannot be read") from None


def _name_in(query: str) -> str:
    """The name that a query asks for; empty where it has none."""
    try:
        names = parse_qs(query, max_num_fields=8).get("name", [""])
    except ValueError:
        raise RefusedError(400, "the query has too many fields") from None
    return names[0][:LONGEST_NAME]


class _Handler(BaseHTTPRequestHandler):
    server_version = "grpc-breaker"
    sys_version = ""

    def setup(self) -> None:
        """Begin with a request."""
        super().setup()
        self.connection.settimeout(self._page.patience)

    @property
    def _page(self) -> PageServer:
        return cast("PageServer", self.server)

    def do_GET(self) -> None:
        self._answer(self._get, changes=False)

    def do_POST(self) -> None:
        self._answer(self._post, changes=True)

    def _answer(self, answer: Any, *, changes: bool) -> None:
        try:
            check_origin(self.headers, self._page.server_port, changes=changes)
            answer(_url_of(self.path))
        except RefusedError as refused:
            self._send_json(refused.status, {"error": str(refused)})

    def _get(self, url: Any) -> None:
        file = self._page.files.get(url.path)
        if file is not None:
            self._send(200, *file)
            return
        check_token(self.headers, self._page.token)
        if url.path == "/events":
            self._send_events()
        elif url.path == "/breaker":
            self._send_found(self._page.calls.details(_name_in(url.query)))
        else:
            raise RefusedError(404, "there is no such page")

    def _post(self, url: Any) -> None:
        check_token(self.headers, self._page.token)
        what = url.path.removeprefix("/")
        if what not in ORDERS:
            raise RefusedError(404, f"the orders are {', '.join(ORDERS)}")
        order = read_order(what, self.rfile.read(body_length(self.headers)))
        self._send_found(self._page.calls.give(order))

    def _send_found(self, data: Any) -> None:
        if data is None:
            raise RefusedError(404, "no process has a breaker of this name")
        self._send_json(200, data)

    def _send_events(self) -> None:
        if not self._page.places.acquire(blocking=False):
            raise RefusedError(503, "as many pages are open already as may be")
        try:
            self._begin(200, "text/event-stream; charset=utf-8")
            version = 0
            while (news := self._page.fleet.news(version, HEARTBEAT)) is not None:
                version, text = news
                self.wfile.write(f"data: {text}\n\n".encode())
        finally:
            self._page.places.release()

    def _send_json(self, status: int, data: Any) -> None:
        self._send(status, "application/json", json.dumps(data).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self._begin(status, kind, len(body))
        self.wfile.write(body)

    def _begin(self, status: int, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no proper request, in plain text."""
        self._send(code, "text/plain; charset=utf-8", f"{message or explain or code}\n".encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it has there
        """Log nothing: the terminal is the operator's."""
