"""`grpc-breaker list`: what the breakers of all processes do now."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from grpc_breaker._commands import filtering, targets
from grpc_breaker._commands.asking import DONE, EPILOG, INCOMPLETE, MISUSED, NO, Answer, ask, complain_of, find_targets
from grpc_breaker._commands.plain import plain_breaker, plain_process
from grpc_breaker._commands.showing import REFUSING, Look, say, summary, table
from grpc_breaker._commands.targets import trouble_of
from grpc_breaker._core.log import printable
from grpc_breaker.admin.v1 import admin_pb2


def add_to(commands: Any) -> None:
    """Add the command."""
    about = "Show breakers, those that refuse calls first."
    parser: argparse.ArgumentParser = commands.add_parser("list", help=about, description=about, epilog=EPILOG)
    filtering.add_options(parser)
    parser.add_argument("--exit-code", action="store_true", help=f"end with {NO} where a breaker shown refuses calls")
    parser.add_argument("--names", action="store_true", help="names alone, one a line")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    targets.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show them."""
    request = admin_pb2.ListBreakersRequest(filter=filtering.filter_of(options))
    answers = ask(find_targets(options), "ListBreakers", request, options.timeout)
    good = [it for it in answers if it.error is None]
    bad = [it for it in answers if it.error is not None]
    breakers = [breaker for answer in good for breaker in answer.response.breakers]
    if options.json:
        say(json.dumps(_document(good, bad), indent=2))
    elif options.names:
        say(*sorted({printable(it.name) for it in breakers}))
    else:
        rows = [(answer.process, breaker) for answer in good for breaker in answer.response.breakers]
        if rows:
            say(*table(rows, Look.of(sys.stdout)), "")
        say(summary(breakers, len(good)))
    complain_of(bad)
    return exit_code(bad) or (NO if options.exit_code and any(it.state in REFUSING for it in breakers) else DONE)


def exit_code(bad: list[Answer]) -> int:
    """What a command ends with because of answers that are errors; 0 without any."""
    if not bad:
        return DONE
    return MISUSED if all(it.code.name == "INVALID_ARGUMENT" for it in bad) else INCOMPLETE


def _document(good: list[Answer], bad: list[Answer]) -> dict[str, Any]:
    return {
        "processes": [
            {
                "target": it.target.address,
                **plain_process(it.response.process),
                "breakers": [plain_breaker(breaker) for breaker in it.response.breakers],
            }
            for it in good
        ],
        "unreachable": [{"target": it.target.address, "error": trouble_of(it.error)} for it in bad],
    }
