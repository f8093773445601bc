"""What one breaker is told to do: every field, its default, and the check that it makes sense.

A policy is checked when it is made. A bad value raises at once, naming the field, what is allowed, and what was given;
a policy that exists is a good one, so nothing else in the package checks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from grpc_breaker._core.callables import name_of, runs_when_called
from grpc_breaker._core.checks import STATUS_NAMES as STATUS_NAMES  # noqa: PLC0414 - telemetry has it from here
from grpc_breaker._core.checks import (
    BadValueError,
    Check,
    check_fields,
    complaint,
    count,
    number,
    optional,
    seconds,
    share,
    status,
    status_of_failure,
)
from grpc_breaker._core.events import EndedCall
from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.log import log_once
from grpc_breaker._core.spelling import names_nearest_field
from grpc_breaker._core.state import OTHER, Outcome

_SHORT_RESET_TIMEOUT: Final = 1.0
_MOST_CALLS: Final = 1_000_000
"""Results a count window may hold: far more than say anything about now."""

_REASON: Final = "reason:"
"""Begins those keys of `verdicts` that name the reason of an error's details, not a status."""

_UNNAMED: Final[Any] = ...
"""Stands for a trip condition that was not given."""

CONDITIONS: Final[dict[str, Any]] = {
    "failure_threshold": None,
    "failure_rate": 0.5,
    "consecutive_failures": 5,
    "slow_call_duration": None,
}
"""The trip conditions, and what they are in a policy that names none."""


class _Verdicts(Mapping[str, Outcome]):
    """A mapping that stays as it was made, and is hashed, copied and pickled like the policy that holds it."""

    def __init__(self, outcomes: dict[str, Outcome]) -> None:
        self._outcomes = outcomes
        self.by_reason = {it.removeprefix(_REASON): outcomes[it] for it in outcomes if it.startswith(_REASON)}

    def __contains__(self, status: object) -> bool:
        """Asked of every call that ends, most often in vain: what `Mapping` brings would raise and catch a KeyError."""
        return status in self._outcomes

    def __getitem__(self, status: str) -> Outcome:
        return self._outcomes[status]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outcomes)

    def __len__(self) -> int:
        return len(self._outcomes)

    def __hash__(self) -> int:
        return hash(frozenset(self._outcomes.items()))

    def __repr__(self) -> str:
        return repr(self._outcomes)


def verdict_key(key: Any) -> str:
    """A check for a key of `verdicts`: a status, or "reason:NAME"."""
    if not isinstance(key, str) or not key.startswith(_REASON):
        return status(key)
    name = key.removeprefix(_REASON)
    if not name or any(it.isspace() for it in name):
        allowed = "'reason:' and the reason of a google.rpc.ErrorInfo, such as 'reason:QUOTA_EXCEEDED'"
        raise BadValueError(allowed, ValueError)
    return key


def _group(group: Any) -> str:
    """A check for the name of a group."""
    if not isinstance(group, str):
        allowed = "a name"
        raise BadValueError(allowed, TypeError)
    if not group or group != group.strip() or "/" in group or "@" in group:
        allowed = "a name without '/', '@' or spaces around it"
        raise BadValueError(allowed, ValueError)
    return group


def _free_group(group: Any) -> str | None:
    """The same, or `None`; and not the name that breakers share."""
    checked: str | None = optional(_group)(group)
    if checked == OTHER:
        allowed = "another name: methods share that one where there are too many"
        raise BadValueError(allowed, ValueError)
    return checked


def _classifier(classify: Any) -> Any:
    """A check for a classifier."""
    if not runs_when_called(classify):
        allowed = "a callable that is no coroutine or generator function"
        raise BadValueError(allowed, TypeError)
    return classify


_any_count: Final = count()
_optional_count: Final = optional(count())
_optional_seconds: Final = optional(seconds)

