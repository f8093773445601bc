"""What the clients of a play call: server processes, nginx as a gRPC proxy, a load balancer that only knows TCP.

All of it on loopback, and all of it ended by `close()`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.server import PATIENCE

NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
"""Where nginx is; `None` where it is not installed."""

STATUSES = (401, 403, 404, 502, 503, 504)
"""What nginx can be made to say instead of asking the server behind it."""


class Nginx:
    """nginx in front of one server: it passes each call on, unless `say()` gave it a status to reply with."""

    def __init__(self, upstream: str, *, http: str = "") -> None:
        """Start it; `http` is more of its configuration, `keepalive_requests 10;`."""
        assert NGINX is not None, "nginx is not installed"
        self._folder = Path(tempfile.mkdtemp(prefix="nginx-"))
        self._http = http
        self._upstream = upstream
        for _ in range(5):  # another process may take the free port first
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            if self._start(port):
                return
        self.close()
        message = f"nginx did not start: {(self._folder / 'error.log').read_text()}"
        raise AssertionError(message)

    def _start(self, port: int) -> bool:
        self.target = f"127.0.0.1:{port}"
        configuration = self._folder / "nginx.conf"
        configuration.write_text(self._configuration(port))
        self._process = subprocess.Popen(
            [NGINX or "nginx", "-c", configuration, "-p", self._folder, "-e", self._folder / "error.log"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < end:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE):
                return True
            time.sleep(0.02)
        return False

    def _configuration(self, port: int) -> str:
        folder = self._folder
        instead = "\n".join(f"if (-f {folder}/say-{it}) {{ return {it}; }}" for it in STATUSES)
        scratch = "\n".join(
            f"{it}_temp_path {folder}/{it};" for it in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return f"""
            daemon off;
            master_process off;
            pid {folder}/pid;
            error_log {folder}/error.log;
            events {{ worker_connections 1024; }}
            http {{
                access_log off;
                {scratch}
                {self._http}
                server {{
                    listen 127.0.0.1:{port} http2;
                    location / {{
                        {instead}
                        grpc_pass grpc://{self._upstream};
                    }}
                }}
            }}
        """

    def say(self, status: int | None) -> None:
        """Reply to each call with this HTTP status from now on; `None`: ask the server again."""
        for it in STATUSES:
            (self._folder / f"say-{it}").unlink(missing_ok=True)
        if status is not None:
            assert status in STATUSES
            (self._folder / f"say-{status}").touch()

    def close(self) -> None:
        """End it, and remove what it wrote."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(PATIENCE)
        shutil.rmtree(self._folder, ignore_errors=True)


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(4 * PATIENCE)

    def close(self) -> None:
        """Cancel what still runs there, and end the loop."""
        self.run(self._cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class LoadBalancer:
    """A load balancer that knows TCP only: it passes bytes on, cuts connections, and may have an idle time-out."""

    def __init__(self, upstream: str, *, idle: float | None = None) -> None:
        """Start it; a connection that was silent in both directions for `idle` seconds is reset."""
        self._host, _, self._port = upstream.rpartition(":")
        self._idle = idle
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = Loop()
        self._server = self._loop.run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = {writer}
        self._writers.add(writer)
        try:
            upstream = await asyncio.open_connection(self._host, int(self._port))
            writers.add(upstream[1])
            self._writers.add(upstream[1])
            async with asyncio.timeout(self._idle) as silence, asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, upstream[1], silence))
                group.create_task(self._pass_on(upstream[0], writer, silence))
        except (OSError, TimeoutError, BaseExceptionGroup):
            pass  # refused, silent for too long, or one side is gone: the other one is reset
        finally:
            for it in writers:
                self._writers.discard(it)
                _reset(it)

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, silence: asyncio.Timeout
    ) -> None:
        while chunk := await source.read(65536):
            if self._idle is not None:
                silence.reschedule(asyncio.get_running_loop().time() + self._idle)
            sink.write(chunk)
            await sink.drain()
        raise ConnectionResetError

    def cut(self) -> None:
        """Reset every connection; new ones are passed on as before."""
        self._loop.run(self._cut())

    async def _cut(self) -> None:
        for it in tuple(self._writers):
            _reset(it)

    def close(self) -> None:
        """End it."""
        self._loop.loop.call_soon_threadsafe(self._server.close)
        self.cut()
        self._loop.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection by RST instead of FIN."""
    with suppress(OSError, AttributeError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
