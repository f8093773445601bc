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
    6.  What is to be done to the state is queued, and done by whoever has the lock (`_do`, `_work`). That is mostly the
        caller itself, at once. Two others leave it behind: a *visitor*, which is a signal handler or a finalizer that
        the garbage collector runs in the middle of our own critical section, on the same thread (the lock is
        re-entrant, and `_busy` tells); and a callback or a finalizer that would have to wait for another thread.
        Whoever has the lock looks at the queue once more after giving it back, so nothing is left lying. What needs an
        answer is not queued: a visitor that asks for a probe's slot is refused, and one that looks sees what there is.
    7.  A forked child has a fresh lock and nothing in flight; permits it inherited are ignored.
    8.  Admission takes the lock only where it has to decide something. All it needs stands in one `_Gate`, made
        anew by each change and read once, so what it sees is always of one piece. A permit keeps the gate it came
        through, and is stale when the breaker has another. A call that comes through a gate while it is being replaced
        is a call of the old generation: stale, never wrong.
    9.  Settling takes the lock unless it has nothing to decide: a success in a *calm* breaker. It is calm after a
        success, if no number of further ones can reach a rate: until the window forgets something they only lower it,
        but for the one that fills the window to `minimum_calls`. `_calm_until` says how long that holds, at most to the
        end of the window's current bucket. Such a success is one step of a counter. What makes it happen once is the
        set of the calls in flight: removing a permit from it succeeds for exactly one caller.

    The result of a call, by the state the breaker is in when it comes (same generation):

        state        success                     failure                    ignored
        closed       counted; may trip a rate    counted; may trip          gives back its place
        half_open    one nearer to closed        open again                 gives back its slot
        disabled     counted                     counted                    gives back its place

    `open` and `forced_open` admit nothing, so every result that meets them is stale.
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from itertools import count
from random import random as uniform
from typing import Any, Final, Protocol, TypeVar

from grpc_breaker._core.errors import CircuitOpenError
from grpc_breaker._core.events import (
    DETAILS_LENGTH,
    LAST_FAILURES,
    FailureReason,
    Listeners,
    Rejection,
    StateChange,
    tell,
)
from grpc_breaker._core.log import log_once
from grpc_breaker._core.one_step import OneStep
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.state import TRANSITIONS, Outcome, Reason, State
from grpc_breaker._core.window import Counts, CountWindow, TimeWindow, Window, steps

T = TypeVar("T")

# Looked up on every call: a module's name is cheaper than an attribute of an enum.
_CLOSED: Final = State.CLOSED
_OPEN: Final = State.OPEN
_HALF_OPEN: Final = State.HALF_OPEN
_DISABLED: Final = State.DISABLED
_SUCCESS: Final = Outcome.SUCCESS
_FAILURE: Final = Outcome.FAILURE
_IGNORED: Final = Outcome.IGNORED

_LONG_AGO: Final = -math.inf

_STALE: Final = "stale"
_REJECTED: Final = "rejected"
_TALLIED: Final = (*(str(outcome) for outcome in Outcome), _STALE)

_NO_TALLIES: Final[dict[tuple[str, str], int]] = {}
"""Of every breaker that has nothing to tally: each new entry makes a dictionary of its own."""

_MAX_TALLIES: Final = 100
"""Pairs of outcome and status counted by name; more can only come from free text, and count as "other"."""


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

    def retry_after(self, now: float) -> float | None:
        """Seconds until a call may pass; `None` when only an operator knows."""
        if self.state is State.FORCED_OPEN:
            return None
        return max(0.0, self.refuses_until - now)


_LOST: Final = _Gate(-1, _HALF_OPEN, Reason.RESET_TIMEOUT, _LONG_AGO, "")
"""The gate of a probe whose lease has ended: never the breaker's own, so the probe's result is stale."""

