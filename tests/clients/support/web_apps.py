"""Two web applications that make guarded calls: one for gunicorn, one for uvicorn.

Each request is a call, `/?` and what the server is to do; the response says how it ended, and what the worker reports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from tests.clients.support import shop


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The application for gunicorn."""
    ended = shop.outcome(unquote(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"ended": ended, **shop.facts()}).encode()]


async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """The application for uvicorn."""
    assert scope["type"] == "http"
    ended = await shop.outcome_in_asyncio(unquote(scope["query_string"].decode()))
    body = json.dumps({"ended": ended, **shop.facts()}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