FIELD_CHECKS: Final[dict[str, Check]] = {
    "failure_threshold": _optional_count,
    "consecutive_failures": _optional_count,
    "half_open_successes": _optional_count,
    "window_calls": optional(count(most=_MOST_CALLS)),
    "minimum_calls": _any_count,
    "half_open_max_calls": _any_count,
    "failure_rate": optional(share),
    "slow_call_rate": optional(share),
    "slow_call_duration": _optional_seconds,
    "window_seconds": seconds,
    "reset_timeout": seconds,
    "max_reset_timeout": seconds,
    "probe_timeout": seconds,
    "probe_deadline": _optional_seconds,
    "hung_after": _optional_seconds,
    "ramp": _optional_seconds,
    "minimum_deadline": number("a number of seconds from 0 to 1e9", low=0.0, high=1e9),
    "reset_timeout_multiplier": optional(number("a number, 1 or more", low=1.0)),
    "reset_timeout_jitter": number("a number from 0 to 1", low=0.0, high=1.0),
    "enforcement_percentage": number("a number from 0 to 100", low=0.0, high=100.0),
    "group": _free_group,
    "classify": optional(_classifier),
    "refusal_code": status_of_failure,
}
"""The checks of a policy's fields, each alone; `verdicts` has several values, and a check of its own."""


