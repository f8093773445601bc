"""What a channel gets of a document, and what of a change only a new channel takes up."""

from __future__ import annotations

from typing import Any

import pytest

from grpc_breaker._service_config import channel_config, differences
from tests.unit.service_config.documents import RETRY, WHOLE, entry, said

METHOD, SERVICE, DEFAULT = {"service": "a.B", "method": "C"}, {"service": "a.B"}, {}


def config(document: dict[str, Any], *streams: str) -> dict[str, Any]:
    """What a channel gets."""
    return channel_config(said(document), frozenset(streams))


def test_our_keys_stay_here() -> None:
    """None of our keys reaches a channel, nor a timeout, nor retries of calls of one request and one answer."""
    assert config(WHOLE) == {
        "methodConfig": [
            {"name": [{"service": "pricing.v1.Pricing", "method": "GetPrice"}]},
            {"name": [{"service": "pricing.v1.Pricing"}], "waitForReady": True},
            {"name": [{}]},
        ],
        "loadBalancingConfig": [{"round_robin": {}}],
    }


@pytest.mark.parametrize(
    "document",
    [
        {},
        entry(),
        entry(timeout="1s", attemptTimeout="1s", bulkhead={"maxConcurrentCalls": 1}, rateLimit={"callsPerSecond": 1}),
        {**entry(retryPolicy=RETRY, throttle={}), "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}},
        entry(retryPolicy=None, fallback={"lastGood": {}}),
    ],
)
def test_nothing_for_the_channel(document: dict[str, Any]) -> None:
    """A document in which everything is done here leaves a channel nothing."""
    assert config(document) == {}


def test_streams_are_retried_by_the_channel() -> None:
    """Methods with streams, and they alone, keep their retries, and with them their throttling."""
    throttling = {"maxTokens": 10, "tokenRatio": 0.1}
    both = [METHOD, {"service": "a.B", "method": "D"}]
    document = {
        "methodConfig": [{"name": both, "timeout": "1s", "waitForReady": True, "retryPolicy": RETRY}],
        "retryThrottling": throttling,
    }
    assert config(document, "a.B/D", "a.B/E") == {
        "methodConfig": [
            {"name": [METHOD], "waitForReady": True},
            {"name": [{"service": "a.B", "method": "D"}], "waitForReady": True, "retryPolicy": RETRY},
        ],
        "retryThrottling": throttling,
    }
    assert config(document, "a.B/C", "a.B/D")["methodConfig"] == [
        {"name": both, "waitForReady": True, "retryPolicy": RETRY}
    ]


def test_streams_without_an_entry_of_their_own() -> None:
    """Streams that the entry of their service or the default covers get entries of their own, with all that it says."""
    other = {**RETRY, "maxAttempts": 5}
    document = {
        "methodConfig": [
            {"name": [DEFAULT], "retryPolicy": other, "maxRequestMessageBytes": 5},
            {"name": [SERVICE], "retryPolicy": RETRY},
            {"name": [METHOD]},
        ]
    }
    assert config(document, "a.B/C", "a.B/S", "x.Y/S", "x.Y/T") == {
        "methodConfig": [
            {"name": [DEFAULT], "maxRequestMessageBytes": 5},
            {
                "name": [{"service": "x.Y", "method": "S"}, {"service": "x.Y", "method": "T"}],
                "maxRequestMessageBytes": 5,
                "retryPolicy": other,
            },
            {"name": [SERVICE]},
            {"name": [{"service": "a.B", "method": "S"}], "retryPolicy": RETRY},
            {"name": [METHOD]},
        ]
    }


def test_an_entry_with_nothing_left_stays() -> None:
    """An entry with nothing for the channel keeps its methods from what the entry of their service says."""
    document = {"methodConfig": [{"name": [METHOD], "timeout": "1s"}, {"name": [SERVICE], "waitForReady": True}]}
    assert config(document)["methodConfig"] == [{"name": [METHOD]}, {"name": [SERVICE], "waitForReady": True}]


def test_names_are_written_in_one_way() -> None:
    """Parts of names that are empty or null are left out."""
    names = [{"service": "a.B", "method": ""}, {"service": "x.Y", "method": None}, {"service": ""}]
    document = {"methodConfig": [{"name": names, "waitForReady": True}]}
    assert config(document)["methodConfig"][0]["name"] == [{"service": "a.B"}, {"service": "x.Y"}, {}]


@pytest.mark.parametrize(
    ("new", "keys"),
    [
        (WHOLE, ()),
        ({**WHOLE, "loadBalancingConfig": []}, ("loadBalancingConfig",)),
        ({**WHOLE, "retryThrottling": None, "healthCheckConfig": {}}, ("healthCheckConfig", "retryThrottling")),
        ({**WHOLE, "methodConfig": WHOLE["methodConfig"][::-1]}, ()),
        ({**WHOLE, "methodConfig": WHOLE["methodConfig"][:2]}, ()),
        ({**WHOLE, "methodConfig": WHOLE["methodConfig"][:1]}, ("waitForReady",)),
        ({**WHOLE, "methodConfig": WHOLE["methodConfig"][1:]}, ("retryPolicy", "waitForReady")),
    ],
)
def test_keys_that_wait_for_a_new_channel(new: dict[str, Any], keys: tuple[str, ...]) -> None:
    """A change of what a channel does is told by its keys, whichever entry says it; the order of entries is no change."""
    assert differences(WHOLE, new) == keys
    assert differences(new, WHOLE) == keys


def test_our_own_keys_wait_for_nothing() -> None:
    """A change of our own keys and of timeouts is none of a channel's."""
    changed = entry(timeout="1s", circuitBreaker={}, bulkhead={"maxConcurrentCalls": 1}, fallback={"lastGood": {}})
    assert differences(entry(), changed) == ()


def test_retries_of_streams_wait_for_a_new_channel() -> None:
    """Compared as channels get them, documents differ in retries only where streams are retried."""
    old, new = (entry(retryPolicy={**RETRY, "maxAttempts": attempts}) for attempts in (2, 5))
    assert differences(config(old), config(new)) == ()
    assert differences(config(old, "a.B/C"), config(new, "a.B/C")) == ("retryPolicy",)
