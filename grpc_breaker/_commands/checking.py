"""`grpc-breaker check`: whether service configs are right, for CI and for editors.

It says everything that is wrong, one problem a line, and ends with 1; with 2 where it was called wrongly.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from grpc_breaker._commands.showing import number, say
from grpc_breaker._core.log import printable
from grpc_breaker._service_config import ServiceConfig, ServiceConfigError, read


def add_to(commands: Any) -> None:
    """Add the command."""
    about = "Say everything that is wrong with service configs, one problem a line, or that they are right."
    ends = "Ends with 0 where every file is right, with 1 where one is not, and with 2 where it was called wrongly."
    parser: argparse.ArgumentParser = commands.add_parser("check", help=about, description=about, epilog=ends)
    parser.add_argument("files", nargs="+", metavar="FILE", help="a service config, in JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check them."""
    wrong = 0
    for file in options.files:
        name = printable(file)
        try:
            config = read(Path(file), None)
        except ServiceConfigError as error:
            wrong = 1
            for problem in error.problems:
                say(f"{name}: {printable(problem)}")
        else:
            say(f"{name}: ok, {_told(config)}")
    return wrong


def _told(config: ServiceConfig) -> str:
    """What a document has policies for."""
    methods = sum("/" in name for name in config.policies)
    told = [number(methods, "method"), number(len(config.policies) - methods, "service")]
    return ", ".join([*told, *(["a default"] if config.default is not None else [])])
