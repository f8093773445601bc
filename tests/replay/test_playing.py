"""Policies over recorded calls: what opens, what is refused, and what that would have been."""

from __future__ import annotations

import tracemalloc

import pytest

from grpc_breaker import BreakerPolicy, MethodPolicy, Outcome, RateLimit, RetryPolicy
from grpc_breaker.replay import Call, RecordError, Report, replay, scenario
from tests.replay.records import BEGINS, GET, call, every, outage

STEADY = {"reset_timeout": 5.0, "reset_timeout_jitter": 0.0}
FIVE = BreakerPolicy(consecutive_failures=5, **STEADY)


def play(calls: list[Call], policy: object = FIVE, **options: object) -> Report:
    return replay(calls, {"it": policy}, **options)  # type: ignore[arg-type, dict-item]


def warnings(report: Report) -> str:
    return "\n".join(map(str, report.warnings))


def test_opens_and_closes_where_a_live_breaker_would() -> None:
    """The fifth failure opens it as it ends; each probe comes with the first call after the open period."""
    policy = play(outage()).policies[0]
    (opening,) = policy.openings
    assert opening.opened - BEGINS == pytest.approx(60.41)
    assert opening.closed is not None
    assert opening.closed - BEGINS == pytest.approx(91.21)
    assert (opening.reason, opening.failures, opening.probes_failed) == ("consecutive_failures", 5, 5)
    states = [it.state for it in policy.changes]
    assert states == ["open", *["half_open", "open"] * 5, "half_open", "closed"]


def test_a_refused_call_counts_by_how_it_ended_in_the_record() -> None:
    """Refused calls are good or bad by their recorded status; the rest of the failures was let through."""
    report = play(outage())
    policy = report.policies[0]
    assert (report.calls, report.good, report.bad, report.ignored) == (1500, 1200, 300, 0)
    assert policy.bad_spared + policy.failures_let_through == 300
    assert policy.refused == policy.good_refused + policy.bad_spared == policy.refused_by["breaker"]
    assert 0 < policy.good_refused < 60
    assert policy.caller_seconds_saved == pytest.approx(policy.bad_spared * 0.01)


def test_a_policy_that_never_opens_misses_a_sick_server() -> None:
    """Every call of the sick time reached the server."""
    report = play(outage(), BreakerPolicy(failure_threshold=1000))
    policy = report.policies[0]
    assert policy.opened == policy.refused == 0
    assert policy.sent_to_sick == report.sick_calls == pytest.approx(300, abs=50)
    assert policy.verdict == "misses the sick server"


def test_the_verdict_on_a_good_policy() -> None:
    """It opens when the server is sick, and refuses fewer good calls than it spares bad ones."""
    policy = play(outage()).policies[0]
    assert (policy.verdict, policy.trips_in_healthy_time) == ("opens when sick", 0)


def test_a_trip_in_healthy_time_is_a_false_alarm() -> None:
    """Two failures in a row among hundreds of successes open a breaker that is too sensitive."""
    calls = every(0.05, 0, 60)
    calls[600:602] = [it._replace(status="INTERNAL") for it in calls[600:602]]
    policy = play(calls, BreakerPolicy(consecutive_failures=2, **STEADY)).policies[0]
    assert (policy.opened, policy.trips_in_healthy_time, policy.verdict) == (1, 1, "false alarms")


def test_a_trip_as_the_outage_begins_is_none() -> None:
    """A stretch that was healthy until its last quarter of a second is judged with the one after it."""
    calls = [*every(0.05, 0, 64.7), *every(0.05, 64.7, 90, "UNAVAILABLE"), *every(0.05, 90, 150)]
    policy = play(calls).policies[0]
    assert policy.openings[0].opened < BEGINS + 65
    assert policy.trips_in_healthy_time == 0


def test_refusing_more_good_calls_than_bad_ones_is_said() -> None:
    """A long open period for a short burst."""
    calls = [*every(0.1, 0, 30), *every(0.1, 30, 31, "UNAVAILABLE"), *every(0.1, 31, 100)]
    policy = play(calls, BreakerPolicy(consecutive_failures=3, reset_timeout=60)).policies[0]
    assert policy.verdict == "refuses more good than bad"


def test_a_quiet_record_leaves_it_closed() -> None:
    """Nothing fails, nothing opens."""
    policy = play(every(0.1, 0, 20)).policies[0]
    assert (policy.opened, policy.verdict) == (0, "stays closed")


def test_a_record_that_ends_in_the_outage() -> None:
    """The breaker is open until the end, and for so long."""
    policy = play(outage()[:700]).policies[0]
    assert policy.openings[0].closed is None
    assert policy.not_closed_seconds == pytest.approx(9.5, abs=0.2)


