"""A server of its own for the breakers of a process, on a unix socket: for processes that have none."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from grpc_breaker._core.log import warn
from grpc_breaker._registry import BreakerRegistry
from grpc_breaker.admin import _sockets
from grpc_breaker.admin._adding import MAX_WATCHERS, THREADS, add_service
from grpc_breaker.admin._service import AdminService
from grpc_breaker.admin._threads import DaemonPool


class AdminServer:
    """A server of breakers on a unix socket. It runs until `stop`, or its process ends; also a context manager."""

    __module__ = "grpc_breaker.admin"

    def __init__(self, server: grpc.Server, path: Path) -> None:
        """Take over a server that listens and is published at `path`."""
        self._path = path
        self._server = server
        self._pid = os.getpid()
        self._inode = path.stat().st_ino

    @property
    def path(self) -> Path:
        """The socket."""
        return self._path

    def stop(self) -> None:
        """End it, and remove the socket. Does nothing where it has ended, and in a forked child, which has none."""
        with _changing:
            if self._pid == os.getpid() and _running.pop(self.path, None) is not None:
                with contextlib.suppress(OSError):  # the folder is gone, or the socket
                    if self.path.stat().st_ino == self._inode:
                        self.path.unlink()
                self._server.stop(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<AdminServer {os.fspath(self.path)!r}>"


def serve_admin(
    breakers: BreakerRegistry,
    *,
    allow_changes: bool = False,
    hide_details: bool = False,
    directory: str | PathLike[str] | None = None,
    max_watchers: int = MAX_WATCHERS,
) -> AdminServer:
    """Serve the breakers of this process on a unix socket, where `grpc-breaker` finds them.

    The socket is `<pid>.sock` in a directory that only the user of the process may enter. It belongs to this process:
    a child that it forks has breakers of its own and no server, so call this after the fork, in each child.

    Args:
        breakers: The registry.
        allow_changes: Whether operators may hold and reset breakers. Default: they may only look.
        hide_details: Whether the details of failures are left out. Default: they are shown.
        directory: Where the socket is made. Default: `grpc_breaker` in `$XDG_RUNTIME_DIR` or, without that variable,
            `grpc_breaker-<uid>` in the temp folder, the places where the command looks.
        max_watchers: How many may watch at once. Default 16.

    Returns:
        The server, which need not be kept.

    Raises:
        OSError: The socket cannot be made; `PermissionError` where the directory belongs to others or is open to them,
            `FileExistsError` where a process in another container has the socket.
        RuntimeError: This process serves its breakers there already.
        TypeError: An argument of the wrong kind.
        ValueError: `max_watchers` is below 0, or the path too long for a unix socket.
    """
    service = AdminService(breakers, allow_changes=allow_changes, hide_details=hide_details, max_watchers=max_watchers)
    folder = _sockets.folders()[0] if directory is None else Path(directory).absolute()
    listening, path = _sockets.paths_of(folder, os.getpid())
    with _changing:
        if path in _running:
            message = f"this process serves breakers at {path} already; stop that first, or give another directory"
            raise RuntimeError(message)
        _sockets.prepare(folder)
        server = grpc.server(DaemonPool(THREADS))
        add_service(server, service)
        with _sockets.claimed(path):
            try:
                server.add_insecure_port(_sockets.address_of(listening))
            except RuntimeError as error:
                message = f"cannot listen at {path}: {error}"
                raise OSError(message) from None
            server.start()
            try:
                listening.rename(path)
            except OSError:
                server.stop(None)
                raise
        _running[path] = running = AdminServer(server, path)
    return running


_changing = threading.RLock()  # a signal handler may stop a server, whatever it interrupts
_running: dict[Path, AdminServer] = {}
"""The servers of this process; held here, because grpcio stops a server that nobody holds."""


@atexit.register
def _stop_all() -> None:  # pragma: no cover - runs when the process ends
    for server in list(_running.values()):
        server.stop()


def _after_fork_in_child() -> None:  # pragma: no cover - runs in forked children, where coverage does not follow
    global _changing  # noqa: PLW0603 - another thread may have held it when the process forked
    _changing = threading.RLock()
    for server in list(_running.values()):
        _inherited.append(server)  # to stop it would be to stop the parent's
        warn(
            "process %d was forked from one that serves its breakers at %s; its own are not served: "
            "call serve_admin after the fork",
            os.getpid(),
            server.path,
        )
    _running.clear()


_inherited: list[AdminServer] = []

if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
