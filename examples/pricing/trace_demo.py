"""The demo, looked at in a tracing backend: `python -m examples.pricing.trace_demo --phoenix-python PYTHON`.

It starts Phoenix (the package arize-phoenix), which receives spans by OTLP and shows them on a page, lets the demo
export its spans there, asks Phoenix's API for the breaker's changes of state, and prints them. `make trace-demo`
installs Phoenix into an environment of its own.

The exit code is 0 if Phoenix has the changes closed, open, half-open, open, half-open and closed, in that order.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from examples.pricing.demo import EXPECTED, GET_PRICE

EVENT: Final = "grpc_breaker.state_change"
START_PATIENCE: Final = 90.0
"""Seconds until Phoenix must have started; the first time it makes its database."""
ARRIVAL_PATIENCE: Final = 20.0
"""Seconds until the last span must have arrived."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state, as Phoenix has it."""

    sequence: int
    time: str
    previous: str
    state: str
    reason: str
    span: str
    trace_id: str


class Phoenix:
    """A Phoenix that runs in a process of its own."""

    def __init__(self, page: str, otlp_endpoint: str) -> None:
        """Know one by its page, and by where it receives spans."""
        self.page = page
        self.otlp_endpoint = otlp_endpoint

    def is_ready(self) -> bool:
        """Whether it answers."""
        with suppress(OSError), urllib.request.urlopen(f"{self.page}/healthz", timeout=5):  # noqa: S310 - loopback
            return True
        return False

    def spans(self) -> Iterator[dict[str, Any]]:
        """All spans that it has, the events of each with it."""
        cursor = ""
        while cursor is not None:
            query = urllib.parse.urlencode({"limit": 1000, **({"cursor": cursor} if cursor else {})})
            address = f"{self.page}/v1/projects/default/spans?{query}"
            with urllib.request.urlopen(address, timeout=30) as response:  # noqa: S310 - loopback
                answer = json.load(response)
            yield from answer["data"]
            cursor = answer["next_cursor"]

    def changes(self, breaker: str) -> list[Change]:
        """The changes of a breaker's state, in order."""
        found = [
            Change(
                sequence=event["attributes"]["grpc_breaker.sequence"],
                time=event["timestamp"].partition("T")[2][:12],
                previous=event["attributes"]["grpc_breaker.state.previous"],
                state=event["attributes"]["grpc_breaker.state"],
                reason=event["attributes"]["grpc_breaker.reason"],
                span=span["name"],
                trace_id=span["context"]["trace_id"],
            )
            for span in self.spans()
            for event in span["events"]
            if event["name"] == EVENT and event["attributes"]["grpc_breaker.name"] == breaker
        ]
        return sorted(found, key=lambda change: change.sequence)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def running(python: Path) -> Generator[Phoenix, None, None]:
    """Run Phoenix on free ports of loopback, with a database that is removed afterwards.

    Raises:
        RuntimeError: It did not start.
    """
    port, otlp_port = free_port(), free_port()
    phoenix = Phoenix(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{otlp_port}")
    with tempfile.TemporaryDirectory(prefix="phoenix-") as folder:
        environment = {
            **os.environ,
            "PHOENIX_WORKING_DIR": folder,
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(port),
            "PHOENIX_GRPC_PORT": str(otlp_port),
            "PHOENIX_TELEMETRY_ENABLED": "false",
            "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        }
        log = Path(folder, "log")
        with log.open("w") as output:
            command = [str(python), "-m", "phoenix.server.main", "serve"]
            process = subprocess.Popen(  # noqa: S603 - an argument of its user
                command, cwd=folder, env=environment, stdout=output, stderr=output
            )
        try:
            end = time.monotonic() + START_PATIENCE
            while not phoenix.is_ready():
                if process.poll() is not None or time.monotonic() > end:
                    message = f"Phoenix did not start:\n{log.read_text('utf-8')}"
                    raise RuntimeError(message)
                time.sleep(0.2)
            yield phoenix
        finally:
            process.terminate()
            process.wait()


def arrived(phoenix: Phoenix) -> list[Change]:
    """The changes of the breaker for prices, once those that the demo shows are there, or as many as came in time."""
    end = time.monotonic() + ARRIVAL_PATIENCE
    while True:
        changes = phoenix.changes(GET_PRICE)
        if EXPECTED.search(went(changes)) or time.monotonic() > end:
            return changes
        time.sleep(0.2)


def went(changes: Sequence[Change]) -> str:
    """The states, in one line."""
    return " ".join([*(change.previous for change in changes[:1]), *(change.state for change in changes)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phoenix-python", type=Path, required=True, help="a Python that has arize-phoenix")
    parser.add_argument("--fast", action="store_true", help="the demo in a few seconds")
    parser.add_argument("--stay", action="store_true", help="keep the page open until Ctrl-C")
    options = parser.parse_args(arguments)
    print("starting Phoenix ...", flush=True)
    with running(options.phoenix_python.absolute()) as phoenix:
        print(f"running the demo, which exports its spans to {phoenix.otlp_endpoint} ...", flush=True)
        demo = [sys.executable, "-m", "examples.pricing.demo", "--otlp-endpoint", phoenix.otlp_endpoint]
        demo += ["--fast"] if options.fast else []
        subprocess.run(demo, stdout=subprocess.DEVNULL, check=True)  # noqa: S603 - itself
        changes = arrived(phoenix)
        print(f"\nPhoenix has these changes of state of {GET_PRICE}:\n")
        for it in changes:
            change = f"{it.previous} -> {it.state}"
            print(f"{it.sequence:3}  {it.time}  {change:21}  {it.reason:20}  span '{it.span}', trace {it.trace_id}")
        if options.stay:
            print(
                f"\nThe page: {phoenix.page}/redirects/traces/{changes[0].trace_id if changes else ''} (Ctrl-C ends it)"
            )
            with suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
    if not EXPECTED.search(went(changes)):
        print(f"\nThese are not the ones of the demo: {went(changes) or 'none at all'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
