"""`CircuitBreaker`: what its reference test cannot say. The machine itself is held to a reference in `tests/model`."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import logging
import os
import pickle
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import count
from typing import Any
from unittest.mock import Mock

import pytest

from grpc_breaker import (
    BreakerPolicy,
    CircuitBreaker,
    CircuitOpenError,
    EndedCall,
    Outcome,
    Permit,
    Reason,
    Rejection,
    State,
)
from grpc_breaker._core import breaker as breaker_module
from grpc_breaker._core import one_step
from grpc_breaker._core.breaker import _after_fork_in_child as after_fork_in_child
from grpc_breaker._core.state import TRANSITIONS
from grpc_breaker._core.window import steps
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.support.lines import visit_at


@pytest.fixture
def clock() -> FakeClock:
    """The breaker's clock."""
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> CircuitBreaker:
    """Two failures in a row open it for ten seconds."""
    policy = BreakerPolicy(consecutive_failures=2, reset_timeout=10, reset_timeout_jitter=0, half_open_max_calls=1)
    return CircuitBreaker("prices", policy, clock=clock)


def trip(breaker: CircuitBreaker) -> None:
    """Open it."""
    for n in range(2):
        breaker.admit("pkg.S/M", f"context {n}").failure("UNAVAILABLE", f"details {n}")


# ── Calm ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def end_calls(breaker: CircuitBreaker, clock: FakeClock, results: str) -> None:
    """End calls by letter: f fails, s succeeds, l succeeds late."""
    for result in results:
        permit = breaker.admit()
        clock.advance(0.0 if result != "l" else 0.5)
        assert permit.settle(Outcome.FAILURE if result == "f" else Outcome.SUCCESS, "OK" if result != "f" else "")


@pytest.mark.parametrize("results", ["s", "fs", "ffsfs", "ls", "fffss"])
def test_success_that_can_change_nothing_takes_no_lock(results: str, clock: FakeClock) -> None:
    """Failed and slow calls in the window cost the successes after them nothing while none of those can open it."""
    policy = BreakerPolicy(minimum_calls=10, consecutive_failures=4, slow_call_duration=0.1)
    breaker = CircuitBreaker("calm", policy, clock=clock)
    end_calls(breaker, clock, results)
    lock, breaker._lock = breaker._lock, None  # type: ignore[assignment] - whoever wants it now fails
    end_calls(breaker, clock, "ss")
    breaker._lock = lock
    assert breaker.snapshot()["window"]["calls"] == len(results) + 2


@pytest.mark.parametrize(("results", "reason"), [("ffss", "failure_rate"), ("llss", "slow_call_rate")])
def test_success_that_fills_the_window_can_open_it(results: str, reason: str, clock: FakeClock) -> None:
    """The success that brings the window to `minimum_calls` makes the rate count, though it lowers it."""
    policy = BreakerPolicy(minimum_calls=4, consecutive_failures=None, slow_call_duration=0.1)
    breaker = CircuitBreaker("calm", policy, clock=clock)
    events = EventRecorder(breaker)
    end_calls(breaker, clock, results)
    assert [change.reason for change in events.changes] == [reason]


def test_new_conditions_hold_for_the_next_result(clock: FakeClock) -> None:
    """A policy put in force while the breaker is calm is judged from the next result."""
    breaker = CircuitBreaker("calm", BreakerPolicy(minimum_calls=10), clock=clock)
    end_calls(breaker, clock, "fs")
    breaker.reconfigure(BreakerPolicy(failure_threshold=1))
    end_calls(breaker, clock, "s")
    assert breaker.state is State.OPEN


# ── What it says ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_repr_tells_the_story(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """The repr says the state, and what matters in it."""
    assert repr(breaker) == "<CircuitBreaker 'prices' closed: 0 of 0 failed>"
    breaker.admit().failure()
    assert repr(breaker) == "<CircuitBreaker 'prices' closed: 1 of 1 failed>"
    breaker.admit().failure()
    assert repr(breaker) == "<CircuitBreaker 'prices' open: consecutive_failures, next probe in 10.0 s>"
    clock.advance(10)
    breaker.admit()
    assert repr(breaker) == "<CircuitBreaker 'prices' half_open: 0 of 1 probes succeeded, 1 in flight>"


def test_snapshot_is_ready_for_json(breaker: CircuitBreaker) -> None:
    """A snapshot is plain data: state, counts, seconds, policy, and the last reasons."""
    trip(breaker)
    plain = json.loads(json.dumps(breaker.snapshot()))
    assert plain.pop("policy")["consecutive_failures"] == 2
    assert plain == {
        "name": "prices",
        "state": "open",
        "retry_after": 10.0,
        "reason": "consecutive_failures",
        "in_flight": 0,
        "generation": 1,
        "sequence": 1,
        "window": {"calls": 2, "failures": 2, "slow": 0, "consecutive_failures": 2},
        "totals": {"success": 0, "failure": 2, "ignored": 0, "rejected": 0, "stale": 0},
        "last_failures": [
            {"status": "UNAVAILABLE", "details": "details 0"},
            {"status": "UNAVAILABLE", "details": "details 1"},
        ],
    }


