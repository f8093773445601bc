"""Watches one process: a stream of what changes, or, where too many watch it already, a question every few seconds.

Everything that the merged state hears of a process, it hears from this one thread. A stream says something in each
interval. One that is silent for longer is ended: a process that was stopped, or a network that was cut, ends none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import grpc
from google.protobuf.duration_pb2 import Duration

from grpc_breaker._commands.targets import TIMEOUT, Target, stub_of, trouble_of
from grpc_breaker._web.fleet import Fleet
from grpc_breaker.admin.v1 import admin_pb2 as pb

COUNTS_EVERY: Final = 2
"""Seconds that counts may wait in the process; changes of state are sent at once. Half the cost of the usual second."""
POLLS: Final = 30
"""After so many questions it tries to watch again."""
SILENCE: Final = COUNTS_EVERY + 5.0
"""Seconds of silence after which a stream is ended."""


class Watcher:
    """One thread that watches one process."""

    def __init__(
        self,
        target: Target,
        fleet: Fleet,
        *,
        timeout: float = TIMEOUT,
        pause: float = 1.0,
        poll_every: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = target.address
        self._fleet = fleet
        self._timeout = timeout
        self._pause = pause
        self._poll_every = poll_every
        self._stopping = threading.Event()
        self._farewell = ""
        self._clock = clock
        """For silence. That of the fleet is set, and goes on while the machine sleeps."""
        self._heard = clock()
        self._stream: Any = None
        self._channel = target.channel()
        self.stub = stub_of(self._channel)
        """What asks the process."""
        self._thread = threading.Thread(target=self._run, name=f"watcher of {target}", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self, farewell: str) -> None:
        """Watch no longer; the process is gone, and why. Does not wait."""
        self._farewell = farewell
        self._stopping.set()
        self._cancel()

    @property
    def running(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def check_silence(self) -> None:
        """End the stream where nothing was heard for too long."""
        if self._clock() - self._heard > SILENCE:
            self._cancel()

    def _cancel(self) -> None:
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def _run(self) -> None:
        with self._channel:
            while not self._stopping.is_set():
                trouble = self._watch_or_poll()
                if trouble:
                    self._fleet.lost(self._address, trouble)
                    self._stopping.wait(self._pause)
        self._fleet.remove(self._address, self._farewell)

    def _watch_or_poll(self) -> str:
        """Watch for as long as it goes, or poll for a while; returns why it goes no longer."""
        try:
            self._watch()
        except grpc.RpcError as error:
            code = error.code()  # type: ignore[attr-defined, unused-ignore]
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                return self._poll()
            return "it does not answer" if code is grpc.StatusCode.CANCELLED else trouble_of(error)
        return "it has ended the watch"

    def _watch(self) -> None:
        self._heard = self._clock()
        self._stream = self.stub.WatchBreakers(pb.WatchBreakersRequest(interval=Duration(seconds=COUNTS_EVERY)))
        if self._stopping.is_set():  # `stop` may have come when there was nothing to cancel
            self._cancel()
        first = True
        for response in self._stream:
            self._heard = self._clock()
            if first:
                self._fleet.connected(self._address, response.process, response.breakers, polled=False)
            else:
                self._fleet.updated(self._address, response)
            first = False

    def _poll(self) -> str:
        """Ask again and again; returns why that goes no longer, nothing where it is time to try to watch."""
        for number in range(POLLS):
            try:
                response = self.stub.ListBreakers(pb.ListBreakersRequest(), timeout=self._timeout)
            except grpc.RpcError as error:
                return trouble_of(error)
            if number:
                self._fleet.replaced(self._address, response.process, response.breakers)
            else:
                self._fleet.connected(self._address, response.process, response.breakers, polled=True)
            if self._stopping.wait(self._poll_every):
                break
        return ""
