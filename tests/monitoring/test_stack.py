"""A real Prometheus scrapes a process with breakers in trouble, and a real Alertmanager notifies a receiver.

One story is played, and the tests are about what it showed. The rules are those of `monitoring/`, with windows of four
seconds, and alerts that fire after one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.monitoring.shop import FLAPS, HANGS, HELD, IS_FULL, REFUSES, SERVICE, STAYS_CLOSED, Shop
from tests.monitoring.stack import JOB, Alertmanager, OnCall, Prometheus, wait_until
from tests.monitoring.test_dashboard import DASHBOARD, PANELS
from tests.monitoring.test_rules import ALERTS, RULES
from tests.support.programs import required

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

ABOUT = {
    "CircuitBreakerRefusesCalls": {REFUSES},
    "CircuitBreakerFlapping": {FLAPS},
    "CircuitBreakerStaysClosed": {STAYS_CLOSED},
    "CircuitBreakerCallsHang": {HANGS},
    "CircuitBreakerLimitRefusesCalls": {IS_FULL},
    "CircuitBreakerHeld": {HELD},  # and not the one that is held for a time
}
"""The breakers that each alert is to be about, and no others."""

EXPRESSIONS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
VARIABLES = [it for it in DASHBOARD["templating"]["list"] if it["type"] == "query"]


@dataclass
class Story:
    """What was seen."""

    address: str
    """Of the process with the breakers."""
    panels: dict[str, list[dict[str, Any]]]
    """What each panel showed while the breakers were in trouble: series."""
    variables: dict[str, list[str]]
    """The values of the dashboard's variables."""
    told: dict[str, list[dict[str, Any]]]
    """The notifications, by alert."""
    resolved_while_open: set[str]
    """The alerts that were resolved while the breaker that had refused calls was still open."""


def shortened(rules: str) -> str:
    """The rules for a world in which a minute takes a second."""
    return re.sub(r"\[\d+m\]", "[4s]", re.sub(r"for: \w+", "for: 1s", rules))


def substituted(expression: str) -> str:
    """An expression of the dashboard with "All" chosen everywhere."""
    return re.sub(r"\$(job|instance|breaker)\b", ".*", expression.replace("$__rate_interval", "4s"))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Breakers get into trouble, alerts are notified, the dashboard is asked; then nobody makes calls any more."""
    programs = required("prometheus", "prometheus"), required("prometheus-alertmanager", "prometheus-alertmanager")
    folder = tmp_path_factory.mktemp("monitoring")
    opened: list[Any] = [on_call := OnCall()]
    try:
        opened.append(alertmanager := Alertmanager(programs[1], folder / "alertmanager", on_call.url))
        opened.append(shop := Shop())
        rules = [shortened(text) for text in RULES.values()]
        prometheus = Prometheus(programs[0], folder / "prometheus", [shop.address], rules, alertmanager.address)
        opened.append(prometheus)
        panels: dict[str, list[dict[str, Any]]] = {}

        def look() -> bool:
            panels.update({title: prometheus.query(substituted(expr)) for title, expr in EXPRESSIONS})
            return all(panels.values())

        wait_until(lambda: on_call.has("firing") >= set(ALERTS))
        wait_until(look)
        variables = {}
        for it in VARIABLES:
            series, label = re.findall(r"label_values\((.+), (\w+)\)", substituted(it["definition"]))[0]
            variables[it["name"]] = prometheus.label_values(label, series)
        shop.recover()
        wait_until(lambda: on_call.has("resolved") >= {*ALERTS} - {"CircuitBreakerOpen"})
        resolved_while_open = on_call.has("resolved")
        shop.breakers[REFUSES].reset()
        wait_until(lambda: on_call.has("resolved") >= {*ALERTS})
        yield Story(shop.address, panels, variables, dict(on_call.told), resolved_while_open)
    finally:
        for it in reversed(opened):
            it.close()


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_is_notified_and_resolved(story: Story, alert: str) -> None:
    """The alert fires in Prometheus, and Alertmanager notifies its receiver of that and of its end."""
    assert {it["status"] for it in story.told.get(alert, ())} == {"firing", "resolved"}


@pytest.mark.parametrize("alert", ABOUT)
def test_alert_is_about_the_right_breaker(story: Story, alert: str) -> None:
    """An alert says which breaker of which process of which job it is about, and there is none about the others."""
    labels = [it["labels"] for it in story.told.get(alert, ())]
    assert {it["grpc_breaker_name"] for it in labels} == ABOUT[alert]
    assert {(it["job"], it["instance"]) for it in labels} == {(JOB, story.address)}


def test_alert_of_the_common_names_is_about_the_service(story: Story) -> None:
    """The alert `CircuitBreakerOpen` says which service of which process of which job it is about."""
    labels = [it["labels"] for it in story.told["CircuitBreakerOpen"]]
    assert {(it["job"], it["instance"], it["service"]) for it in labels} == {(JOB, story.address, SERVICE)}


def test_open_breaker_that_nobody_calls_raises_no_alert(story: Story) -> None:
    """The alert on refusals ends when nobody calls any more, though the breaker is still open."""
    assert "CircuitBreakerRefusesCalls" in story.resolved_while_open
    assert "CircuitBreakerOpen" not in story.resolved_while_open


def test_annotations_are_filled_in(story: Story) -> None:
    """No template in a summary or a description is left as it was, or failed."""
    for alerts in story.told.values():
        for it in alerts:
            text = it["annotations"]["summary"] + it["annotations"]["description"]
            assert not re.search(r"\{\{|%!|error|<no value>", text), text


@pytest.mark.parametrize("title", [title for title, _ in EXPRESSIONS])
def test_panel_has_an_answer(story: Story, title: str) -> None:
    """Prometheus has an answer to the expression of the panel, and it is a number."""
    assert story.panels[title]


def test_timeline_shows_every_state(story: Story) -> None:
    """The timeline has a row for each breaker, and their numbers are those of all five states."""
    rows = story.panels["State of each breaker"]
    names = [row["metric"]["grpc_breaker_name"] for row in rows]
    assert sorted(set(names)) == sorted(names)
    assert {float(row["value"][1]) for row in rows} == {0, 1, 2, 3, 4}


def test_table_says_for_how_long(story: Story) -> None:
    """The table has the breakers that are not closed, and for how many seconds they have not been."""
    rows = {
        it["metric"]["grpc_breaker_name"]: float(it["value"][1]) for it in story.panels["Not closed, and for how long"]
    }
    assert {REFUSES, HELD, f"{SERVICE}/HalfOpen"} <= set(rows)
    assert all(0 <= seconds < 120 for seconds in rows.values())


@pytest.mark.parametrize("variable", [it["name"] for it in VARIABLES])
def test_variable_has_values(story: Story, variable: str) -> None:
    """There is something to choose for each variable of the dashboard."""
    assert story.variables[variable]