def test_event_carries_the_causing_call(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """The event of an opening names the call that caused it, its context, and the failures before it."""
    clock.advance(3)
    events = EventRecorder(breaker)
    trip(breaker)
    (change,) = events.changes
    assert (change.sequence, change.breaker, change.method) == (1, "prices", "pkg.S/M")
    assert (change.previous, change.state, change.reason) == ("closed", "open", "consecutive_failures")
    assert (change.calls, change.failures, change.slow, change.retry_after) == (2, 2, 0, 10.0)
    assert (change.status, change.details, change.context, change.at) == ("UNAVAILABLE", "details 1", "context 1", 3.0)
    assert [reason.details for reason in change.last_failures] == ["details 0", "details 1"]


def test_last_five_failures_cut_to_length() -> None:
    """Five reasons go with an event, each cut to 200 characters."""
    breaker = CircuitBreaker("test", BreakerPolicy(consecutive_failures=7), clock=FakeClock())
    events = EventRecorder(breaker)
    for n in range(7):
        breaker.admit().failure("INTERNAL", str(n) * 1000)
    reasons = events.changes[0].last_failures
    assert [reason.details for reason in reasons] == [str(n) * 200 for n in range(2, 7)]
    assert events.changes[0].details == "6" * 200


def test_refusal_says_everything(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A refusal carries method, breaker, state, seconds and reason, as attributes and in words; each is a new one."""
    trip(breaker)
    clock.advance(2.5)
    errors = []
    for _ in range(2):
        with pytest.raises(CircuitOpenError) as refused:
            breaker.admit("pkg.S/M")
        errors.append(refused.value)
    error = errors[0]
    assert error is not errors[1]
    assert (error.method, error.breaker, error.state) == ("pkg.S/M", "prices", State.OPEN)
    assert (error.retry_after, error.reason, error.code()) == (7.5, Reason.CONSECUTIVE_FAILURES, None)
    assert str(error) == error.details() == "circuit breaker open for pkg.S/M; next probe in 7.5 s"
    again = pickle.loads(pickle.dumps(error))
    assert (again.details(), again.reason) == (error.details(), error.reason)


def test_refusal_when_half_open_or_forced(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """Half-open, a slot may be free at any moment: 0. Forced open, nobody knows: None."""
    trip(breaker)
    clock.advance(10)
    probe = breaker.admit()
    rejection = breaker.try_admit()
    assert isinstance(rejection, Rejection)
    assert (rejection.retry_after, rejection.details) == (
        0.0,
        "circuit breaker half_open for prices; 1 probe in flight",
    )
    assert rejection.reason == "consecutive_failures"
    events = EventRecorder(breaker)
    breaker.force_open()
    assert (events.changes[0].method, type(events.changes[0].time)) == ("", float)
    assert breaker.retry_after is None
    rejection = breaker.try_admit("", "its context")
    assert isinstance(rejection, Rejection)
    assert rejection.context == "its context"
    assert (rejection.retry_after, rejection.reason, rejection.code) == (None, "forced_open", "UNAVAILABLE")
    assert repr(rejection) == "<Rejection: circuit breaker forced_open for prices; until an operator resets it>"
    assert probe.success()
    assert breaker.state is State.FORCED_OPEN


def test_reading_changes_nothing(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """An open breaker whose period is over is open until a call asks, however often it is looked at."""
    trip(breaker)
    clock.advance(1000)
    assert (breaker.state, breaker.retry_after, breaker.snapshot()["state"]) == (State.OPEN, 0.0, "open")
    assert breaker.generation == 1
    assert breaker.policy.reset_timeout == 10


@pytest.mark.parametrize(("drawn", "period"), [(0.0, 10.0), (0.5, 15.0), (0.999, 19.99)])
def test_jitter_makes_the_open_period_longer(drawn: float, period: float) -> None:
    """The open period is drawn from [t, t * (1 + jitter)]."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=10, reset_timeout_jitter=1)
    breaker = CircuitBreaker("test", policy, clock=FakeClock(), random=lambda: drawn)
    breaker.admit().failure()
    assert breaker.retry_after == pytest.approx(period)


@pytest.mark.parametrize(
    ("first", "multiplier", "longest", "begin"), [(1, 10, 50, (1, 10, 50, 50)), (2, 2, 20, (2, 4, 8, 16, 20))]
)
def test_back_off_has_an_end(
    first: float, multiplier: float, longest: float, begin: tuple[float, ...], clock: FakeClock
) -> None:
    """The open period grows by the multiplier up to its maximum, however often probes fail; a close forgets it."""
    policy = BreakerPolicy(
        consecutive_failures=1,
        reset_timeout=first,
        reset_timeout_multiplier=multiplier,
        max_reset_timeout=longest,
        reset_timeout_jitter=0,
        half_open_max_calls=1,
    )
    breaker = CircuitBreaker("test", policy, clock=clock)
    periods = []
    for _ in range(1000):
        breaker.admit().failure()
        periods.append(breaker.retry_after)
        clock.advance(longest)
    assert periods[: len(begin)] == [pytest.approx(it) for it in begin]
    assert set(periods[len(begin) - 1 :]) == {longest}
    breaker.admit().success()
    breaker.admit().failure()
    assert breaker.retry_after == first


def test_statuses_are_counted_by_name_in_bounds(breaker: CircuitBreaker) -> None:
    """What calls ended with is counted by name; free text beyond a hundred names counts as other."""
    breaker.admit().settle(Outcome.SUCCESS, "NOT_FOUND")
    for n in range(107):
        breaker.admit().settle(Outcome.IGNORED, f"text {n}")
    breaker.admit().success()
    tallies = breaker.tallies()
    assert tallies["ignored", "other"] == 8
    assert (tallies["success", "NOT_FOUND"], tallies["success", "OK"]) == (1, 1)
    assert breaker.snapshot()["totals"]["success"] == 2


def test_untimed_calls_are_never_slow(clock: FakeClock) -> None:
    """A stream's length is not slowness."""
    policy = BreakerPolicy(slow_call_duration=1, slow_call_rate=0.5, minimum_calls=1)
    breaker = CircuitBreaker("test", policy, clock=clock)
    permit = breaker.admit(timed=False)
    clock.advance(100)
    permit.success()
    assert breaker.state is State.CLOSED
    permit = breaker.admit()
    clock.advance(2)
    assert permit.elapsed == 2.0
    permit.success()
    assert breaker.snapshot()["reason"] == "slow_call_rate"


def test_permit_knows_itself(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A permit knows its policy, whether it is a probe, and whether it is settled."""
    permit = breaker.admit()
    assert (permit.settled, permit.is_probe, permit.policy) == (False, False, breaker.policy)
    assert permit.ignore()
    assert permit.settled
    assert not permit.failure()
    trip(breaker)
    clock.advance(10)
    probe = breaker.admit()
    assert probe.is_probe
    clock.advance(30)
    assert breaker.in_flight == 0
    assert (probe.settled, probe.is_probe) == (True, False)
    assert probe.success()
    assert not probe.success()
    assert breaker.snapshot()["totals"]["stale"] == 1


# ── Bad input ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": 7}, "name must be a string, got 7"),
        ({"name": ""}, "^CircuitBreaker name must not be empty$"),
        ({"policy": {"reset_timeout": 5}}, "a policy must be a BreakerPolicy"),
        ({"clock": 5}, "^clock must be a callable that answers seconds, got 5$"),
        ({"clock": lambda: "noon"}, "answering 'noon'$"),
        ({"random": 5}, r"^random must be a callable that answers a number in \[0, 1\), got 5$"),
        ({"clock": lambda: float("nan")}, "answering nan"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    """A breaker made wrong is an error at once."""
    with pytest.raises((TypeError, ValueError)) as wrong:
        CircuitBreaker(**{"name": "test", **arguments})
    assert re.search(words, str(wrong.value))


def test_illegal_transition_is_our_bug(breaker: CircuitBreaker) -> None:
    """A change that is not in the table is refused, and nothing has changed."""
    with pytest.raises(RuntimeError, match="no transition from closed to half_open"):
        breaker._change(State.HALF_OPEN, Reason.RESET_TIMEOUT, 0.0)
    assert (breaker.state, breaker.generation) == (State.CLOSED, 0)
    assert (State.CLOSED, State.CLOSED) not in TRANSITIONS


def test_clock_that_stands_still(breaker: CircuitBreaker) -> None:
    """With a clock that stands still calls pass, results count, and it opens; only time-outs never end."""
    for _ in range(100):
        breaker.admit().success()
    trip(breaker)
    assert breaker.snapshot()["window"]["calls"] == 102
    assert breaker.state is State.OPEN


# ── Listeners ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_listener_that_raises_is_logged_once(breaker: CircuitBreaker, caplog: pytest.LogCaptureFixture) -> None:
    """A listener that raises is logged once; the others hear of the change, and the call goes on."""

    def broken(change: object) -> None:
        raise LookupError

    breaker.on_state_change(broken)
    breaker.on_rejection(broken)
    events = EventRecorder(breaker)
    trip(breaker)
    breaker.reset()
    assert isinstance(breaker.try_admit(), Permit)
    breaker.force_open()
    breaker.try_admit()
    assert len(events.changes) == 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "listener tests.unit.test_breaker" in caplog.text
    assert "broken:" in caplog.text


def test_listener_must_be_callable(breaker: CircuitBreaker) -> None:
    """A listener that cannot be called, or would do nothing when called, is an error at once."""

    async def later(event: object) -> None:
        raise AssertionError(event)

    def never(event: object) -> Iterator[object]:
        yield event

    async def never_either(event: object) -> AsyncIterator[object]:
        yield event

    listener: Any
    for listener in ("print", later, never, never_either):
        with pytest.raises(
            TypeError, match="a listener must be callable with one event, and no coroutine or generator"
        ):
            breaker.on_state_change(listener)


def test_listener_can_be_removed(breaker: CircuitBreaker) -> None:
    """What `on_state_change` answers ends it; ending it twice does nothing."""
    heard: list[Any] = []
    end = breaker.on_state_change(heard.append)
    breaker.force_open()
    end()
    end()
    breaker.reset()
    assert len(heard) == 1


def test_listener_that_causes_changes_is_not_nested(breaker: CircuitBreaker) -> None:
    """A listener that causes the next change hears of it after it has handled this one."""
    story: list[str] = []

    def listener(change: Any) -> None:
        story.append(f"begin {change.state}")
        if change.state is State.OPEN:
            breaker.force_open()
        story.append(f"end {change.state}")

    breaker.on_state_change(listener)
    trip(breaker)
    assert story == ["begin open", "end open", "begin forced_open", "end forced_open"]


class Interrupted(dict[str, object]):
    """A claim that a signal handler interrupts as soon as it is made."""

    def setdefault(self, key: str, value: object) -> object:  # type: ignore[override]
        super().setdefault(key, value)
        raise KeyboardInterrupt


def test_interrupted_delivery_is_taken_up_by_the_next(breaker: CircuitBreaker) -> None:
    """Ctrl-C between the claim to deliver and the delivery leaves nobody's claim behind."""
    events = EventRecorder(breaker)
    breaker._delivering = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        breaker.force_open()
    breaker._delivering = {**breaker._delivering}
    breaker.reset()
    assert events.states == [State.FORCED_OPEN, State.CLOSED]


def test_interrupted_listener_does_not_stop_the_next_delivery(breaker: CircuitBreaker) -> None:
    """KeyboardInterrupt in a listener is the application's; later events are delivered all the same."""
    heard: list[Any] = []

    def interrupted(change: Any) -> None:
        heard.append(change.state)
        if len(heard) == 1:
            raise KeyboardInterrupt

    breaker.on_state_change(interrupted)
    with pytest.raises(KeyboardInterrupt):
        breaker.force_open()
    breaker.reset()
    assert heard == [State.FORCED_OPEN, State.CLOSED]


def test_listeners_run_without_the_lock(breaker: CircuitBreaker) -> None:
    """While a listener runs, another thread uses the breaker."""
    results: list[Any] = []

    def listener(change: Any) -> None:
        thread = threading.Thread(target=lambda: results.append(breaker.snapshot()["state"]))
        thread.start()
        thread.join(10)

    breaker.on_state_change(listener)
    breaker.on_rejection(listener)
    trip(breaker)
    breaker.try_admit()
    assert results == ["open", "open"]


# ── One step ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_with_block_counts(breaker: CircuitBreaker) -> None:
    """A block that ends is a success, one that raises a failure; the exception goes on."""
    with breaker as same:
        assert same is breaker
    with pytest.raises(LookupError), breaker:
        raise LookupError("gone")
    assert breaker.tallies() == {("success", "OK"): 1, ("failure", "LookupError"): 1}
    assert breaker.snapshot()["last_failures"] == [{"status": "LookupError", "details": "gone"}]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_leaving_is_no_failure(breaker: CircuitBreaker, error: type[BaseException]) -> None:
    """Ctrl-C, exit and cancellation pass untouched, and are ignored."""
    with pytest.raises(error), breaker:
        raise error
    assert breaker.snapshot()["totals"]["ignored"] == 1
    assert breaker.snapshot()["window"]["calls"] == 0


def test_another_breakers_refusal_is_ignored(breaker: CircuitBreaker) -> None:
    """The refusal of an inner breaker says nothing about what an outer one guards."""
    inner = CircuitBreaker("inner", clock=FakeClock())
    inner.force_open()
    with pytest.raises(CircuitOpenError), breaker, inner:
        pass
    assert breaker.snapshot()["totals"]["ignored"] == 1
    assert breaker.in_flight == inner.in_flight == 0


def test_nested_blocks(breaker: CircuitBreaker) -> None:
    """Blocks of one breaker nest, with those of others between them."""
    other = CircuitBreaker("other", clock=FakeClock())
    with breaker, other, breaker:
        assert (breaker.in_flight, other.in_flight) == (2, 1)
    with breaker:
        other.__enter__()
    other.__exit__(None, None, None)
    assert (breaker.in_flight, other.in_flight) == (0, 0)
    assert breaker.snapshot()["totals"]["success"] == 3


def test_block_that_ends_in_another_context(breaker: CircuitBreaker) -> None:
    """A block may end in another context or thread than it began in."""
    contextvars.copy_context().run(breaker.__enter__)
    contextvars.copy_context().run(breaker.__exit__, None, None, None)
    assert breaker.in_flight == 0
    assert breaker.snapshot()["totals"]["success"] == 1


def test_block_that_ends_is_the_one_that_began_last(clock: FakeClock) -> None:
    """Each block is judged by its own time: the one entered last ends first, blocks of other breakers between or not."""
    ended: list[EndedCall] = []
    breaker = CircuitBreaker("seen", BreakerPolicy(classify=ended.append), clock=clock)
    other = CircuitBreaker("other", clock=clock)
    breaker.__enter__()
    other.__enter__()
    clock.advance(5)
    breaker.__enter__()
    clock.advance(1)
    other.__exit__(None, None, None)
    breaker.__exit__(None, None, None)
    with breaker:
        clock.advance(2)
    breaker.__exit__(None, None, None)
    assert [call.elapsed for call in ended] == [1, 2, 8]
    assert (breaker.in_flight, other.in_flight, len(breaker._entered)) == (0, 0, 0)


def generated(breaker: CircuitBreaker, error: Exception | None = None) -> Iterator[None]:
    """A block in a generator, which begins and ends when its reader pleases."""
    with breaker:
        yield
        if error is not None:
            raise error


def finish(block: Iterator[None]) -> None:
    """Let it end."""
    with suppress(StopIteration, OSError):
        next(block)


@pytest.mark.parametrize("probe_ends_first", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_blocks_that_interleave_keep_their_results(
    probe_ends_first: bool, elsewhere: bool, clock: FakeClock, breaker: CircuitBreaker
) -> None:
    """A block of before the outage that ends beside a probe, in whatever context, is stale; the probe is judged by its own."""
    old = generated(breaker, OSError() if probe_ends_first else None)
    next(old)
    trip(breaker)
    clock.advance(100)
    probe = generated(breaker)
    next(probe)
    assert breaker.state is State.HALF_OPEN
    for block in (probe, old) if probe_ends_first else (old, probe):
        contextvars.copy_context().run(finish, block) if elsewhere else finish(block)
        closed = block is probe or probe_ends_first
        assert breaker.state is (State.CLOSED if closed else State.HALF_OPEN)
    totals = breaker.snapshot()["totals"]
    assert (totals["success"], totals["stale"], totals["ignored"]) == (1, 1, 0)
    assert (breaker.in_flight, len(breaker._entered)) == (0, 0)


def test_long_block_around_probes(clock: FakeClock, breaker: CircuitBreaker) -> None:
    """A block that lasts through an outage does not take the results of the probes inside it."""
    with breaker:
        trip(breaker)
        clock.advance(100)
        for _ in range(breaker.policy.probes_to_close):
            with breaker:
                assert breaker.state is State.HALF_OPEN
        assert breaker.state is State.CLOSED
    assert breaker.snapshot()["totals"]["stale"] == 1


def test_stack_of_blocks_around_probes(clock: FakeClock, breaker: CircuitBreaker) -> None:
    """The same with the blocks on a stack of the function's own."""
    with ExitStack() as outer:
        outer.enter_context(breaker)
        trip(breaker)
        clock.advance(100)
        with ExitStack() as inner:
            inner.enter_context(breaker)
        assert breaker.state is State.CLOSED
    assert breaker.snapshot()["totals"]["stale"] == 1


def begin(block: Any) -> None:
    """Enter it, in a function that is over then."""
    block.__enter__()


def end(block: Any) -> None:
    """Leave it, in another."""
    block.__exit__(None, None, None)


def test_blocks_left_in_another_function_never_swap_results(clock: FakeClock, breaker: CircuitBreaker) -> None:
    """Where nothing tells which block ends, a call of before the outage does not close the breaker in a probe's name."""
    begin(breaker)
    trip(breaker)
    clock.advance(100)
    begin(breaker)
    assert breaker.state is State.HALF_OPEN
    end(breaker)
    end(breaker)
    totals = breaker.snapshot()["totals"]
    assert (totals["success"], totals["stale"], totals["ignored"]) == (0, 1, 1)
    assert (breaker.state, breaker.in_flight, len(breaker._entered)) == (State.HALF_OPEN, 0, 0)


def test_blocks_left_in_another_function_count(breaker: CircuitBreaker) -> None:
    """While nothing changed in between, it does not matter which is which."""
    with ExitStack() as stack:
        stack.enter_context(breaker)
        begin(breaker)
        begin(breaker)
        end(breaker)
        end(breaker)
    assert breaker.snapshot()["totals"]["success"] == 3
    assert (breaker.in_flight, len(breaker._entered)) == (0, 0)


def test_lost_probe_is_not_taken_for_a_block_that_ends(clock: FakeClock, breaker: CircuitBreaker) -> None:
    """A probe whose lease has ended, and what a fork left behind, stand back for the blocks that are in flight."""
    trip(breaker)
    clock.advance(100)
    begin(breaker)
    clock.advance(breaker.policy.probe_timeout)
    assert breaker.in_flight == 0
    begin(breaker)
    end(breaker)
    assert breaker.snapshot()["totals"]["success"] == 1
    end(breaker)
    assert breaker.snapshot()["totals"]["stale"] == 1
    with pytest.raises(RuntimeError, match="a 'with' block ends that never began"):
        end(breaker)


def test_fork_inside_a_block(clock: FakeClock, breaker: CircuitBreaker) -> None:
    """A child forked inside a block counts its own blocks; the end of the inherited one says nothing."""
    with breaker:
        after_fork_in_child()
        with breaker:
            assert breaker.in_flight == 1
        trip(breaker)
        clock.advance(100)
        for _ in range(breaker.policy.probes_to_close):
            with breaker:
                pass
        assert breaker.state is State.CLOSED
    totals = breaker.snapshot()["totals"]
    assert (totals["success"], breaker.in_flight, len(breaker._entered)) == (1 + breaker.policy.probes_to_close, 0, 0)


def test_blocks_of_many_threads_left_elsewhere(breaker: CircuitBreaker) -> None:
    """Threads that leave in other functions at once take each block once, and meet no error."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(300):
                begin(breaker)
                begin(breaker)
                end(breaker)
                with breaker:
                    pass
                end(breaker)
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    assert breaker.snapshot()["totals"]["success"] == 4 * 300 * 3
    assert (breaker.in_flight, len(breaker._entered)) == (0, 0)


def test_clock_that_breaks_in_a_block(breaker: CircuitBreaker) -> None:
    """A clock that breaks is told to whose clock it is, and the permit comes back."""
    permits = []
    with pytest.raises(OSError), breaker:
        breaker._clock = Mock(side_effect=OSError)
        permits = list(breaker._entered.values())
    assert [permit.settled for permit in permits] == [True]


class Lock:
    """Notes how it is taken."""

    def __init__(self) -> None:
        self.taken: list[object] = []

    def __enter__(self) -> None:
        self.taken.append("waits")

    def __exit__(self, *error: object) -> None: ...

    def acquire(self, blocking: bool) -> bool:
        self.taken.append(blocking or "does not")
        return True

    def release(self) -> None: ...


def test_who_waits_for_the_lock(clock: FakeClock, breaker: CircuitBreaker) -> None:
    """A caller waits its turn; a callback or finalizer never does, whatever the state of its permit."""
    trip(breaker)
    clock.advance(100)
    lost = breaker.admit()
    clock.advance(breaker.policy.probe_timeout)
    assert breaker.in_flight == 0
    breaker.reset()
    permits = [breaker.admit() for _ in range(3)]
    lock = breaker._lock = Lock()  # type: ignore[assignment]
    permits[0].settle(Outcome.FAILURE)
    permits[1].settle(Outcome.FAILURE, blocking=False)
    permits[2].ignore()
    lost.settle(Outcome.SUCCESS, blocking=False)
    assert lock.taken == ["waits", "does not", "waits", "does not"]


def test_result_that_does_not_wait_is_taken_in_at_once(breaker: CircuitBreaker) -> None:
    """Where nobody else is at the breaker, a callback's result opens it then and there, and is told."""
    events = EventRecorder(breaker)
    for _ in range(2):
        breaker.admit().settle(Outcome.FAILURE, blocking=False)
    assert (breaker.state, events.states) == (State.OPEN, [State.OPEN])


def test_what_is_not_said_is_empty(breaker: CircuitBreaker) -> None:
    """A failure without words has none; a status that is no string is counted by its name."""
    status: Any = 5
    breaker.admit().settle(Outcome.FAILURE)
    breaker.admit().settle(Outcome.IGNORED, status, "words")
    assert breaker.snapshot()["last_failures"] == [{"status": "", "details": ""}]
    assert breaker.tallies() == {("failure", ""): 1, ("ignored", "5"): 1}


def test_calm_success_of_another_status_is_counted_by_its_name(breaker: CircuitBreaker) -> None:
    """Only plain successes are counted without the lock."""
    for status in ("OK", "", "NOT_FOUND"):
        breaker.admit().settle(Outcome.SUCCESS, status)
    assert breaker.tallies() == {("success", "OK"): 2, ("success", "NOT_FOUND"): 1}


def test_success_at_the_end_of_a_bucket_is_in_the_next(clock: FakeClock) -> None:
    """A calm success at the very moment a bucket ends belongs to the next one."""
    breaker = CircuitBreaker("prices", BreakerPolicy(window_seconds=10), clock=clock)
    breaker.admit().success()
    clock.advance(1)
    breaker.admit().success()
    clock.advance(9.5)
    assert breaker.snapshot()["window"]["calls"] == 1


def test_closed_breaker_has_nothing_to_wait_for(breaker: CircuitBreaker) -> None:
    """A call may pass at once."""
    assert breaker.retry_after == 0


def test_refusal_of_an_open_breaker_has_no_probes(breaker: CircuitBreaker) -> None:
    """Probes in flight are told of half-open breakers."""
    trip(breaker)
    refused = breaker.try_admit()
    assert isinstance(refused, Rejection)
    assert refused.probes == 0


def test_slow_probe_says_so(clock: FakeClock) -> None:
    """A probe that was slow opens the breaker for that reason, and grows the period as a failed one does."""
    policy = BreakerPolicy(
        consecutive_failures=1,
        slow_call_duration=1,
        reset_timeout=10,
        reset_timeout_jitter=0,
        reset_timeout_multiplier=2,
        half_open_max_calls=1,
    )
    breaker = CircuitBreaker("prices", policy, clock=clock)
    events = EventRecorder(breaker)
    for _ in range(2):  # growth is forgotten after a close
        breaker.admit().failure()
        clock.advance(10)
        probe = breaker.admit()
        clock.advance(2)
        probe.success()
        assert (events.changes[-1].reason, breaker.retry_after) == (Reason.PROBE_SLOW, 20)
        clock.advance(20)
        breaker.admit().success()
        assert breaker.state is State.CLOSED


def test_result_that_comes_as_its_lease_ends(clock: FakeClock) -> None:
    """It is counted once, however often it is told, and whichever comes first."""
    policy = BreakerPolicy(
        consecutive_failures=1, reset_timeout=1, reset_timeout_jitter=0, probe_timeout=5, half_open_max_calls=1
    )

    def story() -> None:
        clock.advance(5)
        breaker.try_admit()

    def visit() -> None:
        probe.settle(Outcome.SUCCESS, "OK", blocking=False)

    for at in count(1):
        breaker = CircuitBreaker("late", policy, clock=clock)
        breaker.admit().failure()
        clock.advance(2)
        probe = breaker.admit()
        if not visit_at({breaker_module.__file__}, story, visit, at):
            break
        probe.ignore()
        totals = breaker.snapshot()["totals"]
        assert totals["success"] + totals["stale"] == 1
        assert totals["ignored"] == 0
    assert at > 20


def test_result_that_is_on_its_way_as_its_lease_ends(clock: FakeClock) -> None:
    """The same, step by step: a permit is taken back, its lease ends, and only then its result is taken in."""
    breaker = CircuitBreaker("late", BreakerPolicy(consecutive_failures=1, probe_timeout=5), clock=clock)
    breaker.admit().failure()
    clock.advance(1000)
    probe = breaker.admit()
    breaker._in_flight.remove(probe)
    clock.advance(5)
    breaker._tidy()
    breaker._do(breaker._end, probe, Outcome.SUCCESS, "OK", "", clock())
    assert not probe.ignore()
    assert breaker.tallies() == {("failure", ""): 1, ("stale", "OK"): 1}


def test_books_that_are_taken_as_one_is_written(clock: FakeClock) -> None:
    """A result is judged wherever in between a visitor takes the books; one that was written at that moment may be lost."""

    def story() -> None:
        permit.failure("UNAVAILABLE")

    def visit() -> None:
        taken.update(breaker._take_tallies())

    for at in count(1):
        breaker = CircuitBreaker("books", clock=clock)
        permit = breaker.admit()
        taken: dict[tuple[str, str], int] = {}
        if not visit_at({breaker_module.__file__}, story, visit, at):
            break
        assert breaker._window.counts(clock()).failures == 1
        assert sum(taken.values()) + sum(breaker.tallies().values()) <= 1
    assert at > 20


def test_interrupted_before_a_block_is_known(breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C as a `with` block begins leaves no permit out."""
    monkeypatch.setattr(one_step, "_frame_of_the_block", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), breaker:
        pass
    assert breaker.in_flight == 0


def test_counter_can_be_read_while_it_is_read() -> None:
    """A signal handler that looks in the middle of a look sees the same, and changes nothing."""
    counter = count()
    seen: list[int] = []

    def visit(frame: Any, event: str, argument: Any) -> Any:
        sys.settrace(None)
        seen.append(steps(counter))
        sys.settrace(visit)
        return visit

    tracing = sys.gettrace()
    for n in range(3):
        sys.settrace(visit)
        try:
            value = steps(counter)
        finally:
            sys.settrace(tracing)
        assert value == n
        assert set(seen) == {n}
        seen.clear()
        next(counter)


def test_books_that_are_taken_miss_nothing(breaker: CircuitBreaker) -> None:
    """What is counted while the books are taken is in them or stays, once."""

    class Busy:
        """Counts one more at each look."""

        def __init__(self, counter: count[int]) -> None:
            self.counter = counter

        def __repr__(self) -> str:
            seen = repr(self.counter)
            next(self.counter)
            return seen

    breaker.admit().success()
    breaker.admit().success()
    breaker._calm_successes = Busy(breaker._calm_successes)  # type: ignore[assignment]
    breaker._rejected = Busy(breaker._rejected)  # type: ignore[assignment]
    taken, left = breaker._take_tallies(), breaker.tallies()
    assert taken == {("success", "OK"): 2}
    assert left == {("success", "OK"): 1, ("rejected", ""): 1}


def test_listener_that_interrupts_does_not_silence_the_others(breaker: CircuitBreaker) -> None:
    """Ctrl-C in a listener reaches the caller when all have been told."""
    heard: list[Any] = []
    breaker.on_state_change(Mock(side_effect=KeyboardInterrupt("first")))
    breaker.on_state_change(Mock(side_effect=KeyboardInterrupt("second")))
    breaker.on_state_change(heard.append)
    with pytest.raises(KeyboardInterrupt, match="first"):
        breaker.force_open()
    assert [change.state for change in heard] == [State.FORCED_OPEN]


def test_listener_that_ends_itself(breaker: CircuitBreaker) -> None:
    """A listener may end itself while it is told, and the next one still hears."""
    heard: list[Any] = []
    ends: list[Callable[[], None]] = []
    ends.append(breaker.on_state_change(lambda change: ends[0]()))
    breaker.on_state_change(heard.append)
    breaker.force_open()
    breaker.reset()
    assert len(heard) == 2


def test_listener_without_a_name(breaker: CircuitBreaker, caplog: pytest.LogCaptureFixture) -> None:
    """A listener that raises, also when asked for its name, is told of by its type."""

    class Proxy:
        gone: type[Exception] = AttributeError

        def __getattr__(self, name: str) -> Any:
            raise self.gone(name)

        def __call__(self, event: object) -> None:
            raise LookupError

    breaker.on_state_change(Proxy())
    Proxy.gone = RuntimeError
    breaker.force_open()
    assert "Proxy raised" in caplog.text


def test_permit_is_given_back_without_a_clock() -> None:
    """A clock that breaks later costs no permit: giving back needs no time."""

    class Breaking(FakeClock):
        broken = False

        def __call__(self) -> float:
            if self.broken:
                raise OSError
            return super().__call__()

    clock = Breaking()
    breaker = CircuitBreaker("prices", clock=clock)
    permit = breaker.admit()
    clock.broken = True
    with pytest.raises(OSError):
        permit.success()
    assert permit.ignore()
    clock.broken = False
    assert (breaker.in_flight, breaker.snapshot()["totals"]["ignored"]) == (0, 1)


def test_what_a_classifier_sees_of_plain_code(clock: FakeClock) -> None:
    """Outside gRPC a classifier sees the time, the exception and its words."""
    ended: list[EndedCall] = []
    breaker = CircuitBreaker("seen", BreakerPolicy(classify=ended.append), clock=clock)
    gone = LookupError("gone")
    with pytest.raises(LookupError), breaker:
        clock.advance(3)
        raise gone
    with breaker:
        pass
    facts = {"method": "", "code": None, "trailing_metadata": (), "timeout": None}
    assert ended == [
        EndedCall(**facts, details="gone", elapsed=3, error=gone),
        EndedCall(**facts, details="", elapsed=0, error=None),
    ]


def test_coroutines_use_one_breaker_at_once(breaker: CircuitBreaker) -> None:
    """`async with` counts each coroutine by itself."""

    async def one(barrier: asyncio.Barrier, fail: bool) -> None:
        async with breaker:
            await barrier.wait()
            if fail:
                raise LookupError

    async def all_of_them() -> list[Any]:
        barrier = asyncio.Barrier(3)
        return await asyncio.gather(*(one(barrier, n == 1) for n in range(3)), return_exceptions=True)

    results = asyncio.run(all_of_them())
    assert [type(result).__name__ for result in results] == ["NoneType", "LookupError", "NoneType"]
    assert breaker.snapshot()["totals"] == {"success": 2, "failure": 1, "ignored": 0, "rejected": 0, "stale": 0}
    assert breaker.in_flight == 0


def test_decorated_function(breaker: CircuitBreaker) -> None:
    """A decorated function keeps its name, its result and its exceptions, and is refused when it is open."""

    @breaker
    def price(number: int) -> float:
        """What it costs."""
        return 1 / number

    assert (price(2), price.__name__, price.__doc__) == (0.5, "price", "What it costs.")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            price(0)
    with pytest.raises(CircuitOpenError):
        price(2)


def test_decorated_coroutine_function(breaker: CircuitBreaker) -> None:
    """A decorated coroutine function is one still, and counts when it ends."""

    @breaker
    async def price(number: int) -> float:
        return 1 / number

    async def story() -> None:
        assert await price(2) == 0.5
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await price(0)
        with pytest.raises(CircuitOpenError):
            await price(2)

    asyncio.run(story())
    assert breaker.snapshot()["totals"] == {"success": 1, "failure": 2, "ignored": 0, "rejected": 1, "stale": 0}


def test_decorated_object_with_coroutine_call(breaker: CircuitBreaker) -> None:
    """An object whose call is a coroutine function counts when that ends."""

    class Fetch:
        async def __call__(self) -> str:
            assert breaker.in_flight == 1
            raise LookupError

    async def main() -> None:
        with pytest.raises(LookupError):
            await breaker(Fetch())()

    asyncio.run(main())
    assert breaker.snapshot()["totals"]["failure"] == 1


def test_leaving_is_no_failure_for_a_classifier_either() -> None:
    """Ctrl-C and another breaker's refusal are ignored, whatever a classifier would say."""
    breaker = CircuitBreaker("strict", BreakerPolicy(classify=lambda call: Outcome.FAILURE))
    inner = CircuitBreaker("inner")
    inner.force_open()
    with pytest.raises(KeyboardInterrupt), breaker:
        raise KeyboardInterrupt
    with pytest.raises(CircuitOpenError), breaker, inner:
        pass
    assert breaker.snapshot()["totals"]["ignored"] == 2


def test_settled_with_nonsense(breaker: CircuitBreaker) -> None:
    """An outcome may be its name; what is no outcome changes nothing; odd words are turned into words."""
    permit = breaker.admit()
    with pytest.raises(ValueError, match="nonsense"):
        permit.settle("nonsense")  # type: ignore[arg-type]
    assert breaker.in_flight == 1
    assert permit.settle("failure", "X", LookupError("gone"))  # type: ignore[arg-type]
    snapshot = breaker.snapshot()
    assert (snapshot["totals"]["failure"], snapshot["window"]["failures"]) == (1, 1)
    assert snapshot["last_failures"] == [{"status": "X", "details": "gone"}]


@pytest.mark.parametrize("answers", [[0.5, 1.0], [0.5, float("nan")], [0.5, "x"], [0.5]])
def test_chance_that_fails_later(answers: list[Any], clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """A source of chance that goes wrong costs the jitter, never the opening, and is said once."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=10, reset_timeout_jitter=1)
    breaker = CircuitBreaker("unlucky", policy, clock=clock, random=iter(answers).__next__)
    breaker.admit().failure()
    assert (breaker.state, breaker.retry_after) == (State.OPEN, 10)
    assert "random must answer a number in [0, 1)" in caplog.text
    assert not caplog.records[0].exc_info


def test_chance_may_be_none(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """Zero is as good a chance as any: no jitter this time, and nothing to complain about."""
    breaker = CircuitBreaker("lucky", BreakerPolicy(consecutive_failures=1), clock=clock, random=lambda: 0.0)
    breaker.admit().failure()
    assert breaker.retry_after == 60.0
    assert not caplog.records


def test_end_of_a_block_that_never_began(breaker: CircuitBreaker) -> None:
    """Leaving a `with` block that was never entered says so."""
    with pytest.raises(RuntimeError, match=r"<CircuitBreaker 'prices' closed.*never began"):
        breaker.__exit__(None, None, None)


def generator() -> Iterator[int]:
    """A generator function."""
    yield 1


async def async_generator() -> AsyncIterator[int]:
    """An asynchronous one."""
    yield 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (generator, r"function .*generator:\d+; use"),
        (async_generator, r"async_generator:\d+"),
        (7, "decorates a function"),
    ],
)
def test_what_cannot_be_decorated(breaker: CircuitBreaker, function: Any, words: str) -> None:
    """A generator function is refused: calling it does nothing yet."""
    with pytest.raises(TypeError, match=words):
        breaker(function)


def test_classifier_of_plain_code() -> None:
    """A classifier sees the exception of a block, and may know better."""
    seen: list[EndedCall] = []

    def classify(call: EndedCall) -> Outcome | None:
        seen.append(call)
        return Outcome.SUCCESS if isinstance(call.error, LookupError) else None

    breaker = CircuitBreaker("test", BreakerPolicy(classify=classify), clock=FakeClock())
    with pytest.raises(LookupError), breaker:
        raise LookupError
    with breaker:
        pass
    assert breaker.tallies() == {("success", "LookupError"): 1, ("success", "OK"): 1}
    assert [type(call.error) for call in seen] == [LookupError, type(None)]


def test_error_without_words(breaker: CircuitBreaker) -> None:
    """An exception that cannot be printed is a failure like any other."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    with pytest.raises(MuteError), breaker:
        raise MuteError
    assert breaker.snapshot()["last_failures"][0]["details"] == "(no words: its __str__ raised)"


# ── Visitors, processes ───────────────────────────────────────────────────────────────────────────────────────────


class Hook:
    """Called in the middle of the breaker's critical section, as a finalizer or a signal handler can be."""

    def __init__(self) -> None:
        self.visit: Callable[[], object] | None = None
        self.saw: list[Any] = []

    def __call__(self) -> float:
        if self.visit is not None:
            visit, self.visit = self.visit, None
            self.saw.append(visit())
        return 0.0


@pytest.fixture
def hook() -> Hook:
    """Visits while the open period is drawn, in the middle of a change of state."""
    return Hook()


@pytest.fixture
def visited(hook: Hook, clock: FakeClock) -> CircuitBreaker:
    """A breaker whose critical section can be visited."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=10, half_open_max_calls=1)
    return CircuitBreaker("visited", policy, clock=clock, random=hook)


def test_every_change_says_which_call_caused_it(clock: FakeClock) -> None:
    """A change names method, context, status and details of the very call that caused it, and what had been counted."""
    policy = BreakerPolicy(
        consecutive_failures=1,
        slow_call_duration=1,
        half_open_max_calls=1,
        half_open_successes=2,
        reset_timeout=10,
        reset_timeout_jitter=0,
    )
    breaker = CircuitBreaker("told", policy, clock=clock)
    events = EventRecorder(breaker)
    breaker.admit("S/A", "a").failure("INTERNAL", "ill")
    clock.advance(10)
    breaker.admit("S/B", "b").success()
    breaker.admit("S/C", "c").failure("UNKNOWN", "still ill")
    clock.advance(10)
    probe = breaker.admit("S/D", "d")
    clock.advance(2)
    probe.settle(Outcome.SUCCESS, "NOT_FOUND", "slow")
    clock.advance(10)
    breaker.admit("S/E", "e").success()
    breaker.admit("S/F", "f").settle(Outcome.SUCCESS, "NOT_FOUND")
    breaker.admit("S/G", "g").failure()
    clock.advance(10)
    breaker.admit("S/H", "h").ignore()
    breaker.admit("S/I", "i").answered()
    breaker.admit("S/J", "j").answered()
    told = [
        (it.state, it.method, it.context, it.status, it.details, it.calls, it.failures, it.slow)
        for it in events.changes
    ]
    assert told == [
        ("open", "S/A", "a", "INTERNAL", "ill", 1, 1, 0),
        ("half_open", "S/B", "b", "", "", 1, 1, 0),
        ("open", "S/C", "c", "UNKNOWN", "still ill", 2, 1, 0),
        ("half_open", "S/D", "d", "", "", 1, 1, 0),
        ("open", "S/D", "d", "NOT_FOUND", "slow", 1, 0, 1),
        ("half_open", "S/E", "e", "", "", 0, 0, 0),
        ("closed", "S/F", "f", "NOT_FOUND", "", 2, 0, 0),
        ("open", "S/G", "g", "", "", 1, 1, 0),
        ("half_open", "S/H", "h", "", "", 1, 1, 0),
        ("closed", "S/J", "j", "", "", 2, 0, 0),
    ]


def test_closed_in_the_meantime(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A call that finds an open breaker closed by the time it has the lock is admitted like any other."""
    trip(breaker)
    clock.advance(10)
    lock = breaker._lock

    class Meanwhile:
        def __enter__(self) -> None:
            breaker._lock = lock
            breaker.reset()
            lock.acquire()

        def __exit__(self, *exception: object) -> None:
            lock.release()

    breaker._lock = Meanwhile()  # type: ignore[assignment]
    permit = breaker.admit("S/M", "context", timed=False)
    assert (permit.method, permit.context, permit.timed, permit.started) == ("S/M", "context", False, 10)
    assert (breaker._busy, breaker._used) == (False, 10)
    permit.failure("INTERNAL")
    assert breaker.snapshot()["window"]["failures"] == 1


def test_period_without_growth_has_no_limit(clock: FakeClock) -> None:
    """`max_reset_timeout` limits growth alone: a longer `reset_timeout` that does not grow stays what it is."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=900, reset_timeout_jitter=0)
    breaker = CircuitBreaker("long", policy, clock=clock)
    breaker.admit().failure()
    clock.advance(900)
    breaker.admit().failure()
    assert breaker.retry_after == 900


def test_reason_is_forgotten_after_a_close(breaker: CircuitBreaker) -> None:
    """A closed breaker shows no reason; a refusal is counted under no status."""
    trip(breaker)
    breaker.try_admit()
    assert breaker.snapshot()["reason"] == "consecutive_failures"
    breaker.reset()
    assert breaker.snapshot()["reason"] is None
    assert breaker.tallies()["rejected", ""] == 1


def test_names_of_outcomes_are_counted(breaker: CircuitBreaker) -> None:
    """A success is counted as OK, a failure without a name under none."""
    for _ in range(2):
        breaker.admit().success()
    breaker.admit().failure()
    assert breaker.tallies() == {("success", "OK"): 2, ("failure", ""): 1}
    assert breaker.snapshot()["last_failures"] == [{"status": "", "details": ""}]


def test_refusal_in_the_childs_words(breaker: CircuitBreaker) -> None:
    """A forked child refuses with the reason and the code of its parent; a new policy's code shows at once."""
    trip(breaker)
    breaker.reconfigure(replace(breaker.policy, refusal_code="ABORTED"))
    breaker._after_fork()
    refusal = breaker.try_admit()
    assert isinstance(refusal, Rejection)
    assert (refusal.reason, refusal.code) == (Reason.CONSECUTIVE_FAILURES, "ABORTED")
    assert breaker._busy is False


def test_finalizer_never_waits(visited: CircuitBreaker, hook: Hook) -> None:
    """A finalizer that meets another thread at the breaker leaves its result to that thread, and goes on at once."""
    late = visited.admit()

    def finalize() -> bool:
        finalizer = threading.Thread(target=late.settle, args=(Outcome.IGNORED,), kwargs={"blocking": False})
        finalizer.start()
        finalizer.join(10)
        return finalizer.is_alive()

    hook.visit = finalize
    visited.admit().failure()
    assert hook.saw == [False]
    assert visited.tallies()["stale", ""] == 1


def test_result_left_as_the_lock_is_given_back(visited: CircuitBreaker) -> None:
    """What another thread leaves after the last look at the queue, and before the lock is free, is not left lying."""
    late = visited.admit()
    lock = visited._lock

    class Last:
        __enter__ = lock.acquire

        def __exit__(self, *error: object) -> None:
            visited._lock = lock
            finalizer = threading.Thread(target=late.settle, args=(Outcome.IGNORED,), kwargs={"blocking": False})
            finalizer.start()
            finalizer.join(10)
            lock.release()

    visited._lock = Last()  # type: ignore[assignment]
    visited.reset()
    assert visited.tallies() == {("stale", ""): 1}


def test_lost_probe_settled_twice_by_finalizers(visited: CircuitBreaker, hook: Hook, clock: FakeClock) -> None:
    """A lost probe that two finalizers settle while another thread is at the breaker is counted once."""
    visited.admit().failure()
    clock.advance(10)
    lost = visited.admit()
    clock.advance(30)
    probe = visited.admit()
    hook.visit = lambda: [lost.settle(Outcome.IGNORED, blocking=False) for _ in range(2)]
    probe.failure()
    assert visited.tallies()["stale", ""] == 1


def test_visitor_settles(visited: CircuitBreaker, hook: Hook) -> None:
    """A call that ends in the middle of our critical section is taken up by the next caller."""
    late = visited.admit()
    hook.visit = late.failure
    visited.admit().failure()
    assert hook.saw == [True]
    assert visited.snapshot()["totals"]["stale"] == 1
    assert visited.in_flight == 0
    assert not late.success()


def test_visitor_asks(visited: CircuitBreaker, hook: Hook, clock: FakeClock) -> None:
    """A call that comes in the middle of our critical section passes a closed breaker, and is refused by another."""
    hook.visit = visited.try_admit
    visited.admit().failure()
    assert isinstance(hook.saw[0], Permit)
    clock.advance(10)
    probe = visited.admit()
    hook.visit = visited.try_admit
    probe.failure()
    assert isinstance(hook.saw[1], Rejection)
    assert visited.in_flight == 1


def test_visitor_commands(visited: CircuitBreaker, hook: Hook) -> None:
    """An operator's word in the middle of our critical section is obeyed by the next caller."""
    hook.visit = visited.force_open
    visited.admit().failure()
    assert visited.in_flight == 0
    assert visited.state is State.FORCED_OPEN


def test_visitor_looks(visited: CircuitBreaker, hook: Hook) -> None:
    """Looking from the middle of our critical section shows what there is."""
    hook.visit = visited.snapshot
    visited.admit().failure()
    assert hook.saw[0]["state"] == "closed"


def test_visitor_answers(visited: CircuitBreaker, hook: Hook, clock: FakeClock) -> None:
    """Headers that come in the middle of a change of state come too late."""
    visited.reconfigure(replace(visited.policy, half_open_max_calls=2, half_open_successes=1))
    visited.admit().failure()
    clock.advance(10)
    probe, other = visited.admit(), visited.admit()
    hook.visit = other.answered
    probe.failure()
    assert visited.state is State.OPEN


def test_finalizer_in_the_critical_section(visited: CircuitBreaker) -> None:
    """A permit settled by the garbage collector, wherever it runs, is settled once and deadlocks nobody."""

    class Owner:
        def __init__(self) -> None:
            self.me = self
            self.permit = visited.admit()

        def __del__(self) -> None:
            self.permit.ignore()

    was = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(200):
            Owner()
            visited.admit().failure()
            visited.reset()
    finally:
        gc.set_threshold(*was)
    gc.collect()
    assert visited.in_flight == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_begins_afresh(breaker: CircuitBreaker) -> None:
    """A child forked while the lock is held has a free lock, nothing in flight, and ignores what it inherited."""
    inherited = breaker.admit()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with breaker._lock:
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    child = os.fork()
    if child == 0:
        alright = (
            breaker.in_flight == 0
            and not inherited.failure()
            and breaker.admit().success()
            and breaker.snapshot()["totals"]["success"] == 1
        )
        os._exit(0 if alright else 1)
    done.set()
    thread.join(10)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert breaker.in_flight == 1


def test_after_a_fork(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """What the child does, done here: a fresh lock, nothing in flight, and what was admitted before counts for nothing."""
    trip(breaker)
    clock.advance(10)
    probe = breaker.admit()
    lock = breaker._lock
    after_fork_in_child()
    assert breaker._lock is not lock
    assert (breaker.in_flight, breaker.state, probe.failure()) == (0, State.HALF_OPEN, False)
    breaker.admit().success()
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("then", [State.CLOSED, State.OPEN])
def test_breaker_that_changes_while_a_call_asks(breaker: CircuitBreaker, then: State) -> None:
    """A call that found the open period over passes or is refused by what it finds once it has the lock."""

    class Changing:
        def __init__(self, lock: Any) -> None:
            self.lock = lock

        def __enter__(self) -> None:
            breaker._lock = self.lock
            if then is State.CLOSED:
                breaker.reset()
            else:
                breaker.admit().failure()
            self.lock.__enter__()

        def __exit__(self, *exception: object) -> None:
            self.lock.__exit__(*exception)

    trip(breaker)
    breaker._clock.advance(10)  # type: ignore[attr-defined]
    breaker._lock = Changing(breaker._lock)  # type: ignore[assignment]
    assert isinstance(breaker.try_admit(), Permit) == (then is State.CLOSED)
    assert breaker.state is then


# ── Reconfiguration ───────────────────────────────────────────────────────────────────────────────────────────────


def test_new_policy_keeps_the_window(breaker: CircuitBreaker) -> None:
    """Another policy with the same window keeps what was counted, and judges from the next result."""
    breaker.admit().failure()
    breaker.reconfigure(BreakerPolicy(consecutive_failures=None, failure_threshold=2, refusal_code="ABORTED"))
    breaker.admit().success()
    assert breaker.state is State.CLOSED
    breaker.admit().failure()
    assert breaker.snapshot()["reason"] == "failure_threshold"
    rejection = breaker.try_admit()
    breaker.reconfigure(BreakerPolicy())
    assert isinstance(rejection, Rejection)
    assert rejection.code == "ABORTED"


def test_new_window_begins_empty(breaker: CircuitBreaker) -> None:
    """Another window shape begins empty; an open breaker stays open."""
    trip(breaker)
    breaker.reconfigure(BreakerPolicy(window_calls=20))
    assert breaker.snapshot()["window"]["calls"] == 0
    assert (breaker.state, breaker.retry_after) == (State.OPEN, 10.0)
    with pytest.raises(TypeError, match="must be a BreakerPolicy"):
        breaker.reconfigure(None)  # type: ignore[arg-type]


def test_seconds_do_not_shape_a_window_of_calls() -> None:
    """A window of the last calls stays, whatever `window_seconds` says."""
    breaker = CircuitBreaker("calls", BreakerPolicy(window_calls=50))
    breaker.admit().success()
    breaker.reconfigure(BreakerPolicy(window_calls=50, window_seconds=1.0))
    assert breaker.snapshot()["window"]["calls"] == 1
