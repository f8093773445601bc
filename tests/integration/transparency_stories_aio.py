"""What clients of `grpc.aio` do, as `test_transparency.py` plays it; the rules stand in `transparency_stage.py`."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import grpc

from tests.integration.endings_table import OLD_GRPCIO
from tests.integration.transparency_stage import KINDS, Stage, Stories, pairs, wait, wait_aio
from tests.integration.transparency_stories import (
    BAD_TOKENS,
    MEGABYTE,
    METADATA,
    NOT_THE_SERVERS_FAULT,
    RETRIES,
    STATUS_BYTES,
    Token,
    aborts,
    authorised,
    await_dead,
    echo,
    fails_first,
    first_back,
    held,
    metadata_both_ways_at,
    one_then_hang,
    raises,
    secure_address,
    to_json,
    unhurried,
)
from tests.support.server import FAR, PATIENCE

STORIES_AIO = Stories()
story = STORIES_AIO.story


# ── How the clients call ──────────────────────────────────────────────────────────────────────────────────────────


def begin(method: Any, kind: str, *messages: Any, **keywords: Any) -> Any:
    """Begin a call."""
    return method(iter(messages) if kind.startswith("s") else messages[0], **{"timeout": FAR, **keywords})


def begin_open(method: Any, kind: str, *messages: Any, **keywords: Any) -> Any:
    """Begin a call whose requests, if it streams them, do not end before it does.

    For calls that their server ends early: while grpcio still writes, their status is a matter of chance, bare or not.
    """

    async def requests() -> AsyncIterator[Any]:
        for message in messages:
            yield message
        await asyncio.Event().wait()

    return method(
        requests() if kind.startswith("s") else messages[0] if messages else b"", **{"timeout": FAR, **keywords}
    )


async def read(call: Any) -> Any:
    """Read once. Behind interceptors of grpcio before 1.66 the end is a StopAsyncIteration."""
    try:
        return await call.read()
    except StopAsyncIteration:
        return grpc.aio.EOF


async def answers(call: Any, kind: str) -> list[Any]:
    """Everything the server answered."""
    return [await call] if kind.endswith("u") else [message async for message in call]


async def first_answer(call: Any, kind: str) -> Any:
    """What a client waits for first."""
    return await call if kind.endswith("u") else await read(call)


async def expect_error(stage: Stage, call: Any, kind: str, *, words: bool = True) -> None:
    """Note how it fails, and what it says of itself then."""
    try:
        stage.note("unexpected:", await answers(call, kind))
    except (grpc.RpcError, asyncio.CancelledError) as error:
        stage.note_error(error, words=words)
    await note_end(stage, call, words=words)


async def note_end(stage: Stage, call: Any, *, words: bool = True) -> None:
    """Note what an ended call says of itself."""
    stage.note(call.done(), call.cancelled(), await call.code(), await call.details() if words else "")
    stage.note(pairs(await call.initial_metadata()), pairs(await call.trailing_metadata()))


def begun(act: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Do it in a task."""
    return asyncio.get_running_loop().create_task(act)


# ── Deadlines ─────────────────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS, failures=1)
async def deadline_passes(stage: Stage, kind: str) -> None:
    """A deadline ends a call of every kind."""
    method = stage.method_aio(kind, lambda requests, context: iter([b""]) if stage.release.wait(FAR) else iter(()))
    # Where its deadline passes while the requests are being sent, as on a busy machine, a call of many requests and one
    # answer may end as cancelled, bare or not: `_StreamRequestMixin._consume_request_iterator` cancels it then.
    call = begin(method, kind, b"", timeout=0.5 if kind == "su" else 0.05)
    await expect_error(stage, call, kind, words=False)


@story(*KINDS)
async def deadline_is_over_before_it_begins(stage: Stage, kind: str) -> None:
    """A call whose deadline is past is never sent."""
    await expect_error(stage, begin_open(stage.method_aio(kind, echo), kind, timeout=-1), kind, words=False)


