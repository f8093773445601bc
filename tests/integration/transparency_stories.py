"""What clients of `grpc` do, as `test_transparency.py` plays it; the rules stand in `transparency_stage.py`."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import grpc

from tests.integration.endings_table import OLD_GRPCIO
from tests.integration.transparency_stage import KINDS, Records, Stage, Stories, pairs, wait
from tests.support.server import FAR, PATIENCE

STORIES = Stories()
story = STORIES.story

MEGABYTE = 1 << 20
METADATA = (("many", "one"), ("many", "two"), ("raw-bin", b"\x00\xff"), ("raw-bin", b"again"), ("single", "value"))
STATUS_BYTES = b"\x08\x05\x12\x04nein"
"""What `grpc-status-details-bin` holds: a google.rpc.Status with code 5 and message "nein"."""
RETRIES = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.01s",
                    "backoffMultiplier": 1,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)

NOT_THE_SERVERS_FAULT = (
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "UNAUTHENTICATED",
)


# ── What the servers do ───────────────────────────────────────────────────────────────────────────────────────────


def echo(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    """Answer each request with itself."""
    yield from requests


def held(stage: Stage) -> Callable[..., Iterator[bytes]]:
    """Answer when the story says so."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        stage.began.set()
        wait(stage.release)
        yield from requests

    return body


def one_then_hang(stage: Stage) -> Callable[..., Iterator[bytes]]:
    """Answer once, if the kind lets it, and then no more."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield next(requests)
        stage.await_gone(context)

    return body


def first_back(kind: str) -> Callable[..., Iterator[bytes]]:
    """Answer the first request, and let the client end the call if it is a stream."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        over = threading.Event()
        context.add_callback(over.set)
        yield next(requests)
        if kind.endswith("s"):
            over.wait(FAR)

    return body


def aborts(code: str, details: str, trailing: Any = (), answers: int = 0) -> Callable[..., Iterator[bytes]]:
    """End badly after so many answers."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        first = next(requests)
        for _ in range(answers):
            yield first
        context.set_trailing_metadata(tuple(trailing))
        context.abort(grpc.StatusCode[code], details)

    return body


def raises(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    """Have a bug."""
    next(requests)
    raise RuntimeError("a bug of the server")
    yield b""


def metadata_both_ways_at(stage: Stage, *, fails: bool) -> Callable[..., Iterator[bytes]]:
    """Note the metadata that came, and send some at the beginning and at the end."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        received = [(it.key, it.value) for it in context.invocation_metadata() if it.key != "user-agent"]
        stage.server_note(sorted(received, key=str))
        context.send_initial_metadata((("early", "1"), ("early", "2"), ("early-bin", b"\x00")))
        context.set_trailing_metadata((("late", "1"), ("late", "2"), ("late-bin", b"\xff\xfe")))
        if fails:
            next(requests)
            wait(stage.release)
            context.abort(grpc.StatusCode.NOT_FOUND, "none such")
        yield from requests

    return body


def fails_first(stage: Stage, times: int) -> Callable[..., Iterator[bytes]]:
    """Be unavailable so many times; note what the channel says of each attempt."""
    attempts: list[None] = []

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        metadata = dict(context.invocation_metadata())
        stage.server_note("attempts before", metadata.get("grpc-previous-rpc-attempts"))
        attempts.append(None)
        if len(attempts) <= times:
            next(requests)
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        yield from requests

    return body


def unhurried(stage: Stage, answers: int) -> Callable[..., Iterator[bytes]]:
    """Send megabytes for as long as the client reads."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        stage.began.set()
        for number in range(answers):
            yield bytes([number]) * MEGABYTE
        stage.server_note("all sent")
        stage.gone.set()

    return body


def authorised(stage: Stage) -> Callable[..., Iterator[bytes]]:
    """Note what the call is authorised by."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        stage.server_note(sorted(it.value for it in context.invocation_metadata() if it.key == "authorization"))
        yield from requests

    return body


# ── How the clients call ──────────────────────────────────────────────────────────────────────────────────────────


def begin(method: Any, kind: str, *messages: bytes, **keywords: Any) -> Any:
    """Begin a call that runs."""
    start = method.future if kind.endswith("u") else method
    return start(iter(messages) if kind.startswith("s") else messages[0], **{"timeout": FAR, **keywords})


def answers(call: Any, kind: str) -> list[Any]:
    """Everything the server answered."""
    return [call.result(PATIENCE)] if kind.endswith("u") else list(call)


def expect_error(stage: Stage, call: Any, kind: str, *, words: bool = True) -> None:
    """Note how it fails, and what it says of itself then."""
    try:
        stage.note("unexpected:", answers(call, kind))
    except (grpc.RpcError, grpc.FutureCancelledError) as error:
        stage.note_error(error, words=words)
    stage.note(call.done(), call.running(), call.cancelled(), call.is_active(), call.code().name)


def in_thread(act: Callable[[], object]) -> threading.Thread:
    """Do it on another thread."""
    thread = threading.Thread(target=act)
    thread.start()
    return thread


