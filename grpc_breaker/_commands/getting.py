"""`grpc-breaker get`: everything about one breaker, in each process that has it."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, Final

import grpc

from grpc_breaker._commands import targets
from grpc_breaker._commands.asking import DONE, EPILOG, NO, Answer, ask, complain, complain_of, find_targets
from grpc_breaker._commands.listing import exit_code
from grpc_breaker._commands.plain import plain_breaker, plain_change, plain_process, plain_snapshot, state_name
from grpc_breaker._commands.showing import change, clock, failure, number, say, seconds_of, span, why
from grpc_breaker._commands.targets import trouble_of
from grpc_breaker._core.log import printable
from grpc_breaker.admin.v1 import admin_pb2

_NOTHING: Final[dict[str, Any]] = {"window": {}, "refusals": {}, "policy": {}, "last_failures": []}
"""What is looked at of a snapshot. A process of another version may leave it out."""


def add_to(commands: Any) -> None:
    """Add the command."""
    about = "Show everything about one breaker: its counts, its policy, its last changes and failures."
    parser: argparse.ArgumentParser = commands.add_parser("get", help=about, description=about, epilog=EPILOG)
    parser.add_argument(
        "name", type=targets.unicode_text, metavar="NAME", help="the name of a breaker, as `list` shows it"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    targets.add_options(parser)
    parser.set_defaults(run=run, named=True)


def run(options: argparse.Namespace) -> int:
    """Show it."""
    request = admin_pb2.GetBreakerRequest(name=options.name)
    answers = ask(find_targets(options), "GetBreaker", request, options.timeout)
    good = [it for it in answers if it.error is None]
    unknown = [it for it in answers if it.code is grpc.StatusCode.NOT_FOUND]
    bad = [it for it in answers if it.error is not None and it not in unknown]
    if options.json:
        say(json.dumps(_document(good, bad), indent=2))
    else:
        for answer in good:
            say(*_about(answer), "")
    if unknown and not good:
        for words in sorted({printable(it.error.details()) for it in unknown}):
            complain(words)
    complain_of(bad)
    return exit_code(bad) or (DONE if good else NO)


def _about(answer: Answer) -> list[str]:
    response, breaker = answer.response, answer.response.breaker
    process, snapshot = response.process, {**_NOTHING, **plain_snapshot(response.snapshot)}
    facts = {
        "state": state_name(breaker.state),
        "why": why(breaker),
        "since": _since(breaker),
        "next probe": _wait(breaker),
        "held for": _left(breaker),
        "in flight": f"{breaker.in_flight}, {breaker.hung} of them hung" if breaker.hung else str(breaker.in_flight),
        "window": f"{breaker.window_failures} of {number(breaker.window_calls, 'call')} failed, "
        f"{breaker.window_slow} slow, {snapshot['window'].get('consecutive_failures', '?')} failures in a row",
        "calls": f"{breaker.successes} succeeded, {breaker.failures} failed, {breaker.ignored} ignored, "
        f"{breaker.stale} too late to count",
        "refused": str(breaker.rejected) + _listed(snapshot["refusals"], ", by "),
        "policy": _listed({key: it for key, it in snapshot["policy"].items() if it not in (None, [], {})}),
    }
    lines = [printable(f"{breaker.name}  in {answer.process} on {process.host}, grpc_breaker {process.version}")]
    lines += [f"  {name:<11}{text}" for name, text in facts.items() if text]
    lines += ["  last changes", *(f"    {clock(it.time)}  {change(it)}" for it in response.changes)]
    failures = [printable(failure(admin_pb2.Failure(**it))) for it in snapshot["last_failures"]]
    lines += ["  last failures", *(f"    {it}" for it in failures)]
    return [it for it, after in zip(lines, [*lines[1:], ""], strict=True) if not _is_empty(it, after)]


def _is_empty(line: str, after: str) -> bool:
    """Whether a line is a heading that nothing stands under."""
    return line.startswith("  last ") and not after.startswith("    ")


def _listed(values: dict[str, Any], before: str = "") -> str:
    listed = ", ".join(f"{name} {value}" for name, value in sorted(values.items()))
    return printable(f"{before}{listed}") if listed else ""


def _since(breaker: Any) -> str:
    if not breaker.HasField("since"):
        return ""
    return f"{clock(breaker.since)}, {span(time.time() - seconds_of(breaker.since))} ago"


def _wait(breaker: Any) -> str:
    open_ = breaker.state == admin_pb2.STATE_OPEN
    return f"in {span(seconds_of(breaker.retry_after))}" if open_ else ""


def _left(breaker: Any) -> str:
    if not breaker.HasField("hold"):
        return ""
    left = breaker.hold.HasField("remaining")
    return f"another {span(seconds_of(breaker.hold.remaining))}" if left else "good, until another order"


def _document(good: list[Answer], bad: list[Answer]) -> dict[str, Any]:
    return {
        "processes": [
            {
                "target": it.target.address,
                **plain_process(it.response.process),
                "breaker": plain_breaker(it.response.breaker),
                "snapshot": plain_snapshot(it.response.snapshot),
                "changes": [plain_change(change) for change in it.response.changes],
            }
            for it in good
        ],
        "unreachable": [{"target": it.target.address, "error": trouble_of(it.error)} for it in bad],
    }
