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
        self._tasks: deque[Callable[[], None]] = deque()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function soon."""
        future: Future[Any] = Future()
        with self._counting:
            self._tasks.append(partial(_run, future, function, args, kwargs))
            if self._count == self._most:
                return future
            self._count += 1
        start(self._work)
        return future

    def _work(self) -> None:
        while True:
            with self._counting:
                if not self._tasks:
                    self._count -= 1
                    return
                task = self._tasks.popleft()
            task()


def _run(future: Future[Any], function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not future.set_running_or_notify_cancel():  # pragma: no cover - its caller has gone meanwhile
        return
    try:
        result = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
        future.set_exception(error)
    else:
        future.set_result(result)


def start(function: Callable[[], object]) -> None:
    """Run a function in a daemon thread of its own."""
    threading.Thread(target=function, name=NAME, daemon=True).start()
