"""A real OTLP/gRPC receiver: what an exporter sends arrives here, decoded."""

from __future__ import annotations

import threading
from concurrent import futures
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Receiver(trace_service_pb2_grpc.TraceServiceServicer, logs_service_pb2_grpc.LogsServiceServicer):
    """Keeps the spans and log records that arrive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.spans: list[Any] = []
        self.logs: list[Any] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request: Any, context: Any) -> Any:
        """Take what comes, of either kind."""
        with self._lock:
            if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        self.spans += scope.spans
                return trace_service_pb2.ExportTraceServiceResponse()
            for resource in request.resource_logs:
                for scope in resource.scope_logs:
                    self.logs += scope.log_records
            return logs_service_pb2.ExportLogsServiceResponse()

    def stop(self) -> None:
        self._server.stop(0).wait(10)


def attributes(carrier: Any) -> dict[str, Any]:
    """The attributes of a span, an event or a log record, as a dictionary."""
    return {it.key: _value(it.value) for it in carrier.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(it) for it in value.array_value.values]
    return getattr(value, kind)
