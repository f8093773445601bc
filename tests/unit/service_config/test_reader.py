"""From a document to policies: what each key becomes, which entry counts, and what every wrong value says."""

from __future__ import annotations

import json
from typing import Any

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
    ServiceConfigError,
    Throttle,
)
from grpc_breaker._service_config import read
from tests.unit.service_config.documents import FUNCTIONS, RETRY, WHOLE, entry, judge, last_resort, problems, said

AT = "$.methodConfig[0]"


def policy_of(**parts: Any) -> MethodPolicy:
    """The policy that one entry says."""
    return said(entry(**parts)).policies["a.B/C"]


def problem_of(**parts: Any) -> str:
    """The one thing that is wrong with an entry."""
    (problem,) = problems(entry(**parts))
    return problem


def test_every_part_of_a_document() -> None:
    """Every key becomes the field of its name."""
    config = said(WHOLE)
    assert config.policies["pricing.v1.Pricing/GetPrice"] == MethodPolicy(
        breaker=BreakerPolicy(
            failure_rate=0.5,
            minimum_calls=20,
            consecutive_failures=5,
            reset_timeout=10,
            probe_deadline=0.1,
            hung_after=2,
            ramp=5,
            enforcement_percentage=50,
            verdicts={"RESOURCE_EXHAUSTED": Outcome.FAILURE, "reason:TENANT_QUOTA": Outcome.IGNORED},
            classify=judge,
        ),
        timeout=0.5,
        attempt_timeout=0.2,
        retry=RetryPolicy(),
        max_concurrent_calls=20,
        bulkhead_streams=True,
        rate_limit=RateLimit(200, burst=20),
        throttle=Throttle(k=1.5, window=10, minimum_calls=10),
        fallback=Fallback(
            last_good=LastGood(max_age=60, max_entries=10, max_bytes=1000, key_metadata=("authorization",)),
            function=last_resort,
            when=("refused", "ABORTED"),
        ),
    )
    assert config.policies["pricing.v1.Pricing"] == MethodPolicy()
    assert config.default == MethodPolicy(breaker=BreakerPolicy(failure_threshold=50))
    assert config.retry_throttling == RetryThrottling(max_tokens=20, token_ratio=0.5)
    assert config.document == WHOLE


@pytest.mark.parametrize(
    ("key", "value", "field", "kept"),
    [
        ("failureThreshold", 7, "failure_threshold", 7),
        ("slowCallDuration", "0.25s", "slow_call_duration", 0.25),
        ("slowCallRate", 0.9, "slow_call_rate", 0.9),
        ("windowSeconds", "60s", "window_seconds", 60.0),
        ("windowCalls", 100, "window_calls", 100),
        ("resetTimeoutMultiplier", 3, "reset_timeout_multiplier", 3.0),
        ("maxResetTimeout", "600s", "max_reset_timeout", 600.0),
        ("resetTimeoutJitter", 0, "reset_timeout_jitter", 0.0),
        ("halfOpenMaxCalls", 1, "half_open_max_calls", 1),
        ("halfOpenSuccesses", 2, "half_open_successes", 2),
        ("probeTimeout", "5s", "probe_timeout", 5.0),
        ("minimumDeadline", "0s", "minimum_deadline", 0.0),
        ("group", "prices", "group", "prices"),
        ("refusalCode", "ABORTED", "refusal_code", "ABORTED"),
        ("hungAfter", None, "hung_after", None),
        ("classify", None, "classify", None),
        ("verdicts", None, "verdicts", None),
    ],
)
def test_key_of_a_breaker(key: str, value: Any, field: str, kept: Any) -> None:
    """Each key of a breaker becomes the field of its name; durations become seconds."""
    breaker = policy_of(circuitBreaker={key: value}).breaker
    assert breaker == BreakerPolicy(**{field: kept})


def test_named_trip_conditions_and_no_other() -> None:
    """A breaker has the trip conditions that the document names, as in Python; null turns one off."""
    assert policy_of(circuitBreaker={"failureRate": 0.2}).breaker == BreakerPolicy(failure_rate=0.2)
    assert policy_of(circuitBreaker={"failureRate": None}).breaker == BreakerPolicy(failure_rate=None)


