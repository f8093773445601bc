"""Made-up traffic: seeded, in order, and each with its trouble."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy
from grpc_breaker.replay import SCENARIOS, replay, scenario, write_record


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_has_trouble(name: str) -> None:
    """Its calls are in order, more of them fail than by chance, and the same seed makes the same."""
    calls = list(scenario(name, seed=3, seconds=600, calls_per_second=10))
    assert [it.time for it in calls] == sorted(it.time for it in calls)
    assert len(calls) == pytest.approx(6_000, rel=0.1)
    assert sum(it.status != "OK" for it in calls) > 0.002 * len(calls)
    assert calls[:500] == list(scenario(name, seed=3, seconds=600, calls_per_second=10))[:500]
    assert calls[:500] != list(scenario(name, seed=4, seconds=600, calls_per_second=10))[:500]
    assert SCENARIOS[name]


def test_the_default_policy_in_a_sustained_outage() -> None:
    """It opens, and closes again after it, without false alarms."""
    policy = replay(scenario("sustained", seconds=300, calls_per_second=15), {"default": None}).policies[0]
    assert (policy.verdict, policy.opened) == ("opens when sick", 1)
    assert policy.openings[0].closed is not None


def test_one_method_of_many() -> None:
    """Only the breaker of the method that fails opens."""
    report = replay(scenario("one-method", seconds=300, calls_per_second=20), {"default": None})
    assert len(report.methods) == 4
    assert {it.breaker for it in report.policies[0].openings} == {"pricing.v1.Pricing/ListPrices"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "spik"}, "there is no scenario 'spik'; did you mean 'spike'?"),
        ({"name": "?"}, "those there are: spike, gradual"),
        ({"name": "spike", "seconds": 0}, "seconds must be from 1 to 1e7"),
        ({"name": "spike", "calls_per_second": 0}, "calls_per_second must be from 0.01"),
    ],
)
def test_scenarios_that_are_none(arguments: dict[str, Any], words: str) -> None:
    """The error says what there is."""
    with pytest.raises(ValueError, match=r".*") as caught:
        scenario(**arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["slow", "tenant-quota"])
def test_a_scenario_written_as_a_record_plays_the_same(name: str, tmp_path: Path) -> None:
    """The record has its lines in the order of the ends, and every field."""
    path = tmp_path / "record.jsonl"
    policies = {"default": None, "slow": BreakerPolicy(slow_call_duration=0.3)}
    calls = list(scenario(name, seconds=200, calls_per_second=20))
    assert write_record(iter(calls), path) == len(calls)
    written, direct = replay(path, policies), replay(calls, policies)
    assert written.policies == direct.policies
    assert path.read_text("utf-8").splitlines()[1].count("deadline") == 1


def test_an_empty_record(tmp_path: Path) -> None:
    """Without calls nothing is written."""
    assert write_record([], tmp_path / "record") == 0


def test_the_docs_list_the_scenarios() -> None:
    """Each with what happens in it, as the code says it."""
    page = (Path(__file__).parents[2] / "docs/replay.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", page, re.MULTILINE))
    assert rows == {name: f"{text[0].lower()}{text[1:].rstrip('.')}" for name, text in SCENARIOS.items()}