def test_slow_answers_open_what_looks_at_them() -> None:
    """A slow server opens the breaker that has `slow_call_duration`, which is no false alarm."""
    calls = [*every(0.1, 0, 30), *every(0.1, 30, 60, duration=0.4), *every(0.1, 60, 90)]
    policy = play(calls, BreakerPolicy(slow_call_duration=0.3, **STEADY)).policies[0]
    assert policy.openings[0].reason == "slow_call_rate"
    assert (policy.trips_for_slowness, policy.trips_in_healthy_time) == (1, 0)
    assert policy.openings[0].slow > 0


def test_opening_for_slowness_alone_is_said() -> None:
    """Where the slow calls fail in the end, sparing them outweighs the good ones."""
    calls = [*every(0.1, 0, 30), *every(0.1, 30, 36, duration=0.4), *every(0.1, 36, 90, "UNAVAILABLE", duration=0.4)]
    policy = play(calls, BreakerPolicy(slow_call_duration=0.3, slow_call_rate=0.2, **STEADY)).policies[0]
    assert policy.verdict == "opens for slowness"


def test_each_method_has_its_own_breaker() -> None:
    """The other method is not refused, and not sick."""
    other = every(0.1, 0, 150, method="pricing.v1.Pricing/ListPrices")
    both = sorted([*outage(), *other])
    report = play(both)
    assert len(report.methods) == 2
    assert {it.breaker for it in report.policies[0].openings} == {GET}


def test_targets_have_breakers_of_their_own() -> None:
    """A target's calls open the target's breaker."""
    calls = [it._replace(target="eu") for it in outage()]
    assert play(calls).policies[0].openings[0].breaker == f"{GET}@eu"


def test_several_policies_are_played_at_once() -> None:
    """Each has breakers of its own, in the order given."""
    report = replay(outage(), {"one": FIVE, "two": BreakerPolicy(consecutive_failures=50, **STEADY), "three": None})
    one, two, three = report.policies
    assert (one.name, two.name, three.name) == ("one", "two", "three")
    assert one.openings[0].opened < two.openings[0].opened
    assert three.opened == 1


def test_the_same_seed_plays_the_same() -> None:
    """What is left to chance is seeded."""
    first, again, other = (replay(outage(), seed=it).policies[0] for it in (1, 1, 2))
    assert first == again
    assert first.changes != other.changes


def test_a_bulkhead_and_a_rate_limit_refuse() -> None:
    """What refused a call is told apart."""
    calls = every(0.01, 0, 5, duration=0.5)
    bulkhead = play(calls, MethodPolicy(max_concurrent_calls=10)).policies[0]
    limited = play(calls, MethodPolicy(rate_limit=RateLimit(10))).policies[0]
    assert set(bulkhead.refused_by) == {"bulkhead"}
    assert set(limited.refused_by) == {"rate"}
    assert bulkhead.opened == limited.opened == 0


def test_a_trial_refuses_nothing_and_says_what_it_would() -> None:
    """With enforcement at 0, refusals are counted, and every call is made."""
    policy = play(outage(), BreakerPolicy(consecutive_failures=5, enforcement_percentage=0, **STEADY)).policies[0]
    assert policy.refused == 0
    assert policy.unenforced > 100


def test_a_method_that_is_left_alone() -> None:
    """A document without an entry for the method plays nothing, and the report warns of it."""
    document = {"methodConfig": [{"name": [{"service": "other.v1.Other"}]}]}
    report = play(outage(), document)
    assert report.policies[0].left_alone == 1500
    assert "leaves 1500 calls alone" in warnings(report)


def test_policies_by_method() -> None:
    """A mapping of names to policies is what a registry takes."""
    report = play(outage(), {"pricing.v1.Pricing": FIVE})
    assert report.policies[0].policy["pricing.v1.Pricing"] == {"reset_timeout": 5.0, "reset_timeout_jitter": 0.0} | {
        "failure_rate": None
    }
    assert report.policies[0].opened == 1


def test_a_probe_ends_with_its_own_deadline() -> None:
    """A probe that took longer than `probe_deadline` fails then, and the breaker stays open."""
    calls = [*every(0.1, 0, 6, "UNAVAILABLE"), *every(0.1, 6, 30, duration=0.5)]
    patient = play(calls, BreakerPolicy(consecutive_failures=5, **STEADY)).policies[0]
    hasty = play(calls, BreakerPolicy(consecutive_failures=5, probe_deadline=0.2, **STEADY)).policies[0]
    assert patient.openings[0].closed is not None
    assert hasty.openings[0].closed is None
    assert hasty.openings[0].probes_failed > 2


