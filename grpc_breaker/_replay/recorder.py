"""Records the traffic of a running client in files, for a replay.

1.  What is on the path of a call is an entry in a bounded queue, see `_core/traffic.py`. A daemon thread empties it ten
    times a second, makes lines of it and writes them. So neither a slow disk nor a full one reaches a call.
2.  What does not fit in the queue, or cannot be written, is dropped and counted, and a line says so.
3.  Trouble with the files is logged once, and recording goes on: a disk that was full may have room again.
4.  A forked child has neither the thread nor the right to its parent's file. It records nothing, and forgets what was
    waiting, until it starts a recorder of its own.
"""

from __future__ import annotations

import atexit
import os
import sys
from os import PathLike
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Final, Self

from grpc_breaker._core.breaker import CircuitBreaker
from grpc_breaker._core.log import log_once
from grpc_breaker._core.traffic import Happened, TrafficQueue
from grpc_breaker._registry import BreakerRegistry
from grpc_breaker._replay.lines import Lines
from grpc_breaker._replay.rotation import RotatedFile

_EVERY: Final = 0.1
"""Seconds between two looks at the queue."""

_AT_ONCE: Final = 500
"""Lines made and written in one go: a few milliseconds at most in which other threads wait for this one."""

_PATIENCE: Final = 5.0
"""Seconds that `stop` waits for a disk."""


class TrafficRecorder:
    """Records the calls of breakers in a file, as lines of JSON, for a replay.

    ::

        with TrafficRecorder(breakers, "traffic.jsonl"):
            serve()

    Each attempt of a call that asked a breaker is a line: its method, when it began, how long it took and how it ended;
    refused ones, too, and changes of state. Nothing of requests, answers, metadata or details is recorded. Calls of
    methods without a breaker are not seen; have them guarded with `BreakerPolicy(enforcement_percentage=0)`, which
    refuses none. Calls that were in flight when recording began are not recorded.

    Recording neither delays nor breaks a call; what cannot be recorded is dropped and counted. May be started and
    stopped while calls are in flight, from any thread. A forked child records nothing until it starts a recorder of its
    own, in a file of its own.
    """

    def __init__(
        self,
        breakers: BreakerRegistry | CircuitBreaker,
        path: str | PathLike[str],
        *,
        max_bytes: int = 100_000_000,
        backups: int = 1,
        queue: int = 10_000,
    ) -> None:
        """Make a recorder that is not started yet.

        Args:
            breakers: Whose calls: those of all breakers of a registry, or of one breaker without a registry.
            path: The file. When it is full it becomes `path.1`, the one before `path.2`, and so on; so does a file
                that is there when recording starts.
            max_bytes: How large a file may become, from 10_000. Default 100_000_000, about a million calls.
            backups: How many full files are kept besides, from 1 to 1000; older ones are deleted. Default 1.
            queue: How many calls may wait to be written, from 1; those that find it full are dropped. Default 10_000:
                a tenth of a second at 100_000 calls per second, and a few MB.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A number out of range, or a breaker of a registry.
        """
        if not isinstance(path, str | PathLike) or not os.fspath(path):
            message = f"TrafficRecorder path must be the path of a file, got {path!r}"
            raise TypeError(message)
        _check("max_bytes", max_bytes, 10_000, None)
        _check("backups", backups, 1, 1000)
        _check("queue", queue, 1, None)
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._backups = backups
        self._queue = TrafficQueue(breakers, queue)
        self._lines = Lines(self._queue)
        self._run: _Run | None = None

    @property
    def path(self) -> Path:
        """The file that is written to."""
        return self._path

    @property
    def dropped(self) -> int:
        """How many calls were not recorded, because the queue was full or the file could not be written."""
        return self._queue.dropped

    def start(self) -> None:
        """Begin to record.

        Raises:
            RuntimeError: It was started already.
            OSError: The file cannot be written.
        """
        if self._run is not None:
            message = f"this recorder is recording already, in {self._path}"
            raise RuntimeError(message)
        self._run = _Run(self._queue, self._lines, self._path, self._max_bytes, self._backups)
        _recording.add(self)

    def stop(self) -> None:
        """End, with everything written that was recorded; waits 5 seconds for that at most. Also at exit.

        Does nothing if it was not started.
        """
        run, self._run = self._run, None
        _recording.discard(self)
        if run is not None:
            run.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "idle" if self._run is None else "recording"
        return f"<TrafficRecorder {str(self._path)!r}: {state}, {self.dropped} dropped>"

    def _after_fork(self) -> None:  # pragma: no cover - runs in forked children, where coverage does not follow
        run, self._run = self._run, None
        if run is not None:
            run.forget()


class _Run:
    """The time from a start to a stop: the thread and its file."""

    def __init__(self, queue: TrafficQueue, lines: Lines, path: Path, max_bytes: int, backups: int) -> None:
        self._queue = queue
        self._lines = lines
        self._told_of_dropped = queue.dropped
        self._ended = Event()
        try:
            queue.open()
            self._file = RotatedFile(path, max_bytes, backups, lines.header)
            self._thread = Thread(target=self._record, name="grpc_breaker recorder", daemon=True)
            self._thread.start()
        except BaseException:
            queue.close()
            queue.clear()
            raise
        atexit.register(self.stop)

    def stop(self) -> None:
        """Record nothing more, and wait until everything is written."""
        self._queue.close()
        self._ended.set()
        atexit.unregister(self.stop)
        self._thread.join(_PATIENCE)

    def forget(self) -> None:  # pragma: no cover - runs in forked children, where coverage does not follow
        """Leave it all to the parent process."""
        self._queue.close()
        self._queue.clear()
        atexit.unregister(self.stop)
        self._file.close()

    def _record(self) -> None:
        try:
            while not self._ended.wait(_EVERY):
                self._turn()
            self._turn()
            self._queue.drop(len(self._queue.take(sys.maxsize)))  # what is left could not be written
        finally:
            self._queue.close()  # also where a thread is made to end that is not ours to end
            self._file.close()

    def _turn(self) -> None:
        """Write what waits; trouble is logged once, and what it cost is counted."""
        try:
            self._write_what_waits()
        except Exception:  # noqa: BLE001 - a disk, or a clock of the user's
            log_once("recorded traffic could not be written; calls are dropped until it can be")

    def _write_what_waits(self) -> None:
        queue, file = self._queue, self._file
        while happened := queue.take(_AT_ONCE):
            before = file.lines
            try:
                file.write([line for it in happened if (line := self._line_of(it))])
            finally:
                queue.drop(len(happened) - (file.lines - before))
        dropped = queue.dropped - self._told_of_dropped
        if dropped:
            file.write([self._lines.dropped(dropped)])
            self._told_of_dropped += dropped

    def _line_of(self, happened: Happened) -> str:
        """The line of what happened; empty where there is none."""
        try:
            return self._lines.line(happened)
        except Exception:  # noqa: BLE001 - a status of the user's own that cannot be printed, or a defect of ours
            log_once("a call could not be recorded")
            return ""


def _check(name: str, value: object, least: int, most: int | None) -> None:
    allowed = f"{least} or more" if most is None else f"from {least} to {most}"
    message = f"TrafficRecorder {name} must be an integer, {allowed}, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(message)
    if value < least or (most is not None and value > most):
        raise ValueError(message)


_recording: set[TrafficRecorder] = set()
"""The recorders that record, for forked children; kept here because nothing else may keep one that goes on."""


def _after_fork_in_child() -> None:  # pragma: no cover - runs in forked children, where coverage does not follow
    for recorder in tuple(_recording):
        recorder._after_fork()
    _recording.clear()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
