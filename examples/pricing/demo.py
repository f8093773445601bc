"""An outage and the recovery, with a circuit breaker and without: `python -m examples.pricing.demo`.

It takes a quarter of a minute. It starts the pricing server as a process, lets two checkouts serve the same customers,
makes the server fail and recover, and prints what happens: the breaker's span events as they are emitted, and a table
of waiting times at the end.

The exit code is 0 if the breaker was closed, open, half-open, open again, half-open and closed, in that order; else 1.
It may also open before and after that: on a very busy machine even a server that works does not respond in time.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from examples.pricing.checkout import Checkout
from examples.pricing.demo_stage import INDENT, Crowd, StateChanges, Terminal, percentile
from examples.pricing.shop import Item, Receipt
from examples.pricing.switchboard import PricingServer, ServerError
from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, State
from grpc_breaker.telemetry import BreakerTelemetry

WITH: Final = "with-a-breaker"
WITHOUT: Final = "without-a-breaker"
"""The two checkouts, by the names under which the server counts their calls."""
BASKET: Final = (Item("espresso-beans", 2), Item("filter-papers"))
PATIENCE: Final = 0.25
"""Seconds that a checkout waits for one price."""
BASKETS_PER_SECOND: Final = 20
THREADS: Final = 4
INTRODUCTION: Final = f"""\
Two checkouts get the same customers: {BASKETS_PER_SECOND} baskets a second each, served by {THREADS} threads each.
A checkout calls the pricing service for each price, waits {PATIENCE} s at most, and without a response
uses the last known price. One checkout has a circuit breaker, the other has none.
"""
PHASES: Final = ("before", "during", "after")
"""When a customer came: before, during or after the outage."""
EXPECTED: Final = re.compile(r"closed( open half_open){2,} closed")
CONNECTION_PATIENCE: Final = 10.0
"""Seconds to wait for a connection to the server."""
EVENT_PATIENCE: Final = 10.0
"""Seconds to wait for an expected change of state."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long each part of the demo takes, in seconds."""

    health: float
    """The part before the outage, and the part after it."""
    outage: float
    """How long the server hangs; longer if the first probe has not failed by then."""
    reset_timeout: float
    """The breaker's open period."""


AT_LEISURE: Final = Pace(health=3.0, outage=4.0, reset_timeout=2.5)
FAST: Final = Pace(health=0.6, outage=0.7, reset_timeout=1.0)


class StoryError(Exception):
    """The demo did not go as expected; the message says what is missing."""


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
        """Run it; returns how many calls of each checkout reached the server during the outage."""
        self.crowd.phase = "before"
        self.terminal.say("The pricing service works.")
        time.sleep(self.pace.health)

        self.crowd.phase = "during"
        before = self.server.switchboard.calls()
        self.terminal.say("The pricing service begins to fail: each call takes 0.1 s, and 4 of 5 fail.")
        self.server.switchboard.suffer(latency_ms=100, error_rate=0.8)
        self.wait_for(State.CLOSED, State.OPEN)
        self.terminal.say("It gets worse: it accepts calls and never responds.")
        self.server.switchboard.suffer(hang=True)
        for name in (WITH, WITHOUT):
            self.serve_one_more(name)
        time.sleep(self.pace.outage)
        self.wait_for(State.HALF_OPEN, State.OPEN)

        self.crowd.phase = "after"
        after = self.server.switchboard.calls()
        self.terminal.say("The pricing service works again. The next probes will find out.")
        self.server.switchboard.recover()
        self.wait_for(State.HALF_OPEN, State.CLOSED)
        time.sleep(self.pace.health)
        return {name: after.get(name, 0) - before.get(name, 0) for name in (WITH, WITHOUT)}

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
        self.terminal.say(f"The checkout {name.replace('-', ' ')} prices the next basket in {took}:")
        self.terminal.print(textwrap.indent(str(receipt), INDENT))


def milliseconds(seconds: float) -> str:
    """A duration as text."""
    return f"{1000 * seconds:.1f} ms"


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


def perform(
    terminal: Terminal, provider: TracerProvider, changes: StateChanges, pace: Pace
) -> tuple[Crowd, dict[str, int]]:
    """Run the story with a server and both checkouts; returns the customers and the result of `Story.run`."""
    policy = BreakerPolicy(
        failure_threshold=5,
        failure_rate=None,
        consecutive_failures=None,
        reset_timeout=pace.reset_timeout,
        half_open_max_calls=2,
    )
    breakers = BreakerRegistry({"pricing.v1.Pricing": policy}, default=None)
    interceptor = CircuitBreakerInterceptor(breakers, telemetry=BreakerTelemetry(tracer_provider=provider))
    with (
        PricingServer() as server,
        channel(server.address, WITH) as guarded,
        channel(server.address, WITHOUT) as bare,
    ):
        checkouts = {
            WITH: Checkout(grpc.intercept_channel(guarded, interceptor), patience=PATIENCE),
            WITHOUT: Checkout(bare, patience=PATIENCE),
        }
        for each in (guarded, bare):  # so that no customer waits for a connection
            grpc.channel_ready_future(each).result(CONNECTION_PATIENCE)
        serve = {name: traced(provider, name, checkout) for name, checkout in checkouts.items()}
        with Crowd(serve, per_second=BASKETS_PER_SECOND, threads=THREADS) as crowd:
            reached = Story(terminal, server, crowd, checkouts, changes, pace).run()
    return crowd, reached


def summarise(terminal: Terminal, crowd: Crowd, reached: Mapping[str, int]) -> None:
    """Print how long customers waited, and how many calls the failing server got."""
    title = "How long customers waited for their receipt, by when they came: before the outage, during it, after it"
    terminal.print(f"\n{terminal.styled('bold', title)}\n")
    rows = [["", *(f"{phase} {share}" for phase in PHASES for share in ("p50", "p99")), "calls in the outage"]]
    for name in (WITH, WITHOUT):
        waits = {phase: [v.waited for v in crowd.visits if (v.checkout, v.phase) == (name, phase)] for phase in PHASES}
        cells = [milliseconds(percentile(waits[phase], share)) for phase in PHASES for share in (0.5, 0.99)]
        rows.append([name.replace("-", " "), *cells, str(reached[name])])
    terminal.table(rows)


def judge(states: Sequence[str], reached: Mapping[str, int]) -> None:
    """Check what happened.

    Raises:
        StoryError: It is not what the demo is to show.
    """
    went = " ".join(states)
    if not EXPECTED.search(went):
        message = f"the span events show other changes of state: {went or 'none at all'}"
        raise StoryError(message)
    if reached[WITH] >= reached[WITHOUT]:
        message = f"the breaker kept no call from the failing service: {reached}"
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
    changes = StateChanges(terminal)
    provider = tracing(changes, options.otlp_endpoint)
    terminal.print(INTRODUCTION)
    try:
        crowd, reached = perform(terminal, provider, changes, FAST if options.fast else AT_LEISURE)
        summarise(terminal, crowd, reached)
        judge(changes.states, reached)
    except (StoryError, ServerError) as error:
        print(f"\nThe demo failed: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130  # what shells use after Ctrl-C
    finally:
        provider.shutdown()
    terminal.print(
        f"\nThe breaker kept {reached[WITHOUT] - reached[WITH]} of {reached[WITHOUT]} calls from the failing service.\n"
        f"Its states: {' -> '.join(changes.states)}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
