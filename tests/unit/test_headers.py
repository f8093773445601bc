"""When the headers of a stream count, and what looks for them."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CircuitBreaker,
    CircuitBreakerInterceptor,
    Permit,
    State,
    _headers,
    aio,
)
from grpc_breaker.testing import FakeClock
from tests.support.child import in_child
from tests.unit.test_adapters import METHOD, Ended, Running, intercept, intercept_in_asyncio
from tests.unit.test_adapters import State as Kept

PATIENCE = 15.0


@pytest.fixture
def clock() -> FakeClock:
    """The registry's clock."""
    return FakeClock()


@pytest.fixture
def breakers(clock: FakeClock) -> BreakerRegistry:
    """One failure opens, one probe closes."""
    return BreakerRegistry(default=BreakerPolicy(consecutive_failures=1, half_open_max_calls=1), clock=clock)


@pytest.fixture
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_headers, "GRACE", 0.0)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """End what a test has begun: a thread that looks at streams ends with the last of them."""
    yield
    gc.collect()
    for thread in looking():
        thread.join(PATIENCE)
    assert not looking()


def looking() -> list[threading.Thread]:
    """The threads that look for headers."""
    return [thread for thread in threading.enumerate() if thread.name == "grpc_breaker headers"]


def ready_for_a_probe(breakers: BreakerRegistry, clock: FakeClock, *methods: str) -> None:
    """Open breakers, and let their open periods pass."""
    for method in methods or (METHOD,):
        breakers[method].admit().failure()
    clock.advance(100)


def probe(breakers: BreakerRegistry, clock: FakeClock) -> Permit:
    """A probe of a half-open breaker."""
    ready_for_a_probe(breakers, clock)
    permit = breakers[METHOD].admit()
    assert permit.is_probe
    return permit


class Stream:
    """What a look looks at."""

    came: bool | None = False


def came(stream: Any) -> bool | None:
    """Whether its headers have come."""
    result: bool | None = stream.came
    return result


def when(breakers: BreakerRegistry, method: str, state: State) -> threading.Event:
    """An event that is set once the breaker of `method` is in `state`."""
    reached = threading.Event()
    breakers[method].on_state_change(lambda change: reached.set() if change.state is state else None)
    return reached


