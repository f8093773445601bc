"""Permits of recorded calls: when such a call ends, the recorders of its breaker are told.

Without a recorder a breaker hands out plain permits, and nothing here runs. With one its admissions look at more than
the state, as they do for a limit, and hand out permits of the kinds below. So recording costs the calls of recorded
breakers alone. It may begin and end while calls are in flight: of a call that was admitted before, no recorder is told.

Recorders are told of a call once, by the caller that settled its permit, after its result was taken in. An exception
from a signal handler between these two steps can cost that one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from grpc_breaker._core.permit import Permit, Probe
from grpc_breaker._core.state import Outcome

_SUCCESS: Final = Outcome.SUCCESS
_IGNORED: Final = Outcome.IGNORED

RecordedCall = tuple[Any, float, float, str, Outcome, str, str, float, bool]
"""Its breaker; when it began and ended, by the breaker's clock; method; outcome; status; details; when its lease ends
by its own deadline; whether its time says how slow the server is."""


class Recorder(Protocol):
    """Who is told of calls as they end. Told on the path of each call, so it must neither wait nor raise."""

    def wants(self, breaker: str, /) -> bool:
        """Whether the calls of a breaker are to be told, by the breaker's name; always the same answer."""
        ...

    def tell(self, call: RecordedCall) -> object:
        """Take in a call that has ended; of any breaker whose calls somebody wants."""
        ...


class Recording(Protocol):
    """What recording needs of a breaker."""

    name: str
    _kinds: Kinds
    _recorders: Recorders

    def _note_policy(self) -> None: ...


class Recorders(dict[object, Recorder]):
    """Who records the calls of a breaker, or of a registry's breakers. Each change is one step of the dictionary."""

    __slots__ = ()

    def kinds(self, breaker: str) -> Kinds:
        """The kinds of permits that a breaker of this name hands out."""
        wanted = any(recorder.wants(breaker) for recorder in list(self.values()))
        return RECORDED if wanted else PLAIN

    def add(self, recorder: Recorder, breakers: Callable[[], Iterable[Recording]]) -> None:
        """Tell `recorder` of the calls that are admitted from now on.

        Args:
            recorder: Whom to tell.
            breakers: All breakers that share these recorders, at the moment of asking.
        """
        self[recorder] = recorder
        for breaker in breakers():
            note_recorders(breaker)

    def remove(self, recorder: Recorder, breakers: Callable[[], Iterable[Recording]]) -> None:
        """Tell `recorder` of no call any more; does nothing if it is told of none. The arguments are those of `add`."""
        self.pop(recorder, None)
        for breaker in breakers():
            note_recorders(breaker)


def note_recorders(breaker: Recording) -> None:
    """Have a breaker hand out permits of the right kinds. Of several callers at once, the last one finds them right."""
    while True:
        breaker._kinds = kinds = breaker._recorders.kinds(breaker.name)
        breaker._note_policy()
        if breaker._recorders.kinds(breaker.name) is kinds is breaker._kinds:  # pragma: no branch - else others did too
            return


class RecordedPermit(Permit):
    """The permit of a call whose end is told."""

    __slots__ = ()

    def settle(
        self,
        outcome: Outcome,
        status: str = "",
        details: str = "",
        incident: float | None = None,
        counts_once: bool = False,
        unreached: bool = False,
        pushback: float | None = None,
    ) -> bool:
        """End the call; see `Permit.settle`."""
        breaker: Any = self.breaker
        ended = breaker._now(self)
        counts = self._will_count_as(outcome, incident if counts_once else None, breaker)
        settled = super().settle(outcome, status, details, incident, counts_once, unreached, pushback)
        if settled:
            _tell(self, breaker, ended, counts, status, details)
        return settled

    def _will_count_as(self, outcome: Outcome, incident: float | None, breaker: Any) -> Outcome:
        """What a stream counts as because it had an answer before, which the record does not say."""
        if not self.was_answered:
            return outcome
        if outcome is _IGNORED:
            return _SUCCESS
        if incident is not None and self._says_no_more(breaker._latest().window, self.started - incident):
            return _IGNORED
        return outcome

    def success(self) -> bool:
        """Settle as a success; see `Permit.success`."""
        return self.settle(_SUCCESS, "OK")


class RecordedProbe(RecordedPermit, Probe):
    """The permit of a probe whose end is told."""

    __slots__ = ()


Kinds = tuple[type[Permit], type[Probe]]

PLAIN: Final[Kinds] = (Permit, Probe)
RECORDED: Final[Kinds] = (RecordedPermit, RecordedProbe)


def _tell(permit: Permit, breaker: Any, ended: float, outcome: Outcome, status: str, details: str) -> None:
    """Tell all recorders of a call that has ended."""
    lease_end = permit.deadline_lease_end if isinstance(permit, Probe) else permit.lease_end
    call = (breaker, permit.started, ended, permit.method, outcome, status, details, lease_end, permit.timed)
    for recorder in list(breaker._recorders.values()):
        recorder.tell(call)
