"""What a channel of gRPC gets of a document: real channels take it, and do what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from grpc_breaker._service_config import ServiceConfig, ServiceConfigError, channel_config, read
from tests.support.server import FAR, SERVICE, UNARY_STREAM, UNARY_UNARY, Server

STREAM = UNARY_STREAM.removeprefix("/")
RETRY = {
    "maxAttempts": 3,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.01s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
EVERYTHING = {
    "methodConfig": [
        {
            "name": [{"service": SERVICE}],
            "timeout": "0.000001s",
            "attemptTimeout": "0.000001s",
            "retryPolicy": {**RETRY, "perAttemptRecvTimeout": "60s"},
            "circuitBreaker": {"failureRate": 0.5, "verdicts": {"reason:A": "ignored"}},
            "bulkhead": {"maxConcurrentCalls": 20},
            "rateLimit": {"callsPerSecond": 200},
            "throttle": {},
            "fallback": {"lastGood": {}},
            "waitForReady": True,
            "maxRequestMessageBytes": "1000",
            "maxResponseMessageBytes": 4294967295,
            "colour": 1,
        },
        {"name": [{"service": SERVICE, "method": "UnaryUnary"}], "circuitBreaker": {}},
        {"name": [{"service": "", "method": None}], "circuitBreaker": {}, "timeout": "0.000001s"},
    ],
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.001},
    "loadBalancingConfig": [{"outlier_detection_experimental": {"childPolicy": [{"round_robin": {}}]}}],
    "colour": 1,
}
"""A document with everything that a channel may get, and timeouts in which no call can end."""


def config_of(document: dict[str, Any]) -> ServiceConfig:
    """What a document says."""
    return read(document, None)


def answer(server: Server, config: dict[str, Any], script: bytes = b"ok", method: str = UNARY_UNARY) -> Any:
    """What a call, or one of a stream, of a channel with this service config gets."""
    with grpc.insecure_channel(server.target, options=[("grpc.service_config", json.dumps(config))]) as channel:
        try:
            if method == UNARY_UNARY:
                return channel.unary_unary(method)(script, timeout=FAR)
            return list(channel.unary_stream(method)(script, timeout=FAR))
        except grpc.RpcError as error:
            return error.code()


@pytest.mark.parametrize("streams", [(), (STREAM,)])
def test_channels_take_what_is_made_for_them(server: Server, streams: tuple[str, ...]) -> None:
    """A channel with what is made of a document with everything in it works, and knows nothing of its timeouts."""
    made = channel_config(config_of(EVERYTHING), frozenset(streams))
    assert ("retryThrottling" in made) == bool(streams)
    assert answer(server, made) == b"answer"
    assert answer(server, made, b"messages 3", UNARY_STREAM) == [b"0", b"1", b"2"]


WRONG: list[Callable[[], dict[str, Any]]] = [
    lambda: {"loadBalancingConfig": [{"outlier_detection_experimental": {}}]},
    lambda: {"methodConfig": [{"name": [{}]}, {"name": [{"service": ""}]}]},
    lambda: {"methodConfig": [{"name": [{"method": "UnaryUnary"}]}]},
    lambda: {"methodConfig": [{"name": [{"service": 5}]}]},
    lambda: {"methodConfig": [{"name": [{}], "waitForReady": "true"}]},
    lambda: {"methodConfig": [{"name": [{}], "maxRequestMessageBytes": 2**32}]},
    lambda: {"methodConfig": [{"name": [{}], "retryPolicy": {**RETRY, "initialBackoff": ".5s"}}]},
    lambda: {"methodConfig": [{"name": [{}], "retryPolicy": {**RETRY, "initialBackoff": "0.0100000001s"}}]},
    lambda: {"methodConfig": [{"name": [{}], "retryPolicy": {**RETRY, "maxAttempts": 1}}]},
    lambda: {"methodConfig": [{"name": [{}], "retryPolicy": {**RETRY, "retryableStatusCodes": [14]}}]},
    lambda: {"methodConfig": [{"name": [{}], "retryPolicy": {**RETRY, "retryableStatusCodes": []}}]},
    *(
        (
            lambda key=key: {
                "methodConfig": [{"name": [{}], "retryPolicy": {k: v for k, v in RETRY.items() if k != key}}]
            }
        )
        for key in RETRY
    ),
    lambda: {"retryThrottling": {"maxTokens": 10.5, "tokenRatio": 0.1}},
    lambda: {"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.0001}},
    lambda: {"retryThrottling": {"maxTokens": 10}},
    lambda: {"methodConfig": {}},
]
"""Documents with which every call of a channel fails."""


@pytest.mark.parametrize("document", WRONG)
def test_what_fails_every_call_is_never_read(server: Server, document: Callable[[], dict[str, Any]]) -> None:
    """What makes every call of a channel fail is an error where the document is read."""
    assert isinstance(answer(server, document()), grpc.StatusCode)
    with pytest.raises(ServiceConfigError):
        config_of(document())


def calls(server: Server, document: dict[str, Any], method: str, script: bytes) -> int:
    """How many attempts of a call that fails reach the server."""
    before = server.journal.calls
    answer(server, channel_config(config_of(document), {STREAM}), script, method)
    return server.journal.calls - before
