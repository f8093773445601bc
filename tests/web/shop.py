"""A process with a real breaker, for a test: it serves its breakers on a unix socket, and calls when it is told to.

python -m tests.web.shop FOLDER [read-only]      prints "ready"; then for each line of a script (see tests.support.server)
                                                 it makes a call, and prints how it ended
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, CircuitOpenError
from grpc_breaker.admin import serve_admin
from tests.support.server import FAR, PATIENCE, Server
from tests.web.standin import GET_PRICE


class Shop:
    """The process, as the test sees it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.web.shop", str(folder), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        self.pid = self._process.pid

    def wait(self) -> Self:
        """Wait until it serves its breakers."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def call(self, script: str = "ok") -> str:
        """Have it make a call; returns "OK", a status, or "refused"."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{script}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


def main(folder: str, *arguments: str) -> None:
    """Be the process."""
    breakers = BreakerRegistry(default=BreakerPolicy(consecutive_failures=5, reset_timeout=600))
    with Server() as server, grpc.insecure_channel(server.target) as plain:
        channel = grpc.intercept_channel(plain, CircuitBreakerInterceptor(breakers))
        service, _, _ = GET_PRICE.rpartition("/")
        get_price = channel.unary_unary(f"/{service}/UnaryUnary")
        get_price(b"ok", timeout=FAR)
        with serve_admin(breakers, allow_changes="read-only" not in arguments, directory=Path(folder)):
            print("ready", flush=True)
            for line in sys.stdin:
                try:
                    get_price(line.strip().encode(), timeout=FAR)
                    print("OK", flush=True)
                except CircuitOpenError:
                    print("refused", flush=True)
                except grpc.RpcError as error:
                    print(error.code().name, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
