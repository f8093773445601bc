"""The breaker of these tests, and the clock it reads."""

from __future__ import annotations

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker
from grpc_breaker.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """The breaker's clock."""
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> CircuitBreaker:
    """Two failures in a row open it for ten seconds; one probe closes it."""
    policy = BreakerPolicy(consecutive_failures=2, reset_timeout=10, reset_timeout_jitter=0, half_open_max_calls=1)
    return CircuitBreaker("prices", policy, clock=clock)
