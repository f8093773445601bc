"""`grpc-breaker watch`: changes of breakers in all processes as they happen; in a terminal, the table as it is, too."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from queue import Empty, Queue
from typing import Any, Final

from grpc_breaker._commands import filtering, targets
from grpc_breaker._commands.asking import DONE, EPILOG, complain, find_targets
from grpc_breaker._commands.following import Follower, News
from grpc_breaker._commands.outputs import Json, Lines, Output, Process, Screen, Told
from grpc_breaker._commands.showing import Look
from grpc_breaker._commands.targets import Target, Targets
from grpc_breaker.admin.v1 import admin_pb2

_TURN: Final = 0.25
"""Seconds between two looks at what has come."""
_WAITING: Final = 16
"""What may have come and not been shown, where a terminal is paused. Processes are not read then, and keep only the
newest."""
_SEARCH: Final = 1.0
"""Seconds between two searches for processes that came or went."""


def add_to(commands: Any) -> None:
    """Add the command."""
    about = "Show changes of breakers as they happen, until Ctrl-C; in a terminal, the table of all, too."
    parser: argparse.ArgumentParser = commands.add_parser("watch", help=about, description=about, epilog=EPILOG)
    filtering.add_options(parser)
    parser.add_argument(
        "--interval",
        type=targets.seconds(0.2, 60),
        default=1.0,
        metavar="SECONDS",
        help="how often counts are sent (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document a line")
    targets.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show them until Ctrl-C."""
    first = find_targets(options)
    look = Look.of(sys.stdout)
    screen: Output = Json() if options.json else Lines() if look.height is None else Screen(look)
    watch = _Watch(options, screen)
    with contextlib.suppress(KeyboardInterrupt):
        watch.run(first)
    watch.stop()
    return DONE


class _Watch:
    """Follows all processes."""

    def __init__(self, options: argparse.Namespace, output: Output) -> None:
        self._targets = Targets.of(options)
        self._wanted: admin_pb2.Filter = filtering.filter_of(options)
        self._options = options
        self._output = output
        self._news: Queue[News] = Queue(_WAITING)
        self._followers: dict[Target, Follower] = {}
        self._processes: dict[Target, Process] = {}

    def run(self, found: list[Target]) -> None:
        """Follow them, and those that come later, until Ctrl-C."""
        search = 0.0
        while True:
            now = time.monotonic()
            if now >= search:
                self._follow(found)
                search = now + _SEARCH
            self._take(now + _TURN)
            for follower in self._followers.values():
                follower.look()
            self._output.turn(self._processes)
            if time.monotonic() >= search:
                found = self._search(found)

    def _search(self, before: list[Target]) -> list[Target]:
        try:
            return self._targets.now()
        except OSError as error:
            complain(str(error))
            return before

    def _follow(self, found: list[Target]) -> None:
        """Follow the processes that there are now, and no others."""
        interval, timeout = self._options.interval, self._options.timeout
        for target in found:
            if target not in self._followers:
                self._processes[target] = Process()
                self._followers[target] = Follower(target, self._wanted, interval, timeout, self._news)
        for target in self._followers.keys() - set(found):
            self._followers.pop(target).stop()
            self._output.tell(Told(target, self._processes.pop(target).name or str(target), None, ["gone"]))

    def _take(self, until: float) -> None:
        """Take in what comes, and show it at once."""
        while (left := until - time.monotonic()) > 0:  # pragma: no branch - else so much has come that time is over
            try:
                news = self._news.get(timeout=left)
            except Empty:
                return
            process = self._processes.get(news.target)
            if process is not None:  # pragma: no branch - else it has gone meanwhile
                said = process.take(news)
                self._output.tell(Told(news.target, process.name or str(news.target), news, said))
                if self._news.empty():  # pragma: no branch - else the next one shows both
                    self._output.turn(self._processes)

    def stop(self) -> None:
        """Follow nobody any more."""
        for follower in self._followers.values():
            follower.stop()
