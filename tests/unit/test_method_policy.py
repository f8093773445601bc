"""`MethodPolicy` and what it is made of: what is allowed, what a bad value says, and what follows from the fields."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math
import pickle
from typing import Any

import grpc
import pytest

from grpc_breaker import (
    BreakerPolicy,
    Fallback,
    LastGood,
    MethodPolicy,
    Outcome,
    RateLimit,
    RetryPolicy,
    RetryThrottling,
    Throttle,
)

SECONDS = "a number of seconds from 0.000001 to 1e9"
BACKOFF = "a number of seconds from 0.01 to 1e9"
CODES = "gRPC statuses other than OK, or their names, at least one and none twice"
WHEN = "'refused' and gRPC statuses other than OK, at least one and none twice"
KEYS = "metadata keys such as 'authorization', none of them twice"

WHOLE = MethodPolicy(
    breaker=BreakerPolicy(verdicts={"NOT_FOUND": Outcome.FAILURE}),
    timeout=0.5,
    attempt_timeout=0.2,
    retry=RetryPolicy(),
    max_concurrent_calls=20,
    bulkhead_streams=True,
    rate_limit=RateLimit(200, burst=20),
    throttle=Throttle(),
    fallback=Fallback(last_good=LastGood(key_metadata=("authorization",)), constant=b""),
)
"""A policy with every part."""


def generator(*_: object) -> Any:
    """A generator function: calling it runs nothing."""
    yield None


async def later(request: object, error: object) -> object:
    """A function of a fallback for asyncio."""
    return request, error


@pytest.mark.parametrize(
    ("made", "field", "value", "allowed"),
    [
        (MethodPolicy, "breaker", {"failure_rate": 0.5}, "a BreakerPolicy, or None"),
        (MethodPolicy, "timeout", 0, SECONDS + ", or None"),
        (MethodPolicy, "timeout", "0.5s", SECONDS + ", or None"),
        (MethodPolicy, "attempt_timeout", math.inf, SECONDS + ", or None"),
        (MethodPolicy, "retry", 3, "a RetryPolicy, or None"),
        (MethodPolicy, "max_concurrent_calls", 0, "an integer, 1 or more, or None"),
        (MethodPolicy, "max_concurrent_calls", 1.5, "an integer, 1 or more, or None"),
        (MethodPolicy, "bulkhead_streams", 1, "True or False"),
        (MethodPolicy, "bulkhead_streams", True, "False where max_concurrent_calls is None"),
        (MethodPolicy, "rate_limit", 200, "a RateLimit, or None"),
        (MethodPolicy, "throttle", 2.0, "a Throttle, or None"),
        (MethodPolicy, "fallback", later, "a Fallback, or None"),
        (RetryPolicy, "max_attempts", 1, "an integer, 2 or more"),
        (RetryPolicy, "max_attempts", 6, "an integer from 2 to 5: gRPC makes no more attempts than 5"),
        (RetryPolicy, "initial_backoff", 0.001, BACKOFF),
        (RetryPolicy, "max_backoff", None, BACKOFF),
        (RetryPolicy, "backoff_multiplier", 0, "a number above 0"),
        (RetryPolicy, "retryable_status_codes", (), CODES),
        (RetryPolicy, "retryable_status_codes", "UNAVAILABLE", CODES),
        (RetryPolicy, "retryable_status_codes", ("OK",), CODES),
        (RetryPolicy, "retryable_status_codes", (14,), CODES),
        (RetryPolicy, "retryable_status_codes", ("ABORTED", grpc.StatusCode.ABORTED), CODES),
        (RetryThrottling, "max_tokens", 0, "an integer from 1 to 1000"),
        (RetryThrottling, "max_tokens", 1001, "an integer from 1 to 1000"),
        (RetryThrottling, "max_tokens", 10.5, "an integer from 1 to 1000"),
        (RetryThrottling, "token_ratio", 0.0009, "a number from 0.001 to 1000"),
        (RateLimit, "calls_per_second", 0, "a number from 0.000001 to 1e9"),
        (RateLimit, "calls_per_second", True, "a number from 0.000001 to 1e9"),
        (RateLimit, "burst", 0, "an integer, 1 or more, or None"),
        (Throttle, "k", 0.9, "a number, 1 or more"),
        (Throttle, "window", 0, SECONDS),
        (Throttle, "minimum_calls", 0, "an integer, 1 or more"),
        (Fallback, "last_good", True, "a LastGood, or None"),
        (Fallback, "function", "stale", "a callable that is no generator function, or None"),
        (Fallback, "function", generator, "a callable that is no generator function, or None"),
        (Fallback, "when", (), WHEN),
        (Fallback, "when", ("refused", "refused"), WHEN),
        (Fallback, "when", {"UNAVAILABLE": True}, WHEN),
        (Fallback, "when", 14, WHEN),
        (LastGood, "max_age", 0, SECONDS),
        (LastGood, "max_entries", 0, "an integer, 1 or more"),
        (LastGood, "max_bytes", 1.5, "an integer, 1 or more"),
        (LastGood, "key_metadata", "authorization", KEYS),
        (LastGood, "key_metadata", "", KEYS),
        (LastGood, "key_metadata", (b"authorization",), KEYS),
        (LastGood, "key_metadata", ("x tenant",), KEYS),
        (LastGood, "key_metadata", ("tenant", "Tenant"), KEYS),
    ],
)
def test_complaint_word_for_word(made: Any, field: str, value: Any, allowed: str) -> None:
    """A complaint says which field of which class, what is allowed, and what was given."""
    others = {"calls_per_second": 5} if made is RateLimit else {}
    with pytest.raises((TypeError, ValueError)) as wrong:
        made(**{**others, field: value})
    assert str(wrong.value) == f"{made.__name__}.{field} must be {allowed}, got {value!r}"


@pytest.mark.parametrize("made", [MethodPolicy, RetryPolicy, RetryThrottling, RateLimit, Throttle, Fallback, LastGood])
def test_misspelt_field_names_the_nearest(made: Any) -> None:
    """A field that there is not is named with the nearest that there is."""
    (name, *_) = inspect.signature(made).parameters
    with pytest.raises(TypeError, match=f"^{made.__name__} has no field '{name}e'; did you mean '{name}'"):
        made(**{f"{name}e": 1})


def test_misspelt_status_names_the_nearest() -> None:
    """A status that there is not, among several, is named with the nearest that there is."""
    with pytest.raises(ValueError, match=r"must be gRPC statuses .*; did you mean 'UNAVAILABLE'\?$"):
        RetryPolicy(retryable_status_codes=("ABORTED", "UNAVAILABEL"))


def test_what_follows_cannot_be_given() -> None:
    """The policy that the breaker runs with is made, never given."""
    given: Any = {"breaker_policy": BreakerPolicy()}
    with pytest.raises(TypeError, match="MethodPolicy has no field 'breaker_policy'"):
        MethodPolicy(**given)


def test_fallback_has_something_to_give() -> None:
    """A fallback without an answer, a function and a constant is an error."""
    with pytest.raises(ValueError, match=r"set at least one of last_good, function, constant$"):
        Fallback()


@pytest.mark.parametrize("given", [{"last_good": LastGood()}, {"function": later}, {"constant": None}])
def test_one_thing_to_give_is_enough(given: dict[str, Any]) -> None:
    """Each of the three is enough for a fallback; None is a constant."""
    assert Fallback(**given).has_constant is ("constant" in given)


def test_codes_and_their_names_are_the_same() -> None:
    """Statuses are given as codes or as names, in any iterable."""
    by_code = RetryPolicy(retryable_status_codes=[grpc.StatusCode.ABORTED])  # type: ignore[arg-type, list-item]
    assert by_code == RetryPolicy(retryable_status_codes=("ABORTED",))
    when: Any = iter(("refused", grpc.StatusCode.ABORTED))
    assert Fallback(constant=b"", when=when).when == ("refused", "ABORTED")


def test_metadata_keys_are_kept_as_grpc_sends_them() -> None:
    """Keys of metadata are kept in lower case; there may be none."""
    assert LastGood(key_metadata=("Authorization", "x-tenant")).key_metadata == ("authorization", "x-tenant")
    none: Any = []
    assert LastGood(key_metadata=none).key_metadata == ()


@pytest.mark.parametrize(("rate", "burst"), [(200, 200), (2.5, 3), (0.1, 1)])
def test_burst_of_one_second(rate: float, burst: int) -> None:
    """Without a burst, as many calls as in one second may begin at once, and at least one."""
    assert RateLimit(rate).burst == burst
    assert RateLimit(calls_per_second=rate, burst=7).burst == 7


def test_values_that_touch_the_limits() -> None:
    """The limits themselves are allowed."""
    RetryPolicy(max_attempts=2, initial_backoff=0.01, max_backoff=0.01, backoff_multiplier=1e-9)
    RetryPolicy(max_attempts=5)
    RetryThrottling(max_tokens=1000, token_ratio=0.001)
    Throttle(k=1, minimum_calls=1)


def test_the_breaker_runs_with_its_policy() -> None:
    """Without a throttle, the breaker runs with the policy that is given, and that is made once."""
    policy = BreakerPolicy(failure_rate=0.2)
    assert MethodPolicy(breaker=policy).breaker_policy is policy
    assert MethodPolicy().breaker_policy == BreakerPolicy()
    none = MethodPolicy(breaker=None)
    assert none.breaker_policy is none.breaker_policy


CONDITIONS = ("failure_threshold", "failure_rate", "consecutive_failures", "slow_call_duration")


def test_no_breaker_trips_on_nothing() -> None:
    """Where there is no breaker, the policy has no trip condition, and defaults in everything else."""
    policy = MethodPolicy(breaker=None).breaker_policy
    assert [getattr(policy, name) for name in CONDITIONS] == [None] * 4
    assert {k: v for k, v in policy.as_dict().items() if k not in CONDITIONS} == {
        k: v for k, v in BreakerPolicy().as_dict().items() if k not in CONDITIONS
    }


def test_a_throttle_takes_the_place_of_trip_conditions() -> None:
    """With a throttle, the breaker's policy has no trip condition and the throttle's window; the given one is unchanged."""
    given = BreakerPolicy(failure_threshold=5, window_calls=50, slow_call_duration=1, minimum_deadline=0.1)
    policy = MethodPolicy(breaker=given, throttle=Throttle(window=7)).breaker_policy
    assert [getattr(policy, name) for name in CONDITIONS] == [None] * 4
    assert (policy.window_seconds, policy.window_calls, policy.minimum_deadline) == (7.0, None, 0.1)
    assert (given.failure_threshold, given.window_calls, given.window_seconds) == (5, 50, 30.0)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, False),
        ({"breaker": None}, False),
        ({"max_concurrent_calls": 5, "rate_limit": RateLimit(5), "throttle": Throttle()}, False),
        ({"timeout": 1}, True),
        ({"attempt_timeout": 1}, True),
        ({"retry": RetryPolicy()}, True),
        ({"fallback": Fallback(constant=b"")}, True),
        ({"breaker": BreakerPolicy(probe_deadline=0.1)}, False),
    ],
)
def test_what_an_adapter_has_to_do(fields: dict[str, Any], wanted: bool) -> None:
    """Deadlines, retries and fallbacks are an adapter's; breaker, bulkhead, rate limit and throttle are one decision.

    A probe's deadline costs other calls nothing.
    """
    assert MethodPolicy(**fields).in_adapter is wanted


def test_policy_is_a_value() -> None:
    """A policy with every part is hashed, copied, pickled and replaced, and equal to what comes of it."""
    for again in (copy.deepcopy(WHOLE), dataclasses.replace(WHOLE), pickle.loads(pickle.dumps(WHOLE))):
        assert again == WHOLE
        assert hash(again) == hash(WHOLE)
        assert again.breaker_policy == WHOLE.breaker_policy
    assert dataclasses.replace(WHOLE, timeout=0.6) != WHOLE
    with pytest.raises(dataclasses.FrozenInstanceError):
        WHOLE.timeout = 1.0  # type: ignore[misc]


def test_a_constant_without_a_hash() -> None:
    """A constant that cannot be hashed, as a message of protobuf, is compared and not hashed."""
    given = MethodPolicy(fallback=Fallback(constant=[1]))
    assert hash(given) == hash(MethodPolicy(fallback=Fallback(constant=[2])))
    assert given != MethodPolicy(fallback=Fallback(constant=[2]))


def test_a_missing_constant_stays_missing() -> None:
    """A fallback without a constant has none after pickling, and shows so."""
    fallback = pickle.loads(pickle.dumps(Fallback(last_good=LastGood())))
    assert not fallback.has_constant
    assert "constant=<unset>" in repr(fallback)


def test_policy_as_plain_data() -> None:
    """A policy is shown as plain data, ready for JSON: functions by name, of a constant its type."""
    plain = json.loads(
        json.dumps(dataclasses.replace(WHOLE, fallback=Fallback(function=later, constant=b"")).as_dict())
    )
    assert list(plain) == list(inspect.signature(MethodPolicy).parameters)
    assert plain["breaker"]["verdicts"] == {"NOT_FOUND": "failure"}
    assert plain["retry"]["retryable_status_codes"] == ["UNAVAILABLE"]
    assert plain["rate_limit"] == {"calls_per_second": 200.0, "burst": 20}
    assert plain["throttle"] == {"k": 2.0, "window": 30.0, "minimum_calls": 20}
    assert plain["fallback"]["function"].startswith("tests.unit.test_method_policy.later")
    assert plain["fallback"]["constant"] == "bytes"
    assert WHOLE.as_dict()["fallback"]["last_good"]["key_metadata"] == ["authorization"]
    assert MethodPolicy(breaker=None, fallback=Fallback(last_good=LastGood())).as_dict()["breaker"] is None
    fallback = Fallback(last_good=LastGood(), when=("refused", "UNAVAILABLE")).as_dict()
    assert (fallback["constant"], fallback["function"], fallback["when"]) == (None, None, ["refused", "UNAVAILABLE"])


def test_only_the_rate_is_positional() -> None:
    """A rate limit is given its rate by position; every other field of every class has its name."""
    assert RateLimit(200).calls_per_second == 200.0
    for made in (MethodPolicy, RetryPolicy, RetryThrottling, Throttle, Fallback, LastGood):
        with pytest.raises(TypeError, match="positional"):
            made(1)  # type: ignore[call-arg, misc]
    with pytest.raises(TypeError, match="positional"):
        RateLimit(200, 20)  # type: ignore[call-arg, misc]


@pytest.mark.parametrize("name", ["timeout", "attempt_timeout"])
def test_deadline_that_never_counts(name: str) -> None:
    """A deadline below the breaker's `minimum_deadline` is an error: each call that ran out of it would be ignored."""
    breaker = BreakerPolicy(minimum_deadline=0.5)
    assert getattr(MethodPolicy(breaker=breaker, **{name: 0.5}), name) == 0.5
    with pytest.raises(ValueError, match=rf"MethodPolicy\.{name} must be at least .*minimum_deadline \(0\.5\)"):
        MethodPolicy(breaker=breaker, **{name: 0.4})
