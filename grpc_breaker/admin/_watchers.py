"""The clients that watch the breakers of a process, and how they are told of changes.

A change of state happens on the thread of a caller, which only wakes the notifier: a thread that lives while anybody
watches. It looks at the breakers once for all watchers, and wakes them. Each has its own pace: one that cannot send
keeps nobody waiting, and is told what is true by then when it can.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from random import random
from typing import Final

import grpc

from grpc_breaker._core.events import StateChange
from grpc_breaker._core.log import log_once
from grpc_breaker._core.registry import Registry
from grpc_breaker.admin._messages import text
from grpc_breaker.admin._overviews import Overview, OverviewCache
from grpc_breaker.admin._requests import RefusedError, Wanted
from grpc_breaker.admin._threads import start
from grpc_breaker.admin.v1 import admin_pb2

_PAUSE: Final = 0.05
"""Seconds between two notifications: an outage in which everything opens is a few responses, not hundreds."""


_SPREAD: Final = 0.15
"""Seconds within which watchers with one interval are told: fewer than those for which counts are fresh."""

_MOMENT: Final = 0.2
"""Seconds that sending may take when the server stops."""

STOPPING: Final = "the server stops"
"""What a watch ends with then."""

NO_THREAD: Final = "this process can start no thread; ListBreakers may work"
"""What a watch is refused with then."""


class Listening:
    """A client whose call goes on, and gets a response now and then."""

    def __init__(self, wake: Callable[[], object], cancel: Callable[[], object]) -> None:
        """Begin.

        Args:
            wake: Ends its wait; safe to call from any thread.
            cancel: Ends its call at once; the same.
        """
        self.wake = wake
        self.cancel = cancel
        self.sending = False
        """Whether it is sending; it may be stuck in that."""
        self.over = False
        """Whether it has been told all that it asked for."""

    def when_due(self) -> bytes:
        """What it is to be told when its time has come; may take a while."""
        raise NotImplementedError

    def when_woken(self) -> bytes:
        """What it is to be told when it was woken before its time; empty where it is nothing."""
        raise NotImplementedError

    def seconds_to_wait(self) -> float:
        """Until its next response."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what it holds, once its call has ended."""


class Watcher(Listening):
    """A client that watches: what it was told, and when it is told again."""

    def __init__(
        self,
        overviews: OverviewCache,
        wanted: Wanted,
        interval: float,
        first: bytes,
        wake: Callable[[], object],
        cancel: Callable[[], object],
    ) -> None:
        """Begin with nothing told.

        Args:
            overviews: Where it looks.
            wanted: What it watches.
            interval: Seconds between two responses at most.
            first: The part of the first response that later ones have not, encoded.
            wake: As for `Listening`.
            cancel: As for `Listening`.
        """
        super().__init__(wake, cancel)
        self._overviews = overviews
        self._wanted = wanted
        self._interval = interval
        self._first = first
        self._told: set[str] = set()
        self._late = random() * _SPREAD  # noqa: S311 - no secret
        self._version = -1

    def when_due(self) -> bytes:
        """What it is to be told now; empty where it knows everything."""
        return self._response(self._overviews.recent())

    def when_woken(self) -> bytes:
        """The same, by the last overview that anyone has had made."""
        return self._response(self._overviews.latest)

    def _response(self, overview: Overview) -> bytes:
        since, first = self._version, self._first
        if overview.version == since:
            return b""
        key = (since, self._wanted.key)
        told = overview.responses.get(key)
        if told is None:
            told = self._told_of(overview)
            if not first:  # what is told first has times in it that pass
                overview.responses[key] = told
        self._version, self._first = overview.version, b""
        news, self._told = told
        return first + news

    def _told_of(self, overview: Overview) -> tuple[bytes, set[str]]:
        """What it is to be told of an overview, and the names that it knows then."""
        since, wanted, known = self._version, self._wanted, self._told
        matching = wanted.among(overview.entries.values())
        names = {it.name for it in matching}
        parts = [it.encoded() for it in matching if it.version > since or it.name not in known]
        if gone := known - names:
            message = admin_pb2.WatchBreakersResponse(removed=[text(it) for it in sorted(gone)])
            parts.append(message.SerializeToString())
        if since >= 0:
            news = (it for it in overview.changes if it.version > since)
            parts += (it.encoded for it in news if wanted.has(it.breaker, *it.states))
        return b"".join(parts), names

    def seconds_to_wait(self) -> float:
        """Until its next response. The waits of all with one interval end almost together, so that one look serves
        them; almost, because calls would wait for as many responses as there are watchers.
        """
        return self._interval - (time.monotonic() - self._late) % self._interval


class Watchers:
    """All clients that watch, and what notifies them. Safe to use from any thread."""

    def __init__(self, breakers: Registry, overviews: OverviewCache, most: int) -> None:
        """Begin with nobody, without a listener or thread."""
        self.overviews = overviews
        """What they look at."""
        self.ended = False
        """Whether the server stops."""
        self._breakers = breakers
        self._most = most
        self._changing = threading.Lock()
        self._watchers: set[Listening] = set()
        self._notifying = False
        self._end_listening: Callable[[], None] = lambda: None
        # Its `put` may interrupt itself, in a signal handler or finalizer that makes a call; an Event would deadlock.
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def add(self, watcher: Listening) -> None:
        """Wake a watcher from now on.

        Raises:
            RefusedError: Too many watch already, the server stops, or the system has no more threads.
        """
        with self._changing:
            if self.ended:  # pragma: no cover - it came in the moment in which the server stopped
                raise RefusedError(grpc.StatusCode.UNAVAILABLE, STOPPING)
            if len(self._watchers) >= self._most:
                message = f"{self._most} watch already, and more are not allowed; ListBreakers works"
                raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
            if not self._notifying:
                try:
                    start(self._notify)  # which waits until it is woken
                except RuntimeError:
                    raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, NO_THREAD) from None
                self._notifying = True
            if not self._watchers:
                self._end_listening = self._breakers.on_state_change(self._wake_notifier)
            self._watchers.add(watcher)

    def remove(self, watcher: Listening) -> None:
        """Wake a watcher no longer, and close it."""
        watcher.close()
        with self._changing:
            self._watchers.discard(watcher)
            if not self._watchers:
                self._end_listening()
                self._wakes.put(None)

    def end(self) -> None:
        """Have all who watch end, because the server stops; one that is stuck in sending is cut off."""
        with self._changing:
            self.ended = True
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.wake()
        if any(it.sending for it in watchers):
            with contextlib.suppress(RuntimeError):  # without a thread for it, it takes the grace of the server
                start(lambda: _cut_off(watchers))

    def _wake_notifier(self, _change: StateChange) -> None:
        """Wake the notifier, on the thread of a caller."""
        if self._wakes.empty():
            self._wakes.put(None)

    def _notify(self) -> None:
        while True:
            self._wakes.get()
            with self._changing:
                watchers = list(self._watchers)
                if not watchers:
                    self._notifying = False
                    return
            try:
                self.overviews.refresh()
            except Exception:  # noqa: BLE001 - a clock of the user's: the watchers find out themselves
                log_once("the admin service failed to look at the breakers")
            for watcher in watchers:
                watcher.wake()
            time.sleep(_PAUSE)


def _cut_off(watchers: Iterable[Listening]) -> None:
    time.sleep(_MOMENT)
    for watcher in watchers:
        if watcher.sending:
            watcher.cancel()
