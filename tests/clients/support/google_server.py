"""As much of Pub/Sub, Firestore and their long-running operations as the tests need, in memory, in one server.

    Publisher/Publish            keeps the messages until somebody pulls
    Subscriber/StreamingPull     sends them
    Subscriber/ListSubscriptions two pages of one subscription each
    Firestore/Listen             sends one snapshot of one document whose field `server` names this process, and stays open
    Firestore/BatchGetDocuments  sends that document
    FirestoreAdmin/ExportDocuments, Operations/GetOperation: an operation that is done when it is asked for the second time

The clients' packages have no servicers: methods are served by name, with the messages of the packages.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from google.cloud.firestore_admin_v1 import types as admin
from google.cloud.firestore_v1 import types as firestore
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.pubsub_v1 import types as pubsub

from tests.support.server import ServerProcess, serve

TOPIC = "projects/shop/topics/orders"
SUBSCRIPTION = "projects/shop/subscriptions/orders"
DATABASE = "projects/shop/databases/(default)"
DOCUMENT = f"{DATABASE}/documents/prices/tea"
_OPERATION = f"{DATABASE}/operations/export"
_WATCH = 0x5079
"""The target id that the Firestore client asks with."""


class GoogleProcess(ServerProcess):
    """The server in a process of its own."""

    module = "tests.clients.support.google_server"


class GoogleServer:
    """The server in this process."""

    def __init__(self, port: int, report: Callable[[str], None]) -> None:
        """Start it."""
        self._messages: queue.Queue[Any] = queue.Queue()
        self._gone = threading.Event()
        self._asked = 0
        self._server = grpc.server(futures.ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(*it) for it in self._services()])
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def stop(self, grace: float) -> None:
        """End it."""
        self._gone.set()
        self._server.stop(grace).wait()

    def _services(self) -> Iterator[tuple[str, dict[str, Any]]]:
        yield (
            "google.pubsub.v1.Publisher",
            {
                "Publish": _handler("unary_unary", self._publish, pubsub.PublishRequest),
            },
        )
        yield (
            "google.pubsub.v1.Subscriber",
            {
                "StreamingPull": _handler("stream_stream", self._pull, pubsub.StreamingPullRequest),
                "ListSubscriptions": _handler("unary_unary", self._list, pubsub.ListSubscriptionsRequest),
                "Acknowledge": _handler("unary_unary", _nothing, pubsub.AcknowledgeRequest),
                "ModifyAckDeadline": _handler("unary_unary", _nothing, pubsub.ModifyAckDeadlineRequest),
            },
        )
        yield (
            "google.firestore.v1.Firestore",
            {
                "Listen": _handler("stream_stream", self._listen, firestore.ListenRequest),
                "BatchGetDocuments": _handler("unary_stream", self._get, firestore.BatchGetDocumentsRequest),
            },
        )
        yield (
            "google.firestore.admin.v1.FirestoreAdmin",
            {
                "ExportDocuments": _handler("unary_unary", self._export, admin.ExportDocumentsRequest),
            },
        )
        yield (
            "google.longrunning.Operations",
            {
                "GetOperation": _handler("unary_unary", self._operation, operations_pb2.GetOperationRequest),
            },
        )

    def _publish(self, request: Any, context: Any) -> Any:
        for number, message in enumerate(request.messages):
            message.message_id = str(number)
            self._messages.put(message)
        return pubsub.PublishResponse(message_ids=[message.message_id for message in request.messages])

    def _pull(self, requests: Any, context: Any) -> Iterator[Any]:
        while context.is_active() and not self._gone.is_set():
            try:
                message = self._messages.get(timeout=0.05)
            except queue.Empty:
                continue
            received = pubsub.ReceivedMessage(ack_id="1", message=message)
            yield pubsub.StreamingPullResponse(received_messages=[received])

    def _list(self, request: Any, context: Any) -> Any:
        page = int(request.page_token or 1)
        names = [pubsub.Subscription(name=f"{SUBSCRIPTION}-{page}", topic=TOPIC)]
        return pubsub.ListSubscriptionsResponse(subscriptions=names, next_page_token="2" if page == 1 else "")

    def _document(self) -> Any:
        value = firestore.Value(integer_value=os.getpid())
        return firestore.Document(name=DOCUMENT, fields={"server": value}, create_time=_time(), update_time=_time())

    def _listen(self, requests: Any, context: Any) -> Iterator[Any]:
        next(requests)
        kinds = firestore.TargetChange.TargetChangeType
        change = firestore.DocumentChange(document=self._document(), target_ids=[_WATCH])
        yield _target_change(kinds.ADD, [_WATCH])
        yield firestore.ListenResponse(document_change=change)
        yield _target_change(kinds.CURRENT, [_WATCH])
        yield _target_change(kinds.NO_CHANGE, [])
        ended = threading.Event()
        if context.add_callback(ended.set):
            ended.wait()

    def _get(self, request: Any, context: Any) -> Iterator[Any]:
        yield firestore.BatchGetDocumentsResponse(found=self._document(), read_time=_time())

    def _export(self, request: Any, context: Any) -> Any:
        return operations_pb2.Operation(name=_OPERATION)

    def _operation(self, request: Any, context: Any) -> Any:
        self._asked += 1
        operation = operations_pb2.Operation(name=request.name, done=self._asked >= 2)
        if operation.done:
            operation.response.Pack(admin.ExportDocumentsResponse.pb(admin.ExportDocumentsResponse()))
        return operation


def _nothing(request: Any, context: Any) -> Any:
    return empty_pb2.Empty()


def _time() -> dict[str, int]:
    return {"seconds": os.getpid()}


def _target_change(kind: Any, targets: list[int]) -> Any:
    change = firestore.TargetChange(
        target_change_type=kind, target_ids=targets, resume_token=b"1", read_time={"seconds": 1}
    )
    return firestore.ListenResponse(target_change=change)


def _handler(kind: str, behaviour: Callable[[Any, Any], Any], request: Any) -> Any:
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    read = getattr(request, "deserialize", None) or request.FromString
    return make(behaviour, request_deserializer=read, response_serializer=_bytes)


def _bytes(response: Any) -> bytes:
    return type(response).serialize(response) if hasattr(type(response), "serialize") else response.SerializeToString()


if __name__ == "__main__":
    serve(GoogleServer)
