"""Exceptions at random moments: real signals on the main thread, and exceptions that another thread injects.

`test_interrupts.py` raises at every line, one at a time and by a trace function; this is what an operating system and an
interpreter do by themselves. Each exception that was raised must have been caught, once, by the caller it hit. `LONG=1`
makes the storms fifty times as long.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, Outcome, Permit, State, StateChange
from grpc_breaker.testing import FakeClock
from tests.support.core import WATCHED
from tests.support.transitions import LEGAL

pytestmark = pytest.mark.timeout(600)  # minutes beside three other suites, with coverage


SIGNALS, INJECTIONS = (20_000, 20_000) if os.environ.get("LONG") else (400, 400)
PATIENCE = 20.0


class SoftTimeLimit(Exception):  # noqa: N818 - Celery's name for it has no "Error" either
    """An exception of a class that `except Exception` catches."""


class Storm:
    """A breaker in an outage that never ends, and what its listener received."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        policy = BreakerPolicy(consecutive_failures=2, half_open_max_calls=2, reset_timeout=5, probe_timeout=3)
        self.breaker = CircuitBreaker("storm", policy, clock=self.clock)
        self.received: list[StateChange] = []
        self.breaker.on_state_change(self.received.append)
        self.calls = self.interrupted = self.rounds = 0
        self.others = 0
        """Calls of other threads."""
        self._rng = random.Random(1)

    def call(self) -> None:
        """One call with a deadline, or an operator's command, by chance."""
        rng, breaker = self._rng, self.breaker
        self.rounds += 1
        self.clock.advance(rng.choice([0.0, 0.0, 1.0]))
        if rng.random() < 0.02:
            breaker.force_open()
            breaker.reset()
        permit = breaker.try_admit("pkg.S/M", timeout=1)
        if isinstance(permit, Permit):
            self.calls += 1
            permit.settle(rng.choice([Outcome.SUCCESS, Outcome.FAILURE, Outcome.FAILURE, Outcome.IGNORED]), "STATUS")

    def was_interrupted(self, times: int) -> bool:
        """Whether the caller has caught so many exceptions."""
        return self.interrupted == times

    def check(self) -> None:
        """The breaker is whole: see `test_interrupts.py`."""
        self.clock.advance(100)
        assert self.breaker.in_flight == 0
        totals = self.breaker.snapshot()["totals"]
        counted = sum(totals.values()) - totals["rejected"]
        assert abs(counted - self.calls - self.others) <= self.interrupted
        self.breaker.disable()
        self.breaker.force_open()
        self.breaker.reset()
        assert [change.state for change in self.received[-2:]] == [State.FORCED_OPEN, State.CLOSED]
        sequences = [change.sequence for change in self.received]
        assert sequences == sorted(sequences)
        assert len(sequences) > 20
        missing = set(range(1, sequences[-1] + 1)) - set(sequences)
        assert len(missing) + len(sequences) - len(set(sequences)) <= self.interrupted
        assert {(change.previous, change.state, change.reason) for change in self.received} <= LEGAL
        for _ in range(2):
            self.breaker.admit().failure()
        assert self.breaker.state is State.OPEN
        self.clock.advance(10)
        for _ in range(2):
            self.breaker.admit().success()
        assert self.breaker.state is State.CLOSED


@pytest.fixture
def fast_switches() -> Iterator[None]:
    """Threads are switched as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def no_garbage_collector() -> Iterator[None]:
    """Python swallows what hits a finalizer or a callback of a weak reference: garbage of earlier tests has such."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def wait(condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds; false if it does not for a long time."""
    pause = threading.Event()
    until = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < until:
        pause.wait(0.0001)
    return condition()


def test_signals_at_random_moments() -> None:
    """Whatever a signal handler raises in the middle of the breaker's code reaches the caller, and leaves it whole."""
    storm = Storm()
    rng = random.Random(2)
    raised = 0

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal raised
        if frame is not None and frame.f_code.co_filename in WATCHED:
            raised += 1
            raise SoftTimeLimit
        again()

    def again() -> None:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 3e-4))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        while storm.interrupted < SIGNALS:
            try:
                if raised == storm.interrupted:
                    again()
                storm.call()
            except SoftTimeLimit:
                storm.interrupted += 1
            assert raised <= storm.interrupted + 1, "an exception was swallowed"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert raised == storm.interrupted
    storm.check()


@pytest.mark.usefixtures("fast_switches", "no_garbage_collector")
def test_injected_exceptions() -> None:
    """Exceptions that are injected into a thread at random moments reach its caller, while others use the breaker."""
    storm = Storm()
    inject: Any = ctypes.pythonapi.PyThreadState_SetAsyncExc
    over = threading.Event()
    errors: list[BaseException] = []

    def calls() -> None:  # a function of its own: CPython may raise at a loop's jump, outside a `try` around the loop
        while not over.is_set():
            storm.call()

    def victim() -> None:
        while not over.is_set():
            try:
                calls()
            except SoftTimeLimit:
                storm.interrupted += 1

    def calls_again() -> bool:
        """Wait until the victim makes calls again, so that it catches what comes."""
        rounds = storm.rounds
        return wait(lambda: storm.rounds > rounds + 1)

    def bystander() -> None:
        try:
            while not over.is_set():
                permit = storm.breaker.try_admit("pkg.S/M", timeout=1)
                if isinstance(permit, Permit):
                    storm.others += 1
                    permit.ignore()
                storm.breaker.snapshot()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=it, daemon=True) for it in (victim, bystander)]
    for thread in threads:
        thread.start()
    rng, pause = random.Random(3), threading.Event()
    try:
        for sent in range(1, INJECTIONS + 1):
            assert calls_again()
            pause.wait(rng.uniform(0, 3e-4))
            assert inject(ctypes.c_ulong(threads[0].ident or 0), ctypes.py_object(SoftTimeLimit)) == 1
            assert wait(partial(storm.was_interrupted, sent)), "an exception was swallowed"
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
    storm.check()
