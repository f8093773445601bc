"""What gRPC's own features do for a call, beside what this package does: the figures of docs/grpc_own.md.

    python -m benchmarks.grpc_own

It takes five minutes. Real servers on loopback, in this process or, where they hang or die, in one of their own. Each
figure is of one play: they are counts, and times that a setting decides. What happens when a network is dead is played
in a network of its own (`unshare`), on Linux.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import grpc

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CallRefusedError,
    CircuitBreakerInterceptor,
    MethodPolicy,
    RetryPolicy,
    RetryThrottling,
    State,
)
from tests.support.server import UNARY_UNARY, Server, ServerProcess

ATTEMPTS = 4
SICK = b"error UNAVAILABLE sick"
RETRY = {
    "maxAttempts": ATTEMPTS,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.05s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
OURS = RetryPolicy(max_attempts=ATTEMPTS, initial_backoff=0.05, max_backoff=0.05, backoff_multiplier=1)
THROTTLING = {"maxTokens": 10, "tokenRatio": 0.1}


class Attempts:
    """A server, and how many attempts have reached it: a call that gRPC retries comes several times."""

    def __init__(self, script: str = "") -> None:
        self._reports: list[str] = []
        self._server = Server(report=self._reports.append, script=script)
        self.target = self._server.target

    def made(self) -> int:
        return sum(it.startswith("began") for it in self._reports)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop()


class Calls:
    """Calls of one method, one after another."""

    def __init__(self, method: Any) -> None:
        self._method = method

    def __call__(self, script: bytes = b"ok", **options: Any) -> tuple[str, float]:
        """Make a call; returns its status, or that it was refused here, and the seconds that it took."""
        began = time.monotonic()
        try:
            self._method(script, metadata=[("call-key", "any")], **options)
        except CallRefusedError:
            status = "refused"
        except grpc.RpcError as error:
            status = error.code().name
        else:
            status = "OK"
        return status, time.monotonic() - began


@contextmanager
def calling(
    server: Attempts | Server | ServerProcess,
    *,
    entry: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    policy: MethodPolicy | BreakerPolicy | None = None,
    throttling: RetryThrottling | None = None,
    breakers: BreakerRegistry | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> Iterator[Calls]:
    """A channel to a server, with an entry of gRPC's own service config, and guarded where there is a policy."""
    document = (config or {}) | ({} if entry is None else {"methodConfig": [{"name": [{}], **entry}]})
    options = (*options, ("grpc.use_local_subchannel_pool", 1), ("grpc.service_config", json.dumps(document)))
    with grpc.insecure_channel(server.target, options=options) as channel:
        guarded: grpc.Channel = channel
        if policy is not None:
            breakers = BreakerRegistry(default=policy, retry_throttling=throttling)
        if breakers is not None:
            guarded = grpc.intercept_channel(channel, CircuitBreakerInterceptor(breakers, telemetry=False))
        yield Calls(guarded.unary_unary(UNARY_UNARY))


def say(what: str, result: object) -> None:
    """Print a figure."""
    print(f"{what}: {result}", flush=True)


# ── Retries ───────────────────────────────────────────────────────────────────────────────────────────────────────


def retries_until_open() -> None:
    """Attempts that reach a server that fails all of them, until the breaker opens, and while it is open."""
    ways: dict[str, dict[str, Any]] = {
        "gRPC's": {"entry": {"retryPolicy": RETRY}, "policy": MethodPolicy()},
        "ours": {"policy": MethodPolicy(retry=OURS)},
    }
    for name, way in ways.items():
        with Attempts() as server, calling(server, **way) as call:
            calls = 0
            while call(SICK)[0] != "refused":
                calls += 1
            say(
                f"{name} retries, up to {ATTEMPTS} attempts: attempts before the breaker opens (calls)",
                f"{server.made()} ({calls})",
            )


def retries_after_an_opening() -> None:
    """Attempts that reach the server of a call during whose first pause the breaker opens."""
    for name, retry, entry in (("gRPC's", None, {"retryPolicy": RETRY}), ("ours", OURS, None)):
        breakers = BreakerRegistry(default=MethodPolicy(retry=retry))
        with Attempts() as server, calling(server, entry=entry, breakers=breakers) as call:
            ended = threading.Thread(target=call, args=(SICK,))
            ended.start()
            while not server.made():
                time.sleep(0.001)
            breakers[UNARY_UNARY].force_open()
            ended.join()
            say(f"{name} retries: attempts of a call in whose first pause the breaker opens", server.made())


