"""Metrics as a monitoring system needs them: counters from 0 on, names and units, how many series there are."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider, ObservableGauge

from grpc_breaker import BreakerPolicy, BreakerRegistry, Fallback, MethodPolicy, Outcome
from grpc_breaker.telemetry import BreakerTelemetry
from grpc_breaker.testing import FakeClock
from tests.support.child import in_child
from tests.telemetry.meter import Meter

METHOD = "pkg.S/M"
POLICY = BreakerPolicy(consecutive_failures=2)
PAGE = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text("utf-8")
OPENED = ("grpc_breaker.state=open", "grpc_breaker.state.previous=closed")
REOPENED = ("grpc_breaker.state=open", "grpc_breaker.state.previous=half_open")


@pytest.fixture
def breakers(meter: Meter) -> BreakerRegistry:
    """Two failures open; the meter reads it."""
    breakers = BreakerRegistry(default=POLICY, clock=FakeClock())
    BreakerTelemetry(meter_provider=meter.provider).attach(breakers)
    return breakers


def open_it(breakers: BreakerRegistry) -> None:
    """Open a breaker by two calls."""
    for _ in range(2):
        breakers[METHOD].admit().failure("UNAVAILABLE")


def read(meter: Meter, metric: str) -> dict[tuple[str, ...], float]:
    """The points of one metric: {(attributes without those of the breaker's name, …): value}."""
    return {
        tuple(it for it in key[1:] if METHOD not in it): value
        for key, value in meter.read().items()
        if key[0] == f"grpc_breaker.{metric}"
    }


def test_openings_are_counted_from_0(breakers: BreakerRegistry, meter: Meter) -> None:
    """A breaker that was made and never opened has its openings at 0: else the first would be no increase."""
    assert read(meter, "state_changes") == {}
    breakers[METHOD].admit().success()
    assert read(meter, "state_changes") == {OPENED: 0, REOPENED: 0}
    open_it(breakers)
    assert read(meter, "state_changes") == {OPENED: 1, REOPENED: 0}


def test_refusals_by_a_breaker_are_counted_from_0(breakers: BreakerRegistry, meter: Meter) -> None:
    """A breaker that was made and never refused a call has its refusals at 0: the first may be the only one in an hour."""
    rejected = ("grpc_breaker.outcome=rejected", "grpc_breaker.refusal.reason=breaker")
    open_it(breakers)
    assert read(meter, "calls")[rejected] == 0
    breakers[METHOD].try_admit()
    assert read(meter, "calls")[rejected] == 1


def test_hung_calls_are_counted_from_0(meter: Meter) -> None:
    """A breaker with `hung_after` has its hung calls at 0 before there is one; a breaker without has none."""
    breakers = BreakerRegistry({METHOD: BreakerPolicy(hung_after=1), "pkg.S/N": POLICY}, clock=(clock := FakeClock()))
    BreakerTelemetry(meter_provider=meter.provider).attach(breakers)
    permit, _ = breakers[METHOD].admit(), breakers["pkg.S/N"].admit()
    hung = ("error.type=HUNG", "grpc_breaker.outcome=failure")
    assert [(key, value) for key, value in read(meter, "calls").items() if hung[0] in key] == [(hung, 0)]
    clock.advance(2)
    breakers[METHOD].admit()
    assert read(meter, "calls")[hung] == 1
    permit.success()


def test_start_time_of_the_state(breakers: BreakerRegistry, meter: Meter) -> None:
    """The metric says when a breaker entered the state it is in, in seconds since the epoch; not before it has changed."""
    breaker = breakers[METHOD]
    assert read(meter, "state.start_time") == {}
    breaker.force_open()
    assert read(meter, "state.start_time") == {("grpc_breaker.state=forced_open",): breaker.changes[-1].time}
    breaker.reset()
    assert read(meter, "state.start_time") == {("grpc_breaker.state=closed",): breaker.changes[-1].time}


def test_start_time_of_breakers_that_share_a_name(meter: Meter) -> None:
    """Of two registries' breakers with one name and one state, the metric says when the first entered it."""
    shared = BreakerTelemetry(meter_provider=meter.provider)
    registries = (BreakerRegistry(), BreakerRegistry())
    for registry in registries:
        shared.attach(registry)
        registry[METHOD].force_open()
    first = registries[0][METHOD].changes[-1].time
    assert read(meter, "state.start_time") == {("grpc_breaker.state=forced_open",): first}


def test_end_time_of_a_hold(breakers: BreakerRegistry, meter: Meter, caplog: pytest.LogCaptureFixture) -> None:
    """The metric says when a hold ends that has an end, in seconds since the epoch; there is none of another hold, and
    the SDK has nothing to complain of.
    """
    breaker = breakers[METHOD]
    breaker.force_open()
    assert read(meter, "hold.end_time") == {}
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]
    breaker.disable(ttl=600)
    assert breaker.hold is not None
    assert read(meter, "hold.end_time") == {("grpc_breaker.state=disabled",): breaker.hold.since + 600}
    breaker.reset()
    assert read(meter, "hold.end_time") == {}


def test_end_time_of_holds_that_share_a_name(meter: Meter) -> None:
    """Of two registries' breakers with one name that are held, the metric says when the last hold ends."""
    shared = BreakerTelemetry(meter_provider=meter.provider)
    registries = (BreakerRegistry(), BreakerRegistry())
    for registry, ttl in zip(registries, (600, 60), strict=True):
        shared.attach(registry)
        registry[METHOD].force_open(ttl=ttl)
    hold = registries[0][METHOD].hold
    assert hold is not None
    assert read(meter, "hold.end_time") == {("grpc_breaker.state=forced_open",): hold.ends}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_child_counts_its_own_changes(breakers: BreakerRegistry, meter: Meter) -> None:
    """A forked child counts the changes of state since the fork; its parent reports the others."""
    open_it(breakers)
    assert read(meter, "state_changes") == {OPENED: 1, REOPENED: 0}

    def child() -> list[float]:
        before = sum(read(meter, "state_changes").values())
        breakers[METHOD].reset()
        return [before, sum(read(meter, "state_changes").values())]

    assert in_child(child) == [0, 1]


def test_series_of_a_healthy_breaker(breakers: BreakerRegistry, meter: Meter) -> None:
    """A breaker whose calls all succeed has as many series as the page says, metric by metric."""
    breakers[METHOD].admit().success()
    found = Counter(key[0] for key in meter.read())
    told = {
        name: int(number) for name, number in re.findall(r"^\| `(grpc_breaker\.[\w.]+)` \| (\d+) ", PAGE, re.MULTILINE)
    }
    assert found == {name: number for name, number in told.items() if number}
    (total,) = re.findall(r"^\| together \| \*\*(\d+)\*\* ", PAGE, re.MULTILINE)
    assert found.total() == int(total)


def test_views_of_the_page_drop_series() -> None:
    """With the views of the page a metric is gone, and calls have one series for each outcome, with the same counts."""
    block = next(it for it in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "View(" in it)
    names: dict[str, Any] = {}
    exec(block, names)
    meter = Meter(names["views"])
    breakers = BreakerRegistry(default=POLICY, clock=FakeClock())
    BreakerTelemetry(meter_provider=meter.provider).attach(breakers)
    for status in ("OK", "NOT_FOUND"):
        breakers[METHOD].admit().settle(Outcome.SUCCESS, status)
    open_it(breakers)
    try:
        assert read(meter, "state.start_time") == {}
        calls = {"success": 2, "failure": 2}
        rejected = ("grpc_breaker.outcome=rejected", "grpc_breaker.refusal.reason=breaker")
        assert read(meter, "calls") == {rejected: 0, **{(f"grpc_breaker.outcome={it}",): n for it, n in calls.items()}}
        assert read(meter, "state")["grpc_breaker.state=open",] == 1
    finally:
        meter.provider.shutdown()


@pytest.mark.once
@pytest.mark.parametrize(("limit", "missing"), [({}, True), ({ObservableGauge: 2500}, False)])
@pytest.mark.filterwarnings("default")  # where points are left out, the SDK may say so
def test_more_breakers_than_the_sdk_has_room_for(limit: dict[type, int], missing: bool) -> None:
    """The SDK keeps 2,000 points of a metric: the states of 400 breakers, and no more unless its reader is told to."""
    meter = Meter(cardinality_limits=limit)
    breakers = BreakerRegistry(default=POLICY)
    BreakerTelemetry(meter_provider=meter.provider).attach(breakers)
    try:
        for number in range(401):
            breakers[f"pkg.S/M{number}"].admit().success()
        states = [key for key in meter.read() if key[0] == "grpc_breaker.state"]
        assert any("overflow" in it for key in states for it in key) is missing
        assert len(states) == (2001 if missing else 2005)
    finally:
        meter.provider.shutdown()


def test_units_append_nothing(breakers: BreakerRegistry, meter: Meter) -> None:
    """Each unit says what is counted, in braces, which no exporter appends to the name ("1" becomes "_ratio"); but seconds."""
    breakers[METHOD].force_open()
    units = {metric.name: metric.unit for metric in meter.metrics()}
    assert units.pop("grpc_breaker.state.start_time") == "s"
    assert len(units) == 4
    assert all(re.fullmatch(r"\{\w+\}", unit) for unit in units.values())


@pytest.mark.once
def test_names_for_prometheus() -> None:
    """The Prometheus exporter appends `_total` to counters, and no unit but that of the time."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import REGISTRY, generate_latest

    provider = MeterProvider([PrometheusMetricReader()])
    breakers = BreakerRegistry({METHOD: MethodPolicy(breaker=POLICY, fallback=Fallback(constant=b"none"))})
    try:
        BreakerTelemetry(meter_provider=provider).attach(breakers)
        open_it(breakers)
        breakers["pkg.S/Held"].force_open(ttl=600)
        _, _, stack = breakers.route(METHOD) or (None, None, None)
        assert stack is not None
        stack.count_retry()
        stack.count_fallback("constant")
        lines = generate_latest(REGISTRY).decode().splitlines()
    finally:
        provider.shutdown()
    assert {line.partition("{")[0] for line in lines if line.startswith("grpc_breaker")} == {
        "grpc_breaker_state",
        "grpc_breaker_state_start_time_seconds",
        "grpc_breaker_hold_end_time_seconds",
        "grpc_breaker_state_changes_total",
        "grpc_breaker_calls_total",
        "grpc_breaker_calls_in_flight",
        "grpc_breaker_retries_total",
        "grpc_breaker_fallbacks_total",
    }
