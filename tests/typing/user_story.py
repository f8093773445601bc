"""The README's story in typed code: checked by mypy and pyright in strict mode, never run."""

from __future__ import annotations

from typing import Any, assert_type

import grpc

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CircuitBreaker,
    CircuitBreakerInterceptor,
    CircuitOpenError,
    Outcome,
    Permit,
    State,
    aio,
)

breakers = BreakerRegistry(
    {
        "pricing.v1.Pricing/GetPrice": BreakerPolicy(
            failure_rate=0.5, minimum_calls=20, window_seconds=30, reset_timeout=60
        ),
        "pricing.v1.Pricing": BreakerPolicy(failure_threshold=5, verdicts={grpc.StatusCode.NOT_FOUND: Outcome.FAILURE}),
    },
    default=BreakerPolicy(),
)
channel = grpc.intercept_channel(grpc.insecure_channel("localhost:50051"), CircuitBreakerInterceptor(breakers))
aio_channel = grpc.aio.insecure_channel("localhost:50051", interceptors=aio.interceptors(breakers))

assert_type(aio.interceptors()[0].breakers, BreakerRegistry)

breaker = breakers["pricing.v1.Pricing/GetPrice"]
assert_type(breaker, CircuitBreaker)
assert_type(breaker.state, State)
assert_type(breaker.retry_after, float | None)
assert_type(breakers.snapshot(), dict[str, dict[str, Any]])


@breaker
def plain(number: int) -> str:
    """A guarded function keeps its type."""
    return str(number)


@breaker
async def coroutine(number: int) -> str:
    """A guarded coroutine function keeps its type."""
    return str(number)


async def story() -> None:
    """What a caller types."""
    assert_type(plain(1), str)
    assert_type(await coroutine(1), str)
    try:
        with breaker.admit() as permit:
            assert_type(permit, Permit)
        async with breaker.admit() as permit:
            assert_type(permit, Permit)
        permit = breaker.admit()
        assert_type(permit, Permit)
        permit.success()
    except CircuitOpenError as refused:
        assert_type(refused.retry_after, float | None)
        assert_type(refused.details(), str)