@story(*KINDS, beside="passing", why="behind any interceptor `time_remaining` raises NotImplementedError")
async def time_remaining_runs_down(stage: Stage, kind: str) -> None:
    """A call with a deadline says how much time it has, to its client where grpcio lets it, and to its server."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        stage.server_note(0 < context.time_remaining() < 2 * FAR)
        stage.began.set()
        wait(stage.release)
        yield from requests

    call = begin(stage.method_aio(kind, body), kind, b"")
    try:
        first = call.time_remaining()
        await wait_aio(stage.began)
        stage.note(0 < call.time_remaining() < first <= FAR)
    except NotImplementedError as error:
        stage.note_error(error)
    stage.release.set()
    stage.note(await answers(call, kind))


# ── Metadata ──────────────────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
async def metadata_both_ways(stage: Stage, kind: str) -> None:
    """Metadata with several values and with bytes arrives on both sides, given as pairs and as `Metadata`."""
    method = stage.method_aio(kind, metadata_both_ways_at(stage, fails=False))
    for metadata in (METADATA, grpc.aio.Metadata(*METADATA)):
        call = begin(method, kind, b"x", metadata=metadata)
        stage.note(await answers(call, kind))
        await note_end(stage, call)
        stage.note(type(await call.initial_metadata()).__name__, type(await call.trailing_metadata()).__name__)


@story(*KINDS)
async def metadata_of_a_failed_call(stage: Stage, kind: str) -> None:
    """A failed call knows the metadata of both ends."""
    method = stage.method_aio(kind, metadata_both_ways_at(stage, fails=True))
    call = begin_open(method, kind, b"x", metadata=METADATA)
    if kind.endswith("s"):  # on a busy machine grpcio lets the status overtake the headers, bare or not
        await call.initial_metadata()
    stage.release.set()
    await expect_error(stage, call, kind)


@story("us", "su", "ss")
async def headers_before_the_first_message(stage: Stage, kind: str) -> None:
    """Headers can be read while the server still thinks about its first message."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.send_initial_metadata((("early", "bird"),))
        wait(stage.release)
        yield from requests

    call = begin(stage.method_aio(kind, body), kind, b"x")
    stage.note(pairs(await call.initial_metadata()), call.done())
    stage.release.set()
    stage.note(await answers(call, kind), pairs(await call.trailing_metadata()))


