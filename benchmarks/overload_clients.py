"""The clients of an overloaded server, each a process of its own, and what guards their calls.

A client is an open loop: its calls come at random times (Poisson), whether or not those before have ended, as the users
of a web site do. The times and the work of each call follow from the seed: they are the same whatever guards them.

A process reads an order, a line of JSON, connects, and says that it is ready; it reads when to begin, plays, and prints
a line of JSON with what came of it. So every client is there when a play begins, however long it took to start.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks.overload_server import METHOD, SERVICE
from grpc_breaker import (
    BreakerRegistry,
    CallRefusedError,
    MethodPolicy,
    RateLimit,
    RetryPolicy,
    RetryThrottling,
    Throttle,
    aio,
)
from tests.support.records import TRIAL, recorder_of

CLIENTS = 4
WORKERS = 8
SERVICE_TIME = 0.08
"""Seconds of work for a call on average; each takes between half and one and a half of it."""
CAPACITY = WORKERS / SERVICE_TIME
SHARE = CAPACITY / CLIENTS
"""Calls a second of one client, where all together are as many as the server can do."""
DEADLINE = 0.28
"""Seconds for an answer: one and a half times the p99 at 0.8 times the capacity, 0.19 s."""
BULKHEAD = 4
"""Calls in flight of one client: its rate at 0.8 times the capacity, 20 a second, times the p99 there."""
RATE = 0.9 * SHARE
"""Calls a second that a client may begin: a tenth below its share of the capacity, so that queues get shorter again."""
ATTEMPTS = 3
BACKOFF = 0.05
RETRIED = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
PATIENCE = 1.0
"""Seconds for all attempts of a call together, where there are several."""

BARE = "nothing"
BY_HAND = "retries by hand"
RETRIES = "breaker, retries of ours"


def policies(speed: float = 1.0) -> dict[str, MethodPolicy | None]:
    """Every guard, for a clock that runs so many times as fast as the real one."""
    return {
        BARE: None,
        "breaker": MethodPolicy(),
        "throttle": MethodPolicy(throttle=Throttle()),
        "breaker, rate limit": MethodPolicy(rate_limit=RateLimit(RATE / speed, burst=BULKHEAD)),
        "breaker, bulkhead": MethodPolicy(max_concurrent_calls=BULKHEAD),
        "breaker, bulkhead twice as large": MethodPolicy(max_concurrent_calls=2 * BULKHEAD),
        BY_HAND: None,
        RETRIES: MethodPolicy(
            attempt_timeout=DEADLINE,
            retry=RetryPolicy(max_attempts=ATTEMPTS, initial_backoff=BACKOFF, retryable_status_codes=RETRIED),
        ),
    }


READY = "ready"
GOOD = "OK"
REFUSED = "refused"
"""What became of a call: one of these, or the name of its status."""


@dataclass(frozen=True)
class Order:
    """What a client is to do."""

    guard: str
    target: str
    seed: str
    rate: float
    """Calls a second."""
    seconds: float
    speed: float = 1.0
    """How many times as fast as the real clock that of the guards runs."""
    records: str = ""
    """A folder to record the traffic in; empty: it is not recorded."""
    words: list[str] = field(default_factory=list)
    """How the record is called."""


@dataclass
class Outcome:
    """What came of an order, in seconds from its beginning."""

    calls: list[tuple[float, float, str]] = field(default_factory=list)
    """When each call came, how long it took, and what became of it."""
    sent: list[float] = field(default_factory=list)
    """When the attempts were sent to the server."""


class Passing(grpc.aio.UnaryUnaryClientInterceptor):
    """Innermost: notes which attempts are sent."""

    def __init__(self, sent: Callable[[], None]) -> None:
        self._sent = sent

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self._sent()
        return await continuation(client_call_details, request)


def interceptors(order: Order) -> tuple[list[Any], AbstractContextManager[Any]]:
    """What guards the calls, and what records them."""
    policy = policies(order.speed)[order.guard]
    if policy is None:
        if not order.records:
            return [], nullcontext()
        policy = MethodPolicy(breaker=TRIAL)
    throttling = None if policy.retry is None else RetryThrottling()
    breakers = BreakerRegistry(
        default=policy,
        retry_throttling=throttling,
        clock=lambda: time.monotonic() * order.speed,
        random=random.Random(order.seed).random,
    )
    recorder = recorder_of(breakers, Path(order.records), *order.words) if order.records else nullcontext()
    return aio.interceptors(breakers, telemetry=False), recorder


async def with_retries(attempt: Callable[[float], Awaitable[Any]], end: float) -> None:
    """A loop as it is written by hand: three attempts, each with the whole deadline, and a growing pause."""
    for number in range(1, ATTEMPTS + 1):
        try:
            await attempt(min(time.monotonic() + DEADLINE, end))
        except grpc.aio.AioRpcError as error:
            if error.code().name not in RETRIED or number == ATTEMPTS:
                raise
            await asyncio.sleep(random.uniform(0.8, 1.2) * BACKOFF * 2 ** (number - 1))
        else:
            return


async def play(order: Order) -> Outcome:
    """Make the calls of an order."""
    outcome = Outcome()
    rng = random.Random(order.seed)
    begin = 0.0

    def now() -> float:
        return time.monotonic() - begin

    passing = Passing(lambda: outcome.sent.append(now()))
    guards, recorder = interceptors(order)
    channel = grpc.aio.insecure_channel(order.target, interceptors=[*guards, passing])
    method: Any = channel.unary_unary(f"/{SERVICE}/{METHOD}")

    async def call(came: float, request: bytes) -> None:
        async def attempt(end: float) -> None:
            await method(request, timeout=end - time.monotonic())

        what = GOOD
        try:
            if order.guard == BY_HAND:
                await with_retries(attempt, begin + came + PATIENCE)
            else:
                await attempt(begin + came + (PATIENCE if order.guard == RETRIES else DEADLINE))
        except CallRefusedError:
            what = REFUSED
        except grpc.aio.AioRpcError as error:
            what = error.code().name
        outcome.calls.append((came, now() - came, what))

    await channel.channel_ready()
    print(READY, flush=True)
    begin = float(await asyncio.to_thread(sys.stdin.readline))
    with recorder:
        async with asyncio.TaskGroup() as group:
            came = rng.expovariate(order.rate)
            while came < order.seconds:
                await asyncio.sleep(max(0.0, came - now()))
                group.create_task(call(came, b"%.4f" % (SERVICE_TIME * rng.uniform(0.5, 1.5))))
                came += rng.expovariate(order.rate)
    await channel.close()
    return outcome


class Client:
    """A client's process, as who gives the orders sees it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.overload_clients"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            text=True,
        )

    def give(self, order: Order) -> None:
        """Give an order, and do not wait for it."""
        self._say(json.dumps(asdict(order)))

    def wait_until_ready(self) -> None:
        """Wait until it is connected."""
        self._hear()

    def begin(self, at: float) -> None:
        """Have it begin at a moment of the monotonic clock, which all processes of a machine share."""
        self._say(str(at))

    def take(self) -> Outcome:
        """Wait for what came of it."""
        return Outcome(**json.loads(self._hear()))

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            message = "a client has ended; its error is above"
            raise RuntimeError(message)
        return line

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Be a client: play every order that comes."""
    for line in sys.stdin:
        print(json.dumps(asdict(asyncio.run(play(Order(**json.loads(line)))))), flush=True)


if __name__ == "__main__":
    main()
