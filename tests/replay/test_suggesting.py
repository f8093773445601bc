"""Advice with its arithmetic, and where the verdict on a policy flips."""

from __future__ import annotations

import math

import pytest

from grpc_breaker import BreakerPolicy
from grpc_breaker.replay import advice, guide_threshold, minimum_calls, replay, sensitivity, utilisation
from tests.replay.records import GET, call, every, outage


def test_the_guides_formula() -> None:
    """20 % of 10 calls per second in 30 seconds."""
    assert guide_threshold(20, 10, 30) == 60


def test_semians_utilisation() -> None:
    """The two examples of the design: 42 services, 2 threads."""
    assert utilisation(42, 0.25, 2, 2) == pytest.approx(2.625)
    assert utilisation(42, 0.05, 2, 30) == pytest.approx(0.035)


@pytest.mark.parametrize(
    ("stray", "rate", "least"), [(0.001, 0.5, 3), (0.05, 0.5, 17), (0.0, 0.5, 1), (0.6, 0.5, None)]
)
def test_minimum_calls(stray: float, rate: float, least: int | None) -> None:
    """The more calls fail by chance, the more results it takes until a rate means something."""
    found = minimum_calls(stray, rate)
    if least is None:
        assert found is None
    else:
        assert found is not None
        assert abs(found - least) <= least * 0.5 + 2
        assert minimum_calls(min(1.0, stray + 0.1), rate) != found


@pytest.mark.parametrize(("stray", "rate"), [(0.0003, 0.25), (0.01, 0.1), (0.05, 0.2), (0.01, 0.07)])
def test_minimum_calls_holds_for_more_calls_too(stray: float, rate: float) -> None:
    """A window with some more results than the least number is no likelier to reach the rate."""
    least = minimum_calls(stray, rate)
    assert least is not None
    for count in range(least, 2 * least):
        failures = next(it for it in range(count + 1) if it / count >= rate)
        below = sum(math.comb(count, it) * stray**it * (1 - stray) ** (count - it) for it in range(failures))
        assert 1 - below < 1.0001e-6


def test_everything_fails() -> None:
    """Then no number of results is enough."""
    assert minimum_calls(1.0, 0.5) is None


def test_advice_and_its_arithmetic() -> None:
    """All of it from the healthy part alone."""
    given = advice(outage(), threads=2)
    (method,) = given.methods
    assert method.method == GET
    assert method.p99 == pytest.approx(0.01, rel=0.03)
    assert method.deadline == pytest.approx(1.5 * 0.01, rel=0.03)
    assert method.probe_deadline == method.p99
    assert method.calls_per_second == pytest.approx(10, rel=0.1)
    assert method.bulkhead == 1
    assert method.guide_threshold == pytest.approx(60, abs=6)
    assert given.utilisation == pytest.approx(0.01 / 2, rel=0.03)
    assert [it.name for it in given.played] == ["default", "the guide's formula", "as advised"]
    text = given.text()
    assert "deadline        p99 10 ms * 1.5" in text
    assert "the guide's formula, played: " in text
    assert "probes take 0.5% of 2 threads" in text


def test_the_arithmetic_of_minimum_calls_names_the_policys_rate() -> None:
    """The rate is that of the policy the advice is for."""
    given = advice(outage(), BreakerPolicy(failure_rate=0.2, minimum_calls=10))
    assert given.methods[0].failure_rate == 0.2
    assert "stray failures reach 0.2 of a window" in given.text()


def test_advice_outside_the_record_is_marked() -> None:
    """What is advised may refuse so many calls that the record cannot say what comes of it."""
    given = advice(outage())
    assert all(it.outside_the_record for it in given.played)
    assert "as advised, played: opens when sick, outside the record; opened once" in given.text()
    assert given.as_dict()["played"][0]["outside_the_record"] is True


def test_a_variant_outside_the_record_is_marked() -> None:
    """In the table and in the data."""
    found = sensitivity(outage())
    assert "opens when sick, outside the record" in found.text()
    assert any(it["outside_the_record"] for it in found.as_dict()["varied"])


def test_advice_as_plain_data() -> None:
    """With what it cannot say."""
    plain = advice(outage()).as_dict()
    assert plain["methods"][0]["method"] == GET
    assert plain["played"][1]["name"] == "the guide's formula"
    assert any("--threads" in it for it in plain["cannot_say"])


def test_what_a_record_cannot_say() -> None:
    """A record of little traffic, of streams, and of nothing but failures."""
    slow = " ".join(advice([call(it * 30.0) for it in range(100)]).methods[0].cannot_say)
    assert "a 99th percentile for certain" in slow
    assert "no healthy stretch has ten calls" in slow
    assert "that a failure rate ever opens" in slow
    assert "never sick" in slow
    streams = advice(every(0.1, 0, 60, stream=True)).methods[0]
    assert "no healthy answer" in " ".join(streams.cannot_say)
    assert (streams.deadline, streams.bulkhead) == (None, None)
    failing = advice(every(0.1, 0, 60, "UNAVAILABLE"), threads=1)
    assert failing.methods[0].minimum_calls is None
    assert failing.utilisation is None
    assert "?" in failing.text()


def test_advice_for_many_methods() -> None:
    """Twenty are shown in a terminal."""
    calls = sorted(it for number in range(25) for it in every(1, 0, 15, method=f"a.B/C{number:02}"))
    assert "and 5 methods more: --json has them" in advice(calls).text()


def test_a_method_that_no_policy_can_name() -> None:
    """It gets advice, and no policy."""
    assert advice(every(0.1, 0, 20, method="odd name")).methods[0].method == "odd name"


def test_threads_are_counted() -> None:
    """There is at least one."""
    with pytest.raises(ValueError, match="threads must be 1 or more, got 0"):
        advice(outage(), threads=0)


def test_where_the_verdict_flips() -> None:
    """A burst of seven failures: five in a row see it, and ten do not."""
    calls = [*every(0.1, 0, 60), *every(0.1, 60, 60.7, "UNAVAILABLE"), *every(0.1, 60.7, 120)]
    found = sensitivity(calls, BreakerPolicy(consecutive_failures=5))
    assert found.base.verdict == "refuses more good than bad"
    assert 10 in found.flips()["consecutive_failures"]
    assert "It flips with consecutive_failures = 2, 10, 20." in found.text()
    assert found.as_dict()["flips"]["consecutive_failures"] == [2, 10, 20]
    assert {it.field for it in found.varied} == {
        "consecutive_failures",
        "window_seconds",
        "reset_timeout",
        "half_open_max_calls",
    }


def test_a_verdict_that_never_flips() -> None:
    """It is said in words."""
    found = sensitivity(every(0.1, 0, 20))
    assert found.flips() == {}
    assert "With none of these values does the verdict flip." in found.text()


def test_values_that_contradict_the_policy_are_left_out() -> None:
    """A field is varied where that makes a policy."""
    policy = BreakerPolicy(slow_call_duration=0.3, window_calls=30, minimum_calls=20)
    fields = {(it.field, it.value) for it in sensitivity(every(0.1, 0, 20), policy).varied}
    assert ("window_calls", 50) in fields
    assert ("minimum_calls", 50) not in fields
    assert "window_seconds" not in {it for it, _ in fields}
    assert {"slow_call_rate", "slow_call_duration"} <= {it for it, _ in fields}


def test_replay_is_what_they_are_made_of() -> None:
    """The base of both is the report of the policy itself."""
    assert sensitivity(outage()).base == replay(outage()).policies[0]
