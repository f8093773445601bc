"""The unix sockets of `serve_admin`: where they are, who may use them, and what becomes of dead ones."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import grpc
import pytest

from grpc_breaker import BreakerRegistry
from grpc_breaker._commands.targets import Targets
from grpc_breaker.admin import add_breaker_admin_servicer, serve_admin
from grpc_breaker.admin.v1.admin_pb2_grpc import BreakerAdminStub
from tests.admin.serving import listed
from tests.admin.shop import Shop, shops
from tests.support.server import PATIENCE

ROOT = Path(__file__).parents[2]


def found(folder: Path) -> list[str]:
    """The addresses that the command finds."""
    return [it.address for it in Targets(directory=folder).now()]


def dead_socket(path: Path) -> Path:
    """A socket whose process has gone."""
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
        gone.listen()
    return path


@pytest.fixture
def kept(folder: Path) -> Path:
    """A folder that is there already."""
    folder.mkdir(mode=0o700)
    return folder


def test_a_process_serves_and_is_found(folder: Path, breakers: BreakerRegistry) -> None:
    """The socket is named after the process, in a folder that only its user may enter; it goes with the server."""
    with serve_admin(breakers, directory=folder) as server:
        assert server.path == folder / f"{os.getpid()}.sock"
        assert repr(server) == f"<AdminServer '{server.path}'>"
        assert folder.stat().st_mode & 0o777 == 0o700
        assert found(folder) == [f"unix:{server.path}"]
        with grpc.insecure_channel(f"unix:{server.path}") as channel:
            assert len(listed(BreakerAdminStub(channel))) == 3
    assert found(folder) == []
    assert not server.path.exists()
    server.stop()  # does nothing


@pytest.mark.parametrize("runtime", [True, False])
def test_default_folders(
    runtime: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breakers: BreakerRegistry
) -> None:
    """Sockets are in $XDG_RUNTIME_DIR or, without it, in the temp folder; the command looks in both."""
    with tempfile.TemporaryDirectory(prefix="gb-") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        monkeypatch.setenv("XDG_RUNTIME_DIR", f"{short}/run") if runtime else monkeypatch.delenv(
            "XDG_RUNTIME_DIR", raising=False
        )
        expected = Path(short, "run/grpc_breaker" if runtime else f"grpc_breaker-{os.getuid()}")
        with serve_admin(breakers) as server:
            assert server.path.parent == expected
            monkeypatch.setenv("XDG_RUNTIME_DIR", f"{short}/run")
            assert [it.address for it in Targets().now()] == [f"unix:{server.path}"]


def test_a_folder_of_somebody_else_hides_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, breakers: BreakerRegistry
) -> None:
    """A folder of somebody else in the place of ours hides nothing of what is in the other one."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder.parent))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder.parent))
    theirs = folder.parent / f"grpc_breaker-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    with serve_admin(breakers) as server:
        assert [it.address for it in Targets().now()] == [f"unix:{server.path}"]
    with pytest.raises(PermissionError, match="its mode is 777"):
        Targets().now()


