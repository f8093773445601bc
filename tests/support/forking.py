"""A process that forks in the middle of its calls: run as `python -m tests.support.forking <target> <interceptor|bare>`.

It holds a stream and a unary call open, forks, and says as lines of JSON what the child and then the parent saw. grpcio
wants `GRPC_ENABLE_FORK_SUPPORT=1`, and that the child makes a channel of its own.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import grpc

from grpc_breaker import BreakerRegistry, CircuitBreakerInterceptor, State
from tests.support.server import METHODS, PATIENCE


def main(target: str) -> None:
    breakers = BreakerRegistry()
    interceptor = CircuitBreakerInterceptor(breakers)

    def connect() -> Any:
        return grpc.intercept_channel(grpc.insecure_channel(target), interceptor)

    def call(channel: Any) -> str:
        return channel.unary_unary(METHODS["uu"])(b"ok", timeout=PATIENCE).decode()

    def in_flight() -> dict[str, int]:
        return {breaker.name.rpartition("/")[2]: breaker.in_flight for breaker in breakers}

    channel = connect()
    breakers[METHODS["ss"]].force_open()
    stream = channel.unary_stream(METHODS["us"])(b"messages 1;held;messages 2", timeout=PATIENCE)
    next(stream)
    future = channel.unary_unary(METHODS["uu"]).future(b"held", timeout=PATIENCE)
    before = in_flight()
    child = os.fork()
    if not child:
        seen = {"who": "child", "before": before, "inherited": in_flight()}
        seen["answer"] = call(connect())
        seen["forced open"] = breakers[METHODS["ss"]].state is State.FORCED_OPEN
        seen["after"] = in_flight()
        print(json.dumps(seen), flush=True)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps({"who": "parent", "child": status, "held": in_flight()}), flush=True)
    sys.stdin.readline()  # the server lets the calls go on
    ended = {"who": "parent", "stream": [message.decode() for message in stream], "future": future.result().decode()}
    channel.close()
    print(json.dumps({**ended, "after": in_flight()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
