"""What the workers of Celery, gunicorn and uvicorn run: guarded calls of one method, and what its breaker reports.

Breakers, telemetry and interceptor are made where this is imported, which a server that preloads does before it forks;
the channel is made by the first call, in the worker. The server's address is in the environment.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, Final

import grpc
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, CircuitOpenError, aio
from grpc_breaker.telemetry import BreakerTelemetry
from tests.support.server import FAR, UNARY_UNARY

TARGET: Final = "SHOP_TARGET"
"""The variable with the server's address."""
BEFORE_FORK: Final = "SHOP_CALLS_BEFORE_FORK"
"""The variable with the number of calls that are counted where this is imported."""

_reader = InMemoryMetricReader()
_telemetry = BreakerTelemetry(meter_provider=MeterProvider([_reader]))
breakers = BreakerRegistry(default=BreakerPolicy(failure_threshold=2, reset_timeout=60))
_interceptor = CircuitBreakerInterceptor(breakers, telemetry=_telemetry)

for _ in range(int(os.environ.get(BEFORE_FORK, "0"))):
    breakers[UNARY_UNARY].admit().success()


@cache
def _method() -> Any:
    channel = grpc.intercept_channel(grpc.insecure_channel(os.environ[TARGET]), _interceptor)
    return channel.unary_unary(UNARY_UNARY)


@cache
def _aio_method() -> Any:
    interceptors = aio.interceptors(breakers, telemetry=_telemetry)
    return grpc.aio.insecure_channel(os.environ[TARGET], interceptors=interceptors).unary_unary(UNARY_UNARY)


def call(script: str) -> str:
    """Have the server do this; returns its answer."""
    answer: bytes = _method()(script.encode(), timeout=FAR)
    return answer.decode()


def outcome(script: str) -> str:
    """How a call ended: success, failure or rejected."""
    try:
        call(script)
    except CircuitOpenError:
        return "rejected"
    except grpc.RpcError:
        return "failure"
    return "success"


async def outcome_in_asyncio(script: str) -> str:
    """The same in asyncio."""
    try:
        await _aio_method()(script.encode(), timeout=FAR)
    except CircuitOpenError:
        return "rejected"
    except grpc.RpcError:
        return "failure"
    return "success"


def facts() -> dict[str, Any]:
    """What this process reports: who it is, the breaker's state, calls in flight, and the metrics by outcome."""
    calls: dict[str, int] = {}
    data = _reader.get_metrics_data()
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == "grpc_breaker.calls":
                    for point in metric.data.data_points:
                        name = str((point.attributes or {})["grpc_breaker.outcome"])
                        calls[name] = calls.get(name, 0) + int(point.value)
    breaker = breakers[UNARY_UNARY]
    return {
        "pid": os.getpid(),
        "state": str(breaker.state),
        "in_flight": breaker.in_flight,
        "calls": {name: number for name, number in calls.items() if number},
    }
