"""How many breakers a registry holds: which are evicted, which are kept, and what a flood of names costs."""

from __future__ import annotations

import gc
import logging
from itertools import count
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreaker, Permit, State
from grpc_breaker.testing import FakeClock
from tests.support.core import CORE, WATCHED
from tests.support.lines import act_at, lines_run
from tests.support.memory import memory_grown

POLICY, DEFAULT = BreakerPolicy(reset_timeout=1), BreakerPolicy(reset_timeout=3)
EVERY_FILE = {str(path) for path in CORE.glob("*.py")}


def names(breakers: BreakerRegistry) -> list[str]:
    """The names of the breakers there are."""
    return [breaker.name for breaker in breakers]


# ── Idle ones ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_never_more_than_its_cap() -> None:
    """Above the cap the breakers idle longest are evicted; one that is open or has a call in flight never is."""
    clock = FakeClock()
    breakers = BreakerRegistry(max_breakers=20, clock=clock)
    breakers["kept.S/Open"].force_open()
    call = breakers["kept.S/Busy"].admit()
    for n in range(200):
        clock.advance(1)
        breakers[f"flood.S/M{n}"].admit().success()
        assert len(breakers) <= 20
    assert {"kept.S/Open", "kept.S/Busy", "flood.S/M199"} <= set(names(breakers))
    assert "flood.S/M0" not in names(breakers)
    assert call.success()


def test_limits_of_the_cap() -> None:
    """A thousand breakers are the default; a cap of one is a cap."""
    breakers = BreakerRegistry(clock=FakeClock())
    for n in range(1000):
        breakers[f"pkg.S/M{n}"]
    assert len(breakers) == 1000
    breakers["pkg.S/M1000"]
    assert len(breakers) == 901
    one = BreakerRegistry(max_breakers=1, clock=FakeClock())
    one["pkg.S/A"], one["pkg.S/B"]
    assert names(one) == ["pkg.S/B"]


def test_the_tenth_is_evicted_at_once() -> None:
    """At the cap the tenth that was idle longest goes at once, so that a flood of names costs little each."""
    clock = FakeClock()
    breakers = BreakerRegistry(max_breakers=20, clock=clock)
    for n in range(20):
        clock.advance(1)
        breakers[f"pkg.S/M{n}"].admit().success()
    breakers["pkg.S/M20"]
    assert names(breakers) == [f"pkg.S/M{n}" for n in range(2, 21)]


def test_last_used_is_kept() -> None:
    """What counts is when a breaker was used last, not when it was made."""
    clock = FakeClock()
    breakers = BreakerRegistry(max_breakers=3, clock=clock)
    for name in ("pkg.S/A", "pkg.S/B", "pkg.S/C", "pkg.S/A"):
        clock.advance(1)
        breakers[name].admit().success()
    breakers["pkg.S/D"]
    assert names(breakers) == ["pkg.S/A", "pkg.S/C", "pkg.S/D"]


def test_another_method_of_a_group_evicts_nobody() -> None:
    """A method whose group has a breaker needs none of its own."""
    clock = FakeClock()
    breakers = BreakerRegistry({"pkg.S": BreakerPolicy(group="prices")}, default=DEFAULT, max_breakers=2, clock=clock)
    for method in ("/pkg.T/M", "/pkg.S/A", "/pkg.S/B"):
        breakers.breaker_for(method)
        clock.advance(1)
    assert names(breakers) == ["pkg.T/M", "prices"]


def test_what_an_operator_did_is_kept() -> None:
    """A breaker that was reconfigured, or has a listener of its own, is kept above the cap."""
    clock = FakeClock()
    breakers = BreakerRegistry(max_breakers=3, clock=clock)
    changes: list[Any] = []
    breakers["pkg.S/Policy"].reconfigure(POLICY)
    breakers["pkg.S/Change"].on_state_change(changes.append)
    end = breakers["pkg.S/Rejection"].on_rejection(print)
    for n in range(10):
        clock.advance(10)
        breakers[f"flood.S/M{n}"]
    kept = {"pkg.S/Policy", "pkg.S/Change", "pkg.S/Rejection"}
    assert set(names(breakers)) == {*kept, "flood.S/M9"}
    assert breakers["pkg.S/Policy"].policy is POLICY
    end()
    clock.advance(10)
    breakers["flood.S/M10"]
    assert set(names(breakers)) == {"pkg.S/Policy", "pkg.S/Change", "flood.S/M10"}


