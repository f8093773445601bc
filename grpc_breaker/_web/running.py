"""Runs the page until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import webbrowser
from functools import partial
from typing import Final

from grpc_breaker._commands.targets import Targets
from grpc_breaker._web.calls import Calls
from grpc_breaker._web.fleet import Fleet
from grpc_breaker._web.server import ADDRESS, PageServer
from grpc_breaker._web.watcher import Watcher
from grpc_breaker._web.watchers import Watchers

_DISPLAYS: Final = {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"}


def run(options: argparse.Namespace) -> int:
    """Serve the page; see `grpc_breaker._commands.web`.

    Returns:
        0 at Ctrl-C, 2 where it cannot begin.
    """
    try:
        targets = Targets.of(options)
        found = targets.now()
    except (OSError, ValueError) as error:
        print(f"grpc-breaker web: {error}", file=sys.stderr)  # noqa: T201 - a command prints
        return 2
    fleet = Fleet()
    watchers = Watchers(fleet, targets.now, partial(Watcher, timeout=options.timeout))
    calls = Calls(fleet, watchers.stub, options.timeout)
    try:
        server = PageServer(options.port, fleet, calls, secrets.token_urlsafe(24))
    except OSError as error:
        where = f"{ADDRESS}:{options.port}"
        print(f"grpc-breaker web: cannot listen on {where}: {error}; --port 0 takes a free port", file=sys.stderr)  # noqa: T201
        return 2
    with server:
        print(server.address, flush=True)  # noqa: T201
        if not found:
            print(targets.none_found, file=sys.stderr)  # noqa: T201
        watchers.start()
        if not options.no_open and _has_display():
            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            watchers.close()
    return 0


def _has_display() -> bool:
    """Whether a browser can show a window. Without one, Python would start one for terminals, in this terminal."""
    return sys.platform in {"darwin", "win32"} or not os.environ.keys().isdisjoint(_DISPLAYS)