@pytest.mark.parametrize(
    "parts", [{}, {"circuitBreaker": None}, {"bulkhead": None, "fallback": None, "waitForReady": True}]
)
def test_an_entry_without_a_breaker(parts: dict[str, Any]) -> None:
    """An entry that has no breaker has none, and its parts that are null are off."""
    assert policy_of(**parts) == MethodPolicy(breaker=None)


def test_empty_parts_have_their_defaults() -> None:
    """Parts without keys are on, with their defaults."""
    assert policy_of(throttle={}).throttle == Throttle()
    assert policy_of(fallback={"lastGood": {}}).fallback == Fallback(last_good=LastGood())
    assert policy_of(fallback={"function": "last_resort"}).fallback == Fallback(function=last_resort)
    assert policy_of(rateLimit={"callsPerSecond": 2.5}).rate_limit == RateLimit(2.5)
    assert policy_of(bulkhead={"maxConcurrentCalls": 1}) == MethodPolicy(breaker=None, max_concurrent_calls=1)


def test_an_empty_document() -> None:
    """A document without entries has no policies and no default; null throttling is none."""
    for document in ({}, {"methodConfig": []}, {"retryThrottling": None}):
        config = said(document)
        assert (config.policies, config.default, config.retry_throttling) == ({}, None, None)


def test_several_names_share_a_policy() -> None:
    """All names of an entry have its policy; an empty name, in each way that gRPC knows, is the default."""
    names = [{"service": "a.B", "method": "C"}, {"service": "a.D", "method": ""}, {"service": "a.E", "method": None}]
    config = said({"methodConfig": [{"name": names, "circuitBreaker": {}}]})
    assert config.policies == dict.fromkeys(("a.B/C", "a.D", "a.E"), MethodPolicy())
    for name in ({}, {"service": ""}, {"service": None, "method": ""}):
        assert said({"methodConfig": [{"name": [name], "circuitBreaker": {}}]}).default == MethodPolicy()


NAME = 'an object such as {"service": "pkg.Service", "method": "Method"}'
SERVICE = "the name of a service such as pkg.Service"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (5, f" must be {NAME}, got 5"),
        ({"service": "/a.B"}, f'.service must be {SERVICE}, got "/a.B"; without the slash: "a.B"'),
        (
            {"service": "/a.B/C"},
            f'.service must be {SERVICE}, got "/a.B/C"; did you mean {{"service": "a.B", "method": "C"}}?',
        ),
        ({"service": "a.*"}, f'.service must be {SERVICE}, got "a.*"'),
        (
            {"service": "a." * 500 + "B"},
            f'.service must be {SERVICE}, got "{("a." * 50)[:-1]}…; a name has at most 1000 characters',
        ),
        ({"service": 5}, f".service must be {SERVICE}, got 5"),
        (
            {"service": "a.B", "method": "a.B/C"},
            '.method must be the name of a method without its service, got "a.B/C"',
        ),
        ({"service": "a.B", "method": 5}, ".method must be the name of a method without its service, got 5"),
        ({"method": "C"}, ' must have the service of its method, got {"method": "C"}'),
        ({"service": "a.B", "methods": "C"}, ': there is no key "methods"; did you mean "method"?'),
        ({"service": "pricing.v1"}, '.service must be the name of a service, not of a package, got "pricing.v1"'),
        ({"service": "v1beta2"}, '.service must be the name of a service, not of a package, got "v1beta2"'),
    ],
)
def test_name_that_no_call_has(name: Any, problem: str) -> None:
    """A name that no call can have, which gRPC passes over in silence, is an error that says what may be meant."""
    assert problems({"methodConfig": [{"name": [name]}]}) == (f"{AT}.name[0]{problem}",)


def test_the_longest_name() -> None:
    """A name of a thousand characters is read."""
    name = "a." * 499 + "bC"
    assert len(name) == 1000
    assert list(said({"methodConfig": [{"name": [{"service": name}]}]}).policies) == [name]