# ── Deadlines ─────────────────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS, failures=1)
def deadline_passes(stage: Stage, kind: str) -> None:
    """A deadline ends a call of every kind."""
    method = stage.method(kind, lambda requests, context: iter([b""]) if stage.release.wait(FAR) else iter(()))
    expect_error(stage, begin(method, kind, b"", timeout=0.05), kind, words=False)


@story(*KINDS)
def deadline_is_over_before_it_begins(stage: Stage, kind: str) -> None:
    """A call whose deadline is past is never sent; one with no time at all may be, bare or not, and is left out here."""
    expect_error(stage, begin(stage.method(kind, echo), kind, b"", timeout=-1), kind, words=False)


@story("uu", "su", failures=1)
def deadline_of_a_blocking_call(stage: Stage, kind: str) -> None:
    """A deadline raises out of a blocking call."""
    method = stage.method(kind, lambda requests, context: iter([b""]) if stage.release.wait(FAR) else iter(()))
    try:
        method(iter([b""]) if kind == "su" else b"", timeout=0.05)
    except grpc.RpcError as error:
        stage.note_error(error, words=False)


@story(*KINDS)
def time_remaining_runs_down(stage: Stage, kind: str) -> None:
    """A call with a deadline says how much time it has, to its client and to its server."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        stage.server_note(0 < context.time_remaining() < 2 * FAR)  # the wire rounds it up
        stage.began.set()
        wait(stage.release)
        yield from requests

    call = begin(stage.method(kind, body), kind, b"")
    first = call.time_remaining()
    wait(stage.began)
    second = call.time_remaining()
    stage.note(0 < second < first <= FAR, call.is_active(), call.running(), call.done())
    stage.release.set()
    stage.note(answers(call, kind))


@story(*KINDS)
def no_deadline(stage: Stage, kind: str) -> None:
    """A call without a deadline has no time remaining, and its server sees none."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        stage.server_note(context.time_remaining())
        yield from requests

    call = begin(stage.method(kind, body), kind, b"", timeout=None)
    stage.note(call.time_remaining(), answers(call, kind))


# ── Metadata ──────────────────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
def metadata_both_ways(stage: Stage, kind: str) -> None:
    """Metadata with several values and with bytes arrives on both sides."""
    method = stage.method(kind, metadata_both_ways_at(stage, fails=False))
    call = begin(method, kind, b"x", metadata=METADATA)
    stage.note(answers(call, kind))
    stage.note(pairs(call.initial_metadata()), pairs(call.trailing_metadata()), call.code(), call.details())


@story("uu", "su")
def metadata_of_a_blocking_call(stage: Stage, kind: str) -> None:
    """`with_call` returns a call that knows the metadata."""
    method = stage.method(kind, metadata_both_ways_at(stage, fails=False))
    response, call = method.with_call(iter([b"x"]) if kind == "su" else b"x", metadata=METADATA, timeout=FAR)
    stage.note(response, pairs(call.initial_metadata()), pairs(call.trailing_metadata()), call.code(), call.details())
    stage.note(call.is_active(), call.time_remaining() is None, call.cancel(), call.add_callback(list))


@story(*KINDS)
def metadata_of_a_failed_call(stage: Stage, kind: str) -> None:
    """A failed call knows the metadata of both ends."""
    method = stage.method(kind, metadata_both_ways_at(stage, fails=True))
    stage.release.set()
    expect_error(stage, begin(method, kind, b"x", metadata=METADATA), kind)


@story(*KINDS)
def metadata_that_cannot_be_sent(stage: Stage, kind: str) -> None:
    """Metadata that is no metadata is reported where grpcio reports it."""
    method = stage.method(kind, echo)
    for metadata in ((("UPPER CASE", "x"),), (("key", 5),), (("key",),), 7):
        try:
            stage.note(answers(begin(method, kind, b"x", metadata=metadata), kind))
        except Exception as error:
            stage.note_error(error)


