"""A live breaker beside the replay of what was recorded of it: both change their states at the same calls.

On trial each call is made, so the record has everything that the breaker saw. With a breaker at work the record has
holes, but the calls in it are those that the breaker let through: the same policy lets them through again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor
from grpc_breaker.replay import Report, TrafficRecorder, replay
from tests.support.records import is_bare
from tests.support.server import METHODS, PATIENCE, ServerProcess

GRAIN = 0.25
"""Seconds by which a change may be elsewhere: between two readings of a clock a thread may have to wait."""
RECORDS = Path(__file__).parent / "records"


def assert_same_changes(report: Report) -> None:
    """The breaker of the first policy changed its state as the live one did, at the same times."""
    live = [(it.breaker, it.state, it.reason, it.time) for it in report.recorded_changes]
    played = [(it.breaker, it.state, it.reason, it.time) for it in report.policies[0].changes]
    assert [it[:3] for it in played] == [it[:3] for it in live]
    assert [it[3] for it in played] == pytest.approx([it[3] for it in live], abs=GRAIN)


class Caller:
    """Calls a server from three threads, one after the other in each, until it is stopped."""

    def __init__(self, channel: Any) -> None:
        self._method = channel.unary_unary(METHODS["uu"])
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(3)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.02):
            with contextlib.suppress(grpc.RpcError):
                self._method(b"ok", timeout=0.2)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)


@pytest.mark.once
@pytest.mark.parametrize("enforced", [0.0, 100.0], ids=["on trial", "at work"])
def test_a_real_outage(enforced: float, tmp_path: Path) -> None:
    """A server hangs, dies and comes back: the replay opens, probes and closes where the live breaker did."""
    policy = BreakerPolicy(
        consecutive_failures=5,
        failure_rate=0.5,
        reset_timeout=0.3,
        reset_timeout_jitter=0,
        enforcement_percentage=enforced,
    )
    breakers = BreakerRegistry(default=policy)
    closed, opened = threading.Event(), threading.Event()
    breakers.on_state_change(lambda it: (closed if it.state == "closed" else opened).set())
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]
    path = tmp_path / "traffic.jsonl"
    with ServerProcess() as server, grpc.insecure_channel(server.target, options) as channel:
        grpc.channel_ready_future(channel).result(PATIENCE)
        with TrafficRecorder(breakers, path) as recorder:
            caller = Caller(grpc.intercept_channel(channel, CircuitBreakerInterceptor(breakers, telemetry=False)))
            time.sleep(0.5)
            server.pause()
            assert opened.wait(PATIENCE)
            time.sleep(1)
            server.kill()
            time.sleep(0.5)
            closed.clear()
            server.restart()
            assert closed.wait(PATIENCE)
            time.sleep(0.3)
            caller.stop()
    assert recorder.dropped == 0
    report = replay(path, {"the same": policy}, despite_breaker=True)
    assert report.policies[0].opened
    assert report.policies[0].refused == 0
    assert_same_changes(report)


TRIAL = BreakerPolicy(enforcement_percentage=0, reset_timeout_jitter=0)
AT_WORK = BreakerPolicy(reset_timeout_jitter=0)
"""The live breaker's open periods were longer by a random share; what it let through then, this one does, too."""

QUIET = ("5-sporadic", "application-time-outs", "first-message-only", "one-of-three")
"""How the names of plays begin in which the default policy stays closed."""


@pytest.mark.parametrize("name", sorted(it.name.removesuffix(".jsonl.gz") for it in RECORDS.glob("*.gz")))
def test_the_plays_of_the_laboratory(name: str) -> None:
    """In each recorded play the replay opens, probes and closes where the live breaker did."""
    bare = is_bare(name)
    path = RECORDS / f"{name}.jsonl.gz"
    report = replay(path, {"the same": TRIAL if bare else AT_WORK}, despite_breaker=not bare)
    assert bool(report.recorded_changes) is not name.startswith(QUIET)
    assert_same_changes(report)