def test_policy_of_the_registry_keeps_no_breaker() -> None:
    """A breaker that was reconfigured by itself, and then got another policy of the registry, may be evicted again."""
    breakers = BreakerRegistry(max_breakers=1, clock=FakeClock())
    breakers["pkg.S/Old"].reconfigure(POLICY)
    breakers.reconfigure(default=DEFAULT)
    breakers["pkg.S/New"]
    assert names(breakers) == ["pkg.S/New"]


def test_expired_probe_does_not_keep_a_breaker() -> None:
    """A breaker whose probe was lost is idle once it has closed and the lease has ended."""
    clock = FakeClock()
    policy = BreakerPolicy(consecutive_failures=1, half_open_max_calls=2, half_open_successes=1, reset_timeout_jitter=0)
    breakers = BreakerRegistry(default=policy, max_breakers=1, clock=clock)
    breaker = breakers["pkg.S/Old"]
    breaker.admit().failure()
    clock.advance(60)
    lost = breaker.admit()
    breaker.admit().success()
    assert (breaker.state, lost.settled) == (State.CLOSED, False)
    breakers["pkg.S/Second"]
    assert "pkg.S/Old" in breakers
    clock.advance(30)
    breakers["pkg.S/Third"]
    assert "pkg.S/Old" not in breakers


def test_evicted_breaker_that_is_held_is_found_again() -> None:
    """A breaker that an operator holds is the one its next call finds, evicted or not."""
    breakers = BreakerRegistry(max_breakers=2, clock=FakeClock())
    held = breakers["pkg.S/Held"]
    for n in range(5):
        breakers[f"pkg.S/M{n}"]
    assert "pkg.S/Held" not in breakers
    held.force_open()
    assert breakers.breaker_for("/pkg.S/Held") is held
    assert held.state is State.FORCED_OPEN


def test_call_of_an_evicted_name_enters_it_again() -> None:
    """A method that was evicted is in the registry again with its next call, and the others stay as they were."""
    breakers = BreakerRegistry(max_breakers=1, clock=FakeClock())
    for name in ("pkg.S/A", "pkg.S/B", "pkg.S/A"):
        breaker = breakers.breaker_for(f"/{name}")
        assert list(breakers) == [breaker]
        assert names(breakers) == [name]


def test_use_is_noted_each_second() -> None:
    """A breaker that is called a second after it was noted as used is noted again, and evicted after idler ones."""
    clock = FakeClock()
    breakers = BreakerRegistry(max_breakers=2, clock=clock)
    for name in ("pkg.S/A", "pkg.S/B", "pkg.S/A"):
        breakers[name].admit().success()
        clock.advance(0.5)
    breakers["pkg.S/C"]
    assert names(breakers) == ["pkg.S/A", "pkg.S/C"]


def test_search_that_found_none_is_repeated_after_a_second() -> None:
    """After a search for idle breakers that found none, a new name searches again when a second has passed."""
    clock = FakeClock()
    breakers = BreakerRegistry(max_breakers=1, clock=clock)
    busy = [breakers["pkg.S/A"].admit(), breakers["pkg.S/B"].admit()]
    for permit in busy:
        permit.success()
    clock.advance(0.75)
    breakers["pkg.S/C"]
    assert names(breakers) == ["pkg.S/A", "pkg.S/B", "pkg.S/C"]
    clock.advance(0.25)
    breakers["pkg.S/D"]
    assert names(breakers) == ["pkg.S/D"]


