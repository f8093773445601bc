"""The names telemetry uses, as text, in one place.

No semantic convention for circuit breakers exists (opentelemetry semantic-conventions #2355 is open), so these stand in
the package's own namespace. The RPC attributes follow the convention as it stands after its version 1.44, which renamed
`rpc.response.status_code` to `rpc.status_code`.
"""

from typing import Final

EVENT_STATE_CHANGE: Final = "grpc_breaker.state_change"
EVENT_RETRY: Final = "grpc_breaker.retry"
EVENT_FALLBACK: Final = "grpc_breaker.fallback"

METRIC_STATE: Final = "grpc_breaker.state"
METRIC_STATE_START_TIME: Final = "grpc_breaker.state.start_time"
METRIC_HOLD_END_TIME: Final = "grpc_breaker.hold.end_time"
METRIC_STATE_CHANGES: Final = "grpc_breaker.state_changes"
METRIC_CALLS: Final = "grpc_breaker.calls"
METRIC_IN_FLIGHT: Final = "grpc_breaker.calls.in_flight"
METRIC_RETRIES: Final = "grpc_breaker.retries"
METRIC_FALLBACKS: Final = "grpc_breaker.fallbacks"

NAME: Final = "grpc_breaker.name"
TARGET: Final = "grpc_breaker.target"
STATE: Final = "grpc_breaker.state"
PREVIOUS_STATE: Final = "grpc_breaker.state.previous"
REASON: Final = "grpc_breaker.reason"
FALLBACK_KIND: Final = "grpc_breaker.fallback"
REFUSAL_REASON: Final = "grpc_breaker.refusal.reason"
ENFORCED: Final = "grpc_breaker.enforced"
OUTCOME: Final = "grpc_breaker.outcome"
WINDOW_CALLS: Final = "grpc_breaker.window.calls"
WINDOW_FAILURES: Final = "grpc_breaker.window.failures"
WINDOW_SLOW: Final = "grpc_breaker.window.slow"
RETRY_AFTER: Final = "grpc_breaker.retry_after"
SEQUENCE: Final = "grpc_breaker.sequence"
LAST_FAILURES: Final = "grpc_breaker.last_failures"

RPC_SYSTEM: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_STATUS: Final = "rpc.status_code"
ERROR_TYPE: Final = "error.type"
