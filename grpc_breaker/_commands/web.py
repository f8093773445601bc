"""`grpc-breaker web`: the live page, on the operator's own machine, until Ctrl-C.

It ends with 0 then, and with 2 where it cannot begin.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

from grpc_breaker._commands.asking import DONE, MISUSED
from grpc_breaker._commands.targets import add_options

PORT: Final = 8384


def add_to(commands: Any) -> None:
    """Add the command to those of `grpc-breaker`."""
    summary = "Show the breakers of all processes as a live page in the browser."
    more = "The page is on 127.0.0.1 alone, and only for those who have the printed address. Ctrl-C ends it."
    ends = f"Ends with {DONE} at Ctrl-C, and with {MISUSED} where it cannot begin."
    parser = commands.add_parser("web", help=summary, description=f"{summary} {more}", epilog=ends)
    parser.add_argument("--port", type=_port, default=PORT, help=f"default: {PORT}; 0 takes a free one")
    parser.add_argument("--no-open", action="store_true", help="print the address, and open no browser")
    add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve the page."""
    from grpc_breaker._web import running  # noqa: PLC0415 - the other commands need no HTTP server

    return running.run(options)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        message = f"a port is a number from 0 to 65535, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return int(text)
