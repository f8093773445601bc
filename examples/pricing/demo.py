"""An outage and its end, with a circuit breaker and without: `python -m examples.pricing.demo`.

In a quarter of a minute it starts the pricing server as a process, lets two checkouts serve the same customers, makes
the server ill and well again, and prints what happens: the breaker's span events as they are emitted, and a table of
waiting times at the end.

The exit code is 0 when the breaker went the whole way, closed, open, half-open, open again, half-open, closed; else 1.
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
"""The two checkouts, as the server counts them."""
BASKET: Final = (Item("espresso-beans", 2), Item("filter-papers"))
PATIENCE: Final = 0.25
"""Seconds a checkout waits for one price."""
BASKETS_PER_SECOND: Final = 20
THREADS: Final = 4
INTRODUCTION: Final = f"""\
The same customers come to two checkouts: {BASKETS_PER_SECOND} baskets a second at each, with {THREADS} threads each.
A checkout asks the pricing service for each price, waits {PATIENCE} s at most, and without an answer
takes the last known price. One checkout has a circuit breaker before its calls, the other has none.
"""
PHASES: Final = ("before", "during", "after")
"""When a customer came, as the outage goes."""
THE_WHOLE_WAY: Final = re.compile(r"closed( open half_open){2,} closed")
EVENT_PATIENCE: Final = 10.0
"""Seconds to wait for a state change that must come."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long the story dwells, in seconds."""

    health: float
    """Before the outage, and after it."""
    outage: float
    """On the server hanging, at least: until the first probe has failed."""
    reset_timeout: float
    """The breaker's open period."""


AT_LEISURE: Final = Pace(health=3.0, outage=4.0, reset_timeout=2.5)
FAST: Final = Pace(health=0.6, outage=0.7, reset_timeout=0.5)


class StoryError(Exception):
    """The story did not happen; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Story:
    """The outage and its end, once the stage is set."""

    terminal: Terminal
    server: PricingServer
    crowd: Crowd
    checkouts: Mapping[str, Checkout]
    changes: StateChanges
    pace: Pace

    def tell(self) -> dict[str, int]:
        """Let it happen; answer how many calls of each checkout reached the server while it was ill."""
        self.crowd.phase = "before"
        self.terminal.say("The pricing service is well.")
        time.sleep(self.pace.health)

        self.crowd.phase = "during"
        before = self.server.switchboard.calls()
        self.terminal.say("The pricing service gets ill: each call takes 0.1 s, and 4 of 5 fail.")
        self.server.switchboard.suffer(latency_ms=100, error_rate=0.8)
        self.wait_for(State.CLOSED, State.OPEN)
        self.terminal.say("It gets worse: it takes calls and never answers.")
        self.server.switchboard.suffer(hang=True)
        for name in (WITH, WITHOUT):
            self.serve_one_more(name)
        time.sleep(self.pace.outage)
        self.wait_for(State.HALF_OPEN, State.OPEN)

        self.crowd.phase = "after"
        after = self.server.switchboard.calls()
        self.terminal.say("The pricing service is well again. The next probes will find out.")
        self.server.switchboard.recover()
        self.wait_for(State.HALF_OPEN, State.CLOSED)
        time.sleep(self.pace.health)
        return {name: after.get(name, 0) - before.get(name, 0) for name in (WITH, WITHOUT)}

    def wait_for(self, previous: State, state: State) -> None:
        """Wait until the breaker has changed so.

        Raises:
            StoryError: It has not, for a long time.
        """
        if not self.changes.wait_for(previous, state, EVENT_PATIENCE):
            message = f"the breaker did not go from {previous} to {state} within {EVENT_PATIENCE:.0f} s"
            raise StoryError(message)

    def serve_one_more(self, name: str) -> None:
        """Show the receipt of one more customer, who need not queue."""
        began = time.monotonic()
        receipt = self.checkouts[name].price(BASKET)
        took = milliseconds(time.monotonic() - began)
        self.terminal.say(f"At the checkout {name.replace('-', ' ')} the next basket is priced in {took}:")
        self.terminal.print(textwrap.indent(str(receipt), INDENT))


def milliseconds(seconds: float) -> str:
    """A duration for a person."""
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
    """Set the stage, tell the story, clear the stage."""
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
        serve = {name: traced(provider, name, checkout) for name, checkout in checkouts.items()}
        with Crowd(serve, per_second=BASKETS_PER_SECOND, threads=THREADS) as crowd:
            reached = Story(terminal, server, crowd, checkouts, changes, pace).tell()
    return crowd, reached


def summarise(terminal: Terminal, crowd: Crowd, reached: Mapping[str, int]) -> None:
    """Print how long customers waited, and what the ill server had to bear."""
    title = "How long customers waited for their receipt, by when they came: before the outage, during it, after it"
    terminal.print(f"\n{terminal.styled('bold', title)}\n")
    rows = [["", *(f"{phase} {share}" for phase in PHASES for share in ("p50", "p99")), "calls to the ill service"]]
    for name in (WITH, WITHOUT):
        waits = {phase: [v.waited for v in crowd.visits if (v.checkout, v.phase) == (name, phase)] for phase in PHASES}
        cells = [milliseconds(percentile(waits[phase], share)) for phase in PHASES for share in (0.5, 0.99)]
        rows.append([name.replace("-", " "), *cells, str(reached[name])])
    terminal.table(rows)


def judge(states: Sequence[str], reached: Mapping[str, int]) -> None:
    """Hold what happened against the story.

    Raises:
        StoryError: It is another story.
    """
    went = " ".join(states)
    if not THE_WHOLE_WAY.fullmatch(went):
        message = f"the span events tell of another way: {went or 'no state change at all'}"
        raise StoryError(message)
    if reached[WITH] >= reached[WITHOUT]:
        message = f"the breaker kept no call from the ill service: {reached}"
        raise StoryError(message)


def tracing(changes: StateChanges, otlp_endpoint: str | None) -> TracerProvider:
    """Tracing that prints state changes, and exports all spans to a backend where one is named."""
    provider = TracerProvider(resource=Resource.create({"service.name": "checkout"}))
    provider.add_span_processor(changes)
    if otlp_endpoint is not None:
        if "://" not in otlp_endpoint:
            otlp_endpoint = f"http://{otlp_endpoint}"  # else the exporter takes it for TLS
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_endpoint, timeout=5)))
    return provider


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; answer the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="a few seconds instead of a quarter of a minute")
    parser.add_argument("--otlp-endpoint", metavar="URL", help="also export the spans there, as http://localhost:4317")
    options = parser.parse_args(arguments)
    # The breaker logs each change too, and the log would print the warnings among them a second time.
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
        print(f"\nThe story did not happen: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nThe story was left.", file=sys.stderr)
        return 130  # as a shell calls it
    finally:
        provider.shutdown()
    terminal.print(
        f"\nThe breaker kept {reached[WITHOUT] - reached[WITH]} of {reached[WITHOUT]} calls from the ill service.\n"
        f"It went the whole way: {' -> '.join(changes.states)}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