def test_name_of_a_package() -> None:
    """The name of the package of another entry's service is an error: packages have no policies."""
    names = [{"service": "pricing"}, {"service": "pricing.Pricing"}, {"service": "prices"}]
    (found,) = problems({"methodConfig": [{"name": names}]})
    assert found == f'{AT}.name[0].service must be the name of a service, not of a package, got "pricing"'


@pytest.mark.parametrize("name", [None, [], {}, "a.B/C"])
def test_an_entry_without_names(name: Any) -> None:
    """An entry that is for nothing is an error."""
    (found,) = problems({"methodConfig": [{"name": name}]})
    assert found.startswith(f"{AT}.name must be a list of objects such as ")
    assert problems({"methodConfig": [{}]})[0].startswith(f"{AT}.name must be a list of objects")


def test_a_name_that_is_there_twice() -> None:
    """A name that is there twice, in one entry or two, is an error that says where: gRPC would refuse every call."""
    name, default = {"service": "a.B", "method": "C"}, {"service": ""}
    document = {"methodConfig": [{"name": [name, name]}, {"name": [name, {}]}, {"name": [default]}]}
    assert problems(document) == (
        f'{AT}.name[1]: "a.B/C" is at {AT}.name[0], too',
        f'$.methodConfig[1].name[0]: "a.B/C" is at {AT}.name[0], too',
        "$.methodConfig[2].name[0]: {} is at $.methodConfig[1].name[1], too",
    )


SECONDS = "a number of seconds from 0.000001 to 1e9"
DURATION = 'a duration such as "1.5s"'


@pytest.mark.parametrize(
    ("part", "key", "value", "allowed"),
    [
        ("circuitBreaker", "failureRate", 2, "a number above 0 and up to 1, or null"),
        ("circuitBreaker", "failureRate", "0.5", "a number above 0 and up to 1, or null"),
        ("circuitBreaker", "minimumCalls", 1.5, "an integer, 1 or more"),
        ("circuitBreaker", "minimumCalls", None, "an integer, 1 or more"),
        ("circuitBreaker", "windowCalls", 0, "an integer from 1 to 1000000, or null"),
        ("circuitBreaker", "resetTimeout", 10, DURATION),
        ("circuitBreaker", "resetTimeout", "10", DURATION),
        ("circuitBreaker", "resetTimeout", "0s", f"{DURATION}, {SECONDS}"),
        ("circuitBreaker", "resetTimeout", None, f"{DURATION}, {SECONDS}"),
        ("circuitBreaker", "probeDeadline", "0s", f"{DURATION}, {SECONDS}, or null"),
        ("circuitBreaker", "enforcementPercentage", 101, "a number from 0 to 100"),
        ("circuitBreaker", "group", "a/b", "a name without '/', '@' or spaces around it, or null"),
        ("circuitBreaker", "refusalCode", 14, "a gRPC status such as NOT_FOUND, or its name"),
        ("circuitBreaker", "verdicts", [], "an object of statuses and outcomes"),
        ("circuitBreaker", "classify", 5, "the name of a function, or null"),
        ("circuitBreaker", "classify", "", "the name of a function, or null"),
        ("bulkhead", "streams", "true", "true or false"),
        ("bulkhead", "maxConcurrentCalls", 0, "an integer, 1 or more"),
        ("rateLimit", "callsPerSecond", 0, "a number from 0.000001 to 1e9"),
        ("rateLimit", "burst", 0, "an integer, 1 or more, or null"),
        ("throttle", "k", 0.5, "a number, 1 or more"),
        ("throttle", "window", 30, DURATION),
        ("fallback", "lastGood", True, "an object"),
        ("fallback", "when", [], "'refused' and gRPC statuses other than OK, at least one and none twice"),
        ("fallback", "function", ["last_resort"], "the name of a function, or null"),
        ("retryPolicy", "maxAttempts", 6, "an integer from 2 to 5: gRPC makes no more attempts than 5"),
        ("retryPolicy", "initialBackoff", "0.001s", f"{DURATION}, a number of seconds from 0.01 to 1e9"),
        ("retryPolicy", "backoffMultiplier", "2", "a number above 0"),
        (
            "retryPolicy",
            "retryableStatusCodes",
            [14],
            "gRPC statuses other than OK, or their names, at least one and none twice",
        ),
    ],
)
def test_value_that_is_wrong(part: str, key: str, value: Any, allowed: str) -> None:
    """A wrong value is one problem, with its path, what is allowed, and the value as it is written."""
    needed: dict[str, Any] = {
        "bulkhead": {"maxConcurrentCalls": 5},
        "rateLimit": {"callsPerSecond": 5},
        "fallback": {"function": "last_resort", "lastGood": {}},
        "retryPolicy": RETRY,
    }
    found = problem_of(**{part: {**needed.get(part, {}), key: value}})
    assert found == f"{AT}.{part}.{key} must be {allowed}, got {json.dumps(value)}"