@pytest.mark.parametrize("entered", ["pkg.S/Own", "pkg.S/Other", "pkg.S/M0"])
def test_calls_made_in_the_middle(entered: str) -> None:
    """A finalizer or signal handler that makes a call while a breaker is made, or evicted, loses no call and no breaker."""

    def call(name: str) -> CircuitBreaker:
        breaker = breakers.breaker_for(f"/{name}")
        assert breaker is not None
        breaker.admit().success()
        return breaker

    found: list[CircuitBreaker] = []
    for at in count(1):
        breakers = BreakerRegistry(max_breakers=2, clock=FakeClock())
        found.clear()
        for n in range(2):
            call(f"pkg.S/M{n}")
        if not act_at(WATCHED, lambda: call("pkg.S/Own"), lambda: found.append(call(entered)), at):
            break
        assert found[0] is breakers.breaker_for(f"/{entered}")
        assert all(breakers.breaker_for(f"/{breaker.name}") is breaker for breaker in breakers)
        assert sum(calls for *_, calls in breakers.counts.tallies()) == 4
    assert at > 20


def test_method_that_is_evicted_and_comes_back_in_the_middle_of_its_call() -> None:
    """A call finds the breaker that is in the registry, though its method was evicted and made again while it asked."""

    def evict() -> None:
        breakers.breaker_for("/pkg.S/Other")
        breakers.breaker_for("/pkg.S/Own")

    for at in count(1):
        breakers = BreakerRegistry(max_breakers=1, clock=FakeClock())
        breakers.breaker_for("/pkg.S/First")
        if not act_at(WATCHED, lambda: breakers.breaker_for("/pkg.S/Own"), evict, at):  # noqa: B023 - used at once
            break
        assert [breakers.breaker_for("/pkg.S/Own")] == list(breakers)
    assert at > 20


# ── Those that are not idle ───────────────────────────────────────────────────────────────────────────────────────


def test_open_breakers_may_exceed_the_cap() -> None:
    """Where none of them is closed and idle, none is evicted, up to ten times the cap."""
    breakers = BreakerRegistry(max_breakers=3, clock=FakeClock())
    for n in range(30):
        breakers[f"pkg.S/M{n}"].force_open()
    assert names(breakers) == [f"pkg.S/M{n}" for n in range(30)]


def test_open_ones_do_not_stand_in_the_way() -> None:
    """Above the cap, because open ones are kept, idle closed ones go until there is room again."""
    clock = FakeClock()
    breakers = BreakerRegistry(max_breakers=3, clock=clock)
    for n in range(5):
        breakers[f"pkg.S/Open{n}"].force_open()
    for n in range(3):
        clock.advance(10)
        breakers[f"pkg.S/M{n}"]
    assert len(breakers) == 6
    for breaker in breakers:
        breaker.reset()
    clock.advance(10)
    breakers["pkg.S/Last"]
    assert len(breakers) == 3


def open_by_calls(breakers: BreakerRegistry, first: int, last: int) -> None:
    """Names whose calls open a breaker each, as an outage makes them."""
    for n in range(first, last):
        permit = breakers[f"flood.S/M{n}"].try_admit()
        if isinstance(permit, Permit):
            permit.failure("UNAVAILABLE", "gone")


@pytest.fixture
def clock() -> FakeClock:
    """The registry's clock."""
    return FakeClock()


@pytest.fixture
def flooded(clock: FakeClock) -> BreakerRegistry:
    """A registry of 20 breakers at most while all goes well, where one failure opens a breaker."""
    return BreakerRegistry(default=BreakerPolicy(consecutive_failures=1), max_breakers=20, clock=clock)


