"""The circuit breaker as its users see it: what it says of itself, operators, listeners, and plain code.

How it decides stands elsewhere: the rules in `generation.py`, the two steps of a call and the change of state in
`machine.py`.
"""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Callable
from random import random as uniform
from typing import Any, Final, NoReturn, ParamSpec, Self, TypeVar

from grpc_breaker._core.admission import Admission
from grpc_breaker._core.callables import check_clock, check_random
from grpc_breaker._core.counts import CallCounts, LabelledCounts
from grpc_breaker._core.errors import refusal_of
from grpc_breaker._core.events import Listeners, StateChange
from grpc_breaker._core.generation import HalfOpen
from grpc_breaker._core.holds import Hold, new_hold
from grpc_breaker._core.limits import Limits
from grpc_breaker._core.log import printable, warn
from grpc_breaker._core.machine import NOBODY, Machine
from grpc_breaker._core.method_policy import MethodPolicy
from grpc_breaker._core.operators import close, operate, put_in_force
from grpc_breaker._core.other_names import explain_in
from grpc_breaker._core.permit import Permit
from grpc_breaker._core.plain_code import guarded
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.recording import Recorders
from grpc_breaker._core.refusing import Rejection
from grpc_breaker._core.snapshot import snapshot_of
from grpc_breaker._core.state import Reason, State
from grpc_breaker._core.target import split_target

P = ParamSpec("P")
R = TypeVar("R")

_LONG_AGO: Final = -math.inf


