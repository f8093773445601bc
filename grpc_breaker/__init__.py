"""A circuit breaker for gRPC clients, sync and asyncio.

    breakers = BreakerRegistry({"pricing.v1.Pricing": BreakerPolicy(reset_timeout=10)})
    channel = grpc.intercept_channel(grpc.insecure_channel(target), CircuitBreakerInterceptor(breakers))
    aio_channel = grpc.aio.insecure_channel(target, interceptors=aio.interceptors(breakers))

This module only says what the public names are. `grpc_breaker.testing` holds what tests of your own code need.
"""

from grpc_breaker import aio, telemetry
from grpc_breaker._core.breaker import CircuitBreaker
from grpc_breaker._core.errors import CircuitOpenError
from grpc_breaker._core.events import EndedCall, FailureReason, Rejection, StateChange
from grpc_breaker._core.permit import Permit
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.registry import BreakerRegistry
from grpc_breaker._core.state import Outcome, Reason, State
from grpc_breaker._sync import CircuitBreakerInterceptor

__all__ = [
    "BreakerPolicy",
    "BreakerRegistry",
    "CircuitBreaker",
    "CircuitBreakerInterceptor",
    "CircuitOpenError",
    "EndedCall",
    "FailureReason",
    "Outcome",
    "Permit",
    "Reason",
    "Rejection",
    "State",
    "StateChange",
    "aio",
    "telemetry",
]

__version__ = "0.1.0"

CircuitBreakerError = CircuitOpenError  # what pybreaker, aiobreaker and circuitbreaker call it: docs/migrating.md