@pytest.mark.parametrize(
    "duration", ["1", "s", ".5s", "1.s", "1e1s", "-1s", "1.0000000001s", "1 s", "1ms", "\u0661s", " 1s", "1s\n"]
)
def test_durations_are_grpcs(duration: str) -> None:
    """A duration has digits, at most nine of them after the point, and an s, and nothing else."""
    assert problem_of(timeout=duration).startswith(f"{AT}.timeout must be a duration such as")


@pytest.mark.parametrize(("duration", "seconds"), [("1s", 1.0), ("0.000001s", 1e-6), ("1.123456789s", 1.123456789)])
def test_durations_become_seconds(duration: str, seconds: float) -> None:
    """A duration is exact to a nanosecond."""
    assert policy_of(timeout=duration).timeout == seconds


@pytest.mark.parametrize("part", ["circuitBreaker", "bulkhead", "rateLimit", "throttle", "fallback", "retryPolicy"])
def test_part_that_is_no_object(part: str) -> None:
    """A part that is no object is one problem."""
    assert problem_of(**{part: 5}) == f"{AT}.{part} must be an object, got 5"


@pytest.mark.parametrize(
    ("part", "value", "problem"),
    [
        ("circuitBreaker", {"failureRates": 0.5}, ': there is no key "failureRates"; did you mean "failureRate"?'),
        ("circuitBreaker", {"colour": 1}, ': there is no key "colour"'),
        (
            "circuitBreaker",
            {"failureRateThreshold": 50},
            ': there is no key "failureRateThreshold"; did you mean "failureRate"?',
        ),
        ("bulkhead", {"streams": True}, ' must have the key "maxConcurrentCalls", got {"streams": true}'),
        ("rateLimit", {"burst": 5}, ' must have the key "callsPerSecond", got {"burst": 5}'),
        ("throttle", {"windowSeconds": "1s"}, ': there is no key "windowSeconds"; did you mean "window"?'),
        ("fallback", {}, ' must have "lastGood" or "function", got {}'),
        ("fallback", {"function": None}, ' must have "lastGood" or "function", got {"function": null}'),
        ("fallback", {"lastGood": {"maxAges": 1}}, '.lastGood: there is no key "maxAges"; did you mean "maxAge"?'),
        (
            "retryPolicy",
            {**RETRY, "maxBackof": "1s"},
            ': there is no key "maxBackof"; did you mean "maxBackoff"?',
        ),
    ],
)
def test_keys_of_a_part(part: str, value: Any, problem: str) -> None:
    """A key that a part does not have, or one that it must have, is one problem."""
    assert problem_of(**{part: value}) == f"{AT}.{part}{problem}"


@pytest.mark.parametrize("key", list(RETRY))
def test_retries_name_every_key(key: str) -> None:
    """A retry policy has all five keys, as gRPC demands."""
    rest = {name: value for name, value in RETRY.items() if name != key}
    assert problem_of(retryPolicy=rest).startswith(f'{AT}.retryPolicy must have the key "{key}", got {{')


