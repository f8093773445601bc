"""Spans as OpenTelemetry's own instrumentation and encoder make them, of real calls."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToJson
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.grpc import client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from grpc_breaker import BreakerPolicy
from grpc_breaker.replay import replay
from tests.replay.records import written


def _answer(request: bytes, context: Any) -> bytes:
    if request == b"fail":
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone for lunch")
    return request


def _spans(requests: list[bytes]) -> list[Any]:
    """The client's spans of calls to a server, as its SDK has them."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(resource=Resource({"service.name": "checkout"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    handler = grpc.method_handlers_generic_handler(
        "pricing.v1.Pricing", {"GetPrice": grpc.unary_unary_rpc_method_handler(_answer)}
    )
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("localhost:0")
        server.start()
        with grpc.insecure_channel(f"localhost:{port}") as bare:
            method = intercept_channel(bare, client_interceptor(provider)).unary_unary("/pricing.v1.Pricing/GetPrice")
            for request in requests:
                with contextlib.suppress(grpc.RpcError):
                    method(request)
        server.stop(None).wait()
    provider.shutdown()
    return list(exporter.get_finished_spans())


@pytest.mark.once
@pytest.mark.parametrize("indent", [None, 2], ids=["a document a line", "a document of many lines"])
def test_spans_of_real_calls(indent: int | None, tmp_path: Path) -> None:
    """They are read with their method, their status and their time, and open a breaker where the calls failed."""
    spans = _spans([b"ok"] * 5 + [b"fail"] * 5)
    path = written(tmp_path / "spans.json", MessageToJson(encode_spans(spans), indent=indent))
    report = replay(path, {"three": BreakerPolicy(consecutive_failures=3, reset_timeout=60)})
    assert (report.calls, report.good, report.bad) == (10, 5, 5)
    assert report.methods == ("pricing.v1.Pricing/GetPrice",)
    assert report.begins == pytest.approx(spans[0].start_time / 1e9, abs=1e-6)
    (opening,) = report.policies[0].openings
    assert (opening.status, opening.failures, opening.refused) == ("UNAVAILABLE", 3, 2)
    assert any("Sampled traces bend rates" in it.text for it in report.warnings)
