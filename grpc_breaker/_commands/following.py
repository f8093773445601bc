"""Following the breakers of one process, through its restarts: each thing that is learnt is put into a queue."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from queue import Full, Queue
from typing import Any, Final, NamedTuple

import grpc

from grpc_breaker._commands.targets import Target, stub_of, trouble_of
from grpc_breaker.admin.v1 import admin_pb2

_PAUSE: Final = 0.5
"""Seconds before a process that gave no answer is asked again."""

_POLLS: Final = 30
"""How often a process that lets nobody else watch is asked before the next try."""


class News(NamedTuple):
    """What was learnt of a process."""

    target: Target
    response: Any = None
    """A `WatchBreakersResponse`; one with a process begins anew. `None` where it gave no answer."""
    trouble: str = ""
    """Why, then."""


class Follower:
    """Follows one process in a thread of its own, which ends with `stop` or with the command."""

    def __init__(
        self, target: Target, wanted: admin_pb2.Filter, interval: float, timeout: float, news: Queue[News]
    ) -> None:
        """Begin.

        Args:
            target: The process.
            wanted: Which of its breakers.
            interval: Seconds until counts are sent again.
            timeout: Seconds that an answer may be late.
            news: Where what is learnt is put; where it is full, the process is not read.
        """
        self.target = target
        self._request = admin_pb2.WatchBreakersRequest(filter=wanted)
        self._request.interval.FromNanoseconds(int(interval * 1e9))
        self._interval = interval
        self._timeout = timeout
        self._news = news
        self._stopped = threading.Event()
        self._call: Any = None
        self._heard = time.monotonic()
        threading.Thread(target=self._run, name=f"grpc_breaker {target}", daemon=True).start()

    def stop(self) -> None:
        """End."""
        self._stopped.set()
        if self._call is not None:
            self._call.cancel()

    def look(self) -> None:
        """Give up the call of a process that has been silent for too long: it is stopped, or gone without a word."""
        if self._call is not None and time.monotonic() - self._heard > self._interval + self._timeout:
            self._call.cancel()

    def _run(self) -> None:
        with self.target.channel() as channel:
            stub = stub_of(channel)
            while not self._stopped.is_set():
                try:
                    if not self._watch(stub):
                        self._poll(stub)
                except grpc.RpcError as error:
                    self._note(error)
                self._stopped.wait(_PAUSE)

    def _watch(self, stub: Any) -> bool:
        """Take in what a process sends, until it ends or is given up; false where it lets nobody else watch."""
        self._heard = time.monotonic()
        self._call = stub.WatchBreakers(self._request)
        try:
            for response in self._call:
                self._heard = math.inf  # it is not silent while nobody takes what it said
                self._put(News(self.target, response))
                self._heard = time.monotonic()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:  # type: ignore[attr-defined, unused-ignore]
                raise
            return False
        finally:
            self._call = None
        return True

    def _poll(self, stub: Any) -> None:
        """Ask now and then, for a while: there may be room for a watch later."""
        for _ in range(_POLLS):  # pragma: no branch - so long no test takes
            if self._stopped.is_set():
                return
            listed = stub.ListBreakers(
                admin_pb2.ListBreakersRequest(filter=self._request.filter), timeout=self._timeout
            )
            response = admin_pb2.WatchBreakersResponse(process=listed.process, breakers=listed.breakers)
            self._put(News(self.target, response))
            self._stopped.wait(self._interval)

    def _put(self, news: News) -> None:
        """Wait until there is room for what was learnt, or nobody wants it any more."""
        while not self._stopped.is_set():  # pragma: no branch - else it was stopped in this very moment
            with contextlib.suppress(Full):
                self._news.put(news, timeout=_PAUSE)
                return

    def _note(self, error: grpc.RpcError) -> None:
        code: Any = error.code()  # type: ignore[attr-defined, unused-ignore]
        if not self._stopped.is_set():
            silent = "no answer in time: stopped, or too busy"
            ours = code is grpc.StatusCode.CANCELLED
            self._put(News(self.target, trouble=silent if ours else trouble_of(error)))
