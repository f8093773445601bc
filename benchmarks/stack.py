"""What the parts around and beside the breaker cost, without a network, beside other packages for each.

    python -m benchmarks.stack

The first two tables intercept a call that costs nothing: a breaker alone, each part added to it, and all of them. In
the third a part refuses the call. The fourth is what others take for one call of a function that does nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import aiolimiter
import grpc
import hyx.bulkhead
import hyx.retry
import limits
import limits.storage
import limits.strategies
import pyrate_limiter
import stamina
import tenacity
from google.api_core import retry as google_retry

from benchmarks.core import repeat
from benchmarks.interceptors import AioFinished, ended_well
from benchmarks.timing import Loop, interleaved, table
from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CallRefusedError,
    CircuitBreakerInterceptor,
    Fallback,
    LastGood,
    MethodPolicy,
    RateLimit,
    RetryPolicy,
    RetryThrottling,
    Throttle,
    aio,
)

METHOD = "pkg.Service/Method"
ALONE = "a breaker alone"
REQUEST = b"request"

DETAILS: Any = import_module("grpc._interceptor")._ClientCallDetails(f"/{METHOD}", 1.0, None, None, None, None)
"""What grpcio hands to an interceptor."""

PARTS: dict[str, MethodPolicy] = {
    ALONE: MethodPolicy(),
    "timeout": MethodPolicy(timeout=0.5),
    "retry": MethodPolicy(retry=RetryPolicy()),
    "bulkhead": MethodPolicy(max_concurrent_calls=20),
    "rate limit": MethodPolicy(rate_limit=RateLimit(1e9)),
    "throttle": MethodPolicy(throttle=Throttle()),
    "hung calls": MethodPolicy(breaker=BreakerPolicy(hung_after=2)),
    "probe deadline": MethodPolicy(breaker=BreakerPolicy(probe_deadline=0.1)),
    "enforcement, 50 %": MethodPolicy(breaker=BreakerPolicy(enforcement_percentage=50)),
    "fallback, a function": MethodPolicy(fallback=Fallback(function=repr)),
    "fallback, last good": MethodPolicy(fallback=Fallback(last_good=LastGood())),
}
"""A breaker, and one part more."""

_EVERYTHING: dict[str, Any] = {
    "breaker": BreakerPolicy(hung_after=2, probe_deadline=0.1, ramp=5),
    "timeout": 0.5,
    "attempt_timeout": 0.2,
    "retry": RetryPolicy(),
    "max_concurrent_calls": 20,
    "rate_limit": RateLimit(1e9),
}
WHOLE = {
    "all but last good": MethodPolicy(**_EVERYTHING, fallback=Fallback(function=repr)),
    "all": MethodPolicy(**_EVERYTHING, fallback=Fallback(last_good=LastGood(), function=repr)),
}


def registry(policy: MethodPolicy) -> BreakerRegistry:
    """A registry for one method."""
    return BreakerRegistry({METHOD: policy}, default=None, retry_throttling=RetryThrottling())


def sync_loop(policy: MethodPolicy, prepare: Callable[[BreakerRegistry], object] = repr) -> Loop:
    """Intercept a blocking call that costs nothing."""
    breakers, outcome = registry(policy), ended_well()
    interceptor = CircuitBreakerInterceptor(breakers, telemetry=False)
    held = prepare(breakers)

    def continuation(call_details: Any, request: Any) -> Any:
        return outcome

    def loop(count: int, held: object = held) -> None:
        for _ in range(count):
            interceptor.intercept_unary_unary(continuation, DETAILS, REQUEST)

    return loop


def aio_loop(policy: MethodPolicy) -> Loop:
    """The same in asyncio."""
    interceptor: Any = aio.interceptors(registry(policy), telemetry=False)[0]
    finished = AioFinished()

    async def continuation(call_details: Any, request: Any) -> Any:
        return finished

    async def many(count: int) -> None:
        for _ in range(count):
            await interceptor.intercept_unary_unary(continuation, DETAILS, REQUEST)

    return lambda count: asyncio.run(many(count))


def refusals() -> dict[str, Loop]:
    """A call that each part refuses."""

    def open_it(breakers: BreakerRegistry) -> None:
        breakers[METHOD].force_open()

    def fill(breakers: BreakerRegistry) -> object:
        return breakers[METHOD].admit()

    def fail(breakers: BreakerRegistry) -> None:
        for _ in range(10_000):  # until nearly every call is refused
            with suppress(CallRefusedError):
                breakers[METHOD].admit().failure("UNAVAILABLE")

    return {
        "the breaker": sync_loop(MethodPolicy(), open_it),
        "the bulkhead": sync_loop(MethodPolicy(max_concurrent_calls=1), fill),
        "the rate limit": sync_loop(MethodPolicy(rate_limit=RateLimit(1e-6, burst=1)), lambda it: it[METHOD].admit()),
        "the throttle": sync_loop(MethodPolicy(throttle=Throttle(minimum_calls=1)), fail),
    }


def awaiting(call: Callable[[], Awaitable[object]]) -> Loop:
    """Await something again and again."""

    async def many(count: int) -> None:
        for _ in range(count):
            await call()

    return lambda count: asyncio.run(many(count))


def entering(make: Callable[[], Any]) -> Loop:
    """Enter and leave an asynchronous context manager that belongs to one loop, again and again."""

    async def many(count: int) -> None:
        guard = make()
        for _ in range(count):
            async with guard:
                pass

    return lambda count: asyncio.run(many(count))


def peers() -> dict[str, Loop]:
    """What others take for a call that they let pass."""

    def nothing() -> None:
        pass

    async def nothing_awaited() -> None:
        pass

    per_second = limits.RateLimitItemPerSecond(10**9)
    moving = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
    pyrate = pyrate_limiter.Limiter(pyrate_limiter.Rate(10**9, pyrate_limiter.Duration.SECOND))
    places = threading.BoundedSemaphore(20)

    def in_a_place() -> None:
        with places:
            pass

    policy = MethodPolicy(max_concurrent_calls=20, rate_limit=RateLimit(1e9))
    breaker = registry(policy)[METHOD]
    return {
        "grpc_breaker: breaker, bulkhead, rate limit": repeat(lambda: breaker.admit().success()),
        "tenacity: retry": repeat(tenacity.retry(stop=tenacity.stop_after_attempt(3))(nothing)),
        "stamina: retry": repeat(stamina.retry(on=ValueError, attempts=3)(nothing)),
        "google.api_core: retry": repeat(google_retry.Retry()(nothing)),
        "threading.BoundedSemaphore": repeat(in_a_place),
        "limits: fixed window": repeat(lambda: moving.hit(per_second, "method")),
        "pyrate-limiter": repeat(lambda: pyrate.try_acquire("method")),
        "aiolimiter (asyncio)": entering(lambda: aiolimiter.AsyncLimiter(10**9, 1)),
        "hyx: bulkhead (asyncio)": awaiting(
            hyx.bulkhead.bulkhead(max_concurrency=20, max_capacity=40)(nothing_awaited)
        ),
        "hyx: retry (asyncio)": awaiting(hyx.retry.retry(attempts=3)(nothing_awaited)),
    }


def main() -> None:
    """Print every table."""
    print(f"grpcio {grpc.__version__}\n")
    print(table("Blocking, no network", interleaved({n: sync_loop(it) for n, it in {**PARTS, **WHOLE}.items()}), ALONE))
    print(table("Awaited, no network", interleaved({n: aio_loop(it) for n, it in {**PARTS, **WHOLE}.items()}), ALONE))
    print(table("Refused by", interleaved(refusals()), "the breaker"))
    ours = "grpc_breaker: breaker, bulkhead, rate limit"
    print(table("Beside others: a call that passes", interleaved(peers()), ours))


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m benchmarks.stack", description=__doc__).parse_args()
    main()
