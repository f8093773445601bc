"""The demo's customers, and what it prints of them and of the breaker."""

from __future__ import annotations

import math
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import grpc
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor

from examples.pricing.shop import Receipt
from grpc_breaker import State

STATE_CHANGE: Final = "grpc_breaker.state_change"
SHOWN: Final = (
    "grpc_breaker.name",
    "grpc_breaker.reason",
    "grpc_breaker.window.failures",
    "grpc_breaker.window.calls",
    "grpc_breaker.retry_after",
    "rpc.status_code",
)
"""The attributes of a state change that are printed; a tracing backend gets all of them."""
INDENT: Final = " " * 13
WIDTH: Final = 110
STYLES: Final = {"bold": "1", "dim": "2", "closed": "32", "open": "31", "half_open": "33"}
"""ANSI codes by style; the name of a state is a style, too."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One customer's visit to a checkout."""

    checkout: str
    phase: str
    """The phase of the demo in which the customer came."""
    waited: float
    """Seconds from arrival to receipt, including the time in the queue."""
    receipt: Receipt


class Crowd:
    """Customers who come at a constant rate, whether or not those before them have been served.

    Each checkout serves them with a few threads of its own, as a web server would. A queue grows if they come faster
    than they are served. A context manager: at its end no more customers come, and those in the queues are served.
    """

    def __init__(self, checkouts: Mapping[str, Callable[[], Receipt]], *, per_second: float, threads: int) -> None:
        """Customers for these checkouts, by name: at each, `per_second` customers and `threads` threads."""
        self.phase = ""
        """The phase that is noted for customers who come now."""
        self.visits: list[Visit] = []
        self._checkouts = checkouts
        self._interval = 1 / per_second
        self._pools = {name: ThreadPoolExecutor(threads, thread_name_prefix=name) for name in checkouts}
        self._stop = threading.Event()
        self._arrivals = threading.Thread(target=self._arrive, name="arrivals")

    def __enter__(self) -> Self:
        self._arrivals.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._arrivals.join()
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=error is not None)

    def _arrive(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            for name, pool in self._pools.items():
                pool.submit(self._serve, name, self.phase, due)
            due += self._interval

    def _serve(self, name: str, phase: str, came: float) -> None:
        receipt = self._checkouts[name]()
        self.visits.append(Visit(name, phase, time.monotonic() - came, receipt))


class WaitingCalls(grpc.UnaryUnaryClientInterceptor):
    """Counts the calls that wait for the server: each holds a worker of its checkout.

    It goes inside the breaker's interceptor, and so does not see the calls that are refused.
    """

    def __init__(self) -> None:
        """No calls yet."""
        self.most = 0
        """How many waited at one moment, at most."""
        self._waiting = 0
        self._lock = threading.Lock()

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Count a call while it runs."""
        self._add(1)
        try:
            return continuation(client_call_details, request)
        finally:
            self._add(-1)

    def _add(self, number: int) -> None:
        with self._lock:
            self._waiting += number
            self.most = max(self.most, self._waiting)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; NaN if there are none."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Terminal:
    """Prints lines that begin with the time since the start; in colours only on a terminal."""

    def __init__(self) -> None:
        """A terminal on standard output."""
        self._started = time.time()
        self._coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def say(self, text: str) -> None:
        """Print one line with the time."""
        self.print(f"{self._clock(time.time())}  {self.styled('bold', text)}")

    def show_change(self, span: str, when: float, attributes: Mapping[str, Any]) -> None:
        """Print one state change: when it happened, in seconds since the epoch, and what its span event says."""
        previous, state = (str(attributes[f"grpc_breaker.{key}"]) for key in ("state.previous", "state"))
        facts = " ".join(f"{key}={brief(attributes[key])}" for key in SHOWN if key in attributes)
        lines = [f"span event {STATE_CHANGE} on span {span!r}", *textwrap.wrap(facts, WIDTH - len(INDENT))]
        self.print(f"{self._clock(when)}  {self.styled(previous, previous)} -> {self.styled(state, state)}")
        self.print("\n".join(f"{INDENT}{self.styled('dim', line)}" for line in lines))

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Print rows with their columns aligned, the first to the left."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            self.print("   ".join([first.strip().ljust(widths[0]), *rest]))

    def print(self, text: str = "") -> None:
        """Print text in one piece. Safe to call from several threads."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def styled(self, style: str, text: str) -> str:
        """The text in this style, if there are colours."""
        code = STYLES.get(style)
        return f"\x1b[{code}m{text}\x1b[0m" if self._coloured and code else text

    def _clock(self, when: float) -> str:
        return self.styled("dim", f"{when - self._started:9.2f} s")


def brief(value: object) -> str:
    """An attribute's value as text, with two decimals."""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


class StateChanges(SpanProcessor):
    """Prints the span events of one breaker, in order, and can wait for one.

    OpenTelemetry exports an event when its span ends, here as to any tracing backend. Spans do not end in the order of
    their events: the span of the probe that opened a breaker again may end before that of the probe that had made it
    half-open. Events are numbered without a gap, so one that is early is kept until its turn.
    """

    def __init__(self, terminal: Terminal, breaker: str) -> None:
        """A processor that prints to a terminal what the breaker of this name does."""
        self.states: list[str] = []
        """The states of the breaker so far, with the first one."""
        self.failed_probes: list[float] = []
        """Seconds from each time that it was half-open until it was open again."""
        self._terminal = terminal
        self._breaker = breaker
        self._early: dict[int, tuple[str, Event]] = {}
        self._news = threading.Condition()
        self._last = 0
        """When the last change happened, in nanoseconds."""
        self._waited = 0
        """Where in `states` the change ends that was waited for last."""

    def on_end(self, span: ReadableSpan) -> None:
        """Print the events of a span."""
        for event in span.events:
            attributes = event.attributes or {}
            if event.name == STATE_CHANGE and attributes.get("grpc_breaker.name") == self._breaker:
                with self._news:
                    self._early[int(str(attributes["grpc_breaker.sequence"]))] = span.name, event
                    while (following := len(self.states) or 1) in self._early:
                        self._show(*self._early.pop(following))
                    self._news.notify_all()

    def wait_for(self, previous: State, state: State, patience: float) -> bool:
        """Wait for a change from one state to the other, later than the one that was waited for last.

        Returns:
            False if it has not come within `patience` seconds.
        """
        with self._news:
            return self._news.wait_for(lambda: self._find([previous, state]), patience)

    def _find(self, change: list[State]) -> bool:
        for position in range(self._waited, len(self.states)):
            if self.states[position : position + 2] == change:
                self._waited = position + 1
                return True
        return False

    def _show(self, span: str, event: Event) -> None:
        attributes = dict(event.attributes or {})
        if not self.states:
            self.states.append(str(attributes["grpc_breaker.state.previous"]))
        self.states.append(str(attributes["grpc_breaker.state"]))
        if self.states[-2:] == [State.HALF_OPEN, State.OPEN]:
            self.failed_probes.append((event.timestamp - self._last) / 1e9)
        self._last = event.timestamp
        self._terminal.show_change(span, event.timestamp / 1e9, attributes)
