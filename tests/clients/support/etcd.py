"""etcd in a process of its own, and as much of its protocol as the tests need (field numbers from etcd's rpc.proto)."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.support.server import PATIENCE

ETCD: Final = shutil.which("etcd")
"""Where etcd is; `None` where it is not installed."""

_MESSAGES: Final = {
    "KeyValue": {"key": (1, "bytes"), "mod_revision": (3, "int64"), "value": (5, "bytes"), "lease": (6, "int64")},
    "Event": {"kv": (2, "KeyValue")},
    "RangeRequest": {"key": (1, "bytes")},
    "RangeResponse": {"kvs": (2, "KeyValue*")},
    "PutRequest": {"key": (1, "bytes"), "value": (2, "bytes"), "lease": (3, "int64")},
    "PutResponse": {},
    "WatchCreateRequest": {"key": (1, "bytes"), "start_revision": (3, "int64")},
    "WatchRequest": {"create_request": (1, "WatchCreateRequest")},
    "WatchResponse": {"created": (3, "bool"), "events": (11, "Event*")},
    "LeaseGrantRequest": {"TTL": (1, "int64")},
    "LeaseGrantResponse": {"ID": (2, "int64"), "TTL": (3, "int64")},
    "LeaseKeepAliveRequest": {"ID": (1, "int64")},
    "LeaseKeepAliveResponse": {"ID": (2, "int64"), "TTL": (3, "int64")},
}
"""Each message's fields: number and type; `*` is repeated."""

PUT, RANGE = "etcdserverpb.KV/Put", "etcdserverpb.KV/Range"
GRANT, KEEP_ALIVE, WATCH = (
    "etcdserverpb.Lease/LeaseGrant",
    "etcdserverpb.Lease/LeaseKeepAlive",
    "etcdserverpb.Watch/Watch",
)
_METHODS: Final = {
    PUT: ("unary_unary", "Put"),
    RANGE: ("unary_unary", "Range"),
    GRANT: ("unary_unary", "LeaseGrant"),
    KEEP_ALIVE: ("stream_stream", "LeaseKeepAlive"),
    WATCH: ("stream_stream", "Watch"),
}


def _message_classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="etcd_in_part.proto", package="etcdserverpb", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if kind.rstrip("*") in _MESSAGES:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".etcdserverpb.{kind.rstrip('*')}"
            else:
                added.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    old = not hasattr(message_factory, "GetMessageClass")  # before protobuf 4.22
    class_of: Any = message_factory.MessageFactory(pool).GetPrototype if old else message_factory.GetMessageClass
    return {it: class_of(pool.FindMessageTypeByName(f"etcdserverpb.{it}")) for it in _MESSAGES}


MESSAGES: Final = _message_classes()


def method(channel: Any, name: str) -> Any:
    """A method of etcd on a channel, sync or asyncio."""
    kind, prefix = _METHODS[name]
    return getattr(channel, kind)(
        f"/{name}",
        request_serializer=MESSAGES[f"{prefix}Request"].SerializeToString,
        response_deserializer=MESSAGES[f"{prefix}Response"].FromString,
    )


class Etcd:
    """One etcd, which keeps its data when it is killed and started again."""

    def __init__(self, folder: Path) -> None:
        """Start it, and wait until it works."""
        self._folder = folder
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", 0))
            self.target, self._peer = (f"127.0.0.1:{it.getsockname()[1]}" for it in (first, second))
        self.start()

    def start(self) -> None:
        """Start it again on the same port."""
        assert ETCD is not None, "etcd is not installed"
        options = [
            f"--data-dir={self._folder / 'data'}",
            f"--listen-client-urls=http://{self.target}",
            f"--advertise-client-urls=http://{self.target}",
            f"--listen-peer-urls=http://{self._peer}",
            f"--initial-advertise-peer-urls=http://{self._peer}",
            f"--initial-cluster=default=http://{self._peer}",
        ]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen([ETCD, *options], stdout=log, stderr=log)
        with grpc.insecure_channel(self.target) as channel:  # bare
            method(channel, RANGE)(MESSAGES["RangeRequest"](key=b"ready"), timeout=PATIENCE, wait_for_ready=True)

    def pause(self) -> None:
        """SIGSTOP, and wait until it has stopped."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait(PATIENCE)
