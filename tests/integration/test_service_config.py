"""What a channel of gRPC gets of a document: real channels take it, and do what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from grpc_breaker import ServiceConfigError
from grpc_breaker._service_config import ServiceConfig, channel_config, read
from tests.support.server import FAR, PATIENCE, SERVICE, UNARY_STREAM, UNARY_UNARY, Server

STREAM = UNARY_STREAM.removeprefix("/")
RETRY: dict[str, Any] = {
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


WRONG: list[dict[str, Any]] = [
    {"loadBalancingConfig": [{"outlier_detection_experimental": {}}]},
    {"methodConfig": [{"name": [{}]}, {"name": [{"service": ""}]}]},
    {"methodConfig": [{"name": [{"method": "UnaryUnary"}]}]},
    {"methodConfig": [{"name": [{"service": 5}]}]},
    {"methodConfig": [{"name": [{}], "waitForReady": "true"}]},
    {"methodConfig": [{"name": [{}], "maxRequestMessageBytes": 2**32}]},
    {"methodConfig": [{"name": [{}], "retryPolicy": {**RETRY, "initialBackoff": ".5s"}}]},
    {"methodConfig": [{"name": [{}], "retryPolicy": {**RETRY, "initialBackoff": "0.0100000001s"}}]},
    {"methodConfig": [{"name": [{}], "retryPolicy": {**RETRY, "maxAttempts": 1}}]},
    {"methodConfig": [{"name": [{}], "retryPolicy": {**RETRY, "retryableStatusCodes": [14]}}]},
    {"methodConfig": [{"name": [{}], "retryPolicy": {**RETRY, "retryableStatusCodes": []}}]},
    *({"methodConfig": [{"name": [{}], "retryPolicy": {k: RETRY[k] for k in RETRY if k != key}}]} for key in RETRY),
    {"retryThrottling": {"maxTokens": 10.5, "tokenRatio": 0.1}},
    {"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.0001}},
    {"retryThrottling": {"maxTokens": 10}},
    {"methodConfig": {}},
]
"""Documents with which every call of a channel fails."""


@pytest.mark.parametrize("document", WRONG)
def test_what_fails_every_call_is_never_read(server: Server, document: dict[str, Any]) -> None:
    """What makes every call of a channel fail is an error where the document is read."""
    assert isinstance(answer(server, document), grpc.StatusCode)
    with pytest.raises(ServiceConfigError):
        config_of(document)


class Unavailable(grpc.GenericRpcHandler):
    """A service that answers UNAVAILABLE, and notes the attempts that reach it."""

    def __init__(self) -> None:
        self.attempts: list[str] = []

    def service(self, handler_call_details: Any) -> Any:
        self.attempts.append(handler_call_details.method)
        return grpc.stream_stream_rpc_method_handler(self._fail)

    def _fail(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.abort(grpc.StatusCode.UNAVAILABLE, "ill")
        yield from requests


@pytest.fixture
def ill() -> Iterator[tuple[str, list[str]]]:
    """The target of a server that is ill, and the attempts that reached it."""
    handler = Unavailable()
    server = grpc.server(futures.ThreadPoolExecutor(4), [handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", handler.attempts
    server.stop(0).wait(PATIENCE)


THROTTLED = {"retryThrottling": {"maxTokens": 1, "tokenRatio": 0.001}}


@pytest.mark.parametrize(
    ("names", "rest", "method", "attempts"),
    [
        ([{"service": SERVICE, "method": "UnaryStream"}], {}, UNARY_STREAM, 3),
        ([{"service": SERVICE}], {}, UNARY_STREAM, 3),
        ([{}], {}, UNARY_STREAM, 3),
        ([{}], {}, UNARY_UNARY, 1),
        ([{"service": SERVICE}], THROTTLED, UNARY_STREAM, 1),
    ],
)
def test_channels_retry_streams_alone(
    ill: tuple[str, list[str]], names: list[dict[str, str]], rest: dict[str, Any], method: str, attempts: int
) -> None:
    """A channel retries calls of streams, whichever entry covers them, and no call of one request and one answer."""
    target, reached = ill
    document = {"methodConfig": [{"name": names, "retryPolicy": RETRY}], **rest}
    made = channel_config(config_of(document), {STREAM})
    with grpc.insecure_channel(target, options=[("grpc.service_config", json.dumps(made))]) as channel:
        call = channel.unary_stream(method)(b"", timeout=FAR)
        with pytest.raises(grpc.RpcError) as failed:
            next(call)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reached == [method] * attempts


def test_the_entry_of_a_method_is_whole(ill: tuple[str, list[str]]) -> None:
    """A method whose entry has no retries is not retried by the channel, though its service is."""
    target, reached = ill
    own = {"name": [{"service": SERVICE, "method": "UnaryStream"}], "circuitBreaker": {}}
    document = {"methodConfig": [{"name": [{"service": SERVICE}], "retryPolicy": RETRY}, own]}
    other = f"/{SERVICE}/StreamStream"
    made = channel_config(config_of(document), {STREAM, other.removeprefix("/")})
    with grpc.insecure_channel(target, options=[("grpc.service_config", json.dumps(made))]) as channel:
        for method in (UNARY_STREAM, other):
            with pytest.raises(grpc.RpcError):
                next(channel.unary_stream(method)(b"", timeout=FAR))
    assert reached == [UNARY_STREAM, other, other, other]
