"""Google's clients through a guarded channel: Pub/Sub and Firestore survive an outage, and deliver afterwards.

The breaker is given to a client with the channel of its transport. The clients translate gRPC's errors, so that
a refusal is a `ServiceUnavailable` to them, which they repeat.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

pytest.importorskip("google.cloud.pubsub_v1", reason="google-cloud-pubsub is not installed")
pytest.importorskip("google.cloud.firestore_v1", reason="google-cloud-firestore is not installed")

from google.api_core import exceptions
from google.api_core.retry import AsyncRetry, Retry, if_transient_error
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore_admin_v1, firestore_v1, pubsub_v1
from google.cloud.firestore_admin_v1.services.firestore_admin import FirestoreAdminAsyncClient
from google.cloud.firestore_admin_v1.services.firestore_admin.transports.grpc import FirestoreAdminGrpcTransport
from google.cloud.firestore_admin_v1.services.firestore_admin.transports.grpc_asyncio import (
    FirestoreAdminGrpcAsyncIOTransport,
)
from google.cloud.firestore_v1.services.firestore.client import FirestoreClient
from google.cloud.firestore_v1.services.firestore.transports.grpc import FirestoreGrpcTransport
from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber import SubscriberAsyncClient, SubscriberClient
from google.pubsub_v1.services.subscriber.transports.grpc import SubscriberGrpcTransport
from google.pubsub_v1.services.subscriber.transports.grpc_asyncio import SubscriberGrpcAsyncIOTransport

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, CircuitOpenError, State, aio
from tests.clients.support.google_server import DATABASE, SUBSCRIPTION, TOPIC, GoogleProcess
from tests.integration.endings_table import await_settled
from tests.support.server import PATIENCE

PULL = "google.pubsub.v1.Subscriber/StreamingPull"
LISTEN = "google.firestore.v1.Firestore/Listen"
LIST = "google.pubsub.v1.Subscriber/ListSubscriptions"
RECOVERY = 4 * PATIENCE
"""Seconds within which a client must be there again: Pub/Sub reopens a stream five times in ten seconds at most, the
breaker's open period doubles, and so does the time after which grpcio connects again."""

pytestmark = [
    pytest.mark.timeout(150),
    pytest.mark.filterwarnings("default"),  # those of Google's packages are theirs
]


@pytest.fixture
def server() -> Iterator[GoogleProcess]:
    """A server of Google's services."""
    with GoogleProcess() as process:
        yield process


@pytest.fixture
def breakers() -> BreakerRegistry:
    """One failure opens."""
    return BreakerRegistry(default=BreakerPolicy(consecutive_failures=1))


@pytest.fixture
def channel(server: GoogleProcess, breakers: BreakerRegistry) -> Iterator[Any]:
    """A guarded channel."""
    with grpc.insecure_channel(server.target) as bare:
        yield grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers, telemetry=False))


class Outage:
    """Watches a breaker, so that an outage lasts until it has refused calls and has been opened again by a probe."""

    def __init__(self, breakers: BreakerRegistry, method: str) -> None:
        self._opened, self._refused = threading.Semaphore(0), threading.Semaphore(0)
        breakers[method].on_state_change(lambda it: self._opened.release() if it.state is State.OPEN else None)
        breakers[method].on_rejection(lambda it: self._refused.release())

    def wait(self) -> None:
        """Wait until the outage has lasted."""
        for it in (self._opened, self._refused, self._opened, self._refused):
            assert it.acquire(timeout=RECOVERY)


def publish(server: GoogleProcess, data: bytes) -> None:
    """Publish one message, through a channel of its own that has no breaker."""
    with grpc.insecure_channel(server.target) as channel:
        assert grpc.channel_ready_future(channel).result(PATIENCE) is None
        transport = PublisherGrpcTransport(channel=channel)
        publisher = pubsub_v1.PublisherClient(transport=transport)
        publisher.publish(TOPIC, data).result(PATIENCE)
        publisher.stop()


def test_pubsub_subscription_survives_an_outage(server: GoogleProcess, breakers: BreakerRegistry, channel: Any) -> None:
    """A subscription whose server is killed is refused meanwhile, and delivers when the server is there again."""
    received: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    subscriber = pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))

    def callback(message: Any) -> None:
        received.put(message.data)
        message.ack()

    pull = subscriber.subscribe(SUBSCRIPTION, callback)
    try:
        publish(server, b"before")
        assert received.get(timeout=PATIENCE) == b"before"
        outage = Outage(breakers, PULL)
        server.kill()
        outage.wait()
        server.restart()
        publish(server, b"after")
        assert received.get(timeout=RECOVERY) == b"after"
        assert pull.running()
    finally:
        pull.cancel()
        pull.result(PATIENCE)


def test_firestore_watch_survives_an_outage(server: GoogleProcess, breakers: BreakerRegistry, channel: Any) -> None:
    """A watch whose server is killed is refused meanwhile, and shows the document when the server is there again."""
    snapshots: queue.SimpleQueue[int] = queue.SimpleQueue()
    watch = (
        firestore(channel)
        .document("prices/tea")
        .on_snapshot(lambda documents, changes, time: snapshots.put(documents[0].get("server")))
    )
    try:
        before = snapshots.get(timeout=PATIENCE)
        outage = Outage(breakers, LISTEN)
        server.kill()
        outage.wait()
        server.restart()
        assert snapshots.get(timeout=RECOVERY) != before
        assert watch.is_active
    finally:
        watch.unsubscribe()


