"""The watchers of all processes, those of this host as they come and go, and the thread that publishes their news."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from grpc_breaker._commands.targets import Target
from grpc_breaker._web.fleet import Fleet
from grpc_breaker._web.watcher import Watcher

PUBLISH_EVERY: Final = 1.0
"""Seconds after which counts are published; a change of state is published at once."""
_PAUSE: Final = 0.1
"""Seconds between two publications, at least: an outage changes many breakers at once."""
_FIND_EVERY: Final = 2.0


class Watchers:
    """Watches what `find` finds, until it is closed."""

    def __init__(
        self,
        fleet: Fleet,
        find: Callable[[], Iterable[Target]],
        make: Callable[[Target, Fleet], Watcher] = Watcher,
        *,
        publish_every: float = PUBLISH_EVERY,
    ) -> None:
        self._fleet = fleet
        self._find = find
        self._make = make
        self._publish_every = publish_every
        self._watchers: dict[str, Watcher] = {}
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="publisher", daemon=True),
            threading.Thread(target=self._look, name="finder", daemon=True),
        ]

    def start(self) -> None:
        """Begin to watch."""
        self.look()
        for thread in self._threads:
            thread.start()

    def look(self) -> None:
        """Look for processes that are new, and for those that are gone or silent."""
        try:
            found = {it.address: it for it in self._find()}
        except OSError:  # the folder of the sockets is not to be trusted any more: stay with what is watched
            return
        for address, watcher in list(self._watchers.items()):
            if not watcher.running:
                del self._watchers[address]
            elif address not in found:
                watcher.stop("its socket is gone")
            else:
                watcher.check_silence()
        for address, target in found.items():
            if address not in self._watchers and self._fleet.add(address):
                self._watchers[address] = self._make(target, self._fleet)
                self._watchers[address].start()

    def stub(self, address: str) -> Any:
        """What asks a process; `None` where it is watched no longer."""
        watcher = self._watchers.get(address)
        return None if watcher is None else watcher.stub

    def close(self) -> None:
        """End everything. Does not wait for the threads of watchers, which end by themselves."""
        self._closing.set()
        self._fleet.close()
        for watcher in list(self._watchers.values()):
            watcher.stop("this page was closed")
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._fleet.publish()
            self._closing.wait(_PAUSE)
            self._fleet.wait_for_news(self._publish_every)

    def _look(self) -> None:
        while not self._closing.wait(_FIND_EVERY):
            self.look()
