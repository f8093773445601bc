"""A process that serves its breakers on a unix socket: `python -m tests.admin.shop FOLDER [allow_changes]`.

It says its id, then does what it is told on its standard input, and says when it is done: `fail NAME` has a breaker
open. It ends when nobody tells it anything any more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.support.server import PATIENCE

ROOT = Path(__file__).parents[2]


class Shop:
    """The process, from outside."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.admin.shop", str(folder), *options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.path = folder / f"{self.pid}.sock"

    def ready(self) -> Self:
        """Wait until it serves."""
        self._expect("ready")
        return self

    def _expect(self, what: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{what}\n"

    def fail(self, name: str) -> None:
        """Have a breaker open."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"fail {name}\n")
        self._process.stdin.flush()
        self._expect("done")

    def pause(self) -> None:
        """Stop it, so that it gives no answer."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Have it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        """Have it end by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(PATIENCE) == 0

    def kill(self) -> None:
        """End it in the midst of everything."""
        self._process.kill()
        self._process.wait(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def shops(folder: Path, count: int = 1, *options: str) -> Iterator[list[Shop]]:
    """Several, all at once."""
    running = [Shop(folder, *options) for _ in range(count)]
    try:
        yield [it.ready() for it in running]
    finally:
        for shop in running:
            shop.kill()


def main(folder: str, *options: str) -> None:
    from grpc_breaker.admin import serve_admin
    from tests.admin.conftest import POLICY, BreakerRegistry, fail

    breakers = BreakerRegistry({"pricing.v1.Pricing": POLICY})
    for name in ("GetPrice", "ListPrices"):
        breakers[f"pricing.v1.Pricing/{name}"].admit().success()
    serve_admin(breakers, directory=folder, allow_changes="allow_changes" in options)
    print("ready", flush=True)
    for line in sys.stdin:
        fail(breakers, line.split()[1])
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
