"""Guarded calls whose breakers are reported to the global meter provider, in a web application or a Celery task.

`shop_metrics` is the module that a test writes from the recipe for Prometheus.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any
from urllib.parse import unquote

import grpc
import shop_metrics  # type: ignore[import-not-found]  # noqa: F401 - sets the meter provider

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, CircuitOpenError
from tests.clients.support.shop import TARGET
from tests.support.server import FAR, UNARY_UNARY

_interceptor = CircuitBreakerInterceptor(BreakerRegistry(default=BreakerPolicy(failure_threshold=2, reset_timeout=600)))


@cache
def _method() -> Any:
    """The method of the server; asked for after the fork."""
    return grpc.intercept_channel(grpc.insecure_channel(os.environ[TARGET]), _interceptor).unary_unary(UNARY_UNARY)


def call(script: str) -> dict[str, Any]:
    """Have the server do this; returns which process called, and whether it was refused."""
    refused = False
    try:
        _method()(script.encode(), timeout=FAR)
    except CircuitOpenError:
        refused = True
    except grpc.RpcError:
        pass
    return {"pid": os.getpid(), "refused": refused}


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """For gunicorn: `/?` and what the server is to do."""
    answer = json.dumps(call(unquote(environ["QUERY_STRING"]))).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [answer]


async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """The same for uvicorn."""
    body = json.dumps(call(unquote(scope["query_string"].decode()))).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
