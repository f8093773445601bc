"""When a stream has its first answer: its response headers, once they have stood alone for a moment.

1.  An answer is the success of a probe, and it ends a row of failures: then it must be known when it comes. And a
    stream that had one is judged differently when it is cut: that must be known when it ends. grpcio tells the latter
    in asyncio; its blocking streams keep no trace of it, so all of those are looked at until they are answered.
2.  A server that fails at once sends its headers and its status together, but grpcio reports them one after the other.
    So headers count when the call still has no status `GRACE` later.
3.  grpcio calls nothing back when headers come, so they are looked for now and then: in asyncio by a timer of the loop
    for each stream that must be, elsewhere by one thread for all streams, which ends when there is none left. A stream
    that stays silent is looked at less and less often, down to once a second.
4.  Nothing here keeps a call alive, or a loop. A look that cannot be taken is none: the stream's final status counts.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.log import log_once
from grpc_breaker._core.permit import Permit

GRACE: Final = 0.05
"""Seconds that headers must stay alone."""

_LONGEST_PAUSE: Final = 1.0
"""Seconds between two looks at a stream that has been silent for long."""

_LONGEST_SLEEP: Final = 4 * GRACE
"""Seconds, at most, until a stream that is new is looked at first: where the others have been silent for long."""


class HeaderLook:
    """Looks whether the headers of one stream have come, and says so to its permit."""

    __slots__ = ("_headers_came", "_pause", "_permit", "_since", "_stream", "due")

    def __init__(self, permit: Permit, stream: Any, headers_came: Callable[[Any], bool | None]) -> None:
        """Make a look at a stream.

        Args:
            permit: The stream's.
            stream: The call, or what grpcio keeps of it; held weakly.
            headers_came: Whether its headers have; `None` once it has ended.
        """
        self._permit = permit
        self._headers_came = headers_came
        self._since = math.inf
        self._pause = GRACE
        self.due = -math.inf
        """When to look; at once, until it has looked."""
        self._stream = _held_weakly(stream)

    def again(self) -> float | None:
        """Look once; returns the seconds until the next look, or `None` where there is nothing more to see."""
        try:
            return self._look()
        except Exception as error:  # bookkeeping must not end the thread
            if passes_through(error):
                raise
            log_once("looking for the headers of a stream failed; its final status counts")
            return None

    def _look(self) -> float | None:
        stream, now = self._stream(), time.monotonic()
        if stream is None or self._permit.was_answered or self._permit.settled:
            return None
        came = self._headers_came(stream)
        if came is None:
            return None
        if not came:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        elif now - self._since >= GRACE:
            self._permit.answered()
            return None
        else:
            self._since = min(self._since, now)
            self._pause = GRACE
        self.due = now + self._pause
        return self._pause


def _held_weakly(stream: Any) -> Callable[[], Any]:
    """What returns the stream while it lives."""
    try:
        return weakref.ref(stream)
    except TypeError:  # another interceptor's, of a class that cannot be held weakly
        return _nothing


def _nothing() -> None:
    return None


class HeaderThread:
    """The thread that looks at every stream it is given, there while there is any.

    Nothing is locked: two threads that begin at once both look, and both end. In a forked child the thread is not
    there, and the next stream starts one.
    """

    def __init__(self, headers_came: Callable[[Any], bool | None]) -> None:
        """Make it; `headers_came`: see `HeaderLook`."""
        self._headers_came = headers_came
        self._streams: dict[Permit, Callable[[], Any] | HeaderLook] = {}
        """What looks at each stream; at first the stream itself, because most end before anyone looks."""
        self._thread: threading.Thread | None = None

    def add(self, permit: Permit, stream: Any) -> None:
        """Look at a stream from now on. Where no thread can be started, the next stream tries again."""
        self._streams[permit] = _held_weakly(stream)
        thread = self._thread
        if thread is not None and thread.is_alive():
            return
        self._thread = thread = threading.Thread(target=self._run, name="grpc_breaker headers", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # Python has no other class for it
            if passes_through(error):
                raise

    def forget(self, permit: Permit) -> None:
        """Look at a stream no more; does nothing if nobody does."""
        self._streams.pop(permit, None)

    def _run(self) -> None:
        while True:
            self._look_while_there_are_any()
            self._thread = None  # who adds a stream from now on starts a thread
            if not self._streams:  # pragma: no branch - else one came before that
                return

    def _look_while_there_are_any(self) -> None:
        pause = GRACE
        while self._streams:
            time.sleep(pause)
            now = time.monotonic()
            pause = min(max(GRACE, self._look_at_all(now) - now), _LONGEST_SLEEP)

    def _look_at_all(self, now: float) -> float:
        """Look at those that are due; returns when the next one is."""
        next_due = math.inf
        for permit, stream in list(self._streams.items()):
            if isinstance(stream, HeaderLook):
                look = stream
            else:  # perhaps of one that has ended meanwhile: the look forgets it
                look = self._streams[permit] = HeaderLook(permit, stream(), self._headers_came)
            if look.due <= now and look.again() is None:
                self._streams.pop(permit, None)
            else:
                next_due = min(next_due, look.due)
        return next_due
