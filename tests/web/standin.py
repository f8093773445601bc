"""A process with breakers that does what a test says: a real gRPC server with the admin service, and no breakers behind it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent import futures
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from grpc_breaker.admin.v1 import admin_pb2 as pb
from grpc_breaker.admin.v1 import admin_pb2_grpc
from tests.support.server import PATIENCE

GET_PRICE = "pricing.v1.Pricing/GetPrice"


def about(pid: int = 1, **fields: Any) -> pb.Process:
    """What a process says of itself."""
    facts = {"host": "shop-1", "program": "checkout", "version": "1.0", "allow_changes": True, **fields}
    return pb.Process(pid=pid, started=Timestamp(seconds=1000), **facts)


def breaker(name: str = GET_PRICE, state: pb.State.ValueType = pb.STATE_CLOSED, **fields: Any) -> pb.Breaker:
    """A breaker as a process shows it."""
    return pb.Breaker(name=name, state=state, **{"enforced": True, **fields})


class StandIn(admin_pb2_grpc.BreakerAdminServicer):
    """The process."""

    def __init__(self, *breakers: pb.Breaker, pid: int = 1, port: int = 0, **fields: Any) -> None:
        self.about = about(pid, **fields)
        self.breakers = {it.name: it for it in breakers}
        self.changes: list[pb.StateChange] = []
        self.snapshot: dict[str, Any] = {}
        self.exhausted = False
        """Too many watch already."""
        self.held = threading.Event()
        """Cleared: watches that begin, and questions for details, wait."""
        self.held.set()
        self.asked: list[Any] = []
        """Each order and each ListBreakers."""
        self.watched = threading.Semaphore(0)
        """Released with each watch that begins."""
        self._watches: list[queue.SimpleQueue[pb.WatchBreakersResponse | None]] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        admin_pb2_grpc.add_BreakerAdminServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.target = f"127.0.0.1:{self.port}"
        self._server.start()

    def push(self, *breakers: pb.Breaker, removed: tuple[str, ...] = (), changed: bool = False) -> None:
        """Say that these are so now."""
        self.breakers |= {it.name: it for it in breakers}
        for name in removed:
            del self.breakers[name]
        changes = [pb.StateChange(breaker=it.name, state=it.state) for it in breakers] if changed else []
        for watch in list(self._watches):
            watch.put(pb.WatchBreakersResponse(breakers=breakers, removed=removed, changes=changes))

    def end_watches(self) -> None:
        """End the streams properly."""
        for watch in list(self._watches):
            watch.put(None)

    def stop(self) -> None:
        """Be gone."""
        self.held.set()
        self._server.stop(0).wait(PATIENCE)
        self.end_watches()

    def ListBreakers(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return pb.ListBreakersResponse(process=self.about, breakers=self.breakers.values())

    def WatchBreakers(self, request: Any, context: Any) -> Iterator[Any]:
        if self.exhausted:
            self.watched.release()
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch")
        mine: queue.SimpleQueue[pb.WatchBreakersResponse | None] = queue.SimpleQueue()
        self.held.wait(PATIENCE)
        self._watches.append(mine)
        context.add_callback(lambda: mine.put(None))
        self.watched.release()
        response: pb.WatchBreakersResponse | None
        response = pb.WatchBreakersResponse(process=self.about, breakers=self.breakers.values())
        while response is not None:
            yield response
            response = mine.get()

    def GetBreaker(self, request: Any, context: Any) -> Any:
        self.held.wait(PATIENCE)
        if request.name not in self.breakers:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no breaker has the name {request.name!r}")
        snapshot = Struct()
        snapshot.update(self.snapshot)
        return pb.GetBreakerResponse(
            process=self.about, breaker=self.breakers[request.name], snapshot=snapshot, changes=self.changes
        )

    def _order(self, request: Any, context: Any) -> list[str]:
        self.asked.append(request)
        if not self.about.allow_changes:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "changes are not allowed")
        return [request.name]

    def ForceOpen(self, request: Any, context: Any) -> Any:
        return pb.ForceOpenResponse(breakers=self._order(request, context))

    def Disable(self, request: Any, context: Any) -> Any:
        return pb.DisableResponse(breakers=self._order(request, context))

    def Reset(self, request: Any, context: Any) -> Any:
        return pb.ResetResponse(breakers=self._order(request, context))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