def test_a_relative_runtime_directory(folder: Path, breakers: BreakerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative `$XDG_RUNTIME_DIR` is as good as none: it would be another place in each directory."""
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr(tempfile, "tempdir", str(folder.parent))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
    with serve_admin(breakers) as server:
        assert server.path.parent == folder.parent / f"grpc_breaker-{os.getuid()}"


@pytest.mark.parametrize("prefix", ["gb ä%41#?", "gb-\udcff"])
def test_odd_folders(breakers: BreakerRegistry, prefix: str) -> None:
    """A folder may have any name, also one that is no Unicode."""
    with (
        tempfile.TemporaryDirectory(prefix=prefix) as name,
        serve_admin(breakers, directory=f"{name}/x") as server,
    ):
        (target,) = Targets(directory=server.path.parent).now()
        with target.channel() as channel:
            assert len(listed(BreakerAdminStub(channel))) == 3


def test_a_target_that_is_named_twice() -> None:
    """A process that is named twice is asked once: what is asked twice would be counted twice."""
    assert [it.address for it in Targets(["shop:50051", "unix:/run/shop", "shop:50051"]).now()] == [
        "shop:50051",
        "unix:/run/shop",
    ]


def test_one_server_for_a_process(folder: Path, breakers: BreakerRegistry) -> None:
    """A second server of one process is refused, and takes nothing from the first; after the first one it may come."""
    with serve_admin(breakers, directory=folder) as server:
        with pytest.raises(RuntimeError, match=r"this process serves breakers at .* already; stop that first"):
            serve_admin(BreakerRegistry(), directory=folder)
        assert found(folder) == [f"unix:{server.path}"]
    with serve_admin(breakers, directory=folder):
        pass


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (lambda folder: folder.chmod(0o755), "its mode is 755, and must be 700"),
        (lambda folder: (folder.rmdir(), folder.symlink_to("/tmp")), "it is no directory, or a link to one"),
        (lambda folder: (folder.rmdir(), folder.touch()), "it is no directory, or a link to one"),
    ],
)
def test_folders_that_are_not_to_be_trusted(spoil: object, wrong: str, kept: Path, breakers: BreakerRegistry) -> None:
    """Neither server nor command uses a folder that is open to others, or a link: its name can be foreseen."""
    spoil(kept)  # type: ignore[operator]
    with pytest.raises(PermissionError, match=f"cannot hold sockets: {wrong}"):
        serve_admin(breakers, directory=kept)
    with pytest.raises(PermissionError, match=f"not to be trusted: {wrong}"):
        found(kept)


def test_a_folder_of_somebody_else(kept: Path, breakers: BreakerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that belongs to another user."""
    monkeypatch.setattr(os, "getuid", lambda: kept.stat().st_uid + 1)
    with pytest.raises(PermissionError, match=f"it belongs to user {kept.stat().st_uid}"):
        serve_admin(breakers, directory=kept)


def test_paths_that_are_too_long(tmp_path: Path, breakers: BreakerRegistry) -> None:
    """A path that is too long for a unix socket is refused with the limit, and nothing is made."""
    folder = tmp_path / ("x" * 100)
    with pytest.raises(ValueError, match=r"a unix socket has at most \d+ bytes, and .* give a shorter directory"):
        serve_admin(breakers, directory=folder)
    assert not folder.exists()


def test_wrong_arguments(folder: Path, breakers: BreakerRegistry) -> None:
    """Wrong arguments are refused before anything is made."""
    with pytest.raises(TypeError, match="breakers must be a BreakerRegistry"):
        serve_admin({}, directory=folder)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="allow_changes must be True or False, got 1"):
        serve_admin(breakers, allow_changes=1, directory=folder)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="hide_details must be True or False"):
        serve_admin(breakers, hide_details="no", directory=folder)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="max_watchers must be an integer, 0 or more, got '4'"):
        serve_admin(breakers, max_watchers="4", directory=folder)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_watchers must be an integer, 0 or more, got -1"):
        serve_admin(breakers, max_watchers=-1, directory=folder)
    with pytest.raises(TypeError, match=r"server must be a grpc.Server or a grpc.aio.Server, got 'server'"):
        add_breaker_admin_servicer("server", breakers)  # type: ignore[arg-type]
    assert not folder.exists()


def test_dead_sockets_are_swept(kept: Path) -> None:
    """The command removes sockets whose process is gone, and nothing else."""
    dead, left = dead_socket(kept / "1.sock"), dead_socket(kept / "2.new")
    other = kept / "notes"
    other.touch()
    with shops(kept) as (shop,):
        assert found(kept) == [f"unix:{shop.path}"]
        assert not dead.exists()
        assert not left.exists()
        assert other.exists()
        shop.kill()
        assert shop.path.exists()
        assert found(kept) == []
        assert not shop.path.exists()


def test_a_stopped_process_is_not_dead(folder: Path) -> None:
    """The socket of a process that gives no answer stays."""
    with shops(folder) as (shop,):
        shop.pause()
        assert found(folder) == [f"unix:{shop.path}"]
        shop.resume()


def test_a_process_that_ends_removes_its_socket(folder: Path) -> None:
    """Nobody has to stop the server: it ends with its process, also with a watch under way."""
    shop = Shop(folder).ready()
    with grpc.insecure_channel(f"unix:{shop.path}") as channel:
        from grpc_breaker.admin.v1 import admin_pb2 as pb

        call = BreakerAdminStub(channel).WatchBreakers(pb.WatchBreakersRequest())
        next(call)
        shop.end()
        with pytest.raises(grpc.RpcError):
            list(call)
    assert not shop.path.exists()
    shop.kill()


def test_a_dead_socket_of_the_same_process_id(kept: Path, breakers: BreakerRegistry) -> None:
    """Where an id comes again, the socket of the dead process is replaced."""
    dead_socket(kept / f"{os.getpid()}.sock")
    with serve_admin(breakers, directory=kept) as server:
        assert found(kept) == [f"unix:{server.path}"]


def test_a_live_socket_of_the_same_process_id(kept: Path, breakers: BreakerRegistry) -> None:
    """Where a process in another container has the same id and the folder, its socket is left to it."""
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(kept / f"{os.getpid()}.sock"))
        theirs.listen()
        with pytest.raises(FileExistsError, match="another process listens there; give another directory"):
            serve_admin(breakers, directory=kept)
        assert [path.name for path in kept.glob("[0-9]*")] == [f"{os.getpid()}.sock"]


