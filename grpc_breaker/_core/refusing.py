"""What a refused call is told: who refused it, why, and for how long.

A `Refusing` is what all calls are told that are refused for the same cause; a `Rejection` is one call that was told so.
"""

from __future__ import annotations

import math
from typing import Any, Final, final

from grpc_breaker._core.counts import REJECTED
from grpc_breaker._core.log import printable
from grpc_breaker._core.state import Reason, RefusalReason, State
from grpc_breaker._core.target import at_target, split_target

_BREAKER: Final = RefusalReason.BREAKER

_COUNTED: Final = {reason: (REJECTED, str(reason)) for reason in RefusalReason}

_LONG: Final = 99.5
"""Seconds that would be written as "1e+02" in two digits."""

Facts = tuple[str, State, Reason | None, float, str, float, RefusalReason]
"""What a `Refusing` is made from."""


@final
class Refusing:
    """What is said to every call that is refused for one cause: the breaker's state, or a limit."""

    __slots__ = ("breaker", "code", "condition", "counted", "number", "reason", "state", "until")

    def __init__(
        self,
        breaker: str,
        state: State,
        condition: Reason | None,
        until: float,
        code: str,
        number: float = 0,
        reason: RefusalReason = _BREAKER,
    ) -> None:
        self.breaker = breaker
        self.state = state
        self.condition = condition
        """Which condition opened the breaker last; `None` where a limit refuses."""
        self.until = until
        """Until then every call is refused, by the breaker's own clock."""
        self.code = code
        """The name of the status that a refused RPC shows."""
        self.number = number
        """The probes in flight when half-open, the share of calls admitted after a close, in percent, or the limit."""
        self.reason = reason
        self.counted = _COUNTED[reason]
        """The outcome and status under which such a call is counted."""

    def facts(self) -> Facts:
        """What it is made from."""
        return self.breaker, self.state, self.condition, self.until, self.code, self.number, self.reason

    def __reduce__(self) -> tuple[Any, ...]:
        return Refusing, self.facts()

    def retry_after(self, now: float) -> float | None:
        """Seconds until a call may pass; `None` when only an operator knows."""
        return None if self.until == math.inf else max(0.0, self.until - now)

    def words(self, refused: str, now: float) -> str:
        """What is said to a call of `refused`."""
        wait = self.retry_after(now) or 0.0
        match self.reason, self.state:
            case RefusalReason.BULKHEAD, _:
                return f"bulkhead full for {refused}; {self.number:g} call{'s' if self.number != 1 else ''} in flight"
            case RefusalReason.RATE, _:
                return f"rate limit of {self.number:g} calls per second for {refused}; next call in {_brief(wait)} s"
            case RefusalReason.THROTTLE, _:
                return f"throttled for {refused}; {self.number:.0f} % of the calls are refused"
            case _, State.OPEN:
                until = f"next probe in {wait:.1f} s"
            case _, State.HALF_OPEN:
                until = f"{self.number:g} probe{'s' if self.number != 1 else ''} in flight"
            case _, State.CLOSED:
                until = f"admits {self.number:.0f} % of the calls after an outage"
            case _, _ if self.until < math.inf:
                until = f"for another {_brief(wait)} s, or until an operator resets it"
            case _:
                until = "until an operator resets it"
        return f"circuit breaker {self.state} for {refused}; {until}"


def _brief(seconds: float) -> str:
    """A time in two digits, which may be very short or very long."""
    return f"{seconds:.2g}" if seconds < _LONG else f"{seconds:.0f}"


class Rejection:
    """One refused call. Made for every refusal, so it is a plain object: cheap, and not to be changed.

    Attributes:
        method: The refused method; empty outside gRPC.
        at: When, by the breaker's own clock, in seconds.
        context: What the call came with.
        enforced: False where the call was made all the same, see `BreakerPolicy.enforcement_percentage`.
    """

    # Without a constructor: the breaker sets each field, because a call with so many arguments would double the cost.
    __slots__ = ("_refusing", "at", "context", "method")

    _refusing: Refusing
    at: float
    context: object
    method: str
    enforced = True

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies without its context, which belongs to this process."""
        return rejection_of, (self._refusing, self.at, self.method, self.enforced)

    @property
    def breaker(self) -> str:
        """Name of the breaker that refused, or whose limit did."""
        return self._refusing.breaker

    @property
    def target(self) -> str:
        """The target that its interceptor was told; empty without one."""
        return split_target(self.breaker)[1]

    @property
    def probes(self) -> int:
        """Probes in flight, when half-open."""
        half_open = self.state is State.HALF_OPEN and self.reason is _BREAKER
        return int(self._refusing.number) if half_open else 0

    @property
    def code(self) -> str:
        """The name of the status that a refused RPC shows."""
        return self._refusing.code

    @property
    def state(self) -> State:
        """The state of the breaker."""
        return self._refusing.state

    @property
    def reason(self) -> RefusalReason:
        """What refused the call: the breaker, or which limit."""
        return self._refusing.reason

    @property
    def condition(self) -> Reason | None:
        """Which condition had opened the breaker; `None` where a limit refused the call."""
        return self._refusing.condition

    @property
    def retry_after(self) -> float | None:
        """Seconds until a call may pass: 0 where one may at any moment, `None` when only an operator knows."""
        return self._refusing.retry_after(self.at)

    @property
    def details(self) -> str:
        """The refusal in words."""
        refused = at_target(self.method, self.target) if self.method else self.breaker
        return self._refusing.words(printable(refused), self.at)

    def __repr__(self) -> str:
        return f"<Rejection: {self.details}>"

    def __json__(self) -> str:
        """The refusal in words, for serialisers that ask: kombu's, and with it Celery's results."""
        return self.details


class Unenforced(Rejection):
    """A refusal that was not enforced: the call was made."""

    __slots__ = ()

    enforced = False


def rejection_of(refusing: Refusing, at: float, method: str, enforced: bool = True) -> Rejection:
    """Make a rejection from its parts: what refuses, when, and the method."""
    rejection = Rejection() if enforced else Unenforced()
    rejection._refusing, rejection.at, rejection.method, rejection.context = refusing, at, method, None
    return rejection
