"""Holds: what an operator orders for a time, with a reason, of one breaker or by name of a registry."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreaker, CircuitOpenError, Permit, Reason, State
from grpc_breaker.testing import EventRecorder, FakeClock, hold_open


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> CircuitBreaker:
    return CircuitBreaker("prices", BreakerPolicy(consecutive_failures=1, reset_timeout_jitter=0), clock=clock)


@pytest.fixture
def breakers(clock: FakeClock) -> BreakerRegistry:
    """Policies of a method, a service, a group and a target."""
    policies: dict[Any, BreakerPolicy] = {
        "pkg.S/Named": BreakerPolicy(),
        "pkg.T": BreakerPolicy(),
        "pkg.U/A": BreakerPolicy(group="shared"),
        ("pkg.S/Named", "eu"): BreakerPolicy(),
    }
    return BreakerRegistry(policies, clock=clock)


# ── Of one breaker ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_call_after_the_time_finds_it_closed(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """What is forced open for ten seconds refuses until then, says for how long, and admits the first call after."""
    events = EventRecorder(breaker)
    breaker.force_open(ttl=10, reason="deploy 42")
    clock.advance(9)
    with pytest.raises(CircuitOpenError, match=r"for another 1 s, or until an operator resets it") as refused:
        breaker.admit()
    assert (refused.value.retry_after, refused.value.condition) == (1, Reason.FORCED_OPEN)
    clock.advance(1)
    assert isinstance(breaker.try_admit(), Permit)
    told = [(change.state, change.reason, change.details) for change in events.changes]
    assert told == [
        (State.FORCED_OPEN, Reason.FORCED_OPEN, "deploy 42"),
        (State.CLOSED, Reason.HOLD_EXPIRED, "deploy 42"),
    ]


def test_what_was_disabled_for_a_time_trips_after_it(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A breaker disabled for a time lets failures pass until then, and opens at the first one after it."""
    breaker.disable(ttl=10)
    for seconds in (0, 9):
        clock.advance(seconds)
        breaker.admit().failure()
        assert breaker.state is State.DISABLED
    clock.advance(1)
    breaker.admit().failure()
    assert breaker.state is State.OPEN
    assert [change.reason for change in breaker.changes] == [
        Reason.DISABLED,
        Reason.HOLD_EXPIRED,
        Reason.CONSECUTIVE_FAILURES,
    ]


@pytest.mark.parametrize(
    "read",
    [
        lambda breaker: str(breaker.state),
        lambda breaker: breaker.snapshot()["state"],
        lambda breaker: "closed" if breaker.retry_after == 0 else "",
        lambda breaker: "closed" if breaker.hold is None else "",
        lambda breaker: repr(breaker).split()[2].rstrip(":"),
    ],
)
def test_reading_ends_a_hold(breaker: CircuitBreaker, clock: FakeClock, read: Callable[[CircuitBreaker], str]) -> None:
    """Whatever reads the state after the time finds it closed, and the change is told then."""
    events = EventRecorder(breaker)
    breaker.force_open(ttl=10)
    clock.advance(10)
    assert read(breaker) == "closed"
    assert events.states == [State.FORCED_OPEN, State.CLOSED]


