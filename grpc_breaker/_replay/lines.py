"""The lines of a record of traffic: one call in each, as JSON. The format stands in `docs/recording.md`.

What a line says of a call are the facts that its breaker was told. `outcome` is left out where the breaker's policy
says the same of the status, the time and the deadline in the line: another policy is then free to say something else of
them. It is there where the breaker knew more, as from a classifier. Of details there is no more in a line than words of
grpcio's own by which a failure is one of many, or reached no server.
"""

from __future__ import annotations

import json
import math
import os
import socket
from typing import Any, Final

import grpc

from grpc_breaker._core.events import StateChange
from grpc_breaker._core.permit import LEASE_GRACE
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.recording import RecordedCall
from grpc_breaker._core.refusing import Rejection
from grpc_breaker._core.state import Outcome
from grpc_breaker._core.target import split_target
from grpc_breaker._core.traffic import Happened, TrafficQueue
from grpc_breaker._rpc import telling_words, verdict

FORMAT: Final = 1

_UNNAMED: Final = {Outcome.SUCCESS: "OK", Outcome.FAILURE: "UNKNOWN", Outcome.IGNORED: "CANCELLED"}
"""The status of a call whose breaker was told none: as of one that was thrown away, or given up by its caller."""

_UNNAMED_METHOD: Final = "unnamed"
"""The method of a call to none: gRPC lets applications call "/"."""

_CODES: Final = {code.name: code for code in grpc.StatusCode}

_MOST_WORDS: Final = 10_000
"""Names that are kept as JSON has them."""


class Lines:
    """Writes lines of what a queue has let in."""

    def __init__(self, queue: TrafficQueue) -> None:
        self._queue = queue
        self._quoted: dict[str, str] = {}
        self._of_methods: dict[tuple[str, str, bool], tuple[str, str]] = {}

    def header(self) -> str:
        """The first line of a file."""
        from grpc_breaker import __version__  # noqa: PLC0415 - which imports what is here

        return _line(
            grpc_breaker_traffic=FORMAT,
            started=round(self._queue.now(), 6),
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
        )

    def dropped(self, many: int) -> str:
        """So many are missing here."""
        return _line(dropped=many, time=round(self._queue.now(), 6))

    def line(self, happened: Happened) -> str:
        """The line of what happened."""
        if isinstance(happened, tuple):
            return self._call(happened)
        if isinstance(happened, StateChange):
            return self._change(happened)
        return self._refusal(happened)

    def _call(self, call: RecordedCall) -> str:
        breaker, began, ended, method, outcome, status, details, lease_end, timed = call
        key = (breaker.name, method, timed)
        called, where = self._of_methods.get(key) or self._of_method(key)
        duration = ended - began if ended > began else 0.0
        line = f'{{"time": {self._queue.time_of(began):.6f}, "method": {called}, "duration": {duration:.6f}, "status": '
        deadline = None
        if lease_end != math.inf:
            deadline = round(max(lease_end - began - LEASE_GRACE, 0.0), 6)
            where = f', "deadline": {deadline!r}{where}'
        if outcome is Outcome.SUCCESS and status == "OK" and status.__class__ is str and breaker.policy.plain:
            return f'{line}"OK"{where}}}\n'
        outcome = Outcome(outcome)  # which may have been given as text
        told = str(status) or _UNNAMED[outcome]
        words = telling_words(told, str(details)) if outcome is Outcome.FAILURE and details else ""
        if words:
            where += f', "details": {self._quote(words)}'
        if outcome is not _by_status(breaker.policy, told, words, duration, deadline, stream=not timed):
            where += f', "outcome": "{outcome}"'
        return f"{line}{self._quote(told)}{where}}}\n"

    def _of_method(self, key: tuple[str, str, bool]) -> tuple[str, str]:
        """What the lines of a breaker's method say of it, before and after what differs with each call."""
        breaker, method, timed = key
        name, target = split_target(breaker)
        where = f', "target": {self._quote(target)}' if target else ""
        if not timed:
            where += ', "stream": true'
        if len(self._of_methods) >= _MOST_WORDS:
            self._of_methods.clear()
        said = self._of_methods[key] = self._method(method or name), where
        return said

    def _refusal(self, rejection: Rejection) -> str:
        method = self._method(rejection.method or split_target(rejection.breaker)[0])
        target = f', "target": {self._quote(rejection.target)}' if rejection.target else ""
        return (
            f'{{"time": {self._queue.time_of(rejection.at):.6f}, "method": {method}, "duration": 0.0, '
            f'"status": "{rejection.code}"{target}, "refused": "{rejection.reason}"}}\n'
        )

    def _change(self, change: StateChange) -> str:
        time = round(self._queue.time_of(change.at), 6)
        return _line(change=str(change.state), breaker=change.breaker, reason=str(change.reason), time=time)

    def _method(self, name: str) -> str:
        return self._quote(name if name.strip("/ ") else _UNNAMED_METHOD)

    def _quote(self, text: str) -> str:
        quoted = self._quoted.get(text)
        if quoted is None:
            if len(self._quoted) >= _MOST_WORDS:
                self._quoted.clear()
            quoted = self._quoted[text] = json.dumps(text)
        return quoted


def _by_status(
    policy: BreakerPolicy, status: str, words: str, duration: float, deadline: float | None, *, stream: bool
) -> Outcome | None:
    """What a policy says of a call by what its line says; `None` of an exception's name, of which it says nothing."""
    code = _CODES.get(status)
    return None if code is None else verdict(policy, code, words, duration, deadline, stream=stream)


def _line(**fields: Any) -> str:
    return f"{json.dumps(fields)}\n"
