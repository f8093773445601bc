"""Documents for the tests of the document, and what is wrong with one."""

from __future__ import annotations

from typing import Any

import pytest

from grpc_breaker import EndedCall, Outcome, ServiceConfigError
from grpc_breaker._service_config import ServiceConfig, read

RETRY: dict[str, Any] = {
    "maxAttempts": 3,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

WHOLE: dict[str, Any] = {
    "methodConfig": [
        {
            "name": [{"service": "pricing.v1.Pricing", "method": "GetPrice"}],
            "timeout": "0.5s",
            "attemptTimeout": "0.2s",
            "retryPolicy": RETRY,
            "circuitBreaker": {
                "failureRate": 0.5,
                "minimumCalls": 20,
                "consecutiveFailures": 5,
                "resetTimeout": "10s",
                "probeDeadline": "0.1s",
                "hungAfter": "2s",
                "ramp": "5s",
                "enforcementPercentage": 50,
                "verdicts": {"RESOURCE_EXHAUSTED": "failure", "reason:TENANT_QUOTA": "ignored"},
                "classify": "judge",
            },
            "bulkhead": {"maxConcurrentCalls": 20, "streams": True},
            "rateLimit": {"callsPerSecond": 200, "burst": 20},
            "throttle": {"k": 1.5, "window": "10s", "minimumCalls": 10},
            "fallback": {
                "lastGood": {"maxAge": "60s", "maxEntries": 10, "maxBytes": 1000, "keyMetadata": ["authorization"]},
                "function": "last_resort",
                "when": ["refused", "ABORTED"],
            },
        },
        {"name": [{"service": "pricing.v1.Pricing"}], "circuitBreaker": {}, "waitForReady": True},
        {"name": [{}], "circuitBreaker": {"failureThreshold": 50}},
    ],
    "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.5},
    "loadBalancingConfig": [{"round_robin": {}}],
}
"""A document with every key of every part, but for most of a breaker's."""


def judge(call: EndedCall) -> Outcome | None:
    """A classifier."""
    raise AssertionError(call)


def last_resort(request: Any, error: Any) -> Any:
    """The function of a fallback."""
    raise AssertionError(request, error)


FUNCTIONS = {"judge": judge, "last_resort": last_resort}


def said(document: Any) -> ServiceConfig:
    """What a document says."""
    return read(document, FUNCTIONS)


def entry(**parts: Any) -> dict[str, Any]:
    """A document with one entry."""
    return {"methodConfig": [{"name": [{"service": "a.B", "method": "C"}], **parts}]}


def problems(document: Any) -> tuple[str, ...]:
    """Everything that is wrong with a document."""
    with pytest.raises(ServiceConfigError) as wrong:
        read(document, FUNCTIONS)
    return tuple(wrong.value.problems)
