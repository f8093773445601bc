"""A policy with every part there is, none of which ever has anything to do: for what must be as without them."""

from __future__ import annotations

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    Fallback,
    LastGood,
    MethodPolicy,
    RateLimit,
    RetryPolicy,
    RetryThrottling,
)

_NEVER = 1e6
"""Seconds that no test lasts."""

IDLE_PARTS = MethodPolicy(
    breaker=BreakerPolicy(
        hung_after=_NEVER,
        ramp=1,
        probe_deadline=_NEVER,
        slow_call_duration=_NEVER,
        failure_rate=0.5,
        consecutive_failures=5,
    ),
    timeout=_NEVER,
    attempt_timeout=_NEVER,
    retry=RetryPolicy(max_attempts=5, retryable_status_codes=("ALREADY_EXISTS",)),
    max_concurrent_calls=10_000,
    bulkhead_streams=True,
    rate_limit=RateLimit(1e6),
    fallback=Fallback(
        last_good=LastGood(),
        function=lambda request, error: None,
        when=("ALREADY_EXISTS",),
    ),
)
"""All parts but a throttle, which stands in for the breaker's conditions."""


def idle_parts() -> BreakerRegistry:
    """A registry that wants these parts of every call, and stops retries, too."""
    return BreakerRegistry(default=IDLE_PARTS, retry_throttling=RetryThrottling())
