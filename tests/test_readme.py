"""The README is true: its examples run, and its tables agree with the code."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import grpc
import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, State
from grpc_breaker._rpc import verdict
from grpc_breaker.telemetry import BreakerTelemetry

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
RECIPES = (ROOT / "docs" / "recipes.md").read_text("utf-8")


def blocks(text: str) -> list[str]:
    """The Python in it."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


BLOCKS = blocks(README)


def test_readme_is_short() -> None:
    """The README has at most 200 lines."""
    assert len(README.splitlines()) <= 200


def test_first_example_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The first example prints what the README says: five expired deadlines, then two refusals."""
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["DEADLINE_EXCEEDED"] * 5 + ["UNAVAILABLE"] * 2
    refused = ["circuit breaker open for pricing.v1.Pricing/GetPrice; next probe in" in line for line in lines]
    assert refused == [False] * 5 + [True] * 2


def test_first_example_has_nine_lines() -> None:
    """The first example is nine lines long."""
    assert len(BLOCKS[0].splitlines()) == 9


def test_every_example_runs_in_order() -> None:
    """Every other Python block runs as printed, one after the other, in one namespace."""
    namespace: dict[str, object] = {}
    for block in BLOCKS[1:]:
        exec(compile(block, "README.md", "exec"), namespace)


def test_knobs_table_shows_every_field_and_its_default() -> None:
    """Each field of `BreakerPolicy` is in the README with its default."""
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    for field in fields(BreakerPolicy):
        row = next((row for row in rows if f"`{field.name}`" in row.split("|")[1]), None)
        assert row is not None, field.name
        named = re.findall(r"`(\w+)`", row.split("|")[1])
        defaults = [text.strip("` ") for text in row.split("|")[2].split(",")]
        if defaults[-1] == "as many" or len(defaults) < len(named):
            continue
        default = getattr(BreakerPolicy(), field.name)
        assert defaults[named.index(field.name)] == str(default), field.name


def test_status_table_is_what_the_code_does() -> None:
    """Each status is in the README's row of its outcome."""
    for code in grpc.StatusCode:
        outcome = verdict(BreakerPolicy(), code, "", 1.0, 2.0)
        row = next(
            row for row in README.splitlines() if row.startswith("| `") and f"`{code.name}`" in row.split("|")[1]
        )
        assert str(outcome) in row.split("|")[2], code


def test_states_table_has_every_state() -> None:
    """Each state has a row in the README."""
    for state in State:
        assert f"| `{state}` |" in README


def test_every_recipe_runs_in_order() -> None:
    """Every Python block of the recipes runs as printed, in a process of its own: they set global providers and handlers."""
    code = "\n".join(blocks(RECIPES)) + "\nserver.shutdown()\n"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_the_alerts_read_metrics_that_are_there() -> None:
    """The metrics, labels and states in the alerts of the recipes are those that the Prometheus exporter exports."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider
    from prometheus_client import REGISTRY, generate_latest

    rules = RECIPES.partition("```yaml")[2].partition("```")[0]
    provider = MeterProvider([PrometheusMetricReader()])
    try:
        breakers = BreakerRegistry()
        BreakerTelemetry(meter_provider=provider).attach(breakers)
        breakers["pricing.v1.Pricing/GetPrice"].force_open()
        exported = generate_latest(REGISTRY).decode().splitlines()
    finally:
        provider.shutdown()
    asked = re.findall(r'by \((\w+)\) \((\w+)\{(\w+)=~?"(.*?)"\}\)', rules)
    assert len(asked) == len(re.findall("alert:", rules))
    for name, metric, label, states in asked:
        for state in states.split("|"):
            metrics = re.compile(rf"{metric}(_1)?\{{.*{label}=\"{state}\"")  # old exporters append the unit
            (line,) = [line for line in exported if metrics.match(line)]
            assert f'{name}="pricing.v1.Pricing/GetPrice"' in line