def test_statuses_are_judged_as_the_adapters_judge_them() -> None:
    """NOT_FOUND is an answer; with a verdict of the policy's own it is a failure."""
    calls = every(0.1, 0, 20, "NOT_FOUND")
    strict = BreakerPolicy(consecutive_failures=5, verdicts={"NOT_FOUND": Outcome.FAILURE})
    assert play(calls).policies[0].opened == 0
    assert play(calls, strict).policies[0].opened == 1
    assert play(every(0.1, 0, 20), strict).policies[0].opened == 0


def test_details_tell_the_clients_own_failures_apart() -> None:
    """A call that the client itself cancelled is ignored."""
    calls = every(0.1, 0, 20, "CANCELLED", details="Locally cancelled by application!")
    report = play(calls)
    assert (report.ignored, report.policies[0].opened) == (200, 0)
    assert "No call of the record says anything about the server" in warnings(report)


def test_a_recorded_outcome_counts() -> None:
    """Where the record says the outcome, the status does not matter; and the report says so."""
    report = play(every(0.1, 0, 20, outcome="failure"))
    assert (report.bad, report.policies[0].opened) == (200, 1)
    assert "200 calls have a recorded outcome" in warnings(report)
    assert play(every(0.1, 0, 20, outcome="success")).good == 200


def test_refused_calls_without_a_meaning_are_neither_good_nor_bad() -> None:
    """Calls that would have been ignored are counted apart."""
    calls = [*every(0.1, 0, 1, "UNAVAILABLE"), *every(0.1, 1, 4, "CANCELLED", outcome="ignored")]
    policy = play(calls).policies[0]
    assert policy.refused == policy.bad_spared + 30


def test_streams_are_not_timed() -> None:
    """A stream's length is not slowness, and no probe deadline holds for it."""
    policy = BreakerPolicy(slow_call_duration=0.3, consecutive_failures=5, probe_deadline=0.1, **STEADY)
    calls = [*every(0.1, 0, 6, "UNAVAILABLE"), *every(0.1, 6, 30, duration=5.0, stream=True)]
    report = play(calls, policy)
    assert report.policies[0].trips_for_slowness == 0
    assert report.policies[0].openings[0].closed is not None
    assert "240 calls are streams" in warnings(report)


