"""What a breaker reports: plain frozen data, and the listeners that receive it.

An event is made with the change of state that it reports, and delivered when the change is done. `context` is what the
caller gave to `admit()`, handed back untouched: telemetry keeps the trace context of the causing call there, because
the current span of the thread that ends a call belongs to another call. It is not part of the event's data: a copy of
an event made by `copy`, `pickle` or `dataclasses.asdict` has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final, Self, TypeVar

from grpc_breaker._core.callables import name_of, runs_when_called
from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.log import log_once
from grpc_breaker._core.state import Reason, State
from grpc_breaker._core.target import split_target

Event = TypeVar("Event")

LAST_FAILURES: Final = 5
"""How many failure reasons a breaker remembers for the event of its next change."""

LAST_CHANGES: Final = 10
"""How many of its changes a breaker remembers."""

DETAILS_LENGTH: Final = 200
"""Details are cut to this many characters: enough for a person, harmless for a log pipeline."""


@dataclass(frozen=True, slots=True)
class FailureReason:
    """One of the failures that led to a change."""

    status: str
    """The status of the call, "UNAVAILABLE"; outside gRPC the name of the exception."""
    details: str
    """Its details, at most 200 characters of them."""


class _Caused:
    """Holds what is handed back with an event and is not part of its data."""

    __slots__ = ("_context",)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange(_Caused):
    """One change of one breaker's state."""

    sequence: int
    """1, 2, 3, … for each breaker, without a gap."""
    breaker: str
    """Name of the breaker: the method, "pricing.v1.Pricing/GetPrice", or the policy's group; with a target
    "pricing.v1.Pricing/GetPrice@eu"."""
    method: str
    """The method of the call that caused the change; empty when an operator did, and outside gRPC."""
    previous: State
    """The state it left."""
    state: State
    """The state it entered."""
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
    at: float
    """When, by the breaker's own clock, in seconds."""
    time: float
    """When, in seconds since the epoch; for display alone."""
    enforced: bool = True
    """False where the breaker refuses no call by itself: `BreakerPolicy.enforcement_percentage` is 0."""

    @property
    def target(self) -> str:
        """The target whose calls the breaker guards; empty without one."""
        return split_target(self.breaker)[1]

    @property
    def context(self) -> object:
        """What the call that caused the change was admitted with; `None` when an operator caused it, and in copies."""
        return getattr(self, "_context", None)

    def with_context(self, context: object) -> Self:
        """Have the event hand back `context`; returns the event itself."""
        object.__setattr__(self, "_context", context)
        return self


def plain(change: StateChange) -> dict[str, Any]:
    """What a snapshot shows of a change."""
    shown = (
        "sequence",
        "previous",
        "state",
        "reason",
        "method",
        "calls",
        "failures",
        "slow",
        "status",
        "details",
        "time",
    )
    shown_as: dict[str, Any] = {name: getattr(change, name) for name in shown}
    shown_as.update(previous=str(change.previous), state=str(change.state), reason=str(change.reason))
    return {**shown_as, "last_failures": [asdict(it) for it in change.last_failures]}


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
    result: Any = None
    """What plain code returned, which may be its way to fail: see `Permit.conclude`. `None` for calls of gRPC."""

    @property
    def status_details(self) -> Any:
        """The `google.rpc.Status` in the trailing metadata, with all details; `None` where there is none, where it is
        malformed, and where googleapis-common-protos is not installed. Read anew each time.
        """
        return _details_readers[0](self.trailing_metadata) if _details_readers else None


_details_readers: Final[list[Callable[[Any], Any]]] = []


def read_status_details_with(reader: Callable[[Any], Any]) -> None:
    """Have the details of errors read by `reader`, from their trailing metadata: nothing in here knows protobuf."""
    _details_readers[:] = [reader]


class Listeners(dict[object, Callable[[Event], object]]):
    """The listeners of one kind of event, in the order they were added.

    Each change of the dictionary is one step, so a finalizer may end a listener in the middle of anything.
    """

    __slots__ = ()

    def add(self, listener: Callable[[Event], object], key: object = None) -> Callable[[], None]:
        """Call `listener` with every event from now on; returns a function that ends it.

        Args:
            listener: What to call.
            key: Under which to keep it; a key that is there already keeps its listener. Default: a new one.

        Raises:
            TypeError: `listener` is not callable, or a coroutine or generator function, which nothing would run.
        """
        if not runs_when_called(listener):
            message = (
                f"a listener must be callable with one event, and no coroutine or generator function, got {listener!r}"
            )
            raise TypeError(message)
        key = object() if key is None else key
        self.setdefault(key, listener)

        def end() -> None:
            self.pop(key, None)

        return end


def deliver(lists: Iterable[Listeners[Event]], event: Event) -> None:
    """Call each listener, in order. One that raises is logged once; the others are called all the same.

    Raises:
        BaseException: A listener raised what is no `Exception`, Ctrl-C above all, or a signal handler raised while a
            listener ran: the first of these, after all listeners were called.
    """
    passing: BaseException | None = None
    for listeners in lists:
        for listener in list(listeners.values()):  # a copy is one step, an iteration is not
            try:
                listener(event)
            except BaseException as error:  # noqa: BLE001 - raised below, or a user's listener must not break a call
                if isinstance(error, Exception) and not passes_through(error):
                    log_once(f"listener {name_of(listener)} raised")
                else:
                    passing = passing or error
    if passing is not None:
        raise passing