def retry_throttling() -> None:
    """Attempts of a hundred calls to a server that fails all of them, without a breaker."""
    unguarded = MethodPolicy(breaker=None, retry=OURS)
    ways: dict[str, dict[str, Any]] = {
        "gRPC's": {"entry": {"retryPolicy": RETRY}},
        "gRPC's, retryThrottling": {"entry": {"retryPolicy": RETRY}, "config": {"retryThrottling": THROTTLING}},
        "ours, RetryThrottling": {"policy": unguarded, "throttling": RetryThrottling()},
    }
    for name, way in ways.items():
        with Attempts() as server, calling(server, **way) as call:
            for _ in range(100):
                call(SICK)
            say(f"{name}: attempts of 100 calls, no breaker", server.made())


# ── Deadlines ─────────────────────────────────────────────────────────────────────────────────────────────────────


def timeouts() -> None:
    """When a call to a server that hangs ends, by what says its deadline."""
    for seconds in (0.5, 1.5, 3.0):
        with Server() as server:
            with calling(server, entry={"timeout": f"{seconds}s"}) as call:
                call(timeout=5)  # connects
                took = [call(b"hang", timeout=10)[1] for _ in range(3)]
                say(f"service config timeout {seconds} s: ends after", spread(took))
            with calling(server, policy=MethodPolicy(timeout=seconds)) as call:
                call(timeout=5)
                took = [call(b"hang", timeout=10)[1] for _ in range(3)]
                say(f"MethodPolicy(timeout={seconds}): ends after", spread(took))


def spread(seconds: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f}..{max(seconds):.2f})"


# ── Waiting for a connection ──────────────────────────────────────────────────────────────────────────────────────


NOTICED = 0.3
"""Seconds within which a channel notices that its server is gone; what is sent before fails, whatever it waits for."""


def waiting() -> None:
    """Calls to a server that is dead, without and with wait_for_ready, and one that is started again after a second."""
    reconnecting = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200))
    for ready in (False, True):
        with ServerProcess() as server, calling(server, policy=BreakerPolicy(), options=reconnecting) as call:
            call(timeout=5, wait_for_ready=True)
            server.kill()
            time.sleep(NOTICED)
            took = [call(timeout=0.5, wait_for_ready=ready) for _ in range(6)]
            statuses = [status for status, _ in took]
            say(f"dead server, wait_for_ready={ready}: six calls with deadlines of 0.5 s", statuses)
            say("    seconds until the breaker was open", f"{sum(it for _, it in took[:5]):.2f}")
        with ServerProcess() as server, calling(server, options=reconnecting) as call:
            call(timeout=5, wait_for_ready=True)
            server.kill()
            time.sleep(NOTICED)
            returning = threading.Timer(1.0, server.restart)
            returning.start()
            status, seconds = call(timeout=10, wait_for_ready=ready)
            say(f"server back after a second or two, wait_for_ready={ready}", f"{status} after {seconds:.2f} s")
            returning.join()


# ── Keepalive ─────────────────────────────────────────────────────────────────────────────────────────────────────


PINGING = (("grpc.keepalive_time_ms", 2000), ("grpc.keepalive_timeout_ms", 1000))


def stopped_process() -> None:
    """A call to a process that was stopped: its kernel still acknowledges what arrives."""
    ways: dict[str, tuple[tuple[str, int], ...]] = {
        "no keepalive": (),
        "keepalive of 2 s, timeout of 1 s": PINGING,
        "the same, grpc.http2.ping_timeout_ms=1000": (*PINGING, ("grpc.http2.ping_timeout_ms", 1000)),
    }
    for name, options in ways.items():
        with ServerProcess() as server, calling(server, options=options) as call:
            call(timeout=5, wait_for_ready=True)
            server.pause()
            say(f"stopped process, {name}: a call with a deadline of 70 s", ended(*call(timeout=70)))


def dead_network() -> None:
    """The same where nothing arrives any more, in a network of its own."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        say("dead network", "not played, unshare or ip is missing")
        return
    for name in ("none", "keepalive"):
        inside = f'ip link set lo up && exec "{sys.executable}" -m benchmarks.grpc_own --without-network {name}'
        subprocess.run(["unshare", "--map-root-user", "--net", "sh", "-c", inside], check=True)


def without_network(name: str) -> None:
    """Call, in a network of one's own, after its end."""
    with Server() as server, calling(server, options=PINGING if name == "keepalive" else ()) as call:
        call(timeout=5, wait_for_ready=True)
        subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
        how = "keepalive of 2 s, timeout of 1 s" if name == "keepalive" else "no keepalive"
        say(f"dead network, {how}: a call with a deadline of 20 s", ended(*call(timeout=20)))
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def pings_to_a_healthy_server() -> None:
    """A quiet call, with more pings than a server allows by default, which is one in five minutes."""
    for name, options in (
        ("two pings at most without data (default)", PINGING),
        ("any number", (*PINGING, ("grpc.http2.max_pings_without_data", 0))),
    ):
        with Server() as server, calling(server, options=options) as call:
            call(timeout=5)
            say(f"keepalive of 2 s, {name}: a quiet call of 15 s", ended(*call(b"wait 15", timeout=30)))


