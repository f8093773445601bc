"""Plain code guarded by a breaker: the permit as a `with` block."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from grpc_breaker import CircuitBreaker, CircuitOpenError, Outcome, State
from grpc_breaker.testing import FakeClock
from tests.unit.breaker.calls import trip

LEAVING = [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]


def test_block_counts(breaker: CircuitBreaker) -> None:
    """A block that ends is a success, one that raises a failure; the exception goes on."""
    with breaker.admit() as permit:
        assert (breaker.in_flight, permit.settled) == (1, False)
    with pytest.raises(LookupError), breaker.admit():
        raise LookupError("gone")
    assert breaker.in_flight == 0
    assert breaker.tallies() == {("success", "OK"): 1, ("failure", "LookupError"): 1}
    assert breaker.snapshot()["last_failures"] == [{"status": "LookupError", "details": "gone"}]


def test_block_has_its_permit(breaker: CircuitBreaker) -> None:
    """What `with` binds is the permit that `admit` returned, with everything it was admitted with."""
    admitted = breaker.admit("S/M", "context")
    with admitted as permit:
        assert permit is admitted
        assert (permit.method, permit.context) == ("S/M", "context")


@pytest.mark.parametrize("raises", [False, True])
def test_block_that_settles_its_permit(breaker: CircuitBreaker, raises: bool) -> None:
    """A block may settle its permit itself; how it ends then counts for nothing."""
    try:
        with breaker.admit() as permit:
            permit.settle(Outcome.SUCCESS, "NOT_FOUND")
            if raises:
                raise LookupError
    except LookupError:
        pass
    assert breaker.tallies() == {("success", "NOT_FOUND"): 1}


def test_block_is_refused(breaker: CircuitBreaker) -> None:
    """The block of an open breaker is not run: `admit` raises."""
    trip(breaker)
    with pytest.raises(CircuitOpenError), breaker.admit():
        raise AssertionError
    assert breaker.snapshot()["totals"]["rejected"] == 1


def test_block_that_outlasts_its_lease(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A block that ends after its permit was given up is stale, counted by its exception."""
    with pytest.raises(LookupError), breaker.admit(timeout=1):
        clock.advance(6)
        assert breaker.in_flight == 0
        raise LookupError
    assert breaker.tallies() == {("stale", "LookupError"): 1}


@pytest.mark.parametrize("error", LEAVING)
def test_leaving_is_no_failure(breaker: CircuitBreaker, error: type[BaseException]) -> None:
    """Ctrl-C, exit and cancellation pass untouched, and are ignored."""
    with pytest.raises(error), breaker.admit():
        raise error
    assert breaker.snapshot()["totals"]["ignored"] == 1
    assert breaker.snapshot()["window"]["calls"] == 0


def test_refusal_of_another_breaker_is_ignored(breaker: CircuitBreaker) -> None:
    """The refusal of an inner breaker says nothing about what an outer one guards."""
    inner = CircuitBreaker("inner", clock=FakeClock())
    inner.force_open()
    with pytest.raises(CircuitOpenError), breaker.admit(), inner.admit():
        pass
    assert breaker.snapshot()["totals"]["ignored"] == 1
    assert breaker.in_flight == inner.in_flight == 0


def test_blocks_nest(breaker: CircuitBreaker) -> None:
    """Blocks of one breaker nest, with those of others between them, on a stack or not."""
    other = CircuitBreaker("other", clock=FakeClock())
    with breaker.admit(), other.admit(), breaker.admit():
        assert (breaker.in_flight, other.in_flight) == (2, 1)
    with ExitStack() as stack:
        stack.enter_context(breaker.admit())
        stack.enter_context(other.admit())
        assert (breaker.in_flight, other.in_flight) == (1, 1)
    assert (breaker.in_flight, other.in_flight) == (0, 0)
    assert breaker.snapshot()["totals"]["success"] == 3


def test_block_that_ends_elsewhere(breaker: CircuitBreaker) -> None:
    """A block may end in another function, context or thread than it began in."""
    permit = contextvars.copy_context().run(breaker.admit().__enter__)
    thread = threading.Thread(target=contextvars.copy_context().run, args=(permit.__exit__, None, None, None))
    thread.start()
    thread.join(10)
    assert (breaker.in_flight, breaker.snapshot()["totals"]["success"]) == (0, 1)


