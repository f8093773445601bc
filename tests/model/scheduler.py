"""Runs threads one at a time and switches between them exactly where it is told to.

Each line of the breaker's own code, or with `opcodes` each of its instructions, is a switch point. A schedule says after
how many switch points of the running thread the next one takes over; the last entry runs to the end. The breaker's lock is
replaced by one that hands over instead of blocking, so a schedule that runs into the lock goes on with its holder.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from grpc_breaker import CircuitBreaker
from grpc_breaker._core import breaker as watched_breaker
from grpc_breaker._core import window as watched_window

WATCHED = {watched_breaker.__file__, watched_window.__file__}
PATIENCE = 20.0


class Scheduler:
    """One run of some threads under one schedule."""

    def __init__(self, schedule: Sequence[int], *, opcodes: bool = False) -> None:
        self.schedule = list(schedule)
        self.opcodes = opcodes
        self.switch_points = 0
        self._left = self.schedule.pop(0) if self.schedule else None
        self._turns: list[threading.Semaphore] = []
        self._alive: list[bool] = []
        self._current = 0
        self._over = threading.Event()
        self._trouble: list[BaseException] = []

    def run(self, *actors: Callable[[], object]) -> list[Any]:
        """Run the actors to their ends; answers what they returned."""
        results: list[Any] = [None] * len(actors)
        self._turns = [threading.Semaphore(0) for _ in actors]
        self._alive = [True] * len(actors)

        def life(me: int) -> None:
            self._turns[me].acquire(timeout=PATIENCE)
            sys.settrace(self._trace)
            try:
                results[me] = actors[me]()
            except BaseException as error:
                self._trouble.append(error)
            finally:
                sys.settrace(None)
                self._alive[me] = False
                self._hand_over()

        threads = [threading.Thread(target=life, args=(n,), daemon=True) for n in range(len(actors))]
        for thread in threads:
            thread.start()
        self._turns[0].release()
        assert self._over.wait(PATIENCE), "deadlock"
        for thread in threads:
            thread.join(PATIENCE)
        if self._trouble:
            raise self._trouble[0]
        return results

    def blocked(self) -> None:
        """The running thread cannot go on: another must."""
        self._switch()

    def me(self) -> int:
        """Who is running."""
        return self._current

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in WATCHED:
            return None
        frame.f_trace_opcodes = self.opcodes
        if event == ("opcode" if self.opcodes else "line"):
            self.switch_points += 1
            if self._left is not None:
                if self._left == 0:
                    self._left = self.schedule.pop(0) if self.schedule else None
                    self._switch()
                else:
                    self._left -= 1
        return self._trace

    def _switch(self) -> None:
        me = self._current
        self._hand_over()
        if self._current != me:
            assert self._turns[me].acquire(timeout=PATIENCE)

    def _hand_over(self) -> None:
        """Give the turn to the next thread that lives."""
        count = len(self._alive)
        for step in range(1, count + 1):
            other = (self._current + step) % count
            if self._alive[other]:
                if other != self._current:
                    self._current = other
                    self._turns[other].release()
                return
        self._over.set()


class CooperativeLock:
    """Re-entrant, like the breaker's; a thread that finds it held hands over to the next."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._owner: int | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True) -> bool:
        me = self._scheduler.me()
        while self._owner not in {None, me}:
            if not blocking:
                return False
            self._scheduler.blocked()
        self._owner = me
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


def play(breaker: CircuitBreaker, scheduler: Scheduler, *actors: Callable[[], object]) -> list[Any]:
    """Let the actors loose on a breaker under a schedule."""
    kept = breaker._lock
    breaker._lock = CooperativeLock(scheduler)  # type: ignore[assignment]
    try:
        return scheduler.run(*actors)
    finally:
        breaker._lock = kept
