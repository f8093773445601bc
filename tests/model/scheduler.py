"""Runs threads one at a time, and switches between them exactly where a schedule says.

Each line of the watched files, or with `instructions` each instruction of theirs, is a switch point. A schedule says after
how many switch points of the running thread the next one takes over; after its last entry, threads run to their ends.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from tests.support.core import WATCHED

PATIENCE = 20.0
"""Seconds after which a run that does not end fails."""


class Scheduler:
    """One run of some threads under one schedule."""

    def __init__(self, schedule: Sequence[int], *, instructions: bool = False) -> None:
        self.switch_points = 0
        """How many there were, in all threads."""
        self._schedule = list(schedule)
        self._left = self._schedule.pop(0) if self._schedule else None
        self._instructions = instructions
        self._event = "opcode" if instructions else "line"
        self._turns: list[threading.Semaphore] = []
        self._alive: list[bool] = []
        self._current = 0
        self._over = threading.Event()
        self._errors: list[BaseException] = []

    def run(self, *actors: Callable[[], object]) -> list[Any]:
        """Run the actors to their ends.

        Returns:
            What they returned.

        Raises:
            BaseException: What the first of them raised that raised anything.
            AssertionError: They did not end.
        """
        results: list[Any] = [None] * len(actors)
        self._turns = [threading.Semaphore(0) for _ in actors]
        self._alive = [True] * len(actors)

        def life(me: int) -> None:
            self._turns[me].acquire(timeout=PATIENCE)
            sys.settrace(self._trace)
            try:
                results[me] = actors[me]()
            except BaseException as error:
                self._errors.append(error)
            finally:
                sys.settrace(None)
                self._alive[me] = False
                self._hand_over()

        threads = [threading.Thread(target=life, args=(n,), daemon=True) for n in range(len(actors))]
        for thread in threads:
            thread.start()
        self._turns[0].release()
        assert self._over.wait(PATIENCE), "a thread waits for another"
        for thread in threads:
            thread.join(PATIENCE)
        if self._errors:
            raise self._errors[0]
        return results

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in WATCHED:
            return None
        frame.f_trace_opcodes = self._instructions
        if event == self._event:
            self.switch_points += 1
            if self._left is not None:
                if self._left == 0:
                    self._left = self._schedule.pop(0) if self._schedule else None
                    self._switch()
                else:
                    self._left -= 1
        return self._trace

    def _switch(self) -> None:
        """Let the next thread run until it is this one's turn again."""
        me = self._current
        self._hand_over()
        if self._current != me:
            assert self._turns[me].acquire(timeout=PATIENCE)

    def _hand_over(self) -> None:
        """Give the turn to the next thread that has not ended."""
        count = len(self._alive)
        for step in range(1, count + 1):
            other = (self._current + step) % count
            if self._alive[other]:
                if other != self._current:
                    self._current = other
                    self._turns[other].release()
                return
        self._over.set()
