"""The picture: traffic and failures above, a strip of states for each policy below, over one time axis. SVG, by hand.

Colours are CSS variables of the page, so that one picture serves light and dark. Its size depends on neither the number
of calls nor that of changes: everything is drawn to a thousand columns, and what is shorter than one is a column wide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final, NamedTuple

from grpc_breaker._core.log import printable
from grpc_breaker._replay.calls import moment
from grpc_breaker._replay.report import PolicyReport, Report
from grpc_breaker._replay.text import times

COLUMNS: Final = 1000
"""Columns of the picture, in its own units."""
MOST_LANES: Final = 6
"""Breakers of one policy that have a lane each; the others share one, which shows the worst of their states."""

_LEFT: Final = 64.0
_RIGHT: Final = 24.0
_TRAFFIC: Final = 180.0
_STRIP: Final = 22.0
_LANE: Final = 14.0
_LABEL: Final = 19.0
_GAP: Final = 12.0
_AXIS: Final = 34.0

_RANKS: Final = {"closed": 0, "disabled": 0, "half_open": 1, "open": 2, "forced_open": 2}
_CLASSES: Final = ("closed", "half-open", "open")
_STEPS: Final = (
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
)


class Step(NamedTuple):
    """A change of state, as far as it is drawn."""

    time: float
    breaker: str
    state: str


class Axis(NamedTuple):
    """The time axis."""

    begins: float
    ends: float

    @property
    def seconds(self) -> float:
        """Its length, which is never nothing."""
        return max(self.ends - self.begins, 1e-3)

    def column(self, time: float) -> float:
        """Where a moment is, in columns."""
        return min(max((time - self.begins) / self.seconds, 0.0), 1.0) * COLUMNS

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Moments with their labels: round ones, about eight."""
        step = next((it for it in _STEPS if self.seconds / it <= 9), 86400.0)
        while self.seconds / step > 9:
            step *= 2
        at = self.begins - self.begins % step + step
        while at <= self.ends:
            yield at, _label(at, step)
            at += step


def _label(time: float, step: float) -> str:
    at = datetime.fromtimestamp(time, UTC)
    if step >= 86400 or (at.hour == at.minute == at.second == 0 and step >= 60):
        return at.strftime("%b %d")
    if step >= 60:
        return at.strftime("%H:%M")
    return at.strftime("%H:%M:%S") + (f".{at.microsecond // 100_000}" if step < 1 else "")


def picture(report: Report) -> str:
    """The picture of a report."""
    axis = Axis(report.begins, report.ends)
    parts = [*_traffic(report, axis)]
    top = _TRAFFIC + _GAP + 8
    strips: list[tuple[str, str, str, list[Step]]] = []
    if report.recorded_changes:
        recorded = [Step(it.time, it.breaker, it.state) for it in report.recorded_changes]
        strips.append(("as recorded", "the breaker that was at work", "", recorded))
    for policy in report.policies:
        steps = [Step(it.time, it.breaker, it.state) for it in policy.changes]
        strips.append((policy.name, *_caption(policy), steps))
    for name, caption, css, steps in strips:
        parts.append(_text(_LEFT, top + 13, "name", printable(name)[:60]))
        parts.append(_text(_LEFT + COLUMNS, top + 13, f"caption {css}".strip(), caption, "end"))
        top += _LABEL
        lanes, height = _lanes(steps)
        for breaker, lane in lanes:
            parts += _strip(axis, top, height, breaker, lane)
            if len(lanes) > 1:
                parts.append(_text(_LEFT + 4, top + 10.5, "lane", printable(breaker)[-60:]))
            top += height + (1 if len(lanes) > 1 else 0)
        top += _GAP
    parts += _grid(axis, top)
    height = top + _AXIS
    width = _LEFT + COLUMNS + _RIGHT
    about = f"Calls and failures over time, and the states of breakers under {len(report.policies)} policies"
    head = (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{about}" xmlns="http://www.w3.org/2000/svg">'
    )
    return "\n".join([head, *parts, "</svg>"])


def _caption(policy: PolicyReport) -> tuple[str, str]:
    """What stands beside a policy's name, and its class."""
    if not policy.opened and not policy.refused:
        return policy.verdict, ""
    refused = f"good refused {policy.good_refused} · bad spared {policy.bad_spared}"
    told = f"{policy.verdict} · opened {times(policy.opened)} · {refused}"
    return told, "bad" if policy.trips_in_healthy_time else ""


