"""The circuit breaker: the one file that changes state.

Theory of operation
    Every call takes two steps. `admit` hands out a permit or refuses; `Permit.settle` ends the permit, once, with an
    outcome. Nothing here waits, so threads and event loops use the same object.

    1.  State changes in one method, `_change`, under one lock, by the table in `state.py`. Each change begins a new
        *generation* and makes one event, numbered without a gap.
    2.  A permit carries the generation it was admitted in. When it is settled in a later one, its result is *stale*:
        it is counted as such and changes nothing. So an answer to the traffic of before the outage can neither close
        nor reopen a breaker that is probing.
    3.  A probe's slot is reserved in the very critical section that makes the breaker half-open, so no stampede fits
        between the two. It is given back by the first of: its result; its first answer, for a stream; its lease
        (`probe_timeout`), because some endings can never be seen. A probe whose lease ended is stale from then on.
    4.  Refusals and ignored results never enter the window and never change a state.
    5.  Decide under the lock, act after it: events are queued inside and delivered outside, in order, by one thread at
        a time. A listener that causes the next event finds it queued behind the one it is handling, not nested in it.
    6.  The lock is re-entrant, because a signal handler or a finalizer that the garbage collector runs can make a call
        in the middle of our own critical section, on the same thread. Such a visitor sees `_busy` and touches nothing:
        what it settles or commands is queued and done by the next caller; where only the lock can decide, it is
        refused.
    7.  A forked child has a fresh lock and nothing in flight; permits it inherited are ignored.
    8.  Admission takes the lock only where it has to decide something. All it needs stands in one immutable `_Gate`,
        made anew by each change and read once, so what it sees is always of one piece. A permit keeps the gate it came
        through, and is stale when the breaker has another. A call that comes through a gate while it is being replaced
        is a call of the old generation: stale, never wrong.
    9.  Settling takes the lock unless it has nothing to decide: a success in a calm breaker, one that is closed with no
        failed or slow result in its window. `_calm_until` says how long that holds, at most to the end of the window's
        current bucket. Such a success is one step of a counter. What makes it happen once is the set of the calls in
        flight: removing a permit from it succeeds for exactly one caller.

    The result of a call, by the state the breaker is in when it comes (same generation):

        state        success                     failure                    ignored
        closed       counted; may trip a rate    counted; may trip          gives back its place
        half_open    one nearer to closed        open again                 gives back its slot
        disabled     counted                     counted                    gives back its place

    `open` and `forced_open` admit nothing, so every result that meets them is stale.
"""

from __future__ import annotations

import inspect
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from itertools import count
from random import random as uniform
from types import TracebackType
from typing import Any, Final, ParamSpec, Protocol, Self, TypeVar, cast

from grpc_breaker._core.errors import CircuitOpenError
from grpc_breaker._core.events import (
    DETAILS_LENGTH,
    LAST_FAILURES,
    EndedCall,
    FailureReason,
    Listeners,
    Rejection,
    StateChange,
)
from grpc_breaker._core.log import log_once, name_of
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.state import TRANSITIONS, Outcome, Reason, State
from grpc_breaker._core.window import Counts, CountWindow, TimeWindow, Window

P = ParamSpec("P")
R = TypeVar("R")

# Looked up on every call: a module's name is cheaper than an attribute of an enum.
_CLOSED: Final = State.CLOSED
_OPEN: Final = State.OPEN
_HALF_OPEN: Final = State.HALF_OPEN
_DISABLED: Final = State.DISABLED
_SUCCESS: Final = Outcome.SUCCESS
_FAILURE: Final = Outcome.FAILURE

_TALLIED: Final = ("success", "failure", "ignored", "stale")
_OK: Final = ("success", "OK")
_REJECTED: Final = ("rejected", "")
_STALE: Final = 3

_MAX_STATUSES: Final = 32
"""Different statuses counted by name; more can only come from free text, and count as "other"."""


class _Gate:
    """What a call finds when it comes, from one change of state to the next (rule 8)."""

    __slots__ = ("code", "generation", "passes", "reason", "refuses_until", "state")

    def __init__(self, generation: int, state: State, reason: Reason, refuses_until: float, code: str) -> None:
        self.generation = generation
        self.state = state
        self.reason = reason
        """Which condition opened the breaker last."""
        self.passes = state is _CLOSED or state is _DISABLED
        self.refuses_until = refuses_until
        """Until then a call is refused without a closer look."""
        self.code = code
        """What a refused RPC shows."""