_SETTLED: Final = _Gate(-2, _HALF_OPEN, Reason.RESET_TIMEOUT, _LONG_AGO, "")
"""The gate of such a probe once its late result has come: that is counted once, too."""


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
        """Whether this permit has been settled, or given up because its lease has ended."""
        return self not in self._breaker._in_flight

    @property
    def generation(self) -> int:
        """The breaker's generation that it was admitted in; negative once its lease has ended."""
        return self._gate.generation

    @property
    def breaker(self) -> CircuitBreaker:
        """The breaker that admitted the call."""
        return self._breaker

    @property
    def policy(self) -> BreakerPolicy:
        """The policy of the breaker that admitted the call."""
        return self._breaker._policy

    @property
    def elapsed(self) -> float:
        """Seconds since the call was admitted, by the breaker's clock."""
        return self._breaker._clock() - self.started

    def settle(self, outcome: Outcome, status: str = "", details: str = "", *, blocking: bool = True) -> bool:
        """End the call.

        Args:
            outcome: What the call says about the server.
            status: The name of its status, or of its exception: counted by name, so from a small set.
            details: Words for a person; kept with failures, cut to 200 characters.
            blocking: Whether the result has been taken in when this returns. False: where another thread is at the
                breaker, microseconds, the result is left to it. For finalizers and callbacks, which must not wait.

        Returns:
            False when the permit had been settled before; the late result of a probe whose lease has ended is taken
            once, and counts as stale.

        Raises:
            ValueError: `outcome` is not an `Outcome`.
        """
        breaker = self._breaker
        now = self.started if outcome is _IGNORED else breaker._clock()  # giving back must not fail with the clock
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
            next(breaker._calm_successes)
            return True
        return breaker._settle(self, outcome, status, details, now, blocking)

    def success(self) -> bool:
        """Settle as a success."""
        return self.settle(_SUCCESS, "OK")

    def failure(self, status: str = "", details: str = "") -> bool:
        """Settle as a failure."""
        return self.settle(_FAILURE, status, details)

    def ignore(self) -> bool:
        """Settle as having learned nothing about the server."""
        return self.settle(_IGNORED)

    @property
    def is_probe(self) -> bool:
        """Whether this call holds one of the slots of a half-open breaker."""
        gate = self._gate
        return not gate.passes and gate is self._breaker._gate and self in self._breaker._probes

    def answered(self) -> None:
        """Say that the first answer of a stream has come.

        For a probe this is its success and frees its slot, so that a stream that lives for hours cannot hold the
        breaker half-open. A failing end that comes while the breaker is still half-open counts after all. Outside
        half-open this does nothing.
        """
        breaker = self._breaker
        if self.is_probe:
            breaker._do(breaker._answer, self, breaker._clock())