@story("us", "ss")
def headers_before_the_first_message(stage: Stage, kind: str) -> None:
    """Headers can be read while the server still thinks about its first message."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.send_initial_metadata((("early", "bird"),))
        wait(stage.release)
        yield from requests

    call = begin(stage.method(kind, body), kind, b"x")
    stage.note(pairs(call.initial_metadata()), call.is_active())
    stage.release.set()
    stage.note(list(call), pairs(call.trailing_metadata()))


# ── Compression ───────────────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
def compression_of_a_channel(stage: Stage, kind: str) -> None:
    """A channel that compresses sends less than it is given."""
    path = stage.serve(kind, echo)
    relay = stage.relay()
    channel = stage.channel(target=relay.target, compression=grpc.Compression.Gzip)
    call = begin(getattr(channel, KINDS[kind])(path), kind, bytes(MEGABYTE // 4))
    stage.note([len(it) for it in answers(call, kind)])
    stage.note("compressed", relay.up < MEGABYTE // 32)


@story(*KINDS)
def compression_of_a_call(stage: Stage, kind: str) -> None:
    """A call can compress on a channel that does not, and the other way round."""
    path = stage.serve(kind, echo)
    for of_channel, of_call in ((None, grpc.Compression.Deflate), (grpc.Compression.Gzip, None)):
        relay = stage.relay()
        method = getattr(stage.channel(target=relay.target, compression=of_channel), KINDS[kind])(path)
        stage.note([len(it) for it in answers(begin(method, kind, bytes(MEGABYTE // 4), compression=of_call), kind)])
        stage.note("compressed", relay.up < MEGABYTE // 32)
    relay = stage.relay()
    method = getattr(stage.channel(target=relay.target, compression=grpc.Compression.Gzip), KINDS[kind])(path)
    call = begin(method, kind, bytes(MEGABYTE // 4), compression=grpc.Compression.NoCompression)
    stage.note([len(it) for it in answers(call, kind)], "compressed", relay.up < MEGABYTE // 32)


# ── Connections ───────────────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS, failures=1)
def waits_for_a_server(stage: Stage, kind: str) -> None:
    """A call that waits for its server succeeds with one that comes after it began; one that does not has failed."""
    path = stage.serve(kind, echo)
    address = f"unix:{stage.folder / 'late'}"
    method = getattr(stage.channel(("grpc.initial_reconnect_backoff_ms", 100), target=address), KINDS[kind])(path)
    call = begin(method, kind, b"x", wait_for_ready=True)
    expect_error(stage, begin(method, kind, b"x"), kind, words=False)
    stage.note(call.done())
    stage.listen(address)
    stage.note(answers(call, kind))


@story(*KINDS, failures=2)
def does_not_wait_for_a_server(stage: Stage, kind: str) -> None:
    """A call without a server fails at once, unless it says otherwise."""
    path = stage.serve(kind, echo)
    method = getattr(stage.channel(target=f"unix:{stage.folder / 'nobody'}"), KINDS[kind])(path)
    for wait_for_ready in (False, None):
        expect_error(stage, begin(method, kind, b"x", wait_for_ready=wait_for_ready), kind, words=False)


@story()
def watches_its_connection(stage: Stage) -> None:
    """The states of a connection can be watched, and a channel waited for until it is ready."""
    path = stage.serve("uu", echo)
    channel = stage.channel()
    states: SimpleQueue[grpc.ChannelConnectivity] = SimpleQueue()
    callback = states.put
    before = set(threading.enumerate())
    channel.subscribe(callback, try_to_connect=True)
    watching = set(threading.enumerate()) - before
    while states.get(timeout=PATIENCE) is not grpc.ChannelConnectivity.READY:
        pass
    grpc.channel_ready_future(channel).result(PATIENCE)
    stage.note("ready", channel.unary_unary(path)(b"x"))
    channel.unsubscribe(callback)
    stage.note(states.empty())
    for thread in watching:
        thread.join(PATIENCE)  # grpcio's, which raises if its channel is closed before it has seen that nobody watches


@story(*KINDS)
def channel_closed_in_mid_call(stage: Stage, kind: str) -> None:
    """Closing a channel ends its calls, here and at the server; later ones are refused as grpcio does."""
    path = stage.serve(kind, one_then_hang(stage))
    channel = stage.channel()
    method = getattr(channel, KINDS[kind])(path)
    call = begin(method, kind, b"x")
    wait(stage.began)
    channel.close()
    expect_error(stage, call, kind, words=False)
    wait(stage.gone)
    try:
        stage.note(answers(begin(method, kind, b"x"), kind))
    except ValueError as error:
        stage.note_error(error)
    channel.close()


@story()
def channel_as_a_context_manager(stage: Stage) -> None:
    """Leaving a channel's block ends what still runs on it."""
    path, hanging = stage.serve("uu", echo), stage.serve("us", one_then_hang(stage))
    with stage.channel() as channel:
        stage.note(channel.unary_unary(path)(b"x"))
        call = channel.unary_stream(hanging)(b"y", timeout=FAR)
        stage.note(next(call))
        wait(stage.began)
    expect_error(stage, call, "us", words=False)
    wait(stage.gone)


# ── Credentials ───────────────────────────────────────────────────────────────────────────────────────────────────


