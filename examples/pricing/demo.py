"""An outage and the recovery, with a service config and without it: `python -m examples.pricing.demo`.

It takes a quarter of a minute. It starts the pricing server as a process, lets two checkouts serve the same customers,
makes the server fail and recover, and prints what happens: the breaker's span events as they are emitted, and at the
end how long customers waited, and what each part of the service config did.

The exit code is 0 if the breaker was closed, open, half-open, open again, half-open and closed, in that order, and the
guarded checkout had a price for everything; else 1. The breaker may also open before and after that: on a very busy
machine even a server that works does not respond in time.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from examples.pricing import shop
from examples.pricing.checkout import Checkout
from examples.pricing.demo_stage import INDENT, Crowd, StateChanges, Terminal, WaitingCalls, percentile
from examples.pricing.shop import Item, Receipt, Source
from examples.pricing.switchboard import PricingServer, ServerError
from grpc_breaker import BreakerRegistry, CircuitBreakerInterceptor, State
from grpc_breaker.admin import serve_admin
from grpc_breaker.telemetry import BreakerTelemetry

GUARDED: Final = "guarded"
BARE: Final = "bare"
"""The two checkouts, by the names under which the server counts their calls."""
GET_PRICE: Final = "pricing.v1.Pricing/GetPrice"
GET_RECOMMENDATIONS: Final = "pricing.v1.Pricing/GetRecommendations"
BASKET: Final = (Item("espresso-beans", 2), Item("filter-papers"))
BASKETS_PER_SECOND: Final = 20
WORKERS: Final = 16
CONFIG: Final[dict[str, Any]] = json.loads(shop.DOCUMENT.read_text("utf-8"))
PRICE_TIMEOUT: Final = next(it["timeout"] for it in CONFIG["methodConfig"] if it["name"][0]["method"] == "GetPrice")
INTRODUCTION: Final = f"""\
Two checkouts get the same customers: {BASKETS_PER_SECOND} baskets a second each. Each has {WORKERS} workers (threads).
For a basket it calls the pricing service three times: for two prices, and for recommendations.
  {GUARDED:<8} has all that examples/pricing/resilience.json says: deadlines, retries, breakers, bulkheads, fallbacks
  {BARE:<8} has the same deadlines ({PRICE_TIMEOUT} for a price) and nothing else
Below is what happens to the pricing service, and each change of state of the guarded checkout's breaker for prices.
In another terminal, `{sys.executable} -m grpc_breaker watch` shows all its breakers meanwhile.
"""
WORKS, BLIPS, HANGS, RECOVERED = PHASES = ("it works", "one call in ten fails", "it hangs", "it works again")
"""How the pricing service was when a customer came."""
WAITS: Final = "How long customers waited for their receipt, and how many prices were not on it"
PARTS: Final = "What each part of the service config did"
"""The titles of the tables."""
EXPECTED: Final = re.compile(r"closed( open half_open){2,} closed")
CONNECTION_PATIENCE: Final = 10.0
"""Seconds to wait for a connection to the server."""
EVENT_PATIENCE: Final = 20.0
"""Seconds to wait for an expected change of state."""
FIRST_BASKETS: Final = 3
"""How many times a checkout may try to price its first basket."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long each part of the demo takes, in seconds."""

    health: float
    """The part before the server fails, and the part after it."""
    blips: float
    """How long one call in ten fails."""
    outage: float
    """How long the server hangs once the breaker is open; longer if no probe has failed by then."""


AT_LEISURE: Final = Pace(health=2.5, blips=2.5, outage=2.5)
FAST: Final = Pace(health=0.6, blips=0.4, outage=0.0)


class StoryError(Exception):
    """The demo did not go as expected; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the story."""

    crowd: Crowd
    reached: Mapping[str, int]
    """How many calls of each checkout reached the server while it hung."""
    waiting: Mapping[str, WaitingCalls]
    """The calls of each checkout that waited for the server."""
    breakers: BreakerRegistry
    """Those of the guarded checkout."""

    def lacking(self, name: str, *phases: str) -> int:
        """How many prices were not on the receipts of a checkout."""
        receipts = [it.receipt for it in self.crowd.visits if it.checkout == name and it.phase in phases]
        return sum(line.source is Source.UNAVAILABLE for receipt in receipts for line in receipt.lines)


