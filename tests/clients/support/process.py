"""A server of an application in a process of its own, with workers that it forks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.clients.support.shop import BEFORE_FORK, TARGET
from tests.support.server import PATIENCE, ServerProcess

ROOT = Path(__file__).parents[3]


@contextmanager
def application(command: Sequence[str], folder: Path, **environment: str) -> Iterator[None]:
    """Run a module with its arguments, beside the gRPC server that it calls; its output goes to a file in `folder`.

    It has counted seven calls before its workers begin.
    """
    with ServerProcess() as server, (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={**os.environ, TARGET: server.target, BEFORE_FORK: "7", **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # a session of its own: the process and its workers
            process.wait(PATIENCE)


def wait_until_it_listens(path: Path) -> None:
    """Connect until it works: a server says nowhere else that it is ready."""
    until = time.monotonic() + PATIENCE
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(path))
            except OSError:
                assert time.monotonic() < until, "the web server did not start"
                time.sleep(0.02)
            else:
                return
