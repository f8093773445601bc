"""Calling the done callbacks of refused calls from a thread of their own, a moment after they were added.

1.  A call of grpcio ends after it was made: its done callbacks run on the thread of its channel, while the code that
    made the call goes on. Callers rely on it. One that makes the next call in such a callback, under a lock of its own,
    would re-enter itself if it were called back inside `add_done_callback` (Google's `ResumableBidiRpc` does that).
2.  A refused call has ended as it is made, unless a callback is added before anyone has seen its end. Then it is
    active for a `MOMENT`, and ends as its first callback is called. Callers that reopen a stream twice, from a callback
    and where they read, find out by `is_active()` that the other one was first.
3.  One thread calls all callbacks of an interceptor, one after the other, as grpcio's does for a channel. So a caller
    that makes a call in each callback has one callback waiting, and not more and more of them.
4.  The thread is there while callbacks wait. What a callback raises is logged once. Nothing is locked: two threads that
    begin at once both call, and both end. A forked child calls none of its parent's callbacks.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.log import log_once

MOMENT: Final = 0.001
"""Seconds between a refusal and its callbacks, about what a call to a server on the same machine takes to fail."""
_PATIENCE: Final = 0.1
"""Seconds after which the end of a call is shown although its callback is held up behind somebody else's."""


class CallbackThread:
    """Calls what it is given, a moment later, in the order in which it was given."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def call_later(self, callback: Callable[[], object]) -> None:
        """Call `callback` on the thread; at once where no thread can be started, because late is better than never."""
        process = os.getpid()
        if self._process != process:  # pragma: no cover - in a forked child, whose coverage is not seen
            self._waiting, self._process = deque(), process
        self._waiting.append(callback)
        thread = self._thread
        if thread is not None and thread.is_alive():
            return
        self._thread = thread = threading.Thread(target=self._run, name="grpc_breaker callbacks", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # Python has no other class for it
            if passes_through(error):
                raise
            self._call_those_waiting()

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait for what a callback brings about, but not for long: another callback may hold up the thread."""
        until = time.monotonic() + _PATIENCE
        while not reached() and time.monotonic() < until:
            time.sleep(MOMENT)

    def _run(self) -> None:
        while self._waiting:
            time.sleep(MOMENT)
            self._call_those_waiting()
            if not self._waiting:
                self._thread = None  # and then the last look whether there is one: who adds one now starts a thread

    def _call_those_waiting(self) -> None:
        """Call each that waits now; those that are added meanwhile come later."""
        for _ in range(len(self._waiting)):
            try:
                callback = self._waiting.popleft()
            except IndexError:  # pragma: no cover - another thread that began at the same time has it
                return
            try:
                callback()
            except BaseException:  # noqa: BLE001 - the thread is ours, and what ends it would keep the others from theirs
                log_once("a done callback of a refused call raised; it is ignored")