def test_long_block_around_probes(clock: FakeClock, breaker: CircuitBreaker) -> None:
    """A block that lasts through an outage is stale at its end, and the probes inside it are judged by their own."""
    with breaker.admit():
        trip(breaker)
        clock.advance(100)
        with breaker.admit() as probe:
            assert (breaker.state, probe.is_probe) == (State.HALF_OPEN, True)
        assert breaker.state is State.CLOSED
    assert breaker.snapshot()["totals"]["stale"] == 1


@pytest.mark.parametrize("probe_ends_first", [False, True])
def test_blocks_of_generators_keep_their_results(
    probe_ends_first: bool, clock: FakeClock, breaker: CircuitBreaker
) -> None:
    """Blocks that end in another order than they began, in generators, each settle their own permit."""

    def guarded() -> Iterator[None]:
        with breaker.admit():
            yield

    old = guarded()
    next(old)
    trip(breaker)
    clock.advance(100)
    probe = guarded()
    next(probe)
    for block in (probe, old) if probe_ends_first else (old, probe):
        assert next(block, None) is None
        closed = block is probe or probe_ends_first
        assert breaker.state is (State.CLOSED if closed else State.HALF_OPEN)
    totals = breaker.snapshot()["totals"]
    assert (totals["success"], totals["stale"], breaker.in_flight) == (1, 1, 0)


def test_coroutines_use_one_breaker_at_once(breaker: CircuitBreaker) -> None:
    """`async with` counts each coroutine by itself."""

    async def one(barrier: asyncio.Barrier, fail: bool) -> None:
        async with breaker.admit() as permit:
            assert not permit.settled
            await barrier.wait()
            if fail:
                raise LookupError

    async def all_of_them() -> list[Any]:
        barrier = asyncio.Barrier(3)
        return await asyncio.gather(*(one(barrier, n == 1) for n in range(3)), return_exceptions=True)

    results = asyncio.run(all_of_them())
    assert [type(result).__name__ for result in results] == ["NoneType", "LookupError", "NoneType"]
    assert breaker.snapshot()["totals"] == {
        "success": 2,
        "failure": 1,
        "ignored": 0,
        "rejected": 0,
        "stale": 0,
        "unenforced": 0,
    }
    assert breaker.in_flight == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_breaker_itself_is_no_block(breaker: CircuitBreaker, asynchronous: bool) -> None:
    """`with breaker:` is an error that says what to write, because a breaker has no place for one block's permit."""

    async def entered() -> None:
        async with breaker:
            raise AssertionError

    if asynchronous:
        with pytest.raises(
            TypeError, match=r"^a breaker is no context manager, .*: write 'async with breaker\.admit\(\) as permit:'$"
        ):
            asyncio.run(entered())
    else:
        with (
            pytest.raises(
                TypeError, match=r"^a breaker is no context manager, .*: write 'with breaker\.admit\(\) as permit:'$"
            ),
            breaker,
        ):
            raise AssertionError
    assert breaker.in_flight == 0


@pytest.mark.parametrize("guard", ["block", "function"])
def test_clock_that_breaks_inside(guard: str) -> None:
    """A clock that raises when a block or a decorated function ends reaches the caller, and the permit comes back."""

    class Breaking(FakeClock):
        broken = False

        def __call__(self) -> float:
            if self.broken:
                self.broken = False
                raise OSError
            return super().__call__()

    clock = Breaking()
    breaker = CircuitBreaker("prices", clock=clock)

    def break_the_clock() -> None:
        clock.broken = True

    def in_a_block() -> None:
        with breaker.admit():
            break_the_clock()

    run: Callable[[], None] = in_a_block if guard == "block" else breaker(break_the_clock)
    with pytest.raises(OSError):
        run()
    assert breaker.in_flight == 0


def test_error_without_words(breaker: CircuitBreaker) -> None:
    """An exception that cannot be printed is a failure like any other."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    with pytest.raises(MuteError), breaker.admit():
        raise MuteError
    assert breaker.snapshot()["last_failures"][0]["details"] == "(no words: its __str__ raised)"
