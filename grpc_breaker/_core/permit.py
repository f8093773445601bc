"""The permit of one admitted call: the second of the two steps, and the block around a piece of plain code.

1.  A permit is settled once, with an outcome. What makes it happen once is the breaker's dictionary of calls in flight:
    removing a permit from it succeeds for exactly one caller.
2.  A permit carries the number of the generation it was admitted in. Settled in a later one, its result is *stale*: it
    is counted as such and changes nothing.
3.  A permit with a deadline, and every probe, has a *lease*: from its end on the call is no longer in flight, whatever
    became of it, and a result that comes later is stale. Some endings can never be seen, and an exception that arrives
    at the wrong line can cost a caller its permit; the lease is what gives those back.

`with breaker.admit() as permit:` settles by how the block ended. Every `Exception` is a failure unless
`policy.classify` says otherwise; `KeyboardInterrupt`, cancellation and the refusal of another breaker are always
ignored. What it returned it must say, `permit.conclude(result=…)`; of a decorated function that is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

from grpc_breaker._core.counts import STALE, CallCounts
from grpc_breaker._core.errors import CallRefusedError
from grpc_breaker._core.events import DETAILS_LENGTH, EndedCall
from grpc_breaker._core.generation import Generation
from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.policy import BreakerPolicy, classified
from grpc_breaker._core.state import Outcome, Reason
from grpc_breaker._core.window import Window

LEASE_GRACE: Final = 5.0
"""Seconds after its deadline at which a call that was not heard of is given up."""

NO_GENERATION: Final = -2
HUNG: Final = -3
"""What a permit carries in the place of its generation's number where its result never counts: because it passed a
breaker that would have refused it, or because it has been counted as hung."""

_NONE_TAKEN: Final = 2
"""So many incidents in a row are no connection that ended in good order: the server takes no call at all."""

_UNREACHED_REOPENINGS: Final = 2
"""How often the open period grows while probes reach no server: to four seconds, where it doubles from one. A longer
wait would spare nobody but the client, and the channel has a back-off of its own."""

_NEVER: Final = math.inf
_SUCCESS: Final = Outcome.SUCCESS
_FAILURE: Final = Outcome.FAILURE
_IGNORED: Final = Outcome.IGNORED


class Issuer(Protocol):
    """What a permit needs of the breaker that issued it."""

    name: str
    _counts: CallCounts
    _current: Generation
    _in_flight: dict[Permit, None]
    _policy: BreakerPolicy
    _slow_after: float

    @property
    def _clock(self) -> Callable[[], float]: ...

    @property
    def policy(self) -> BreakerPolicy:
        """The policy in force."""
        ...

    def _latest(self) -> Generation: ...

    def _take_in(self, permit: Permit, outcome: Outcome, status: str, details: str) -> None: ...

    def _take_back(self, permit: Permit, generation: Generation, now: float, status: str) -> bool: ...

    def _leave(
        self,
        generation: Generation,
        reason: Reason,
        now: float,
        permit: Permit,
        status: str,
        details: str,
        pushback: float | None = None,
    ) -> None: ...

    def _settle_late(self, permit: Permit, status: str) -> bool: ...

    def _answer(self, permit: Permit) -> None: ...

    def _awaits_answer(self, permit: Permit) -> bool: ...

    def _is_in_flight(self, permit: Permit) -> bool: ...

    def _is_probing(self, permit: Permit) -> bool: ...


class Permit:
    """The right to make one call, to be settled exactly once.

    Safe to settle from any thread, from a finalizer and from a signal handler; never waits. Settling twice does
    nothing.
    """

    # Without a constructor: the breaker sets each field, because a call with so many arguments would cost every call of
    # the application a tenth more.
    __slots__ = ("_breaker", "context", "generation", "had_answer", "lease_end", "method", "started", "swept", "timed")

    _breaker: Issuer
    generation: int
    """Number of the breaker's generation that the call was admitted in."""
    started: float
    """When the call was admitted, by the breaker's clock."""
    method: str
    """The RPC method, for events; empty outside gRPC."""
    context: object
    """What the call was admitted with; handed back with the event if it changes the state."""
    timed: bool
    """Whether the time it takes says how slow the server is."""
    lease_end: float
    """When the call is given up, by the breaker's clock; infinite without a deadline."""
    had_answer: bool
    """There once the first answer of a stream has come."""
    swept: bool
    """There from when the permit was given up until its late result comes."""

    @property
    def settled(self) -> bool:
        """Whether this permit has been settled, or given up because its lease has ended."""
        return not self._breaker._is_in_flight(self)

    @property
    def breaker(self) -> Issuer:
        """The breaker that admitted the call."""
        return self._breaker

    @property
    def policy(self) -> BreakerPolicy:
        """The policy of the breaker that admitted the call."""
        return self._breaker.policy

    @property
    def elapsed(self) -> float:
        """Seconds since the call was admitted, by the breaker's clock."""
        return self._breaker._clock() - self.started

    @property
    def is_probe(self) -> bool:
        """Whether this call holds one of the slots of a half-open breaker."""
        return False

    @property
    def awaits_answer(self) -> bool:
        """Whether the first answer of a stream would be news: for a probe, and where failures have been counted."""
        return self._breaker._awaits_answer(self)

    @property
    def was_answered(self) -> bool:
        """Whether it is known that the first answer of a stream has come."""
        return hasattr(self, "had_answer")

    # Not keyword-only, because CPython calls such a function more slowly, even where it is called without keywords.
    def settle(  # noqa: C901 - each further function would cost every failure
        self,
        outcome: Outcome,
        status: str = "",
        details: str = "",
        incident: float | None = None,
        counts_once: bool = False,
        unreached: bool = False,
        pushback: float | None = None,
    ) -> bool:
        """End the call.

        Args:
            outcome: What the call says about the server.
            status: The name of its status, or of its exception: counted by name, so from a small set.
            details: Words for a person; kept with failures, cut to 200 characters.
            incident: Seconds, 0 or more, for a failure that may share its cause with others, as those of the calls on
                one lost connection do. The failure lengthens the row, and may open the breaker, only if its call was
                admitted at least this long after the failure that lengthened the row last. Default `None`: the failure
                counts by itself.
            counts_once: Whether the incident says nothing about how calls are served, as where the server ended the
                connection in good order and never took the call up, or where a stream was lost with its connection.
                Then only the first failure of the incident counts, and the others are ignored. In the second incident
                in a row, without a success or an answer between them, each counts again.
            unreached: Whether a failed call never left the client, as where there is no connection. Through such probes
                the open period grows twice at most: by default to four times its first length.
            pushback: For how many seconds the server asked to be left alone. If this failure opens the breaker, it
                stays open for that time, at most `max_reset_timeout`. Default `None`: the server did not ask.

        Returns:
            False when the permit had been settled before, or had been given up and forgotten.

        Raises:
            ValueError: `outcome` is not an `Outcome`; the permit is not settled.
        """
        if outcome is not _FAILURE:
            if outcome is _SUCCESS and status == "OK":
                return Permit.success(self)  # not that of a subclass, which settles
            outcome = Outcome(outcome)  # an error here changes nothing
        if type(status) is not str or type(details) is not str or len(details) > DETAILS_LENGTH:
            status, details = str(status), str(details)[:DETAILS_LENGTH]
        breaker = self._breaker
        try:
            del breaker._in_flight[self]
        except KeyError:
            return breaker._settle_late(self, status)
        if outcome is not _FAILURE:
            breaker._take_in(self, outcome, status, details)
            return True
        generation = breaker._current
        if generation.successor:  # pragma: no cover - another caller was faster: tests/model
            generation = breaker._latest()
        now = breaker._clock()
        if self.generation != generation.number or now >= self.lease_end:
            breaker._counts.add(STALE, status)
            return True
        began = _NEVER if incident is None else self.started - incident
        if counts_once and self._says_no_more(generation.window, began):
            breaker._take_back(self, generation, now, status)
            return True
        try:
            breaker._counts.failures[status] += 1
        except KeyError:
            breaker._counts.add_failure(status)
        slow = now - self.started > breaker._slow_after and self.timed
        # A probe keeps its slot, so that no call passes before the change that follows.
        reason = generation.judge(now, began, True, slow, status, details, breaker._policy)
        if unreached:
            generation.reopenings = min(generation.reopenings, _UNREACHED_REOPENINGS)
        if reason is not None:
            breaker._leave(generation, reason, now, self, status, details, pushback)
        return True

    @staticmethod
    def _says_no_more(window: Window, began: float) -> bool:
        """Whether a failure that counts once says no more than the first of its incident did; see `settle`."""
        return began < window.counted_at and window.in_a_row < _NONE_TAKEN

    def success(self) -> bool:
        """Settle as a success with the status "OK": as `settle` does, at a lower cost, as almost every call ends so."""
        breaker = self._breaker
        try:
            del breaker._in_flight[self]
        except KeyError:
            return breaker._settle_late(self, "OK")
        generation = breaker._current
        if self.generation == generation.passing and not generation.successor:
            now = breaker._clock()
            if now - self.started <= breaker._slow_after and now < self.lease_end:
                breaker._counts.successes += 1
                window = generation.window  # what follows is `Passing.succeed`, without a call
                window.in_a_row = 0
                window.calls += 1
                if now >= window.quiet_until:
                    window.good(now)
                return True
        breaker._take_in(self, _SUCCESS, "OK", "")
        return True

    def failure(self, status: str = "", details: str = "") -> bool:
        """Settle as a failure."""
        return self.settle(_FAILURE, status, details)

    def ignore(self) -> bool:
        """Settle as having learned nothing about the server."""
        return self.settle(_IGNORED)

    def answered(self) -> None:
        """Say that the first answer of a stream has come.

        For a probe this is its success and frees its slot, so that a stream that lives for hours cannot hold the
        breaker half-open. For any other call it ends a row of failures. A failing end counts all the same; one that
        would be ignored, as when the caller gives up the rest, is a success.
        """
        self._breaker._answer(self)

    def note_answer(self) -> None:
        """Say, as a stream ends, that its first answer came some time before: too late to end a row of failures."""
        self.had_answer = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.conclude(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.conclude(error)

    def conclude(self, error: BaseException | None = None, result: object = None) -> None:
        """Settle by how a piece of plain code ended: with `error`, or without one.

        For a block that knows its failure by a result, which `policy.classify` is to judge::

            with breaker.admit() as permit:
                response = session.get(url)
                permit.conclude(result=response)

        Does nothing if the permit has been settled.

        Args:
            error: The exception that ended it. Default `None`: none did.
            result: What it returned, for `policy.classify`. A failure's status is the name of its type.
        """
        if error is None and self._breaker.policy.classify is None:
            self.success()
        elif self in self._breaker._in_flight or hasattr(self, "swept"):
            try:
                outcome, status, details = self._judge(error, result)
            except BaseException:  # a clock that broke, Ctrl-C in a classifier: the caller's, but the permit goes back
                self.settle(_IGNORED)
                raise
            self.settle(outcome, status, details)

    def _judge(self, error: BaseException | None, result: object) -> tuple[Outcome, str, str]:
        """Outcome, status and details of plain code."""
        if error is None:
            outcome, status, details = _SUCCESS, "", ""
        else:
            ours = isinstance(error, Exception) and not isinstance(error, CallRefusedError)
            outcome = _FAILURE if ours else _IGNORED
            status, details = type(error).__name__, _words(error)
        classify = self.policy.classify
        if classify is not None and outcome is not _IGNORED:
            ended = EndedCall(
                method=self.method,
                code=None,
                details=details,
                trailing_metadata=(),
                elapsed=self.elapsed,
                timeout=None,
                error=error,
                result=result,
            )
            outcome = classified(classify, ended, outcome)
            if outcome is _FAILURE and result is not None and error is None:
                status = type(result).__name__
        return outcome, status, details


class Probe(Permit):
    """The permit of a call that a half-open breaker lets through to find out how the server is."""

    __slots__ = ("deadline_lease_end", "slot_end")

    deadline_lease_end: float
    """When the call is given up by its deadline alone, as others are."""
    slot_end: float
    """When its slot is free for another probe, whatever has become of it."""

    @property
    def is_probe(self) -> bool:
        """Whether this call holds one of the slots of a half-open breaker."""
        return self._breaker._is_probing(self)


def _words(error: BaseException) -> str:
    """What an exception says of itself."""
    try:
        return str(error)
    except Exception as broken:  # an exception that cannot be printed is still one
        if passes_through(broken):
            raise
        return "(no words: its __str__ raised)"
