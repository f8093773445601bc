"""What `benchmarks.web_page --measure` measures: busy processes to watch, and the page that watches them.

python -m benchmarks.web_load 24 500               24 stand-ins for a process, in one, each with 500 busy breakers
python -m benchmarks.web_load page --target …      the page itself, as `grpc-breaker web` is
"""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks.web_scene import names
from grpc_breaker._commands import web
from grpc_breaker._web.watcher import COUNTS_EVERY
from grpc_breaker.admin.v1 import admin_pb2 as pb
from tests.web.standin import StandIn, breaker


def load(processes: int, breakers: int) -> None:
    """Be the processes. Each sends all its breakers in each interval, with new counts; one in 50 fails, one is open."""
    said = [breaker(name, failures=1, last_failure=pb.Failure(status="UNAVAILABLE")) for name in names(breakers)]
    said[7].state = pb.STATE_OPEN
    running = [StandIn(*said, pid=number + 1, program="checkout") for number in range(processes)]
    print(*(it.target for it in running), flush=True)
    began = time.monotonic()
    for number in range(10**6):
        for it in said:
            it.successes += 17
            it.in_flight = number % 5
        for it in said[::50]:
            it.failures += number % 3
        for index, process in enumerate(running):
            time.sleep(max(0.0, began + COUNTS_EVERY * (number + index / processes) - time.monotonic()))
            process.push(*said)


if __name__ == "__main__":
    if sys.argv[1] == "page":
        parser = argparse.ArgumentParser()
        web.add_to(parser.add_subparsers())
        chosen = parser.parse_args(["web", "--port=0", "--no-open", *sys.argv[2:]])
        sys.exit(chosen.run(chosen))
    load(int(sys.argv[1]), int(sys.argv[2]))
