"""What bit other circuit breakers, one regression test for each, with where it is on record."""

from __future__ import annotations

import ast
import asyncio
import gc
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import grpc_breaker
from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CircuitBreaker,
    CircuitBreakerInterceptor,
    CircuitOpenError,
    Outcome,
    Permit,
    State,
)
from grpc_breaker._rpc import verdict
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.support.server import PATIENCE, UNARY_STREAM, UNARY_UNARY, Server
from tests.support.transitions import check_events


@pytest.fixture
def clock() -> FakeClock:
    """The breaker's clock."""
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> CircuitBreaker:
    """Two failures in a row open it for ten seconds; one probe closes it."""
    policy = BreakerPolicy(consecutive_failures=2, reset_timeout=10, reset_timeout_jitter=0, half_open_max_calls=1)
    return CircuitBreaker("test", policy, clock=clock)


@pytest.fixture
def server() -> Iterator[Server]:
    """A real server."""
    started = Server()
    yield started
    started.stop()


def half_open(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """Open it, and let the open period pass."""
    for _ in range(2):
        breaker.admit().failure()
    clock.advance(10)


def guarded(server: Server, breakers: BreakerRegistry) -> grpc.Channel:
    """A guarded channel."""
    bare = grpc.insecure_channel(server.target)
    return grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers, telemetry=False))


