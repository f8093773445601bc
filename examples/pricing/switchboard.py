"""Makes a running pricing server fail, or work again: `python -m examples.pricing.switchboard --hang`.

Without an option the server works again. This channel has no breaker: an open one must not keep the server from being
switched. For the demo and for tests, `PricingServer` starts a server as a process, with its switchboard.
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
"""Seconds to wait for a response of the switchboard, and for a server to end before it is killed."""


class Switchboard:
    """A client of the `Trouble` service of a pricing server."""

    def __init__(self, channel: grpc.Channel) -> None:
        """The switchboard of the server that the channel is connected to."""
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
        """Make the server's process end at once."""
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
        # The process ends when its standard input closes, so it ends with this one, however this one ends. Its process
        # group is its own, so Ctrl-C does not reach it, and it ends after its clients.
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )
        try:
            announcement = self._process.stdout.readline() if self._process.stdout else ""
        except BaseException:  # Ctrl-C while waiting
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
        """Makes it fail, and work again."""

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.address.rpartition(":")[2])

    def die(self) -> int:
        """Make the process end at once; returns its exit code."""
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
        """Close the pipes, at which the server stops by itself, and wait for that."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Set the trouble that the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:50051", help="the pricing server, host:port")
    parser.add_argument("--error-rate", type=float, default=0.0, help="the share of calls that fail, from 0 to 1")
    parser.add_argument("--error-status", default="UNAVAILABLE", help="the status they fail with")
    parser.add_argument("--latency-ms", type=int, default=0, help="every call waits this long")
    parser.add_argument("--hang", action="store_true", help="calls are accepted and get no response")
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
            print(f"failed: {explain(error)}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
