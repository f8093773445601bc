"""`BreakerPolicy`: what is allowed, and what a bad value says."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math
import pickle
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerPolicy, EndedCall, Outcome

COUNTS = ["failure_threshold", "consecutive_failures", "window_calls", "half_open_successes"]
NEEDED_COUNTS = ["minimum_calls", "half_open_max_calls"]
RATES = ["failure_rate", "slow_call_rate"]
OPTIONAL_SECONDS = ["slow_call_duration", "probe_deadline", "hung_after", "ramp"]
SECONDS = ["window_seconds", "reset_timeout", "max_reset_timeout", "probe_timeout"]
NUMBERS = ["minimum_deadline", "reset_timeout_multiplier", "reset_timeout_jitter", "enforcement_percentage"]

BAD = [
    *((name, value) for name in COUNTS + NEEDED_COUNTS for value in (0, -1, 1.5, True, "5", math.nan)),
    *((name, None) for name in NEEDED_COUNTS),
    *((name, value) for name in RATES for value in (0, -0.1, 1.01, math.nan, math.inf, True, "0.5")),
    *(
        (name, value)
        for name in OPTIONAL_SECONDS + SECONDS
        for value in (0, 1e-323, -1.0, 1.7e308, math.nan, math.inf, 10**400, True, "5")
    ),
    *((name, None) for name in SECONDS),
    *((name, value) for name in NUMBERS for value in (-0.1, math.nan, math.inf, False, "1")),
    *((name, None) for name in NUMBERS if name != "reset_timeout_multiplier"),
    ("reset_timeout_multiplier", 0.9),
    ("reset_timeout_jitter", 1.1),
    ("enforcement_percentage", 100.1),
    ("group", 7),
    ("group", ""),
    ("group", " prices"),
    ("verdicts", [Outcome.SUCCESS]),
    ("verdicts", {"NOT_FOUND": "failure"}),
    ("verdicts", {"NOT_FUOND": Outcome.FAILURE}),
    ("verdicts", {404: Outcome.FAILURE}),
    ("verdicts", {"reason:": Outcome.FAILURE}),
    ("verdicts", {"reason:TENANT QUOTA": Outcome.FAILURE}),
    ("classify", "failure"),
    ("refusal_code", "OK"),
    ("refusal_code", "SORRY"),
    ("refusal_code", 14),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_value_says_field_and_value(name: str, value: Any) -> None:
    """A bad value is an error that names the field and shows a value it got."""
    with pytest.raises((TypeError, ValueError)) as wrong:
        BreakerPolicy(**{name: value})
    assert f"BreakerPolicy.{name}" in str(wrong.value)
    assert "must" in str(wrong.value)
    shown = value if not isinstance(value, dict) else next(iter(value))
    assert str(shown).strip("'") in str(wrong.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"failure_rate": None, "consecutive_failures": None}, "every trip condition is off"),
        ({"failure_rate": None, "consecutive_failures": None, "slow_call_rate": None}, "every trip condition is off"),
        ({"window_calls": 10, "minimum_calls": 11}, "minimum_calls must be at most window_calls (10)"),
        ({"window_calls": 20, "failure_threshold": 21}, "failure_threshold must be at most window_calls (20)"),
        (
            {"reset_timeout_multiplier": 2, "reset_timeout": 900},
            "max_reset_timeout must be at least reset_timeout (900)",
        ),
        ({"probe_deadline": 0.1, "minimum_deadline": 0.2}, "probe_deadline must be at least minimum_deadline (0.2)"),
    ],
)
def test_combination_that_cannot_work(fields: dict[str, Any], words: str) -> None:
    """Values that are good by themselves and senseless together are an error that says why."""
    with pytest.raises(ValueError, match="BreakerPolicy") as wrong:
        BreakerPolicy(**fields)
    assert words in str(wrong.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"failure_rate": None, "consecutive_failures": None, "failure_threshold": 5},
        {"failure_rate": None, "consecutive_failures": None, "slow_call_duration": 1},
        {"failure_rate": None, "window_calls": 10},
        {"window_calls": 1_000_000},
        {"window_calls": 20, "failure_threshold": 20},
        {"reset_timeout": 900},
        {"reset_timeout_multiplier": 2, "max_reset_timeout": 60},
        {"probe_deadline": 0.2, "minimum_deadline": 0.2},
        {"hung_after": 2, "ramp": 5, "enforcement_percentage": 0},
        {"group": "prices", "refusal_code": grpc.StatusCode.ABORTED},
    ],
)
def test_combination_that_works(fields: dict[str, Any]) -> None:
    """One trip condition is enough, and limits may touch."""
    assert dataclasses.asdict(BreakerPolicy(**fields)).keys()


def test_whole_numbers_of_seconds_become_floats() -> None:
    """Seconds may be given as integers."""
    policy = BreakerPolicy(reset_timeout=5)
    assert (policy.reset_timeout, type(policy.reset_timeout)) == (5.0, float)


def test_policy_is_immutable() -> None:
    """A policy cannot be changed, and neither can its verdicts."""
    policy = BreakerPolicy(verdicts={"NOT_FOUND": Outcome.FAILURE})
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.reset_timeout = 5.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        policy.verdicts["OK"] = Outcome.FAILURE  # type: ignore[index]


def test_codes_and_their_names_are_the_same() -> None:
    """Statuses are given as codes or as names."""
    by_code = BreakerPolicy(verdicts={grpc.StatusCode.NOT_FOUND: Outcome.FAILURE}, refusal_code=grpc.StatusCode.ABORTED)
    assert by_code == BreakerPolicy(verdicts={"NOT_FOUND": Outcome.FAILURE}, refusal_code="ABORTED")


def judge(call: EndedCall) -> Outcome:
    """A classifier."""
    raise AssertionError(call)


def test_policy_with_verdicts_is_a_value() -> None:
    """A policy with verdicts is hashed, copied, pickled and replaced like any other, and shows them."""
    policy = BreakerPolicy(verdicts={"NOT_FOUND": Outcome.FAILURE})
    pickled = [pickle.loads(pickle.dumps(policy, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for again in (copy.deepcopy(policy), dataclasses.replace(policy), *pickled):
        assert again == policy
        assert hash(again) == hash(policy)
    other = dataclasses.replace(policy, verdicts={"NOT_FOUND": Outcome.IGNORED})
    assert policy != other
    assert hash(policy) != hash(other)
    assert dataclasses.asdict(policy)["verdicts"] == {"NOT_FOUND": Outcome.FAILURE}
    assert "verdicts={'NOT_FOUND': <Outcome.FAILURE: 'failure'>}" in repr(policy)
    assert (len(policy.verdicts or ()), list(policy.verdicts or ())) == (1, ["NOT_FOUND"])


def test_verdicts_by_the_reason_of_an_error() -> None:
    """A verdict may be for the reason that the details of an error give, beside those for statuses."""
    policy = BreakerPolicy(verdicts={"RESOURCE_EXHAUSTED": Outcome.FAILURE, "reason:TENANT_QUOTA": Outcome.IGNORED})
    assert policy.as_dict()["verdicts"] == {"RESOURCE_EXHAUSTED": "failure", "reason:TENANT_QUOTA": "ignored"}


def test_misspelt_status_names_the_nearest() -> None:
    """A status that there is not is named with the nearest that there is."""
    with pytest.raises(ValueError, match=r"got 'NOT_FUND'; did you mean 'NOT_FOUND'\?$"):
        BreakerPolicy(verdicts={"NOT_FUND": Outcome.FAILURE})
    with pytest.raises(ValueError, match=r"got 'unavailable'; did you mean 'UNAVAILABLE'\?$"):
        BreakerPolicy(refusal_code="unavailable")


class Later:
    """What does nothing when it is called."""

    async def __call__(self, *_: object) -> None:
        pass


async def later(*_: object) -> None:
    """The same as a function."""


def never(*_: object) -> Iterator[object]:
    """A generator function: calling it runs nothing."""
    yield None


def test_verdict_given_twice() -> None:
    """A status that has two verdicts, by its name and as a code, is an error."""
    verdicts: Any = {"NOT_FOUND": Outcome.FAILURE, grpc.StatusCode.NOT_FOUND: Outcome.SUCCESS}
    with pytest.raises(ValueError, match=r"BreakerPolicy\.verdicts: NOT_FOUND is given twice"):
        BreakerPolicy(verdicts=verdicts)


class Never:
    """What makes a generator, whose body never runs."""

    def __call__(self, *_: object) -> Iterator[object]:
        yield None


@pytest.mark.parametrize("classify", [later, Later(), never, Never()])
def test_classifier_must_return_its_outcome(classify: Any) -> None:
    """A coroutine or generator function is no classifier: it would make a failure of every call."""
    with pytest.raises(TypeError, match=r"BreakerPolicy\.classify must be a callable that is no coroutine"):
        BreakerPolicy(classify=classify)


def test_policy_as_plain_data() -> None:
    """A policy is shown as plain data, ready for JSON; a classifier by its name."""
    plain = BreakerPolicy(verdicts={"NOT_FOUND": Outcome.FAILURE}, classify=judge).as_dict()
    assert plain["verdicts"] == {"NOT_FOUND": "failure"}
    assert plain["classify"].startswith("tests.unit.test_policy.judge")
    assert json.loads(json.dumps(plain))["reset_timeout"] == 1.0


def test_successes_needed() -> None:
    """As many successes close a breaker as it lets probes through, unless the policy says otherwise."""
    assert BreakerPolicy(half_open_max_calls=4).probes_to_close == 4
    assert BreakerPolicy(half_open_max_calls=4, half_open_successes=2).probes_to_close == 2


SECONDS_ALLOWED = "a number of seconds from 0.000001 to 1e9"


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("failure_threshold", 0, "an integer, 1 or more, or None"),
        ("failure_threshold", "5", "an integer, 1 or more, or None"),
        ("minimum_calls", 0, "an integer, 1 or more"),
        ("half_open_max_calls", None, "an integer, 1 or more"),
        ("failure_rate", 2, "a number above 0 and up to 1, or None"),
        ("slow_call_rate", "1", "a number above 0 and up to 1, or None"),
        ("reset_timeout", 0, SECONDS_ALLOWED),
        ("window_seconds", None, SECONDS_ALLOWED),
        ("window_seconds", 1_000_000_000.5, SECONDS_ALLOWED),
        ("minimum_deadline", -1, "a number of seconds from 0 to 1e9"),
        ("minimum_deadline", 1_000_000_000.5, "a number of seconds from 0 to 1e9"),
        ("reset_timeout_multiplier", 0.5, "a number, 1 or more, or None"),
        ("reset_timeout_jitter", 1.5, "a number from 0 to 1"),
        ("probe_deadline", 0, SECONDS_ALLOWED + ", or None"),
        ("hung_after", "2s", SECONDS_ALLOWED + ", or None"),
        ("ramp", -1, SECONDS_ALLOWED + ", or None"),
        ("enforcement_percentage", 101, "a number from 0 to 100"),
        ("group", 5, "a name, or None"),
        ("group", " prices", "a name without '/', '@' or spaces around it, or None"),
        ("group", "pkg.S/M", "a name without '/', '@' or spaces around it, or None"),
        ("group", "prices@eu", "a name without '/', '@' or spaces around it, or None"),
        ("group", "other", "another name: methods share that one where there are too many"),
        ("verdicts", 5, "a mapping of status code to Outcome, or None"),
        ("classify", 5, "a callable that is no coroutine or generator function, or None"),
        ("window_calls", 0, "an integer from 1 to 1000000, or None"),
        ("window_calls", 1_000_001, "an integer from 1 to 1000000, or None"),
        ("refusal_code", "OK", "a status other than OK"),
    ],
)
def test_complaint_word_for_word(field: str, value: Any, allowed: str) -> None:
    """A complaint says which field, what is allowed, and what was given."""
    with pytest.raises((TypeError, ValueError)) as wrong:
        BreakerPolicy(**{field: value})
    assert str(wrong.value) == f"BreakerPolicy.{field} must be {allowed}, got {value!r}"


def test_complaint_about_nothing_to_trip() -> None:
    """With every condition off, the complaint names those that could be set."""
    with pytest.raises(ValueError) as wrong:
        BreakerPolicy(failure_rate=None, consecutive_failures=None)
    assert str(wrong.value) == (
        "BreakerPolicy: every trip condition is off, so the breaker could never open; set at least one of "
        "failure_threshold, failure_rate, consecutive_failures, slow_call_duration with slow_call_rate"
    )


@pytest.mark.parametrize(
    ("fields", "conditions"),
    [
        ({}, (None, 0.5, 5, None)),
        ({"consecutive_failures": None}, (None, 0.5, None, None)),
        ({"minimum_calls": 50}, (None, 0.5, 5, None)),
        ({"failure_threshold": 50}, (50, None, None, None)),
        ({"failure_rate": 0.2}, (None, 0.2, None, None)),
        ({"failure_rate": 0.2, "consecutive_failures": 9}, (None, 0.2, 9, None)),
        ({"slow_call_duration": 1}, (None, None, None, 1.0)),
    ],
)
def test_named_trip_conditions_and_no_other(fields: dict[str, Any], conditions: tuple[Any, ...]) -> None:
    """A policy that names trip conditions has those alone; one that names none has the defaults; a repr shows which."""
    policy = BreakerPolicy(**fields)
    names = ("failure_threshold", "failure_rate", "consecutive_failures", "slow_call_duration")
    assert tuple(getattr(policy, name) for name in names) == conditions
    assert all(f"{name}={getattr(policy, name)!r}" in repr(policy) for name in names)
    assert tuple(policy.as_dict()[name] for name in names) == conditions
    assert dataclasses.replace(policy, reset_timeout=7) == BreakerPolicy(**fields, reset_timeout=7)


def test_misspelt_field_names_the_nearest() -> None:
    """A field that there is not is named with the nearest that there is, also in `replace`, on every Python;
    where none is near, with all that there are.
    """
    misspelt: dict[str, Any] = {"failure_treshold": 3}
    nearest = "no field 'failure_treshold'; did you mean 'failure_threshold'"
    with pytest.raises(TypeError, match=nearest):
        BreakerPolicy(**misspelt)
    with pytest.raises(TypeError, match=nearest):
        dataclasses.replace(BreakerPolicy(), **misspelt)
    with pytest.raises(TypeError, match="no field 'colour'; its fields are failure_threshold, "):
        BreakerPolicy(**dict[str, Any](colour="red"))


def test_policy_shows_its_fields_to_tools() -> None:
    """The signature of a policy is that of a dataclass: what editors and documentation show."""
    parameters = inspect.signature(BreakerPolicy).parameters
    assert list(parameters) == [field.name for field in dataclasses.fields(BreakerPolicy)]
    with pytest.raises(TypeError, match="positional"):
        BreakerPolicy(3)
