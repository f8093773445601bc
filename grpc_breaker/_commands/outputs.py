"""What `grpc-breaker watch` shows of what is learnt of processes: lines, documents, or a table that stays in place."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from grpc_breaker._commands.asking import process_name
from grpc_breaker._commands.following import News
from grpc_breaker._commands.plain import plain_breaker, plain_change, plain_process, state_name
from grpc_breaker._commands.showing import REFUSING, Look, change, clock, number, say, summary, table, why
from grpc_breaker._commands.targets import Target
from grpc_breaker._core.log import printable

_LAST: Final = 10
"""Changes that stand below the table."""


class Process:
    """What is known of one process."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self.name: str = ""
        """As people call it; empty until it has answered."""
        self.breakers: dict[str, Any] = {}
        """By name."""
        self.trouble: str = ""
        """Why it does not answer; empty where it does."""

    def take(self, news: News) -> list[str]:
        """Take in what was learnt; returns what is worth a line."""
        if news.response is None:
            same = bool(self.trouble)
            self.trouble, self.breakers = news.trouble, {}
            return [] if same else [f"unreachable: {news.trouble}"]
        response, before = news.response, self.breakers
        said: list[str] = []
        if response.HasField("process"):
            name = process_name(news.target, response.process)
            if name != self.name or self.trouble:
                said.append(f"watching {number(len(response.breakers), 'breaker')}")
            self.name, self.trouble, self.breakers = name, "", {}
        self.breakers |= {it.name: it for it in response.breakers}
        for gone in response.removed:
            self.breakers.pop(gone, None)
        said += [f"{clock(it.time)}  {change(it)}" for it in response.changes]
        told = {it.breaker for it in response.changes}
        return said + [_now(it, before.get(it.name)) for it in response.breakers if _is_worth_it(it, before, told)]


def _is_worth_it(breaker: Any, before: dict[str, Any], told: set[str]) -> bool:
    """Whether a breaker is worth a line of its own: it refuses calls, or its state is another one, and nobody said."""
    old = before.get(breaker.name)
    if breaker.name in told:
        return False
    return breaker.state in REFUSING if old is None else (old.state, old.sequence) != (breaker.state, breaker.sequence)


def _now(breaker: Any, old: Any) -> str:
    since = clock(breaker.since) if breaker.HasField("since") else " " * 8
    arrow = state_name(breaker.state) if old is None else f"{state_name(old.state)} -> {state_name(breaker.state)}"
    cause = why(breaker)
    return f"{since}  {printable(breaker.name)}  {arrow}{f'  {cause}' if cause else ''}"


class Told(NamedTuple):
    """What was learnt of a process, and what is to be said of it."""

    target: Target
    name: str
    news: News | None
    """`None` where it is gone."""
    said: list[str]


class Output:
    """Where what is learnt is shown."""

    def tell(self, told: Told) -> None:
        """Show what was learnt of a process."""
        raise NotImplementedError

    def turn(self, processes: Mapping[Target, Process]) -> None:  # noqa: ARG002 - for those that show all
        """Show how all are now."""
        sys.stdout.flush()


class Lines(Output):
    """Lines, as for a file."""

    def tell(self, told: Told) -> None:
        """Show what was learnt of a process."""
        for line in told.said:
            say(f"{told.name}  {line}")


class Json(Output):
    """Documents, one a line."""

    def tell(self, told: Told) -> None:
        """Show what was learnt of a process."""
        news = told.news
        document: dict[str, Any] = {"target": told.target.address}
        if news is None:
            document["gone"] = True
        elif news.response is None:
            if not told.said:
                return
            document["error"] = news.trouble
        else:
            response = news.response
            if not response.ByteSize():
                return
            if response.HasField("process"):
                document["process"] = plain_process(response.process)
            document["breakers"] = [plain_breaker(it) for it in response.breakers]
            document["removed"] = list(response.removed)
            document["changes"] = [plain_change(it) for it in response.changes]
        say(json.dumps(document))


class Screen(Output):
    """A table that stays where it is, and the last changes below it."""

    def __init__(self, look: Look) -> None:
        """Begin with an empty screen."""
        self._last: deque[str] = deque(maxlen=_LAST)
        self._shown: list[str] = []
        self._look = look

    def tell(self, told: Told) -> None:
        """Show what was learnt of a process."""
        self._last.extend(f"{told.name}  {line}" for line in told.said)

    def turn(self, processes: Mapping[Target, Process]) -> None:
        """Show how all are now, where anything is new."""
        look = self._look = Look.of(sys.stdout)
        rows = [(it.name, breaker) for it in processes.values() for breaker in it.breakers.values()]
        well = sum(not it.trouble for it in processes.values())
        below = [summary([breaker for _, breaker in rows], well)]
        below += [f"{target}: {it.trouble}" for target, it in processes.items() if it.trouble]
        below += ["", *self._last]
        room = max(3, (look.height or 24) - len(below) - 2)
        lines = [*table(rows, look)[:room], "", *(look.cut(it) for it in below)]
        if lines != self._shown:
            self._shown = lines
            sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
            sys.stdout.flush()
