"""What a transparency story is played on: a server of its own, channels that are bare or guarded, and its notes.

The rules:

- A story is client code as it is written for bare gRPC. It serves what it needs, opens channels here, and notes what it
  sees, but never a time, an address or a count that the network decides.
- A story cannot know whether its channels are bare, guarded, or behind interceptors that merely pass on.
- What its server sees is noted apart, because the order between the two is nobody's promise.
- What an exception says is noted only where the story expects one; any other ends the test.
- Nothing is waited for but events, and none for longer than PATIENCE.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc

from grpc_breaker import BreakerRegistry, CircuitBreakerInterceptor, aio
from tests.integration.endings_table import await_settled, passing
from tests.support.parts import idle_parts
from tests.support.server import FAR, PATIENCE

KINDS = {"uu": "unary_unary", "us": "unary_stream", "su": "stream_unary", "ss": "stream_stream"}

Body = Callable[[Iterator[bytes], Any], Iterator[bytes]]
"""What a server does with a call of whatever kind: requests in, answers out. A unary answer is the last of them."""


IDLE = "with all parts"
GUARDED = ("guarded", IDLE)
"""How a run can be guarded: with the breakers alone, or with every part there is, none of which has anything to do."""


@dataclass(frozen=True)
class Story:
    """Client code, and what is to be said about it beforehand."""

    play: Callable[..., Any]
    kind: str | None = None
    failures: int = 0
    """So many of its calls speak against the server."""
    beside: str = "bare"
    """What the guarded run is to equal: a bare channel, or one that `passing` interceptors sit on."""
    why: str = ""
    """Why not a bare channel."""
    ends_with_its_channel: bool = False
    """Whether its calls end no sooner than their channel is closed."""
    secure: bool = False
    """Whether it needs the certificate."""

    def __str__(self) -> str:
        return f"{self.play.__name__}-{self.kind}" if self.kind else self.play.__name__


class Stories:
    """The stories of one world, in the order they were written."""

    def __init__(self) -> None:
        self.stories: list[Story] = []

    def story(self, *kinds: str, **facts: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Enter a story, once for each kind of call it is about."""

        def enter(play: Callable[..., Any]) -> Callable[..., Any]:
            self.stories += [Story(play, kind, **facts) for kind in kinds or (None,)]
            return play

        return enter


@dataclass
class Certificate:
    """A key and a certificate that signs itself, as PEM, for `localhost`."""

    key: bytes
    chain: bytes


@dataclass
class Seen:
    """What came of one run."""

    client: list[str] = field(default_factory=list)
    server: list[str] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    """What the breakers counted, summed, without the zeros."""
    in_flight: int = 0
    states: set[str] = field(default_factory=set)


