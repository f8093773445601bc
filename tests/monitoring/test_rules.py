"""The rules by themselves: `promtool` finds no fault in them, and their unit tests pass and leave none out."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.programs import required

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "monitoring"
RULES = {name: (FOLDER / name).read_text("utf-8") for name in ("rules.yml", "common_names.yml")}
ALERTS = re.findall(r"- alert: (\w+)", "".join(RULES.values()))
TESTS = (FOLDER / "rules_test.yml").read_text("utf-8")
RECIPES = (ROOT / "docs" / "recipes.md").read_text("utf-8")
RUNBOOK = (ROOT / "docs" / "operating.md").read_text("utf-8")

pytestmark = pytest.mark.once


@pytest.mark.parametrize("command", [["check", "rules", *RULES], ["test", "rules", "rules_test.yml"]], ids=" ".join)
def test_promtool(command: list[str]) -> None:
    """`promtool check rules` and `promtool test rules` find nothing wrong."""
    command = [required("promtool", "prometheus"), *command]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scrape_config_of_the_recipes(tmp_path: Path) -> None:
    """`promtool check config` finds nothing wrong with what the recipes have Prometheus scrape."""
    (tmp_path / "prometheus.yml").write_text(re.findall(r"```yaml\n(scrape_configs:.*?)```", RECIPES, re.DOTALL)[0])
    command = [required("promtool", "prometheus"), "check", "config", "prometheus.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_tested(alert: str) -> None:
    """The unit tests of the rules see each alert fire, and see it not fire after that in the same test."""
    tests = [re.findall(rf"alertname: {alert}\b(, exp_alerts: \[\])?", it) for it in TESTS.split("  - name: ")]
    assert any("" in it and it[-1] for it in tests)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_what_to_do(alert: str) -> None:
    """Each alert has a severity, a summary, a description and the address of its section of the runbook."""
    (rule,) = (part for text in RULES.values() for part in text.split("- alert: ")[1:] if part.startswith(alert + "\n"))
    assert re.search(r"severity: (critical|warning)\n", rule)
    assert "summary: " in rule
    assert "description: " in rule
    (anchor,) = re.findall(r"runbook_url: https://\S+/docs/operating\.md#(\w+)\n", rule)
    assert anchor in [heading.lower() for heading in re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)]