@pytest.mark.parametrize(
    ("duration", "stream", "details", "bad"),
    [
        (60.0, True, "Socket closed", 0),
        (5.0, True, "Socket closed", 5),
        (60.0, True, "", 5),
        (60.0, False, "Socket closed", 5),
    ],
)
def test_streams_that_are_lost_with_their_connection(duration: float, stream: bool, details: str, bad: int) -> None:
    """They count as they do live: where they lasted longer than the window, they are ignored."""
    calls = [call(70.0 * n, "UNAVAILABLE", duration, stream=stream, details=details) for n in range(5)]
    report = play(calls)
    assert (report.policies[0].opened, report.bad) == (bad // 5, bad)


def test_a_hung_call_counts_before_its_end() -> None:
    """`hung_after` is played: calls that hang open the breaker long before they end."""
    calls = every(0.1, 0, 20, "DEADLINE_EXCEEDED", duration=15.0)
    policy = play(calls, BreakerPolicy(consecutive_failures=5, hung_after=1.0, **STEADY)).policies[0]
    assert policy.openings[0].opened < BEGINS + 2


def test_a_call_that_ends_as_another_begins_has_ended() -> None:
    """The one that begins sees what the other has done."""
    calls = [call(0.0, "UNAVAILABLE", 0.125), call(0.125)]
    assert play(calls, BreakerPolicy(consecutive_failures=1, reset_timeout=60)).policies[0].good_refused == 1


def test_plain_code_fails_by_its_exceptions() -> None:
    """A status that gRPC does not have is a failure, with a warning."""
    report = play(every(0.1, 0, 20, "ConnectionError"))
    assert report.policies[0].opened == 1
    assert "ConnectionError" in warnings(report)


def test_outside_the_record() -> None:
    """A policy that refuses more than a tenth of the calls is flagged, in the report and in its warnings."""
    report = play(outage())
    assert report.policies[0].outside_the_record
    assert "outside the record" in warnings(report)
    assert not play([*outage(), *every(0.1, 150, 600)]).policies[0].outside_the_record


def test_what_is_not_played_is_said() -> None:
    """Retries, timeouts, fallbacks and classifiers are named, each for the policy that has them."""
    policy = MethodPolicy(
        breaker=BreakerPolicy(classify=lambda _: None), retry=RetryPolicy(), timeout=1.0, attempt_timeout=0.5
    )
    said = warnings(play(every(0.1, 0, 5), policy))
    assert "it: Not played are retries" in said
    assert "timeouts" in said
    assert "metadata" in said
    document = {"methodConfig": [{"name": [{}], "fallback": {"lastGood": {}}}]}
    assert "fallbacks" in warnings(play(every(0.1, 0, 5), document))


def test_functions_that_a_service_config_names() -> None:
    """They are not there; the status alone decides, and the report says so."""
    parts = {"circuitBreaker": {"classify": "judge", "consecutiveFailures": 5}, "fallback": {"function": "cheap"}}
    report = play(outage(), {"methodConfig": [{"name": [{}], **parts}]})
    assert report.policies[0].opened == 1
    assert "functions that classify calls: a service config only names them" in warnings(report)
    assert "fallbacks" in warnings(report)


def test_methods_can_be_chosen() -> None:
    """By their own name, or by the service."""
    both = sorted([*outage(), *every(0.1, 0, 150, method="a.B/C")])
    assert play(both, methods=[f"/{GET}"]).calls == 1500
    assert play(both, methods=["a.B"]).calls == 1500
    with pytest.raises(RecordError, match=r"no call of x\.Y in it that was made; those there are: a\.B/C, pricing"):
        play(both, methods=["x.Y"])
    many = [call(it, method=f"a.B/{it}") for it in range(25)]
    with pytest.raises(RecordError) as caught:
        play(many, methods=["x.Y"])
    assert str(caught.value).count("a.B/") == 20


def test_more_methods_than_are_followed_share_what_is_left() -> None:
    """Where names are made up, memory stays bounded."""
    calls = [call(it * 0.01, "UNAVAILABLE", method=f"a.B/{it // 5}") for it in range(10_500)]
    report = play(calls)
    assert len(report.methods) == 2001
    assert report.policies[0].opened == 2100
    assert report.policies[0].trips_in_healthy_time == 0


def test_memory_stays_bounded_where_a_breaker_never_rests() -> None:
    """Of countless changes ten thousand are kept, and the report says so."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=0.001, reset_timeout_jitter=0, half_open_max_calls=1)
    calls = [call(it * 0.1, "OK" if it % 2 else "UNAVAILABLE") for it in range(20_100)]
    report = play(calls, policy)
    assert report.policies[0].opened == 10_050
    assert len(report.policies[0].changes) == len(report.policies[0].openings) == 10_000
    assert "It opened 10050 times" in warnings(report)


def test_a_source_that_is_none() -> None:
    """What is neither a path nor calls is said to be so."""
    with pytest.raises(TypeError, match="a record must be a path, several paths, or calls, got 7"):
        replay(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a record must be made of Call, got 'x'"):
        replay(iter(["x"]))  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="calls: there is no call in it that was made"):
        replay([])


def test_calls_of_a_program_are_checked_too() -> None:
    """A bad value is named with the number of the call."""
    with pytest.raises(RecordError, match="calls:2: duration must be seconds, 0 or more, got -1"):
        replay([call(0), call(1, duration=-1)])


@pytest.mark.parametrize("horizon", [-1, float("nan"), 1e7])
def test_a_horizon_out_of_range(horizon: float) -> None:
    """The horizon is a number of seconds."""
    with pytest.raises(ValueError, match="horizon must be from 0 to 1e6 seconds"):
        replay(outage(), horizon=horizon)


def test_policies_that_are_none() -> None:
    """Policies are a mapping of names, and there is at least one."""
    with pytest.raises(TypeError, match="policies must be a mapping of names to policies"):
        replay(outage(), [FIVE])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="replay needs a policy to play"):
        replay(outage(), {})
    with pytest.raises(TypeError, match=r"^policy 'next' must be a BreakerPolicy, .* or None, got 3$"):
        replay(outage(), {"next": 3})  # type: ignore[dict-item]


def _peak(seconds: float) -> int:
    """The most memory that a replay of so long a stream takes, in bytes."""
    calls = scenario("oscillating", seconds=seconds, calls_per_second=20)
    tracemalloc.start()
    try:
        replay(calls, {"default": None}, horizon=1)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.once
def test_a_stream_of_any_length_takes_the_same_memory() -> None:
    """Calls are never held as a whole: ten times as many take hardly more."""
    _peak(100)  # what is made once
    assert _peak(1000) < 1.5 * _peak(100) + 300_000
