"""The command `grpc-breaker web`: the live page, on the operator's own machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import secrets
import sys
import webbrowser
from collections.abc import Callable
from typing import Any, Final

from grpc_breaker._commands.targets import Targets, add_options
from grpc_breaker._web.calls import Calls
from grpc_breaker._web.fleet import Fleet
from grpc_breaker._web.server import ADDRESS, PageServer
from grpc_breaker._web.watchers import Watchers

PORT: Final = 8384


def add_to(commands: Any) -> None:
    """Add the command to those of `grpc-breaker`; its function is the default `run`."""
    summary = "Show the breakers of all processes as a live page in the browser."
    more = f"The page is on {ADDRESS} alone, and only for whoever has the address that is printed. Ctrl-C ends it."
    parser = commands.add_parser("web", help=summary, description=f"{summary} {more}")
    parser.add_argument("--port", type=_port, default=PORT, help=f"default: {PORT}; 0 takes a free one")
    parser.add_argument("--no-open", action="store_true", help="print the address, and open no browser")
    add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, open_page: Callable[[str], object] = webbrowser.open) -> int:
    """Serve the page until Ctrl-C.

    Returns:
        0 at Ctrl-C, 2 where it cannot begin.
    """
    try:
        targets = Targets.of(options)
        found = targets.now()
    except OSError as error:
        print(f"grpc-breaker web: {error}", file=sys.stderr)  # noqa: T201 - a command prints
        return 2
    fleet = Fleet()
    watchers = Watchers(fleet, targets.now)
    try:
        server = PageServer(options.port, fleet, Calls(fleet, watchers.stub), secrets.token_urlsafe(24))
    except OSError as error:
        where = f"{ADDRESS}:{options.port}"
        print(f"grpc-breaker web: cannot listen on {where}: {error}; --port 0 takes a free port", file=sys.stderr)  # noqa: T201
        return 2
    with server:
        print(server.address, flush=True)  # noqa: T201
        if not found:
            print(targets.none_found, file=sys.stderr)  # noqa: T201
        watchers.start()
        if not options.no_open:
            open_page(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            watchers.close()
    return 0


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        message = f"a port is a number from 0 to 65535, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return int(text)