def test_a_signal_handler_may_stop_a_server_that_stops(
    folder: Path, breakers: BreakerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler of SIGTERM may stop the server, whatever it interrupts: also another stop, in the same thread."""
    server = serve_admin(breakers, directory=folder)
    unlink = Path.unlink

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        server.stop()
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", interrupted)
    stopping = threading.Thread(target=server.stop, daemon=True)
    stopping.start()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    assert not server.path.exists()


def test_what_replaced_the_socket_is_left_alone(kept: Path, breakers: BreakerRegistry) -> None:
    """A server that stops removes its own socket, and nothing that has taken its place; nor does a lost folder matter."""
    server = serve_admin(breakers, directory=kept)
    server.path.unlink()
    other = dead_socket(server.path)
    server.stop()
    assert other.exists()
    server = serve_admin(breakers, directory=kept)
    server.path.unlink()
    server.stop()


def test_a_folder_that_another_process_has_locked(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process changes the folder, nothing is swept; who wants to serve waits, but not for ever."""
    import fcntl

    from grpc_breaker.admin import _sockets

    monkeypatch.setattr(_sockets, "_LOCKED_FOR", 0.05)
    dead = dead_socket(kept / "1.sock")
    starting = dead_socket(kept / f"{os.getpid()}.new")
    with (kept / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert found(kept) == [f"unix:{dead}"]
        before = starting.stat().st_ino
        with pytest.raises(TimeoutError, match="another process holds"):
            serve_admin(BreakerRegistry(), directory=kept)
        assert starting.stat().st_ino == before  # of a process in another container that has the same id
    assert found(kept) == []
    assert not starting.exists()


def test_a_child_forked_meanwhile_does_not_keep_the_folder_locked(
    kept: Path, breakers: BreakerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that another thread forks while a server begins has the file of the lock, and not the lock."""
    import fcntl

    held: list[int] = []
    lock_it = fcntl.flock

    def flock(file: int, how: int) -> None:
        lock_it(file, how)
        if how & fcntl.LOCK_EX:
            held.append(os.dup(file))  # as a fork does

    monkeypatch.setattr(fcntl, "flock", flock)
    with serve_admin(breakers, directory=kept):
        monkeypatch.undo()
        dead = dead_socket(kept / "1.sock")
        found(kept)
        assert not dead.exists()
    for file in held:
        os.close(file)


def test_where_it_cannot_listen(kept: Path, breakers: BreakerRegistry) -> None:
    """What the system refuses is an OSError that names the path."""
    listening, path = kept / f"{os.getpid()}.new", kept / f"{os.getpid()}.sock"
    listening.mkdir()
    with pytest.raises(OSError, match=f"cannot listen at .*{os.getpid()}.sock"):
        serve_admin(breakers, directory=kept)
    listening.rmdir()
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=f"{os.getpid()}.sock"):
        serve_admin(breakers, directory=kept)
    assert not listening.exists()


def test_a_forked_child_is_told(folder: Path) -> None:
    """A child has no server, is told so in its log, leaves the parent's socket alone, and may serve its own."""
    program = f"""
import logging, os, sys
logging.basicConfig(stream=sys.stdout)
from grpc_breaker import BreakerRegistry
from grpc_breaker.admin import serve_admin
breakers = BreakerRegistry()
server = serve_admin(breakers, directory={str(folder)!r})
if not os.fork():
    server.stop()
    print("child", server.path.exists(), flush=True)
    os._exit(0)
os.wait()
print("parent", server.path.exists())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert "its own are not served: call serve_admin after the fork" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["child True", "parent True"]


def test_serving_after_the_fork(folder: Path) -> None:
    """Children of a process that has served nothing each serve their own breakers."""
    program = f"""
import os, sys
from grpc_breaker import BreakerRegistry
from grpc_breaker.admin import serve_admin
for _ in range(2):
    if not os.fork():
        serve_admin(BreakerRegistry(), directory={str(folder)!r})
        os.write(1, b"serves\\n")
        sys.stdin.read()
        sys.exit()
os.wait(), os.wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(2)] == ["serves\n"] * 2
        assert len(found(folder)) == 2
    assert list(folder.glob("[0-9]*")) == []


def test_importing_the_package_loads_no_service() -> None:
    """`import grpc_breaker` loads neither the service nor the command."""
    program = "import sys, grpc_breaker; print([it for it in sys.modules if 'admin' in it or '_commands' in it])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