def test_names_that_each_open_share_one_breaker_in_the_end(
    flooded: BreakerRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Above ten times the cap new names share one breaker, `other`, and the log says so once."""
    open_by_calls(flooded, 0, 1000)
    assert len(flooded) == 201
    assert {flooded.breaker_for(f"flood.S/M{n}") for n in range(1000, 1100)} == {flooded["other"]}
    assert flooded["flood.S/M5000"].name == "other"
    assert flooded["flood.S/M0"].name == "flood.S/M0"
    (said,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert said.getMessage() == (
        "200 breakers and none of them is idle: from now on, methods with new names share the breaker 'other'; "
        "are these names made up?"
    )


@pytest.mark.parametrize("default", [DEFAULT, None])
def test_names_share_a_breaker_of_the_default_policy(default: BreakerPolicy | None) -> None:
    """The shared breaker has the default policy, whatever policy covers its first method; without one it has that."""
    breakers = BreakerRegistry({"pkg.S": POLICY}, default=default, max_breakers=1, clock=FakeClock())
    for n in range(10):
        breakers[f"pkg.S/M{n}"].force_open()
    shared = breakers["pkg.S/M10"]
    assert (shared.name, shared.policy) == ("other", default or POLICY)


def test_configured_names_never_share() -> None:
    """A method or group that a policy names has its own breaker with that policy, however many others there are."""
    policies = {"pkg.S/Named": POLICY, "pkg.T": BreakerPolicy(group="prices")}
    breakers = BreakerRegistry(policies, default=BreakerPolicy(consecutive_failures=1), max_breakers=2)
    open_by_calls(breakers, 0, 100)
    assert (breakers["pkg.S/Named"].name, breakers["pkg.S/Named"].policy) == ("pkg.S/Named", POLICY)
    assert breakers["pkg.T/M"].name == "prices"


def test_registry_recovers_from_a_flood(flooded: BreakerRegistry, clock: FakeClock) -> None:
    """Once the breakers of a flood have closed and are idle, they are evicted, and new names have their own again."""
    open_by_calls(flooded, 0, 1000)
    for breaker in flooded:
        breaker.reset()
    breaker = CircuitBreaker("unused")
    for n in range(3):
        clock.advance(10)
        breaker = flooded[f"later.S/M{n}"]
    assert breaker.name == "later.S/M2"
    assert len(flooded) <= 20


def test_new_name_costs_the_same_beside_many_open_ones() -> None:
    """What a new name costs, in lines of code run, does not grow with the number of open breakers."""
    clock = FakeClock()
    breakers = BreakerRegistry(default=BreakerPolicy(consecutive_failures=1), max_breakers=200, clock=clock)

    def cost(first: int) -> int:
        def new_names() -> None:
            for n in range(first, first + 50):
                clock.advance(0.001)
                breakers[f"new.S/M{n}"].force_open()

        return lines_run(EVERY_FILE, new_names).total()

    open_by_calls(breakers, 0, 200)
    few = cost(0)
    open_by_calls(breakers, 200, 1700)
    many = cost(50)
    open_by_calls(breakers, 1700, 3000)
    too_many = cost(100)
    assert many < 1.2 * few
    assert too_many < 1.2 * few


# ── Memory ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_memory_of_evicted_names_is_bounded() -> None:
    """A client that makes up method names fills memory with neither breakers, names, nor counts."""
    breakers = BreakerRegistry(max_breakers=10, clock=FakeClock())

    def flood(numbers: range) -> None:
        for n in numbers:
            breaker = breakers.breaker_for(f"/flood.S/M{n}")
            assert breaker is not None
            breaker.admit().success()
            breakers.breaker_for(f"flood.S/M{n}".encode())

    grown = memory_grown(flood, range(500), range(500, 2000))
    assert len(breakers) <= 10
    assert (
        grown < 30_000
    )  # what 1,500 would leave is more, and what threads of earlier tests take at the moment is less
    assert sum(type(it) is CircuitBreaker and it.name.startswith("flood") for it in gc.get_objects()) <= 10


def test_memory_of_a_shared_breakers_names_is_bounded() -> None:
    """Made-up method names that share one breaker fill no memory either."""
    breakers = BreakerRegistry(default=BreakerPolicy(group="g"), max_breakers=10)

    def flood(numbers: range) -> None:
        for n in numbers:
            breakers.breaker_for(f"/flood.S/M{n}")

    grown = memory_grown(flood, range(500), range(500, 2000))
    assert (
        grown < 30_000
    )  # what 1,500 would leave is more, and what threads of earlier tests take at the moment is less


@pytest.mark.parametrize("most", [1, 10])
def test_memory_of_targets_is_bounded(most: int) -> None:
    """Targets that come and go fill no memory, and what is left alone at them fills none either."""
    breakers = BreakerRegistry(max_breakers=most, clock=FakeClock())

    def flood(numbers: range) -> None:
        for n in numbers:
            breakers.breaker_for("/pkg.S/M", f"host-{n}")
            breakers.breaker_for("/grpc.health.v1.Health/Check", f"host-{n}")

    grown = memory_grown(flood, range(500), range(500, 2000))
    assert (
        grown < 30_000
    )  # what 1,500 would leave is more, and what threads of earlier tests take at the moment is less
