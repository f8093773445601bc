"""Switches the troubles of a running pricing server: `python -m examples.pricing.switchboard --hang`.

Without an option the server is well again. Its channel has no breaker: trouble must stay switchable while one is open.
For the demo and for tests, `PricingServer` starts a server as a process and has its switchboard at hand.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import grpc

from examples.pricing.shop import explain
from examples.pricing.v1 import trouble_pb2
from examples.pricing.v1.trouble_pb2_grpc import TroubleStub

ANNOUNCEMENT: Final = "listening on "
"""What the server prints before its address."""
PATIENCE: Final = 10.0
"""Seconds to wait for the switchboard to answer, and for a server to end before it is killed."""


class Switchboard:
    """A hand on the switchboard of a pricing server."""

    def __init__(self, channel: grpc.Channel) -> None:
        """The switchboard at the other end of a channel."""
        self._stub = TroubleStub(channel)

    def suffer(
        self, *, error_rate: float = 0.0, error_status: str = "", latency_ms: int = 0, hang: bool = False
    ) -> None:
        """Replace the server's trouble; see `Affliction` in trouble.proto."""
        affliction = trouble_pb2.Affliction(
            error_rate=error_rate, error_status=error_status, latency_ms=latency_ms, hang=hang
        )
        self._stub.Set(trouble_pb2.SetRequest(affliction=affliction), timeout=PATIENCE)

    def recover(self) -> None:
        """End the server's trouble."""
        self.suffer()

    def calls(self) -> dict[str, int]:
        """How many calls have reached the server, by the first word of the caller's user agent."""
        return dict(self._stub.Get(trouble_pb2.GetRequest(), timeout=PATIENCE).calls)

    def die(self) -> None:
        """Make the server's process end on the spot."""
        try:
            self._stub.Die(trouble_pb2.DieRequest(), timeout=PATIENCE)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise


class ServerError(Exception):
    """The pricing server did not start."""


class PricingServer:
    """A running pricing server and its switchboard. A context manager: the process ends with the block."""

    def __init__(self, port: int = 0) -> None:
        """Start a server on a port (0: any free one) and wait until it listens.

        Raises:
            ServerError: It ended without listening.
        """
        command = [sys.executable, "-m", "examples.pricing.server", "--until-stdin-closes", "--port", str(port)]
        # The process holds the reading end of a pipe whose writing end is ours: however we end, it ends too. Ctrl-C is
        # not for it, so that it ends after those who call it.
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )
        try:
            announcement = self._process.stdout.readline() if self._process.stdout else ""
        except BaseException:  # Ctrl-C: nobody would hear it announce itself
            self._process.kill()
            self._end()
            raise
        if not announcement.startswith(ANNOUNCEMENT):
            self._end()
            message = f"the pricing server did not start: exit code {self._process.returncode}"
            raise ServerError(message)
        self.address = announcement.removeprefix(ANNOUNCEMENT).strip()
        """Where it listens, "127.0.0.1:50051"."""
        self._channel = grpc.insecure_channel(self.address)
        self.switchboard = Switchboard(self._channel)
        """Where its troubles are switched."""

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.address.rpartition(":")[2])

    def die(self) -> int:
        """Make the process die on the spot; answer its exit code."""
        self.switchboard.die()
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        """End the process, if it still runs."""
        self._channel.close()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _end(self) -> None:
        """Close our ends of the pipes, at which the server stops by itself, and wait for that."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Switch the trouble as the command line says; answer the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:50051", help="the pricing server, host:port")
    parser.add_argument("--error-rate", type=float, default=0.0, help="the share of calls that fail, from 0 to 1")
    parser.add_argument("--error-status", default="UNAVAILABLE", help="the status they fail with")
    parser.add_argument("--latency-ms", type=int, default=0, help="every call waits so long")
    parser.add_argument("--hang", action="store_true", help="calls are taken and never answered")
    parser.add_argument("--die", action="store_true", help="end the server's process")
    options = parser.parse_args(arguments)
    with grpc.insecure_channel(options.target) as channel:
        switchboard = Switchboard(channel)
        try:
            if options.die:
                switchboard.die()
            else:
                switchboard.suffer(
                    error_rate=options.error_rate,
                    error_status=options.error_status,
                    latency_ms=options.latency_ms,
                    hang=options.hang,
                )
        except grpc.RpcError as error:
            print(f"no answer: {explain(error)}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
