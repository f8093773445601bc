"""One play of a scenario: its clock, its servers, its outages, and what came of each client's calls.

All times of a scenario are seconds of a *scaled clock*, which runs `speed` times as fast as the real one. Breakers are
given that clock; periods of grpcio and of peers, deadlines and pauses are divided by the speed. What cannot be scaled:
how long a call takes on this machine, how long a process takes to start, grpcio's least back-off between connections
(0.1 s), and the 0.05 s for which grpc_breaker waits whether headers are followed by a failure.

A scenario says itself when a server is unwell (`with play.outage():`), so whether an opening was right, and whether a
refused call would have been served, is judged by that schedule and by nothing that a breaker saw.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.scenarios.clients import CLIENTS, Client, Record, Traffic
from tests.scenarios.environment import LoadBalancer, Loop, Nginx
from tests.support.server import ServerProcess


@dataclass(frozen=True)
class Scenario:
    """What happens, and who calls meanwhile."""

    name: str
    perform: Callable[..., object]
    """Called with the play and `arguments`."""
    speed: float
    worlds: tuple[str, ...] = ("threads",)
    nginx: bool = False
    """Whether it needs nginx."""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What it is, for the reader of the table: the docstring of `perform`, filled in with `arguments`."""
        words = {
            name: {True: "yes", False: "no"}[it] if it is True or it is False else it
            for name, it in self.arguments.items()
        }
        return " ".join((self.perform.__doc__ or "").split()).format(**words)


@dataclass
class Outage:
    """When a server was unwell, in seconds of the play."""

    began: float
    opens: bool
    """Whether a breaker should open."""
    ended: float = math.inf


@dataclass
class Play:
    """What a scenario does things with."""

    speed: float
    worlds: Sequence[str]
    names: Sequence[str]
    """Of the clients."""
    rng: random.Random
    clients: list[Client] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    records: Path | None = None
    """A folder for records of the traffic of `bare` and grpc_breaker; `None`: none are made."""
    words: tuple[object, ...] = ()
    """How they are called."""
    ended: float = math.inf
    """When it ended, in seconds of the play."""
    _began: float = 0.0
    _stack: ExitStack = field(default_factory=ExitStack)
    _loop: Loop | None = None

    def __enter__(self) -> Self:
        if "asyncio" in self.worlds:
            self._loop = Loop()
            self._stack.callback(self._loop.close)
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self._stack.close()

    # ── Time ──

    def clock(self) -> float:
        """The scaled clock, for breakers."""
        return time.monotonic() * self.speed

    def now(self) -> float:
        """Scaled seconds since the first call."""
        return self.clock() - self._began

    def real(self, seconds: float) -> float:
        """How long scaled seconds really take."""
        return seconds / self.speed

    def sleep(self, seconds: float) -> None:
        """Let the clients call for so long."""
        time.sleep(self.real(seconds))

    # ── What there is ──

    def server(self, **settings: Any) -> ServerProcess:
        """A server in a process of its own, which listens when this returns."""
        process = self._stack.enter_context(ServerProcess(**{"threads": 600, **settings}))
        assert process.port
        return process

    def load_balancer(self, server: ServerProcess, *, idle: float | None = None) -> LoadBalancer:
        """A TCP load balancer before a server; `idle` in scaled seconds."""
        made = LoadBalancer(server.target, idle=None if idle is None else self.real(idle))
        self._stack.callback(made.close)
        return made

    def nginx(self, server: ServerProcess, http: str = "") -> Nginx:
        """An nginx before a server."""
        made = Nginx(server.target, http=http)
        self._stack.callback(made.close)
        return made

    @contextmanager
    def outage(self, *, opens: bool = True) -> Iterator[None]:
        """The server is unwell in this block; `opens` says whether a breaker should open."""
        outage = Outage(self.now(), opens)
        self.outages.append(outage)
        yield
        outage.ended = self.now()

    # ── Who calls ──

    def start(self, target: str, traffic: Traffic, options: Sequence[tuple[str, Any]] = ()) -> None:
        """Have every client call `target` like this, until the play stops, or until its calls are made."""
        self.clients = [
            CLIENTS[name](self, world, traffic)
            for world in self.worlds
            for name in self.names
            if world in CLIENTS[name].worlds
        ]
        self._began = self.clock()
        for client in self.clients:
            client.start(target, [*self._options(), *options], self._loop)

    def _options(self) -> list[tuple[str, int]]:
        """The defaults of grpcio defaults for its back-off, scaled; and connections that clients do not share."""
        return [
            ("grpc.initial_reconnect_backoff_ms", int(1000 / self.speed)),
            ("grpc.min_reconnect_backoff_ms", max(1000, int(20_000 / self.speed))),
            ("grpc.max_reconnect_backoff_ms", int(120_000 / self.speed)),
            ("grpc.use_local_subchannel_pool", 1),
        ]

    def wait(self) -> None:
        """Wait until every client has made its calls; for traffic with a number of them."""
        for client in self.clients:
            client.wait()

    def stop(self) -> None:
        """End the calls."""
        if self.ended == math.inf:
            self.ended = self.now()
            for client in self.clients:
                client.stopping.set()
                client.stop_recording()
            for client in self.clients:
                client.stop()

    def results(self) -> dict[tuple[str, str], Result]:
        """What came of each client's calls, by world and name."""
        assert self.ended < math.inf
        return {(it.world, it.name): self._result(it.record, it.traffic, self.ended) for it in self.clients}

    def _result(self, record: Record, traffic: Traffic, end: float) -> Result:
        calls = sorted(record.calls)
        openings = [(at, before) for at, before, after in record.changes if after == "open"]
        wrong = [it for it in openings if not self._unwell(it[0])]
        served = [came for at, came, doomed in calls if not (doomed or self._unwell(at))]
        result = Result(
            calls=len(calls),
            lost=sum(came == "lost" for _, came, _ in calls),
            refused=sum(came == "refused" for _, came, _ in calls),
            calls_well=len(served),
            lost_well=served.count("lost"),
            refused_well=served.count("refused"),
            openings=sum(before == "closed" for _, before in openings),
            reopenings=sum(before != "closed" for _, before in openings),
            wrong=sum(before == "closed" for _, before in wrong),
            wrong_again=sum(before != "closed" for _, before in wrong),
            closed_unwell=sum(after == "closed" and self._unwell(at) for at, _, after in record.changes),
            reached=sum(self._unwell(at) for at in record.sent) if self.outages else None,
        )
        for number, outage in enumerate(self.outages):
            open_at = _first_open(record.changes, outage)
            if outage.opens and record.breaks:
                if open_at is None:
                    result.missed += 1
                else:
                    result.to_open.append(open_at - outage.began)
            until = self.outages[number + 1].began if number + 1 < len(self.outages) else end
            result.to_recover.append(_recovered(calls, outage.ended, until))
        if traffic.watches:
            result.watched = record.watched / (traffic.callers * end)
        return result

    def _unwell(self, at: float) -> bool:
        return any(it.began <= at <= it.ended for it in self.outages)


