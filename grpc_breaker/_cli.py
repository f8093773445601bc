"""The command `grpc-breaker check FILE…`: whether service configs are right, for CI and for editors.

It says everything that is wrong, one problem a line, and ends with 1; with 2 where it was called wrongly.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from grpc_breaker._core.log import printable
from grpc_breaker._service_config import ServiceConfig, ServiceConfigError, read


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those after the command's name. Default: those of the process.

    Returns:
        0 where every file is right, 1 where one is not. Wrong arguments end the process with 2.
    """
    parser = argparse.ArgumentParser(prog="grpc-breaker", description="Check service configs with circuit breakers.")
    commands = parser.add_subparsers(dest="command", required=True)
    summary = "Say everything that is wrong with service configs, one problem a line, or that they are right."
    ends = "Ends with 0 where every file is right, with 1 where one is not, and with 2 where it was called wrongly."
    checking = commands.add_parser("check", help=summary, description=summary, epilog=ends)
    checking.add_argument("files", nargs="+", metavar="FILE", help="a service config, in JSON")
    wrong = 0
    for file in parser.parse_args(arguments).files:
        name = printable(file)
        try:
            config = read(Path(file), None)
        except ServiceConfigError as error:
            wrong = 1
            for problem in error.problems:
                print(f"{name}: {printable(problem)}")  # noqa: T201 - a command prints
        else:
            print(f"{name}: ok, {_told(config)}")  # noqa: T201 - a command prints
    return wrong


def _told(config: ServiceConfig) -> str:
    """What a document has policies for."""
    methods = sum("/" in name for name in config.policies)
    told = [_number(methods, "method"), _number(len(config.policies) - methods, "service")]
    return ", ".join([*told, *(["a default"] if config.default is not None else [])])


def _number(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