def test_the_later_order_counts(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """Another time or reason takes the place of the one before, in one step and without an event."""
    events = EventRecorder(breaker)
    breaker.force_open(ttl=10, reason="first")
    breaker.force_open(ttl=100, reason="second")
    clock.advance(99)
    assert breaker.state is State.FORCED_OPEN
    assert breaker.retry_after == 1
    breaker.force_open()
    clock.advance(1e9)
    assert (breaker.state, breaker.retry_after) == (State.FORCED_OPEN, None)
    with pytest.raises(CircuitOpenError) as refused:
        breaker.admit()
    assert refused.value.condition == Reason.FORCED_OPEN
    breaker.disable(ttl=5)
    breaker.disable(ttl=1)
    clock.advance(1)
    assert breaker.state is State.CLOSED
    assert events.states == [State.FORCED_OPEN, State.DISABLED, State.CLOSED]
    assert [change.sequence for change in events.changes] == [1, 2, 3]


def test_an_order_for_good_has_no_end(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """Without a time a hold lasts until another order, also where the reason is another one."""
    breaker.disable(reason="load test")
    clock.advance(1e12)
    assert breaker.state is State.DISABLED
    assert breaker.hold is not None
    assert (breaker.hold.reason, breaker.hold.left(clock())) == ("load test", None)
    breaker.reset()
    assert breaker.hold is None


def test_snapshot_shows_the_hold(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A snapshot says why it is held, since when, and for how long yet, ready for JSON."""
    assert breaker.snapshot()["hold"] is None
    breaker.force_open(ttl=10, reason="deploy")
    clock.advance(4)
    shown = json.loads(json.dumps(breaker.snapshot()))["hold"]
    assert (shown["reason"], shown["seconds_left"]) == ("deploy", 6)
    assert shown["since"] == pytest.approx(breaker.changes[-1].time, abs=60)


@pytest.mark.parametrize(("after", "left"), [(0, 10), (9.75, 0.25), (10, 0), (11, 0)])
def test_time_that_is_left(breaker: CircuitBreaker, clock: FakeClock, after: float, left: float) -> None:
    """A hold says for how long yet, down to nothing, also to who has kept it beyond its end."""
    breaker.force_open(ttl=10)
    hold = breaker.hold
    assert hold is not None
    assert hold.left(clock() + after) == left


def test_end_by_the_wall_clock(breaker: CircuitBreaker) -> None:
    """A hold says when it was given and when it ends, in seconds since the epoch; one for good never ends."""
    breaker.force_open(ttl=64)
    assert breaker.hold is not None
    assert breaker.hold.ends == breaker.hold.since + 64
    breaker.disable()
    assert breaker.hold is not None
    assert breaker.hold.ends == math.inf


@pytest.mark.parametrize("order", ["force_open", "disable"])
def test_longest_reason(breaker: CircuitBreaker, order: str) -> None:
    """A reason may have 200 characters, and is kept whole."""
    getattr(breaker, order)(reason="x" * 200)
    assert breaker.hold is not None
    assert breaker.hold.reason == "x" * 200


@pytest.mark.parametrize("order", ["force_open", "disable"])
@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"ttl": 0}, ValueError, "ttl must be a number of seconds from 0.000001 to 1e9, or None, got 0"),
        ({"ttl": float("nan")}, ValueError, "ttl must be a number of seconds from 0.000001 to 1e9, or None, got nan"),
        ({"ttl": "10m"}, TypeError, "ttl must be a number of seconds from 0.000001 to 1e9, or None, got '10m'"),
        ({"reason": None}, TypeError, "reason must be a text of at most 200 characters, got None"),
        ({"reason": "x" * 201}, ValueError, "reason must be a text of at most 200 characters, got 'xxx"),
    ],
)
def test_wrong_orders_change_nothing(
    breaker: CircuitBreaker,
    breakers: BreakerRegistry,
    order: str,
    arguments: dict[str, Any],
    kind: type[Exception],
    words: str,
) -> None:
    """What is wrong with an order is said with its name, and nothing changes."""
    with pytest.raises(kind, match=re.escape(f"{order} {words}")):
        getattr(breaker, order)(**arguments)
    with pytest.raises(kind, match=re.escape(f"{order} {words}")):
        getattr(breakers, order)("pkg.S/Named", **arguments)
    assert (breaker.state, breakers["pkg.S/Named"].state) == (State.CLOSED, State.CLOSED)


def test_a_test_gives_a_hold_back(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """`hold_open` leaves a breaker as it was held before, with the time that is left."""
    breaker.disable(ttl=10, reason="load test")
    with hold_open(breaker):
        clock.advance(4)
        assert breaker.state is State.FORCED_OPEN
    assert (breaker.state, breaker.snapshot()["hold"]["seconds_left"]) == (State.DISABLED, 6)


# ── By name ───────────────────────────────────────────────────────────────────────────────────────────────────────


def states(breakers: BreakerRegistry) -> dict[str, str]:
    return {breaker.name: str(breaker.state) for breaker in breakers}


def make(breakers: BreakerRegistry) -> None:
    """Have calls of several methods, some at a target, and of services whose names begin alike."""
    for method in ("/pkg.S/Named", "/pkg.T/A", "/pkg.T/B", "/pkg.U/A", "/pkg.TT/A", "/pkg/A"):
        breakers.breaker_for(method)
    breakers.breaker_for("/pkg.S/Named", "eu")
    breakers.breaker_for("/pkg.T/A", "eu")
    breakers.breaker_for("/pkg.T/A", "eu2")


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("pkg.S/Named", ("pkg.S/Named", "pkg.S/Named@eu")),
        ("/pkg.S/Named@eu", ("pkg.S/Named@eu",)),
        ("pkg.T", ("pkg.T/A", "pkg.T/A@eu", "pkg.T/A@eu2", "pkg.T/B")),
        ("pkg.T@eu", ("pkg.T/A@eu",)),
        ("@eu", ("pkg.S/Named@eu", "pkg.T/A@eu")),
        ("shared", ("shared",)),
        ("pkg.U/A", ("shared",)),
    ],
)
def test_a_name_holds_what_it_means(breakers: BreakerRegistry, name: str, held: tuple[str, ...]) -> None:
    """A method, a service, a group, with or without a target, and a target alone: these and no others are held."""
    make(breakers)
    assert breakers.force_open(name, ttl=10) == held
    assert {it for it, state in states(breakers).items() if state == "forced_open"} == set(held)
    assert breakers.reset(name) == held
    assert set(states(breakers).values()) == {"closed"}


def test_a_service_is_held_as_a_whole(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """A method of a held service that is called later is refused, too, until the time is over."""
    assert breakers.force_open("pkg.T", ttl=10, reason="gone") == ()
    first = breakers["pkg.T/A"]
    assert (first.state, first.snapshot()["hold"]["reason"]) == (State.FORCED_OPEN, "gone")
    clock.advance(10)
    assert (first.state, breakers["pkg.T/B"].state) == (State.CLOSED, State.CLOSED)
    assert breakers["pkg.T/B"].changes == ()


def test_the_last_order_by_name_counts(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """Of a hold on a service and a later one on a method each counts for its own; a later reset ends both for those."""
    breakers.force_open("pkg.T", ttl=100)
    breakers["pkg.T/A"]
    breakers.disable("pkg.T/A", ttl=10)
    assert breakers["pkg.T/B"].state is State.FORCED_OPEN
    clock.advance(10)
    assert breakers["pkg.T/A"].state is State.CLOSED
    assert breakers.breaker_for("/pkg.T/A", "us").state is State.CLOSED  # type: ignore[union-attr]
    assert breakers["pkg.T/C"].state is State.FORCED_OPEN
    breakers.reset("pkg.T")
    assert breakers["pkg.T/D"].state is State.CLOSED


def test_an_earlier_order_does_not_come_back(breakers: BreakerRegistry) -> None:
    """A method that was reset by name within a held service stays so for its targets to come."""
    breakers.force_open("pkg.T")
    breakers["pkg.T/A"]
    breakers.reset("pkg.T/A")
    assert breakers["pkg.T/A@eu"].state is State.CLOSED
    assert breakers["pkg.T/B@eu"].state is State.FORCED_OPEN


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pkg.S/Namd", "no breaker and no policy has the name 'pkg.S/Namd'; did you mean 'pkg.S/Named'?"),
        ("pkg.X", "no breaker and no policy has the name 'pkg.X'"),
        ("pkg.S/Named@us", "no breaker and no policy has the name 'pkg.S/Named@us'"),
        ("@us", "no breaker and no policy has the name '@us'"),
        ("", "no breaker and no policy has the name ''"),
        ("pkg.T/NeverCalled", "no breaker and no policy has the name 'pkg.T/NeverCalled'"),
        ("pkg.T@two words", "target must be a name of 1 to 200 characters"),
        ("@", "target must be a name of 1 to 200 characters"),
    ],
)
def test_unknown_names_are_refused(breakers: BreakerRegistry, name: str, words: str) -> None:
    """A name that nothing has is an error with the nearest one, holds nothing and makes no breaker."""
    for order in (breakers.force_open, breakers.disable, breakers.reset):
        with pytest.raises(ValueError, match=re.escape(words)):
            order(name)
    assert len(breakers) == 0
    with pytest.raises(TypeError, match="a name must be a string like"):
        breakers.force_open(("pkg.T", "eu"))  # type: ignore[arg-type]


def test_unknown_name_that_is_like_no_other(breakers: BreakerRegistry) -> None:
    """Where no name is near, the error proposes none."""
    with pytest.raises(ValueError, match="no breaker") as unknown:
        breakers.reset("something.else")
    assert str(unknown.value) == "no breaker and no policy has the name 'something.else'"


@pytest.mark.parametrize("name", ["pkg.V", "/pkg.V", "pkg.V@eu"])
def test_service_in_a_group(clock: FakeClock, name: str) -> None:
    """The methods of a service whose policy has a group have no breaker of its name: the error says which they have."""
    breakers = BreakerRegistry({"pkg.V": BreakerPolicy(group="shared"), "pkg.W": BreakerPolicy()}, clock=clock)
    breakers.breaker_for("/pkg.V/A", "eu")
    for order in (breakers.force_open, breakers.disable, breakers.reset):
        with pytest.raises(ValueError, match=f"no breaker has the name '{name}': its methods share .*shared"):
            order(name)
    assert breakers.force_open("pkg.V/A") == ("shared@eu",)


def test_method_beside_a_group(clock: FakeClock) -> None:
    """Of a service in a group, a method with a policy of its own is held by the service's name."""
    breakers = BreakerRegistry({"pkg.V": BreakerPolicy(group="shared"), "pkg.V/Own": BreakerPolicy()}, clock=clock)
    assert breakers.force_open("pkg.V") == ()
    assert (breakers["pkg.V/Own"].state, breakers["shared"].state) == (State.FORCED_OPEN, State.CLOSED)


def test_name_with_an_at_sign(breakers: BreakerRegistry) -> None:
    """A method may have an "@" in its name: what stands after the last one is the target."""
    assert breakers.breaker_for("/pkg.S/Odd@home", "eu") is not None
    assert breakers.disable("pkg.S/Odd@home@eu") == ("pkg.S/Odd@home@eu",)


def test_a_service_without_policy_is_known_by_its_calls() -> None:
    """With a default policy alone, services and methods are known once they were called."""
    breakers = BreakerRegistry(clock=FakeClock())
    with pytest.raises(ValueError, match=r"no breaker and no policy has the name 'pkg\.S'"):
        breakers.disable("pkg.S")
    breakers.breaker_for("/pkg.S/M")
    assert breakers.disable("pkg.S") == ("pkg.S/M",)
    with pytest.raises(ValueError, match=r"did you mean 'pkg\.S'"):
        breakers.disable("pgk.S")


def test_an_order_that_is_given_again_is_the_last(breakers: BreakerRegistry) -> None:
    """A service held, then one of its methods disabled, then the service held again: what is made then is held."""
    breakers.force_open("pkg.T")
    breakers["pkg.T/A"]
    breakers.disable("pkg.T/A")
    breakers.force_open("pkg.T")
    assert breakers["pkg.T/A@eu"].state is State.FORCED_OPEN
