"""Signal handlers that raise at random moments of calls to a real server, as Celery's soft time limit does."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor
from grpc_breaker.testing import FakeClock
from tests.integration.endings_table import await_settled
from tests.support.server import METHODS, PATIENCE, ServerProcess

STRIKES = 2000
SECONDS = 3.0

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals on this system")

STRIKER = """
import os, random, signal, sys, time
rng = random.Random(1)
while os.getppid() == int(sys.argv[1]):
    time.sleep(rng.uniform(0.0002, 0.002))
    os.kill(int(sys.argv[1]), signal.SIGUSR1)
"""


class SoftTimeLimit(Exception):  # noqa: N818 - Celery's name for it has no "Error" either
    """What the handler raises."""


class Limit:
    """A handler that raises once in each block, and what became of that."""

    def __init__(self) -> None:
        self.armed = False
        self.raised = self.seen = 0
        self.in_finalizers: Counter[str] = Counter()

    def strike(self, number: int, frame: FrameType | None) -> None:
        """The handler. What it raised in the hook below would reach nobody, and could not be counted."""
        if self.armed and (frame is None or frame.f_code is not Limit.note.__code__):
            self.armed = False
            self.raised += 1
            raise SoftTimeLimit

    def within(self, act: Callable[[], object]) -> None:
        """Do something within the limit."""
        try:
            self.armed = True
            act()
            self.armed = False
        except SoftTimeLimit:
            self.seen += 1

    def note(self, unraisable: Any) -> None:
        """What is raised in a finalizer reaches nobody, in Python; grpcio's calls have one, as objects of other tests."""
        if unraisable.exc_type is SoftTimeLimit:
            self.in_finalizers[getattr(unraisable.object, "__module__", "?")] += 1


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Limit]:
    """A handler, struck at random moments by another process."""
    limit = Limit()
    monkeypatch.setattr(sys, "unraisablehook", limit.note)
    before = signal.signal(signal.SIGUSR1, limit.strike)
    striker = subprocess.Popen([sys.executable, "-c", STRIKER, str(os.getpid())])
    yield limit
    striker.kill()
    striker.wait(PATIENCE)
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("script", [b"ok", b"error UNAVAILABLE ill"])
def test_what_a_signal_handler_raises_reaches_the_caller(script: bytes, limit: Limit) -> None:
    """Each exception of a signal handler reaches the caller, wherever it lands; permits come back, if only by their lease.

    In blocking calls of one request and one answer: with streams grpcio itself does not survive it, bare as well.
    """
    clock = FakeClock()
    breakers = BreakerRegistry(default=BreakerPolicy(consecutive_failures=10**6, failure_rate=None), clock=clock)
    with ServerProcess() as server, grpc.insecure_channel(server.target) as bare:
        channel = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers, telemetry=False))
        method: Any = channel.unary_unary(METHODS["uu"])

        def call() -> None:
            for _ in range(20):
                try:
                    method(script, timeout=PATIENCE)
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE

        until = time.monotonic() + SECONDS
        while limit.raised < STRIKES and time.monotonic() < until:
            limit.within(call)
    gc.collect()
    clock.advance(2 * PATIENCE)
    await_settled(breakers[METHODS["uu"]])
    assert limit.raised > 0
    assert limit.seen + limit.in_finalizers.total() == limit.raised
    assert not any(module.startswith("grpc_breaker") for module in limit.in_finalizers)
    assert breakers[METHODS["uu"]].in_flight == 0
