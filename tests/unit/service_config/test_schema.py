"""The JSON schema says what the reader says."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from grpc_breaker import ServiceConfigError
from grpc_breaker._core.checks import STATUS_NAMES
from grpc_breaker._service_config import keys, read
from tests.unit.service_config.documents import RETRY, WHOLE, entry

SCHEMA: dict[str, Any] = json.loads(files("grpc_breaker._service_config").joinpath("schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

GOOD: list[dict[str, Any]] = [
    {},
    WHOLE,
    entry(),
    entry(
        circuitBreaker=None, bulkhead=None, rateLimit=None, throttle=None, fallback=None, retryPolicy=None, timeout=None
    ),
    entry(
        circuitBreaker={"windowCalls": 100, "group": "a b", "slowCallDuration": "0.000001s", "minimumDeadline": "0s"}
    ),
    entry(circuitBreaker={"failureRate": None, "probeDeadline": None, "verdicts": None, "classify": None}),
    entry(circuitBreaker={"group": "x", "verdicts": {"OK": "failure", "reason:A": "ignored"}}),
    entry(fallback={"function": "f", "lastGood": None}),
    entry(retryPolicy={**RETRY, "initialBackoff": "0.01s", "colour": 1}, maxRequestMessageBytes="5", colour=1),
    {"methodConfig": [{"name": [{}]}, {"name": [{"service": "a.B", "method": None}]}], "colour": 1},
]

BAD: list[dict[str, Any]] = [
    {"methodConfig": {}},
    {"methodConfig": [5]},
    {"methodConfig": [{}]},
    {"methodConfig": [{"name": []}]},
    {"methodConfig": [{"name": [{"service": "/a.B"}]}]},
    {"methodConfig": [{"name": [{"service": "a.B", "method": "a.B/C"}]}]},
    {"methodConfig": [{"name": [{"method": "C"}]}]},
    {"methodConfig": [{"name": [{"service": "a.B", "methods": "C"}]}]},
    {"retryThrottling": {"maxTokens": 10}},
    {"retryThrottling": {"maxTokens": 10.5, "tokenRatio": 0.1}},
    {"retryThrottling": {"maxTokens": 1001, "tokenRatio": 0.1}},
    {"retryThrottling": {"maxTokens": 10, "tokenRatio": 0}},
    {"loadBalancingConfig": [{"outlier_detection_experimental": {}}]},
    entry(timeout=5),
    entry(timeout="5"),
    entry(timeout="0s"),
    entry(timeout="0.0000009s"),
    entry(attemptTimeout=".5s"),
    entry(circuitBreaker=[]),
    entry(circuitBreaker={"failureRates": 1}),
    entry(circuitBreaker={"failureRate": 0}),
    entry(circuitBreaker={"slowCallRate": 1.1}),
    entry(circuitBreaker={"minimumCalls": None}),
    entry(circuitBreaker={"consecutiveFailures": 1.5}),
    entry(circuitBreaker={"windowCalls": 1_000_001}),
    entry(circuitBreaker={"resetTimeout": None}),
    entry(circuitBreaker={"enforcementPercentage": 101}),
    entry(circuitBreaker={"resetTimeoutMultiplier": 0.5}),
    entry(circuitBreaker={"resetTimeoutJitter": 2}),
    entry(circuitBreaker={"group": " a"}),
    entry(circuitBreaker={"group": "other"}),
    entry(circuitBreaker={"verdicts": {"NOT_FUND": "failure"}}),
    entry(circuitBreaker={"verdicts": {"reason:": "failure"}}),
    entry(circuitBreaker={"verdicts": {"NOT_FOUND": "bad"}}),
    entry(circuitBreaker={"classify": ""}),
    entry(circuitBreaker={"refusalCode": "OK"}),
    entry(bulkhead={}),
    entry(bulkhead={"maxConcurrentCalls": 0}),
    entry(bulkhead={"maxConcurrentCalls": 5, "streams": 1}),
    entry(rateLimit={"burst": 5}),
    entry(rateLimit={"callsPerSecond": 0}),
    entry(throttle={"k": 0.5}),
    entry(throttle={"window": 30}),
    entry(fallback={}),
    entry(fallback={"function": None}),
    entry(fallback={"lastGood": {"maxAge": 5}}),
    entry(fallback={"lastGood": {"keyMetadata": ["a b"]}}),
    entry(fallback={"lastGood": {}, "when": []}),
    entry(fallback={"lastGood": {}, "when": ["refused", "refused"]}),
    entry(fallback={"lastGood": {}, "constant": 5}),
    entry(retryPolicy={**RETRY, "maxAttempts": 6}),
    entry(retryPolicy={**RETRY, "initialBackoff": "0.009s"}),
    entry(retryPolicy={**RETRY, "maxBackoff": "0s"}),
    entry(retryPolicy={**RETRY, "retryableStatusCodes": ["OK"]}),
    entry(retryPolicy={key: value for key, value in RETRY.items() if key != "maxBackoff"}),
    entry(waitForReady="true"),
    entry(maxRequestMessageBytes=-1),
    {"loadBalancingPolicy": 5},
    {"healthCheckConfig": 5},
    {"healthCheckConfig": {"serviceName": 5}},
    {"loadBalancingConfig": None},
    {"loadBalancingConfig": []},
    {"loadBalancingConfig": [{"a": {}, "b": {}}]},
    {"loadBalancingConfig": [{"a": None}]},
]


def test_the_schema_is_one() -> None:
    """The schema is a schema of its draft."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("document", GOOD)