class _Counter:
    """Counts up without a lock: an iterator's step is one indivisible operation, `+=` is three."""

    __slots__ = ("_looks", "step")

    def __init__(self) -> None:
        self.step = count().__next__
        self._looks = 0

    def value(self) -> int:
        """How many steps were made. Under the breaker's lock: looking is a step, too, and is counted off."""
        self._looks += 1
        return self.step() + 1 - self._looks


_LOST: Final = _Gate(-1, _HALF_OPEN, Reason.RESET_TIMEOUT, -math.inf, "")
"""The gate of a probe whose lease has ended: never the breaker's own, so the probe's result is stale."""

_SETTLED: Final = _Gate(-2, _HALF_OPEN, Reason.RESET_TIMEOUT, -math.inf, "")
"""The gate of such a probe once its late result has come: that is counted once, too."""


def _retry_after(gate: _Gate, now: float) -> float | None:
    """Seconds until a call may pass this gate; `None` when only an operator knows."""
    if gate.state is State.FORCED_OPEN:
        return None
    return max(0.0, gate.refuses_until - now)


class Permit:
    """The right to make one call, to be settled exactly once.

    Safe to settle from any thread, from a finalizer and from a signal handler. Settling twice does nothing.
    """

    __slots__ = ("_breaker", "_gate", "context", "method", "started", "timed")

    def __init__(
        self,
        breaker: CircuitBreaker,
        gate: _Gate,
        started: float,
        method: str,
        context: object,
        timed: bool,
    ) -> None:
        self._breaker = breaker
        self._gate = gate
        self.started = started
        """When the call was admitted, by the breaker's clock."""
        self.method = method
        self.context = context
        self.timed = timed
        """Whether the time it takes says how slow the server is."""

    @property
    def settled(self) -> bool:
        """Whether this permit has been settled, or its lease has ended."""
        return self not in self._breaker._in_flight

    @property
    def policy(self) -> BreakerPolicy:
        """The policy of the breaker that admitted the call."""
        return self._breaker._policy

    @property
    def elapsed(self) -> float:
        """Seconds since the call was admitted, by the breaker's clock."""
        return self._breaker._clock() - self.started

    def settle(self, outcome: Outcome, status: str = "", details: str = "") -> bool:
        """End the call.

        Args:
            outcome: What the call says about the server.
            status: The name of its status, or of its exception: counted by name, so from a small set.
            details: Words for a person; kept with failures, cut to 200 characters.

        Returns:
            False when the permit had been settled before.
        """
        breaker = self._breaker
        now = breaker._clock()
        if (
            outcome is _SUCCESS
            and now < breaker._calm_until
            and self._gate is breaker._gate
            and (status == "OK" or not status)
            and now - self.started <= breaker._slow_after
        ):
            try:
                breaker._in_flight.remove(self)
            except KeyError:
                return False
            breaker._calm_successes.step()
            return True
        return breaker._settle(self, outcome, status, details, now)

    def success(self) -> bool:
        """Settle as a success."""
        return self.settle(_SUCCESS, "OK")

    def failure(self, status: str = "", details: str = "") -> bool:
        """Settle as a failure."""
        return self.settle(_FAILURE, status, details)

    def ignore(self) -> bool:
        """Settle as having learned nothing about the server."""
        return self.settle(Outcome.IGNORED)

    @property
    def is_probe(self) -> bool:
        """Whether this call holds one of the slots of a half-open breaker."""
        return self._gate is self._breaker._gate and self in self._breaker._probes

    def answered(self) -> None:
        """Say that the first answer of a stream has come.

        For a probe this is its success and frees its slot, so that a stream that lives for hours cannot hold the
        breaker half-open. A failing end that comes while the breaker is still half-open counts after all. Outside
        half-open this does nothing.
        """
        self._breaker._answer(self)