class CircuitBreaker(OneStep):
    """Stops calls to what is failing, answers at once instead, and finds out by itself when it works again.

    One object may be used from any number of threads and event loops at once; no method waits. Use it as a context
    manager (`with` or `async with`), as a decorator of functions and coroutine functions, or in two steps, `admit()`
    and `Permit.settle()`.

    In a `with` block or a decorated function every `Exception` is a failure unless `policy.classify` says otherwise;
    `KeyboardInterrupt`, cancellation and the refusal of another breaker are always ignored. Status codes are the
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
        "_reconfigured",
        "_rejected",
        "_rejected_taken",
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
        super().__init__()
        self._lock = threading.RLock()
        self._busy = False
        self._gate = _Gate(0, _CLOSED, Reason.RESET, _LONG_AGO, self._policy.refusal_code)
        self._sequence = 0
        self._reopenings = 0
        self._in_flight: set[Permit] = set()
        self._calm_until = _LONG_AGO
        self._calm_successes = count()  # the steps of an iterator are indivisible, `+=` is not
        self._succeeded = 0  # under the lock; the calm ones are counted apart
        self._consecutive_failures = 0
        self._last_failures: tuple[FailureReason, ...] = ()
        self._probes: dict[Permit, float] = {}
        self._probe_successes = self._probe_failures = self._probe_slow = 0
        self._rejected = count()
        self._rejected_taken = 0
        self._tallies = _NO_TALLIES
        self._late: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._outbox: list[StateChange] = []
        self._delivering: dict[str, object] = {}
        self._reconfigured = False
        self._change_listeners: tuple[Listeners[StateChange], ...] = (Listeners(),)
        self._rejection_listeners: tuple[Listeners[Rejection], ...] = (Listeners(),)
        self._used = _check_clock(clock)
        _check_random(random)
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
        return self._gate.retry_after(self._clock())

    @property
    def in_flight(self) -> int:
        """Permits handed out and not settled, lost probes excepted."""
        self._tidy()
        return len(self._in_flight)

    @property
    def in_use(self) -> bool:
        """Whether a call is in flight, lost probes excepted. Only looks: no lock, no listener is told anything."""
        now = self._clock()
        return any(self._probes.get(permit, math.inf) > now for permit in self._in_flight.copy())

    @property
    def in_hand(self) -> bool:
        """Whether somebody has given it a policy or a listener of its own."""
        own = (self._change_listeners[0], self._rejection_listeners[0])
        return self._reconfigured or any(own)

    def snapshot(self) -> dict[str, Any]:
        """Everything about this breaker at one moment, as plain data ready for JSON."""
        self._tidy()
        return self._look(self._picture)

    def _picture(self) -> dict[str, Any]:
        now = self._clock()
        gate = self._gate
        totals = dict.fromkeys((*_TALLIED, _REJECTED), 0)
        for (outcome, _), calls in self._tally().items():
            totals[outcome] += calls
        return {
            "name": self.name,
            "state": str(gate.state),
            "retry_after": gate.retry_after(now),
            "reason": None if gate.passes else str(gate.reason),
            "in_flight": len(self._in_flight),
            "generation": gate.generation,
            "sequence": self._sequence,
            "window": {**self._counts(now)._asdict(), "consecutive_failures": self._consecutive_failures},
            "totals": totals,
            "last_failures": [{"status": reason.status, "details": reason.details} for reason in self._last_failures],
            "policy": self._policy.as_dict(),
        }

    def tallies(self) -> dict[tuple[str, str], int]:
        """How many calls ended how since the beginning: {(outcome, status name): calls}, refusals included."""
        return self._look(self._tally)

    def _tally(self) -> dict[tuple[str, str], int]:
        return self._tally_with(steps(self._calm_successes), steps(self._rejected))

    def _tally_with(self, calm_successes: int, rejected: int) -> dict[tuple[str, str], int]:
        counted = {
            (str(_SUCCESS), "OK"): calm_successes + self._succeeded,
            **self._tallies,
            (_REJECTED, ""): rejected - self._rejected_taken,
        }
        return {key: calls for key, calls in counted.items() if calls}

    def _take_tallies(self) -> dict[tuple[str, str], int]:
        """The tallies, which begin again at zero: a registry that forgets the breaker keeps them."""

        def take() -> dict[tuple[str, str], int]:
            calm_successes, rejected = steps(self._calm_successes), steps(self._rejected)  # once: they go on counting
            taken = self._tally_with(calm_successes, rejected)
            self._succeeded, self._rejected_taken = -calm_successes, rejected
            self._tallies = _NO_TALLIES
            return taken

        return self._look(take)

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r} {self._look(self._story)}>"

    def _story(self) -> str:
        now = self._clock()
        state = self._gate.state
        if state is _OPEN:
            return f"{state}: {self._gate.reason}, next probe in {self._gate.retry_after(now):.1f} s"
        if state is _HALF_OPEN:
            return (
                f"{state}: {self._probe_successes} of {self._policy.probes_to_close} probes succeeded, "
                f"{self._slots_taken()} in flight"
            )
        counts = self._counts(now)
        return f"{state}: {counts.failures} of {counts.calls} failed"

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
        next(self._rejected)
        probes = self._slots_taken() if gate.state is _HALF_OPEN else 0
        rejection = Rejection(self.name, method, gate, now, probes, context)
        for listeners in self._rejection_listeners:
            if listeners:
                tell(self._rejection_listeners, rejection)
                break
        return rejection

    def _admit_probe(self, now: float, method: str, context: object, timed: bool) -> Permit | _Gate:
        """Admission where it takes the lock to decide; a gate refuses."""
        with self._lock:
            if self._busy:
                return self._gate  # a visitor (rule 6)
            self._busy = True
            try:
                self._take_up_late()
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
        try:
            self._finish()
        except BaseException:  # Ctrl-C in a listener: the caller will never hear of its permit
            if isinstance(answer, Permit):
                answer.ignore()
            raise
        return answer

    def _settle(self, permit: Permit, outcome: Outcome, status: str, details: str, now: float, blocking: bool) -> bool:
        """Settle a permit where there is something to decide."""
        if outcome.__class__ is not Outcome:
            outcome = Outcome(outcome)  # an error here changes nothing
        if status.__class__ is not str or details.__class__ is not str:
            status, details = str(status), str(details)
        try:
            self._in_flight.remove(permit)
        except KeyError:
            lost = permit._gate is _LOST
            if lost:
                self._do(self._end_lost, permit, status, blocking=blocking)
            return lost
        self._do(self._end, permit, outcome, status, details, now, blocking=blocking)
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
            self._count(outcome, status)
            self._consecutive_failures += 1
            reason = FailureReason(status, details[:DETAILS_LENGTH])
            self._last_failures = (*self._last_failures[1 - LAST_FAILURES :], reason)
        else:
            self._count(outcome, status)
            return
        failed = outcome is _FAILURE
        slow = permit.timed and now - permit.started > self._slow_after
        if self._gate.state is _HALF_OPEN:
            self._judge_probe(permit, held_slot, failed, slow, now, status, details)
        else:
            self._judge_window(permit, failed, slow, now, status, details)

    def _end_lost(self, permit: Permit, status: str) -> None:
        """Take in the late result of a probe whose lease has ended. Under the lock."""
        if permit._gate is _LOST:
            permit._gate = _SETTLED
            self._count(_STALE, status)

    def _judge_window(self, permit: Permit, failed: bool, slow: bool, now: float, status: str, details: str) -> None:
        """Count a result in the window, and open if a trip condition holds now. Under the lock."""
        self._calm_until = _LONG_AGO
        counts = self._window.record(now, failed, slow)
        reason = self._tripped(counts) if self._gate.state is _CLOSED else None
        if reason is not None:
            self._change(_OPEN, reason, now, permit.method, permit.context, status, details)
        elif not failed and self._successes_are_harmless(counts):
            self._calm_until = self._window.calm_until

    def _judge_probe(
        self, probe: Permit, held_slot: bool, failed: bool, slow: bool, now: float, status: str, details: str
    ) -> None:
        """Judge the result of a probe. Under the lock."""
        if failed or slow:
            self._probe_failures, self._probe_slow = int(failed), int(slow)
            reason = Reason.PROBE_FAILED if failed else Reason.PROBE_SLOW
            self._change(_OPEN, reason, now, probe.method, probe.context, status, details)
        elif held_slot:  # else its first answer has been counted already
            self._probe_succeeded(probe, now, status)

    def _probe_succeeded(self, probe: Permit, now: float, status: str) -> None:
        self._probe_successes += 1
        if self._probe_successes >= self._policy.probes_to_close:
            self._change(_CLOSED, Reason.PROBES_SUCCEEDED, now, probe.method, probe.context, status)

    def _answer(self, probe: Permit, now: float) -> None:
        """Take in the first answer of a stream. Under the lock."""
        if probe._gate is self._gate and self._probes.pop(probe, None) is not None:
            self._probe_succeeded(probe, now, "")

    def _end_leases(self, now: float) -> None:
        """Give up the probes not heard of for `probe_timeout`. Under the lock."""
        for probe in [probe for probe, until in self._probes.items() if until <= now]:
            del self._probes[probe]
            probe._gate = _LOST  # first: from the moment it is not in flight, its late result may come
            try:
                self._in_flight.remove(probe)
            except KeyError:
                probe._gate = _SETTLED  # its result is on its way

    def _slots_taken(self) -> int:
        """Probes in flight. Those of an earlier half-open period keep their lease but hold no slot."""
        return sum(probe._gate is self._gate for probe in self._probes.copy())

    def _tidy(self) -> None:
        """Bring the books up to date before they are read: end leases."""
        self._do(self._end_leases, self._clock())

    # ── The lock ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _do(self, act: Callable[..., None], *args: Any, blocking: bool = True) -> None:
        """Do something to the state, or leave it to whoever is at it (rule 6)."""
        self._late.append((act, args))
        self._work(blocking=blocking)

    def _work(self, *, blocking: bool) -> None:
        """Do what there is to do."""
        lock = self._lock
        while True:
            if blocking:
                with lock:  # unlike `acquire`, raises nothing of a signal handler's once it has the lock
                    ours = self._take_up()
            elif lock.acquire(blocking=False):
                try:
                    ours = self._take_up()
                finally:
                    lock.release()
            else:
                break
            if not ours:
                return
            if not self._late:
                break
        if self._outbox:
            self._deliver()

    def _take_up(self) -> bool:
        """Do what was left; answers whether it was ours to do. Under the lock."""
        if self._busy:
            return False  # a visitor: what it interrupted goes on with this
        self._busy = True
        try:
            self._take_up_late()
        finally:
            self._busy = False
        return True

    def _take_up_late(self) -> None:
        """Do what was left to whoever has the lock. Under the lock."""
        while self._late:
            act, args = self._late.pop(0)
            act(*args)

    def _look(self, look: Callable[[], T]) -> T:
        """Read what is of one moment, with visitors kept out; a visitor itself sees what there is."""
        with self._lock:
            busy, self._busy = self._busy, True
            try:
                seen = look()
            finally:
                self._busy = busy
        self._finish()
        return seen

    def _finish(self) -> None:
        """After giving the lock back: see to what came meanwhile."""
        if self._late:
            self._work(blocking=False)
        elif self._outbox:
            self._deliver()

    # ── The machine ───────────────────────────────────────────────────────────────────────────────────────────────

    def _tripped(self, counts: Counts) -> Reason | None:
        """Which trip condition holds, if any. Under the lock."""
        policy = self._policy
        calls, failures, slow = counts
        if policy.failure_threshold is not None and failures >= policy.failure_threshold:
            return Reason.FAILURE_THRESHOLD
        if policy.consecutive_failures is not None and self._consecutive_failures >= policy.consecutive_failures:
            return Reason.CONSECUTIVE_FAILURES
        if calls >= policy.minimum_calls:
            if policy.failure_rate is not None and failures / calls >= policy.failure_rate:
                return Reason.FAILURE_RATE
            if policy.slow_call_rate is not None and slow / calls >= policy.slow_call_rate:
                return Reason.SLOW_CALL_RATE
        return None

    def _successes_are_harmless(self, counts: Counts) -> bool:
        """Whether no number of further successes in this bucket can trip anything (rule 9). Under the lock."""
        policy = self._policy
        calls = max(counts.calls, policy.minimum_calls)
        return (policy.failure_rate is None or counts.failures / calls < policy.failure_rate) and (
            policy.slow_call_rate is None or counts.slow / calls < policy.slow_call_rate
        )

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
        refuses_until = _LONG_AGO
        opened_by = self._gate.reason
        if state is _OPEN:
            refuses_until, opened_by = now + self._open_period(previous), reason
        elif state is State.FORCED_OPEN:
            refuses_until, opened_by = math.inf, reason
        self._gate = _Gate(self._gate.generation + 1, state, opened_by, refuses_until, self._policy.refusal_code)
        self._calm_until = _LONG_AGO
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
            retry_after=self._gate.retry_after(now),
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
        self._calm_until = _LONG_AGO
        self._window = self._new_window(now)
        self._consecutive_failures = 0
        self._last_failures = ()

    def _open_period(self, previous: State) -> float:
        """How long the breaker stays open this time, in seconds."""
        policy = self._policy
        period = policy.reset_timeout
        if previous is _HALF_OPEN and policy.reset_timeout_multiplier > 1.0:
            # As logarithms, because a multiplier to the power of many failed probes is more than a float can hold.
            growth = self._reopenings * math.log(policy.reset_timeout_multiplier)
            room = math.log(policy.max_reset_timeout / period)
            period = policy.max_reset_timeout if growth >= room else period * math.exp(growth)
        return period * (1.0 + policy.reset_timeout_jitter * self._chance())

    def _chance(self) -> float:
        """A number in [0, 1), whatever the source of chance answers: without one the breaker must open all the same."""
        try:
            chance = float(self._random())
        except Exception:  # noqa: BLE001 - a user's function
            chance = math.nan
        if 0.0 <= chance < 1.0:
            return chance
        log_once(f"{self.name}: random must answer a number in [0, 1); there is no jitter", exc_info=False)
        return 0.0

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
        return TimeWindow(self._policy.window_seconds, now, self._calm_successes)

    def _slow_limit(self) -> float:
        return math.inf if self._policy.slow_call_duration is None else self._policy.slow_call_duration

    def _count_success(self, status: str) -> None:
        if status in {"", "OK"}:
            self._succeeded += 1
        else:
            self._count(_SUCCESS, status)

    def _count(self, outcome: str, status: str) -> None:
        key = (str(outcome), status)
        tallies = self._tallies
        if key not in tallies and len(tallies) >= _MAX_TALLIES:
            key = (key[0], "other")
        if key not in tallies:
            tallies = self._tallies = {**tallies, key: 0}
        tallies[key] += 1

    # ── Operators ─────────────────────────────────────────────────────────────────────────────────────────────────

    def force_open(self) -> None:
        """Refuse every call until `reset()` or `disable()`. Does nothing when it is forced open already."""
        self._do(self._obey, State.FORCED_OPEN, Reason.FORCED_OPEN, self._clock())

    def disable(self) -> None:
        """Let every call pass, counted, until `reset()` or `force_open()`. Does nothing when it is disabled already."""
        self._do(self._obey, _DISABLED, Reason.DISABLED, self._clock())

    def reset(self) -> None:
        """Close it and forget what was counted, whatever the state.

        On a closed breaker this is no change of state and no event; it only empties the window, and results of calls
        already in flight are stale.
        """
        self._do(self._obey, _CLOSED, Reason.RESET, self._clock())

    def reconfigure(self, policy: BreakerPolicy) -> None:
        """Put another policy in force, in place.

        The state, its open period and the calls in flight stay as they are. The window stays where its shape does
        (`window_seconds`, or `window_calls`); else it starts empty. The new conditions are judged from the next result.

        Raises:
            TypeError: `policy` is not a `BreakerPolicy`.
        """
        _check_policy(policy)
        self._do(self._adopt, policy, self._clock())

    def _adopt(self, policy: BreakerPolicy, now: float) -> None:
        """Put a policy in force. Under the lock."""
        old, self._policy = self._policy, policy
        self._reconfigured = True
        self._gate.code = policy.refusal_code
        self._slow_after = self._slow_limit()
        self._calm_until = _LONG_AGO
        if policy.window_calls != old.window_calls or (
            policy.window_calls is None and policy.window_seconds != old.window_seconds
        ):
            self._window = self._new_window(now)

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
            TypeError: `listener` is not callable, or a coroutine or generator function.
        """
        return self._change_listeners[0].add(listener)

    def on_rejection(self, listener: Callable[[Rejection], object]) -> Callable[[], None]:
        """Call `listener` after each refusal, outside the lock, on the refused caller's thread. One that raises is
        logged once.

        Returns:
            A function that ends it.

        Raises:
            TypeError: `listener` is not callable, or a coroutine or generator function.
        """
        return self._rejection_listeners[0].add(listener)

    def _also_tell(self, changes: Listeners[StateChange], rejections: Listeners[Rejection]) -> None:
        """Tell a registry's listeners, too."""
        self._change_listeners = (*self._change_listeners, changes)
        self._rejection_listeners = (*self._rejection_listeners, rejections)

    def _deliver(self) -> None:
        """Tell the listeners of the changes so far, in order, one thread at a time, without the lock (rule 5)."""
        ours = object()
        while self._outbox:
            try:  # begins before the claim, so that whatever a signal handler raises gives it back
                if self._delivering.setdefault("by", ours) is not ours:
                    return
                while self._outbox:
                    event = self._outbox.pop(0)
                    tell(self._change_listeners, event)
            finally:
                if self._delivering.get("by") is ours:  # pragma: no branch - else this returns
                    self._delivering.clear()

    # ── Processes ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _after_fork(self) -> None:
        """Begin afresh in a forked child: the parent's threads, its lock and its calls are not here (rule 7)."""
        self._lock = threading.RLock()
        self._delivering.clear()
        self._busy = False
        self._late.clear()
        self._outbox.clear()
        self._probes.clear()
        self._in_flight.clear()
        self._renew_gate()


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


def _check_random(random: object) -> None:
    chance = random() if callable(random) else None
    if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance < 1:
        message = f"random must be a callable that answers a number in [0, 1), got {random!r}" + (
            f" answering {chance!r}" if callable(random) else ""
        )
        raise TypeError(message)


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
