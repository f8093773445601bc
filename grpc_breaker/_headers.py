"""When the first answer of a stream counts for a probe: its response headers, once they have stood alone for a moment.

1.  Only streams that are probes are looked at, and only while they hold their slot.
2.  A server that fails at once sends its headers and its status together, but grpcio reports them one after the other.
    So headers count when the call still has no status `GRACE` later.
3.  grpcio calls nothing back when headers come, so they are looked for now and then: in asyncio by a timer of the loop
    for each stream, elsewhere by one thread for all streams, which ends when there is none left.
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
"""Seconds that headers must stay alone, and between two looks."""


class HeaderLook:
    """Looks whether the headers of one stream have come, and says so to its permit."""

    __slots__ = ("_headers_came", "_permit", "_since", "_stream")

    def __init__(self, permit: Permit, stream: Any, headers_came: Callable[[Any], bool | None]) -> None:
        """Make a look at the stream of a probe.

        Args:
            permit: The probe's.
            stream: The call, or what grpcio keeps of it; held weakly.
            headers_came: Whether its headers have; `None` once it has ended.
        """
        self._permit = permit
        self._headers_came = headers_came
        self._since = math.inf
        try:
            self._stream: Callable[[], Any] = weakref.ref(stream)
        except TypeError:  # another interceptor's, of a class that cannot be held weakly
            self._stream = _nothing

    def again(self) -> bool:
        """Look once; returns whether to look again, `GRACE` later."""
        try:
            return self._look()
        except Exception as error:  # bookkeeping must not end the thread
            if passes_through(error):
                raise
            log_once("looking for the headers of a probe failed; its final status counts")
            return False

    def _look(self) -> bool:
        stream, now = self._stream(), time.monotonic()
        if stream is None or not self._permit.is_probe:
            return False
        came = self._headers_came(stream)
        if came:
            if now - self._since >= GRACE:
                self._permit.answered()
            self._since = min(self._since, now)
        return came is not None


def _nothing() -> None:
    return None


class HeaderThread:
    """The thread that looks at every stream it is given, there while there is any.

    Nothing is locked: two threads that begin at once both look, and both end. In a forked child the thread is not
    there, and the next stream starts one.
    """

    def __init__(self) -> None:
        self._looks: dict[HeaderLook, None] = {}
        self._thread: threading.Thread | None = None

    def add(self, look: HeaderLook) -> None:
        """Look from now on. Where no thread can be started, the next stream tries again."""
        self._looks[look] = None
        thread = self._thread
        if thread is not None and thread.is_alive():
            return
        self._thread = thread = threading.Thread(target=self._run, name="grpc_breaker headers", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # Python has no other class for it
            if passes_through(error):
                raise

    def _run(self) -> None:
        while self._looks:
            time.sleep(GRACE)
            for look in list(self._looks):
                if not look.again():
                    self._looks.pop(look, None)
            if not self._looks:
                self._thread = None  # and then the last look whether there is one: who adds one now starts a thread


header_thread: Final = HeaderThread()