class Stage:
    """One run of one story."""

    def __init__(self, attach: str, certificate: Certificate | None = None) -> None:
        self.breakers = idle_parts() if attach == IDLE else BreakerRegistry()
        self.seen = Seen()
        self.began = threading.Event()
        """A call has begun at `hang`, or wherever the story's own server says so."""
        self.release = threading.Event()
        """What the story's own server waits for."""
        self.gone = threading.Event()
        """The client was gone before `hang` was done."""
        self._attach = attach
        self._bodies: dict[str, tuple[str, Body]] = {}
        self._plain: list[Any] = []
        self._servers: list[grpc.Server] = []
        self._pools: list[futures.ThreadPoolExecutor] = []
        self._relays: list[Relay] = []
        self.folder = Path(tempfile.mkdtemp())
        self.certificate = certificate

    # ── Notes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def note(self, *what: object) -> None:
        """Note what the client sees."""
        self.seen.client.append(" ".join(map(str, what)))

    def server_note(self, *what: object) -> None:
        """Note what the server sees."""
        self.seen.server.append(" ".join(map(str, what)))

    def note_error(self, error: BaseException, *, words: bool = True) -> None:
        """Note what an application looks at; without `words`, where they are the network's."""
        self.note(type(error).__name__, "RpcError" if isinstance(error, grpc.RpcError) else error)
        if isinstance(error, grpc.RpcError):
            status: Any = error
            self.note(status.code().name, status.details() if words else "")
            self.note("initial", pairs(status.initial_metadata()), "trailing", pairs(status.trailing_metadata()))

    # ── The server ────────────────────────────────────────────────────────────────────────────────────────────────

    def serve(self, kind: str, body: Body) -> str:
        """Serve a method of this kind; returns its name."""
        if not self._servers:
            self.target = f"127.0.0.1:{self.listen('127.0.0.1:0')}"
        method = f"/transparency.v1.Story/Method{len(self._bodies)}"
        self._bodies[method] = (kind, body)
        return method

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Start a server, with whatever the story serves, there."""
        pool = futures.ThreadPoolExecutor(32)
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 6 << 20)]
        options += [
            ("grpc.server.max_pending_requests", 10_000),
            ("grpc.server.max_pending_requests_hard_limit", 20_000),
        ]
        server = grpc.server(pool, [_Bodies(self._bodies)], options=options)
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        server.start()
        self._servers.append(server)
        self._pools.append(pool)
        return port

    def relay(self) -> Relay:
        """A relay in front of the server, that counts what passes."""
        self._relays.append(Relay(int(self.target.rpartition(":")[2])))
        return self._relays[-1]

    def hang(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """What a server does that never answers: it waits until the client is gone, and says so."""
        self.await_gone(context)
        yield b""

    def await_gone(self, context: Any) -> None:
        """Wait, at the server, until the client is gone."""
        over = threading.Event()
        if not context.add_callback(over.set):
            over.set()
        self.began.set()
        over.wait(FAR)
        self.server_note("the client is gone")
        self.gone.set()

    # ── The client ────────────────────────────────────────────────────────────────────────────────────────────────

    def channel(
        self, *options: tuple[str, Any], target: str | None = None, credentials: Any = None, compression: Any = None
    ) -> Any:
        """A channel of `grpc`, closed at the end of the run if the story has not closed it."""
        target = target or self.target
        if credentials is None:
            plain = grpc.insecure_channel(target, options=options, compression=compression)
        else:
            plain = grpc.secure_channel(target, credentials, options=options, compression=compression)
        self._plain.append(plain)
        if self._attach in GUARDED:
            return grpc.intercept_channel(plain, CircuitBreakerInterceptor(self.breakers, telemetry=False))
        return grpc.intercept_channel(plain, PassOn()) if self._attach == "passing" else plain

    def channel_aio(
        self, *options: tuple[str, Any], target: str | None = None, credentials: Any = None, compression: Any = None
    ) -> Any:
        """A channel of `grpc.aio`; the same."""
        interceptors = None
        if self._attach in GUARDED:
            interceptors = aio.interceptors(self.breakers, telemetry=False)
        elif self._attach == "passing":
            interceptors = passing()
        keywords = {"options": options, "compression": compression, "interceptors": interceptors}
        target = target or self.target
        if credentials is None:
            plain = grpc.aio.insecure_channel(target, **keywords)
        else:
            plain = grpc.aio.secure_channel(target, credentials, **keywords)
        self._plain.append(plain)
        return plain

    def method(self, kind: str, body: Body, *options: tuple[str, Any], **keywords: Any) -> Any:
        """Serve a method and call it, on a channel of its own: its multi-callable."""
        path = self.serve(kind, body)
        return getattr(self.channel(*options), KINDS[kind])(path, **keywords)

    def method_aio(self, kind: str, body: Body, *options: tuple[str, Any], **keywords: Any) -> Any:
        """The same in asyncio."""
        path = self.serve(kind, body)
        return getattr(self.channel_aio(*options), KINDS[kind])(path, **keywords)

    # ── The end of a run ──────────────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Close the channels."""
        for channel in self._plain:
            channel.close()

    async def close_aio(self) -> None:
        """Close the channels."""
        for channel in self._plain:
            await channel.close()

    def count(self) -> None:
        """Wait until the breakers know of every end, and take down what they say."""
        gc.collect()
        for breaker in self.breakers:
            await_settled(breaker)
            self.seen.in_flight += breaker.in_flight
            self.seen.states.add(breaker.state.value)
            for name, calls in breaker.snapshot()["totals"].items():
                if calls:
                    self.seen.totals[name] = self.seen.totals.get(name, 0) + calls

    def tear_down(self) -> None:
        """Stop the servers, and whatever still waits in them."""
        self.release.set()
        for relay in self._relays:
            relay.stop()
        for server in self._servers:
            server.stop(0).wait(PATIENCE)
        for pool in self._pools:
            pool.shutdown()
        for file in self.folder.iterdir():
            file.unlink()
        self.folder.rmdir()


