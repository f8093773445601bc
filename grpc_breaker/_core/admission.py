"""The first of the two steps of a call: it is admitted with a permit, or refused.

1.  Most calls meet a breaker that admits all calls, or one that is open. Both are told by one look at its generation.
2.  Otherwise the one decision is made in this order: the breaker, or the throttle in its place; the bulkhead; the rate
    limit. Only then a probe takes its slot. So a limit that refuses a call takes nothing from the breaker, and a
    breaker that refuses one takes nothing from the limits.
3.  A refusal by the breaker that is not enforced (`BreakerPolicy.enforcement_percentage`) is reported, and the call is
    made; its result belongs to no generation, so it never moves the breaker. What an operator forced open is enforced.
4.  A call that has been in flight for longer than `BreakerPolicy.hung_after` is one failure. It is found by the next
    call that asks: the calls in flight are in the order they came, so that is a look at the oldest.
"""

from __future__ import annotations

import math
from typing import Any, Final

from grpc_breaker._core.counts import REJECTED, UNENFORCED
from grpc_breaker._core.events import deliver
from grpc_breaker._core.generation import Generation, HalfOpen, Ramping
from grpc_breaker._core.limits import Limits
from grpc_breaker._core.machine import Machine
from grpc_breaker._core.permit import LEASE_GRACE, Permit, Probe
from grpc_breaker._core.refusing import Refusing, Rejection, Unenforced, rejection_of
from grpc_breaker._core.state import Outcome, Reason, RefusalReason, State
from grpc_breaker._core.succession import chance

_NEVER: Final = math.inf
_LONG_AGO: Final = -math.inf
_BREAKER: Final = RefusalReason.BREAKER

_TIDY_EVERY: Final = 1.0
"""Seconds between two admissions that look for calls whose lease has ended, and note that the breaker is in use."""

_NO_GENERATION: Final = -2
"""The number that permits carry whose result never counts."""

_HUNG: Final = "HUNG"
"""The status under which a hung call is counted."""


