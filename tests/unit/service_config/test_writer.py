"""From policies to a document, and back: nothing is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpc_breaker import (
    BreakerPolicy,
    Fallback,
    LastGood,
    MethodPolicy,
    Outcome,
    RateLimit,
    RetryPolicy,
    RetryThrottling,
    ServiceConfigError,
    Throttle,
)
from grpc_breaker._service_config import ServiceConfig, read, write
from tests.unit.service_config.documents import FUNCTIONS, WHOLE, judge, last_resort, said


def again(config: ServiceConfig, rest: Any = None) -> dict[str, Any]:
    """The document of a config, after a way through JSON."""
    document = write(config.policies, config.default, config.retry_throttling, FUNCTIONS, rest)
    made: dict[str, Any] = json.loads(json.dumps(document))
    return made


def test_a_document_comes_back() -> None:
    """What was read of a document with every part is read of the document written of it, with gRPC's own keys."""
    config = said(WHOLE)
    written = again(config, config.document)
    assert said(written) == config
    assert written["loadBalancingConfig"] == WHOLE["loadBalancingConfig"]
    assert written["methodConfig"][1] == WHOLE["methodConfig"][1]
    assert again(said(written), written) == written


def test_only_what_differs_is_written() -> None:
    """Defaults are not written, trip conditions only where they are not the usual ones, and policies once."""
    policies: dict[str, Any] = {
        "a.B": BreakerPolicy(),
        "a.B/C": MethodPolicy(),
        "a.B/D": MethodPolicy(breaker=None, throttle=Throttle()),
        "a.B/E": MethodPolicy(
            breaker=BreakerPolicy(failure_rate=0.5, reset_timeout=2.5), fallback=Fallback(last_good=LastGood())
        ),
    }
    assert write(policies, BreakerPolicy(), None) == {
        "methodConfig": [
            {"name": [{"service": "a.B"}, {"service": "a.B", "method": "C"}, {}], "circuitBreaker": {}},
            {"name": [{"service": "a.B", "method": "D"}], "throttle": {"k": 2, "window": "30s", "minimumCalls": 20}},
            {
                "name": [{"service": "a.B", "method": "E"}],
                "circuitBreaker": {"failureRate": 0.5, "resetTimeout": "2.5s"},
                "fallback": {"lastGood": {}},
            },
        ]
    }
    assert write({}, None, None) == {}


@pytest.mark.parametrize(
    "breaker",
    [
        BreakerPolicy(consecutive_failures=None),
        BreakerPolicy(failure_rate=None),
        BreakerPolicy(slow_call_duration=1),
        BreakerPolicy(failure_rate=0.5, consecutive_failures=5, failure_threshold=7),
        BreakerPolicy(failure_threshold=7, slow_call_rate=None),
        BreakerPolicy(verdicts={}),
        BreakerPolicy(verdicts={"reason:A": Outcome.SUCCESS}, classify=judge),
        BreakerPolicy(reset_timeout_multiplier=1, probe_deadline=1e-6, minimum_deadline=1e-6),
    ],
)
def test_breakers_come_back(breaker: BreakerPolicy) -> None:
    """Trip conditions, verdicts and classifiers come back as they were."""
    config = ServiceConfig(policies={"a.B/C": MethodPolicy(breaker=breaker)})
    assert said(again(config)) == config


shares = st.none() | st.floats(0.001, 1.0)
counts = st.integers(1, 1000)
seconds = st.integers(1_000, 10**15).map(lambda it: it / 1e9).map(lambda it: float(f"{it:.9f}"))
optional_seconds = st.none() | seconds
codes = st.lists(st.sampled_from(["UNAVAILABLE", "ABORTED", "DATA_LOSS"]), min_size=1, unique=True).map(tuple)


