"""What becomes of a result, and the one step that changes the state of a breaker.

`Admission.try_admit` hands out a permit or refuses, see `admission.py`; `Permit.settle` ends the permit, once, with an
outcome. What a result does in which state is said in `generation.py`, what a permit is in `permit.py`. Nothing here
waits, so threads and event loops use the same object.

1.  A stay in a state is a *generation*. A change of state makes the next one, with its event and its number, and makes
    it the successor of the present one. It is legal only by the table in `state.py`.
2.  A result counts in the generation in which its call was admitted; in any other it is stale.
3.  The call that finds the open period over makes the breaker half-open with its own probe in the first slot. So there
    is no moment at which the breaker is half-open and the slots are all free.
4.  Refusals and ignored results enter no window and change no state, but for what `HalfOpen.ignore` says.
5.  A change is made first, and its event delivered after it.

Threads. Nothing is locked, and nothing can be left held, because each thing that must happen once is a single step of a
list or a dictionary, which is atomic: becoming the successor (the first `append`), being settled (`pop`), having a slot
(see `HalfOpen.reserve`), claiming an event (see `delivery.py`). Several callers may try the same step at once; one
succeeds, and the others find it done and go on from there. `_current` is only a hint: a reader follows the successors
from it, so it does no harm that a slow thread sets it back. Counting is no single step, but in CPython no other thread
runs inside an addition that contains no call; where one can, in a free-threaded build, one result more or less in a
window changes nothing that matters. An exception that arrives between any two lines, from a signal handler for one,
finds the breaker whole and leaves it whole. It can cost one result, or one permit, which its lease gives back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from grpc_breaker._core.counts import IGNORED, STALE, CallCounts
from grpc_breaker._core.delivery import deliver_from
from grpc_breaker._core.events import DETAILS_LENGTH, LAST_CHANGES, Listeners, StateChange
from grpc_breaker._core.generation import Generation
from grpc_breaker._core.holds import UNLIMITED, Hold
from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.limits import Limits
from grpc_breaker._core.log import printable
from grpc_breaker._core.method_policy import MethodPolicy
from grpc_breaker._core.permit import Permit, Probe
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.recording import PLAIN, Recorders
from grpc_breaker._core.refusing import Rejection
from grpc_breaker._core.state import TRANSITIONS, Outcome, Reason, State
from grpc_breaker._core.succession import after, first

_NEVER: Final = math.inf
_LONG_AGO: Final = -math.inf
_IGNORED: Final = Outcome.IGNORED

_ALL: Final = 100.0
"""Percent."""

_BY_OPERATORS: Final = frozenset({State.FORCED_OPEN, State.DISABLED})

NOBODY: Final[Listeners[Any]] = Listeners()
"""The registry's listeners of a breaker without a registry: there are none."""


