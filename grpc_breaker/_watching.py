"""A thread that looks at a file now and then, and reloads it when its content has changed.

It holds the registry only weakly, so it ends with it; and it is a daemon, so it keeps no process alive. A forked child,
which has none of its parent's threads, starts its own.
"""

from __future__ import annotations

import os
import weakref
from os import PathLike
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final, Protocol

from grpc_breaker._core.log import logger, warn
from grpc_breaker._service_config.source import MOST_BYTES

_SHORTEST: Final = 0.01
_LONGEST: Final = 1e6


class Reloading(Protocol):
    """What a watcher needs of a registry."""

    def reload(self, source: Any) -> Any:
        """Put a service config in force."""
        ...


class Watcher:
    """Reloads a file into a registry while both are there."""

    def __init__(self, registry: Reloading, path: str | PathLike[str], every: float) -> None:
        """Begin.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: `every` is out of range.
        """
        if not isinstance(path, str | PathLike) or path == "":
            message = f"watch takes the path of a file, got {path!r}"
            raise TypeError(message)
        message = f"watch every must be a number of seconds from {_SHORTEST:g} to {_LONGEST:g}, got {every!r}"
        if isinstance(every, bool) or not isinstance(every, int | float):
            raise TypeError(message)
        if not _SHORTEST <= every <= _LONGEST:
            raise ValueError(message)
        self._registry = weakref.ref(registry)
        self._path = Path(path)
        self._every = float(every)
        self._ended = Event()
        self._seen: bytes | None = None
        self._trouble = ""
        _watchers.add(self)
        self.start()

    def start(self) -> None:
        """Start the thread, which keeps this object alive; again in a forked child."""
        Thread(target=self._watch, name="grpc_breaker service config", daemon=True).start()

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing to watch any more."""
        return self._ended.is_set() or self._registry() is None

    def stop(self) -> None:
        """End it. A reload that is under way is finished."""
        self._ended.set()

    def _watch(self) -> None:
        while not self.has_ended:
            self._look()
            self._ended.wait(self._every)

    def _content(self) -> bytes:
        """What is in the file, as far as a document may go."""
        with self._path.open("rb") as file:
            return file.read(MOST_BYTES + 1)

    def _look(self) -> None:
        """Reload the file if it is another one than at the last look."""
        registry = self._registry()
        try:
            content = self._content()
            if registry is None or content == self._seen:
                return
            self._seen = content
            result = registry.reload(self._path)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a file, the next one may be good
            self._seen = None  # the reload may have met another content, and this one not been taken
            if str(error) != self._trouble:
                self._trouble = str(error)
                warn("a service config was not taken, and what was in force stays: %s", error)
        else:
            self._trouble = ""
            logger.info("service config %s was read: %s", self._path, result)


_watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
"""Every watcher of the process, for forked children."""


def _after_fork_in_child() -> None:  # pragma: no cover - runs in forked children, where coverage does not follow
    for watcher in tuple(_watchers):
        if not watcher.has_ended:
            watcher.start()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
