"""The dashboard as a document: what Grafana needs is there. How it is drawn is not tested."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from grpc_breaker import State

DASHBOARD: dict[str, Any] = json.loads((Path(__file__).parents[2] / "monitoring" / "grafana.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]


def test_panels_lie_side_by_side() -> None:
    """No panel lies upon another one, and none outside the 24 columns."""
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_panels_say_what_they_show() -> None:
    """Each panel has a title of its own, a description and a unit, and asks the data source that was chosen."""
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(it["datasource"]["uid"] == "${datasource}" for it in [panel, *panel["targets"]])


def test_variables_are_defined() -> None:
    """Every variable that an expression names is defined, or Grafana's own."""
    defined = {it["name"] for it in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([PANELS, DASHBOARD["templating"]])))
    assert used - {"__all", "__rate_interval"} == defined


def test_every_state_has_a_colour() -> None:
    """The timeline has a word and a colour for each state, and they are those that its expression makes numbers of."""
    (panel,) = (it for it in PANELS if it["type"] == "state-timeline")
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    words = {
        int(number): shown["text"].replace(" ", "_").replace("-", "_") for number, shown in mapping["options"].items()
    }
    (target,) = panel["targets"]
    numbers = re.findall(r'grpc_breaker_state="(\w+)"\}(?: \* (\d))?', target["expr"])
    assert {int(number or 1): state for state, number in numbers} == words
    assert set(words.values()) == {str(state) for state in State}