class Admission(Machine):
    """Admits calls, or refuses them."""

    __slots__ = ()

    def try_admit(
        self, method: str = "", context: object = None, timed: bool = True, timeout: float | None = None
    ) -> Permit | Rejection:
        """Ask to make a call; like `admit`, but a refusal is returned, not raised."""
        generation = self._current
        if generation.successor:  # pragma: no cover - another caller was faster: tests/model
            generation = self._latest()
        now = self._clock()
        if generation.admits_all:
            permit = Permit()
            permit._breaker = self  # pyright: ignore[reportAttributeAccessIssue]
            permit.generation = generation.number
            permit.started = now
            permit.method = method
            permit.context = context
            permit.timed = timed
            permit.lease_end = _NEVER if timeout is None else now + timeout + LEASE_GRACE
            self._in_flight[permit] = None
            if now >= self._tidy_at:
                self._tidy(now)
            return permit
        refusing = generation.refusing
        if now >= refusing.until or self._looks:
            permit_or_refusing = self._decide(now, method, context, timed, timeout)
            if isinstance(permit_or_refusing, Permit):
                return permit_or_refusing
            refusing = permit_or_refusing
        if refusing.reason is _BREAKER:
            self._counts.rejected += 1
        else:
            self._counts.add(REJECTED, refusing.reason)
        rejection = Rejection()
        rejection._refusing = refusing
        rejection.at = now
        rejection.method = method
        rejection.context = context
        if self._rejection_listeners or self._registry_rejection_listeners:
            deliver((self._rejection_listeners, self._registry_rejection_listeners), rejection)
        return rejection

    def refusal_now(self) -> Rejection | None:
        """What a call of one request and one answer would be told if it was refused now; `None` if it would not be.

        Nothing is counted and nothing used up. A refusal that would not be enforced is none. A throttle is not asked:
        it refuses by chance.
        """
        now = self._clock()
        generation = self._latest()
        refusing = self._refused_by_breaker(generation, now)
        if refusing is not None and not self._enforces(generation):
            refusing = None
        limits = self._limits
        if refusing is None and limits is not None:
            refusing = self._refused_by_bulkhead(limits, generation, now, True)
            if refusing is None and limits.rate is not None:
                refusing = limits.rate.too_early(self.name, generation.state, now)
        return None if refusing is None else rejection_of(refusing, now, "")

    def _decide(
        self, now: float, method: str, context: object, timed: bool, timeout: float | None
    ) -> Permit | Refusing:
        """Admit a call by all that its breaker's policy says, or say what refuses it."""
        if self._policy.hung_after is not None:
            self._count_hung(now, self._policy.hung_after)
        asked = False
        while True:
            generation = self._latest()
            refusing = self._refused_by_breaker(generation, now)
            if refusing is not None and self._enforces(generation):
                return refusing
            limits = self._limits
            if limits is not None and not asked:
                asked = True  # once: a rate limit counts
                refused = self._refused_by_limits(limits, generation, now, timed)
                if refused is not None:
                    return refused
            if refusing is not None:
                self._report_unenforced(refusing, now, method, context)
            permit = self._permit(generation, refusing, now, timeout, (method, context, timed))
            if permit is None:  # pragma: no cover - another caller was faster: tests/model
                continue
            if limits is not None and self._is_one_too_many(permit, limits):  # pragma: no cover - the same
                return self._full(limits, generation)
            return permit

    def _permit(
        self,
        generation: Generation,
        unenforced: Refusing | None,
        now: float,
        timeout: float | None,
        call: tuple[str, object, bool],
    ) -> Permit | None:
        """A permit of the generation, a probe where that is half-open or its open period is over; `None` if another
        caller changed the state or took the last slot meanwhile.
        """
        passes = generation.passes or unenforced is not None
        permit = Permit() if passes else Probe()
        permit._breaker = self  # pyright: ignore[reportAttributeAccessIssue]
        permit.generation = generation.number if unenforced is None else _NO_GENERATION
        permit.started = now
        permit.method, permit.context, permit.timed = call
        permit.lease_end = _NEVER if timeout is None else now + timeout + LEASE_GRACE
        if isinstance(permit, Probe):
            self._used = now
            permit.deadline_lease_end = permit.lease_end
            permit.lease_end = min(permit.lease_end, now + self._policy.probe_timeout)
        self._in_flight[permit] = None  # before it is a probe: one that is lost has a lease, and it ends
        if passes:
            if now >= self._tidy_at:
                self._tidy(now)
            return permit
        try:
            if isinstance(generation, HalfOpen):
                if generation.reserve(permit, self._policy.half_open_max_calls):
                    return permit
            else:
                permit.generation += 1
                if self._change(generation, State.HALF_OPEN, Reason.RESET_TIMEOUT, now, permit):
                    return permit
        except BaseException:  # Ctrl-C in a listener, for one: the caller never gets its permit
            self._in_flight.pop(permit, None)
            self._latest().free(permit)
            raise
        self._in_flight.pop(permit, None)  # pragma: no cover - another caller was faster: tests/model
        return None  # pragma: no cover

    def _refused_by_breaker(self, generation: Generation, now: float) -> Refusing | None:
        """What the breaker says to a call that it refuses; `None` if it would admit it."""
        if isinstance(generation, Ramping):
            if now >= generation.ends:
                generation.ramps = False
                self._note_admission(generation)
            elif self._occupied() >= self._policy.half_open_max_calls:  # so many at once the probes were, too
                return generation.refuses(now, chance(self._random))
            return None
        if generation.passes:
            return None
        if now < generation.refusing.until:
            return generation.refusing
        if isinstance(generation, HalfOpen) and not generation.has_room(self._policy.half_open_max_calls, now):
            return generation.refusing_now()
        return None

    def _enforces(self, generation: Generation) -> bool:
        """Whether a refusal of the breaker holds for this call."""
        share = self._policy.enforcement_percentage / 100
        return share >= 1.0 or generation.state is State.FORCED_OPEN or chance(self._random) < share

    def _refused_by_limits(self, limits: Limits, generation: Generation, now: float, timed: bool) -> Refusing | None:
        """What a limit says to a call that it refuses; `None` if all of them admit it."""
        if limits.throttling is not None and generation.passes:
            refusing = limits.throttling.refuses(
                self.name, generation.state, generation.window, now, chance(self._random)
            )
            if refusing is not None:
                return refusing
        refusing = self._refused_by_bulkhead(limits, generation, now, timed)
        if refusing is None and limits.rate is not None:
            refusing = limits.rate.refuses(self.name, generation.state, now)
        return refusing

    def _refused_by_bulkhead(self, limits: Limits, generation: Generation, now: float, timed: bool) -> Refusing | None:
        most = limits.max_concurrent_calls
        if most is None or not (timed or limits.streams) or self._occupied() < most:
            return None
        if now >= self._tidy_at:
            self._tidy(now)
        if self._occupied() >= most and (limits.streams or self._occupied_by_timed() >= most):
            return self._full(limits, generation)
        return None

    def _is_one_too_many(self, permit: Permit, limits: Limits) -> bool:
        """Whether a permit that has just come in is above the bulkhead's size, because others came in meanwhile."""
        most = limits.max_concurrent_calls
        if most is None or self._occupied() <= most or not (permit.timed or limits.streams):
            return False
        if not limits.streams and self._occupied_by_timed() <= most:
            return False
        if permit in list(self._in_flight)[:most]:  # pragma: no cover - another caller was faster: tests/model
            return False
        self._in_flight.pop(permit, None)  # pragma: no cover
        self._latest().free(permit)  # pragma: no cover
        return True  # pragma: no cover

    def _occupied(self) -> int:
        """Calls in flight, hung ones included."""
        return len(self._in_flight) + len(self._hung or ())

    def _occupied_by_timed(self) -> int:
        """The same without streams. Only asked where there seem to be too many: it looks at each."""
        return sum(permit.timed for permit in (*list(self._in_flight), *list(self._hung or ())))

    def _full(self, limits: Limits, generation: Generation) -> Refusing:
        most = limits.max_concurrent_calls or 0
        return Refusing(self.name, generation.state, None, _LONG_AGO, "UNAVAILABLE", most, RefusalReason.BULKHEAD)

    def _report_unenforced(self, refusing: Refusing, now: float, method: str, context: object) -> None:
        self._counts.add(UNENFORCED, refusing.reason)
        if self._rejection_listeners or self._registry_rejection_listeners:
            rejection = Unenforced()
            rejection._refusing, rejection.at, rejection.method, rejection.context = refusing, now, method, context
            deliver((self._rejection_listeners, self._registry_rejection_listeners), rejection)

    def _count_hung(self, now: float, hung_after: float) -> None:
        """Count the calls that have been in flight for longer than `hung_after`, each as one failure."""
        while (oldest := self._oldest()) is not None and now - oldest.started > hung_after:
            if self._in_flight.pop(oldest, self) is None:  # pragma: no branch - else it has just ended
                oldest.swept = True
                if self._hung is None:
                    self._hung = {}
                self._hung[oldest] = None
                self._take_in(oldest, Outcome.FAILURE, _HUNG, f"no answer after {hung_after:g} s", None, False, None)

    def _oldest(self) -> Permit | None:
        """The call in flight that came first, streams aside: how long one takes is its own."""
        calls: Any = self._in_flight
        while True:
            try:
                oldest = next(iter(calls), None)
            except RuntimeError:  # pragma: no cover - another thread changed it between the two steps
                continue
            if oldest is None or oldest.timed:
                return oldest
            calls = [permit for permit in list(self._in_flight) if permit.timed]

    def _tidy(self, now: float) -> None:
        """What an admission does now and then."""
        self._used, self._tidy_at = now, now + _TIDY_EVERY
        self._sweep(now)
