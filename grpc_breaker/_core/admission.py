"""The first of the two steps of a call: it is admitted with a permit, or refused.

1.  Most calls meet a breaker that admits all calls, or one that is open. Both are told by one look at its generation.
2.  Otherwise the one decision is made in this order: the breaker, or the throttle in its place; the bulkhead; the rate
    limit. Only then a probe takes its slot. So a limit that refuses a call takes nothing from the breaker, and a
    breaker that refuses one takes nothing from the limits.
3.  A refusal by the breaker that is not enforced (`BreakerPolicy.enforcement_percentage`) is reported, and the call is
    made; its result belongs to no generation, so it never moves the breaker. What an operator forced open is enforced.
4.  A call that has been in flight for longer than `BreakerPolicy.hung_after` is one failure. It is found by the next
    call that asks. Calls in flight are in the order they came, so nothing is looked for until the oldest may be hung.
5.  A probe loses its slot after `BreakerPolicy.probe_timeout`, to the next call that asks. A stream that is still open
    then, and has time left by its own deadline, has succeeded: a watch is silent for as long as nothing happens. Later
    results are stale. But the longer the breaker has been half-open, the longer are the leases of probes that are calls
    of one answer: else a method whose calls take longer than `probe_timeout` would never close. So that a method whose
    calls are all ignored can close, too, a probe that is ignored has succeeded where the breaker has been half-open for
    `probe_timeout` without a failure: see `HalfOpen.ignore`.
6.  What an operator has ordered for a time ends with the next call that asks after it, or that reads the state.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

from grpc_breaker._core.counts import HUNG_STATUS, UNENFORCED
from grpc_breaker._core.events import deliver
from grpc_breaker._core.generation import Generation, HalfOpen, Ramping
from grpc_breaker._core.limits import Limits
from grpc_breaker._core.machine import Machine
from grpc_breaker._core.permit import HUNG, LEASE_GRACE, NO_GENERATION, Permit, Probe
from grpc_breaker._core.refusing import Refusing, Rejection, Unenforced, rejection_of
from grpc_breaker._core.state import Reason, RefusalReason, State
from grpc_breaker._core.succession import chance

_NEVER: Final = math.inf
_BREAKER: Final = RefusalReason.BREAKER
_CLOSED: Final = State.CLOSED

_TIDY_EVERY: Final = 1.0
"""Seconds between two admissions that look for calls whose lease has ended, and note that the breaker is in use."""


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
        if now < generation.refuses_all_until:
            refusing = generation.refusing
            self._counts.rejected += 1
        else:
            decided = self._decide(generation, now, method, context, timed, timeout)
            if type(decided) is not Refusing:  # `isinstance` costs more where the answer is no
                return decided
            refusing = decided
            if refusing.reason is _BREAKER:
                self._counts.rejected += 1
            else:
                try:
                    self._counts.others[refusing.counted] += 1
                except KeyError:
                    self._counts.add(*refusing.counted)
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
        generation = self._after_hold()
        now = self._clock()
        refusing = self._refused_by_breaker(generation, now)
        if refusing is not None and not self._enforces(generation):
            refusing = None
        limits = self._limits
        if refusing is None and limits is not None:
            if len(self._in_flight) >= limits.most and self._is_full(limits, now):
                refusing = limits.full(self.name, generation.state)
            elif limits.rate is not None:
                refusing = limits.rate.too_early(self.name, generation.state, now)
        return None if refusing is None else rejection_of(refusing, now, "")

    def _decide(  # noqa: C901 - each further function would cost every call of a method with limits
        self, generation: Generation, now: float, method: str, context: object, timed: bool, timeout: float | None
    ) -> Permit | Refusing:
        """Admit a call by all that its breaker's policy says, or say what refuses it."""
        if generation.hold is not None:
            generation = self._after_hold()
        if now - self._none_before > self._hung_after:
            self._count_hung(now, self._hung_after)
            generation = self._latest()
        limits, asked = self._limits, False
        while True:
            refusing = None
            if generation.ramps or not generation.passes:
                if isinstance(generation, HalfOpen):
                    generation = self._give_up_probes(generation, now)
                refusing = self._refused_by_breaker(generation, now)
                if refusing is not None and self._enforces(generation):
                    if limits is not None and asked:  # pragma: no cover - another caller was faster: tests/model
                        limits.give_back()
                    return refusing
            if limits is not None and not asked:
                limited = self._refused_by_limits(limits, generation, now, timed)
                if limited is not None:
                    return limited
                asked = True
            if refusing is not None:
                self._report_unenforced(refusing, now, method, context)
            decided = self._enter(generation, refusing is not None, now, method, context, timed, timeout)
            if decided is not None:  # pragma: no branch - else another caller was faster: tests/model
                return decided
            generation = self._latest()  # pragma: no cover

    def _enter(
        self,
        generation: Generation,
        unenforced: bool,
        now: float,
        method: str,
        context: object,
        timed: bool,
        timeout: float | None,
    ) -> Permit | Refusing | None:
        """A permit of the generation, a probe where that is half-open or its open period is over.

        Others may have come in meanwhile: then it is what the bulkhead says, or `None` where they have changed the
        state or taken the last slot.
        """
        passes = generation.passes or unenforced
        permit = self._kinds[0]() if passes else self._kinds[1]()
        permit._breaker = self  # pyright: ignore[reportAttributeAccessIssue]
        permit.generation = NO_GENERATION if unenforced else generation.number
        permit.started = now
        permit.method = method
        permit.context = context
        permit.timed = timed
        permit.lease_end = _NEVER if timeout is None else now + timeout + LEASE_GRACE
        if not timed:
            self._has_streams = True
        if isinstance(permit, Probe):
            self._used = now
            permit.deadline_lease_end = permit.lease_end
            permit.slot_end = min(permit.lease_end, now + self._policy.probe_timeout)
            lease = generation.probe_lease(now, timed, self._policy)
            permit.lease_end = min(permit.lease_end, now + lease)
        try:
            self._in_flight[permit] = None  # before it is a probe: one that is lost has a lease, and it ends
            limits = self._limits
            if limits is not None and len(self._in_flight) > limits.most and self._is_one_too_many(permit, limits):
                limits.give_back()  # pragma: no cover - another caller was faster: tests/model
                return limits.full(self.name, generation.state)  # pragma: no cover
            if passes:
                if now >= self._tidy_at:
                    self._tidy(now)
                return permit
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
            elif self._are_in_flight(self._policy.half_open_max_calls, now):  # so many at once the probes were, too
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
        throttling = limits.throttling
        if throttling is not None and generation.state is _CLOSED:
            refusing = throttling.refuses(self.name, generation.window, now, self._random)
            if refusing is not None:
                return refusing
        full = len(self._in_flight) >= limits.most and (timed or limits.streams)
        if full and ((now < self._tidy_at and not self._has_streams) or self._is_full(limits, now)):
            return limits.full(self.name, generation.state)
        return None if limits.rate is None else limits.rate.refuses(self.name, generation.state, now)

    def _are_in_flight(self, calls: float, now: float) -> bool:
        """Whether so many calls and streams are in flight.

        Those whose lease has ended are not, which is noticed within a second.
        """
        if now >= self._tidy_at and len(self._in_flight) >= calls:
            self._tidy(now)
        return len(self._in_flight) >= calls

    def _is_full(self, limits: Limits, now: float) -> bool:
        """Whether as many calls are in flight as the bulkhead allows, of those that it counts."""
        return self._are_in_flight(limits.most, now) and len(self._counted_by(limits)) >= limits.most

    def _is_one_too_many(self, permit: Permit, limits: Limits) -> bool:
        """Whether a permit that has just come in is above the bulkhead's size, because others came in meanwhile.

        Those inside are the first so many in the order they came. A permit only ever moves forward in it, so one that
        was inside stays inside, and there are never more.
        """
        if not (permit.timed or limits.streams):
            return False
        counted = list(self._counted_by(limits))
        if len(counted) <= limits.most or permit in counted[: int(limits.most)]:
            return False
        self._in_flight.pop(permit, None)  # pragma: no cover - another caller was faster: tests/model
        return True  # pragma: no cover

    def _counted_by(self, limits: Limits) -> Collection[Permit]:
        """The calls in flight that the bulkhead counts. Where streams are among the others, it looks at each."""
        if limits.streams or not self._has_streams:
            return self._in_flight
        return [permit for permit in list(self._in_flight) if permit.timed]

    def _report_unenforced(self, refusing: Refusing, now: float, method: str, context: object) -> None:
        self._counts.add(UNENFORCED, str(refusing.reason))
        if self._rejection_listeners or self._registry_rejection_listeners:
            rejection = Unenforced()
            rejection._refusing, rejection.at, rejection.method, rejection.context = refusing, now, method, context
            deliver((self._rejection_listeners, self._registry_rejection_listeners), rejection)

    def _give_up_probes(self, generation: HalfOpen, now: float) -> Generation:
        """Free the slots of the probes whose time for it is over, see rule 5; returns the generation in force then."""
        for probe in generation.expired(now):
            if generation.free(probe) and self._has_stayed(probe):
                reason = generation.succeed(now, self._policy)
                if reason is not None:
                    self._leave(generation, reason, now, probe, "", "")
        return self._latest()

    def _has_stayed(self, probe: Probe) -> bool:
        """Whether a probe whose time for its slot is over is a stream that is still open, before its own deadline."""
        is_open = probe in self._in_flight or hasattr(probe, "swept")
        return is_open and not probe.timed and probe.slot_end < probe.deadline_lease_end

    def _count_hung(self, now: float, hung_after: float) -> None:
        """Count the calls that have been in flight for longer than `hung_after`, each as one failure.

        Streams are none of them: how long one takes is its own.
        """
        none_before = now
        for permit in list(self._in_flight):
            if permit.timed:
                if now - permit.started <= hung_after:
                    none_before = permit.started
                    break
                self._take_in_hung(permit, now, hung_after)
        self._none_before = none_before

    def _take_in_hung(self, permit: Permit, now: float, hung_after: float) -> None:
        """Count a call in flight as a failure, because it has been there for too long; once.

        It stays in flight, with all that it holds, and its end is stale. What ends it takes the permit out and then
        reads its number; here the number is changed, and then the permit is looked for: at most one of the two counts.
        """
        number, permit.generation = permit.generation, HUNG  # without a call: no thread comes in between
        generation = self._latest()
        if number != generation.number or now >= permit.lease_end or permit not in self._in_flight:
            return
        self._counts.add_failure(HUNG_STATUS)
        slow = now - permit.started > self._slow_after
        details = f"no answer after {hung_after:g} s"
        reason = generation.judge(now, _NEVER, True, slow, HUNG_STATUS, details, self._policy)
        if reason is not None:
            self._leave(generation, reason, now, permit, HUNG_STATUS, details)

    def _tidy(self, now: float) -> None:
        """What an admission does now and then."""
        self._used, self._tidy_at = now, now + _TIDY_EVERY
        self._sweep(now)
