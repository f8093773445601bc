"""Asking several processes the same at once, and what became of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from grpc_breaker._commands.targets import Target, Targets, stub_of, trouble_of
from grpc_breaker._core.log import printable

DONE: Final = 0
"""Everything was done."""
NO: Final = 1
"""The answer is no: a file is wrong, no breaker has the name, or, if that was asked for, a breaker refuses calls."""
MISUSED: Final = 2
"""The command was called wrongly."""
INCOMPLETE: Final = 3
"""A process could not be asked, or did not allow what was asked, and what others answered is shown; or the output could
not be written."""

EPILOG: Final = (
    f"Ends with {DONE} where all was done, {NO} where the answer is no, {MISUSED} where it was called wrongly, and "
    f"{INCOMPLETE} where a process could not be asked or did not allow it."
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one process said."""

    target: Target
    response: Any = None
    """`None` where it gave none."""
    error: Any = None
    """The `grpc.RpcError` then."""

    @property
    def code(self) -> grpc.StatusCode:
        """The status."""
        code: grpc.StatusCode = grpc.StatusCode.OK if self.error is None else self.error.code()
        return code

    @property
    def process(self) -> str:
        """Which process it is, as people call it."""
        return str(self.target) if self.response is None else process_name(self.target, self.response.process)


def process_name(target: Target, process: Any) -> str:
    """A process as people call it: by its program and id on this host, else by its address."""
    return printable(f"{process.program}:{process.pid}") if target.address.startswith("unix:") else str(target)


def ask(targets: Sequence[Target], method: str, request: Any, timeout: float) -> list[Answer]:
    """Ask all of them, and wait until each has answered or its time is over."""
    channels = [target.channel() for target in targets]
    try:
        calls = [getattr(stub_of(channel), method).future(request, timeout=timeout) for channel in channels]
        return [_answer(target, call) for target, call in zip(targets, calls, strict=True)]
    finally:
        for channel in channels:
            channel.close()


def _answer(target: Target, call: Any) -> Answer:
    try:
        return Answer(target, call.result())
    except grpc.RpcError as error:
        return Answer(target, error=error)


def find_targets(options: argparse.Namespace) -> list[Target]:
    """The processes to ask, once.

    Raises:
        SystemExit: There is none, or they cannot be looked for.
    """
    try:
        targets = Targets.of(options)
        found = targets.now()
    except (OSError, ValueError) as error:
        complain(str(error))
        raise SystemExit(MISUSED) from None
    if not found:
        complain(targets.none_found)
        raise SystemExit(INCOMPLETE)
    return found


def complain(message: str) -> None:
    """Say what went wrong, beside the output."""
    sys.stderr.write(f"grpc-breaker: {message}\n")


def complain_of(answers: Sequence[Answer]) -> None:
    """Say which processes gave no answer, and why."""
    for answer in answers:
        complain(f"{answer.target}: {trouble_of(answer.error)}")