@dataclass(frozen=True, slots=True)
class Story:
    """The outage and the recovery, with everything that takes part in them."""

    terminal: Terminal
    server: PricingServer
    crowd: Crowd
    checkouts: Mapping[str, Checkout]
    changes: StateChanges
    pace: Pace

    def run(self) -> dict[str, int]:
        """Run it; returns how many calls of each checkout reached the server while it hung."""
        self.crowd.phase = WORKS
        self.terminal.say("The pricing service works.")
        time.sleep(self.pace.health)

        self.crowd.phase = BLIPS
        self.terminal.say("One call in ten fails with UNAVAILABLE.")
        self.server.switchboard.suffer(error_rate=0.1)
        time.sleep(self.pace.blips)

        self.crowd.phase = HANGS
        time.sleep(1 / BASKETS_PER_SECOND)  # the customers who came before have their receipts
        before = self.server.switchboard.calls()
        self.terminal.say("The pricing service hangs: it accepts calls and never responds.")
        self.server.switchboard.suffer(hang=True)
        self.wait_for(State.CLOSED, State.OPEN)
        for name in (BARE, GUARDED):
            self.serve_one_more(name)
        time.sleep(self.pace.outage)
        self.wait_for(State.HALF_OPEN, State.OPEN)

        after = self.server.switchboard.calls()
        self.terminal.say("The pricing service works again. The next probes will find out.")
        self.server.switchboard.recover()
        self.crowd.phase = RECOVERED
        self.wait_for(State.HALF_OPEN, State.CLOSED)
        time.sleep(self.pace.health)
        return {name: after.get(name, 0) - before.get(name, 0) for name in (GUARDED, BARE)}

    def wait_for(self, previous: State, state: State) -> None:
        """Wait until the breaker has made this change of state, after the one that was waited for last.

        Raises:
            StoryError: It has not within `EVENT_PATIENCE`.
        """
        if not self.changes.wait_for(previous, state, EVENT_PATIENCE):
            message = f"the breaker did not go from {previous} to {state} within {EVENT_PATIENCE:.0f} s"
            raise StoryError(message)

    def serve_one_more(self, name: str) -> None:
        """Print the receipt of one more customer, who does not queue."""
        began = time.monotonic()
        receipt = self.checkouts[name].price(BASKET)
        took = milliseconds(time.monotonic() - began)
        self.terminal.say(f"The {name} checkout prices the next basket in {took}:")
        self.terminal.print(textwrap.indent(str(receipt), INDENT))


def milliseconds(seconds: float) -> str:
    """A duration as text."""
    return f"{1000 * seconds:.1f} ms"


def deadlines_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A service config with the deadlines of another, and nothing else."""
    return {"methodConfig": [{"name": it["name"], "timeout": it.get("timeout")} for it in config["methodConfig"]]}


def channel(address: str, name: str) -> grpc.Channel:
    """A channel whose calls the server counts by this name."""
    return grpc.insecure_channel(address, options=[("grpc.primary_user_agent", name)])


def traced(provider: TracerProvider, name: str, checkout: Checkout) -> Callable[[], Receipt]:
    """A checkout that prices the demo's basket inside a span, as an instrumented web framework would."""
    tracer = provider.get_tracer(__name__)

    def serve() -> Receipt:
        with tracer.start_as_current_span(f"checkout {name}"):
            return checkout.price(BASKET)

    return serve


def perform(terminal: Terminal, provider: TracerProvider, changes: StateChanges, pace: Pace) -> Outcome:
    """Run the story with a server and both checkouts; returns what came of it."""
    breakers = shop.breakers(CONFIG)
    interceptors = {
        GUARDED: CircuitBreakerInterceptor(breakers, telemetry=BreakerTelemetry(tracer_provider=provider)),
        BARE: CircuitBreakerInterceptor(shop.breakers(deadlines_of(CONFIG)), telemetry=False),
    }
    waiting = {name: WaitingCalls() for name in interceptors}
    with (
        serve_admin(breakers, allow_changes=True),
        PricingServer() as server,
        channel(server.address, GUARDED) as guarded,
        channel(server.address, BARE) as bare,
    ):
        channels = {GUARDED: guarded, BARE: bare}
        for each in channels.values():  # so that no customer waits for a connection
            grpc.channel_ready_future(each).result(CONNECTION_PATIENCE)
        checkouts = {
            name: Checkout(grpc.intercept_channel(each, interceptors[name])) for name, each in channels.items()
        }
        serve = {
            name: traced(provider, name, Checkout(grpc.intercept_channel(each, interceptors[name], waiting[name])))
            for name, each in channels.items()
        }
        if not any(checkouts[GUARDED].price(BASKET).complete for _ in range(FIRST_BASKETS)):
            message = "the guarded checkout did not get the first prices"
            raise StoryError(message)
        with Crowd(serve, per_second=BASKETS_PER_SECOND, threads=WORKERS) as crowd:
            reached = Story(terminal, server, crowd, checkouts, changes, pace).run()
    return Outcome(crowd, reached, waiting, breakers)


