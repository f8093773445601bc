"""Which breakers a command is about: a name and states, as several commands take them."""

from __future__ import annotations

import argparse
from typing import Final

from grpc_breaker._commands.plain import STATE_NAMES
from grpc_breaker._commands.targets import unicode_text
from grpc_breaker.admin.v1 import admin_pb2

STATES: Final = {name: value for value, name in STATE_NAMES.items() if value}
"""The states by their names."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which breakers are shown."""
    add_name(parser)
    parser.add_argument(
        "--state",
        action="append",
        default=[],
        choices=STATES,
        help="only those in this state; may be given several times",
    )


def add_name(parser: argparse.ArgumentParser) -> None:
    """Add the name alone, which may be left out."""
    parser.set_defaults(named=True)
    parser.add_argument(
        "name",
        nargs="?",
        default="",
        type=unicode_text,
        metavar="NAME",
        help="a method pkg.Service/Method, a service, a group, at a target with @eu behind it; or @eu (default: all)",
    )


def filter_of(options: argparse.Namespace) -> admin_pb2.Filter:
    """What the options say."""
    return admin_pb2.Filter(name=options.name, states=[STATES[it] for it in options.state])