def _traffic(report: Report, axis: Axis) -> Iterator[str]:
    """Calls and failures per second."""
    timeline = report._game.timeline
    begins, width = timeline.begins or 0.0, timeline.width
    group = 1
    while width * group < min(1.0, axis.seconds / 20):  # slots that are too short show noise
        group *= 2
    while len(timeline.counts[0]) / group > 400:
        group *= 2
    width *= group
    calls, failures = (
        [sum(row[it : it + group]) / width for it in range(0, len(row), group)] for row in timeline.counts[:2]
    )
    most = _ceiling(max(calls))
    bottom = _TRAFFIC
    for name, row in (("calls", calls), ("failures", failures)):
        points = [f"M{_LEFT:g} {bottom:g}"]
        for slot, rate in enumerate(row):
            left, right = (_LEFT + axis.column(begins + it * width) for it in (slot, slot + 1))
            y = bottom - rate / most * (_TRAFFIC - 30)
            points.append(f"L{left:.1f} {y:.1f}H{right:.1f}")
        points.append(f"V{bottom:g}Z")
        yield f'<path class="{name}" d="{"".join(points)}"/>'
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (_TRAFFIC - 30)
        yield f'<path class="grid" d="M{_LEFT:g} {y:g}h{COLUMNS}"/>'
        yield _text(_LEFT - 8, y + 4, "tick", f"{share * most:g}", "end")
    yield _text(_LEFT, 16, "name", "Calls per second")
    x = _LEFT + COLUMNS - 372
    for css, words, space in (
        ("calls", "all", 50),
        ("failures", "failed", 76),
        ("closed", "closed", 78),
        ("half-open", "half-open", 100),
        ("open", "open", 60),
    ):
        yield f'<rect class="{css}" x="{x:g}" y="6" width="12" height="12" rx="2"/>'
        yield _text(x + 17, 16, "tick", words)
        x += space


def _ceiling(most: float) -> float:
    """A round number that is not below."""
    power = 10.0 ** (len(str(int(most))) - 1) if most >= 1 else 0.01
    return next(it * power for it in (1, 2, 4, 6, 8, 10, 20, 50, 100) if it * power >= most)


def _lanes(steps: Sequence[Step]) -> tuple[list[tuple[str, list[Step]]], float]:
    """The strips that a policy has, with the height of each: one for each breaker that changed, or one for them all."""
    by_breaker: dict[str, list[Step]] = {}
    for step in steps:
        by_breaker.setdefault(step.breaker, []).append(step)
    if len(by_breaker) <= 1:
        return [("".join(by_breaker), list(steps))], _STRIP
    lanes = sorted(by_breaker.items())
    if len(lanes) > MOST_LANES:
        by_length = sorted(lanes, key=lambda it: -len(it[1]))
        shown = sorted(by_length[: MOST_LANES - 1])
        names = {name for name, _ in shown}
        rest = [it for it in steps if it.breaker not in names]
        return [*shown, (f"{len(lanes) - len(shown)} other breakers", rest)], _LANE
    return lanes, _LANE


def _strip(axis: Axis, top: float, height: float, breaker: str, steps: Iterable[Step]) -> Iterator[str]:
    """One strip: the worst state in each column."""
    told = escape(printable(breaker))
    place = f'x="{_LEFT:g}" y="{top:g}" width="{COLUMNS}" height="{height:g}"'
    yield f'<rect class="closed" {place}><title>{told}</title></rect>'
    columns = worst(axis, steps)
    at = 0
    while at < COLUMNS:
        rank, begins = columns[at], at
        while at < COLUMNS and columns[at] == rank:
            at += 1
        if rank:
            since = moment(axis.begins + begins / COLUMNS * axis.seconds)
            title = f"<title>{told} {_CLASSES[rank].replace('-', ' ')}, about {since}</title>"
            place = f'x="{_LEFT + begins:g}" y="{top:g}" width="{at - begins}" height="{height:g}"'
            yield f'<rect class="{_CLASSES[rank]}" {place}>{title}</rect>'


def worst(axis: Axis, steps: Iterable[Step]) -> list[int]:
    """The worst state of any of the breakers in each column: 0 closed, 1 half-open, 2 open."""
    columns = [0] * COLUMNS
    states: dict[str, int] = {}
    before = axis.begins
    for step in [*steps, Step(axis.ends, "", "closed")]:
        rank = max(states.values(), default=0)
        if rank:
            first = min(int(axis.column(before)), COLUMNS - 1)
            last = min(int(axis.column(step.time)), COLUMNS - 1)
            for column in range(first, last + 1):
                columns[column] = max(columns[column], rank)
        before = step.time
        states[step.breaker] = _RANKS.get(step.state, 0)
    return columns


def _grid(axis: Axis, bottom: float) -> Iterator[str]:
    """The time axis, through everything."""
    for at, label in axis.ticks():
        x = _LEFT + axis.column(at)
        yield f'<path class="grid" d="M{x:.1f} 30V{bottom:g}"/>'
        yield _text(x, bottom + 16, "tick", label, "middle")
    zone = datetime.fromtimestamp(axis.begins, UTC).strftime("%Y-%m-%d, UTC")
    yield _text(_LEFT, bottom + 31, "tick", zone)


def _text(x: float, y: float, css: str, words: str, anchor: str = "start") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