def made(kind: type[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects of a class with some of these fields."""
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: kind(**given))


breakers = made(
    BreakerPolicy,
    failure_rate=st.floats(0.001, 1.0),
    consecutive_failures=counts,
    failure_threshold=counts,
    slow_call_duration=seconds,
    slow_call_rate=st.floats(0.001, 1.0),
    minimum_calls=counts,
    window_seconds=seconds,
    window_calls=st.just(1000),
    probe_timeout=seconds,
    probe_deadline=optional_seconds,
    hung_after=optional_seconds,
    ramp=optional_seconds,
    enforcement_percentage=st.floats(0, 100),
    reset_timeout_jitter=st.floats(0, 1),
    half_open_max_calls=counts,
    half_open_successes=st.none() | counts,
    refusal_code=st.sampled_from(["ABORTED", "UNAVAILABLE"]),
    classify=st.sampled_from([None, judge]),
    verdicts=st.none()
    | st.dictionaries(st.sampled_from(["OK", "NOT_FOUND", "reason:QUOTA", "reason:ü"]), st.sampled_from(list(Outcome))),
)
retries = made(
    RetryPolicy,
    max_attempts=st.integers(2, 5),
    initial_backoff=seconds.map(lambda it: it + 1).map(lambda it: float(f"{it:.9f}")),
    backoff_multiplier=st.floats(0.1, 10),
    retryable_status_codes=codes,
)
fallbacks = st.builds(
    lambda given, when: Fallback(**given, when=when),
    st.sampled_from(
        [{"function": last_resort}, {"last_good": LastGood()}, {"last_good": LastGood(max_age=7.5, max_bytes=1)}]
    ),
    codes.map(lambda it: ("refused", *it)),
)
policies = st.builds(
    lambda given, limit, streams: MethodPolicy(
        **given, max_concurrent_calls=limit, bulkhead_streams=streams and limit is not None
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "breaker": st.none() | breakers,
            "timeout": optional_seconds,
            "attempt_timeout": optional_seconds,
            "retry": st.none() | retries,
            "rate_limit": st.none()
            | st.builds(lambda rate, burst: RateLimit(rate, burst=burst), st.floats(0.1, 1e6), counts),
            "throttle": st.none() | made(Throttle, k=st.floats(1, 10), window=seconds, minimum_calls=counts),
            "fallback": st.none() | fallbacks,
        },
    ),
    st.none() | counts,
    st.booleans(),
)
names = st.sampled_from(["a.B", "a.B/C", "a.B/D", "a.E/F", "G"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(names, policies),
    st.none() | policies,
    st.none() | made(RetryThrottling, max_tokens=counts, token_ratio=st.floats(0.001, 10)),
)
def test_all_policies_come_back(
    given: dict[str, MethodPolicy], default: MethodPolicy | None, throttling: RetryThrottling | None
) -> None:
    """Policies of every kind, written and read again, are the same."""
    config = ServiceConfig(policies=given, default=default, retry_throttling=throttling)
    assert said(again(config)) == config


def test_times_have_nanoseconds() -> None:
    """A time that is finer than a nanosecond is rounded to one."""
    policy = MethodPolicy(timeout=1 / 3)
    written = write({"a.B": policy}, None, None)
    assert written["methodConfig"][0]["timeout"] == "0.333333333s"
    assert read(written, {}).policies == {"a.B": replace(policy, timeout=0.333333333)}


def test_what_cannot_be_written() -> None:
    """Functions without names, constants, and policies for one target are one error, with all of them."""
    policies = {
        "a.B": BreakerPolicy(classify=judge),
        "a.B/C": MethodPolicy(fallback=Fallback(function=last_resort, constant=b"")),
        "a.B/C@eu": BreakerPolicy(),
    }
    with pytest.raises(ServiceConfigError) as wrong:
        write(policies, None, None, {"last_resort": last_resort})
    classify, constant, target = wrong.value.problems
    assert classify.startswith('the policy of "a.B" has the function tests.unit.service_config.documents.judge:')
    assert classify.endswith(", which has no name in functions")
    assert constant == 'the fallback of "a.B/C" has a constant, which no document can have; give a function'
    assert target == 'the policy of "a.B/C@eu" is for one target, which has no name in a document'
    functions: Any = ["judge"]
    with pytest.raises(TypeError, match="functions must be a mapping"):
        write({}, None, None, functions)


def test_methods_of_objects_have_names() -> None:
    """A method of an object is found by the name of an equal one: each access makes a new one."""

    class Prices:
        def last(self, request: Any, error: Any) -> Any:
            raise AssertionError(request, error)

    prices = Prices()
    policy = MethodPolicy(breaker=None, fallback=Fallback(function=prices.last))
    assert write({"a.B": policy}, None, None, {"last": prices.last}) == {
        "methodConfig": [{"name": [{"service": "a.B"}], "fallback": {"function": "last"}}]
    }
