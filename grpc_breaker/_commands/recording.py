"""`grpc-breaker record`: the traffic of processes, in files to be played again with `grpc-breaker replay`."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

import grpc

from grpc_breaker._commands import filtering, targets
from grpc_breaker._commands.asking import DONE, EPILOG, INCOMPLETE, MISUSED, complain, find_targets
from grpc_breaker._commands.holding import duration
from grpc_breaker._commands.showing import number, say
from grpc_breaker._commands.targets import Target, stub_of, trouble_of
from grpc_breaker._core.log import printable
from grpc_breaker.admin.v1 import admin_pb2

_TURN: Final = 0.1
"""Seconds between two looks at who is silent."""
_SIGN_OF_LIFE: Final = 1.0
"""Seconds within which a process sends something."""
_CALL: Final = '{"time"'
"""How the line of a call begins."""


def add_to(commands: Any) -> None:
    """Add the command."""
    about = (
        "Record the calls of breakers as they end (times, methods, statuses), to be played again with other policies. "
        "Each process is recorded in a file of its own. Ctrl-C ends it early, with what was recorded by then."
    )
    parser: argparse.ArgumentParser = commands.add_parser(
        "record", help="Record the traffic of processes, to be played again.", description=about, epilog=EPILOG
    )
    filtering.add_name(parser)
    parser.add_argument(
        "--for",
        dest="seconds",
        type=duration("1d"),
        default=60,
        metavar="TIME",
        help="for how long: 90s, 10m, 1h30m; at most 1d (default: 1m)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="a new file; where there are several processes, each has one with its host and id before the ending",
    )
    parser.add_argument(
        "--max-calls", type=_calls, default=1_000_000, metavar="N", help="calls of each process (default: 1000000)"
    )
    targets.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Record, until the time is over or Ctrl-C."""
    found = find_targets(options)
    output: Path = options.output
    if output.exists():
        complain(f"{printable(str(output))}: it exists already; name a new file")
        return MISUSED
    request = admin_pb2.RecordTrafficRequest(filter=admin_pb2.Filter(name=options.name), max_calls=options.max_calls)
    request.duration.seconds = options.seconds
    name = _one if len(found) == 1 else _one_of_several
    recordings = [_Recording(target, request, lambda it: name(output, it), options.timeout) for target in found]
    with contextlib.suppress(KeyboardInterrupt):
        while any([it.goes_on() for it in recordings]):  # noqa: C419 - each is looked at
            time.sleep(_TURN)
    for recording in recordings:
        recording.stop()
        if recording.path is not None:
            dropped = f", {recording.dropped} dropped" if recording.dropped else ""
            say(f"{printable(str(recording.path))}: {number(recording.calls, 'call')}{dropped}")
        if recording.trouble:
            complain(f"{recording.target}: {printable(recording.trouble)}")
    if any(it.wrong for it in recordings):
        return MISUSED
    return INCOMPLETE if any(it.trouble for it in recordings) else DONE


def _one(output: Path, _header: Any) -> Path:
    return output


def _one_of_several(output: Path, header: Any) -> Path:
    """A file for each process, by its host and id."""
    process = re.sub(r"[^A-Za-z0-9-]", "_", f"{header['host']}-{header['pid']}")
    return output.with_name(f"{output.stem}.{process}{output.suffix}")


class _Recording:
    """The traffic of one process, written by a thread of its own as it comes."""

    def __init__(self, target: Target, request: Any, name: Callable[[Any], Path], timeout: float) -> None:
        """Begin.

        Args:
            target: The process.
            request: What is asked of it.
            name: The file, by the header of the record.
            timeout: Seconds that an answer may be late.
        """
        self.target = target
        self.path: Path | None = None
        """The file; `None` until there is something in it."""
        self.calls = 0
        self.dropped = 0
        self.trouble = ""
        """Why it ended before its time; empty where it did not."""
        self.wrong = False
        """Whether the process says that the command was called wrongly."""
        self._name = name
        self._timeout = timeout
        self._stopped = False
        self._heard = time.monotonic()
        self._channel = target.channel()
        self._call: Any = stub_of(self._channel).RecordTraffic(request)
        self._thread = threading.Thread(target=self._run, name=f"grpc_breaker {target}", daemon=True)
        self._thread.start()

    def goes_on(self) -> bool:
        """Whether it does; a process that has been silent for too long is given up."""
        if time.monotonic() - self._heard > _SIGN_OF_LIFE + self._timeout:
            self._call.cancel()
        return self._thread.is_alive()

    def stop(self) -> None:
        """End it, and wait until what came is in the file."""
        self._stopped = True
        self._call.cancel()
        self._thread.join()
        self._channel.close()

    def _run(self) -> None:
        try:
            self._write(iter(self._call))
        except grpc.RpcError as error:
            code: Any = error.code()  # type: ignore[attr-defined, unused-ignore]
            if not self._stopped:
                self.wrong = code is grpc.StatusCode.INVALID_ARGUMENT
                silent = code is grpc.StatusCode.CANCELLED
                self.trouble = "no answer in time: stopped, or too busy" if silent else trouble_of(error)
        except OSError as error:
            self.trouble = f"{error.filename or self.path}: {error.strerror}"

    def _write(self, responses: Iterator[Any]) -> None:
        first = next(responses, admin_pb2.RecordTrafficResponse())
        try:
            self.path = self._name(json.loads(first.lines[0]))
        except (LookupError, RecursionError, TypeError, ValueError):
            self.trouble = "what it sends is no record of traffic"
            return
        with self.path.open("x", encoding="utf-8") as file:
            for response in chain([first], responses):
                self._heard = time.monotonic()
                file.writelines(f"{line}\n" for line in response.lines)
                file.flush()
                self.calls += sum(line.startswith(_CALL) for line in response.lines)
                self.dropped += response.dropped


def _calls(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000_000:
        message = f"a number of calls from 1 to 1000000000, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return int(text)