def show_waits(terminal: Terminal, outcome: Outcome) -> None:
    """Print how long customers waited for their receipts, and how many prices were not on them."""
    terminal.print(f"\n{terminal.styled('bold', WAITS)}\n")
    rows = [["", *(cell for name in (GUARDED, BARE) for cell in (f"{name} p50", "p99", "no price"))]]
    for phase in PHASES:
        row = [phase]
        for name in (GUARDED, BARE):
            waits = [it.waited for it in outcome.crowd.visits if (it.checkout, it.phase) == (name, phase)]
            row += [milliseconds(percentile(waits, share)) for share in (0.5, 0.99)]
            row.append(str(outcome.lacking(name, phase)))
        rows.append(row)
    terminal.table(rows)


def show_parts(terminal: Terminal, outcome: Outcome, changes: StateChanges) -> None:
    """Print what each part of the service config did."""
    snapshot = outcome.breakers.snapshot()
    prices, recommendations = snapshot[GET_PRICE], snapshot[GET_RECOMMENDATIONS]
    known, bestsellers = prices["fallbacks"].get("last-good", 0), recommendations["fallbacks"].get("function", 0)
    most = {name: f"{calls.most} of {WORKERS}" for name, calls in outcome.waiting.items()}
    probes = " ".join(f"{seconds:.2f}" for seconds in changes.failed_probes)
    rows = [
        ("retries", "calls for a price that failed and were made again", prices["retries"], "-"),
        ("last known prices", "prices given again instead of an error", known, "-"),
        ("bestsellers", "how often they took the place of recommendations", bestsellers, "-"),
        ("breakers", "calls that reached the service while it hung", outcome.reached[GUARDED], outcome.reached[BARE]),
        ("bulkheads", "workers that waited for the service at one moment, at most", most[GUARDED], most[BARE]),
        ("probe deadline", f"seconds that failed probes took; other calls for a price: {PRICE_TIMEOUT}", probes, "-"),
    ]
    terminal.print(f"\n{terminal.styled('bold', PARTS)}\n")
    terminal.table(
        [["", GUARDED, BARE], *([f"{part:<20}{did}", str(one), str(other)] for part, did, one, other in rows)]
    )


def judge(states: Sequence[str], reached: Mapping[str, int], lacking: int) -> None:
    """Check what happened: the states of the breaker, the calls that came, the guarded checkout's missing prices.

    Raises:
        StoryError: It is not what the demo is to show.
    """
    went = " ".join(states)
    if not EXPECTED.search(went):
        message = f"the span events show other changes of state: {went or 'none at all'}"
        raise StoryError(message)
    if reached[GUARDED] >= reached[BARE]:
        message = f"the breaker kept no call from the failing service: {reached}"
        raise StoryError(message)
    if lacking:
        message = f"the guarded checkout had no price, {lacking} times"
        raise StoryError(message)


def tracing(changes: StateChanges, otlp_endpoint: str | None) -> TracerProvider:
    """Tracing that prints changes of state, and exports all spans if there is an endpoint."""
    provider = TracerProvider(resource=Resource.create({"service.name": "checkout"}))
    provider.add_span_processor(changes)
    if otlp_endpoint is not None:
        if "://" not in otlp_endpoint:
            otlp_endpoint = f"http://{otlp_endpoint}"  # without a scheme the exporter uses TLS
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_endpoint, timeout=5)))
    return provider


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="a few seconds instead of a quarter of a minute")
    parser.add_argument("--otlp-endpoint", metavar="URL", help="also export the spans there, as http://localhost:4317")
    options = parser.parse_args(arguments)
    # The breaker also logs each change; without a handler, logging would print the warnings among them a second time.
    logging.getLogger("grpc_breaker").addHandler(logging.NullHandler())
    terminal = Terminal()
    changes = StateChanges(terminal, GET_PRICE)
    provider = tracing(changes, options.otlp_endpoint)
    terminal.print(INTRODUCTION)
    try:
        outcome = perform(terminal, provider, changes, FAST if options.fast else AT_LEISURE)
        show_waits(terminal, outcome)
        show_parts(terminal, outcome, changes)
        judge(changes.states, outcome.reached, outcome.lacking(GUARDED, *PHASES))
    except (StoryError, ServerError) as error:
        print(f"\nThe demo failed: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130  # what shells use after Ctrl-C
    finally:
        provider.shutdown()
    terminal.print(f"\nThe states of its breaker for prices: {' -> '.join(changes.states)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