@names_nearest_field
@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, for how long, and how it finds out that the server is well again.

    Immutable, and safe to share between breakers and threads. All times are seconds, from 0.000001 to 1e9;
    `minimum_deadline` may be 0.

    Four fields are trip conditions: `failure_threshold`, `failure_rate`, `consecutive_failures`, `slow_call_duration`.
    A policy that names none of them has `failure_rate=0.5` and `consecutive_failures=5`; one that names some has those
    and no other. They compose with *or*; `None` turns one off. `repr` shows what is on.

    Attributes:
        failure_threshold: Open at this many failures inside the window, an integer from 1.
        failure_rate: Open when failures / (failures + successes) inside the window reaches this share, above 0 and up
            to 1, once `minimum_calls` results are in the window. 0.5 in a policy that names no trip condition.
        minimum_calls: Results the window must hold before a rate means anything, an integer from 1. Default 20.
        consecutive_failures: Open at this many failures in a row, whatever the window holds, an integer from 1. It is
            what opens the breaker of a quiet method. A call that is ignored ends a row whose last failure is longer ago
            than `window_seconds`. 5 in a policy that names no trip condition.
        slow_call_duration: An answer that took longer than this is slow; without it none is. Only calls of one request
            and one answer, and plain code, can be slow: how long a stream lasts says nothing about the server.
        slow_call_rate: Open when the slow share of the results in the window reaches this, above 0 and up to 1, once
            `minimum_calls` are in the window. Default 0.5; has no effect without `slow_call_duration`. `None`: off.
        window_seconds: How long a result counts. Default 30.
        window_calls: The window holds this many results, instead of those of a time: an integer from 1 to 1,000,000
            (8 bytes each, up to 80 for those that failed or were slow). Default `None`: by time.
        reset_timeout: Open this long before the first probe. Default 1, so that opening wrongly costs a second; this
            default doubles while probes fail, up to `max_reset_timeout`.
        reset_timeout_multiplier: Each time a probe fails the open period grows by this factor, from 1. Forgotten after
            a close. Default `None`: 2 where `reset_timeout` has its default, and 1, no growth, where another is given.
        max_reset_timeout: What the open period grows to at most, before jitter. Default 60.
        reset_timeout_jitter: Open for a random time in [t, t * (1 + jitter)], so that a fleet does not probe in step,
            from 0 to 1. Default 0.1.
        half_open_max_calls: Probes in flight at once, an integer from 1. Default 3.
        half_open_successes: Successes that close the breaker, an integer from 1. Default `None`: as many as
            `half_open_max_calls`.
        probe_timeout: A probe holds its slot for at most this long: then the slot is free again. A stream that is still
            open then, with time left, has succeeded. A result that comes later changes nothing, except that a call of
            one answer has four times as long as the breaker had been half-open when it began, if that is more: so the
            breaker of a method with slow calls can close. Once no probe has failed for this time, those that are
            ignored count as successes. Default 30.
        minimum_deadline: A call that gave the server less time than this and ran out of it says nothing about the
            server. Default 0: every expired deadline is a failure.
        probe_deadline: A probe's deadline is at most this: what a healthy server needs, and not what callers are
            ready to wait. At least `minimum_deadline`. Default `None`: a probe has the deadline that its caller gave,
            as it has where nothing is enforced.
        hung_after: A call of one request and one answer, or plain code, that is in flight longer than this counts as
            one failure, and its end is not counted. It is noticed when another call asks. Default `None`: off.
        ramp: After probes have closed the breaker, the share of the calls that is admitted grows to all over this
            time. Default `None`: all at once.
        enforcement_percentage: The share of the breaker's refusals that is enforced, from 0 to 100; the other calls
            pass, and say nothing about the server. 0 is a trial: everything is seen, nothing refused. Default 100.
        group: Methods with the same group share one breaker of that name, which has no slash. Default `None`: each
            method has its own.
        verdicts: The outcome of some statuses, `{grpc.StatusCode.NOT_FOUND: Outcome.FAILURE}`; the rest keep their
            defaults. Keys are status codes or their names, or "reason:NAME" for the reason that the details of an
            error give (`google.rpc.ErrorInfo`), which beats the status.
        classify: Called with each call that ended (`EndedCall`; plain code has no status, but a result); returns its
            `Outcome`, or `None` for the outcome it would have had. Runs on the thread on which the call ended, and
            should be quick. One that raises or returns anything else makes the call a failure, and is logged once.
        refusal_code: The status a refused call shows, a status code or its name. Default UNAVAILABLE.

    Raises:
        TypeError: A value of the wrong kind (a `bool` is not a number here), or a field that there is not: the error
            names the nearest.
        ValueError: A value out of range, or a combination that can never work.
    """

    failure_threshold: int | None = _UNNAMED
    failure_rate: float | None = _UNNAMED
    minimum_calls: int = 20
    consecutive_failures: int | None = _UNNAMED
    slow_call_duration: float | None = _UNNAMED
    slow_call_rate: float | None = 0.5
    window_seconds: float = 30.0
    window_calls: int | None = None
    reset_timeout: float = _SHORT_RESET_TIMEOUT
    reset_timeout_multiplier: float | None = None
    max_reset_timeout: float = 60.0
    reset_timeout_jitter: float = 0.1
    half_open_max_calls: int = 3
    half_open_successes: int | None = None
    probe_timeout: float = 30.0
    minimum_deadline: float = 0.0
    probe_deadline: float | None = None
    hung_after: float | None = None
    ramp: float | None = None
    enforcement_percentage: float = 100.0
    group: str | None = None
    verdicts: Mapping[Any, Outcome] | None = None
    classify: Callable[[EndedCall], Outcome | None] | None = None
    refusal_code: Any = "UNAVAILABLE"

    def __post_init__(self) -> None:
        """Choose the trip conditions, check every field, then what they mean together."""
        self._choose_conditions()
        check_fields(self, FIELD_CHECKS)
        self._check_verdicts()
        self._check_together()

    @property
    def plain(self) -> bool:
        """Whether every OK is a success, without a look at the call."""
        return self.classify is None and self.verdicts is None

    @property
    def verdicts_by_reason(self) -> Mapping[str, Outcome]:
        """The outcomes of errors by the reason that their details give."""
        verdicts = self.verdicts
        return verdicts.by_reason if isinstance(verdicts, _Verdicts) else {}

    @property
    def probes_to_close(self) -> int:
        """How many probes must succeed before the breaker closes."""
        return self.half_open_successes or self.half_open_max_calls

    @property
    def growth(self) -> float:
        """By which factor the open period grows when a probe fails."""
        if self.reset_timeout_multiplier is not None:
            return self.reset_timeout_multiplier
        return 2.0 if self.reset_timeout == _SHORT_RESET_TIMEOUT else 1.0

    def as_dict(self) -> dict[str, Any]:
        """The policy as plain data, ready for JSON."""
        plain = {it.name: getattr(self, it.name) for it in fields(self)}
        if self.verdicts is not None:
            plain["verdicts"] = {name: str(outcome) for name, outcome in self.verdicts.items()}
        if self.classify is not None:
            plain["classify"] = name_of(self.classify)
        return plain

    def _choose_conditions(self) -> None:
        """Those that are named, and no other; the defaults where none is."""
        given = [getattr(self, name) for name in CONDITIONS]
        named = any(value is not _UNNAMED and value is not None for value in given)
        for name, default in CONDITIONS.items():
            if getattr(self, name) is _UNNAMED:
                object.__setattr__(self, name, None if named else default)

    def _check_verdicts(self) -> None:
        if self.verdicts is None:
            return
        if not isinstance(self.verdicts, Mapping):
            raise TypeError(complaint(self, "verdicts", "a mapping of status code to Outcome, or None"))
        by_name: dict[str, Outcome] = {}
        for key, outcome in self.verdicts.items():
            try:
                name = verdict_key(key)
            except BadValueError as bad:
                message = f"BreakerPolicy.verdicts: a key must be {bad.allowed}, got {key!r}{bad.hint}"
                raise bad.kind(message) from None
            if not isinstance(outcome, Outcome):
                message = (
                    f"BreakerPolicy.verdicts[{name}] must be an Outcome (success, failure, ignored), got {outcome!r}"
                )
                raise TypeError(message)
            if name in by_name:
                message = f"BreakerPolicy.verdicts: {name} is given twice, by its name and as a code"
                raise ValueError(message)
            by_name[name] = outcome
        object.__setattr__(self, "verdicts", _Verdicts(by_name))

    def _check_together(self) -> None:
        slow_rule = self.slow_call_rate is not None and self.slow_call_duration is not None
        rate_rule = self.failure_rate is not None
        if not (rate_rule or slow_rule or self.failure_threshold or self.consecutive_failures):
            message = (
                "BreakerPolicy: every trip condition is off, so the breaker could never open; set at least one of "
                "failure_threshold, failure_rate, consecutive_failures, slow_call_duration with slow_call_rate"
            )
            raise ValueError(message)
        if self.window_calls is not None:
            if (rate_rule or slow_rule) and self.minimum_calls > self.window_calls:
                allowed = f"at most window_calls ({self.window_calls}), or no rate could ever trip"
                raise ValueError(complaint(self, "minimum_calls", allowed))
            if self.failure_threshold is not None and self.failure_threshold > self.window_calls:
                allowed = f"at most window_calls ({self.window_calls}), or it could never be reached"
                raise ValueError(complaint(self, "failure_threshold", allowed))
        if self.probe_deadline is not None and self.probe_deadline < self.minimum_deadline:
            allowed = f"at least minimum_deadline ({self.minimum_deadline:g}), or a probe that hangs says nothing"
            raise ValueError(complaint(self, "probe_deadline", allowed))
        if self.growth > 1.0 and self.max_reset_timeout < self.reset_timeout:
            allowed = f"at least reset_timeout ({self.reset_timeout:g}) where the open period grows"
            raise ValueError(complaint(self, "max_reset_timeout", allowed))


def classified(classify: Callable[[EndedCall], Outcome | None], ended: EndedCall, outcome: Outcome) -> Outcome:
    """What a policy's `classify` makes of an ended call; `outcome` where it has no opinion.

    A classifier that raises or returns no `Outcome` makes the call a failure: a call that cannot be judged must not
    keep a breaker closed.
    """
    try:
        judged: Any = classify(ended)
    except Exception as error:  # a user's classifier must never break a user's call
        if passes_through(error):
            raise
        log_once(f"classifier {name_of(classify)} raised; the call counts as a failure")
        return Outcome.FAILURE
    if judged is None:
        return outcome
    if isinstance(judged, Outcome):
        return judged
    log_once(
        f"classifier {name_of(classify)} returned {type(judged).__name__}, not an Outcome or None; "
        "the call counts as a failure",
        exc_info=False,
    )
    return Outcome.FAILURE
