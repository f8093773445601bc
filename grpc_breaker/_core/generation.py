"""The rules of the breaker, state by state.

A *generation* is one stay in one state. What belongs to that stay lives in its object: the window while closed, the end
of the open period while open, the probes while half-open, and the event that reports how it began.

    state        admits                                  a success                   a failure
    closed       every call                              counted                     counted; may trip
    open         none, until its period is over          -                           -
    half_open    up to `half_open_max_calls` probes      one nearer to closed        open again
    forced_open  none                                    -                           -
    disabled     every call                              counted                     counted

1.  An ignored result gives back what its call held. Where the call had an answer before, that was its success. While
    closed, an ignored result ends a row of failures that is older than the window. While half-open for `probe_timeout`
    without a failure, it is one nearer to closed.
2.  A slow result may trip like a failure, and a slow probe is a failed probe.
3.  Of the failures of one incident, the calls that were on a connection when it was lost, only the first may trip. All
    are counted, but for those of calls that the server never took, and of streams (see `Permit.settle`).
4.  A probe's slot is free again at the first of: its result; its first answer, for a stream; the end of
    `probe_timeout`. A silent stream that is still open then, and has time left, has succeeded (see `admission.py`).
5.  Of ignored probes, the first hands on its slot at once, and the others when the clock shows the next full
    `reset_timeout` (or `probe_timeout`, where that is less). Else a half-open breaker would let everything through
    while its probes teach nothing. Breakers with one clock hand on at the same moments, so that callers who need
    several of them at once find a slot in each.

The generations of a breaker form a chain. A generation ends in one atomic step, when another becomes its successor;
`machine.py` has that step, and the rest of what is said about threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final

from grpc_breaker._core.events import DETAILS_LENGTH, LAST_FAILURES, FailureReason, StateChange
from grpc_breaker._core.holds import Hold
from grpc_breaker._core.log import printable
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.refusing import Refusing
from grpc_breaker._core.state import Reason, State
from grpc_breaker._core.window import MOST_KEPT, Held, Window

_LONG_AGO: Final = -math.inf
_PATIENCE: Final = 4
"""How many times as long as the breaker has been half-open the lease of a probe lasts, of a call of one answer: where
such calls take longer than `probe_timeout`, their results count before long."""
_NO_PROBES: Final[Mapping[Any, None]] = MappingProxyType({})


class Generation:
    """One stay in one state. Each kind of state is a subclass, and says what a result does there."""

    __slots__ = (
        "admits_all",
        "claims",
        "event",
        "history",
        "number",
        "passing",
        "refuses_all_until",
        "refusing",
        "reopenings",
        "sequence",
        "successor",
        "window",
    )

    state: ClassVar[State]
    passes: ClassVar[bool] = False
    """Whether every call is admitted."""
    ramps: bool = False
    """Whether a part of the calls is refused all the same, because it was closed not long ago."""
    probes: Mapping[Any, None] = _NO_PROBES
    """The permits that hold a slot. Only a half-open generation has any."""
    hold: Hold | None = None
    """The order of an operator that put it in force. Only a forced-open and a disabled generation have one."""

    def __init__(self, number: int, window: Window, refusing: Refusing, reopenings: int = 0) -> None:
        self.number = number
        """What permits carry, so that a result can be told from one of an earlier generation."""
        self.admits_all = False
        """Whether every call is admitted without a further look: what calls find out first."""
        self.passing = number if self.passes else -1
        """The number again, where every call passes: what such a call is compared with when it ends well."""
        self.window = window
        """What was counted since the breaker last closed; kept for display while it is open and half-open."""
        self.refusing = refusing
        self.refuses_all_until = _LONG_AGO
        """Until then every call is refused without a further look: what calls find out next."""
        self.reopenings = reopenings
        """How often it has opened since it was last closed, by itself; what the open period grows with."""
        self.sequence = 0
        """The sequence number of the last event up to this generation."""
        self.event: StateChange | None = None
        """How it began, until the listeners have been called with it; `None` where there is nothing to deliver."""
        self.history: tuple[StateChange, ...] = ()
        """The last changes of the breaker up to this generation, the oldest first."""
        self.successor: list[Generation] = []
        """Empty until the generation has ended; then the first in it is the next one."""
        self.claims: dict[int, Any] = {}
        """Which caller delivers the event; see `delivery.py`."""

    def succeed(self, now: float, policy: BreakerPolicy) -> Reason | None:
        """Take in a result that neither failed nor was slow; returns the reason to leave the state, if there is one."""
        raise NotImplementedError

    def judge(
        self, now: float, began: float, failed: bool, slow: bool, status: str, details: str, policy: BreakerPolicy
    ) -> Reason | None:
        """Take in a failure, or a success that was slow; returns the reason to leave the state, if there is one.

        Args:
            now: When it came.
            began: Since when a failure is one of its own: one before that and this one are one incident.
            failed: Whether it failed; else it was slow.
            slow: Whether it was slow.
            status: The name of its status.
            details: Words for a person.
            policy: The policy in force.
        """
        raise NotImplementedError

    def probe_lease(self, now: float, timed: bool, policy: BreakerPolicy) -> float:  # noqa: ARG002 - of the first probe
        """How long the lease of a probe lasts that begins now."""
        return policy.probe_timeout

    def free(self, probe: Any) -> bool:  # noqa: ARG002 - only a half-open generation has slots
        """Free the slot of a probe; false if it has none."""
        return False

    def hand_on(self, probe: Any, now: float, policy: BreakerPolicy) -> None:
        """Free the slot of a probe that was ignored, when its time has come."""

    def ignore(self, now: float, policy: BreakerPolicy) -> Reason | None:
        """Take in a result that says nothing; returns the reason to leave the state, if there is one."""
        raise NotImplementedError

    def held(self, now: float) -> Held:
        """The results that count in this state."""
        return self.window.held(now)

    def last_failures(self) -> tuple[FailureReason, ...]:
        """The last failures as events report them, the oldest first."""
        return tuple(
            FailureReason(status, printable(details)[:DETAILS_LENGTH])
            for status, details in self.window.last_failures()
        )


class Passing(Generation):
    """Every call passes and is counted."""

    __slots__ = ()

    passes = True

    def succeed(self, now: float, policy: BreakerPolicy) -> Reason | None:  # noqa: ARG002 - the same for each state
        """Count it."""
        window = self.window
        window.in_a_row = 0
        window.calls += 1
        if now >= window.quiet_until:
            window.good(now)
        return None

    def judge(  # noqa: C901 - each further function would cost every failure
        self, now: float, began: float, failed: bool, slow: bool, status: str, details: str, policy: BreakerPolicy
    ) -> Reason | None:
        """Count it; returns the trip condition that holds, unless it is one more failure of an incident.

        One incident is one failure in a row: a failure lengthens it only if it began after the one before it that did.
        """
        window = self.window
        window.calls += 1
        if slow:
            window.slow_calls += 1
        if failed:
            window.failures += 1
            if now >= window.quiet_until:
                window.take_in(now, True, slow)
            last = window.last  # what `note` does, because a call of it would cost more
            last.append((status, details))
            if len(last) > MOST_KEPT:
                del last[:LAST_FAILURES]
            if began < window.counted_at:
                return None
            window.counted_at = now
            window.in_a_row = in_a_row = window.in_a_row + 1
        else:
            if now >= window.quiet_until:
                window.take_in(now, False, slow)
            window.in_a_row = in_a_row = 0
        calls_before, failures_before, slow_before = window.before  # read together: other threads count meanwhile
        calls, failures = window.calls - calls_before, window.failures - failures_before
        if policy.failure_threshold is not None and failures >= policy.failure_threshold:
            return Reason.FAILURE_THRESHOLD
        if policy.consecutive_failures is not None and in_a_row >= policy.consecutive_failures:
            return Reason.CONSECUTIVE_FAILURES
        if calls >= policy.minimum_calls:
            if policy.failure_rate is not None and failures / calls >= policy.failure_rate:
                return Reason.FAILURE_RATE
            slow_calls = window.slow_calls - slow_before
            if slow_calls and policy.slow_call_rate is not None and slow_calls / calls >= policy.slow_call_rate:
                return Reason.SLOW_CALL_RATE
        return None

    def ignore(self, now: float, policy: BreakerPolicy) -> Reason | None:
        """It ends a row that is older than the window: where callers give up every call, no success ever does."""
        window = self.window
        if now - window.counted_at > policy.window_seconds:
            window.in_a_row = 0
        return None


class Closed(Passing):
    """A trip condition that holds after a result opens the breaker."""

    __slots__ = ()

    state = State.CLOSED


class Ramping(Closed):
    """Closed after an outage, with a share of the calls that grows to all of them."""

    __slots__ = ("began", "ends", "ramps")

    def __init__(self, number: int, window: Window, refusing: Refusing, began: float, ramp: float) -> None:
        super().__init__(number, window, refusing)
        self.ramps = True
        self.began = began
        self.ends = began + ramp
        """When all calls are admitted."""

    def refuses(self, now: float, chance: float) -> Refusing | None:
        """Admit a call, or say what refuses it; `chance` is a random number in [0, 1)."""
        share = max(0.0, now - self.began) / (self.ends - self.began)
        if chance < share:
            return None
        said = self.refusing
        return Refusing(said.breaker, State.CLOSED, said.condition, _LONG_AGO, said.code, 100 * share)


class Disabled(Passing):
    """Nothing trips, until an operator says otherwise, or for as long as one said."""

    __slots__ = ("hold",)

    state = State.DISABLED

    def __init__(self, number: int, window: Window, refusing: Refusing, hold: Hold) -> None:
        super().__init__(number, window, refusing)
        self.hold = hold

    def judge(
        self,
        now: float,
        began: float,
        failed: bool,
        slow: bool,
        status: str,
        details: str,
        policy: BreakerPolicy,
    ) -> Reason | None:
        """Count it."""
        super().judge(now, began, failed, slow, status, details, policy)
        return None


class Open(Generation):
    """No call passes until the open period is over. No call is admitted, so no result belongs to this generation."""

    __slots__ = ()

    state = State.OPEN


class ForcedOpen(Generation):
    """No call passes until an operator says otherwise, or for as long as one said."""

    __slots__ = ("hold",)

    state = State.FORCED_OPEN

    def __init__(self, number: int, window: Window, refusing: Refusing, hold: Hold) -> None:
        super().__init__(number, window, refusing)
        self.hold = hold


class HalfOpen(Generation):
    """A few probes pass; they decide whether it closes or opens again."""

    __slots__ = ("began", "failures", "hands_on_at", "probes", "slow", "successes")

    state = State.HALF_OPEN

    def __init__(
        self, number: int, window: Window, refusing: Refusing, reopenings: int, probe: Any, began: float
    ) -> None:
        """Begin with one probe that holds a slot already: no other call fits in between."""
        super().__init__(number, window, refusing, reopenings)
        self.probes: dict[Any, None] = {probe: None}  # pyright: ignore[reportIncompatibleVariableOverride]
        self.successes = self.failures = self.slow = 0
        self.began = began
        self.hands_on_at = _LONG_AGO
        """Until then, the slots of probes that are ignored are not handed on."""

    def refusing_now(self) -> Refusing:
        """What is said to a call that is refused now, with the number of probes in flight."""
        said = self.refusing
        return Refusing(said.breaker, said.state, said.condition, said.until, said.code, len(self.probes))

    def has_room(self, limit: int, now: float) -> bool:
        """Whether a slot is free, or held by a probe whose time for it is over."""
        return len(self.probes) < limit or self.in_flight(now) < limit

    def in_flight(self, now: float) -> int:
        """Probes that hold a slot, without expired ones."""
        return sum(probe.slot_end > now for probe in list(self.probes))

    def expired(self, now: float) -> list[Any]:
        """Probes that hold a slot, and whose time for it is over."""
        return [probe for probe in list(self.probes) if probe.slot_end <= now]

    def probe_lease(self, now: float, timed: bool, policy: BreakerPolicy) -> float:
        """How long the lease of a probe lasts that begins now; a stream is not `timed`."""
        return max(policy.probe_timeout, _PATIENCE * (now - self.began)) if timed else policy.probe_timeout

    def reserve(self, probe: Any, limit: int) -> bool:
        """Take a slot for a probe; false if there is none.

        The probes in flight are the first `limit` entries, in the order they came. An entry only ever moves forward, so
        what is among them once stays among them, and there are never more, however many callers are here at once.
        """
        self.probes[probe] = None
        if probe in list(self.probes)[:limit]:
            return True
        self.probes.pop(probe, None)
        return False

    def free(self, probe: Any) -> bool:
        """Free the slot of a probe; false if it has none."""
        return self.probes.pop(probe, self) is None

    def hand_on(self, probe: Any, now: float, policy: BreakerPolicy) -> None:
        """Free the slot of a probe that was ignored, when its time has come."""
        if probe in self.probes:  # pragma: no branch - answered already, and given up now
            if now < self.hands_on_at:
                probe.slot_end = self.hands_on_at
            else:
                pause = min(policy.probe_timeout, policy.reset_timeout)
                self.hands_on_at = (now // pause + 1) * pause
                self.probes.pop(probe, None)

    def succeed(self, now: float, policy: BreakerPolicy) -> Reason | None:  # noqa: ARG002 - the same for each state
        """One nearer to closed."""
        self.window.in_a_row = 0
        self.successes += 1
        return Reason.PROBES_SUCCEEDED if self.successes >= policy.probes_to_close else None

    def ignore(self, now: float, policy: BreakerPolicy) -> Reason | None:
        """One nearer to closed, where none has failed for so long: callers may give up each call before its answer."""
        return self.succeed(now, policy) if now - self.began >= policy.probe_timeout else None

    def judge(
        self,
        now: float,
        began: float,
        failed: bool,
        slow: bool,
        status: str,
        details: str,
        policy: BreakerPolicy,  # noqa: ARG002 - the same for each state
    ) -> Reason | None:
        """One is enough to open again."""
        window = self.window
        if slow:
            self.slow = 1
        if not failed:
            window.in_a_row = 0
            return Reason.PROBE_SLOW
        self.failures = 1
        window.note(status, details)
        if began >= window.counted_at:  # else it is one more failure of an incident
            window.counted_at = now
            window.in_a_row += 1
        return Reason.PROBE_FAILED

    def held(self, now: float) -> Held:  # noqa: ARG002 - the same for each state
        """The probes that have ended."""
        return self.successes + max(self.failures, self.slow), self.failures, self.slow