# ── Compression ───────────────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
async def compression_of_a_channel(stage: Stage, kind: str) -> None:
    """A channel that compresses sends less than it is given."""
    path = stage.serve(kind, echo)
    relay = stage.relay()
    channel = stage.channel_aio(target=relay.target, compression=grpc.Compression.Gzip)
    call = begin(getattr(channel, KINDS[kind])(path), kind, bytes(MEGABYTE // 4))
    stage.note([len(it) for it in await answers(call, kind)], "compressed", relay.up < MEGABYTE // 32)


@story(*KINDS)
async def compression_of_a_call(stage: Stage, kind: str) -> None:
    """A call can compress on a channel that does not, and the other way round."""
    path = stage.serve(kind, echo)
    for of_channel, of_call in ((None, "Deflate"), ("Gzip", "NoCompression")):
        relay = stage.relay()
        compression = of_channel and grpc.Compression[of_channel]
        method = getattr(stage.channel_aio(target=relay.target, compression=compression), KINDS[kind])(path)
        call = begin(method, kind, bytes(MEGABYTE // 4), compression=grpc.Compression[of_call])
        stage.note([len(it) for it in await answers(call, kind)], "compressed", relay.up < MEGABYTE // 32)


# ── Connections ───────────────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS, failures=1)
async def waits_for_a_server(stage: Stage, kind: str) -> None:
    """A call that waits for its server succeeds with one that comes after it began; one that does not has failed."""
    path = stage.serve(kind, echo)
    address = f"unix:{stage.folder / 'late'}"
    method = getattr(stage.channel_aio(("grpc.initial_reconnect_backoff_ms", 100), target=address), KINDS[kind])(path)
    call = begin(method, kind, b"x", wait_for_ready=True)
    await expect_error(stage, begin_open(method, kind), kind, words=False)
    stage.note(call.done())
    stage.listen(address)
    stage.note(await answers(call, kind))


@story(*KINDS)
async def waits_for_its_connection(stage: Stage, kind: str) -> None:
    """`wait_for_connection` returns once the call is on its way, and the call goes on."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.send_initial_metadata(())
        wait(stage.release)
        yield from requests

    if kind == "uu":
        stage.release.set()  # grpcio waits for its answer, too
    call = begin(stage.method_aio(kind, body), kind, b"x")
    stage.note(await call.wait_for_connection(), kind == "uu" or call.done())
    stage.release.set()
    stage.note(await answers(call, kind))


@story(*KINDS, failures=1)
async def waits_for_no_connection(stage: Stage, kind: str) -> None:
    """`wait_for_connection` raises what the call raises when there is no server."""
    path = stage.serve(kind, echo)
    method = getattr(stage.channel_aio(target=f"unix:{stage.folder / 'nobody'}"), KINDS[kind])(path)
    call = begin_open(method, kind)
    try:
        stage.note("unexpected:", await call.wait_for_connection())
    except grpc.RpcError as error:
        stage.note_error(error, words=False)
    await note_end(stage, call, words=False)


@story()
async def watches_its_connection(stage: Stage) -> None:
    """The states of a connection can be watched, from its beginning to the end of its channel."""
    path = stage.serve("uu", echo)
    channel = stage.channel_aio()
    stage.note(channel.get_state())
    while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
        await channel.wait_for_state_change(state)
    await channel.channel_ready()
    stage.note(state, await channel.unary_unary(path)(b"x"))
    await channel.close()
    stage.note(channel.get_state())


@story("uu", "su")
async def channel_closed_in_mid_call(stage: Stage, kind: str) -> None:
    """Closing a channel ends its calls, here and at the server; later ones are refused as grpcio does."""
    path = stage.serve(kind, one_then_hang(stage))
    channel = stage.channel_aio()
    method = getattr(channel, KINDS[kind])(path)
    call = begin(method, kind, b"x")
    await wait_aio(stage.began)
    await channel.close()
    await expect_error(stage, call, kind, words=False)
    await wait_aio(stage.gone)
    await channel.close()


@story(*KINDS, beside="passing", why="behind any interceptor the call is made by a task, and raises when it is awaited")
async def closed_channel(stage: Stage, kind: str) -> None:
    """A call on a closed channel raises what it raises without us."""
    path = stage.serve(kind, echo)
    channel = stage.channel_aio()
    method = getattr(channel, KINDS[kind])(path)
    stage.note(await answers(begin(method, kind, b"x"), kind))
    await channel.close()
    try:
        stage.note("unexpected:", await answers(begin(method, kind, b"x"), kind))
    except Exception as error:
        stage.note_error(error)


@story(*(("uu", "su") if OLD_GRPCIO else KINDS))
async def channel_closed_with_grace(stage: Stage, kind: str) -> None:
    """A channel that is closed with grace lets its calls end; the streams of old versions do not know of it."""
    path = stage.serve(kind, held(stage))
    channel = stage.channel_aio()
    call = begin(getattr(channel, KINDS[kind])(path), kind, b"x")
    answer = begun(answers(call, kind))
    await wait_aio(stage.began)
    closing = begun(channel.close(grace=FAR))
    await asyncio.sleep(0)
    stage.note(closing.done(), call.done())
    stage.release.set()
    stage.note(await answer)
    await closing
    await note_end(stage, call)


@story("uu", "su")
async def channel_as_a_context_manager(stage: Stage, kind: str) -> None:
    """Leaving a channel's block ends what still runs on it."""
    path, hanging = stage.serve(kind, echo), stage.serve(kind, stage.hang)
    async with stage.channel_aio() as channel:
        stage.note(await answers(begin(getattr(channel, KINDS[kind])(path), kind, b"x"), kind))
        call = begin(getattr(channel, KINDS[kind])(hanging), kind, b"y")
        await wait_aio(stage.began)
    await expect_error(stage, call, kind, words=False)
    await wait_aio(stage.gone)


# ── Credentials ───────────────────────────────────────────────────────────────────────────────────────────────────


def secure_method(stage: Stage, kind: str, *of_channel: grpc.CallCredentials) -> Any:
    """A method behind TLS, on a channel that may have credentials for each call."""
    path = stage.serve(kind, authorised(stage))
    target, credentials, options = secure_address(stage)
    if of_channel:
        credentials = grpc.composite_channel_credentials(credentials, *of_channel)
    return getattr(stage.channel_aio(*options, target=target, credentials=credentials), KINDS[kind])(path)


@story(*KINDS, secure=True)
async def call_credentials(stage: Stage, kind: str) -> None:
    """The credentials of a call reach the server, beside those of its channel."""
    of_call = grpc.metadata_call_credentials(Token(), "token")
    stage.note(await answers(begin(secure_method(stage, kind), kind, b"x", credentials=of_call), kind))
    method = secure_method(stage, kind, grpc.access_token_call_credentials("channel"))
    stage.note(await answers(begin(method, kind, b"y"), kind))
    stage.note(await answers(begin(method, kind, b"z", credentials=of_call), kind))


@story(*KINDS, secure=True)
async def call_credentials_that_fail(stage: Stage, kind: str) -> None:
    """A plugin for credentials that fails ends the call as grpcio ends it."""
    method = secure_method(stage, kind)
    for plugin in BAD_TOKENS:
        of_call = grpc.metadata_call_credentials(plugin, "token")
        await expect_error(stage, begin_open(method, kind, credentials=of_call), kind)


@story(*KINDS)
async def call_credentials_without_security(stage: Stage, kind: str) -> None:
    """Credentials of a call on an insecure channel end it as grpcio ends it."""
    method = stage.method_aio(kind, authorised(stage))
    try:
        await expect_error(stage, begin_open(method, kind, credentials=grpc.access_token_call_credentials("t")), kind)
    except Exception as error:
        stage.note_error(error)


# ── Large messages, and flow control ──────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
async def large_messages(stage: Stage, kind: str) -> None:
    """Messages of megabytes pass in both directions, beyond the usual limit where options raise it."""
    path = stage.serve(kind, echo)
    for options, size in (((), 3 * MEGABYTE), ((("grpc.max_receive_message_length", -1),), 5 * MEGABYTE)):
        message = bytes(range(256)) * (size // 256)
        call = begin(getattr(stage.channel_aio(*options), KINDS[kind])(path), kind, message)
        stage.note([it == message for it in await answers(call, kind)])


@story(*KINDS)
async def too_large_an_answer(stage: Stage, kind: str) -> None:
    """An answer above the client's limit is refused by the client."""
    await expect_error(stage, begin_open(stage.method_aio(kind, first_back(kind)), kind, bytes(5 * MEGABYTE)), kind)


@story("uu", "us")
async def too_large_a_request(stage: Stage, kind: str) -> None:
    """A request above the client's limit is refused there."""
    path = stage.serve(kind, echo)
    method = getattr(stage.channel_aio(("grpc.max_send_message_length", 1000)), KINDS[kind])(path)
    await expect_error(stage, begin(method, kind, bytes(1001)), kind)


@story("us", "ss")
async def slow_reader(stage: Stage, kind: str) -> None:
    """A server can send no more than a client that does not read lets it, and all of it once it does."""
    call = begin(stage.method_aio(kind, unhurried(stage, 40)), kind, b"")
    await wait_aio(stage.began)
    stage.note((await read(call))[:1], stage.gone.is_set())
    while (message := await read(call)) is not grpc.aio.EOF:
        stage.note(message[:1], len(message))
    await wait_aio(stage.gone)
    await note_end(stage, call)


@story("us", "ss")
async def reader_that_leaves_much_unread(stage: Stage, kind: str) -> None:
    """A stream that is cancelled with megabytes under way ends."""
    call = begin(stage.method_aio(kind, unhurried(stage, 40)), kind, b"")
    stage.note(len(await read(call)), call.cancel())
    try:
        stage.note("unexpected:", await read(call))
    except asyncio.CancelledError as error:
        stage.note_error(error)
    await note_end(stage, call)


@story("su", "ss")
async def server_that_does_not_read(stage: Stage, kind: str) -> None:
    """A client can write no more than a server that does not read lets it, and all of it once it does."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        stage.began.set()
        wait(stage.release)
        stage.server_note(sum(len(it) for it in requests))
        yield b"enough"

    call = stage.method_aio(kind, body)(timeout=FAR)

    async def write() -> None:
        for number in range(40):
            await call.write(bytes([number]) * MEGABYTE)
        await call.done_writing()

    writing = begun(write())
    await wait_aio(stage.began)
    stage.note("all written", writing.done())
    stage.release.set()
    stage.note(await answers(call, kind))
    await writing
    await note_end(stage, call)


# ── Half-closed streams, and what sends requests ──────────────────────────────────────────────────────────────────


@story("ss")
async def client_is_done_first(stage: Stage, kind: str) -> None:
    """A server goes on after the client has said everything."""

    def body(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        stage.server_note(list(requests))
        yield b"0"
        wait(stage.release)
        yield b"1"

    call = stage.method_aio(kind, body)(timeout=FAR)
    await call.write(b"a")
    await call.write(b"b")
    await call.done_writing()
    stage.note(await read(call), call.done())
    stage.release.set()
    stage.note(await read(call), await read(call) is grpc.aio.EOF)
    await note_end(stage, call)


@story("ss")
async def questions_and_answers(stage: Stage, kind: str) -> None:
    """A client may wait for an answer before it writes on."""
    call = stage.method_aio(kind, echo)(timeout=FAR)
    for question in (b"a", b"b", b"c"):
        await call.write(question)
        stage.note(await read(call))
    await call.done_writing()
    stage.note(await read(call) is grpc.aio.EOF, await call.code())


@story("su", "ss")
async def writing_after_the_end(stage: Stage, kind: str) -> None:
    """Writing to a call that has ended raises InvalidStateError."""
    method = stage.method_aio(kind, lambda requests, context: iter([next(requests)]))
    call = method(timeout=FAR)
    await call.write(b"a")
    await call.done_writing()
    stage.note(await first_answer(call, kind), await call.code())
    try:
        await call.write(b"b")
    except asyncio.InvalidStateError as error:
        stage.note_error(error)


@story("su", "ss")
async def two_styles_in_one_call(stage: Stage, kind: str) -> None:
    """Writing to a call that was given its requests, and reading one that is iterated, are mistakes."""
    call = begin(stage.method_aio(kind, held(stage)), kind, b"x")
    for act in (lambda: call.write(b""), call.done_writing):
        try:
            stage.note("unexpected:", await act())
        except grpc.aio.UsageError as error:
            stage.note_error(error)
    stage.release.set()
    stage.note(await answers(call, kind))


@story("su", "ss")
async def server_is_done_first(stage: Stage, kind: str) -> None:
    """A server may end a call whose client still has something to say."""
    more = asyncio.Event()

    async def requests() -> AsyncIterator[bytes]:
        yield b"a"
        await more.wait()
        yield b"b"

    call = stage.method_aio(kind, lambda requests, context: iter([next(requests)]))(requests(), timeout=FAR)
    stage.note(await answers(call, kind))
    more.set()
    await note_end(stage, call)


@story("su", "ss")
async def requests_of_every_sort(stage: Stage, kind: str) -> None:
    """Requests may come from a list, a generator and an asynchronous generator, which is run to its end."""
    ended = asyncio.Event()

    async def requests() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            ended.set()

    method = stage.method_aio(kind, lambda requests, context: iter([b"".join(requests)]))
    for source in ([b"a", b"b"], iter([b"a", b"b"]), (it for it in (b"a", b"b")), requests(), []):
        stage.note(await answers(method(source, timeout=FAR), kind))
    stage.note(ended.is_set())


@story("su", "ss")
async def requests_that_raise(stage: Stage, kind: str) -> None:
    """An asynchronous generator of requests that raises midway ends the call as grpcio ends it, and is closed."""
    closed = asyncio.Event()

    async def requests() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            await wait_aio(stage.began)
            raise ValueError("a bug of the client")
        finally:
            closed.set()

    await expect_error(stage, stage.method_aio(kind, stage.hang)(requests(), timeout=FAR), kind)
    await closed.wait()
    await wait_aio(stage.gone)


# ── Callbacks ─────────────────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
async def callbacks_in_their_order(stage: Stage, kind: str) -> None:
    """Callbacks come once each, in the order they were added, with the call the application has; late ones at once."""
    called_with: asyncio.Queue[Any] = asyncio.Queue()
    call = begin(stage.method_aio(kind, held(stage)), kind, b"x")
    for number in range(2):
        call.add_done_callback(lambda ended, n=number: called_with.put_nowait((n, ended is call, ended.done())))
    await wait_aio(stage.began)
    for number in range(2, 4):
        call.add_done_callback(lambda ended, n=number: called_with.put_nowait((n, ended.done(), ended.cancelled())))
    stage.release.set()
    stage.note(await answers(call, kind), await call.code())
    stage.note([await called_with.get() for _ in range(4)])
    call.add_done_callback(lambda ended: called_with.put_nowait(("late", ended is call)))
    stage.note(called_with.qsize(), [called_with.get_nowait() for _ in range(called_with.qsize())])


@story(*KINDS)
async def callbacks_of_a_cancelled_call(stage: Stage, kind: str) -> None:
    """Callbacks of a cancelled call see that it was."""
    called_with: asyncio.Queue[Any] = asyncio.Queue()
    call = begin(stage.method_aio(kind, stage.hang), kind, b"x")
    call.add_done_callback(lambda ended: called_with.put_nowait((ended is call, ended.cancelled(), ended.done())))
    await wait_aio(stage.began)
    stage.note(call.cancel(), await called_with.get())
    await wait_aio(stage.gone)
    await expect_error(stage, call, kind)


@story("us", "ss")  # a unary call differs, see test_aio_unary.py
async def callback_that_raises(stage: Stage, kind: str) -> None:
    """A callback that raises does to the call and to the callbacks after it what it does without us."""
    called_with: list[str] = []

    def bug(ended: Any) -> None:
        called_with.append("bug")
        raise ValueError("a bug of the client")

    def reported(loop: Any, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), ValueError):  # grpcio reports what it finds of loops that are gone, too
            called_with.append(repr(context["exception"]))

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(reported)
    method = stage.method_aio(kind, held(stage))
    call = begin(method, kind, b"x")
    await wait_aio(stage.began)
    call.add_done_callback(lambda ended: called_with.append("before"))
    call.add_done_callback(bug)
    call.add_done_callback(lambda ended: called_with.append("after"))
    stage.release.set()
    try:
        stage.note(await asyncio.wait_for(answers(call, kind), PATIENCE), await call.code())
    except ValueError as error:
        stage.note_error(error)
    stage.note(await answers(begin(method, kind, b"y"), kind), called_with)
    loop.set_exception_handler(None)


# ── Cancelling ────────────────────────────────────────────────────────────────────────────────────────────────────


@story("us", "su", "ss")  # a unary call differs, see test_aio_unary.py
async def cancelled_twice(stage: Stage, kind: str) -> None:
    """Cancelling a call again changes nothing."""
    call = begin(stage.method_aio(kind, stage.hang), kind, b"x")
    await wait_aio(stage.began)
    stage.note(call.cancel(), call.cancel())
    await expect_error(stage, call, kind)
    stage.note(call.cancel())
    await wait_aio(stage.gone)


@story(*KINDS)
async def cancelled_after_its_end(stage: Stage, kind: str) -> None:
    """Cancelling a call that has ended changes nothing."""
    call = begin(stage.method_aio(kind, echo), kind, b"x")
    stage.note(await answers(call, kind), await call.code(), call.cancel())
    await note_end(stage, call)


@story(*KINDS, beside="passing", why="behind any interceptor a call that is cancelled at once was never begun")
async def cancelled_before_it_is_sent(stage: Stage, kind: str) -> None:
    """A call can be cancelled before it begins."""
    call = begin(stage.method_aio(kind, echo), kind, b"x")
    stage.note(call.cancel())
    try:
        await expect_error(stage, call, kind)
    except Exception as error:
        stage.note_error(error)


async def cancel_while(stage: Stage, call: Any, waiting: Coroutine[Any, Any, Any]) -> None:
    """Cancel a task that waits for something of a call which the server is at; note what it sees."""
    task = begun(waiting)
    await wait_aio(stage.began)
    stage.note(task.cancel())
    try:
        stage.note("unexpected:", await task)
    except asyncio.CancelledError as error:
        stage.note_error(error)
    stage.note(task.cancelled())
    await wait_aio(stage.gone)
    await note_end(stage, call)


@story(*KINDS)
async def task_cancelled_while_it_waits_for_an_answer(stage: Stage, kind: str) -> None:
    """Cancelling a task that waits for an answer cancels its call at the server."""
    call = begin(stage.method_aio(kind, stage.hang), kind, b"x")
    await cancel_while(stage, call, answers(call, kind))


@story("us", "ss")
async def task_cancelled_while_it_reads(stage: Stage, kind: str) -> None:
    """The same while it reads."""
    call = begin(stage.method_aio(kind, stage.hang), kind, b"x")
    await cancel_while(stage, call, call.read())


@story(*KINDS)
async def task_cancelled_by_a_timeout_of_its_own(stage: Stage, kind: str) -> None:
    """A wait with a timeout of asyncio's own cancels the call at the server."""
    call = begin(stage.method_aio(kind, stage.hang), kind, b"x")
    await wait_aio(stage.began)
    try:
        await asyncio.wait_for(answers(call, kind), 0.01)
    except TimeoutError as error:
        stage.note_error(error)
    await wait_aio(stage.gone)
    await note_end(stage, call)


@story(
    "su", "ss", beside="passing", why="behind any interceptor a write goes to a queue, and cancelling it ends no call"
)
async def task_cancelled_while_it_writes(stage: Stage, kind: str) -> None:
    """Cancelling a task that writes to a server that does not read leaves the call as without us."""
    call = stage.method_aio(kind, stage.hang)(timeout=FAR)

    async def write() -> None:
        while True:
            await call.write(bytes(MEGABYTE))

    task = begun(write())
    await wait_aio(stage.began)
    stage.note(task.done(), task.cancel())
    try:
        await task
    except asyncio.CancelledError as error:
        stage.note_error(error)
    stage.note(call.cancel())
    await wait_aio(stage.gone)
    stage.note(await call.code())


@story(  # a unary call differs, see test_aio_unary.py
    "us",
    "su",
    "ss",
    beside="passing",
    why="behind any interceptor the headers are asked of the task that makes the call",
)
async def task_cancelled_while_it_waits_for_headers(stage: Stage, kind: str) -> None:
    """Cancelling a task that waits for headers does to the call what it does without us."""
    call = begin(stage.method_aio(kind, stage.hang), kind, b"x")
    await wait_aio(stage.began)
    task = begun(call.initial_metadata())
    await asyncio.sleep(0)
    task.cancel()
    try:
        stage.note(await task)
    except asyncio.CancelledError as error:
        stage.note_error(error)
    stage.note(call.cancel())
    await wait_aio(stage.gone)
    await expect_error(stage, call, kind)


@story(*KINDS)
async def task_cancelled_before_its_first_step(stage: Stage, kind: str) -> None:
    """A task that is cancelled before it calls never calls."""
    method = stage.method_aio(kind, echo)

    async def call() -> list[Any]:
        return await answers(begin(method, kind, b"x"), kind)

    task = begun(call())
    task.cancel()
    try:
        await task
    except asyncio.CancelledError as error:
        stage.note_error(error)
    stage.note(await call())


# ── Generated stubs ───────────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
async def generated_stub(stage: Stage, kind: str) -> None:
    """Messages are serialised and deserialised."""
    method = stage.method_aio(kind, echo, request_serializer=to_json, response_deserializer=json.loads)
    stage.note(await answers(begin(method, kind, {"price": 5}), kind))


@story(*KINDS)
async def answer_that_cannot_be_read(stage: Stage, kind: str) -> None:
    """An answer that does not deserialise is None, with the status OK, to grpcio and so to us."""

    def deserializer(message: bytes) -> None:
        raise ValueError("what is this")

    call = begin(stage.method_aio(kind, echo, response_deserializer=deserializer), kind, b"x")
    try:
        await expect_error(stage, call, kind)
    except Exception as error:
        stage.note_error(error)


@story("uu", "us", beside="passing", why="behind any interceptor the call is made by a task, and raises when awaited")
async def request_that_cannot_be_written(stage: Stage, kind: str) -> None:
    """A request that does not serialise raises where grpcio raises it."""
    method = stage.method_aio(kind, echo, request_serializer=to_json)
    try:
        stage.note("unexpected:", await answers(begin(method, kind, object()), kind))
    except Exception as error:
        stage.note_error(error)


# ── What servers say ──────────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
async def method_that_is_not_there(stage: Stage, kind: str) -> None:
    """A method that the server does not have is UNIMPLEMENTED."""
    stage.serve(kind, echo)
    method = getattr(stage.channel_aio(), KINDS[kind])("/transparency.v1.Story/Nowhere")
    await expect_error(stage, begin_open(method, kind), kind)


@story(*KINDS, failures=1)
async def server_that_raises(stage: Stage, kind: str) -> None:
    """A bug of the server is UNKNOWN, with its words."""
    await expect_error(stage, begin_open(stage.method_aio(kind, raises), kind, b"x"), kind)


@story(*KINDS)
async def words_beyond_ascii(stage: Stage, kind: str) -> None:
    """Details in any language, and a rich status, arrive."""
    rich = (("grpc-status-details-bin", STATUS_BYTES), ("server", "echo"))
    method = stage.method_aio(kind, aborts("FAILED_PRECONDITION", "Grüße, 世界 %41 \n☃", rich, answers=1))
    await expect_error(stage, begin_open(method, kind, b"x"), kind)


@story(*KINDS)
async def statuses_of_every_kind(stage: Stage, kind: str) -> None:
    """Every status that says nothing against the server passes."""
    paths = [stage.serve(kind, aborts(name, f"words of {name}")) for name in NOT_THE_SERVERS_FAULT]
    channel = stage.channel_aio()
    for path in paths:
        await expect_error(stage, begin_open(getattr(channel, KINDS[kind])(path), kind, b"x"), kind)


# ── Retries of the channel ────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
async def channel_that_retries(stage: Stage, kind: str) -> None:
    """What a channel retries by its service config is one call that succeeds."""
    options = (("grpc.service_config", RETRIES), ("grpc.enable_retries", 1))
    call = begin(stage.method_aio(kind, fails_first(stage, 2), *options), kind, b"x")
    stage.note(await answers(call, kind))
    await note_end(stage, call)


@story(*KINDS, failures=1)
async def channel_that_retries_in_vain(stage: Stage, kind: str) -> None:
    """What a channel retries in vain is one call that fails."""
    options = (("grpc.service_config", RETRIES), ("grpc.enable_retries", 1))
    await expect_error(stage, begin_open(stage.method_aio(kind, fails_first(stage, 9), *options), kind, b"x"), kind)


# ── Memory ────────────────────────────────────────────────────────────────────────────────────────────────────────


@story(*KINDS)
async def call_object_dies_after_use(stage: Stage, kind: str) -> None:
    """A call that has ended and that nobody holds is freed."""
    method = stage.method_aio(kind, echo)
    dead: SimpleQueue[Any] = SimpleQueue()

    async def use() -> None:
        call = begin(method, kind, b"x")
        watched.append(weakref.ref(call, dead.put))
        stage.note(await answers(call, kind))

    watched: list[Any] = []
    await use()
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.to_thread(await_dead, dead)


@story(*KINDS)
async def calls_leave_nothing_behind(stage: Stage, kind: str) -> None:
    """Many calls leave no more objects and no more tasks behind than few."""
    method = stage.method_aio(kind, echo)
    ill = getattr(stage.channel_aio(), KINDS[kind])(stage.serve(kind, aborts("NOT_FOUND", "none such")))

    async def use(calls: int) -> int:
        for _ in range(calls):
            assert await answers(begin(method, kind, b"x"), kind) == [b"x"]
            with suppress(grpc.RpcError):
                await answers(begin(ill, kind, b"x"), kind)
        for _ in range(20):
            await asyncio.sleep(0)
        gc.collect()
        objects = sum(str(type(it).__module__).startswith("grpc") for it in gc.get_objects())
        return objects + len(asyncio.all_tasks())

    few = await use(3)
    stage.note("one for each call", await use(60) - few > 57)  # what else the process does breathes by some twenty


@story(*KINDS, ends_with_its_channel=True)
async def dropped_call_ends_with_its_channel(stage: Stage, kind: str) -> None:
    """A running call that nobody holds ends with its channel at the latest (grpc #43462)."""
    path = stage.serve(kind, one_then_hang(stage))
    channel = stage.channel_aio()
    call = begin(getattr(channel, KINDS[kind])(path), kind, b"x")
    if kind.endswith("s"):
        stage.note(await read(call))
    await wait_aio(stage.began)
    stage.note(call.done())
    del call
    gc.collect()
    await channel.close()
    await wait_aio(stage.gone)


# ── Many at once ──────────────────────────────────────────────────────────────────────────────────────────────────


@story()
async def two_thousand_calls_at_once(stage: Stage) -> None:
    """Two thousand calls and a hundred streams at once on one channel each get their own answer."""
    unary, stream = stage.serve("uu", echo), stage.serve("ss", echo)
    channel = stage.channel_aio()
    method, streams = channel.unary_unary(unary), channel.stream_stream(stream)
    calls = [method(b"%d" % number, timeout=FAR) for number in range(2000)]
    running = [begun(answers(begin(streams, "ss", b"a", b"%d" % number), "ss")) for number in range(100)]
    stage.note(await asyncio.gather(*calls) == [b"%d" % number for number in range(2000)])
    stage.note(await asyncio.gather(*running) == [[b"a", b"%d" % number] for number in range(100)])


async def early_answers(stage: Stage) -> None:
    """Two hundred uploads that the server declines at once. What they show is a matter of chance, and not compared."""
    path = stage.serve("su", lambda requests, context: context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you"))
    method = stage.channel_aio().stream_unary(path)
    for _ in range(10):
        calls = [method(iter([b"x"] * 5), timeout=FAR) for _ in range(20)]
        await asyncio.gather(*calls, return_exceptions=True)