def test_good_documents(document: dict[str, Any]) -> None:
    """What the schema allows, the reader reads."""
    VALIDATOR.validate(document)
    read(document, None)


@pytest.mark.parametrize("document", BAD)
def test_bad_documents(document: dict[str, Any]) -> None:
    """What the reader refuses by itself, the schema refuses, too."""
    assert not VALIDATOR.is_valid(document)
    with pytest.raises(ServiceConfigError):
        read(document, None)


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("circuitBreaker", keys.CIRCUIT_BREAKER),
        ("bulkhead", keys.BULKHEAD),
        ("rateLimit", keys.RATE_LIMIT),
        ("throttle", keys.THROTTLE),
        ("fallback", keys.FALLBACK),
        ("lastGood", keys.LAST_GOOD),
        ("retryThrottling", keys.RETRY_THROTTLING),
    ],
)
def test_keys_are_the_readers(name: str, section: keys.Section) -> None:
    """Each part has the keys in the schema that it has for the reader, and must have the same ones."""
    part = SCHEMA["$defs"][name]
    assert set(part["properties"]) == set(section.fields)
    assert part.get("required", []) == list(section.required)
    for key, said in part["properties"].items():
        assert ("duration" in said.get("$ref", "").lower()) == (key in section.durations), key
    assert part.get("additionalProperties", True) is not section.ours


def test_defaults_are_those_of_the_fields() -> None:
    """The defaults that the schema shows are those of the fields."""
    for name, section in (
        ("circuitBreaker", keys.CIRCUIT_BREAKER),
        ("throttle", keys.THROTTLE),
        ("lastGood", keys.LAST_GOOD),
    ):
        usual = section.makes()
        for key, said in SCHEMA["$defs"][name]["properties"].items():
            if "default" in said:
                default = getattr(usual, section.fields[key])
                default = keys.as_duration(default) if key in section.durations else default
                assert said["default"] == (list(default) if isinstance(default, tuple) else default), key


def test_statuses_are_all_there() -> None:
    """The schema has every status, but for OK where only failures make sense."""
    assert {*SCHEMA["$defs"]["statusOfFailure"]["enum"], "OK"} == STATUS_NAMES


def test_entries_have_the_keys_that_are_read() -> None:
    """The keys of an entry, and of a document, in the schema are those that the reader knows."""
    assert set(SCHEMA["$defs"]["methodConfig"]["properties"]) == keys.METHOD_KEYS
    assert set(SCHEMA["properties"]) == keys.TOP_KEYS
