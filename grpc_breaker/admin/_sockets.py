"""The unix sockets by which a user's processes on one host can be asked: where they are, and which are dead.

Each process has one, `<pid>.sock`, in a folder that belongs to its user alone: `$XDG_RUNTIME_DIR/grpc_breaker`, or
`grpc_breaker-<uid>` in the temp folder. Anyone can foresee that name and be there first, so a folder is used only if it
is a real one, ours, and closed to others.

A server listens under another name, `<pid>.new`, and its socket is renamed then, so that grpcio, which unlinks the path
of a server that stops, never unlinks another one's. Until then the process locks the folder. That keeps out those who
sweep, for whom a socket that refuses a connection is that of a process that is gone; and a process of another container
that shares the folder and has the same id, because grpcio would give the path to whichever comes last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final
from urllib.parse import quote

_LONGEST: Final = 107 if sys.platform == "linux" else 103
"""Bytes that the path of a unix socket may have."""

_NAME: Final = re.compile(r"\d+\.(sock|new)")
_LOCK: Final = ".lock"
_LOCKED_FOR: Final = 5.0
"""Seconds to wait for the lock, which is held for some milliseconds."""


def folders() -> list[Path]:
    """The folders where a user's processes have their sockets, the one for new ones first.

    A service may have been started without `$XDG_RUNTIME_DIR`, so both places are looked at. A relative one is
    ignored, as its standard says.
    """
    if not hasattr(socket, "AF_UNIX"):  # pragma: no cover - Windows
        return []
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    ours = Path(tempfile.gettempdir(), f"grpc_breaker-{os.getuid()}")
    return [Path(runtime, "grpc_breaker"), ours] if runtime and Path(runtime).is_absolute() else [ours]


def address_of(path: Path) -> str:
    """The address of a socket as gRPC wants it."""
    return "unix:" + quote(os.fsencode(path))


def prepare(folder: Path) -> None:
    """Make a folder for sockets, or see to it that the one there is may be used.

    Raises:
        OSError: It cannot be made.
        PermissionError: It is not ours, open to others, or no folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    wrong = _wrong_with(folder)
    if wrong:
        message = f"{folder} cannot hold sockets: {wrong}; remove it, or give another directory"
        raise PermissionError(message)


def _wrong_with(folder: Path) -> str:
    """Why a folder must not be trusted; empty for one that may be."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return "it is no directory, or a link to one"
    if found.st_uid != os.getuid():
        return f"it belongs to user {found.st_uid}"
    open_to_others = stat.S_IMODE(found.st_mode) & 0o077
    return f"its mode is {stat.S_IMODE(found.st_mode):o}, and must be 700" if open_to_others else ""


def paths_of(folder: Path, pid: int) -> tuple[Path, Path]:
    """Where the server of a process is to listen first, and the path that it gets then.

    Raises:
        ValueError: The path is too long for a unix socket.
    """
    path = folder / f"{pid}.sock"
    length = len(os.fsencode(path))
    if length > _LONGEST:
        message = (
            f"the path of a unix socket has at most {_LONGEST} bytes, and {path} has {length}: give a shorter directory"
        )
        raise ValueError(message)
    return path.with_suffix(".new"), path


@contextlib.contextmanager
def claimed(path: Path) -> Generator[None, None, None]:
    """Have a path, and the folder that it is in, for oneself: to listen, and to publish the socket there.

    Raises:
        FileExistsError: A process that lives has it already, in another container that shares the folder.
        TimeoutError: Another process holds the lock of the folder, and does not let go.
    """
    with _locked(path.parent, _LOCKED_FOR):
        if path.exists() and not is_dead(path):
            raise FileExistsError(errno.EEXIST, "another process listens there; give another directory", str(path))
        yield


def found_in(folder: Path) -> list[Path]:
    """The sockets of the processes that live, sorted by their ids; dead ones are removed.

    Raises:
        PermissionError: The folder is not ours, open to others, or no folder.
    """
    try:
        wrong = _wrong_with(folder)
    except FileNotFoundError:
        return []
    if wrong:
        message = f"the sockets in {folder} are not to be trusted: {wrong}"
        raise PermissionError(message)
    _sweep(folder)
    paths = [it for it in folder.iterdir() if _NAME.fullmatch(it.name) and it.suffix == ".sock"]
    return sorted(paths, key=lambda path: int(path.stem))


def _sweep(folder: Path) -> None:
    """Remove the sockets of processes that are gone; none while another process changes the folder."""
    with contextlib.suppress(TimeoutError, OSError), _locked(folder, 0.0):
        for path in folder.iterdir():
            if _NAME.fullmatch(path.name) and is_dead(path):
                path.unlink(missing_ok=True)


def is_dead(path: Path) -> bool:
    """Whether nobody listens on a socket. One whose process is stopped, or too busy to accept, is alive."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)
        return asking.connect_ex(str(path)) == errno.ECONNREFUSED


@contextlib.contextmanager
def _locked(folder: Path, patience: float) -> Generator[None, None, None]:
    """Hold the lock of a folder. It is the system's: it ends with the process that holds it."""
    import fcntl  # noqa: PLC0415 - Windows has none, and no unix sockets; other targets can be asked there

    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    message = f"another process holds {folder / _LOCK}"
                    raise TimeoutError(message) from None
                time.sleep(0.01)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # to close it is not enough where a child was forked meanwhile
    finally:
        os.close(lock)