class Token(grpc.AuthMetadataPlugin):
    """Gives every call this token, or this error."""

    def __init__(
        self, error: Exception | None = None, raised: Exception | None = None, extra: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self._error = error
        self._raised = raised
        self._extra = extra

    def __call__(self, context: Any, callback: Any) -> None:
        if self._raised is not None:
            raise self._raised
        callback((("authorization", f"token for {context.method_name}"), *self._extra), self._error)


BAD_TOKENS = (
    Token(error=ValueError("no token today")),
    Token(raised=ValueError("a bug of the plugin")),
    Token(extra=(("key", "a line that ends\n"),)),
)


def secure_address(stage: Stage) -> tuple[str, grpc.ChannelCredentials, tuple[tuple[str, Any], ...]]:
    """Listen with the certificate: the target, credentials that trust it, and options under which it is believed."""
    assert stage.certificate is not None
    server = grpc.ssl_server_credentials([(stage.certificate.key, stage.certificate.chain)])
    port = stage.listen("127.0.0.1:0", server)
    trusting = grpc.ssl_channel_credentials(stage.certificate.chain)
    return f"127.0.0.1:{port}", trusting, (("grpc.ssl_target_name_override", "localhost"),)


def secure_method(stage: Stage, kind: str, *of_channel: grpc.CallCredentials) -> Any:
    """A method behind TLS, on a channel that may have credentials for each call."""
    path = stage.serve(kind, authorised(stage))
    target, credentials, options = secure_address(stage)
    if of_channel:
        credentials = grpc.composite_channel_credentials(credentials, *of_channel)
    return getattr(stage.channel(*options, target=target, credentials=credentials), KINDS[kind])(path)


@story(*KINDS, secure=True)
def call_credentials(stage: Stage, kind: str) -> None:
    """The credentials of a call reach the server, beside those of its channel."""
    of_call = grpc.metadata_call_credentials(Token(), "token")
    call = begin(secure_method(stage, kind), kind, b"x", credentials=of_call)
    stage.note(answers(call, kind))
    method = secure_method(stage, kind, grpc.access_token_call_credentials("channel"))
    stage.note(answers(begin(method, kind, b"y"), kind), answers(begin(method, kind, b"z", credentials=of_call), kind))


@story(*KINDS, secure=True)
def call_credentials_that_fail(stage: Stage, kind: str) -> None:
    """A plugin for credentials that fails ends the call as grpcio ends it."""
    method = secure_method(stage, kind)
    for plugin in BAD_TOKENS:
        of_call = grpc.metadata_call_credentials(plugin, "token")
        expect_error(stage, begin(method, kind, b"x", credentials=of_call), kind)


@story(*KINDS)
def call_credentials_without_security(stage: Stage, kind: str) -> None:
    """Credentials of a call on an insecure channel end it as grpcio ends it."""
    method = stage.method(kind, authorised(stage))
    expect_error(stage, begin(method, kind, b"x", credentials=grpc.access_token_call_credentials("t")), kind)


@story(*KINDS, secure=True, failures=1)
def certificate_that_nobody_trusts(stage: Stage, kind: str) -> None:
    """A server whose certificate is not trusted is unavailable."""
    path = stage.serve(kind, echo)
    target, _, _ = secure_address(stage)
    channel = stage.channel(target=target, credentials=grpc.ssl_channel_credentials())
    expect_error(stage, begin(getattr(channel, KINDS[kind])(path), kind, b"x"), kind, words=False)


# ── Large messages, and flow control ──────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
def large_messages(stage: Stage, kind: str) -> None:
    """Messages of megabytes pass in both directions, beyond the usual limit where options raise it."""
    path = stage.serve(kind, echo)
    for options, size in (((), 3 * MEGABYTE), ((("grpc.max_receive_message_length", -1),), 6 * MEGABYTE)):
        message = bytes(range(256)) * (size // 256)
        call = begin(getattr(stage.channel(*options), KINDS[kind])(path), kind, message)
        stage.note([it == message for it in answers(call, kind)])


@story("uu", "us", "su", *(() if OLD_GRPCIO else ("ss",)))  # before 1.75 CANCELLED may come first, bare as well
def too_large_an_answer(stage: Stage, kind: str) -> None:
    """An answer above the client's limit is refused by the client."""
    expect_error(stage, begin(stage.method(kind, first_back(kind)), kind, bytes(5 * MEGABYTE)), kind)


@story(*KINDS)
def too_large_a_request(stage: Stage, kind: str) -> None:
    """A request above the client's limit, or the server's, is refused there."""
    path = stage.serve(kind, echo)
    method = getattr(stage.channel(("grpc.max_send_message_length", 1000)), KINDS[kind])(path)
    expect_error(stage, begin(method, kind, bytes(1001)), kind)
    expect_error(
        stage, begin(getattr(stage.channel(), KINDS[kind])(path), kind, bytes(7 * MEGABYTE)), kind, words=False
    )


@story("us", "ss")
def slow_reader(stage: Stage, kind: str) -> None:
    """A server can send no more than a client that does not read lets it, and all of it once it does."""
    call = begin(stage.method(kind, unhurried(stage, 40)), kind, b"")
    wait(stage.began)
    stage.note(next(call)[:1], stage.gone.is_set())
    stage.note([it[:1] for it in call])
    wait(stage.gone)


@story("us", "ss")
def reader_that_leaves_much_unread(stage: Stage, kind: str) -> None:
    """A stream that is cancelled with megabytes under way ends."""
    call = begin(stage.method(kind, unhurried(stage, 40)), kind, b"")
    stage.note(len(next(call)), call.cancel())
    expect_error(stage, call, kind)


@story("su", "ss")
def server_that_does_not_read(stage: Stage, kind: str) -> None:
    """A client can send no more than a server that does not read lets it, and all of it once it does."""
    exhausted = threading.Event()

    def requests() -> Iterator[bytes]:
        for number in range(40):
            yield bytes([number]) * MEGABYTE
        exhausted.set()

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        stage.began.set()
        wait(stage.release)
        stage.server_note(sum(len(it) for it in requests))
        yield b"enough"

    method = stage.method(kind, body)
    call = (method.future if kind == "su" else method)(requests(), timeout=FAR)
    wait(stage.began)
    stage.note("all taken", exhausted.is_set())
    stage.release.set()
    stage.note(answers(call, kind), exhausted.is_set())


# ── Half-closed streams, and what sends requests ──────────────────────────────────────────────────────────────────


@story("ss")
def client_is_done_first(stage: Stage, kind: str) -> None:
    """A server goes on after the client has said everything."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        stage.server_note(list(requests))
        yield b"0"
        wait(stage.release)
        yield b"1"

    call = begin(stage.method(kind, body), kind, b"a", b"b")
    stage.note(next(call), call.is_active())
    stage.release.set()
    stage.note(list(call))


@story("ss")
def questions_and_answers(stage: Stage, kind: str) -> None:
    """A client may wait for an answer before it asks on."""
    questions: SimpleQueue[bytes | None] = SimpleQueue()
    call = stage.method(kind, echo)(iter(questions.get, None), timeout=FAR)
    for question in (b"a", b"b", b"c"):
        questions.put(question)
        stage.note(next(call))
    questions.put(None)
    stage.note(list(call), call.code())


@story("su", "ss")
def server_is_done_first(stage: Stage, kind: str) -> None:
    """A server may end a call whose client still has something to say; what says it is closed."""
    closed = threading.Event()
    more = threading.Event()

    def requests() -> Iterator[bytes]:
        try:
            yield b"a"
            wait(more)
            yield b"b"
            yield b"c"
        finally:
            closed.set()

    method = stage.method(kind, lambda requests, context: iter([next(requests)]))
    call = (method.future if kind == "su" else method)(requests(), timeout=FAR)
    stage.note(answers(call, kind), call.code())
    more.set()
    wait(closed)


@story("su", "ss")
def server_fails_first(stage: Stage, kind: str) -> None:
    """A server may fail a call whose client still has something to say."""
    more = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"a"
        wait(more)

    method = stage.method(kind, aborts("OUT_OF_RANGE", "enough", answers=1))
    call = (method.future if kind == "su" else method)(requests(), timeout=FAR)
    expect_error(stage, call, kind)
    more.set()


@story("su", "ss")
def requests_that_raise(stage: Stage, kind: str) -> None:
    """An iterator of requests that raises midway ends the call, and is closed."""
    closed = threading.Event()

    def requests() -> Iterator[bytes]:
        try:
            yield b"a"
            wait(stage.began)
            raise ValueError("a bug of the client")
        finally:
            closed.set()

    method = stage.method(kind, one_then_hang(stage))
    with Records("grpc._channel") as records:
        expect_error(stage, (method.future if kind == "su" else method)(requests(), timeout=FAR), kind)
    wait(closed)
    wait(stage.gone)
    stage.note(records.messages)


@story("su", "ss")
def no_requests(stage: Stage, kind: str) -> None:
    """A stream of no requests is one."""
    method = stage.method(kind, lambda requests, context: iter([b"%d" % len(list(requests))]))
    stage.note(answers(begin(method, kind), kind))


@story("su", "ss")
def requests_that_are_no_iterator(stage: Stage, kind: str) -> None:
    """What is not an iterator is reported where grpcio reports it; a list is none."""
    method = stage.method(kind, echo)
    for requests in ([b"a"], 7):
        try:
            stage.note(answers((method.future if kind == "su" else method)(requests, timeout=FAR), kind))
        except Exception as error:
            stage.note_error(error)


# ── Futures and callbacks ─────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
def callbacks_in_their_order(stage: Stage, kind: str) -> None:
    """Callbacks come once each, in the order they were added; late ones at once."""
    called_with: SimpleQueue[Any] = SimpleQueue()
    call = begin(stage.method(kind, held(stage)), kind, b"x")
    for number in range(3):
        call.add_done_callback(lambda ended, number=number: called_with.put((number, ended is call, ended.code().name)))
    stage.note(call.add_callback(lambda: called_with.put("without the call")))
    call.add_done_callback(lambda ended: called_with.put((ended.done(), ended.cancelled(), ended.running())))
    stage.release.set()
    stage.note(answers(call, kind))
    stage.note([called_with.get(timeout=PATIENCE) for _ in range(5)])
    here = threading.current_thread()
    call.add_done_callback(lambda ended: called_with.put(("late", ended is call, threading.current_thread() is here)))
    stage.note(
        call.add_callback(lambda: called_with.put("never")),
        [called_with.get_nowait() for _ in range(called_with.qsize())],
    )


@story(*KINDS)
def callback_that_raises(stage: Stage, kind: str) -> None:
    """A callback that raises hurts neither the call nor the callbacks after it."""
    called_with: SimpleQueue[str] = SimpleQueue()

    def bug(ended: Any) -> None:
        called_with.put("bug")
        raise ValueError("a bug of the client")

    method = stage.method(kind, held(stage))
    with Records("") as records:
        call = begin(method, kind, b"x")
        call.add_done_callback(bug)
        call.add_done_callback(bug)
        call.add_done_callback(lambda ended: called_with.put("after"))
        stage.release.set()
        stage.note(answers(call, kind))
        stage.note([called_with.get(timeout=PATIENCE) for _ in range(3)])
    stage.note([it.partition(" at ")[0] for it in records.messages if "bug" in it])
    stage.note(answers(begin(method, kind, b"y"), kind))


@story(*KINDS)
def callbacks_of_a_cancelled_call(stage: Stage, kind: str) -> None:
    """Callbacks of a cancelled call see that it was."""
    called_with: SimpleQueue[Any] = SimpleQueue()
    call = begin(stage.method(kind, stage.hang), kind, b"x")
    call.add_done_callback(
        lambda ended: called_with.put((ended is call, ended.cancelled(), ended.done(), ended.code().name))
    )
    call.add_callback(lambda: called_with.put("without the call"))
    wait(stage.began)
    stage.note(call.cancel())
    stage.note([called_with.get(timeout=PATIENCE) for _ in range(2)])
    wait(stage.gone)


@story("uu", "su")
def future_of_an_answer(stage: Stage, kind: str) -> None:
    """A future says what it has, and that it has nothing yet."""
    call = begin(stage.method(kind, held(stage)), kind, b"x")
    for ask in (call.result, call.exception, call.traceback):
        try:
            stage.note(ask(timeout=0.01))
        except grpc.FutureTimeoutError as error:
            stage.note_error(error)
    stage.note(call.done(), call.running(), call.cancelled(), call.is_active())
    stage.release.set()
    stage.note(call.result(timeout=PATIENCE), call.exception(timeout=PATIENCE), call.traceback(timeout=PATIENCE))
    stage.note(call.result(), call.done(), call.running(), call.cancelled(), call.is_active(), call.cancel())


@story(*KINDS)
def future_of_a_failure(stage: Stage, kind: str) -> None:
    """The future of a failed call has its error and where it was raised."""
    call = begin(stage.method(kind, aborts("NOT_FOUND", "none such")), kind, b"x")
    error = call.exception(timeout=PATIENCE)
    stage.note(type(error).__name__, error is call, error.code().name, error.details())
    stage.note(isinstance(call.traceback(timeout=PATIENCE), TracebackType), call.done(), call.running())
    try:
        call.result(timeout=PATIENCE)
    except grpc.RpcError as raised:
        stage.note_error(raised)


@story("us", "ss")
def stream_as_a_future(stage: Stage, kind: str) -> None:
    """A stream can be waited for like a future, too."""
    call = begin(stage.method(kind, one_then_hang(stage)), kind, b"x")
    wait(stage.began)
    for ask in (call.result, call.exception, call.traceback):
        try:
            stage.note(ask(timeout=0.01))
        except grpc.FutureTimeoutError as error:
            stage.note_error(error)
    call.cancel()
    for ask in (call.result, call.exception, call.traceback):
        try:
            stage.note(ask(timeout=PATIENCE))
        except grpc.FutureCancelledError as error:
            stage.note_error(error)
    wait(stage.gone)


@story("us")
def stream_without_a_thread(stage: Stage, kind: str) -> None:
    """Grpcio's single-threaded streams work as without us."""
    option = ("SingleThreadedUnaryStream", 1)
    call = stage.method(kind, metadata_both_ways_at(stage, fails=False), option)(b"x", timeout=FAR)
    stage.note(type(call).__name__, list(call), pairs(call.initial_metadata()), pairs(call.trailing_metadata()))
    call = stage.method(kind, aborts("NOT_FOUND", "none such", answers=1), option)(b"x", timeout=FAR)
    try:
        for message in call:
            stage.note(message)
    except grpc.RpcError as error:
        stage.note_error(error)


# ── Cancelling ────────────────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
def cancelled_from_another_thread(stage: Stage, kind: str) -> None:
    """Another thread can cancel a call that this one waits for; the server sees it."""
    call = begin(stage.method(kind, stage.hang), kind, b"x")
    thread = in_thread(lambda: (wait(stage.began), call.cancel()))
    expect_error(stage, call, kind)
    thread.join(PATIENCE)
    wait(stage.gone)


@story(*KINDS)
def cancelled_twice(stage: Stage, kind: str) -> None:
    """Cancelling a call again changes nothing."""
    call = begin(stage.method(kind, stage.hang), kind, b"x")
    wait(stage.began)
    stage.note(call.cancel(), call.cancelled(), call.done(), call.cancel())
    expect_error(stage, call, kind)
    stage.note(call.details(), call.cancel())
    wait(stage.gone)


@story(*KINDS)
def cancelled_after_its_end(stage: Stage, kind: str) -> None:
    """Cancelling a call that has ended changes nothing."""
    call = begin(stage.method(kind, echo), kind, b"x")
    stage.note(answers(call, kind))
    stage.note(call.cancel(), call.cancelled(), call.done(), call.code(), call.details())


@story(*KINDS)
def cancelled_before_it_is_sent(stage: Stage, kind: str) -> None:
    """A call that waits for a server to come can be cancelled."""
    path = stage.serve(kind, echo)
    method = getattr(stage.channel(target=f"unix:{stage.folder / 'nobody'}"), KINDS[kind])(path)
    call = begin(method, kind, b"x", wait_for_ready=True)
    stage.note(call.cancel())
    expect_error(stage, call, kind)


# ── Generated stubs ───────────────────────────────────────────────────────────────────────────────────────────────


def to_json(message: Any) -> bytes:
    """A serializer that refuses what is no JSON."""
    return json.dumps(message).encode()


@story(*KINDS)
def generated_stub(stage: Stage, kind: str) -> None:
    """Messages are serialised and deserialised."""
    method = stage.method(kind, echo, request_serializer=to_json, response_deserializer=json.loads)
    stage.note(answers(begin(method, kind, {"price": 5}), kind))  # type: ignore[arg-type]


@story(*KINDS, failures=1)
def answer_that_cannot_be_read(stage: Stage, kind: str) -> None:
    """An answer that does not deserialise ends the call as grpcio ends it."""

    def deserializer(message: bytes) -> None:
        raise ValueError("what is this")

    method = stage.method(kind, echo, response_deserializer=deserializer)
    expect_error(stage, begin(method, kind, b"x"), kind)


@story("uu", "us", beside="passing", why="behind any interceptor a future that raises becomes a call that has failed")
@story("su", "ss")
def request_that_cannot_be_written(stage: Stage, kind: str) -> None:
    """A request that does not serialise ends the call as grpcio ends it."""
    method = stage.method(kind, echo, request_serializer=to_json)
    try:
        expect_error(stage, begin(method, kind, object()), kind)  # type: ignore[arg-type]
    except Exception as error:
        stage.note_error(error)


@story("uu", "su")
def blocking_request_that_cannot_be_written(stage: Stage, kind: str) -> None:
    """The same in a blocking call, and with `with_call`."""
    method = stage.method(kind, echo, request_serializer=to_json)
    for call in (method, method.with_call):
        try:
            stage.note(call(iter([object()]) if kind == "su" else object(), timeout=FAR))
        except Exception as error:
            stage.note_error(error)


# ── What servers say ──────────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
def method_that_is_not_there(stage: Stage, kind: str) -> None:
    """A method that the server does not have is UNIMPLEMENTED."""
    stage.serve(kind, echo)
    method = getattr(stage.channel(), KINDS[kind])("/transparency.v1.Story/Nowhere")
    expect_error(stage, begin(method, kind, b"x"), kind)


@story(*KINDS, failures=1)
def server_that_raises(stage: Stage, kind: str) -> None:
    """A bug of the server is UNKNOWN, with its words."""
    expect_error(stage, begin(stage.method(kind, raises), kind, b"x"), kind)


@story(*KINDS)
def words_beyond_ascii(stage: Stage, kind: str) -> None:
    """Details in any language, and a rich status, arrive."""
    rich = (("grpc-status-details-bin", STATUS_BYTES), ("server", "echo"))
    method = stage.method(kind, aborts("FAILED_PRECONDITION", "Grüße, 世界 %41 \n☃", rich, answers=1))
    expect_error(stage, begin(method, kind, b"x"), kind)


@story("uu", "su", failures=2)
def blocking_calls_that_fail(stage: Stage, kind: str) -> None:
    """A blocking call and `with_call` raise what a bare one raises."""
    method = stage.method(kind, aborts("INTERNAL", "broken", (("server", "echo"),)))
    for call in (method, method.with_call):
        try:
            stage.note(call(iter([b"x"]) if kind == "su" else b"x", timeout=FAR))
        except grpc.RpcError as error:
            stage.note_error(error)
            stage.note(isinstance(error, grpc.Call), isinstance(error, grpc.Future), str(error).count("INTERNAL"))


@story(*KINDS)
def statuses_of_every_kind(stage: Stage, kind: str) -> None:
    """Every status that says nothing against the server passes."""
    paths = [stage.serve(kind, aborts(name, f"words of {name}")) for name in NOT_THE_SERVERS_FAULT]
    channel = stage.channel()
    for path in paths:
        expect_error(stage, begin(getattr(channel, KINDS[kind])(path), kind, b"x"), kind)


# ── Retries of the channel ────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
def channel_that_retries(stage: Stage, kind: str) -> None:
    """What a channel retries by its service config is one call that succeeds."""
    options = (("grpc.service_config", RETRIES), ("grpc.enable_retries", 1))
    call = begin(stage.method(kind, fails_first(stage, 2), *options), kind, b"x")
    stage.note(answers(call, kind), call.code(), pairs(call.initial_metadata()))


@story(*KINDS, failures=1)
def channel_that_retries_in_vain(stage: Stage, kind: str) -> None:
    """What a channel retries in vain is one call that fails."""
    options = (("grpc.service_config", RETRIES), ("grpc.enable_retries", 1))
    expect_error(stage, begin(stage.method(kind, fails_first(stage, 9), *options), kind, b"x"), kind)


# ── Memory ────────────────────────────────────────────────────────────────────────────────────────────────────────


def await_dead(dead: SimpleQueue[Any], calls: int = 1) -> None:
    """Wait until so many calls are no more."""
    for _ in range(calls):
        dead.get(timeout=PATIENCE)


def await_collected(dead: SimpleQueue[Any], calls: int) -> None:
    """The same for calls that failed: each is in a ring with its traceback, and may be in a callback's hands just now."""
    until = time.monotonic() + PATIENCE
    while calls:
        gc.collect()
        with suppress(Empty):
            while calls:
                dead.get(timeout=0.05)
                calls -= 1
        assert time.monotonic() < until, "a call is held by somebody"


@story(*KINDS)
def call_object_dies_after_use(stage: Stage, kind: str) -> None:
    """A call that has ended and that nobody holds is freed, without the garbage collector's help."""
    method = stage.method(kind, echo)
    dead: SimpleQueue[Any] = SimpleQueue()
    gc.disable()
    try:
        call = begin(method, kind, b"x")
        watch = weakref.ref(call, dead.put)
        stage.note(answers(call, kind), watch() is call)
        del call
        await_dead(dead)
    finally:
        gc.enable()


@story(*KINDS)
def dropped_call_is_cancelled(stage: Stage, kind: str) -> None:
    """A running call that nobody holds is freed and cancelled at the server, without the garbage collector's help."""
    method = stage.method(kind, one_then_hang(stage))
    dead: SimpleQueue[Any] = SimpleQueue()
    gc.disable()
    try:
        call = begin(method, kind, b"x")
        watch = weakref.ref(call, dead.put)
        if kind.endswith("s"):
            stage.note(next(call))
        wait(stage.began)
        stage.note(watch() is call)
        del call
        await_dead(dead)
        wait(stage.gone)
    finally:
        gc.enable()


@story(*KINDS)
def calls_leave_nothing_behind(stage: Stage, kind: str) -> None:
    """Many calls leave no more objects behind than few."""
    method = stage.method(kind, echo)
    ill = getattr(stage.channel(), KINDS[kind])(stage.serve(kind, aborts("NOT_FOUND", "none such")))
    dead: SimpleQueue[Any] = SimpleQueue()
    watched = set()

    def use(calls: int) -> int:
        for _ in range(calls):
            call = begin(method, kind, b"x")
            watched.add(weakref.ref(call, dead.put))
            assert answers(call, kind) == [b"x"]
            call = begin(ill, kind, b"x")
            watched.add(weakref.ref(call, dead.put))
            with suppress(grpc.RpcError):
                answers(call, kind)
            del call
        await_collected(dead, 2 * calls)
        watched.clear()
        return sum(str(type(it).__module__).startswith("grpc") for it in gc.get_objects())

    few = use(3)
    stage.note("one for each call", use(60) - few > 57)  # what else the process does breathes by some twenty


# ── Many at once ──────────────────────────────────────────────────────────────────────────────────────────────────


@story()
def two_thousand_calls_at_once(stage: Stage) -> None:
    """Two thousand futures and a hundred streams at once on one channel each get their own answer."""
    unary, stream = stage.serve("uu", echo), stage.serve("us", echo)
    channel = stage.channel()
    method, streams = channel.unary_unary(unary), channel.unary_stream(stream)
    running = [streams(b"s%d" % number, timeout=FAR) for number in range(100)]
    calls = [method.future(b"%d" % number, timeout=FAR) for number in range(2000)]
    stage.note(all(call.result(PATIENCE) == b"%d" % number for number, call in enumerate(calls)))
    stage.note(all(list(call) == [b"s%d" % number] for number, call in enumerate(running)))


@story()
def many_threads_on_one_channel(stage: Stage) -> None:
    """Ten threads that make calls of every kind on one channel each get their own answers."""
    paths = {kind: stage.serve(kind, echo) for kind in KINDS}
    channel = stage.channel()
    wrong: list[Any] = []

    def work(name: int) -> None:
        for number in range(8):
            message = b"%d of %d" % (number, name)
            for kind, path in paths.items():
                got = answers(begin(getattr(channel, KINDS[kind])(path), kind, message), kind)
                if got != [message]:
                    wrong.append(got)

    threads = [in_thread(lambda name=name: work(name)) for name in range(10)]
    for thread in threads:
        thread.join(PATIENCE)
    stage.note(wrong, any(thread.is_alive() for thread in threads))
