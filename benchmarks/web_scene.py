"""A shop on a bad night, as the live page of `grpc-breaker web` sees it: what its pictures show.

Ten minutes are played into the page's own merged state by a clock that is turned, so a picture takes no ten minutes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from grpc_breaker import BreakerPolicy
from grpc_breaker._web.fleet import Fleet
from grpc_breaker.admin.v1 import admin_pb2 as pb

MINUTES: Final = 10
STEP: Final = 5
SERVICES: Final = {
    "pricing.v1.Pricing": ["GetPrice", "ListPrices", "QuoteBasket", "GetDiscount"],
    "inventory.v1.Inventory": ["Reserve", "Release", "GetStock", "WatchStock"],
    "payments.v1.Payments": ["Authorize", "Capture", "Refund", "GetMethods"],
    "shipping.v1.Shipping": ["Quote", "Book", "Track"],
    "accounts.v1.Accounts": ["GetProfile", "UpdateProfile", "Login"],
    "carts.v1.Carts": ["Get", "AddItem", "RemoveItem", "Merge"],
    "search.v1.Search": ["Query", "Suggest"],
    "recommendations.v2.Recommendations": ["ForUser", "ForBasket"],
    "tax.v1.Tax": ["Calculate"],
    "fraud.v1.Fraud": ["Score", "Report"],
    "orders.v1.Orders": ["Place", "Get", "List", "Cancel"],
    "notifications.v1.Notifications": ["SendMail", "SendPush"],
    "reviews.v1.Reviews": ["List", "Add"],
    "loyalty.v1.Loyalty": ["GetPoints", "Redeem"],
    "media.v1.Images": ["GetUrl", "Resize"],
    "translations.v1.Translations": ["Lookup"],
}
REFUSED: Final = (
    "UNAVAILABLE",
    "failed to connect to all addresses; last error: ipv4:10.8.3.17:50051: connection refused",
)
LATE: Final = ("DEADLINE_EXCEEDED", "Deadline Exceeded")
BROKEN: Final = ("INTERNAL", 'pq: too many connections for role "payments"')


class Now(NamedTuple):
    """What a breaker of one process does at one time."""

    state: pb.State.ValueType
    calls: float
    """Per second, those that are refused among them."""
    failed: float = 0.0
    """Which share of the calls that are made fails."""
    condition: str = ""
    since: float = -1.0
    """In seconds of the scene; negative for never."""
    failure: tuple[str, str] | None = None
    hold: tuple[str, float] | None = None
    """Why, and until when."""
    in_flight: int = 0
    hung: int = 0


def outage(began: float, calls: float, failure: tuple[str, str], condition: str) -> Any:
    """A server that is gone: open periods that double, with a probe between them."""

    def at(seconds: float) -> Now:
        if seconds < began:
            return Now(pb.STATE_CLOSED, calls, 0.002, in_flight=2)
        start, period = began, 10.0
        while seconds >= start + period:
            start, period = start + period, min(80.0, 2 * period)
        if start > began and seconds < start + STEP:
            return Now(pb.STATE_HALF_OPEN, calls, 0.5, "reset_timeout", start, failure, in_flight=1)
        return Now(pb.STATE_OPEN, calls, 0.0, condition if start == began else "probe_failed", start, failure)

    return at


def recovering(began: float, over: float, calls: float, failure: tuple[str, str]) -> Any:
    """An outage that is over: half-open at the end."""
    ill = outage(began, calls, failure, "failure_rate")

    def at(seconds: float) -> Now:
        if seconds >= over:
            return Now(pb.STATE_HALF_OPEN, calls, 0.02, "reset_timeout", over, failure, in_flight=1)
        return ill(seconds)

    return at


def shaky(calls: float, share: float, failure: tuple[str, str], hung: int = 0) -> Any:
    """Closed, with some failures."""

    def at(seconds: float) -> Now:
        now = share * (1.8 if seconds % 170 < 60 else 0.4)
        return Now(pb.STATE_CLOSED, calls, now, failure=failure, in_flight=4 + hung, hung=hung)

    return at


def held(began: float, until: float, calls: float, reason: str, state: pb.State.ValueType) -> Any:
    """Held by an operator."""
    condition = "forced_open" if state == pb.STATE_FORCED_OPEN else "disabled"

    def at(seconds: float) -> Now:
        if seconds < began:
            return Now(pb.STATE_CLOSED, calls, 0.05 if state == pb.STATE_FORCED_OPEN else 0.01, failure=LATE)
        return Now(state, calls, 0.02, condition, began, LATE, (reason, until))

    return at


def well(calls: float) -> Any:
    """As it should be."""
    return lambda _: Now(pb.STATE_CLOSED, calls, 0.0, in_flight=round(calls / 10))


def names(number: int) -> list[str]:
    """So many breakers of the shop: its methods, then the same ones at more and more targets."""
    methods = [f"{service}/{method}" for service, its in SERVICES.items() for method in its]
    targets = ["", *(f"@{region}-{zone}" for region in ("eu", "us", "ap", "sa") for zone in (1, 2, 3))]
    return [f"{method}{target}" for target in targets for method in methods][:number]


class Scene:
    """The shop. It is also what the page asks for details: `stub` is of any of its processes."""

    def __init__(self, fleet: Fleet, breakers: int, processes: int, clock: list[float]) -> None:
        self.fleet = fleet
        self.clock = clock
        self.processes = [
            pb.Process(
                pid=4100 + 37 * number,
                host=f"shop-{1 + number // 4}" if processes > 4 else "shop-1",
                program=("checkout", "storefront", "worker")[number % 3],
                started=Timestamp(seconds=1),
                version="0.1.0",
                allow_changes=True,
            )
            for number in range(processes)
        ]
        everything = [
            "pricing.v1.Pricing/GetPrice",
            "payments.v1.Payments/Authorize",
            "inventory.v1.Inventory/Reserve",
            "shipping.v1.Shipping/Quote",
            "accounts.v1.Accounts/GetProfile",
        ]
        self.names = (everything + [it for it in names(breakers + 5) if it not in everything])[:breakers]
        self.counts: dict[tuple[int, str], list[float]] = {}
        self.began = clock[0]

    def plot(self, process: int, name: str) -> Any:  # noqa: PLR0911 - a story each
        """What happens to one breaker in one process."""
        end = MINUTES * 60
        if name == "pricing.v1.Pricing/GetPrice":
            if len(self.processes) > 4 and process >= 18:
                return shaky(9, 0.02, LATE)
            return outage(end - 212 - process % 3, 24, REFUSED, "consecutive_failures")
        if name == "inventory.v1.Inventory/Reserve":
            return (
                recovering(end - 390, end - 4, 6, LATE) if process % 2 == 0 else recovering(end - 380, end - 3, 6, LATE)
            )
        if name == "shipping.v1.Shipping/Quote":
            return held(end - 340, end + 560, 3, "carrier migrates its API, INC-2291", pb.STATE_FORCED_OPEN)
        if name == "payments.v1.Payments/Authorize":
            return shaky(8, 0.06, BROKEN, hung=2 if process == 0 else 0)
        if name == "reviews.v1.Reviews/List":
            return held(end - 100, end + 1700, 2, "opens on slow thumbnails, fix in 4.2", pb.STATE_DISABLED)
        if name == "fraud.v1.Fraud/Score@eu-1" and process < 5:
            return outage(end - 38, 7, LATE, "failure_rate")
        if name in {"search.v1.Search/Suggest", "media.v1.Images/GetUrl@us-2"}:
            return shaky(5, 0.03, LATE)
        return well(random.Random(f"{name}{process % 3}").choice([0, 0, 0.2, 0.5, 1, 3, 8]))

    def breaker(self, process: int, name: str, seconds: float, step: float) -> pb.Breaker:
        """What one process says of one breaker at a time of the scene."""
        now = self.plot(process, name)(seconds)
        counts = self.counts.setdefault((process, name), [0.0, 0.0, 0.0])
        refuses = now.state in {pb.STATE_OPEN, pb.STATE_FORCED_OPEN}
        made = 0.0 if refuses else min(now.calls, 1.0) if now.state == pb.STATE_HALF_OPEN else now.calls
        failed = made * now.failed
        for index, rate in enumerate((made - failed, failed, now.calls - made)):
            counts[index] += step * rate
        said = pb.Breaker(
            name=name,
            state=now.state,
            condition=now.condition,
            in_flight=now.in_flight,
            hung=now.hung,
            enforced=True,
            successes=int(counts[0]),
            failures=int(counts[1]),
            rejected=int(counts[2]),
        )
        if now.since >= 0:
            said.since.FromNanoseconds(int(1e9 * (self.began + now.since)))
        if now.failure is not None:
            said.last_failure.CopyFrom(pb.Failure(status=now.failure[0], details=now.failure[1]))
        if now.hold is not None:
            said.hold.reason = now.hold[0]
            said.hold.remaining.CopyFrom(Duration(seconds=int(now.hold[1] - seconds)))
        if now.state == pb.STATE_OPEN:
            said.retry_after.CopyFrom(Duration(seconds=17))
        return said

    def play(self) -> None:
        """The ten minutes until now."""
        live = self.names if len(self.names) < 50 else [it for it in self.names if not self._is_calm(it)]
        for number, about in enumerate(self.processes):
            self.fleet.add(target(number))
            everything = [self.breaker(number, name, 0, 0) for name in self.names]
            self.fleet.connected(target(number), about, everything, polled=False)
        last = MINUTES * 60
        for seconds in range(STEP, last + 1, STEP):
            self.clock[0] = self.began + seconds
            if seconds == last - 40 and len(self.processes) > 4:
                self.fleet.lost(
                    target(22), "UNAVAILABLE: connections to all backends failing; last error: connection refused"
                )
            self.step(live if seconds < last - 15 else self.names, seconds, STEP)
            self.fleet.publish()

    def _is_calm(self, name: str) -> bool:
        return all(
            self.plot(it, name)(400).failed == 0 and self.plot(it, name)(400).state == pb.STATE_CLOSED
            for it in range(3)
        )

    def step(self, names: list[str], seconds: float, step: float) -> None:
        """What all processes say at one time."""
        for number in range(len(self.processes)):
            if number == 22 and seconds > MINUTES * 60 - 40:
                continue  # it cannot be reached
            breakers = [self.breaker(number, name, seconds, step) for name in names]
            self.fleet.updated(target(number), pb.WatchBreakersResponse(breakers=breakers))

    def stub(self, address: str) -> Any:
        """What asks one of the processes."""
        return _Stub(self, int(address.rpartition("-")[2]))

    def details(self, process: int, name: str) -> pb.GetBreakerResponse:
        """Everything about one breaker of one process."""
        end = self.clock[0] - self.began
        plot = self.plot(process, name)
        now = plot(end)
        snapshot = Struct()
        failures = [] if now.failure is None else [{"status": now.failure[0], "details": now.failure[1]}]
        snapshot.update(
            {"last_failures": failures, "policy": {k: v for k, v in BreakerPolicy().as_dict().items() if v is not None}}
        )
        return pb.GetBreakerResponse(
            breaker=self.breaker(process, name, end, 0),
            snapshot=snapshot,
            changes=list(self._changes(plot, name, end))[-10:],
        )

    def _changes(self, plot: Any, name: str, end: float) -> Iterator[pb.StateChange]:
        before = plot(0)
        for seconds in range(1, int(end) + 1):
            now = plot(seconds)
            if now.state != before.state:
                status, details = now.failure if now.failure and now.state == pb.STATE_OPEN else ("", "")
                if now.hold is not None:
                    details = now.hold[0]
                yield pb.StateChange(
                    breaker=name,
                    previous=before.state,
                    state=now.state,
                    reason=now.condition,
                    status=status,
                    details=details,
                    calls=20 if status else 0,
                    failures=14 if status else 0,
                    time=Timestamp(seconds=int(self.began + seconds)),
                )
            before = now


class _Stub:
    def __init__(self, scene: Scene, process: int) -> None:
        self._scene, self._process = scene, process
        self.GetBreaker = self

    def future(self, request: Any, timeout: float) -> Any:
        answer = self._scene.details(self._process, request.name)
        return type("Done", (), {"result": lambda _: answer})()


def target(number: int) -> str:
    """The address of a process."""
    return f"unix:/run/user/1000/grpc_breaker/process-{number}"


def begin(breakers: int, processes: int) -> tuple[Fleet, Scene]:
    """The shop now, with its last ten minutes."""
    clock = [time.time() - MINUTES * 60]
    fleet = Fleet(lambda: clock[0])
    scene = Scene(fleet, breakers, processes, clock)
    scene.play()
    return fleet, scene
