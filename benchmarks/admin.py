"""What the admin service costs the process that serves it: `python -m benchmarks.admin`.

Breakers are listed and watched from another process, as operators do. The first table has the processor time of the
process and the bytes on the wire, the second how long its own guarded calls take meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from grpc_breaker.admin.v1 import admin_pb2 as pb
from grpc_breaker.admin.v1.admin_pb2_grpc import BreakerAdminStub

LISTS = 20


class Host:
    """The process, from outside."""

    def __init__(self, folder: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.admin_host", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, command: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def cpu(self, seconds: float) -> float:
        """Milliseconds of processor time that it uses in each second."""
        before = self("cpu")
        time.sleep(seconds)
        return (self("cpu") - before) / seconds * 1000

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


class Watchers:
    """Clients that watch, each on a connection of its own, or try to."""

    def __init__(self, path: str, count: int) -> None:
        self.told = self.refused = self.bytes = 0
        self._path = path
        self._calls: list[Any] = []
        self._threads = [threading.Thread(target=self._watch, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _watch(self) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(f"unix:{self._path}", options) as channel:
            method = channel.unary_stream("/grpc_breaker.admin.v1.BreakerAdmin/WatchBreakers")
            call = method(pb.WatchBreakersRequest().SerializeToString())
            self._calls.append(call)
            try:
                for number, response in enumerate(call):
                    self.told += not number
                    self.bytes += len(response)
            except grpc.RpcError as error:
                self.refused += error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    def close(self) -> None:
        for call in self._calls:
            call.cancel()
        for thread in self._threads:
            thread.join(10)


@contextmanager
def watching(path: str, count: int) -> Iterator[Watchers]:
    """So many watchers, once all are told."""
    watchers = Watchers(path, count)
    while watchers.told < count:
        time.sleep(0.01)
    yield watchers
    watchers.close()


def costs(host: Host, seconds: float) -> Iterator[str]:
    """Rows of the first table."""
    for count in (100, 1000):
        path = host(f"breakers {count}")
        with grpc.insecure_channel(f"unix:{path}") as channel:
            stub = BreakerAdminStub(channel)
            size = stub.ListBreakers(pb.ListBreakersRequest()).ByteSize()
            before = host("cpu")
            for _ in range(LISTS):
                time.sleep(0.21)  # else the counts of the list before would be taken
                stub.ListBreakers(pb.ListBreakersRequest())
            spent = (host("cpu") - before) / LISTS * 1000
        yield f"| {count} breakers listed | {spent:.1f} ms a list | {size / 1000:.1f} kB a list |"
        for busy, words in ((0, "nothing happens"), (1, "each has calls")):
            host(f"busy {busy}")
            time.sleep(1)
            idle = host.cpu(seconds)
            for watchers in (1, 16):
                with watching(path, watchers) as clients:
                    time.sleep(1)
                    before = clients.bytes
                    spent = host.cpu(seconds) - idle
                    size = (clients.bytes - before) / seconds
                who = f"{watchers} watcher{'s' if watchers > 1 else ''}"
                yield f"| {count} watched by {who}, {words} | {spent:.1f} ms a second | {size / 1000:.1f} kB a second |"
            host("busy 0")


def latencies(host: Host, rounds: int, seconds: float) -> Iterator[str]:
    """Rows of the second table."""
    path = host("breakers 1000")
    host("busy 1")
    taken: dict[str, list[tuple[float, float, float]]] = {}
    refused = 0

    def measure(name: str) -> None:
        calls = host(f"calls {seconds}")
        percentiles = statistics.quantiles(calls, n=1000)
        taken.setdefault(name, []).append((percentiles[499], percentiles[989], percentiles[998]))

    for _ in range(rounds):
        measure("nobody")
        with watching(path, 1):
            measure("1 watcher")
        with watching(path, 16):
            measure("16 watchers")
        with watching(path, 100):
            measure("100 watchers")
            flood = Watchers(path, 1000)
            measure("100 watchers, and 1,000 who try")
            flood.close()
            refused += flood.refused
    for name, values in taken.items():
        cells = " | ".join(f"{statistics.median(column):.2f}" for column in zip(*values, strict=True))
        yield f"| {name} | {cells} |"
    yield f"\n{refused} of {1000 * rounds} who tried were refused."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gb-") as folder:
        host = Host(f"{folder}/sockets")
        print("| | processor time of the process | on the wire |\n|---|---|---|")
        for row in costs(host, options.seconds):
            print(row, flush=True)
        print("\n| who watches 1,000 breakers | median, ms | p99 | p99.9 |\n|---|---|---|---|")
        for row in latencies(host, options.rounds, options.seconds):
            print(row, flush=True)
        host.close()


if __name__ == "__main__":
    main()
