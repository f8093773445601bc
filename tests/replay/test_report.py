"""The report: for terminals, as plain data and as a page; what the record of a live breaker says against a replay."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, Permit
from grpc_breaker.replay import Call, Report, Warned, replay
from tests.replay.records import BEGINS, GET, call, every, lines, outage, row, written

FIVE = BreakerPolicy(consecutive_failures=5, reset_timeout=5.0, reset_timeout_jitter=0.0)


class Page(HTMLParser):
    """What a page asks for, and whether its tags close."""

    VOID = frozenset({"meta", "wbr", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.asked: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [value or "" for name, value in attrs if name in {"src", "href", "data", "action"}]
        if tag not in self.VOID and tag not in {"path", "rect"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"path", "rect"}:
            assert self.open.pop() == tag


def svg(report: Report) -> ET.Element:
    """The picture of a page, parsed."""
    found = re.search(r"<svg.*</svg>", report.html(), re.DOTALL)
    assert found
    return ET.fromstring(found[0])


def texts(picture: ET.Element) -> list[str]:
    return ["".join(it.itertext()) for it in picture.iter("{http://www.w3.org/2000/svg}text")]


def blocks(picture: ET.Element, kind: str) -> list[tuple[float, float, float]]:
    """Where blocks of a state are: x, y and width. Those of the legend are left out."""
    found = picture.iter("{http://www.w3.org/2000/svg}rect")
    mine = [it.attrib for it in found if it.attrib["class"] == kind and "rx" not in it.attrib]
    return [(float(it["x"]), float(it["y"]), float(it["width"])) for it in mine]


def test_the_table_has_a_row_for_each_policy() -> None:
    """With what is refused, and what it would have been."""
    report = replay(outage(), {"now": FIVE, "never": BreakerPolicy(failure_threshold=10_000)})
    now, never = report.policies
    table = report.text()
    assert re.search(rf"^now \(!\) +1 +0 +30\.8 s +{now.good_refused} +{now.bad_spared} ", table, re.MULTILINE)
    assert re.search(r"^never +0 +0 +0 ms +0 +0 +0\.0 +300 ", table, re.MULTILINE)
    assert "never: never opened" in table
    assert never.verdict in report.html()


def test_the_text_says_when_why_and_for_how_long() -> None:
    """One line for each opening."""
    text = replay(outage(), {"now": FIVE}).text()
    told = r"2025-11-27 13:27:40\.410Z (\S+) for 30\.8 s: consecutive_failures \(5 of \d+ failed, last UNAVAILABLE\), "
    found = re.search(f"{told}5 probes failed, 300 calls refused", text)
    assert found
    assert found[1] == GET


def test_a_breaker_that_is_open_at_the_end() -> None:
    """It is open until the end; one probe that failed is one."""
    calls = [*every(0.1, 0, 10), *every(0.1, 10, 16, "UNAVAILABLE")]
    assert "until the end: consecutive_failures" in (text := replay(calls, {"now": FIVE}).text())
    assert "1 probe failed" in text


def test_a_breaker_that_opened_for_slowness() -> None:
    """Then the slow calls are what is told."""
    calls = [*every(0.1, 0, 5), *every(0.1, 5, 60, duration=0.5)]
    assert "slow_call_rate (" in (text := replay(calls, {"now": BreakerPolicy(slow_call_duration=0.3)}).text())
    assert " slow, last OK)" in text


def test_the_text_lists_ten_openings() -> None:
    """The rest is in the JSON, and two hundred are on the page."""
    calls = [call(it, "OK" if it % 3 else "UNAVAILABLE") for it in range(1000)]
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=0.1, reset_timeout_jitter=0, half_open_max_calls=1)
    report = replay(calls, {"hasty": policy})
    assert report.policies[0].opened > 300
    assert f"and {report.policies[0].opened - 10} more: --json lists them" in report.text()
    assert f"and {report.policies[0].opened - 200} more: --json lists them" in report.html()


def test_plain_data() -> None:
    """Ready for JSON, with all that the report knows."""
    report = replay(outage(), {"now": FIVE})
    plain = json.loads(json.dumps(report.as_dict()))
    assert plain["record"]["calls"] == 1500
    assert plain["policies"][0]["name"] == "now"
    assert plain["policies"][0]["verdict"] == "opens when sick"
    assert plain["policies"][0]["openings"][0]["reason"] == "consecutive_failures"
    assert plain["policies"][0]["changes"][0]["state"] == "open"
    assert plain["warnings"][-1]["policy"] == "now"


def test_a_warning_in_words() -> None:
    """With how often, and where first."""
    assert str(Warned("Odd.")) == "Odd."
    assert str(Warned("Odd.", "now")) == "now: Odd."
    assert str(Warned("Odd.", times=3, first="x:7")) == "Odd. 3 times, first (at x:7)"
    assert str(Warned("Odd.", first="x:7")) == "Odd. (at x:7)"
    assert str(Warned("Odd.", times=3)) == "Odd. 3 times."


@pytest.mark.parametrize("number", [1, 12])
def test_the_page_needs_nothing_else(number: int) -> None:
    """Every tag is closed, nothing is fetched, and there are no scripts."""
    report = replay(outage(), {f"policy {it}": FIVE for it in range(number)})
    page = report.html()
    parsed = Page(page)
    assert parsed.open == []
    assert parsed.asked == []
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page


def test_the_picture_has_a_strip_for_each_policy() -> None:
    """On one time axis: all strips begin and end at the same place, below each other."""
    picture = svg(replay(outage(), {"one": FIVE, "two": FIVE, "three": None}))
    strips = blocks(picture, "closed")
    assert len(strips) == 3
    assert len({(x, width) for x, _, width in strips}) == 1
    assert [y for _, y, _ in strips] == sorted(y for _, y, _ in strips)
    assert [it for it in texts(picture) if it in {"one", "two", "three"}] == ["one", "two", "three"]


def test_the_picture_shows_when_a_breaker_was_open() -> None:
    """The blocks of the open state cover the outage, at the scale of the axis."""
    picture = svg(replay(outage(), {"one": FIVE}))
    ((left, _, width),) = blocks(picture, "closed")
    open_blocks = blocks(picture, "open")
    begins = min(x for x, _, _ in open_blocks)
    ends = max(x + it for x, _, it in open_blocks)
    assert (begins - left) / width == pytest.approx(60.4 / 150, abs=0.002)
    assert (ends - left) / width == pytest.approx(91.0 / 150, abs=0.003)
    assert blocks(picture, "half-open")


def test_the_worst_state_of_a_column_is_shown() -> None:
    """A moment of open is not hidden by what came after it in the same column."""
    calls = [call(0), call(100.1, "UNAVAILABLE"), call(100.4, duration=0.3), call(1000)]
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=0.2, reset_timeout_jitter=0, half_open_max_calls=1)
    picture = svg(replay(calls, {"one": policy}))
    assert len(blocks(picture, "open")) == 1
    assert not blocks(picture, "half-open")


def test_breakers_of_one_policy_have_lanes() -> None:
    """Each with its name; where there are too many, the others share one."""
    calls = sorted(it for name in "abcdefgh" for it in outage(f"pkg.Service/{name}"))
    picture = svg(replay(calls[:6400], {"one": FIVE}))
    assert len(blocks(picture, "closed")) == 6
    assert "3 other breakers" in texts(picture)
    two = sorted([*outage("pkg.Service/a"), *outage("pkg.Service/b")])
    picture = svg(replay(two, {"one": FIVE}))
    assert [it for it in texts(picture) if it.startswith("pkg.")] == ["pkg.Service/a", "pkg.Service/b"]


def test_names_cannot_break_the_page() -> None:
    """Names come out of files."""
    odd = [it._replace(method="<b>&/\x1b[31m") for it in outage()]
    report = replay(odd, {"<script>alert(1)</script>": FIVE})
    page = report.html()
    assert "<script>" not in page
    assert "\x1b" not in page + report.text()
    svg(report)


@pytest.mark.parametrize(
    ("length", "label"),
    [(0.001, None), (0.4, "13:26:40.2"), (20, "13:26:45"), (300, "13:28"), (86_400 * 3, "Nov 28"), (1e8, None)],
)
def test_the_axis_of_any_length(length: float, label: str | None) -> None:
    """Round times, a few of them, from a moment to years."""
    picture = svg(replay([call(0), call(length / 2), call(length - 0.01 if length > 0.01 else 0.0)], {"one": FIVE}))
    ticks = [it for it in texts(picture) if re.fullmatch(r"\d\d:\d\d(:\d\d(\.\d)?)?|[A-Z][a-z]{2} \d\d", it)]
    assert len(ticks) <= 10
    assert label is None or label in ticks


def test_a_long_record_keeps_a_small_page() -> None:
    """The size of the page depends neither on the calls nor on the changes."""
    calls = [call(it * 37.0, "OK" if it % 3 else "UNAVAILABLE") for it in range(1_500)]
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=1, half_open_max_calls=1)
    assert len(replay(calls, {f"{it}": policy for it in range(3)}).html()) < 500_000


@pytest.mark.parametrize("rate", [0.02, 3, 15, 900])
def test_the_scale_of_calls_per_second(rate: float) -> None:
    """The largest number of the scale is round and not below the traffic."""
    calls = every(1 / rate, 0, max(20, 5 / rate))
    numbers = [float(it) for it in texts(svg(replay(calls, {"one": FIVE}))) if re.fullmatch(r"[\d.]+(e[-+]\d+)?", it)]
    assert max(numbers) >= rate * 0.95


# ── Against a live breaker ────────────────────────────────────────────────────────────────────────────────────────────


def live(policy: BreakerPolicy, calls: list[Call]) -> list[dict[str, Any]]:
    """The record that a client makes with a breaker at work: also what it refused, and its changes of state."""
    now = [0.0]
    made: list[tuple[float, dict[str, Any]]] = []
    breakers = BreakerRegistry(default=policy, clock=lambda: now[0])
    breakers.on_state_change(
        lambda it: made.append(
            (it.at, {"change": str(it.state), "breaker": it.breaker, "reason": str(it.reason), "time": it.at})
        )
    )
    moments: list[tuple[float, int, int, Call]] = []
    for number, it in enumerate(calls):
        moments += [(it.time, 1, number, it), (it.time + it.duration, 0, number, it)]
    permits: dict[int, Permit] = {}
    breaker = breakers[GET]
    for at, begins, number, it in sorted(moments):
        now[0] = at
        line = {"time": it.time, "method": it.method, "duration": it.duration, "status": it.status}
        if begins:
            permit = breaker.try_admit(GET)
            if isinstance(permit, Permit):
                permits[number] = permit
            else:
                made.append((at, {**line, "duration": 0.0, "status": "UNAVAILABLE", "refused": "breaker"}))
        elif number in permits:
            permit = permits.pop(number)
            permit.success() if it.status == "OK" else permit.failure(it.status)
            made.append((at, line))
    return [line for _, line in sorted(made, key=lambda it: it[0])]


def test_a_replay_opens_and_closes_where_the_live_breaker_did(tmp_path: Path) -> None:
    """The record of a live breaker, played through the same policy, changes state at the same moments."""
    record = written(tmp_path / "record", lines(*live(FIVE, outage())))
    report = replay(record, {"same": FIVE}, despite_breaker=True)
    recorded = [(it.state, it.reason, pytest.approx(it.time - BEGINS)) for it in report.recorded_changes]
    assert len(recorded) == 13
    assert [(it.state, it.reason, it.time - BEGINS) for it in report.policies[0].changes] == recorded
    picture = svg(report)
    assert "as recorded" in texts(picture)
    one, other = sorted({y for _, y, _ in blocks(picture, "open")})
    strips = [[(x, width) for x, y, width in blocks(picture, "open") if y == at] for at in (one, other)]
    assert strips[0] == strips[1]


def test_rows_are_rows() -> None:
    """What the other tests write is what a record has."""
    assert row(1)["time"] == BEGINS + 1
