"""Span events through a real pipeline: SDK, OTLP/gRPC exporter, receiver; sync and asyncio, instrumented or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import aio_client_interceptors, client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel as otel_intercept_channel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, aio
from grpc_breaker.telemetry import BreakerTelemetry
from grpc_breaker.testing import FakeClock
from tests.support.server import STREAM_STREAM, STREAM_UNARY, UNARY_STREAM, UNARY_UNARY, Server
from tests.telemetry.receiver import Receiver, attributes

EVENT = "grpc_breaker.state_change"
OK, ILL = b"ok", b"error UNAVAILABLE the server is ill"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A real server."""
    started = Server()
    yield started
    started.stop()


class Pipeline:
    """SDK, exporter and receiver."""

    def __init__(self) -> None:
        self.receiver = Receiver()
        self.provider = TracerProvider()
        exporter = OTLPSpanExporter(endpoint=self.receiver.endpoint, insecure=True)
        self.provider.add_span_processor(SimpleSpanProcessor(exporter))
        self.tracer = self.provider.get_tracer("test")
        self.clock = FakeClock()
        policy = BreakerPolicy(consecutive_failures=1, half_open_max_calls=1, reset_timeout=10, reset_timeout_jitter=0)
        self.breakers = BreakerRegistry(default=policy, clock=self.clock)
        self.telemetry = BreakerTelemetry(tracer_provider=self.provider)

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """The state changes that arrived: the name of the span they are on, and their attributes."""
        self.provider.force_flush()
        found = [
            (span.name, attributes(event))
            for span in self.receiver.spans
            for event in span.events
            if event.name == EVENT
        ]
        return sorted(found, key=lambda it: it[1]["grpc_breaker.sequence"])

    def stop(self) -> None:
        self.provider.shutdown()
        self.receiver.stop()


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    """A tracing pipeline."""
    started = Pipeline()
    yield started
    started.stop()


# Each step: the name of the application's span, the request, seconds to wait before it.
STORY = (("opens", ILL, 0), ("probe fails", ILL, 10), ("probe succeeds", OK, 10))


def sync_story(pipeline: Pipeline, target: str, instrumentation: str) -> None:
    """The story with a sync channel."""
    ours = CircuitBreakerInterceptor(pipeline.breakers, telemetry=pipeline.telemetry)
    with grpc.insecure_channel(target) as bare:
        theirs = client_interceptor(tracer_provider=pipeline.provider)
        channel: Any = bare
        if instrumentation == "inside":
            channel = grpc.intercept_channel(otel_intercept_channel(bare, theirs), ours)
        elif instrumentation == "outside":
            channel = otel_intercept_channel(grpc.intercept_channel(bare, ours), theirs)
        else:
            channel = grpc.intercept_channel(bare, ours)
        method = channel.unary_unary(UNARY_UNARY)
        for name, request, seconds in STORY:
            pipeline.clock.advance(seconds)
            with pipeline.tracer.start_as_current_span(name):
                try:
                    method(request)
                except grpc.RpcError as error:
                    assert error.details() == "the server is ill"


def aio_story(pipeline: Pipeline, target: str, instrumentation: str) -> None:
    """The story with an asyncio channel."""
    ours = aio.interceptors(pipeline.breakers, telemetry=pipeline.telemetry)
    theirs = aio_client_interceptors(tracer_provider=pipeline.provider)
    order = {"inside": [*ours, *theirs], "outside": [*theirs, *ours], "none": ours}[instrumentation]

    async def story() -> None:
        async with grpc.aio.insecure_channel(target, interceptors=order) as channel:
            method: Any = channel.unary_unary(UNARY_UNARY)
            for name, request, seconds in STORY:
                pipeline.clock.advance(seconds)
                with pipeline.tracer.start_as_current_span(name):
                    try:
                        await method(request)
                    except grpc.RpcError as error:
                        assert error.details() == "the server is ill"

    asyncio.run(story())


@pytest.mark.parametrize("instrumentation", ["none", "inside", "outside"])
@pytest.mark.parametrize("play", [sync_story, aio_story], ids=["sync", "aio"])
def test_every_change_arrives_on_the_causing_span(
    play: Callable[[Pipeline, str, str], None], instrumentation: str, pipeline: Pipeline, server: Server
) -> None:
    """Each change of state arrives at the backend, once, on the span of the call that caused it, with all its facts."""
    play(pipeline, server.target, instrumentation)
    events = pipeline.events()
    assert [
        (facts["grpc_breaker.state.previous"], facts["grpc_breaker.state"], facts["grpc_breaker.reason"])
        for _, facts in events
    ] == [
        ("closed", "open", "consecutive_failures"),
        ("open", "half_open", "reset_timeout"),
        ("half_open", "open", "probe_failed"),
        ("open", "half_open", "reset_timeout"),
        ("half_open", "closed", "probes_succeeded"),
    ]
    spans = {span.span_id: span for span in pipeline.receiver.spans}
    carriers = [
        next(
            span
            for span in spans.values()
            if any(attributes(it).get("grpc_breaker.sequence") == n for it in span.events)
        )
        for n in range(1, 6)
    ]
    applications = [spans.get(span.parent_span_id, span).name for span in carriers]
    assert applications == ["opens", "probe fails", "probe fails", "probe succeeds", "probe succeeds"]
    opened = events[0][1]
    assert opened == {
        "grpc_breaker.name": "test.v1.Echo/UnaryUnary",
        "grpc_breaker.state.previous": "closed",
        "grpc_breaker.state": "open",
        "grpc_breaker.reason": "consecutive_failures",
        "grpc_breaker.window.calls": 1,
        "grpc_breaker.window.failures": 1,
        "grpc_breaker.window.slow": 0,
        "grpc_breaker.sequence": 1,
        "grpc_breaker.retry_after": 10.0,
        "grpc_breaker.last_failures": ["UNAVAILABLE: the server is ill"],
        "rpc.system.name": "grpc",
        "rpc.method": "test.v1.Echo/UnaryUnary",
        "rpc.status_code": "UNAVAILABLE",
        "error.type": "UNAVAILABLE",
    }


