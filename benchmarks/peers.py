"""The peers: every circuit breaker for Python that can be put around a call, and the recipe of tutorials, made alike.

Each peer opens after five failures in a row or, where it counts otherwise, at the nearest thing it has, and asks again
after `reset` seconds. A peer is attached as its users attach it: a decorator around the function that makes the call,
or, where the peer is made for gRPC, interceptors of a channel.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import aiobreaker
import circuitbreaker
import grpc
import interlock
import purgatory
import pybreaker

if sys.version_info >= (3, 12):  # what grpc-client-kit needs
    from grpc_client_kit.interceptors import AsyncCircuitBreakerInterceptor

Guard = Callable[[Callable[..., Any]], Callable[..., Any]]

FAILURES = 5


class Recipe:
    """What tutorials have readers write: failure times in a deque, a lock around admission, `try` around the call.

    With its defects: a probe that fails leaves it half-open, where it waits for a success with the probes it has left,
    and for ever once they are used up; results of calls from before the outage count in any state.
    """

    def __init__(self, failures: int, window: float, reset: float, probes: int) -> None:
        self._limits = (failures, window, reset, probes)
        self._lock = threading.Lock()
        self._failed: deque[float] = deque()
        self._state, self._since, self._probing = "closed", time.monotonic(), 0

    def _allows(self) -> bool:
        _, window, reset, probes = self._limits
        now = time.monotonic()
        if self._state == "open":
            if now - self._since < reset:
                return False
            self._state, self._probing = "half_open", 0
            return True
        if self._state == "half_open":
            self._probing += 1
            return self._probing <= probes
        self._forget(now - window)
        return True

    def _forget(self, before: float) -> None:
        while self._failed and self._failed[0] < before:
            self._failed.popleft()

    def _failure(self) -> None:
        now = time.monotonic()
        self._failed.append(now)
        self._forget(now - self._limits[1])
        if self._state == "closed" and len(self._failed) >= self._limits[0]:
            self._state, self._since = "open", now

    def _success(self) -> None:
        if self._state == "half_open":
            self._state = "closed"

    def _ask(self) -> None:
        with self._lock:
            if not self._allows():
                message = "open"
                raise RuntimeError(message)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Guard a function."""

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._ask()
            try:
                result = function(*args, **kwargs)
            except Exception:
                self._failure()
                raise
            self._success()
            return result

        return guarded

    def coroutines(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Guard a coroutine function."""

        @functools.wraps(function)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            self._ask()
            try:
                result = await function(*args, **kwargs)
            except Exception:
                self._failure()
                raise
            self._success()
            return result

        return guarded


def _interlock(reset: float) -> interlock.CircuitBreaker:
    config = interlock.Config(
        minimum_number_of_calls=FAILURES,
        window_type=interlock.WindowType.TIME_BASED,
        window_size=30,
        wait_duration_in_open=reset,
        permitted_calls_in_half_open=3,
        max_concurrent_probes=3,
    )
    return interlock.CircuitBreaker(name="peer", config=config)


def sync_peers(reset: float = 60.0) -> dict[str, Guard]:
    """What guards a function, by name; each a new breaker."""
    return {
        "circuitbreaker": circuitbreaker.CircuitBreaker(FAILURES, reset, name="peer"),
        "pybreaker": pybreaker.CircuitBreaker(fail_max=FAILURES, reset_timeout=reset),
        "purgatory": purgatory.SyncCircuitBreakerFactory(FAILURES, reset)("peer"),
        "interlock-cb": _interlock(reset),
        "the recipe": Recipe(FAILURES, 30.0, reset, 3),
    }


def aio_peers(reset: float = 60.0) -> dict[str, Guard]:
    """What guards a coroutine function, by name; each a new breaker."""
    return {
        "circuitbreaker": circuitbreaker.CircuitBreaker(FAILURES, reset, name="peer"),
        "aiobreaker": aiobreaker.CircuitBreaker(FAILURES, timedelta(seconds=reset)),
        "purgatory": purgatory.AsyncCircuitBreakerFactory(FAILURES, reset)("peer"),
        "interlock-cb": _interlock(reset),
        "the recipe": Recipe(FAILURES, 30.0, reset, 3).coroutines,
    }


def aio_interceptor_peers(reset: float = 60.0) -> dict[str, list[grpc.aio.ClientInterceptor]]:
    """What guards the calls of an asyncio channel, by name; each a new breaker. There is no such peer for threads."""
    if sys.version_info >= (3, 12):
        return {"grpc-client-kit": list(AsyncCircuitBreakerInterceptor(FAILURES, reset).adapters)}
    return {}


class _Details:
    """Of a call that an interceptor guards without a channel."""

    method = "/pkg.Service/Method"


def as_decorator(interceptors: list[grpc.aio.ClientInterceptor]) -> Guard:
    """Guard a coroutine function with what guards a channel, so that one experiment does for every peer."""
    (interceptor,) = (it for it in interceptors if isinstance(it, grpc.aio.UnaryUnaryClientInterceptor))
    details: Any = _Details()

    def guard(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            async def continuation(call_details: Any, request: Any) -> Any:
                return await function(*args, **kwargs)

            return await interceptor.intercept_unary_unary(continuation, details, None)

        return guarded

    return guard
