"""What a breaker says about itself: repr, snapshot, tallies, refusals, and errors of its constructor."""

from __future__ import annotations

import copy
import json
import pickle
import re
from functools import partial
from typing import Any

import pytest

import grpc_breaker
from grpc_breaker import BreakerPolicy, CircuitBreaker, CircuitOpenError, Outcome, Reason, Rejection, State
from grpc_breaker._core.other_names import explain_in
from grpc_breaker.testing import FakeClock
from tests.unit.breaker.calls import trip


def test_repr_tells_the_story(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """The repr says the state, and what matters in it."""
    assert repr(breaker) == "<CircuitBreaker 'prices' closed: 0 of 0 failed>"
    breaker.admit().failure()
    assert repr(breaker) == "<CircuitBreaker 'prices' closed: 1 of 1 failed>"
    breaker.admit().failure()
    assert repr(breaker) == "<CircuitBreaker 'prices' open: consecutive_failures, next probe in 10.0 s>"
    clock.advance(10)
    breaker.admit()
    assert repr(breaker) == "<CircuitBreaker 'prices' half_open: 0 of 1 probes succeeded, 1 in flight>"


def test_snapshot_is_ready_for_json(breaker: CircuitBreaker) -> None:
    """A snapshot is plain data: state, counts, seconds, policy, and the last failures."""
    trip(breaker)
    plain = json.loads(json.dumps(breaker.snapshot()))
    assert plain.pop("policy")["consecutive_failures"] == 2
    (change,) = plain.pop("changes")
    assert plain.pop("since") == change.pop("time")
    assert change == {
        "sequence": 1,
        "previous": "closed",
        "state": "open",
        "reason": "consecutive_failures",
        "method": "pkg.S/M",
        "calls": 2,
        "failures": 2,
        "slow": 0,
        "status": "UNAVAILABLE",
        "details": "details 1",
        "last_failures": plain["last_failures"],
    }
    assert plain == {
        "name": "prices",
        "target": "",
        "state": "open",
        "retry_after": 10.0,
        "hold": None,
        "reason": "consecutive_failures",
        "hung": 0,
        "refusals": {},
        "retries": 0,
        "fallbacks": {},
        "limits": None,
        "in_flight": 0,
        "generation": 1,
        "sequence": 1,
        "window": {"calls": 2, "failures": 2, "slow": 0, "consecutive_failures": 2},
        "totals": {"success": 0, "failure": 2, "ignored": 0, "rejected": 0, "stale": 0, "unenforced": 0},
        "last_failures": [
            {"status": "UNAVAILABLE", "details": "details 0"},
            {"status": "UNAVAILABLE", "details": "details 1"},
        ],
    }


def test_snapshot_has_no_types_of_this_package(breaker: CircuitBreaker) -> None:
    """What a snapshot holds, and what that holds, is of Python's own plain types, for formats that know no other."""

    def types(value: Any) -> set[type]:
        inside = value.items() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return {type(value)}.union(*map(types, inside))

    trip(breaker)
    assert types(breaker.snapshot()) <= {dict, list, tuple, str, int, float, type(None)}


def test_why_it_opened_is_known_after_recovery(clock: FakeClock) -> None:
    """A breaker remembers its last ten changes, with reason and last failures, after it has closed again."""
    breaker = CircuitBreaker("recovered", BreakerPolicy(consecutive_failures=1, half_open_max_calls=1), clock=clock)
    breaker.admit("pkg.S/M", "a context").failure("UNAVAILABLE", "gone")
    clock.advance(2)
    breaker.admit("pkg.S/M", "a context").success()
    opened, probing, closed = breaker.changes
    assert (opened.state, opened.reason, opened.last_failures[0].details) == (
        State.OPEN,
        "consecutive_failures",
        "gone",
    )
    assert (probing.state, closed.state, opened.context) == (State.HALF_OPEN, State.CLOSED, None)
    assert [change["reason"] for change in breaker.snapshot()["changes"]] == [it.reason for it in breaker.changes]
    for _ in range(20):
        breaker.force_open()
        breaker.reset()
    assert [change.sequence for change in breaker.changes] == list(range(34, 44))


def test_snapshot_of_a_half_open_breaker_counts_probes(clock: FakeClock) -> None:
    """While a breaker is half-open, the results in its snapshot are those of the probes."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=10, reset_timeout_jitter=0, half_open_max_calls=2)
    breaker = CircuitBreaker("prices", policy, clock=clock)
    breaker.admit().failure()
    clock.advance(10)
    breaker.admit().success()
    snapshot = breaker.snapshot()
    assert (snapshot["state"], snapshot["window"]["calls"], snapshot["window"]["failures"]) == ("half_open", 1, 0)


# ── Tallies ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_statuses_are_counted_by_name_in_bounds(breaker: CircuitBreaker) -> None:
    """What calls ended with is counted by name; free text beyond a hundred names counts as other."""
    breaker.admit().settle(Outcome.SUCCESS, "NOT_FOUND")
    for n in range(107):
        breaker.admit().settle(Outcome.IGNORED, f"text {n}")
    breaker.admit().success()
    tallies = breaker.tallies()
    assert sum(calls for (outcome, _), calls in tallies.items() if outcome == "ignored") == 107
    assert (tallies["ignored", "text 98"], tallies["ignored", "other"]) == (1, 8)
    assert len(tallies) == 102
    assert (tallies["success", "NOT_FOUND"], tallies["success", "OK"]) == (1, 1)
    assert breaker.snapshot()["totals"]["success"] == 2


def test_names_of_failures_are_counted_in_bounds(breaker: CircuitBreaker) -> None:
    """A hundred names of failures are counted each by itself, all others together."""
    for n in range(107):
        breaker.admit().failure(f"text {n}")
        breaker.reset()
    assert breaker.tallies() == {**{("failure", f"text {n}"): 1 for n in range(100)}, ("failure", "other"): 7}


@pytest.mark.parametrize("status", ["", "OK"])
def test_ok_is_counted_by_name_beside_any_number_of_others(
    breaker: CircuitBreaker, clock: FakeClock, status: str
) -> None:
    """A success of a probe, with OK or without a status, is counted as OK, however many other names were counted."""
    for n in range(107):
        breaker.admit().settle(Outcome.IGNORED, f"text {n}")
    trip(breaker)
    clock.advance(10)
    breaker.admit().settle(Outcome.SUCCESS, status)
    assert breaker.tallies()["success", "OK"] == 1


@pytest.mark.parametrize("outcome", list(Outcome))
def test_stale_results_are_counted_by_name(breaker: CircuitBreaker, clock: FakeClock, outcome: Outcome) -> None:
    """Results that come too late are counted by the name of their status, whatever made them stale."""
    old = breaker.admit()
    breaker.reset()
    old.settle(outcome, "OLD")
    late, forgotten = breaker.admit(timeout=1), breaker.admit(timeout=1)
    clock.advance(6)
    late.settle(outcome, "LATE")
    assert breaker.in_flight == 0
    assert forgotten.settle(outcome, "FORGOTTEN")
    assert not forgotten.settle(outcome, "FORGOTTEN")
    assert breaker.tallies() == {("stale", "OLD"): 1, ("stale", "LATE"): 1, ("stale", "FORGOTTEN"): 1}


def test_names_of_outcomes_are_counted(breaker: CircuitBreaker) -> None:
    """A success without a status is counted as OK, a failure without a name under none."""
    for status in ("OK", "", "NOT_FOUND"):
        breaker.admit().settle(Outcome.SUCCESS, status)
    breaker.admit().failure()
    assert breaker.tallies() == {("success", "OK"): 2, ("success", "NOT_FOUND"): 1, ("failure", ""): 1}
    assert breaker.snapshot()["last_failures"] == [{"status": "", "details": ""}]


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_refusal_says_everything(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A refusal carries method, breaker, state, seconds and reason, as attributes and in words; each is a new one."""
    trip(breaker)
    clock.advance(2.5)
    errors = []
    for _ in range(2):
        with pytest.raises(CircuitOpenError) as refused:
            breaker.admit("pkg.S/M")
        errors.append(refused.value)
    error = errors[0]
    assert error is not errors[1]
    assert (error.method, error.breaker, error.state) == ("pkg.S/M", "prices", State.OPEN)
    assert (error.retry_after, error.condition, error.code()) == (7.5, Reason.CONSECUTIVE_FAILURES, None)
    assert str(error) == error.details() == "circuit breaker open for pkg.S/M; next probe in 7.5 s"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("state", [State.OPEN, State.HALF_OPEN, State.FORCED_OPEN])
def test_refusal_can_be_pickled(breaker: CircuitBreaker, clock: FakeClock, state: State, protocol: int) -> None:
    """A refusal, raised or returned, survives every protocol of pickle with all its facts but the context."""
    trip(breaker)
    if state is State.HALF_OPEN:
        clock.advance(10)
        breaker.admit()
    elif state is State.FORCED_OPEN:
        breaker.force_open()
    rejection = breaker.try_admit("pkg.S/M", lambda: "what no pickle can hold")
    assert isinstance(rejection, Rejection)
    error = CircuitOpenError(rejection)
    again = pickle.loads(pickle.dumps(error, protocol))
    assert (again.state, again.condition, again.retry_after) == (error.state, error.condition, error.retry_after)
    assert (again.method, again.breaker, again.details()) == (error.method, error.breaker, error.details())
    alone = pickle.loads(pickle.dumps(rejection, protocol))
    assert (alone.probes, alone.code, alone.at) == (rejection.probes, rejection.code, rejection.at)
    assert alone.context is None


RAW = ["\n", "\r", "\r\n", "\x1b[31m", "\0", "\x85", "\u2028", "\x7f"]


@pytest.mark.parametrize("raw", RAW)
def test_control_characters_are_written_out(raw: str, caplog: pytest.LogCaptureFixture) -> None:
    """Line breaks, escape sequences and NUL in a name or a method never reach a refusal's words, a repr or the log."""
    drawn = iter([0.0, 1.0])  # the second is no number in [0, 1), which is logged with the breaker's name
    breaker = CircuitBreaker(f"pri{raw}ces", BreakerPolicy(consecutive_failures=1), random=drawn.__next__)
    breaker.admit().failure()
    words = [repr(breaker), *caplog.messages]
    assert len(words) == 2
    for method in (f"pkg.S/{raw}M", ""):
        with pytest.raises(CircuitOpenError) as refused:
            breaker.admit(method)
        words += [str(refused.value), refused.value.details(), repr(refused.value), repr(refused.value.args)]
        assert refused.value.breaker == f"pri{raw}ces"
    assert all(it.isprintable() for it in words), words


# ── No copies ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, *(partial(pickle.dumps, protocol=n) for n in range(6))])
@pytest.mark.filterwarnings("ignore:Pickle, copy, and deepcopy support:DeprecationWarning")
def test_breaker_cannot_be_copied(breaker: CircuitBreaker, copied: Any) -> None:
    """A breaker is shared, not copied: the error says why."""
    with pytest.raises(
        TypeError, match=r"^a circuit breaker cannot be copied or pickled: a copy would share a part of its state$"
    ):
        copied(breaker)


# ── Bad input ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": 7}, "name must be a string, got 7"),
        ({"name": ""}, "^CircuitBreaker name must not be empty$"),
        ({"policy": {"reset_timeout": 5}}, "a policy must be a BreakerPolicy"),
        ({"clock": 5}, r"^clock must be a callable that \w+ seconds, got 5$"),
        ({"clock": lambda: "noon"}, "'noon'$"),
        ({"clock": lambda: float("nan")}, "nan$"),
        ({"random": 5}, r"^random must be a callable that \w+ a number in \[0, 1\), got 5$"),
        ({"random": lambda: 1}, "1$"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    """A breaker made wrong is an error at once."""
    with pytest.raises((TypeError, ValueError)) as wrong:
        CircuitBreaker(**{"name": "test", **arguments})
    assert re.search(words, str(wrong.value))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("call", "with breaker.admit():"),
        ("call_async", "async with breaker.admit():"),
        ("close", "'reset()'"),
        ("current_state", "'state'"),
        ("open", "'force_open()'"),
        ("protect", "'@breaker'"),
        ("protect_async", "'@breaker'"),
    ],
)
def test_names_of_other_breakers_are_explained(breaker: CircuitBreaker, name: str, hint: str) -> None:
    """An attribute that other circuit breakers have is an AttributeError that says what to write here."""
    with pytest.raises(
        AttributeError, match=re.escape(f"'CircuitBreaker' object has no attribute '{name}': ")
    ) as caught:
        getattr(breaker, name)
    assert hint in str(caught.value)
    assert (caught.value.name, caught.value.obj) == (name, breaker)
    with pytest.raises(AttributeError, match=re.escape(hint)) as caught:
        getattr(CircuitBreaker, name)
    assert caught.value.obj is CircuitBreaker


def test_a_class_is_made_to_explain_the_names_it_lacks() -> None:
    """The explanation names the class that was asked, and the attribute."""

    class Breaker:
        pass

    explain_in(Breaker)
    with pytest.raises(AttributeError, match=r"^'Breaker' object has no attribute 'close': 'reset\(\)' closes it$"):
        Breaker().close  # type: ignore[attr-defined] # noqa: B018


def test_the_error_of_other_breakers_is_this_one() -> None:
    """`CircuitBreakerError`, as other circuit breakers call it, is `CircuitOpenError`."""
    assert grpc_breaker.CircuitBreakerError is CircuitOpenError
