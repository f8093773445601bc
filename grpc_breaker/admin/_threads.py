"""Threads for the calls of an admin service beside those of its server, which an outage may have stuck.

They are made when a call comes, and end when there is none. They are daemons: nothing that a caller of the service
does, or no longer does, keeps the process from ending.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final

NAME: Final = "grpc_breaker-admin"


class DaemonPool(ThreadPoolExecutor):
    """Runs functions in a few daemon threads, in the order they came.

    It is a `ThreadPoolExecutor` because grpcio asks for one; the executor's own threads are joined when the interpreter
    ends, and are never made.
    """

    def __init__(self, most: int) -> None:
        """Make no thread yet.

        Args:
            most: Threads at most.
        """
        super().__init__(1)
        self._most = most
        self._count = 0
        self._counting = threading.Lock()
        self._tasks: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function soon. Never raises: that would end the loop in which a server of `grpc` serves all calls."""
        future: Future[Any] = Future()
        with self._counting:
            self._tasks.append((future, partial(function, *args, **kwargs)))
            if self._count == self._most:
                return future
            self._count += 1
        try:
            start(self._work)
        except RuntimeError as error:
            self._lack_a_thread(error)
        return future

    def _lack_a_thread(self, error: RuntimeError) -> None:
        """Go on with the threads there are. Without any, what waits has failed: it must not be done much later."""
        with self._counting:
            self._count -= 1
            failed = [] if self._count else list(self._tasks)
            if failed:
                self._tasks.clear()
        for future, _ in failed:
            if future.set_running_or_notify_cancel():  # pragma: no branch - else its caller has gone meanwhile
                future.set_exception(error)

    def _work(self) -> None:
        while True:
            with self._counting:
                if not self._tasks:
                    self._count -= 1
                    return
                future, task = self._tasks.popleft()
            _run(future, task)


def _run(future: Future[Any], task: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():  # pragma: no cover - its caller has gone meanwhile
        return
    try:
        result = task()
    except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
        future.set_exception(error)
    else:
        future.set_result(result)


def start(function: Callable[[], object]) -> None:
    """Run a function in a daemon thread of its own.

    Raises:
        RuntimeError: The system has no more threads, or the interpreter ends.
    """
    threading.Thread(target=function, name=NAME, daemon=True).start()