def _first_open(changes: Sequence[tuple[float, str, str]], outage: Outage) -> float | None:
    """When in an outage a breaker was first open."""
    state = "closed"
    for at, _, after in changes:
        if at > outage.ended:
            break
        if at > outage.began and after == "open":
            return at
        state = after
    return outage.began if state == "open" else None


def _recovered(calls: Sequence[tuple[float, str, bool]], well: float, until: float) -> float:
    """Seconds from the end of an outage until the last call that was not served; infinite if none was after it."""
    after = [(at, came) for at, came, doomed in calls if well < at <= until and not doomed]
    bad = [at for at, came in after if came != "ok"]
    if not bad:
        return 0.0
    return bad[-1] - well if after[-1][1] == "ok" else math.inf


@dataclass
class Result:
    """What came of one client's calls in one play. Times are scaled seconds."""

    calls: int = 0
    lost: int = 0
    """Failed."""
    refused: int = 0
    calls_well: int = 0
    """Made while the server was well, and not such as no well server would have served."""
    lost_well: int = 0
    """Of those, failed."""
    refused_well: int = 0
    """Of those, refused: a client without a breaker would have been served."""
    openings: int = 0
    reopenings: int = 0
    """From half-open."""
    wrong: int = 0
    """Openings while the server was well."""
    wrong_again: int = 0
    """From half-open."""
    missed: int = 0
    """Outages in which the breaker never opened."""
    closed_unwell: int = 0
    """Closed while the server was not well."""
    to_open: list[float] = field(default_factory=list)
    to_recover: list[float] = field(default_factory=list)
    reached: int | None = None
    """Calls that were sent in an outage; `None` without one."""
    watched: float | None = None
    """Share of the time in which a watch was up; `None` where nobody watches."""

    @property
    def not_served_well(self) -> float:
        """Of the calls made while the server was well, the share that failed or was refused."""
        return (self.lost_well + self.refused_well) / max(1, self.calls_well)


def play(
    it: Scenario, seed: int, names: Sequence[str] = tuple(CLIENTS), records: Path | None = None
) -> dict[tuple[str, str], Result]:
    """Play a scenario once, with the clients of these names side by side; `records`: see `Play.records`."""
    rng = random.Random(f"{it.name} {seed}")
    with Play(it.speed, it.worlds, names, rng, records=records, words=(it.name, f"seed {seed}")) as playing:
        it.perform(playing, **it.arguments)
        playing.stop()
        return playing.results()