def test_keys_that_grpc_has_or_may_have_pass() -> None:
    """Keys that are gRPC's, or nobody's, are left as they are, outside of our own parts."""
    given = {
        **entry(
            waitForReady=False,
            maxRequestMessageBytes=0,
            maxResponseMessageBytes="4294967295",
            hedgingPolicy={},
            colour=1,
            retryPolicy={**RETRY, "perAttemptRecvTimeout": "1s", "colour": 1},
        ),
        "healthCheckConfig": {"serviceName": "a"},
        "loadBalancingPolicy": "round_robin",
        "loadBalancingConfig": [
            {"anything": {}},
            {"outlier_detection_experimental": {"childPolicy": [{"round_robin": {}}]}},
        ],
        "colour": 1,
    }
    config = said(given)
    assert config.policies == {"a.B/C": MethodPolicy(breaker=None, retry=RetryPolicy())}
    assert config.document == given


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("circuit_breaker", "circuitBreaker"),
        ("circuitbreaker", "circuitBreaker"),
        ("breaker", "circuitBreaker"),
        ("retry", "retryPolicy"),
        ("retrypolicy", "retryPolicy"),
        ("maxConcurrentCalls", "bulkhead"),
        ("max_concurrent_calls", "bulkhead"),
        ("attempt_timeout", "attemptTimeout"),
        ("rate_limit", "rateLimit"),
        ("fallbacks", "fallback"),
        ("timeouts", "timeout"),
        ("names", "name"),
        ("failureRate", "circuitBreaker"),
        ("failure_rate", "circuitBreaker"),
        ("minimumCalls", "circuitBreaker"),
        ("callsPerSecond", "rateLimit"),
        ("maxAttempts", "retryPolicy"),
        ("lastGood", "fallback"),
    ],
)
def test_misspelt_key_of_an_entry(key: str, meant: str) -> None:
    """A key that is almost one that is read, its name in Python, or one of a part would do nothing: it is an error."""
    assert problem_of(**{key: {}}) == f'{AT}: there is no key "{key}"; did you mean "{meant}"?'


def test_misspelt_key_of_a_document() -> None:
    """A key of the document that is almost one that is read is an error, and so is one that belongs in an entry."""
    assert problems({"method_config": []}) == ('$: there is no key "method_config"; did you mean "methodConfig"?',)
    assert problems({"retryThrotling": {}}) == ('$: there is no key "retryThrotling"; did you mean "retryThrottling"?',)
    assert problems({"circuitBreaker": {}}) == ('$: there is no key "circuitBreaker"; did you mean "methodConfig"?',)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("waitForReady", "true", "true or false"),
        ("maxRequestMessageBytes", -1, "an integer from 0 to 4294967295"),
        ("maxRequestMessageBytes", 1.5, "an integer from 0 to 4294967295"),
        ("maxResponseMessageBytes", "4294967296", "an integer from 0 to 4294967295"),
        ("maxResponseMessageBytes", True, "an integer from 0 to 4294967295"),
    ],
)
def test_grpcs_own_keys_with_wrong_values(key: str, value: Any, allowed: str) -> None:
    """GRPC's own keys have values that gRPC takes: with others every call of a channel would fail."""
    assert problem_of(**{key: value}).startswith(f"{AT}.{key} must be {allowed}, got ")


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("loadBalancingPolicy", 5, " must be the name of a policy such as round_robin, or null, got 5"),
        ("healthCheckConfig", [], " must be an object, or null, got []"),
        ("healthCheckConfig", {"serviceName": 5}, ".serviceName must be text, or null, got 5"),
        ("loadBalancingConfig", None, ' must be a list of policies such as [{"round_robin": {}}], got null'),
        ("loadBalancingConfig", [], ' must be a list of policies such as [{"round_robin": {}}], got []'),
        ("loadBalancingConfig", {}, ' must be a list of policies such as [{"round_robin": {}}], got {}'),
        ("loadBalancingConfig", ["a"], '[0] must be one policy such as {"round_robin": {}}, got "a"'),
        ("loadBalancingConfig", [{}], '[0] must be one policy such as {"round_robin": {}}, got {}'),
        ("loadBalancingConfig", [{"a": 5}], '[0] must be one policy such as {"round_robin": {}}, got {"a": 5}'),
        (
            "loadBalancingConfig",
            [{"a": {}}, {"a": {}, "b": {}}],
            '[1] must be one policy such as {"round_robin": {}}, got {"a": {}, "b": {}}',
        ),
    ],
)
def test_keys_of_channels_with_wrong_values(key: str, value: Any, problem: str) -> None:
    """GRPC's own keys of the document have values that gRPC takes: with others every call of a channel would fail."""
    assert problems({key: value}) == (f"$.{key}{problem}",)


