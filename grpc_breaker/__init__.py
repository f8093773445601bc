"""A circuit breaker for gRPC clients, sync and asyncio.

    breakers = BreakerRegistry({"pricing.v1.Pricing": BreakerPolicy(reset_timeout=10)})
    channel = grpc.intercept_channel(grpc.insecure_channel(target), CircuitBreakerInterceptor(breakers))
    aio_channel = grpc.aio.insecure_channel(target, interceptors=aio.interceptors(breakers))

This module only says what the public names are. `grpc_breaker.testing` holds what tests of your own code need.
"""

from grpc_breaker import aio, telemetry
from grpc_breaker._core.breaker import CircuitBreaker
from grpc_breaker._core.errors import (
    BulkheadFullError,
    CallRefusedError,
    CircuitOpenError,
    RateLimitedError,
    ThrottledError,
)
from grpc_breaker._core.events import EndedCall, FailureReason, StateChange
from grpc_breaker._core.fallback import Fallback, LastGood
from grpc_breaker._core.holds import Hold
from grpc_breaker._core.method_policy import MethodPolicy, RateLimit, RetryPolicy, RetryThrottling, Throttle
from grpc_breaker._core.permit import Permit
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.refusing import Rejection
from grpc_breaker._core.state import Outcome, Reason, RefusalReason, State
from grpc_breaker._registry import BreakerRegistry, Reloaded
from grpc_breaker._service_config import ServiceConfigError
from grpc_breaker._sync import CircuitBreakerInterceptor

__all__ = [
    "BreakerPolicy",
    "BreakerRegistry",
    "BulkheadFullError",
    "CallRefusedError",
    "CircuitBreaker",
    "CircuitBreakerInterceptor",
    "CircuitOpenError",
    "EndedCall",
    "FailureReason",
    "Fallback",
    "Hold",
    "LastGood",
    "MethodPolicy",
    "Outcome",
    "Permit",
    "RateLimit",
    "RateLimitedError",
    "Reason",
    "RefusalReason",
    "Rejection",
    "Reloaded",
    "RetryPolicy",
    "RetryThrottling",
    "ServiceConfigError",
    "State",
    "StateChange",
    "Throttle",
    "ThrottledError",
    "aio",
    "telemetry",
]

__version__ = "0.1.0"

CircuitBreakerError = CircuitOpenError  # what pybreaker, aiobreaker and circuitbreaker call it: docs/migrating.md
