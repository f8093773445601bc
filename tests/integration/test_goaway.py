"""Connections that a server ends with GOAWAY: which calls it took, in grpcio's own words, and what they count as."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import grpc
import pytest

from grpc_breaker import BreakerRegistry, CircuitBreakerInterceptor
from grpc_breaker.testing import FakeClock
from tests.support.server import METHODS, PATIENCE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, SETTINGS, GOAWAY = 1, 4, 7


def frame(kind: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame of the whole connection."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, 0]) + bytes(4) + payload


def stream_called(connection: socket.socket) -> int:
    """Read to the first request of a connection; returns the number of its stream."""
    with closing(connection.makefile("rb")) as received:
        received.read(len(PREFACE))
        while head := received.read(9):
            received.read(int.from_bytes(head[:3]))
            if head[3] == HEADERS:
                return int.from_bytes(head[5:9])
    return 0


@contextmanager
def goaways(takes: bool, error: int) -> Iterator[str]:
    """A server that answers the first call of each connection with GOAWAY and this error code, and closes it."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:  # closed at the end
                return
            with connection, suppress(OSError):
                connection.sendall(frame(SETTINGS))
                stream = stream_called(connection)
                connection.sendall(frame(GOAWAY, struct.pack(">II", stream if takes else 0, error) + b"bye"))

    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("takes", "error", "counted"),
    [(False, 0, 1), (False, 11, 4), (True, 0, 4)],
    ids=["never taken", "an error", "taken"],
)
def test_calls_of_a_connection_that_is_ended(takes: bool, error: int, counted: int) -> None:
    """Of the calls that a server never took, as it ended connections in good order, one counts in each quarter second;
    of those that it took, and of a server with an error, each.
    """
    clock = FakeClock()
    breakers = BreakerRegistry(clock=clock)
    with goaways(takes, error) as target, grpc.insecure_channel(target) as bare:
        channel = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers, telemetry=False))
        for _ in range(4):
            with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                channel.unary_unary(METHODS["uu"])(b"", timeout=PATIENCE)
        breaker = breakers[METHODS["uu"]]
        window = breaker.snapshot()["window"]
        assert (window["failures"], window["consecutive_failures"]) == (counted, 1)
        clock.advance(0.25)
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            channel.unary_unary(METHODS["uu"])(b"", timeout=PATIENCE)
        assert breaker.snapshot()["window"]["consecutive_failures"] == 2