def test_keys_of_channels_that_say_nothing() -> None:
    """What gRPC takes for nothing is good."""
    given = {"loadBalancingPolicy": None, "healthCheckConfig": None}
    assert said(given).document == given
    assert said({"healthCheckConfig": {"serviceName": None}}).document


def test_outlier_detection_watches_over_a_policy() -> None:
    """Outlier detection without a child policy is an error: every call of the channel would fail."""
    (found,) = problems({"loadBalancingConfig": [{"round_robin": {}}, {"outlier_detection_experimental": {}}]})
    assert found.startswith(
        '$.loadBalancingConfig[1].outlier_detection_experimental must be an object with "childPolicy"'
    )


def test_verdicts_that_are_wrong() -> None:
    """Each wrong key and each wrong outcome of verdicts is a problem, with the nearest status."""
    verdicts = {"NOT_FUND": "failure", "OK": "bad", "reason:": "ignored", "reason:A": None, "ABORTED": ["success"]}
    at = f"{AT}.circuitBreaker.verdicts"
    outcomes = '"success", "failure" or "ignored"'
    reason = "'reason:' and the reason of a google.rpc.ErrorInfo, such as 'reason:QUOTA_EXCEEDED'"
    assert problems(entry(circuitBreaker={"verdicts": verdicts})) == (
        f'{at}: a key must be a gRPC status such as NOT_FOUND, or its name, got "NOT_FUND"; did you mean "NOT_FOUND"?',
        f'{at}.OK must be {outcomes}, got "bad"',
        f'{at}: a key must be {reason}, got "reason:"',
        f'{at}["reason:A"] must be {outcomes}, got null',
        f'{at}.ABORTED must be {outcomes}, got ["success"]',
    )


def test_statuses_that_are_misspelt() -> None:
    """A misspelt status names the nearest, in every list."""
    for parts in (
        {"fallback": {"lastGood": {}, "when": ["UNAVAILABE"]}},
        {"circuitBreaker": {"refusalCode": "UNAVAILABE"}},
    ):
        assert problem_of(**parts).endswith('; did you mean "UNAVAILABLE"?')


def test_functions_by_name() -> None:
    """A function that was not given is an error that names the nearest; one of the wrong kind says so."""
    assert problem_of(circuitBreaker={"classify": "juge"}) == (
        f'{AT}.circuitBreaker.classify: there is no function "juge"; did you mean "judge"?'
    )
    assert problem_of(fallback={"function": "stale"}) == f'{AT}.fallback.function: there is no function "stale"'

    async def later(_: object) -> None:
        pass

    with pytest.raises(ServiceConfigError, match=r'classify must be a callable that is no coroutine .*, got "later"'):
        read(entry(circuitBreaker={"classify": "later"}), {"later": later})


def test_functions_that_are_not_known_here() -> None:
    """Without functions, any name is good: that of a function which only the application has."""
    document = entry(circuitBreaker={"classify": "a"}, fallback={"function": "b"})
    policy = read(document, None).policies["a.B/C"]
    assert policy.fallback is not None
    assert policy.fallback.function is not None
    with pytest.raises(ValueError, match='there is no function "a"'):
        read(document, {})