class CircuitBreaker(Admission):
    """Refuses calls at once while what they call is failing, and finds out by itself when it works again.

    One object may be used from any number of threads and event loops at once; no method waits. Use it as a decorator of
    functions and coroutine functions, as a block, `with breaker.admit() as permit:` (or `async with`), or in two steps,
    `admit()` and `Permit.settle()`.

    In a block or a decorated function every `Exception` is a failure unless `policy.classify` says otherwise;
    `KeyboardInterrupt`, cancellation and the refusal of another breaker are always ignored. `policy.classify` also sees
    what a decorated function returned. Status codes are the interceptors' business: see `CircuitBreakerInterceptor`.
    """

    __slots__ = ()

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
            clock: Returns seconds that never run backwards, counted from any moment.
            random: Returns a number in [0, 1), for the jitter of the open period.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: An empty name.
        """
        _check_name(name)
        if policy is not None:
            _check_policy(policy)
        check_clock(clock)
        check_random(random)
        super().__init__(name, policy or BreakerPolicy(), clock, random, CallCounts())
        _breakers.add(self)

    @classmethod
    def _of_registry(
        cls,
        name: str,
        policy: MethodPolicy,
        clock: Callable[[], float],
        random: Callable[[], float],
        counts: CallCounts,
        changes: Listeners[StateChange],
        rejections: Listeners[Rejection],
        recorders: Recorders,
    ) -> Self:
        """A breaker that adds to its registry's counts and tells its listeners and recorders. Nothing is checked."""
        breaker = cls.__new__(cls)
        Machine.__init__(breaker, name, policy.breaker_policy, clock, random, counts, changes, rejections, recorders)
        breaker._limits = Limits.after(None, policy, 0.0)
        breaker._wanted = breaker._in_force = policy
        breaker._note_policy()
        _breakers.add(breaker)
        return breaker

    # ── What it is ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> State:
        """The state. An open breaker whose period is over is open until a call asks. Reading changes it only where the
        time is over for which an operator had forced it open or disabled it.
        """
        return self._after_hold().state

    @property
    def target(self) -> str:
        """The target whose calls it guards, as the interceptor was told it; empty without one."""
        return split_target(self.name)[1]

    @property
    def generation(self) -> int:
        """Goes up with every change of state and every `reset()`; results of calls from an earlier one are stale."""
        return self._latest().number

    @property
    def retry_after(self) -> float | None:
        """Seconds until a call may pass: 0 unless it is open, `None` when only an operator can end it."""
        return self._after_hold().refusing.retry_after(self._clock())

    @property
    def hold(self) -> Hold | None:
        """The order that keeps it forced open or disabled; `None` in other states."""
        return self._after_hold().hold

    @property
    def changes(self) -> tuple[StateChange, ...]:
        """The last ten changes of state, the oldest first: why it opened, after it has closed again."""
        return self._latest().history

    @property
    def in_flight(self) -> int:
        """Permits that are not settled, without those whose lease has ended."""
        return self._sweep(self._clock())

    @property
    def _evictable(self) -> bool:
        """Whether nothing is lost when a registry forgets it: closed, nothing in flight, as the registry made it."""
        if self.state is not State.CLOSED or self._reconfigured:
            return False
        if self._change_listeners or self._rejection_listeners:
            return False
        if self._in_flight and self._sweep(self._clock()):
            return False
        limits = self._limits
        return limits is None or limits.rate is None or limits.rate.is_idle(self._clock())

    def snapshot(self) -> dict[str, Any]:
        """Everything about this breaker at one moment, as plain data ready for JSON.

        What belongs to the state is of one moment. A call that ends meanwhile may be in the totals and not yet in it.
        """
        return snapshot_of(self)

    def tallies(self) -> dict[tuple[str, str], int]:
        """How many calls ended how since the beginning: {(outcome, status name): calls}.

        Refusals are among them, "rejected" (or "unenforced" where the call was made all the same), with the name of
        what refused the call in the place of a status.

        In a registry these are the counts of the breaker's label in telemetry: where there are more names than
        `max_breakers`, those that share the label `other` share its counts.
        """
        return self._counts.ended()

    def __repr__(self) -> str:
        generation, now = self._after_hold(), self._clock()
        if generation.state is State.OPEN:
            wait = generation.refusing.retry_after(now)
            story = f"{generation.refusing.condition}, next probe in {wait:.1f} s"
        elif isinstance(generation, HalfOpen):
            story = (
                f"{generation.successes} of {self._policy.probes_to_close} probes succeeded, "
                f"{generation.in_flight(now)} in flight"
            )
        else:
            calls, failures, _ = generation.held(now)
            story = f"{failures} of {calls} failed"
        return f"<CircuitBreaker {self.name!r} {generation.state}: {story}>"

    # ── Calls ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def admit(
        self, method: str = "", context: object = None, *, timed: bool = True, timeout: float | None = None
    ) -> Permit:
        """Ask to make a call.

        Args:
            method: The RPC method, for events.
            context: Anything; handed back with the event if this call changes the state.
            timed: Whether the time the call takes says how slow the server is; False for streams.
            timeout: Seconds the call has, from 0. The permit comes back 5 seconds after them, whatever became of the
                call. Default `None`: no deadline; the permit is out until it is settled.

        Returns:
            The permit, to be settled once; also a context manager that does so.

        Raises:
            CallRefusedError: The breaker refuses, or a limit that its policy has: see its subclasses.
        """
        permit = self.try_admit(method, context, timed, timeout)
        if isinstance(permit, Permit):
            return permit
        raise refusal_of(permit)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Guard every call of a function or coroutine function.

        Raises:
            TypeError: `function` is a generator function: calling one does nothing yet, so there is no result to
                count; guard the loop over it with `with breaker.admit():`.
        """
        return guarded(self, function)

    def __enter__(self) -> NoReturn:
        message = "a breaker is no context manager, its permit is: write 'with breaker.admit() as permit:'"
        raise TypeError(message)

    def __exit__(self, *error: object) -> None:
        """Never reached; Python asks for it before it calls `__enter__`."""

    async def __aenter__(self) -> NoReturn:
        message = "a breaker is no context manager, its permit is: write 'async with breaker.admit() as permit:'"
        raise TypeError(message)

    async def __aexit__(self, *error: object) -> None:
        """Never reached; Python asks for it before it calls `__aenter__`."""

    # ── Operators ─────────────────────────────────────────────────────────────────────────────────────────────────

    def force_open(self, *, ttl: float | None = None, reason: str = "") -> None:
        """Refuse every call until another order, or for a time; then it is closed, with an empty window.

        Where it is forced open already, the new order takes the place of the one before, without an event.

        Args:
            ttl: For how many seconds, from 0.000001. Default `None`: until `reset()` or `disable()`.
            reason: Why, at most 200 characters; the details of the event. Default: none.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: `ttl` is out of range, or `reason` too long.
        """
        order = new_hold("force_open", ttl, reason, self._clock())
        self._warn_if_unused(Reason.FORCED_OPEN)
        operate(self, State.FORCED_OPEN, order)

    def disable(self, *, ttl: float | None = None, reason: str = "") -> None:
        """Let every call pass, counted, until another order, or for a time; then it is closed, with an empty window.

        A throttle, which stands in the breaker's place, refuses none either; a bulkhead and a rate limit do.

        Args:
            ttl: As for `force_open`.
            reason: As for `force_open`.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: `ttl` is out of range, or `reason` too long.
        """
        order = new_hold("disable", ttl, reason, self._clock())
        self._warn_if_unused(Reason.DISABLED)
        operate(self, State.DISABLED, order)

    def reset(self) -> None:
        """Close it and forget what was counted, whatever the state.

        On a closed breaker this is no change of state and no event; it only empties the window, and results of calls
        already in flight are stale.
        """
        close(self)

    def reconfigure(self, policy: BreakerPolicy) -> None:
        """Put another policy in force, in place.

        The state, its open period and the calls in flight stay as they are. The window stays where its shape does
        (`window_seconds`, or `window_calls`); else it starts empty. The new conditions are judged from the next result.

        Raises:
            TypeError: `policy` is not a `BreakerPolicy`.
        """
        _check_policy(policy)
        self._reconfigured = True
        put_in_force(self, policy, self._clock())

    def _warn_if_unused(self, reason: Reason) -> None:
        if self._used == _LONG_AGO and not self._counts.rejected and self._registry_change_listeners is not NOBODY:
            warn("circuit breaker %s: %s, but no call has used this name yet", printable(self.name), reason)

    # ── Listeners ─────────────────────────────────────────────────────────────────────────────────────────────────

    def on_state_change(self, listener: Callable[[StateChange], object], *, key: object = None) -> Callable[[], None]:
        """Call `listener` after each change of state, in order, on the thread that caused it or on one that is
        delivering events already. One that raises is logged once.

        Args:
            listener: What to call.
            key: A name for the listener; while there is one of that name, another is not added. Default: no name.

        Returns:
            A function that ends it.

        Raises:
            TypeError: `listener` is not callable, or a coroutine or generator function.
        """
        return self._change_listeners.add(listener, key)

    def on_rejection(self, listener: Callable[[Rejection], object]) -> Callable[[], None]:
        """Call `listener` after each refusal, on the refused caller's thread. One that raises is logged once.

        Returns:
            A function that ends it.

        Raises:
            TypeError: `listener` is not callable, or a coroutine or generator function.
        """
        return self._rejection_listeners.add(listener)

    # ── Copies and processes ──────────────────────────────────────────────────────────────────────────────────────

    def __reduce__(self) -> NoReturn:
        message = "a circuit breaker cannot be copied or pickled: a copy would share a part of its state"
        raise TypeError(message)

    def _after_fork(self) -> None:  # pragma: no cover - runs in forked children, where coverage does not follow
        """Begin with nothing in flight and nothing counted in a forked child: those calls are the parent's."""
        generation = self._latest()
        self._in_flight.clear()
        self._counts.clear()
        if isinstance(generation, HalfOpen):
            generation.probes.clear()
        generation.event = None
        self._undelivered = generation


explain_in(CircuitBreaker)


def counts_of(breaker: CircuitBreaker) -> LabelledCounts | None:
    """What a breaker counts, by its name; `None` of a registry's, which has the counts of its labels itself."""
    if breaker._registry_change_listeners is not NOBODY:
        return None
    return LabelledCounts.of_one(breaker.name, breaker._counts)


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


_breakers: weakref.WeakSet[CircuitBreaker] = weakref.WeakSet()
"""Every breaker of the process, for forked children."""


def _after_fork_in_child() -> None:  # pragma: no cover - runs in forked children, where coverage does not follow
    for breaker in tuple(_breakers):
        breaker._after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
