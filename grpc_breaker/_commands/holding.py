"""`grpc-breaker force-open`, `disable` and `reset`: what operators do to breakers, in all processes at once."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from typing import Any, Final

import grpc

from grpc_breaker._commands import targets
from grpc_breaker._commands.asking import DONE, EPILOG, NO, Answer, ask, complain, complain_of, find_targets
from grpc_breaker._commands.listing import exit_code
from grpc_breaker._commands.showing import number, say
from grpc_breaker._commands.targets import trouble_of
from grpc_breaker._core.log import printable
from grpc_breaker.admin.v1 import admin_pb2

_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def add_to(commands: Any) -> None:
    """Add the commands."""
    abouts = {
        "force-open": "Have breakers refuse every call for a time.",
        "disable": "Have breakers let every call pass for a time.",
        "reset": "Close breakers, end their holds and forget what they counted.",
    }
    for command, about in abouts.items():
        parser: argparse.ArgumentParser = commands.add_parser(command, help=about, description=about, epilog=EPILOG)
        parser.add_argument(
            "name",
            type=targets.unicode_text,
            metavar="NAME",
            help="a method, a service, a group, at a target with @eu behind it; or @eu",
        )
        if command != "reset":
            parser.add_argument(
                "--for",
                dest="ttl",
                type=duration("7d"),
                required=True,
                metavar="TIME",
                help="for how long: 90s, 10m, 1h30m, 2d; at most 7d",
            )
            parser.add_argument(
                "--reason", type=targets.unicode_text, required=True, help="why, for everyone who will see it"
            )
        parser.add_argument("--json", action="store_true", help="one JSON document")
        targets.add_options(parser)
        parser.set_defaults(run=run, named=True)


def run(options: argparse.Namespace) -> int:
    """Do it, everywhere, and say where it was done."""
    method, request = _order(options)
    answers = ask(find_targets(options), method, request, options.timeout)
    good = [it for it in answers if it.error is None]
    unknown = [it for it in answers if it.code is grpc.StatusCode.NOT_FOUND]
    bad = [it for it in answers if it.error is not None and it not in unknown]
    if options.json:
        say(json.dumps(_document(good, unknown, bad), indent=2))
    else:
        for answer in good:
            held = ", ".join(printable(it) for it in answer.response.breakers) or "none yet"
            say(f"{answer.target}: {number(len(answer.response.breakers), 'breaker')}: {held}")
    for answer in unknown:
        complain(f"{answer.target}: {printable(answer.error.details())}")
    complain_of(bad)
    return exit_code(bad) or (DONE if good else NO)


def _order(options: argparse.Namespace) -> tuple[str, Any]:
    if options.command == "reset":
        return "Reset", admin_pb2.ResetRequest(name=options.name)
    force = options.command == "force-open"
    request = (admin_pb2.ForceOpenRequest if force else admin_pb2.DisableRequest)(
        name=options.name, reason=options.reason
    )
    request.ttl.seconds = options.ttl
    return "ForceOpen" if force else "Disable", request


def duration(longest: str) -> Callable[[str], int]:
    """Reads a time such as "1h30m", no longer than `longest`, as seconds."""

    def read(text: str) -> int:
        seconds = _seconds(text)
        if not 0 < seconds <= _seconds(longest):
            message = f"a time such as 90s, 10m, 1h30m or 2d, at most {longest}, not {text!r}"
            raise argparse.ArgumentTypeError(message)
        return seconds

    return read


def _seconds(text: str) -> int:
    found = _DURATION.fullmatch(text)
    return sum(int(it or 0) * unit for it, unit in zip(found.groups(), _UNITS.values(), strict=True)) if found else 0


def _document(good: list[Answer], unknown: list[Answer], bad: list[Answer]) -> dict[str, Any]:
    return {
        "processes": [{"target": it.target.address, "breakers": list(it.response.breakers)} for it in good],
        "unknown": [{"target": it.target.address, "error": it.error.details()} for it in unknown],
        "unreachable": [{"target": it.target.address, "error": trouble_of(it.error)} for it in bad],
    }
