"""A real gRPC server on loopback that does what each call asks, and says what became of each call.

A call carries a *script*: steps separated by semicolons, in its metadata under `script`, or else as its (first) request.

    ok                          nothing: a unary answer is b"answer", a stream ends
    headers                     send the response headers now
    messages 3                  send b"0", b"1", b"2"; as a unary call, nothing
    endless                     send messages until the client is gone
    held                        wait until `journal.release` is set
    wait 0.2                    wait so many seconds, or until the client is gone
    hang                        wait until the client is gone
    error UNAVAILABLE ill       end with this status, these details, and the trailing metadata `server: echo`
    raise                       end by an unhandled exception

The last part of a method's name decides what it is; any service will do.

A call that carries the metadata `call-key` is entered in the journal under it: `journal[key].began`, `.cancelled` and
`.over` are events to wait on, so that no test has to guess when the server has seen something.

`Server` runs in this process. `ServerProcess` runs in its own, to be killed, stopped, continued, drained and started again
on its port; it keeps the same journal, sent through a pipe. No generated code: bytes in, bytes out.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

SERVICE = "test.v1.Echo"
METHODS = {
    "uu": f"/{SERVICE}/UnaryUnary",
    "us": f"/{SERVICE}/UnaryStream",
    "su": f"/{SERVICE}/StreamUnary",
    "ss": f"/{SERVICE}/StreamStream",
}
UNARY_UNARY, UNARY_STREAM, STREAM_UNARY, STREAM_STREAM = METHODS.values()
PATIENCE = 15.0
"""Seconds after which a wait has failed: nothing takes this long unless it is broken."""
FAR = 20 * PATIENCE
"""Seconds until the deadline of calls that something else is to end: far beyond every wait, so that no deadline can be
mistaken for what a test waits for."""


class Entry:
    """What the server saw of one call."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.cancelled = threading.Event()
        """The client was gone before the script was done."""
        self.over = threading.Event()


class Journal:
    """What the server saw, by call."""

    def __init__(self, report: Callable[[str], None] | None = None) -> None:
        self.release = threading.Event()
        """Ends the step `held` of every call."""
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()
        self._report = report

    def __getitem__(self, key: str) -> Entry:
        with self._lock:
            return self._entries.setdefault(key, Entry())

    def began(self) -> int:
        """How many of the calls with a key have begun."""
        with self._lock:
            return sum(entry.began.is_set() for entry in self._entries.values())

    def note(self, key: str, what: str) -> None:
        """Enter that something happened to a call: began, cancelled or over."""
        if self._report is not None and key:
            self._report(f"{what} {key}")
        getattr(self[key], what).set()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, journal: Journal, script: str = "") -> None:
        self._journal = journal
        self._script = script

    def service(self, handler_call_details: Any) -> Any:
        return {
            METHODS["uu"]: grpc.unary_unary_rpc_method_handler(self._unary),
            METHODS["us"]: grpc.unary_stream_rpc_method_handler(self._stream),
            METHODS["su"]: grpc.stream_unary_rpc_method_handler(
                lambda requests, context: self._unary(next(requests), context)
            ),
            METHODS["ss"]: grpc.stream_stream_rpc_method_handler(
                lambda requests, context: self._stream(next(requests), context)
            ),
        }.get(f"/{SERVICE}/{handler_call_details.method.rpartition('/')[2]}")

    def _unary(self, request: bytes, context: Any) -> bytes:
        for _ in self._stream(request, context):
            pass
        return b"answer"

    def _stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        metadata = dict(context.invocation_metadata())
        key = metadata.get("call-key", "")
        gone = threading.Event()
        done = threading.Event()

        def ended() -> None:
            if not done.is_set():
                self._journal.note(key, "cancelled")
            self._journal.note(key, "over")
            gone.set()

        if not context.add_callback(ended):
            ended()
        self._journal.note(key, "began")
        for step in (self._script or metadata.get("script") or request.decode()).split(";"):
            match step.split():
                case ["ok"]:
                    pass
                case ["headers"]:
                    context.send_initial_metadata([("server", "echo")])
                case ["messages", number]:
                    for n in range(int(number)):
                        yield b"%d" % n
                case ["endless"]:
                    while context.is_active():
                        yield b"more"
                case ["held"]:
                    self._journal.release.wait(PATIENCE)
                case ["wait", seconds]:
                    gone.wait(float(seconds))
                case ["hang"]:
                    gone.wait(2 * FAR)
                case ["error", code, *words]:
                    done.set()
                    context.set_trailing_metadata([("server", "echo")])
                    context.abort(grpc.StatusCode[code], " ".join(words))
                case ["raise"]:
                    done.set()
                    raise RuntimeError("a bug of the server")
                case _:
                    done.set()
                    context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no such step: {step}")
        done.set()


class Server:
    """The server in this process."""

    def __init__(
        self,
        port: int = 0,
        report: Callable[[str], None] | None = None,
        threads: int = 64,
        options: Sequence[tuple[str, int]] = (),
        script: str = "",
    ) -> None:
        """Start it; every call runs `script` where one is given, whatever the call's own says."""
        self.journal = Journal(report)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(threads),
            [_Handler(self.journal, script)],
            options=[("grpc.so_reuseport", 0), *options],
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.target = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self, grace: float = 0.0) -> None:
        """Stop; running calls have `grace` seconds to end."""
        self.journal.release.set()
        self._server.stop(grace).wait(PATIENCE + grace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class ServerProcess:
    """The server in a process of its own. Making one does not wait for it; asking for its port does."""

    module = "tests.support.server"
    """What the process runs; it calls `serve`."""

    def __init__(self, **settings: Any) -> None:
        """Start it; `settings` are those of `Server` that JSON can carry: threads, options, script."""
        self.journal = Journal()
        self._settings = json.dumps(settings)
        self._start(0)

    def _start(self, port: int) -> None:
        self._listening = threading.Event()
        self._port = port
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module, str(port), self._settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process, self._listening), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[str], listening: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                what, _, key = line.rstrip("\n").partition(" ")
                if what == "port":
                    self._port = int(key)
                    listening.set()
                else:
                    self.journal.note(key, what)

    @property
    def port(self) -> int:
        assert self._listening.wait(PATIENCE), "the server process did not start"
        return self._port

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def pause(self) -> None:
        """SIGSTOP, and wait until it has stopped: the signal alone leaves its threads time for another answer."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def drain(self, seconds: float) -> None:
        """End as a service does that is replaced: GOAWAY, no new calls, and `seconds` for those that are running."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.close()
        self._process.wait(PATIENCE + seconds)
        self._reader.join(PATIENCE)

    def kill(self) -> None:
        """SIGKILL; a stopped one dies, too, and one that is dead stays so."""
        self._process.kill()
        self._process.wait(PATIENCE)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join(PATIENCE)

    def restart(self) -> None:
        """Start again on the same port, after `kill()` or `drain()`."""
        self._start(self.port)
        assert self._listening.wait(PATIENCE), "the server process did not start again"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def serve(make: Callable[..., Any]) -> None:
    """Be a server process: make the server, say its port, and stop it when the parent says so or is gone."""
    pen = threading.Lock()

    def say(line: str) -> None:
        with pen:
            print(line, flush=True)

    running = make(int(sys.argv[1]), say, **json.loads(sys.argv[2]))  # held: a server that nobody holds stops
    say(f"port {running.port}")
    running.stop(float(sys.stdin.readline() or 0))  # nothing is read where the parent process is gone


if __name__ == "__main__":
    serve(Server)
