"""Every small history of the breaker: all sequences of steps up to a depth, each state compared with the reference.

The steps are: a call comes; any outstanding call ends, with each outcome; a stream's first answer comes; the clock moves
past the next deadline of any kind, or stops just before it; each operator command, and in one scope each command for a
time. Histories that lead to the same state
are continued once. A state is everything that can influence what happens next.

    python -m tests.model.explore --depth 9
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

from grpc_breaker import BreakerPolicy, CircuitBreaker, Outcome, Permit
from grpc_breaker.testing import FakeClock
from tests.model.reference import Call, Reference, Rules

SCOPES = {
    "one probe, consecutive": Rules(consecutive_failures=2, half_open_max_calls=1, reset_timeout=5, probe_timeout=3),
    "two probes, back-off": Rules(
        consecutive_failures=1,
        half_open_max_calls=2,
        half_open_successes=2,
        reset_timeout=5,
        reset_timeout_multiplier=2.0,
        max_reset_timeout=15,
        probe_timeout=8,
    ),
    "rate in a count window": Rules(
        failure_rate=0.5, minimum_calls=2, window_calls=3, reset_timeout=5, probe_timeout=3
    ),
    "threshold in a time window": Rules(failure_threshold=2, window_seconds=10, reset_timeout=5, probe_timeout=3),
    "holds": Rules(consecutive_failures=1, half_open_max_calls=1, reset_timeout=5, probe_timeout=3),
    "slow": Rules(slow_call_duration=1.0, slow_call_rate=1.0, minimum_calls=2, reset_timeout=5, probe_timeout=3),
}
TIMEOUTS: dict[str, tuple[float | None, ...]] = {"one probe, consecutive": (None, 0.5)}
"""Seconds that calls have, where a scope has calls with deadlines, too."""

HELD: dict[str, float] = {"holds": 2.0}
"""Seconds for which operators order a state, where a scope has such orders, too."""

STREAMS = ("two probes, back-off",)
"""Scopes in which every call is a stream."""

MAX_OUTSTANDING = 3

Step = tuple[Any, ...]


@dataclass
class World:
    """The real breaker and the reference after one history."""

    rules: Rules
    timeouts: tuple[float | None, ...] = (None,)
    held: float | None = None
    streams: bool = False
    history: tuple[Step, ...] = ()
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        policy = BreakerPolicy(
            reset_timeout_jitter=0.0, **{**asdict(self.rules), "failure_rate": self.rules.failure_rate}
        )
        self.real = CircuitBreaker("real", policy, clock=self.clock)
        self.changes: list[Any] = []
        self.real.on_state_change(self.changes.append)
        self.model = Reference(copy.copy(self.rules))
        self.pairs: list[tuple[Permit, Call]] = []
        self.forgotten = 0

    def do(self, step: Step) -> None:
        """One step, on both sides; they must agree on what it did."""
        match step:
            case ("admit", timeout):
                answer = self.real.try_admit(timed=not self.streams, timeout=timeout)
                call = self.model.admit(timeout, timed=not self.streams)
                assert isinstance(answer, Permit) == (call is not None)
                if isinstance(answer, Permit) and call is not None:
                    self.pairs.append((answer, call))
            case ("settle", int(n), Outcome() as outcome):
                permit, call = self.pairs.pop(n)
                self.model.settle(call, str(outcome))
                if not permit.settle(outcome):  # a permit whose lease has ended may have been forgotten
                    assert self.model.expired(call)
                    self.forgotten += 1
                assert not permit.settle(outcome)
            case ("answer", int(n)):
                permit, call = self.pairs[n]
                self.model.answer(call)
                permit.answered()
            case ("wait", float(seconds)):
                self.clock.advance(seconds)
                self.model.wait(seconds)
            case ("operate", str(command), str(state), str(reason)):
                getattr(self.real, command)()
                self.model.command(state, reason)
            case ("hold", str(command), str(state), float(ttl)):
                getattr(self.real, command)(ttl=ttl)
                self.model.command(state, state, ttl)
        self.compare()

    def compare(self) -> None:
        """Everything that can be seen is the same; the invariants hold."""
        seen = self.real.snapshot()
        assert seen["state"] == self.model.state
        assert seen["totals"] == {**self.model.totals, "stale": self.model.totals["stale"] - self.forgotten}
        assert seen["in_flight"] == self.model.in_flight()
        assert seen["generation"] == self.model.generation
        assert seen["window"]["consecutive_failures"] == self.model.in_a_row
        if self.model.state == "open":
            assert seen["retry_after"] == max(0.0, self.model.open_until - self.model.now)
        if self.model.state != "half_open":
            assert tuple(seen["window"].values())[:3] == self.model.window()
        assert self.model.slots_taken() <= self.rules.half_open_max_calls
        assert [(c.sequence, c.previous, c.state, c.reason) for c in self.changes] == [
            (n, *change) for n, change in enumerate(self.model.changes, 1)
        ]

    def steps(self) -> Iterator[Step]:
        """What can happen next."""
        if len(self.pairs) < MAX_OUTSTANDING:
            for timeout in self.timeouts:
                yield ("admit", timeout)
        for n in range(len(self.pairs)):
            for outcome in Outcome:
                yield ("settle", n, outcome)
            if self.pairs[n][1].probe and not self.pairs[n][1].answered:
                yield ("answer", n)
        for deadline in sorted(self.deadlines()):
            yield ("wait", deadline - self.model.now)
            if deadline - self.model.now > 0.5:
                yield ("wait", deadline - self.model.now - 0.5)
        if self.model.state != "forced_open":
            yield ("operate", "force_open", "forced_open", "forced_open")
        if self.model.state != "disabled":
            yield ("operate", "disable", "disabled", "disabled")
        yield ("operate", "reset", "closed", "reset")
        if self.held is not None:
            yield ("hold", "force_open", "forced_open", self.held)
            yield ("hold", "disable", "disabled", self.held)

    def deadlines(self) -> set[float]:
        """Moments after now at which something ends."""
        model = self.model
        moments = {call.lease_end for _, call in self.pairs if math.isfinite(call.lease_end)}
        if model.state == "open":
            moments.add(model.open_until)
        if math.isfinite(model.held_until):
            moments.add(model.held_until)
        moments |= set(model.waiting) | {call.slot_end for _, call in self.pairs if call.probe}
        if model.results and self.rules.window_calls is None:
            moments.add(max(at for at, _, _ in model.results) + self.rules.window_seconds)
        if self.rules.slow_call_duration is not None:
            moments |= {call.started + self.rules.slow_call_duration + 0.5 for _, call in self.pairs}
        return {moment for moment in moments if moment > model.now}

    def key(self) -> Any:
        """All that matters for the future, with times counted from now."""
        model = self.model
        now = model.now
        width = self.rules.window_seconds / 10
        kept = model.results if self.rules.window_calls is None else model.results[-self.rules.window_calls :]
        return (
            model.state,
            max(model.open_until - now, 0.0),
            model.held_until - now,
            model.in_a_row,
            model.in_a_row > 0 and now - model.lengthened_at > model.rules.window_seconds,
            model.probes_won,
            model.reopened,
            model.hands_on_at > now,
            model.until_hand_on() if model.state == "half_open" else 0.0,
            now - model.half_open_since if model.state == "half_open" else 0.0,
            tuple(sorted(max(at - now, 0.0) for at in model.waiting)),
            (now - model.born) % width if kept else 0.0,
            tuple((at - now if self.rules.window_calls is None else 0, bad, slow) for at, bad, slow in kept),
            tuple(
                (
                    call.generation == model.generation,
                    call.probe,
                    call.answered,
                    call.given_up,
                    model.expired(call),
                    max(call.lease_end - now, 0.0),
                    max(call.slot_end - now, 0.0),
                    max(call.deadline_lease_end - now, 0.0),
                    min(now - call.started, 9.0) if self.rules.slow_call_duration is not None else 0.0,
                )
                for _, call in self.pairs
            ),
        )

    def after(self, step: Step) -> World:
        """The world one step later, made by living through it all again."""
        world = World(self.rules, self.timeouts, self.held, self.streams, (*self.history, step))
        for past in world.history:
            world.do(past)
        return world


def explore(scope: str, depth: int) -> tuple[int, int]:
    """Reach every state that `depth` steps can lead to; returns how many states and transitions there were."""
    return reach(World(SCOPES[scope], TIMEOUTS.get(scope, (None,)), HELD.get(scope), scope in STREAMS), depth)


class Explorable(Protocol):
    """What can be explored: a world after some history."""

    def steps(self) -> Iterable[Step]:
        """What can happen next."""
        ...

    def after(self, step: Step) -> Self:
        """The world one step later."""
        ...

    def key(self) -> Hashable:
        """All that matters for the future."""
        ...


def reach(start: Explorable, depth: int) -> tuple[int, int]:
    """Go everywhere from a world in so many steps; returns how many states and transitions there were."""
    seen = {start.key()}
    frontier = [start]
    transitions = 0
    for _ in range(depth):
        following: list[Explorable] = []
        for world in frontier:
            for step in world.steps():
                transitions += 1
                reached = world.after(step)
                key = reached.key()
                if key not in seen:
                    seen.add(key)
                    following.append(reached)
        frontier = following
    return len(seen), transitions


def main(about: str | None, scopes: Iterable[str], explore: Callable[[str, int], tuple[int, int]], depth: int) -> None:
    """Explore every scope, to `depth` if the command line names no other, and print how much that was."""
    arguments = argparse.ArgumentParser(description=about)
    arguments.add_argument("--depth", type=int, default=depth)
    depth = arguments.parse_args().depth
    for name in scopes:
        began = time.perf_counter()
        states, transitions = explore(name, depth)
        print(f"{name}: depth {depth}, {states} states, {transitions} transitions, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main(__doc__, SCOPES, explore, depth=8)