# ── One look ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("_no_grace")
def test_headers_that_stay_alone(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """Headers are a probe's success when a second look still finds no status; then there is nothing to look for."""
    permit, stream = probe(breakers, clock), Stream()
    look = _headers.HeaderLook(permit, stream, came)
    assert look.again() is not None
    stream.came = True
    assert look.again() is not None
    assert breakers[METHOD].state is State.HALF_OPEN
    look.again()
    assert breakers[METHOD].state is State.CLOSED
    assert look.again() is None


def test_headers_count_no_sooner_than_after_the_grace(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """Two looks in quick succession, as of two threads, are one."""
    permit, stream = probe(breakers, clock), Stream()
    stream.came = True
    look = _headers.HeaderLook(permit, stream, came)
    assert None not in [look.again() for _ in range(3)]
    assert permit.is_probe


@pytest.mark.usefixtures("_no_grace")
def test_headers_that_come_with_a_status(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """Headers that are followed by a status count for nothing: the status does."""
    permit, stream = probe(breakers, clock), Stream()
    look = _headers.HeaderLook(permit, stream, came)
    stream.came = True
    assert look.again() is not None
    stream.came = None
    assert look.again() is None
    assert permit.is_probe


@pytest.mark.usefixtures("_no_grace")
def test_headers_after_the_lease(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """A look ends when the stream is no probe any more: with its lease, or with its result."""
    permit, stream = probe(breakers, clock), Stream()
    look = _headers.HeaderLook(permit, stream, came)
    assert look.again() is not None
    clock.advance(permit.policy.probe_timeout)
    assert look.again() is None


def test_stream_that_is_gone(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """A look does not keep its stream alive, and ends with it."""
    permit, stream = probe(breakers, clock), Stream()
    look, alive = _headers.HeaderLook(permit, stream, came), weakref.ref(stream)
    assert look.again() is not None
    del stream
    assert alive() is None
    assert look.again() is None


def test_stream_that_cannot_be_held_weakly(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """A stream of another interceptor's that nothing can hold weakly is not looked at: its status counts."""
    assert _headers.HeaderLook(probe(breakers, clock), (), came).again() is None


def test_look_that_fails(breakers: BreakerRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """A stream that cannot be looked at is not looked at again, which is logged once; its status counts."""

    def broken(stream: Any) -> bool:
        raise LookupError

    permit, stream = probe(breakers, clock), Stream()
    assert _headers.HeaderLook(permit, stream, broken).again() is None
    assert _headers.HeaderLook(permit, stream, broken).again() is None
    assert caplog.text.count("looking for the headers of a stream failed") == 1
    assert permit.is_probe


def test_headers_of_a_closed_breaker(clock: FakeClock) -> None:
    """A stream of a closed breaker is looked at, too, and its headers end a row of failures; then no more."""
    breaker = CircuitBreaker("watch", BreakerPolicy(consecutive_failures=2), clock=clock)
    permit, stream = breaker.admit(), Stream()
    breaker.admit().failure()
    look = _headers.HeaderLook(permit, stream, came)
    assert look.again() is not None
    permit.answered()
    assert look.again() is None
    breaker.admit().failure()
    assert breaker.state is State.CLOSED


def test_silent_stream_is_looked_at_less_and_less(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """The pause between looks at a stream without headers grows to a second; headers are confirmed soon."""
    stream = Stream()
    look = _headers.HeaderLook(probe(breakers, clock), stream, came)
    assert [look.again() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    stream.came = True
    assert look.again() == 0.05


# ── Sync ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def running(breakers: BreakerRegistry, method: str = METHOD) -> tuple[Running, Kept]:
    """A guarded stream that runs, and what grpcio keeps of it."""
    call, details = Running(), type("Details", (), {"method": method})
    call._state = state = Kept()  # type: ignore[attr-defined]
    interceptor = CircuitBreakerInterceptor(breakers, telemetry=False)
    assert interceptor.intercept_unary_stream(lambda details, request: call, details, b"") is call
    return call, state


def test_one_thread_for_all_streams(clock: FakeClock) -> None:
    """However many streams of however many methods are probes at once, one thread looks for their headers, then ends."""
    policy = BreakerPolicy(consecutive_failures=1, half_open_max_calls=3, half_open_successes=3)
    breakers = BreakerRegistry(default=policy, clock=clock)
    methods = [f"/pkg.S/M{number}" for number in range(100)]
    closed = [when(breakers, method, State.CLOSED) for method in methods]
    ready_for_a_probe(breakers, clock, *methods)
    streams = [running(breakers, method) for method in methods for _ in range(3)]
    (thread,) = looking()
    for _, state in streams:
        state.initial_metadata = ()
    assert all(event.wait(PATIENCE) for event in closed)
    thread.join(PATIENCE)
    assert not looking()
    assert sum(breaker.in_flight for breaker in breakers) == 300


def test_thread_for_the_next_streams(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """Streams that are probes later, when the thread has ended, are looked at all the same."""
    for _ in range(3):
        ready_for_a_probe(breakers, clock)
        closed = when(breakers, METHOD, State.CLOSED)
        _held, state = running(breakers)
        state.initial_metadata = ()
        assert closed.wait(PATIENCE)
        for thread in looking():
            thread.join(PATIENCE)


def test_no_thread_for_other_calls(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """No thread looks at a probe that is no stream."""
    ready_for_a_probe(breakers, clock)
    call = Running()
    call._state = Kept()  # type: ignore[attr-defined]
    intercept(breakers, call, "unary_unary")
    assert breakers[METHOD].state is State.HALF_OPEN
    assert not looking()


def test_without_a_thread_to_be_had(
    breakers: BreakerRegistry, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no thread can be started a probe counts by its final status."""

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ready_for_a_probe(breakers, clock)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    call, state = running(breakers)
    assert (breakers[METHOD].state, breakers[METHOD].in_flight) == (State.HALF_OPEN, 1)
    state.code = grpc.StatusCode.UNAVAILABLE
    call.end(state.code)
    assert breakers[METHOD].state is State.OPEN


def test_status_that_is_there_before_the_callback(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """Nothing looks at a stream any more once it has a status, though grpcio may not have called back yet."""
    ready_for_a_probe(breakers, clock)
    call, state = running(breakers)
    state.code, state.initial_metadata = grpc.StatusCode.UNAVAILABLE, ()
    for thread in looking():
        thread.join(PATIENCE)
    assert breakers[METHOD].state is State.HALF_OPEN
    call.end(state.code)
    assert breakers[METHOD].state is State.OPEN


def test_a_stream_that_has_ended_is_forgotten_at_once(breakers: BreakerRegistry) -> None:
    """Once a stream has ended nothing is kept of it until somebody looks again."""

    def permits() -> int:
        return sum(isinstance(it, Permit) for it in gc.get_objects())

    before = permits()
    streams = [running(breakers) for _ in range(50)]
    assert permits() - before == 50
    for call, state in streams:
        state.code = grpc.StatusCode.OK
        call.end(state.code)
    del streams, call, state
    assert permits() - before <= 1, "but for the one that the thread has in its hand"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_has_a_thread_of_its_own(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """A child of a process whose thread looks at streams looks at its own ones."""
    ready_for_a_probe(breakers, clock)
    _held, state = running(breakers)
    assert len(looking()) == 1

    def child() -> list[Any]:
        before = len(looking())
        closed = when(breakers, METHOD, State.CLOSED)
        _, own = running(breakers)
        own.initial_metadata = ()
        return [before, closed.wait(PATIENCE), state.initial_metadata]

    assert in_child(child) == [0, True, None]
    state.code = grpc.StatusCode.OK


# ── asyncio ───────────────────────────────────────────────────────────────────────────────────────────────────────


class AioStream(Ended):
    """An asyncio stream under way, with what shows its headers."""

    def __init__(self) -> None:
        super().__init__(done=False)
        self._cython_call = type("Kept", (), {"_initial_metadata": None})()


def test_headers_of_an_asyncio_stream(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """The headers of an asyncio stream that stay alone close the breaker, and no task waits for them."""
    ready_for_a_probe(breakers, clock)
    stream = AioStream()

    async def story() -> None:
        closed = asyncio.Event()
        breakers[METHOD].on_state_change(lambda change: closed.set() if change.state is State.CLOSED else None)
        assert await intercept_in_asyncio(breakers, stream) is stream
        assert len(asyncio.all_tasks()) == 1
        stream._cython_call._initial_metadata = ()
        await asyncio.wait_for(closed.wait(), PATIENCE)

    asyncio.run(story())


def test_asyncio_stream_that_ends_before_its_callback(
    breakers: BreakerRegistry, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in asyncio."""
    for module in (_headers, aio):
        monkeypatch.setattr(module, "GRACE", 0.0)
    ready_for_a_probe(breakers, clock)
    stream = AioStream()

    async def story() -> None:
        await intercept_in_asyncio(breakers, stream)
        stream.is_done, stream._cython_call._initial_metadata = True, ()
        for _ in range(10):
            await asyncio.sleep(0)

    asyncio.run(story())
    assert breakers[METHOD].state is State.HALF_OPEN


def test_loop_that_ends_before_the_headers(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """A loop that is closed before a probe's headers come is freed, with the stream."""
    alive: list[weakref.ref[Any]] = []
    for _ in range(10):
        ready_for_a_probe(breakers, clock)
        stream, loop = AioStream(), asyncio.new_event_loop()
        alive += [weakref.ref(loop), weakref.ref(stream)]
        loop.run_until_complete(intercept_in_asyncio(breakers, stream))
        assert breakers[METHOD].state is State.HALF_OPEN
        loop.close()
        breakers[METHOD].reset()
        del stream, loop
    gc.collect()
    assert [it() for it in alive] == [None] * 20