def ended(status: str, seconds: float) -> str:
    """How a call ended, and when."""
    return f"{status} after {seconds:.1f} s"


# ── One backend of many ───────────────────────────────────────────────────────────────────────────────────────────


ROUND_ROBIN: list[dict[str, Any]] = [{"round_robin": {}}]
DETECTION: list[dict[str, Any]] = [
    {
        "outlier_detection_experimental": {
            "interval": "0.5s",
            "failurePercentageEjection": {"threshold": 50, "minimumHosts": 3, "requestVolume": 5},
            "maxEjectionPercent": 50,
            "childPolicy": ROUND_ROBIN,
        }
    }
]


@contextmanager
def one_of_three_fails(balancing: list[dict[str, Any]], breakers: BreakerRegistry) -> Iterator[Calls]:
    """Three backends, one of which fails every call, and a channel that is connected to all of them."""
    with ExitStack() as stack:
        servers = [stack.enter_context(Attempts(it)) for it in ("ok", "ok", SICK.decode())]
        target = "ipv4:" + ",".join(it.target for it in servers)
        options = [("grpc.service_config", json.dumps({"loadBalancingConfig": balancing}))]
        channel = stack.enter_context(grpc.insecure_channel(target, options=options))
        bare = Calls(channel.unary_unary(UNARY_UNARY))
        while not all(it.made() for it in servers):
            bare(timeout=5)
        guarded = grpc.intercept_channel(channel, CircuitBreakerInterceptor(breakers, telemetry=False))
        yield Calls(guarded.unary_unary(UNARY_UNARY))


def every_hundredth(call: Calls, seconds: int) -> list[Counter[str]]:
    """A call in each hundredth of a second: what came of those of each second."""
    ended: list[Counter[str]] = [Counter() for _ in range(seconds)]
    began = time.monotonic()
    for n in range(100 * seconds):
        time.sleep(max(0.0, began + n / 100 - time.monotonic()))
        ended[n // 100][call(timeout=5)[0]] += 1
    return ended


def outlier_detection() -> None:
    """Failures by the second, by how calls are balanced; the breaker has its defaults."""
    for name, balancing in (("round robin", ROUND_ROBIN), ("outlier detection", DETECTION)):
        breakers = BreakerRegistry()
        with one_of_three_fails(balancing, breakers) as call:
            failed = [100 - it["OK"] for it in every_hundredth(call, 4)]
            state = breakers[UNARY_UNARY].state
            say(f"{name}, one of three fails: failures of each 100 calls, in a second each", f"{failed}; {state}")


def open_while_one_fails() -> None:
    """Calls after the breaker has opened for once while one of three backends goes on failing."""
    for name, policy in (
        ("defaults", BreakerPolicy()),
        ("one success closes", BreakerPolicy(half_open_max_calls=1, half_open_successes=1)),
    ):
        breakers = BreakerRegistry(default=policy)
        with one_of_three_fails(DETECTION, breakers) as call:
            breaker = breakers[UNARY_UNARY]
            while breaker.state is State.CLOSED:
                breaker.admit().failure()
            ended = dict(sum(every_hundredth(call, 20), Counter()))
            say(f"outlier detection, the breaker ({name}) has opened: what came of 2,000 calls in 20 s", ended)


# ── Hedging ───────────────────────────────────────────────────────────────────────────────────────────────────────


def hedging() -> None:
    """Attempts of a call that takes a second, where the service config asks for another every tenth of a second."""
    entry = {"hedgingPolicy": {"maxAttempts": 3, "hedgingDelay": "0.1s", "nonFatalStatusCodes": ["UNAVAILABLE"]}}
    for name, options in (("", ()), (", grpc.experimental.enable_hedging", (("grpc.experimental.enable_hedging", 1),))):
        with Attempts() as server, calling(server, entry=entry, options=options) as call:
            call(b"wait 1", timeout=5)
            say(f"hedgingPolicy with 3 attempts{name}: attempts of a slow call", server.made())


PLAYS: tuple[Callable[[], None], ...] = (
    retries_until_open,
    retries_after_an_opening,
    retry_throttling,
    timeouts,
    waiting,
    stopped_process,
    dead_network,
    pings_to_a_healthy_server,
    outlier_detection,
    open_while_one_fails,
    hedging,
)


def main() -> None:
    """Play everything, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grpc_own")
    parser.add_argument("--without-network", choices=["none", "keepalive"], help=argparse.SUPPRESS)
    name = parser.parse_args().without_network
    if name is not None:
        without_network(name)
        return
    say("grpcio", grpc.__version__)
    for play in PLAYS:
        play()


if __name__ == "__main__":
    main()