class CircuitBreaker:
    """Stops calls to what is failing, answers at once instead, and finds out by itself when it works again.

    One object may be used from any number of threads and event loops at once; no method waits. Use it as a context
    manager (`with` or `async with`), as a decorator of functions and coroutine functions, or in two steps, `admit()`
    and `Permit.settle()`.

    In a `with` block or a decorated function every `Exception` is a failure unless `policy.classify` says otherwise;
    `KeyboardInterrupt`, cancellation and the refusal of another breaker are ignored. Status codes are the
    interceptors' business: see `CircuitBreakerInterceptor`.
    """

    __slots__ = (
        "__weakref__",
        "_busy",
        "_calm_successes",
        "_calm_until",
        "_change_listeners",
        "_clock",
        "_consecutive_failures",
        "_delivering",
        "_entered",
        "_gate",
        "_in_flight",
        "_last_failures",
        "_late",
        "_lock",
        "_outbox",
        "_policy",
        "_probe_failures",
        "_probe_slow",
        "_probe_successes",
        "_probes",
        "_random",
        "_rejected",
        "_rejection_listeners",
        "_reopenings",
        "_sequence",
        "_slow_after",
        "_succeeded",
        "_tallies",
        "_used",
        "_window",
        "name",
    )

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = uniform,
    ) -> None:
        """Make a closed breaker.

        Args:
            name: What it is called in errors, logs and telemetry.
            policy: When it opens and closes. Default `BreakerPolicy()`.
            clock: Seconds that never run backwards, from anywhere.
            random: A number in [0, 1), for the jitter of the open period.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: An empty name.
        """
        _check_name(name)
        if policy is not None:
            _check_policy(policy)
        self.name = name
        self._policy = policy or BreakerPolicy()
        self._clock = clock
        self._random = random
        self._lock = threading.RLock()
        self._busy = False
        self._gate = _Gate(0, _CLOSED, Reason.RESET, -math.inf, self._policy.refusal_code)
        self._sequence = 0
        self._reopenings = 0
        self._in_flight: set[Permit] = set()
        self._calm_until = -math.inf
        self._calm_successes = _Counter()
        self._succeeded = 0  # under the lock; the calm ones are counted apart
        self._consecutive_failures = 0
        self._last_failures: tuple[FailureReason, ...] = ()
        self._probes: dict[Permit, float] = {}
        self._probe_successes = self._probe_failures = self._probe_slow = 0
        self._rejected = _Counter()
        self._tallies: tuple[dict[str, int], ...] = ({}, {}, {}, {})  # _TALLIED
        self._entered: dict[Permit, None] = {}
        self._late: list[Callable[[float], None]] = []
        self._outbox: list[StateChange] = []
        self._delivering = False
        self._change_listeners: tuple[Listeners[StateChange], ...] = (Listeners(),)
        self._rejection_listeners: tuple[Listeners[Rejection], ...] = (Listeners(),)
        self._used = _check_clock(clock)
        self._window = self._new_window(self._used)
        self._slow_after = self._slow_limit()
        reset_after_fork(self)

    # ── What it is ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def policy(self) -> BreakerPolicy:
        """The policy in force."""
        return self._policy

    @property
    def state(self) -> State:
        """The state. Reading it never changes it: an open breaker whose period is over is open until a call asks."""
        return self._gate.state

    @property
    def generation(self) -> int:
        """Goes up with every change of state; results of calls from an earlier one are stale."""
        return self._gate.generation

    @property
    def retry_after(self) -> float | None:
        """Seconds until a call may pass: 0 unless it is open, `None` when only an operator can end it."""
        return _retry_after(self._gate, self._clock())

    @property
    def in_flight(self) -> int:
        """Permits handed out and not settled, lost probes excepted."""
        self._tidy()
        return len(self._in_flight)

    def snapshot(self) -> dict[str, Any]:
        """Everything about this breaker at one moment, as plain data ready for JSON."""
        self._tidy()
        now = self._clock()
        with self._lock:
            gate = self._gate
            counts = self._counts(now)
            successes, failures, ignored, stale = (sum(tally.values()) for tally in self._tallies)
            return {
                "name": self.name,
                "state": str(gate.state),
                "retry_after": _retry_after(gate, now),
                "reason": None if gate.passes else str(gate.reason),
                "in_flight": len(self._in_flight),
                "generation": gate.generation,
                "sequence": self._sequence,
                "window": {**counts._asdict(), "consecutive_failures": self._consecutive_failures},
                "totals": {
                    "success": self._calm_successes.value() + self._succeeded + successes,
                    "failure": failures,
                    "ignored": ignored,
                    "rejected": self._rejected.value(),
                    "stale": stale,
                },
                "last_failures": [
                    {"status": reason.status, "details": reason.details} for reason in self._last_failures
                ],
                "policy": self._policy.as_dict(),
            }

    def tallies(self) -> dict[tuple[str, str], int]:
        """How many calls ended how since the beginning: {(outcome, status name): calls}, refusals included."""
        with self._lock:
            counted = {
                (outcome, status): calls
                for outcome, tally in zip(_TALLIED, self._tallies, strict=True)
                for status, calls in tally.items()
            }
            counted[_OK] = self._calm_successes.value() + self._succeeded
            counted[_REJECTED] = self._rejected.value()
            return {key: calls for key, calls in counted.items() if calls}

    def _take_tallies(self) -> dict[tuple[str, str], int]:
        """The tallies, which begin again at zero: a registry that forgets the breaker keeps them."""
        with self._lock:
            taken = self.tallies()
            self._succeeded = -self._calm_successes.value()
            self._rejected = _Counter()
            for tally in self._tallies:
                tally.clear()
            return taken

    def __repr__(self) -> str:
        now = self._clock()
        with self._lock:
            state = self._gate.state
            counts = self._counts(now)
            if state is _OPEN:
                story = f"{self._gate.reason}, next probe in {_retry_after(self._gate, now):.1f} s"
            elif state is _HALF_OPEN:
                story = (
                    f"{self._probe_successes} of {self._policy.probes_to_close} probes succeeded, "
                    f"{self._slots_taken()} in flight"
                )
            else:
                story = f"{counts.failures} of {counts.calls} failed"
        return f"<CircuitBreaker {self.name!r} {state}: {story}>"

    # ── Two steps ─────────────────────────────────────────────────────────────────────────────────────────────────

    def admit(self, method: str = "", context: object = None, *, timed: bool = True) -> Permit:
        """Ask to make a call.

        Args:
            method: The RPC method, for events.
            context: Anything; handed back with the event if this call changes the state.
            timed: Whether the time the call takes says how slow the server is; False for streams.

        Returns:
            The permit, to be settled once.

        Raises:
            CircuitOpenError: The breaker refuses.
        """
        answer = self.try_admit(method, context, timed)
        if isinstance(answer, Permit):
            return answer
        raise CircuitOpenError(answer)

    def try_admit(self, method: str = "", context: object = None, timed: bool = True) -> Permit | Rejection:
        """Ask to make a call; like `admit`, but a refusal is returned, not raised."""
        gate = self._gate
        now = self._clock()
        if gate.passes:
            self._used = now
            permit = Permit(self, gate, now, method, context, timed)
            self._in_flight.add(permit)
            return permit
        if now >= gate.refuses_until:
            answer = self._admit_probe(now, method, context, timed)
            if isinstance(answer, Permit):
                return answer
            gate = answer
        self._rejected.step()
        probes = self._slots_taken() if gate.state is _HALF_OPEN else 0
        rejection = Rejection(self.name, method, gate, _retry_after(gate, now), probes, context)
        for listeners in self._rejection_listeners:
            if listeners.all:
                listeners.notify(rejection)
        return rejection

    def _admit_probe(self, now: float, method: str, context: object, timed: bool) -> Permit | _Gate:
        """Admission where it takes the lock to decide; a gate refuses."""
        with self._lock:
            if self._busy:
                return self._gate  # a visitor (rule 6)
            self._busy = True
            try:
                self._take_up_late(now)
                if self._gate.state is _OPEN and now >= self._gate.refuses_until:
                    self._change(_HALF_OPEN, Reason.RESET_TIMEOUT, now, method, context)
                gate = self._gate
                answer: Permit | _Gate = gate
                if gate.state is _HALF_OPEN:
                    self._end_leases(now)
                    if self._slots_taken() < self._policy.half_open_max_calls:
                        answer = Permit(self, gate, now, method, context, timed)
                        self._probes[answer] = now + self._policy.probe_timeout
                elif gate.passes:  # closed in the meantime
                    answer = Permit(self, gate, now, method, context, timed)
                if isinstance(answer, Permit):
                    self._in_flight.add(answer)
                    self._used = now
            finally:
                self._busy = False
        if self._outbox:
            self._deliver()
        return answer

    def _settle(self, permit: Permit, outcome: Outcome, status: str, details: str, now: float) -> bool:
        """Settle a permit where there is something to decide."""
        try:
            self._in_flight.remove(permit)
        except KeyError:
            with self._lock:
                lost = permit._gate is _LOST
                if lost:
                    permit._gate = _SETTLED
                    self._count(_STALE, status)
            return lost
        with self._lock:
            if self._busy:
                self._late.append(lambda later: self._end(permit, outcome, status, details, later))
                return True
            self._busy = True
            try:
                self._take_up_late(now)
                self._end(permit, outcome, status, details, now)
            finally:
                self._busy = False
        if self._outbox:
            self._deliver()
        return True

    def _end(self, permit: Permit, outcome: Outcome, status: str, details: str, now: float) -> None:
        """Take in the result of a permit that has just been settled. Under the lock."""
        held_slot = self._probes.pop(permit, None) is not None
        if permit._gate is not self._gate:
            self._count(_STALE, status)
            return
        if outcome is _SUCCESS:
            self._count_success(status)
            self._consecutive_failures = 0
        elif outcome is _FAILURE:
            self._count(1, status)
            self._consecutive_failures += 1
            reason = FailureReason(status, details[:DETAILS_LENGTH])
            self._last_failures = (*self._last_failures[1 - LAST_FAILURES :], reason)
        else:
            self._count(2, status)
            return
        failed = outcome is _FAILURE
        slow = permit.timed and now - permit.started > self._slow_after
        if self._gate.state is _HALF_OPEN:
            self._judge_probe(permit, held_slot, failed, slow, now, status, details)
        else:
            self._judge_window(permit, failed, slow, now, status, details)

    def _judge_window(self, permit: Permit, failed: bool, slow: bool, now: float, status: str, details: str) -> None:
        """Count a result in the window, and open if a trip condition holds now. Under the lock."""
        any_bad = self._window.record(now, failed, slow)
        if not any_bad:
            self._calm_until = self._window.calm_until
            return
        self._calm_until = -math.inf
        if self._gate.state is _CLOSED:
            reason = self._tripped(now)
            if reason is not None:
                self._change(_OPEN, reason, now, permit.method, permit.context, status, details)

    def _judge_probe(
        self, probe: Permit, held_slot: bool, failed: bool, slow: bool, now: float, status: str, details: str
    ) -> None:
        """Judge the result of a probe. Under the lock."""
        if failed or slow:
            self._probe_failures += failed
            self._probe_slow += slow
            reason = Reason.PROBE_FAILED if failed else Reason.PROBE_SLOW
            self._change(_OPEN, reason, now, probe.method, probe.context, status, details)
        elif held_slot:  # else its first answer has been counted already
            self._probe_succeeded(probe, now, status)

    def _probe_succeeded(self, probe: Permit, now: float, status: str) -> None:
        self._probe_successes += 1
        if self._probe_successes >= self._policy.probes_to_close:
            self._change(_CLOSED, Reason.PROBES_SUCCEEDED, now, probe.method, probe.context, status)

    def _answer(self, probe: Permit) -> None:
        """Take the first answer of a stream."""
        now = self._clock()
        with self._lock:
            if self._busy or probe not in self._probes or probe._gate is not self._gate:
                return  # no probe, or no longer one; a visitor's answer is left to its final status (rule 6)
            self._busy = True
            try:
                del self._probes[probe]
                self._probe_succeeded(probe, now, "")
            finally:
                self._busy = False
        if self._outbox:
            self._deliver()

    def _end_leases(self, now: float) -> None:
        """Give up the probes not heard of for `probe_timeout`. Under the lock."""
        for probe in [probe for probe, until in self._probes.items() if until <= now]:
            del self._probes[probe]
            probe._gate = _LOST
            self._in_flight.discard(probe)

    def _slots_taken(self) -> int:
        """Probes in flight. Those of an earlier half-open period keep their lease but hold no slot."""
        return sum(probe._gate is self._gate for probe in tuple(self._probes))

    def _take_up_late(self, now: float) -> None:
        """Do what visitors left to do (rule 6). Under the lock."""
        while self._late:
            self._late.pop(0)(now)

    def _tidy(self) -> None:
        """Bring the books up to date before they are read: take up what visitors left, end leases."""
        now = self._clock()
        with self._lock:
            if self._busy:
                return
            self._busy = True
            try:
                self._take_up_late(now)
                self._end_leases(now)
            finally:
                self._busy = False
        if self._outbox:
            self._deliver()

    # ── The machine ───────────────────────────────────────────────────────────────────────────────────────────────

    def _tripped(self, now: float) -> Reason | None:
        """Which trip condition holds, if any. Under the lock."""
        policy = self._policy
        counts = self._window.counts(now)
        if policy.failure_threshold is not None and counts.failures >= policy.failure_threshold:
            return Reason.FAILURE_THRESHOLD
        if policy.consecutive_failures is not None and self._consecutive_failures >= policy.consecutive_failures:
            return Reason.CONSECUTIVE_FAILURES
        if counts.calls >= policy.minimum_calls:
            if policy.failure_rate is not None and counts.failures / counts.calls >= policy.failure_rate:
                return Reason.FAILURE_RATE
            if policy.slow_call_rate is not None and counts.slow / counts.calls >= policy.slow_call_rate:
                return Reason.SLOW_CALL_RATE
        return None

    def _change(
        self,
        state: State,
        reason: Reason,
        now: float,
        method: str = "",
        context: object = None,
        status: str = "",
        details: str = "",
    ) -> None:
        """Change the state: the only place that does. Under the lock."""
        previous = self._gate.state
        if reason not in TRANSITIONS.get((previous, state), ()):
            message = f"{self.name}: no transition from {previous} to {state} by {reason}; please report this"
            raise RuntimeError(message)
        counts = self._counts(now)
        refuses_until = -math.inf
        opened_by = self._gate.reason
        if state is _OPEN:
            refuses_until, opened_by = now + self._open_period(previous), reason
        elif state is State.FORCED_OPEN:
            refuses_until, opened_by = math.inf, reason
        self._gate = _Gate(self._gate.generation + 1, state, opened_by, refuses_until, self._policy.refusal_code)
        self._calm_until = -math.inf
        self._sequence += 1
        self._probe_successes = self._probe_failures = self._probe_slow = 0
        if state is _OPEN:
            self._reopenings = self._reopenings + 1 if previous is _HALF_OPEN else 1
        event = StateChange(
            sequence=self._sequence,
            breaker=self.name,
            method=method,
            previous=previous,
            state=state,
            reason=reason,
            calls=counts.calls,
            failures=counts.failures,
            slow=counts.slow,
            retry_after=_retry_after(self._gate, now),
            status=status,
            details=details[:DETAILS_LENGTH],
            last_failures=self._last_failures,
            context=context,
            at=now,
            time=time.time(),
        )
        if self._gate.passes:
            self._forget(now)
        self._outbox.append(event)

    def _forget(self, now: float) -> None:
        """Start counting afresh. Under the lock."""
        self._calm_until = -math.inf
        self._window = self._new_window(now)
        self._consecutive_failures = 0
        self._last_failures = ()
        self._reopenings = 0

    def _open_period(self, previous: State) -> float:
        """How long the breaker stays open this time, in seconds."""
        policy = self._policy
        period = policy.reset_timeout
        if previous is _HALF_OPEN and policy.reset_timeout_multiplier > 1.0:
            # As logarithms, because a multiplier to the power of many failed probes is more than a float can hold.
            growth = self._reopenings * math.log(policy.reset_timeout_multiplier)
            room = math.log(policy.max_reset_timeout / period)
            period = policy.max_reset_timeout if growth >= room else period * math.exp(growth)
        return period * (1.0 + policy.reset_timeout_jitter * self._random())

    def _counts(self, now: float) -> Counts:
        """The results that count in the present state. Under the lock."""
        if self._gate.state is _HALF_OPEN:
            failures = self._probe_failures
            return Counts(self._probe_successes + max(failures, self._probe_slow), failures, self._probe_slow)
        return self._window.counts(now)

    def _renew_gate(self) -> None:
        """Begin a new generation without a change of state: results of calls in flight are stale. Under the lock."""
        gate = self._gate
        self._gate = _Gate(gate.generation + 1, gate.state, gate.reason, gate.refuses_until, gate.code)

    def _new_window(self, now: float) -> Window:
        if self._policy.window_calls is not None:
            return CountWindow(self._policy.window_calls)
        return TimeWindow(self._policy.window_seconds, now, self._calm_successes.value)

    def _slow_limit(self) -> float:
        return math.inf if self._policy.slow_call_duration is None else self._policy.slow_call_duration

    def _count_success(self, status: str) -> None:
        if status in {"", "OK"}:
            self._succeeded += 1
        else:
            self._count(0, status)

    def _count(self, which: int, status: str) -> None:
        tally = self._tallies[which]
        if status not in tally and len(tally) >= _MAX_STATUSES:
            status = "other"
        tally[status] = tally.get(status, 0) + 1

    # ── Operators ─────────────────────────────────────────────────────────────────────────────────────────────────

    def force_open(self) -> None:
        """Refuse every call until `reset()` or `disable()`. Does nothing when it is forced open already."""
        self._command(State.FORCED_OPEN, Reason.FORCED_OPEN)

    def disable(self) -> None:
        """Let every call pass, counted, until `reset()` or `force_open()`. Does nothing when it is disabled already."""
        self._command(_DISABLED, Reason.DISABLED)

    def reset(self) -> None:
        """Close it and forget what was counted, whatever the state.

        On a closed breaker this is no change of state and no event; it only empties the window, and results of calls
        already in flight are stale.
        """
        self._command(_CLOSED, Reason.RESET)

    def reconfigure(self, policy: BreakerPolicy) -> None:
        """Put another policy in force, in place.

        The state, its open period and the calls in flight stay as they are. The window stays where its shape does
        (`window_seconds`, or `window_calls`); else it starts empty. The new conditions are judged from the next result.

        Raises:
            TypeError: `policy` is not a `BreakerPolicy`.
        """
        _check_policy(policy)
        now = self._clock()
        with self._lock:
            old, self._policy = self._policy, policy
            self._gate.code = policy.refusal_code
            self._slow_after = self._slow_limit()
            if policy.window_calls != old.window_calls or policy.window_seconds != old.window_seconds:
                self._calm_until = -math.inf
                self._window = self._new_window(now)

    def _command(self, state: State, reason: Reason) -> None:
        now = self._clock()
        with self._lock:
            if self._busy:
                self._late.append(lambda later: self._obey(state, reason, later))
                return
            self._busy = True
            try:
                self._take_up_late(now)
                self._obey(state, reason, now)
            finally:
                self._busy = False
        self._deliver()

    def _obey(self, state: State, reason: Reason, now: float) -> None:
        """Do what an operator said. Under the lock."""
        if self._gate.state is not state:
            self._change(state, reason, now)
        elif state is _CLOSED:
            self._renew_gate()
            self._forget(now)

    # ── Events ────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_state_change(self, listener: Callable[[StateChange], object]) -> Callable[[], None]:
        """Call `listener` after each change of state, in order, outside the lock, on the thread that caused it or on
        one that is delivering already. One that raises is logged once.

        Returns:
            A function that ends it.

        Raises:
            TypeError: `listener` is not callable.
        """
        return self._change_listeners[0].add(listener)

    def on_rejection(self, listener: Callable[[Rejection], object]) -> Callable[[], None]:
        """Call `listener` after each refusal, outside the lock, on the refused caller's thread. One that raises is
        logged once.

        Returns:
            A function that ends it.

        Raises:
            TypeError: `listener` is not callable.
        """
        return self._rejection_listeners[0].add(listener)

    def _also_tell(self, changes: Listeners[StateChange], rejections: Listeners[Rejection]) -> None:
        """Tell a registry's listeners, too."""
        self._change_listeners = (*self._change_listeners, changes)
        self._rejection_listeners = (*self._rejection_listeners, rejections)

    def _deliver(self) -> None:
        """Tell the listeners of the changes so far, in order, one thread at a time, without the lock."""
        while True:
            with self._lock:
                if self._delivering or not self._outbox:
                    return
                self._delivering = True
                event = self._outbox.pop(0)
            try:
                for listeners in self._change_listeners:
                    listeners.notify(event)
            finally:
                self._delivering = False

    # ── One step ──────────────────────────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Self:
        permit = self.admit()
        self._entered[permit] = None
        _entered.set((permit, _entered.get()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        permit = self._leave()
        outcome, status, details = self._judge(error, permit)
        permit.settle(outcome, status, details)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Guard every call of a function or coroutine function.

        Raises:
            TypeError: `function` is a generator function: calling one does nothing yet, so there is no result to
                count; guard the loop over it with `with breaker:`.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            message = (
                f"a breaker cannot decorate the generator function {name_of(function)}; use 'with breaker:' inside"
            )
            raise TypeError(message)
        if not callable(function):
            message = f"a breaker decorates a function or a coroutine function, got {function!r}"
            raise TypeError(message)
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def guarded_coroutine(*args: P.args, **kwargs: P.kwargs) -> Any:
                permit = self.admit()
                try:
                    result = await function(*args, **kwargs)
                except BaseException as error:
                    permit.settle(*self._judge(error, permit))
                    raise
                permit.settle(*self._judge(None, permit))
                return result

            return cast("Callable[P, R]", guarded_coroutine)

        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            permit = self.admit()
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                permit.settle(*self._judge(error, permit))
                raise
            permit.settle(*self._judge(None, permit))
            return result

        return guarded

    def _leave(self) -> Permit:
        """The permit of the `with` block that ends here.

        The block that was entered last in this context is the one that ends. A block that ends in another context than
        it began in (an asynchronous generator's, a test fixture's) finds none there; then the oldest one is as good,
        because permits of one breaker differ in nothing but their age.
        """
        found: Permit | None = None
        stack = _entered.get()
        kept: list[Permit] = []
        while stack is not None and found is None:
            permit, stack = stack
            if permit._breaker is self and permit in self._entered:
                found = permit
            else:
                kept.append(permit)
        if found is None:
            found = next(iter(self._entered))
        else:
            for permit in reversed(kept):
                stack = (permit, stack)
            _entered.set(stack)
        self._entered.pop(found, None)
        return found

    def _judge(self, error: BaseException | None, permit: Permit) -> tuple[Outcome, str, str]:
        """The outcome of plain code that ended with `error`, or without one; outside the lock."""
        if error is None:
            outcome, status, details = _SUCCESS, "", ""
        else:
            ours = isinstance(error, Exception) and not isinstance(error, CircuitOpenError)
            outcome = _FAILURE if ours else Outcome.IGNORED
            status, details = type(error).__name__, _words(error)
        if self._policy.classify is None:
            return outcome, status, details
        ended = EndedCall(
            method=permit.method,
            code=None,
            details=details,
            trailing_metadata=(),
            elapsed=permit.elapsed,
            timeout=None,
            error=error,
        )
        return classified(self._policy.classify, ended, outcome), status, details

    # ── Processes ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _after_fork(self) -> None:
        """Begin afresh in a forked child: the parent's threads, its lock and its calls are not here (rule 7)."""
        self._lock = threading.RLock()
        self._busy = self._delivering = False
        self._late.clear()
        self._outbox.clear()
        self._probes.clear()
        self._in_flight.clear()
        self._renew_gate()


def classified(classify: Callable[[EndedCall], Outcome | None], ended: EndedCall, outcome: Outcome) -> Outcome:
    """What a policy's `classify` makes of an ended call; `outcome` where it has no opinion.

    A classifier that raises or answers no `Outcome` makes the call a failure: a call that cannot be judged must not
    keep a breaker closed.
    """
    try:
        answer: Any = classify(ended)
    except Exception:  # noqa: BLE001 - a user's classifier must never break a user's call
        log_once(f"classifier {name_of(classify)} raised; the call counts as a failure")
        return _FAILURE
    if answer is None:
        return outcome
    if isinstance(answer, Outcome):
        return answer
    log_once(
        f"classifier {name_of(classify)} answered {type(answer).__name__}, not an Outcome or None; "
        "the call counts as a failure",
        exc_info=False,
    )
    return _FAILURE


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an error that cannot be printed is still an error
        return "(no words: its __str__ raised)"


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        message = f"CircuitBreaker name must be a string, got {name!r}"
        raise TypeError(message)
    if not name:
        message = "CircuitBreaker name must not be empty"
        raise ValueError(message)


def _check_policy(policy: object) -> None:
    if not isinstance(policy, BreakerPolicy):
        message = f"a policy must be a BreakerPolicy, got {policy!r}"
        raise TypeError(message)


def _check_clock(clock: object) -> float:
    now = clock() if callable(clock) else None
    if isinstance(now, bool) or not isinstance(now, int | float) or not math.isfinite(now):
        message = f"clock must be a callable that answers seconds, got {clock!r}" + (
            f" answering {now!r}" if callable(clock) else ""
        )
        raise TypeError(message)
    return now


_entered: ContextVar[Any] = ContextVar("grpc_breaker_entered", default=None)


class _Forkable(Protocol):
    def _after_fork(self) -> None: ...


_forkable: weakref.WeakSet[_Forkable] = weakref.WeakSet()


def reset_after_fork(instance: _Forkable) -> None:
    """Have `instance._after_fork()` called in each forked child, for as long as it lives."""
    _forkable.add(instance)


def _after_fork_in_child() -> None:
    for instance in tuple(_forkable):
        instance._after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
