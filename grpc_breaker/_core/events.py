"""What a breaker tells the world: plain frozen data, and the lists of those who listen.

Events are made inside the breaker's critical section and delivered after it. `context` is whatever the caller gave to
`admit()`, handed back untouched: telemetry keeps the trace context of the causing call there, so that nobody has to ask
for "the current span" on a thread that belongs to another call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from grpc_breaker._core.callables import name_of, runs_when_called
from grpc_breaker._core.log import log_once
from grpc_breaker._core.state import Reason, State

Event = TypeVar("Event")

LAST_FAILURES: Final = 5
"""How many failure reasons a breaker remembers for the event of its next change."""

DETAILS_LENGTH: Final = 200
"""Details are cut to this many characters: enough for a person, harmless for a log pipeline."""


@dataclass(frozen=True, slots=True)
class FailureReason:
    """One of the failures that led to a change."""

    status: str
    """The status of the call, "UNAVAILABLE"; outside gRPC the name of the exception."""
    details: str
    """Its details, at most 200 characters of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """One change of one breaker's state."""

    sequence: int
    """1, 2, 3, … for each breaker, without a gap."""
    breaker: str
    """Name of the breaker: the method, "pricing.v1.Pricing/GetPrice", or the policy's group."""
    method: str
    """The method of the call that caused the change; empty when an operator did, and outside gRPC."""
    previous: State
    state: State
    reason: Reason
    """Which condition fired."""
    calls: int
    """Results that counted when it changed: those in the window, or those of the probes when it was half-open."""
    failures: int
    """How many of them were failures."""
    slow: int
    """How many of them were slow."""
    retry_after: float | None
    """Seconds until the first probe after opening; 0 in states that admit calls; `None` when only an operator knows."""
    status: str
    """Status of the call whose end caused the change; empty where no call ended: an operator, a first probe, a stream's
    first answer."""
    details: str
    """Details of the call whose end caused the change."""
    last_failures: tuple[FailureReason, ...]
    """Up to five failures before the change, the oldest first."""
    context: object
    """What the call that caused the change was admitted with; `None` when an operator caused it."""
    at: float
    """When, by the breaker's own clock, in seconds."""
    time: float
    """When, in seconds since the epoch; for display alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedCall:
    """One call that has ended, as `BreakerPolicy.classify` sees it."""

    method: str
    """The method, "pricing.v1.Pricing/GetPrice"; empty outside gRPC."""
    code: Any
    """Its `grpc.StatusCode`; `None` outside gRPC."""
    details: str
    """The details that came with the status."""
    trailing_metadata: tuple[Any, ...]
    """Pairs of key and value."""
    elapsed: float
    """Seconds from admission to the end, by the breaker's own clock."""
    timeout: float | None
    """Seconds the caller gave it; `None` without a deadline."""
    error: BaseException | None
    """The exception that the caller sees, where there is one; `None` for a call that ended well."""


class _Facts(Protocol):
    """What a breaker's state says to everyone it refuses."""

    state: State
    reason: Reason
    code: str

    def retry_after(self, now: float) -> float | None:
        """Seconds until a call may pass; `None` when only an operator knows."""
        ...


class Rejection:
    """One refused call. Made for every refusal, so it is a plain object: cheap, and not to be changed.

    Attributes:
        breaker: Name of the breaker that refused.
        method: The refused method; empty outside gRPC.
        at: When, by the breaker's own clock, in seconds.
        probes: Probes in flight, when half-open.
        context: What the call came with.
        code: The name of the status that a refused RPC shows.
    """

    __slots__ = ("_facts", "at", "breaker", "code", "context", "method", "probes")

    def __init__(self, breaker: str, method: str, facts: _Facts, at: float, probes: int, context: object) -> None:
        self.breaker = breaker
        self.method = method
        self._facts = facts
        self.code = facts.code
        self.at = at
        self.probes = probes
        self.context = context

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles without its context, which belongs to this process."""
        return Rejection, (self.breaker, self.method, self._facts, self.at, self.probes, None)

    @property
    def state(self) -> State:
        """`open`, `half_open` or `forced_open`."""
        return self._facts.state

    @property
    def reason(self) -> Reason:
        """Which condition had opened the breaker."""
        return self._facts.reason

    @property
    def retry_after(self) -> float | None:
        """Seconds until a call may pass: 0 when half-open, `None` when only an operator knows."""
        return self._facts.retry_after(self.at)

    @property
    def details(self) -> str:
        """The refusal in words."""
        if self.state is State.OPEN:
            until = f"next probe in {self.retry_after:.1f} s"
        elif self.state is State.HALF_OPEN:
            until = f"{self.probes} probe{'s' if self.probes != 1 else ''} in flight"
        else:
            until = "until an operator resets it"
        return f"circuit breaker {self.state} for {self.method or self.breaker}; {until}"

    def __repr__(self) -> str:
        return f"<Rejection: {self.details}>"


class Listeners(dict[object, Callable[[Event], object]]):
    """Those who want to hear of one kind of event, in the order they came.

    Without a lock, because a finalizer may end one in the middle of anything: each change of the dictionary is one
    step.
    """

    __slots__ = ()

    def add(self, listener: Callable[[Event], object]) -> Callable[[], None]:
        """Call `listener` with every event from now on; answers a function that ends it.

        Raises:
            TypeError: `listener` is not callable, or a coroutine or generator function, which nobody would run.
        """
        if not runs_when_called(listener):
            message = (
                f"a listener must be callable with one event, and no coroutine or generator function, got {listener!r}"
            )
            raise TypeError(message)
        key = object()
        self[key] = listener

        def end() -> None:
            self.pop(key, None)

        return end


def tell(lists: Iterable[Listeners[Event]], event: Event) -> None:
    """Tell each listener, in order. One that raises is logged once; the others still hear of it.

    Raises:
        BaseException: A listener raised what is no `Exception`, Ctrl-C above all; the first, after all were told.
    """
    stopped: BaseException | None = None
    for listeners in lists:
        for listener in listeners.copy().values():  # a copy is one step, an iteration is not
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - a user's listener must never break a user's call
                log_once(f"listener {name_of(listener)} raised")
            except BaseException as error:  # noqa: BLE001 - raised below
                stopped = stopped or error
    if stopped is not None:
        raise stopped