class Machine:
    """Takes in the results of calls, and changes the state by them."""

    __slots__ = (
        "__weakref__",
        "_change_listeners",
        "_clock",
        "_counts",
        "_current",
        "_has_streams",
        "_hung_after",
        "_in_flight",
        "_in_force",
        "_kinds",
        "_limits",
        "_none_before",
        "_policy",
        "_random",
        "_reconfigured",
        "_recorders",
        "_registry_change_listeners",
        "_registry_rejection_listeners",
        "_rejection_listeners",
        "_slow_after",
        "_tidy_at",
        "_undelivered",
        "_used",
        "_wanted",
        "name",
    )

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy,
        clock: Callable[[], float],
        random: Callable[[], float],
        counts: CallCounts,
        changes: Listeners[StateChange] = NOBODY,
        rejections: Listeners[Rejection] = NOBODY,
        recorders: Recorders | None = None,
    ) -> None:
        self.name = name
        """What the breaker is called in errors, logs and telemetry."""
        self._policy = policy
        self._clock = clock
        self._random = random
        self._counts = counts
        """How calls ended; shared by all breakers of one label."""
        self._current = self._undelivered = first(name, policy, clock())
        """The generation in force, or an earlier one; and where delivering events goes on."""
        self._in_flight: dict[Permit, None] = {}
        """The permits that are not settled, the oldest first; those whose lease has ended until the next sweep."""
        self._has_streams = False
        """Whether there may be streams among the calls in flight; noticed where a bulkhead needs to know it."""
        self._none_before = _LONG_AGO
        """When the oldest call began, at the earliest, that is in flight and may yet be counted as hung."""
        self._limits: Limits | None = None
        """The bulkhead, rate limit and throttle; `None` without any."""
        self._wanted: MethodPolicy | None = None
        """What the registry wanted last of a breaker that it has made."""
        self._in_force: MethodPolicy | None = None
        """The same, once it is in force, whatever an operator has changed since; `None` while it is being changed."""
        self._used = _LONG_AGO
        """When a call was last admitted, within a second."""
        self._change_listeners: Listeners[StateChange] = Listeners()
        self._rejection_listeners: Listeners[Rejection] = Listeners()
        self._registry_change_listeners = changes
        self._registry_rejection_listeners = rejections
        self._recorders = Recorders() if recorders is None else recorders
        """Who records its calls; of a registry's breaker, those who record calls of the registry."""
        self._kinds = self._recorders.kinds(name)
        """The kinds of permits it hands out."""
        self._reconfigured = False
        self._tidy_at = _LONG_AGO
        self._note_policy()

    @property
    def policy(self) -> BreakerPolicy:
        """The policy in force."""
        return self._policy

    def _note_policy(self) -> None:
        duration = self._policy.slow_call_duration
        self._slow_after = _NEVER if duration is None else duration
        hung_after = self._policy.hung_after
        self._hung_after = _NEVER if hung_after is None else hung_after
        self._note_admission(self._latest())

    def _note_admission(self, generation: Generation) -> None:
        """Note which calls need no look. No call between reading and writing: no thread comes in between."""
        ends = generation.hold is not None and generation.hold.until < _NEVER
        passes = generation.passes and not generation.ramps and not ends
        generation.admits_all = passes and self._limits is None and self._hung_after == _NEVER and self._kinds is PLAIN
        lenient = self._policy.enforcement_percentage < _ALL  # calls may pass that the state refuses
        generation.refuses_all_until = _LONG_AGO if lenient else generation.refusing.until

    # ── Results ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_in(self, permit: Permit, outcome: Outcome, status: str, details: str) -> None:
        """Take in a success, or an ignored result, of a permit that has just been settled."""
        generation = self._current
        if generation.successor:  # pragma: no cover - another caller was faster: tests/model
            generation = self._latest()
        if outcome is _IGNORED and not hasattr(permit, "had_answer"):
            now = self._now(permit)
            if self._take_back(permit, generation, now, status):
                reason = generation.ignore(now, self._policy)
                if reason is not None:
                    self._leave(generation, reason, now, permit, status, "")
            return
        now = self._clock()
        if permit.generation != generation.number or now >= permit.lease_end:
            self._counts.add(STALE, status)
            return
        self._counts.add_success(status)
        reason = None
        if now - permit.started > self._slow_after and permit.timed:
            reason = generation.judge(now, _NEVER, False, True, status, details, self._policy)
        elif generation.passes or generation.free(permit) or not hasattr(permit, "had_answer"):  # which was its success
            reason = generation.succeed(now, self._policy)
        if reason is not None:
            self._leave(generation, reason, now, permit, status, details)

    def _take_back(self, permit: Permit, generation: Generation, now: float, status: str) -> bool:
        """Take back a permit from which nothing was learned; false if it is stale."""
        if permit.generation != generation.number or now >= permit.lease_end:
            self._counts.add(STALE, status)
            return False
        if generation.probes:
            generation.hand_on(permit, now, self._policy)
        self._counts.add(IGNORED, status)
        return True

    def _settle_late(self, permit: Permit, status: str) -> bool:
        """Count the late result of a permit that was swept, once; false if the permit had been settled."""
        try:
            del permit.swept  # a single step: one caller succeeds
        except AttributeError:
            return False
        self._counts.add(STALE, status)
        return True

    def _answer(self, permit: Permit) -> None:
        """Take in the first answer of a stream; see `Permit.answered`."""
        if permit not in self._in_flight:
            return
        generation = self._latest()
        now = self._clock()
        if now >= permit.lease_end:
            return
        permit.had_answer = True
        if isinstance(permit, Probe) and generation.free(permit):
            permit.lease_end = permit.deadline_lease_end
            reason = generation.succeed(now, self._policy)
            if reason is not None:
                self._leave(generation, reason, now, permit, "", "")
        elif permit.generation == generation.passing:
            generation.window.in_a_row = 0

    def _awaits_answer(self, permit: Permit) -> bool:
        """Whether `Permit.answered` would change anything, or may later."""
        if hasattr(permit, "had_answer") or not self._is_in_flight(permit):
            return False
        generation = self._latest()
        counts = permit.generation == generation.passing and bool(generation.window.last)
        return counts or permit in generation.probes

    def _is_probing(self, permit: Permit) -> bool:
        """Whether a permit holds a slot of the present generation."""
        holds = isinstance(permit, Probe) and permit in self._latest().probes and permit.slot_end > self._now(permit)
        return holds and self._is_in_flight(permit)

    def _is_in_flight(self, permit: Permit) -> bool:
        """Whether a permit is neither settled nor given up."""
        return permit in self._in_flight and not self._expired(permit)

    def _expired(self, permit: Permit) -> bool:
        """Whether the lease of a permit has ended. A clock that breaks ends none."""
        return permit.lease_end != _NEVER and self._now(permit) >= permit.lease_end

    def _now(self, permit: Permit) -> float:
        """The time, or when the call began: giving a permit back must not fail with the clock."""
        try:
            return self._clock()
        except Exception as error:
            if passes_through(error):
                raise
            return permit.started

    def _sweep(self, now: float) -> int:
        """Forget the calls in flight whose lease has ended; returns how many are left."""
        for permit in list(self._in_flight):
            if permit.lease_end <= now and self._in_flight.pop(permit, self) is None:
                permit.swept = True
            self._has_streams |= not permit.timed
        return len(self._in_flight)

    # ── The change of state ───────────────────────────────────────────────────────────────────────────────────────

    def _latest(self) -> Generation:
        """The generation in force."""
        generation = self._current
        while generation.successor:  # pragma: no cover - another caller was faster: tests/model
            generation = generation.successor[0]
        self._current = generation
        return generation

    def _after_hold(self) -> Generation:
        """The generation in force, once a hold whose time is over has ended: no timer does that."""
        while True:
            generation = self._latest()
            hold = generation.hold
            if hold is None or hold.until == _NEVER or (now := self._clock()) < hold.until:
                return generation
            self._change(generation, State.CLOSED, Reason.HOLD_EXPIRED, now, details=hold.reason)

    def _leave(
        self,
        generation: Generation,
        reason: Reason,
        now: float,
        permit: Permit,
        status: str,
        details: str,
        pushback: float | None = None,
    ) -> None:
        """Leave a state because of a result."""
        state = State.CLOSED if reason is Reason.PROBES_SUCCEEDED else State.OPEN
        self._change(generation, state, reason, now, permit, status, details, pushback)

    def _change(
        self,
        old: Generation,
        state: State,
        reason: Reason,
        now: float,
        permit: Permit | None = None,
        status: str = "",
        details: str = "",
        pushback: float | None = None,
        hold: Hold = UNLIMITED,
    ) -> bool:
        """Change the state: the only place that does. False if another caller has changed it meanwhile."""
        if reason not in TRANSITIONS.get((old.state, state), ()):  # pragma: no cover - a defect of this package
            message = f"{self.name}: no transition from {old.state} to {state} by {reason}; please report this"
            raise RuntimeError(message)
        new = after(old, state, reason, now, self._policy, self._random, permit, pushback, hold)
        calls, failures, slow = old.held(now)
        new.sequence = old.sequence + 1
        change = StateChange(
            sequence=new.sequence,
            breaker=self.name,
            method="" if permit is None else permit.method,
            previous=old.state,
            state=state,
            reason=reason,
            calls=calls,
            failures=failures,
            slow=slow,
            retry_after=new.refusing.retry_after(now),
            status=status,
            details=printable(details[:DETAILS_LENGTH])[:DETAILS_LENGTH],
            last_failures=old.last_failures(),
            at=now,
            time=time.time(),
            enforced=self._policy.enforcement_percentage > 0 or state in _BY_OPERATORS,
        )
        new.history = (*old.history[1 - LAST_CHANGES :], change)
        new.event = replace(change).with_context(None if permit is None else permit.context)
        return self._succeed(old, new)

    def _succeed(self, old: Generation, new: Generation) -> bool:
        """Put a generation in force after another: one atomic step. False if another one is there already."""
        old.successor.append(new)
        if old.successor[0] is not new:
            return False
        self._current = new
        self._note_admission(new)
        listeners = (self._change_listeners, self._registry_change_listeners)
        self._undelivered, passing = deliver_from(self._undelivered, listeners)
        if passing is not None:
            raise passing
        return True
