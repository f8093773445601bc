"""The command `grpc-breaker`: which subcommands there are. Each stands in a file of its own in `_commands`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from grpc_breaker import __version__
from grpc_breaker._commands import checking, completing, getting, holding, listing, recording, replaying, watching, web

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
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # as in `grpc-breaker list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to complain at the end
        return _NOBODY_READS
    return code
