"""A real gRPC server that does what the request says, in this process or in one that can be killed.

Requests are words: "ok", "error UNAVAILABLE words", "hang", "headers", "messages 3", "messages 2 error INTERNAL words",
"messages 1 hang". Client-streaming methods obey their first request. No generated code: bytes in, bytes out.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

SERVICE = "test.v1.Echo"
UNARY_UNARY = f"/{SERVICE}/UnaryUnary"
UNARY_STREAM = f"/{SERVICE}/UnaryStream"
STREAM_UNARY = f"/{SERVICE}/StreamUnary"
STREAM_STREAM = f"/{SERVICE}/StreamStream"
PATIENCE = 20.0
"""Seconds after which a test has failed: nothing waits this long unless it is broken."""


class Echo(grpc.GenericRpcHandler):
    """Obeys its requests, and says when a call began and when it was ended by the client."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.cancelled = threading.Semaphore(0)
        self.release = threading.Event()
        self.calls = 0

    def service(self, handler_call_details: Any) -> Any:
        return {
            UNARY_UNARY: grpc.unary_unary_rpc_method_handler(self.unary),
            UNARY_STREAM: grpc.unary_stream_rpc_method_handler(self.stream),
            STREAM_UNARY: grpc.stream_unary_rpc_method_handler(lambda it, context: self.unary(next(it), context)),
            STREAM_STREAM: grpc.stream_stream_rpc_method_handler(lambda it, context: self.stream(next(it), context)),
        }.get(handler_call_details.method)

    def unary(self, request: bytes, context: Any) -> bytes:
        for _ in self.stream(request, context):
            pass
        return b"answer"

    def stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        over, finished = threading.Event(), threading.Event()

        def ended() -> None:
            """Told by the call itself: a generator whose call has been cancelled is not always resumed."""
            over.set()
            if not finished.is_set():
                self.cancelled.release()

        context.add_callback(ended)
        self.calls += 1
        self.began.release()
        words = request.decode().split()
        while words:
            match words.pop(0):
                case "headers":
                    context.send_initial_metadata([("server", "echo")])
                case "messages":
                    for n in range(int(words.pop(0))):
                        yield b"%d" % n
                case "error":
                    finished.set()
                    context.abort(grpc.StatusCode[words.pop(0)], " ".join(words))
                case "raise":
                    finished.set()
                    raise ValueError("a bug of the server")
                case "hang":
                    over.wait(PATIENCE)
                case "held":
                    self.release.wait(PATIENCE)
                case _:
                    pass
        finished.set()


class Server:
    """The server in this process."""

    def __init__(self, port: int = 0) -> None:
        self.echo = Echo()
        self._server = grpc.server(futures.ThreadPoolExecutor(32), [self.echo], options=[("grpc.so_reuseport", 0)])
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.target = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self) -> None:
        self.echo.release.set()
        self._server.stop(0).wait(PATIENCE)


class Process:
    """The server in a process of its own, to be killed, stopped and continued."""

    def __init__(self, port: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.echo", str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.target = f"127.0.0.1:{self.port}"

    def pause(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # the signal alone leaves time for another answer

    def resume(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()


if __name__ == "__main__":
    running = Server(int(sys.argv[1]))  # held: a server that nobody holds stops
    print(running.port, flush=True)
    threading.Event().wait()