def test_combination_that_cannot_work() -> None:
    """Values that make no sense together are one problem, in the words of the document."""
    assert problem_of(circuitBreaker={"windowCalls": 10}) == (
        f"{AT}.circuitBreaker.minimumCalls must be at most windowCalls (10), or no rate could ever trip, got 20"
    )
    assert problem_of(circuitBreaker={"failureRate": None, "consecutiveFailures": None}).startswith(
        f"{AT}.circuitBreaker: every trip condition is off, so the breaker could never open; set at least one of "
        "failureThreshold, failureRate,"
    )
    assert problem_of(circuitBreaker={"probeDeadline": "0.1s", "minimumDeadline": "0.2s"}).startswith(
        f"{AT}.circuitBreaker.probeDeadline must be at least minimumDeadline (0.2)"
    )


def test_methods_of_a_group_have_one_policy() -> None:
    """Two entries of one group with different breakers are an error, with both places; equal ones are not."""
    first = {"name": [{"service": "a.B"}], "circuitBreaker": {"group": "prices"}}
    equal = {"name": [{"service": "a.C"}], "circuitBreaker": {"group": "prices"}, "timeout": "1s"}
    other = {"name": [{"service": "a.D"}], "circuitBreaker": {"group": "prices", "minimumCalls": 5}}
    assert len(said({"methodConfig": [first, equal]}).policies) == 2
    (found,) = problems({"methodConfig": [first, equal, other]})
    assert found == (
        f'$.methodConfig[2].circuitBreaker.group: "prices" has another policy at {AT}.circuitBreaker; '
        "methods of a group share one breaker, with its bulkhead, rateLimit and throttle"
    )


@pytest.mark.parametrize(
    "limits",
    [{"bulkhead": {"maxConcurrentCalls": 3}}, {"rateLimit": {"callsPerSecond": 3}}, {"throttle": {"k": 3}}],
)
def test_methods_of_a_group_have_the_same_limits(limits: dict[str, Any]) -> None:
    """Two entries of one group with different limits are an error, because the group has one of each."""
    first = {"name": [{"service": "a.B"}], "circuitBreaker": {"group": "prices"}, **limits}
    other = {"name": [{"service": "a.C"}], "circuitBreaker": {"group": "prices"}}
    (found,) = problems({"methodConfig": [first, other]})
    assert found.startswith('$.methodConfig[1].circuitBreaker.group: "prices" has another policy at ')


def test_all_problems_at_once() -> None:
    """One error has everything that is wrong, in the order of the document."""
    document = {
        "methodConfig": [
            {"name": [{"service": "/a.B"}], "timeout": 5, "circuitBreaker": {"failureRate": 5, "minimumCalls": 0}},
            5,
            {"name": [{}], "throttle": {"k": 0, "windw": "1s"}},
        ],
        "retryThrottling": {"maxTokens": 10.5, "tokenRatio": 0},
    }
    places = [problem.split(" ")[0].rstrip(":") for problem in problems(document)]
    assert places == [
        f"{AT}.name[0].service",
        f"{AT}.timeout",
        f"{AT}.circuitBreaker.failureRate",
        f"{AT}.circuitBreaker.minimumCalls",
        "$.methodConfig[1]",
        "$.methodConfig[2].throttle.k",
        "$.methodConfig[2].throttle",
        "$.retryThrottling.maxTokens",
        "$.retryThrottling.tokenRatio",
    ]


def test_long_values_are_cut() -> None:
    """Of a value that is long, the beginning is shown."""
    found = problem_of(timeout="x" * 10_000)
    assert found.endswith(f'got "{"x" * 99}…')


def test_many_unknown_keys() -> None:
    """Every unknown key of a part is found; only the first thousand are compared with those that exist."""
    found = problems(entry(throttle={f"windo{number}": "1s" for number in range(1500)}))
    assert len(found) == 1500
    assert sum("did you mean" in problem for problem in found) == 1000
    assert '"windo999"; did you mean "window"?' in found[999]


def test_config_is_what_functions_are_given() -> None:
    """The functions that a document names are those of the mapping, themselves."""
    policy = read(entry(circuitBreaker={"classify": "judge"}), FUNCTIONS).policies["a.B/C"]
    assert policy.breaker is not None
    assert policy.breaker.classify is judge
