"""The command `grpc-breaker`: which subcommands there are. Each stands in a file of its own in `_commands`."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from grpc_breaker import __version__
from grpc_breaker._commands import checking, completing, getting, holding, listing, recording, replaying, watching, web
from grpc_breaker._commands.asking import INCOMPLETE, complain

COMMANDS: Final = (listing, watching, getting, holding, recording, replaying, web, checking, completing)
"""Each has `add_to(commands)`, which adds its subcommand, with `run(options)` as what it does."""

_INTERRUPTED: Final = 130
_NOBODY_READS: Final = 141
"""What the shell makes of SIGINT and SIGPIPE."""


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    whole = argparse.ArgumentParser(
        prog="grpc-breaker", description="Look at the circuit breakers of processes, and act on them."
    )
    whole.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those after the command's name. Default: those of the process.

    Returns:
        What the process is to end with; see each command. Wrong arguments end the process with 2.
    """
    _prepare_streams()
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OSError as error:  # of the output: what a command cannot read or ask, it says itself
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to complain at the end
        if isinstance(error, BrokenPipeError):  # as in `grpc-breaker list | head`
            return _NOBODY_READS
        with contextlib.suppress(OSError):  # both may be full
            complain(f"the output cannot be written: {error.strerror}")
        return INCOMPLETE
    return code


def _prepare_streams() -> None:
    """Have what the command was started without, and write out what the encoding of the output does not have."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