def test_01_leaked_probe(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A probe that is never heard of does not keep the breaker half-open for ever (resilience4j #544, Polly #1979)."""
    half_open(breaker, clock)
    breaker.admit()
    assert not isinstance(breaker.try_admit(), Permit)
    clock.advance(30)
    breaker.admit().success()
    assert breaker.state is State.CLOSED


def test_02_cancelled_probe(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A cancelled probe neither reopens nor closes; it frees its slot (brpc #3532)."""
    half_open(breaker, clock)
    with pytest.raises(asyncio.CancelledError), breaker.admit():
        raise asyncio.CancelledError
    assert (breaker.state, breaker.in_flight) == (State.HALF_OPEN, 0)
    assert isinstance(breaker.try_admit(), Permit)


def test_03_one_callers_short_deadline(server: Server) -> None:
    """A caller that gives too little time does not open it for everyone; a hung server does (Instawork/llm-proxy #52)."""
    breakers = BreakerRegistry(default=BreakerPolicy(minimum_deadline=0.2, consecutive_failures=3))
    method = guarded(server, breakers).unary_unary(UNARY_UNARY)
    for _ in range(5):
        with pytest.raises(grpc.RpcError):
            method(b"hang", timeout=0.05)
    assert breakers[UNARY_UNARY].snapshot()["totals"]["ignored"] == 5
    for _ in range(3):
        with pytest.raises(grpc.RpcError):
            method(b"hang", timeout=0.25)
    assert breakers[UNARY_UNARY].state is State.OPEN


def test_04_results_of_an_older_state(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A result of a call from before the outage neither closes nor reopens a breaker that probes (Polly #216)."""
    old = [breaker.admit() for _ in range(10)]
    half_open(breaker, clock)
    breaker.admit()
    for n, permit in enumerate(old):
        permit.settle(Outcome.SUCCESS if n % 2 else Outcome.FAILURE)
    assert breaker.state is State.HALF_OPEN
    assert breaker.snapshot()["totals"]["stale"] == 10


def test_05_stampede_of_probes(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """Of ten threads at the end of the open period, one passes (safe-client-gateway #3442)."""
    half_open(breaker, clock)
    barrier, returned = threading.Barrier(10), []

    def ask() -> None:
        barrier.wait(PATIENCE)
        returned.append(breaker.try_admit())

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sum(isinstance(it, Permit) for it in returned) == 1


def test_06_refusals_are_no_failures(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A thousand refusals leave window and recovery as they are (go-zero #5551, kratos #2777)."""
    half_open(breaker, clock)
    breaker.admit()
    before = breaker.snapshot()["window"]
    for _ in range(1000):
        breaker.try_admit()
    assert breaker.snapshot()["window"] == before
    assert breaker.state is State.HALF_OPEN


def test_07_streams_count_by_their_end(server: Server) -> None:
    """A stream counts by its final status, not when it is made (Envoy #8228, Armeria #4495)."""
    breakers = BreakerRegistry(default=BreakerPolicy(consecutive_failures=1))
    stream = guarded(server, breakers).unary_stream(UNARY_STREAM)(b"messages 3;error UNAVAILABLE broken off")
    assert breakers[UNARY_STREAM].snapshot()["totals"]["success"] == 0
    opened = threading.Event()
    breakers.on_state_change(lambda change: opened.set())
    with pytest.raises(grpc.RpcError):
        list(stream)
    assert opened.wait(PATIENCE)


def test_08_wall_clock(breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that jumps changes nothing (aiobreaker is hours off outside UTC)."""
    for _ in range(2):
        breaker.admit().failure()
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert breaker.retry_after == 10.0
    before = time.monotonic()
    started = CircuitBreaker("default").admit().started
    assert before <= started <= time.monotonic()


def test_09_application_errors_are_answers() -> None:
    """NOT_FOUND and its like are answers of a healthy server (linkerd #2183)."""
    codes = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED
    assert {verdict(BreakerPolicy(), code, "", 1.0, None) for code in codes} == {Outcome.SUCCESS}


def test_10_callbacks_under_the_lock(breaker: CircuitBreaker) -> None:
    """A listener may use the breaker, from its own thread and from another, without a deadlock (gobreaker #37)."""
    states: list[Any] = []

    def listener(change: Any) -> None:
        thread = threading.Thread(target=lambda: states.append(breaker.snapshot()["state"]))
        thread.start()
        thread.join(PATIENCE)
        states.append(breaker.snapshot()["state"])

    breaker.on_state_change(listener)
    breaker.force_open()
    assert states == ["forced_open", "forced_open"]


def test_11_fleet_in_step() -> None:
    """By default two breakers that open at once do not probe at once (failsafe-go #142)."""
    breakers = [CircuitBreaker(f"process {n}", clock=FakeClock()) for n in range(20)]
    for breaker in breakers:
        for _ in range(5):
            breaker.admit().failure()
    periods = {breaker.retry_after for breaker in breakers}
    assert len(periods) > 10
    assert all(period is not None and 1 <= period <= 1.1 for period in periods)


def test_12_relapse_after_closing(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A server that relapses as full traffic returns is cut off again after `consecutive_failures` (Hystrix #1647)."""
    half_open(breaker, clock)
    breaker.admit().success()
    calls = 0
    while breaker.state is State.CLOSED:
        breaker.admit().failure()
        calls += 1
    assert calls == 2


def test_13_unbounded_keys() -> None:
    """Made-up method names do not exhaust memory, and no open breaker is forgotten for them (OmniRoute #4114)."""
    breakers = BreakerRegistry(max_breakers=50)
    breakers["real.S/M"].force_open()
    for n in range(5000):
        breakers.breaker_for(f"/made.up/M{n}")
    assert len(breakers) <= 50
    assert breakers["real.S/M"].state is State.FORCED_OPEN


def test_14_hung_server(server: Server) -> None:
    """A server that hangs opens it through its callers' deadlines (resilience4j #1597)."""
    breakers = BreakerRegistry(default=BreakerPolicy(consecutive_failures=3))
    method = guarded(server, breakers).unary_unary(UNARY_UNARY)
    for _ in range(3):
        with pytest.raises(grpc.RpcError):
            method(b"hang", timeout=0.1)
    with pytest.raises(CircuitOpenError):
        method(b"hang", timeout=0.1)


def test_15_status_of_a_refusal(server: Server) -> None:
    """A refusal is an RPC error of its own type, with a status that can be chosen (concurrency-limits #162)."""
    breakers = BreakerRegistry(default=BreakerPolicy(refusal_code=grpc.StatusCode.ABORTED))
    breakers[UNARY_UNARY].force_open()
    with pytest.raises(grpc.RpcError) as refused:
        guarded(server, breakers).unary_unary(UNARY_UNARY)(b"ok")
    assert isinstance(refused.value, CircuitOpenError)
    assert refused.value.code() is grpc.StatusCode.ABORTED


def test_16_one_exception_raised_again_and_again(breaker: CircuitBreaker) -> None:
    """Each refusal is a fresh error, whose traceback does not grow (Polly #1877)."""
    breaker.force_open()
    lengths = set()
    for _ in range(100):
        try:
            breaker.admit()
        except CircuitOpenError as refused:
            trace, length = refused.__traceback__, 0
            while trace:
                trace, length = trace.tb_next, length + 1
            lengths.add(length)
    assert len(lengths) == 1


def test_17_ignored_probes(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """After probes that were ignored the next that answers closes it; if none ever does, and none fails, it closes after
    `probe_timeout` (resilience4j #568, Armeria #6828).
    """
    for last in (Outcome.SUCCESS, Outcome.IGNORED):
        half_open(breaker, clock)
        for _ in range(3):
            breaker.admit().ignore()
            assert breaker.state is State.HALF_OPEN
            clock.advance(10)  # slots of ignored probes are handed on at that pace
        breaker.admit().settle(last)
        assert breaker.state is State.CLOSED


def test_18_health_checks() -> None:
    """Health checks pass whatever the breakers think, unless they are named (Mimir #5650)."""
    assert BreakerRegistry().breaker_for("/grpc.health.v1.Health/Check") is None
    assert BreakerRegistry({"grpc.health.v1.Health": BreakerPolicy()}).breaker_for("/grpc.health.v1.Health/Check")


def test_19_lock_held_through_the_call(breaker: CircuitBreaker) -> None:
    """Ten calls are under way at once; nobody waits for another's (pybreaker #55)."""
    barrier, through = threading.Barrier(10), []

    def call() -> None:
        with breaker.admit():
            through.append(barrier.wait(PATIENCE))

    threads = [threading.Thread(target=call) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(through) == list(range(10))


def test_20_transitions(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """Listeners that cause changes cause legal ones, one after the other, not one inside the other (resilience4j #2038)."""
    depth, deepest = 0, 0

    def meddle(change: Any) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        if change.sequence < 50:
            breaker.reset() if change.state is State.FORCED_OPEN else breaker.force_open()
        depth -= 1

    events = EventRecorder(breaker)
    breaker.on_state_change(meddle)
    breaker.force_open()
    assert deepest == 1
    assert len(events.changes) == 50
    check_events(events.changes)


def test_21_reconfiguration_keeps_the_state(breaker: CircuitBreaker) -> None:
    """Another policy leaves an open breaker open, and the window what it was (resilience4j #299, Armeria #1590)."""
    for _ in range(2):
        breaker.admit().failure()
    breaker.reconfigure(BreakerPolicy(consecutive_failures=50, reset_timeout=1))
    assert (breaker.state, breaker.retry_after) == (State.OPEN, 10.0)
    assert breaker.snapshot()["window"]["failures"] == 2


def test_22_remote_store() -> None:
    """No call's path leads out of the process: the core imports nothing that could (gobreaker, pybreaker)."""
    core = Path(grpc_breaker.__file__).parent / "_core"
    imported = {
        alias.name.partition(".")[0] if isinstance(node, ast.Import) else str(node.module).partition(".")[0]
        for path in core.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not imported & {"socket", "ssl", "http", "urllib", "asyncio", "selectors", "subprocess", "multiprocessing"}
    assert imported <= set(sys.stdlib_module_names) | {"grpc_breaker"}


def test_23_tumbling_windows(clock: FakeClock) -> None:
    """Failures on both sides of a bucket's edge count together (gobreaker #21)."""
    policy = BreakerPolicy(failure_threshold=4, consecutive_failures=None, failure_rate=None, window_seconds=10)
    breaker = CircuitBreaker("test", policy, clock=clock)
    clock.advance(9.9)
    for _ in range(2):
        breaker.admit().failure()
    clock.advance(0.2)
    for _ in range(2):
        breaker.admit().failure()
    assert breaker.state is State.OPEN


def test_24_ctrl_c(breaker: CircuitBreaker) -> None:
    """Ctrl-C goes through untouched, and does not end a row of failures (pybreaker)."""
    breaker.admit().failure()
    with pytest.raises(KeyboardInterrupt), breaker.admit():
        raise KeyboardInterrupt
    breaker.admit().failure()
    assert breaker.state is State.OPEN


def test_25_abandoned_call_kept_alive(server: Server) -> None:
    """An abandoned stream is collected, and cancelled at the server, as without us."""
    breakers = BreakerRegistry()
    metadata = [("call-key", "abandoned")]
    stream: Any = guarded(server, breakers).unary_stream(UNARY_STREAM)(b"messages 1;hang", metadata=metadata)
    assert next(stream) == b"0"
    del stream
    gc.collect()
    assert server.journal["abandoned"].cancelled.wait(PATIENCE)
