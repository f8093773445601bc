"""The report as one HTML page that needs nothing else: warnings, the picture, a table, and when each policy opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Final

from grpc_breaker._core.log import printable
from grpc_breaker._replay.calls import moment
from grpc_breaker._replay.drawing import picture
from grpc_breaker._replay.report import PolicyReport, Report, definitions
from grpc_breaker._replay.text import COLUMNS, opening_in_words, row_of, seconds, times

MOST_OPENINGS: Final = 200
"""Openings that are listed of a policy."""

_STYLE: Final = """
:root { color-scheme: light dark; --back: #ffffff; --ink: #1c2430; --soft: #5a6675; --line: #d8dee6; --card: #f5f7fa;
  --calls: #7aa5dd; --failures: #b3261e; --closed: #dfe6ee; --half-open: #e8a317; --open: #5e3aa8;
  --warn-back: #fff4d6; --warn-line: #d69e00; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --back: #12161c; --ink: #e6eaf0; --soft: #9aa7b6; --line: #333d49;
  --card: #1a2029; --calls: #4a78b5; --failures: #ff7a70; --closed: #2a333e; --half-open: #f2b53a; --open: #ab8df2;
  --warn-back: #332a10; --warn-line: #c9960c; --bad: #ff8d85; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 24px; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 28px 0 8px; }
p { margin: 4px 0 12px; } .soft { color: var(--soft); }
.warnings { background: var(--warn-back); border-left: 4px solid var(--warn-line); padding: 8px 16px; margin: 16px 0; }
.warnings ul { margin: 4px 0; padding-left: 20px; }
.scroll { overflow-x: auto; } svg { width: 100%; min-width: 720px; height: auto; display: block; }
svg text { font-family: inherit; fill: var(--ink); font-size: 13px; }
svg .name { font-weight: 600; } svg .caption, svg .tick { fill: var(--soft); font-size: 12px; }
svg .lane { font-size: 10px; fill: var(--soft); stroke: var(--back); stroke-width: 2.5px; paint-order: stroke; }
svg .caption.bad { fill: var(--bad); }
svg .calls { fill: var(--calls); } svg .failures { fill: var(--failures); } svg .closed { fill: var(--closed); }
svg .half-open { fill: var(--half-open); } svg .open { fill: var(--open); }
svg .grid { stroke: var(--ink); stroke-opacity: .13; fill: none; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 6px 10px; text-align: right; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; min-width: 190px; }
th { font-weight: 600; border-bottom: 2px solid var(--line); font-size: 13px; }
td { border-bottom: 1px solid var(--line); white-space: nowrap; }
td:first-child { white-space: normal; }
.bad { color: var(--bad); font-weight: 600; }
details { background: var(--card); padding: 8px 14px; margin: 6px 0; border-radius: 6px; }
summary { cursor: pointer; overflow-wrap: anywhere; } code, li { overflow-wrap: anywhere; }
"""


def page_of(report: Report) -> str:
    """The page."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Replay: {len(report.policies)} policies</title>"
    yield f"<style>{_STYLE}</style></head><body>"
    yield "<h1>What these policies would have done</h1>"
    yield (
        f'<p class="soft">{report.calls:,} calls in {seconds(report.seconds)}, {moment(report.begins)} to '
        f"{moment(report.ends)}: {report.good:,} good, {report.bad:,} bad, {report.ignored:,} ignored; "
        f"{report.sick_calls:,} while the server was sick.</p>"
    )
    if report.warnings:
        yield '<div class="warnings"><strong>Read this first</strong><ul>'
        yield from (f"<li>{escape(printable(str(it)))}</li>" for it in report.warnings)
        yield "</ul></div>"
    yield f'<div class="scroll">{picture(report)}</div>'
    yield "<h2>Policies</h2>"
    yield from _table(report)
    yield f'<p class="soft">{escape(definitions())}</p>'
    yield "<h2>When each opened</h2>"
    for policy in report.policies:
        yield from _openings(policy)
    yield "</body></html>"


def _table(report: Report) -> Iterator[str]:
    heads = "".join(f"<th>{escape(it)}</th>" for it in COLUMNS)
    yield f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>'
    for policy in report.policies:
        first, *others = row_of(policy)
        cells = [f"<td>{_broken(first)}</td>"]
        for name, text in zip(COLUMNS[1:], others, strict=True):
            alarming = name == COLUMNS[2] and policy.trips_in_healthy_time
            cells.append(f'<td class="bad">{escape(text)}</td>' if alarming else f"<td>{escape(text)}</td>")
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _broken(name: str) -> str:
    """A policy's name, that may be broken into lines after a comma or a slash."""
    return escape(name).replace(",", ",<wbr>").replace("/", "/<wbr>")


def _openings(policy: PolicyReport) -> Iterator[str]:
    opened = f"opened {times(policy.opened)}" if policy.opened else "never opened"
    yield f"<details><summary><strong>{escape(printable(policy.name))}</strong>: {policy.verdict}; {opened}</summary>"
    yield f"<p><code>{escape(json.dumps(policy.policy))}</code></p><ul>"
    yield from (f"<li>{escape(opening_in_words(it))}</li>" for it in policy.openings[:MOST_OPENINGS])
    if policy.opened > MOST_OPENINGS:
        yield f"<li>and {policy.opened - MOST_OPENINGS} more: --json lists them</li>"
    yield "</ul></details>"