def run(story: Story, attach: str, certificate: Certificate | None = None) -> Seen:
    """Play a story of `grpc`."""
    stage = Stage(attach, certificate)
    try:
        story.play(stage, *([story.kind] if story.kind else []))
        if not story.ends_with_its_channel:
            stage.count()
        seen = Seen(list(stage.seen.client), list(stage.seen.server))
        stage.close()
        if story.ends_with_its_channel:
            stage.count()
        seen.totals, seen.in_flight, seen.states = stage.seen.totals, stage.seen.in_flight, stage.seen.states
        return seen
    finally:
        stage.close()
        stage.tear_down()


def run_aio(story: Story, attach: str, certificate: Certificate | None = None) -> Seen:
    """Play a story of `grpc.aio`."""
    stage = Stage(attach, certificate)

    async def whole() -> Seen:
        try:
            await asyncio.wait_for(story.play(stage, *([story.kind] if story.kind else [])), 3 * PATIENCE)
            if not story.ends_with_its_channel:
                await asyncio.to_thread(stage.count)
            seen = Seen(list(stage.seen.client), list(stage.seen.server))
        finally:
            await stage.close_aio()
        if story.ends_with_its_channel:
            await asyncio.to_thread(stage.count)
        seen.totals, seen.in_flight, seen.states = stage.seen.totals, stage.seen.in_flight, stage.seen.states
        return seen

    try:
        return asyncio.run(whole())
    finally:
        stage.tear_down()


class _Bodies(grpc.GenericRpcHandler):
    def __init__(self, bodies: dict[str, tuple[str, Body]]) -> None:
        self._bodies = bodies

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method not in self._bodies:
            return None
        kind, body = self._bodies[handler_call_details.method]

        def answers(request: Any, context: Any) -> Iterator[bytes]:
            return body(request if kind.startswith("s") else iter([request]), context)

        def answer(request: Any, context: Any) -> bytes:
            return (list(answers(request, context)) or [b""])[-1]

        make = getattr(grpc, f"{KINDS[kind]}_rpc_method_handler")
        return make(answer if kind.endswith("u") else answers)


class PassOn(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """A sync interceptor that does nothing: what grpcio itself makes of a channel with interceptors."""

    def _pass_on(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(client_call_details, request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _pass_on


class Relay:
    """Hands on the bytes of one connection between a client and a port, and counts those of each direction."""

    def __init__(self, port: int) -> None:
        self.up = self.down = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets = [self._listener]
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        far = socket.create_connection(("127.0.0.1", self._port))
        self._sockets += [near, far]
        other = threading.Thread(target=self._pump, args=(far, near, "down"))
        other.start()
        self._pump(near, far, "up")
        other.join(PATIENCE)

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with suppress(OSError):  # when one of the two is gone
            while data := source.recv(1 << 16):
                setattr(self, direction, getattr(self, direction) + len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def stop(self) -> None:
        """Break what still stands."""
        for it in self._sockets:
            with suppress(OSError):
                it.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        for it in self._sockets:
            it.close()


class Records(logging.Handler):
    """Collects what is logged while it is attached."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.messages: list[str] = []
        self._logger = logging.getLogger(name)

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def __enter__(self) -> Self:
        self._logger.addHandler(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self._logger.removeHandler(self)


def pairs(metadata: Any) -> list[tuple[str, Any]]:
    """Metadata as plain pairs, in their order."""
    return [(key, value) for key, value in metadata or ()]


def wait(event: threading.Event) -> None:
    """Wait for what must happen."""
    assert event.wait(PATIENCE), "it never happened"


async def wait_aio(event: threading.Event) -> None:
    """The same, beside the loop."""
    await asyncio.to_thread(wait, event)