ATTEMPTS: dict[str, Callable[[Any], Any]] = {
    UNARY_UNARY: lambda channel: channel.unary_unary(UNARY_UNARY)(ILL),
    UNARY_STREAM: lambda channel: channel.unary_stream(UNARY_STREAM)(ILL),
    STREAM_UNARY: lambda channel: channel.stream_unary(STREAM_UNARY)(iter([ILL])),
    STREAM_STREAM: lambda channel: channel.stream_stream(STREAM_STREAM)(iter([ILL])),
}


@pytest.mark.parametrize("method", ATTEMPTS)
def test_every_kind_of_call_has_its_event(method: str, pipeline: Pipeline, server: Server) -> None:
    """A failing call of each kind leaves its event, on the application's span or, if that has ended, linked to it."""
    ours = CircuitBreakerInterceptor(pipeline.breakers, telemetry=pipeline.telemetry)
    with grpc.insecure_channel(server.target) as bare, pipeline.tracer.start_as_current_span("application"):
        channel = grpc.intercept_channel(bare, ours)
        with pytest.raises(grpc.RpcError):
            list(ATTEMPTS[method](channel))
    while not pipeline.events():  # the channel's thread reports microseconds after the application has seen the end
        pass
    ((_, facts),) = pipeline.events()
    assert facts["rpc.method"] == method.lstrip("/")


@pytest.mark.parametrize("method", ATTEMPTS)
def test_every_kind_of_aio_call_has_its_event(method: str, pipeline: Pipeline, server: Server) -> None:
    """The same in asyncio."""
    ours = aio.interceptors(pipeline.breakers, telemetry=pipeline.telemetry)

    async def story() -> None:
        async with grpc.aio.insecure_channel(server.target, interceptors=ours) as channel:
            with pipeline.tracer.start_as_current_span("application"), pytest.raises(grpc.RpcError):
                call = ATTEMPTS[method](channel)
                if hasattr(call, "__await__"):
                    await call
                else:
                    async for _ in call:
                        pass

    asyncio.run(story())
    ((span, facts),) = pipeline.events()
    assert (span, facts["rpc.method"]) == ("application", method.lstrip("/"))


def test_event_is_on_the_causing_call_among_many(pipeline: Pipeline, server: Server) -> None:
    """Among a hundred calls under way, each in a span of its own, the event is on the one that failed."""
    ours = aio.interceptors(pipeline.breakers, telemetry=pipeline.telemetry)

    async def one(channel: Any, n: int) -> None:
        with pipeline.tracer.start_as_current_span(f"call {n}"):
            try:
                await channel.unary_unary(UNARY_UNARY)(ILL if n == 70 else OK)
            except grpc.RpcError as error:
                assert n >= 70 or "circuit breaker" in error.details()

    async def story() -> None:
        async with grpc.aio.insecure_channel(server.target, interceptors=ours) as channel:
            await asyncio.gather(*(one(channel, n) for n in range(100)))

    asyncio.run(story())
    assert [span for span, _ in pipeline.events()] == ["call 70"]


def test_ended_span_is_linked(pipeline: Pipeline, server: Server) -> None:
    """A stream that fails after its span has ended leaves its event on a span of its own, linked to that one."""
    ours = CircuitBreakerInterceptor(pipeline.breakers, telemetry=pipeline.telemetry)
    with grpc.insecure_channel(server.target) as bare:
        channel = grpc.intercept_channel(bare, ours)
        with pipeline.tracer.start_as_current_span("over") as over:
            call: Any = channel.unary_stream(UNARY_STREAM)(b"held;error UNAVAILABLE late")
        server.journal.release.set()
        with pytest.raises(grpc.RpcError):
            list(call)
        server.journal.release.clear()
        while not pipeline.events():
            pass
    ((name, facts),) = pipeline.events()
    (span,) = [span for span in pipeline.receiver.spans if span.name == EVENT]
    assert (name, facts["grpc_breaker.state"]) == (EVENT, "open")
    assert [link.span_id for link in span.links] == [over.get_span_context().span_id.to_bytes(8, "big")]
    assert not span.parent_span_id


def test_no_span_at_all(pipeline: Pipeline) -> None:
    """An operator's change, with no call and no span, has a span of its own; so has a call outside every span."""
    pipeline.telemetry.attach(pipeline.breakers)
    pipeline.breakers["pkg.S/M"].force_open()
    pipeline.breakers["pkg.S/M"].reset()
    pipeline.breakers["pkg.S/M"].admit("pkg.S/M", trace.set_span_in_context(trace.INVALID_SPAN)).failure("INTERNAL")
    assert [(span, facts["grpc_breaker.state"]) for span, facts in pipeline.events()] == [
        (EVENT, "forced_open"),
        (EVENT, "closed"),
        (EVENT, "open"),
    ]
    assert "grpc_breaker.retry_after" not in pipeline.events()[0][1]
    assert "rpc.method" not in pipeline.events()[0][1]