def firestore(channel: Any) -> Any:
    """A Firestore client on a channel."""
    client = firestore_v1.Client(project="shop", credentials=AnonymousCredentials())
    client._firestore_api_internal = FirestoreClient(transport=FirestoreGrpcTransport(channel=channel))
    return client


def once(error: Exception) -> bool:
    """A predicate for retries: what the server failed is repeated, a refusal is not."""
    return if_transient_error(error) and CircuitOpenError.find(error) is None


def test_unary_calls_pages_and_operations(breakers: BreakerRegistry, channel: Any) -> None:
    """A client's calls, pages, streams and long-running operations pass a closed breaker unchanged, and are counted."""
    subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
    names = [it.name for it in subscriber.list_subscriptions(project="projects/shop")]
    assert names == [f"{SUBSCRIPTION}-1", f"{SUBSCRIPTION}-2"]
    subscriber.acknowledge(subscription=SUBSCRIPTION, ack_ids=["1"])
    client = firestore(channel)
    assert [it.get("server") > 0 for it in client.get_all([client.document("prices/tea")])] == [True]
    admin = firestore_admin_v1.FirestoreAdminClient(transport=FirestoreAdminGrpcTransport(channel=channel))
    exported = admin.export_documents(request={"name": DATABASE})
    assert exported.result(timeout=PATIENCE) == firestore_admin_v1.ExportDocumentsResponse()
    for method, calls in {
        LIST: 2,
        "google.pubsub.v1.Subscriber/Acknowledge": 1,
        "google.firestore.v1.Firestore/BatchGetDocuments": 1,
        "google.firestore.admin.v1.FirestoreAdmin/ExportDocuments": 1,
        "google.longrunning.Operations/GetOperation": 2,
    }.items():
        breaker = breakers[method]
        await_settled(breaker)
        assert breaker.tallies() == {("success", "OK"): calls}, method


def test_refused_calls_pages_and_operations(breakers: BreakerRegistry, channel: Any) -> None:
    """A refusal reaches a client as `ServiceUnavailable`, and is found behind it, in all of these."""
    subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
    admin = firestore_admin_v1.FirestoreAdminClient(transport=FirestoreAdminGrpcTransport(channel=channel))
    stop = Retry(predicate=once)
    exported = admin.export_documents(request={"name": DATABASE})
    pages = iter(subscriber.list_subscriptions(project="projects/shop", retry=stop))
    next(pages)
    for method, call in {
        "google.pubsub.v1.Subscriber/Acknowledge": lambda: subscriber.acknowledge(
            subscription=SUBSCRIPTION, ack_ids=["1"], retry=stop
        ),
        LIST: lambda: next(pages),
        "google.firestore.v1.Firestore/BatchGetDocuments": lambda: (
            firestore(channel).document("prices/tea").get(retry=stop)
        ),
        "google.longrunning.Operations/GetOperation": lambda: exported.result(timeout=PATIENCE, retry=stop),
    }.items():
        breakers[method].force_open()
        with pytest.raises(exceptions.ServiceUnavailable) as error:
            call()
        refused = CircuitOpenError.find(error.value)
        assert refused is not None, method
        assert refused.method == method


def test_asyncio_client(server: GoogleProcess, breakers: BreakerRegistry) -> None:
    """An asyncio client's calls and pages pass, and a refusal is found behind what it raises."""

    async def story() -> None:
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            subscriber = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel))
            pager = await subscriber.list_subscriptions(project="projects/shop")
            assert [it.name async for it in pager] == [f"{SUBSCRIPTION}-1", f"{SUBSCRIPTION}-2"]
            pager = await subscriber.list_subscriptions(project="projects/shop", retry=AsyncRetry(predicate=once))
            breakers[LIST].force_open()
            with pytest.raises(exceptions.ServiceUnavailable) as error:
                [it async for it in pager]
            refused = CircuitOpenError.find(error.value)
            assert refused is not None
            assert refused.method == LIST

    asyncio.run(story())
    assert breakers[LIST].tallies()[("success", "OK")] == 3


def test_asyncio_operation(server: GoogleProcess, breakers: BreakerRegistry) -> None:
    """A long-running operation passes in asyncio, and a refusal is found behind what waiting for it raises."""
    method = "google.longrunning.Operations/GetOperation"

    async def story() -> None:
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            transport = FirestoreAdminGrpcAsyncIOTransport(channel=channel)
            admin = FirestoreAdminAsyncClient(transport=transport)
            exported = await admin.export_documents(request={"name": DATABASE})
            assert await exported.result(timeout=PATIENCE) == firestore_admin_v1.ExportDocumentsResponse()
            exported = await admin.export_documents(request={"name": DATABASE})
            breakers[method].force_open()
            with pytest.raises(exceptions.ServiceUnavailable) as error:
                await exported.exception(timeout=PATIENCE)
            assert CircuitOpenError.find(error.value) is not None

    asyncio.run(story())
