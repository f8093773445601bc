"""The words of the state machine: its states, its reasons, and the one table of legal transitions.

    closed ──a trip condition holds──▶ open ──period over, and a call asks──▶ half_open
      ▲                                 ▲                                        │  │
      │                                 └───────────one probe fails──────────────┘  │
      └──────────────────────────enough probes succeed──────────────────────────────┘

`forced_open` and `disabled` are entered by an operator only, and left by one, or when the time is over that the
operator gave. A change that is not in the table is a defect of this package, never of its user, so `CircuitBreaker`
refuses to make it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

OTHER: Final = "other"
"""What names share, as a label and as a breaker, where there are too many of them."""


class State(StrEnum):
    """What a breaker does with the next call. The values are the same in code, logs, metrics and docs."""

    CLOSED = "closed"
    """Every call passes and is counted."""
    OPEN = "open"
    """No call passes. The first call after the open period makes it `half_open`."""
    HALF_OPEN = "half_open"
    """At most `half_open_max_calls` probes are in flight; every other call is refused."""
    FORCED_OPEN = "forced_open"
    """No call passes until an operator says otherwise, or for as long as one said."""
    DISABLED = "disabled"
    """Every call passes and is counted, nothing trips, until an operator says otherwise, or for as long as one said."""


class Outcome(StrEnum):
    """What one ended call says about the server."""

    SUCCESS = "success"
    """The server answered. It is healthy, whatever it thinks of the request."""
    FAILURE = "failure"
    """The server is unwell."""
    IGNORED = "ignored"
    """Nothing was learned about the server; the call only gives back what it held."""


class Reason(StrEnum):
    """Why a breaker changed its state."""

    FAILURE_THRESHOLD = "failure_threshold"
    """`BreakerPolicy.failure_threshold` failures were in the window."""
    CONSECUTIVE_FAILURES = "consecutive_failures"
    """`BreakerPolicy.consecutive_failures` calls failed in a row."""
    FAILURE_RATE = "failure_rate"
    """The share of failures in the window reached `BreakerPolicy.failure_rate`."""
    SLOW_CALL_RATE = "slow_call_rate"
    """The share of slow calls in the window reached `BreakerPolicy.slow_call_rate`."""
    RESET_TIMEOUT = "reset_timeout"
    """The open period was over and a call came: the first probe."""
    PROBE_FAILED = "probe_failed"
    """A probe failed."""
    PROBE_SLOW = "probe_slow"
    """A probe took longer than `BreakerPolicy.slow_call_duration`."""
    PROBES_SUCCEEDED = "probes_succeeded"
    """`BreakerPolicy.half_open_successes` probes succeeded."""
    FORCED_OPEN = "forced_open"
    """An operator called `CircuitBreaker.force_open`."""
    DISABLED = "disabled"
    """An operator called `CircuitBreaker.disable`."""
    RESET = "reset"
    """An operator called `CircuitBreaker.reset`."""
    HOLD_EXPIRED = "hold_expired"
    """The time was over for which an operator had forced it open, or disabled it."""


class RefusalReason(StrEnum):
    """What refused a call."""

    BREAKER = "breaker"
    """The state of the breaker."""
    BULKHEAD = "bulkhead"
    """`MethodPolicy.max_concurrent_calls` calls were in flight."""
    RATE = "rate"
    """`MethodPolicy.rate_limit` was reached."""
    THROTTLE = "throttle"
    """`MethodPolicy.throttle`: the server had answered too few of the last calls."""


_TRIPS: Final = frozenset(
    {
        Reason.FAILURE_THRESHOLD,
        Reason.CONSECUTIVE_FAILURES,
        Reason.FAILURE_RATE,
        Reason.SLOW_CALL_RATE,
    }
)
_FORCED: Final = frozenset({Reason.FORCED_OPEN})
_DISABLED: Final = frozenset({Reason.DISABLED})
_RESET: Final = frozenset({Reason.RESET})
_HELD_NO_LONGER: Final = frozenset({Reason.RESET, Reason.HOLD_EXPIRED})

TRANSITIONS: Final[dict[tuple[State, State], frozenset[Reason]]] = {
    (State.CLOSED, State.OPEN): _TRIPS,
    (State.OPEN, State.HALF_OPEN): frozenset({Reason.RESET_TIMEOUT}),
    (State.HALF_OPEN, State.CLOSED): frozenset({Reason.PROBES_SUCCEEDED}) | _RESET,
    (State.HALF_OPEN, State.OPEN): frozenset({Reason.PROBE_FAILED, Reason.PROBE_SLOW}),
    (State.CLOSED, State.FORCED_OPEN): _FORCED,
    (State.OPEN, State.FORCED_OPEN): _FORCED,
    (State.HALF_OPEN, State.FORCED_OPEN): _FORCED,
    (State.DISABLED, State.FORCED_OPEN): _FORCED,
    (State.CLOSED, State.DISABLED): _DISABLED,
    (State.OPEN, State.DISABLED): _DISABLED,
    (State.HALF_OPEN, State.DISABLED): _DISABLED,
    (State.FORCED_OPEN, State.DISABLED): _DISABLED,
    (State.OPEN, State.CLOSED): _RESET,
    (State.FORCED_OPEN, State.CLOSED): _HELD_NO_LONGER,
    (State.DISABLED, State.CLOSED): _HELD_NO_LONGER,
}
"""Every legal change of state, with the reasons that may cause it."""
