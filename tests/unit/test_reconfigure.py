"""Another configuration of a registry while it works: what changes at once, and what stays."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    BulkheadFullError,
    CallRefusedError,
    CircuitBreakerInterceptor,
    Fallback,
    LastGood,
    MethodPolicy,
    Permit,
    RateLimit,
    RateLimitedError,
    RetryPolicy,
    RetryThrottling,
    State,
    Throttle,
)
from grpc_breaker.testing import FakeClock
from tests.support.core import WATCHED
from tests.support.decisions import METHOD, Guarded, quick
from tests.support.lines import act_at
from tests.unit.test_adapters import intercept


@pytest.fixture
def clock() -> FakeClock:
    """The registry's clock."""
    return FakeClock()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"policies": {"pkg.S": quick(), "/pkg.S": quick()}}, "two policies for 'pkg.S'"),
        ({"policies": {"pkg.S": quick(), "pkg.*": quick()}}, "no wildcards"),
        ({"policies": {"pkg.S": "open"}}, "must be a BreakerPolicy or a MethodPolicy"),
        ({"policies": [quick()]}, "must be a mapping"),
        ({"default": 5}, "default must be"),
        ({"retry_throttling": 5}, "retry_throttling must be"),
        (
            {"policies": {"a.A": quick(group="g"), "b.B": quick(group="g", consecutive_failures=7)}},
            "two different policies",
        ),
    ],
)
def test_wrong_configuration_changes_nothing(arguments: dict[str, Any], error: str) -> None:
    """All is checked first: after an error every policy is what it was, and the next configuration is taken."""
    method = Guarded(MethodPolicy(breaker=quick(), max_concurrent_calls=1))
    method.admit()
    with pytest.raises((TypeError, ValueError), match=error):
        method.breakers.reconfigure(**arguments)
    assert isinstance(method.refusal(), BulkheadFullError)
    assert method.breakers.breaker_for("/other.S/M") is None
    assert method.breakers.reconfigure({"pkg.S": quick()}, default=None) == ("pkg.S",)
    assert method.refusal() is None


def test_clock_that_raises_changes_nothing() -> None:
    """Where the clock raises, nothing is in force that was not before."""
    broken: list[bool] = []

    def clock() -> float:
        if broken:
            raise LookupError
        return 0.0

    breakers = BreakerRegistry({"pkg.S": quick()}, default=None, clock=clock)
    breaker = breakers[METHOD]
    broken.append(True)
    with pytest.raises(LookupError):
        breakers.reconfigure({"pkg.S": quick(reset_timeout=77), "other.S": quick()}, default=None)
    broken.clear()
    assert breaker.policy == quick()
    assert breakers.breaker_for("/other.S/M") is None


def test_reaches_methods_that_were_not_called_yet(clock: FakeClock) -> None:
    """A method that is called for the first time afterwards has the new policy."""
    breakers = BreakerRegistry({"pkg.S": quick()}, clock=clock)
    breakers.reconfigure({"pkg.S": quick(reset_timeout=33)})
    assert breakers[METHOD].policy.reset_timeout == 33


def test_reaches_breakers_that_are_there(clock: FakeClock) -> None:
    """Breakers that are there have the new policy at once, and are the same objects."""
    breakers = BreakerRegistry({"pkg.S": quick()}, clock=clock)
    breaker = breakers[METHOD]
    breakers.reconfigure({"pkg.S": quick(reset_timeout=33)})
    assert breaker.policy.reset_timeout == 33
    assert breakers[METHOD] is breaker


def test_reaches_the_default(clock: FakeClock) -> None:
    """Another default is that of methods which no name covers, called already or not."""
    breakers = BreakerRegistry(default=quick(), clock=clock)
    called = breakers["a.A/M"]
    breakers.reconfigure(default=quick(reset_timeout=33))
    assert (called.policy.reset_timeout, breakers["b.B/M"].policy.reset_timeout) == (33, 33)


def test_returns_the_names_that_changed(clock: FakeClock) -> None:
    """The names whose policy is another one, is new or is gone; the default as ""."""
    breakers = BreakerRegistry({"a.A": quick(), "b.B": quick(), "c.C": quick()}, clock=clock)
    new = {"a.A": quick(), "b.B": quick(reset_timeout=33), "d.D": quick()}
    assert breakers.reconfigure(new) == ("b.B", "c.C", "d.D")
    assert breakers.reconfigure(new) == ()
    assert breakers.reconfigure(new, default=None) == ("",)


def test_state_window_and_calls_stay(clock: FakeClock) -> None:
    """Open breakers stay open until the time they said, windows keep what they counted, calls in flight go on."""
    breakers = BreakerRegistry({"pkg.S": quick(consecutive_failures=3)}, clock=clock)
    opened, counting = breakers["pkg.S/Open"], breakers["pkg.S/Counting"]
    for _ in range(3):
        opened.admit().failure()
    counting.admit().failure()
    permit = counting.admit()
    breakers.reconfigure({"pkg.S": quick(consecutive_failures=2, reset_timeout=1)})
    assert (opened.state, opened.retry_after) == (State.OPEN, 10)
    assert (counting.snapshot()["window"]["failures"], counting.in_flight) == (1, 1)
    permit.failure()
    assert (counting.state, counting.retry_after) == (State.OPEN, 1)


def test_same_configuration_again_changes_nothing(clock: FakeClock) -> None:
    """A configuration that says the same leaves everything."""
    policies = {"pkg.S": MethodPolicy(breaker=quick(window_calls=20), max_concurrent_calls=2)}
    breakers = BreakerRegistry(policies, clock=clock)
    breaker = breakers[METHOD]
    breaker.admit().success()
    permit = breaker.admit()
    before = breaker.snapshot()
    for _ in range(100):
        assert breakers.reconfigure(policies) == ()
    assert breaker.snapshot() == before
    assert permit.success()


def test_what_an_operator_reconfigured_stays_until_its_policy_changes(clock: FakeClock) -> None:
    """A breaker with a policy of its own keeps it while the registry's for it is the same, and loses it then."""
    breakers = BreakerRegistry({"pkg.S": quick()}, clock=clock)
    breaker = breakers[METHOD]
    breaker.reconfigure(quick(reset_timeout=99))
    breakers.reconfigure({"pkg.S": quick(), "other.S": quick(reset_timeout=2)})
    assert breaker.policy.reset_timeout == 99
    breakers.reconfigure({"pkg.S": MethodPolicy(breaker=quick(), timeout=3)})
    assert breaker.policy.reset_timeout == 99, "a timeout is none of the breaker's"
    breakers.reconfigure({"pkg.S": quick(reset_timeout=2)})
    assert breaker.policy.reset_timeout == 2
    breaker.reconfigure(quick(reset_timeout=88))
    breakers.reconfigure({"pkg.S": quick(reset_timeout=2)})
    assert breaker.policy.reset_timeout == 88, "the registry's has not changed since"


def test_what_an_operator_forced_stays(clock: FakeClock) -> None:
    """A breaker that is forced open or disabled stays so."""
    breakers = BreakerRegistry({"pkg.S": quick()}, clock=clock)
    breakers["pkg.S/A"].force_open()
    breakers["pkg.S/B"].disable()
    breakers.reconfigure({"pkg.S": quick(reset_timeout=2)})
    assert [breaker.state for breaker in breakers] == [State.FORCED_OPEN, State.DISABLED]


def test_method_that_is_left_alone_now() -> None:
    """A method that no policy covers any more has no breaker; with a policy again it has one."""
    method = Guarded(quick())
    method.fail()
    method.breakers.reconfigure({}, default=None)
    assert method.breakers.breaker_for(f"/{METHOD}") is None
    assert list(method.breakers) == []
    with pytest.raises(KeyError, match="no policy covers it"):
        method.breakers[METHOD]
    method.breakers.reconfigure({"pkg.S": quick(reset_timeout=2)}, default=None)
    assert method.breaker.policy.reset_timeout == 2


def test_breaker_that_somebody_holds_comes_back_as_it_was() -> None:
    """A breaker that is held while its method is left alone is the method's again afterwards, with the policy of then."""
    method = Guarded(quick())
    held = method.breaker
    method.fail()
    method.breakers.reconfigure({}, default=None)
    method.breakers.reconfigure({"pkg.S": quick(reset_timeout=2)}, default=None)
    assert method.breaker is held
    assert (held.state, held.policy.reset_timeout) == (State.OPEN, 2)


def test_evicted_breaker_that_somebody_holds_is_reached(clock: FakeClock) -> None:
    """A breaker that was evicted and is found again by its next call has the policy of then."""
    breakers = BreakerRegistry({"pkg.S": quick()}, max_breakers=1, clock=clock)
    held = breakers["pkg.S/A"]
    breakers["pkg.S/B"].admit().success()
    assert "pkg.S/A" not in breakers
    breakers.reconfigure({"pkg.S": quick(reset_timeout=33)})
    assert held.policy.reset_timeout == 33
    assert breakers.breaker_for("/pkg.S/A") is held


def test_method_that_joins_a_group(clock: FakeClock) -> None:
    """A method with a group now shares the group's breaker, and its own is forgotten."""
    breakers = BreakerRegistry({"pkg.S": quick()}, default=None, clock=clock)
    breakers[METHOD].admit().failure()
    breakers.reconfigure({"pkg.S": quick(group="shared")}, default=None)
    breaker = breakers.breaker_for(f"/{METHOD}")
    assert breaker is not None
    assert (breaker.name, breaker.state) == ("shared", State.CLOSED)
    assert [it.name for it in breakers] == ["shared"]


def test_retries_are_counted_with_the_group_that_a_method_joins(clock: FakeClock) -> None:
    """What is done around a breaker is counted with its calls, also where a method has another breaker now."""
    policy = MethodPolicy(breaker=quick(), retry=RetryPolicy())
    breakers = BreakerRegistry({"pkg.S": policy}, clock=clock)
    breakers.route(f"/{METHOD}")
    breakers.reconfigure({"pkg.S": replace(policy, breaker=quick(group="shared"))})
    route = breakers.route(f"/{METHOD}")
    assert route is not None
    assert route[2] is not None
    route[2].count_retry()
    assert breakers["shared"].snapshot()["retries"] == 1


@pytest.mark.parametrize("default", [None, BreakerPolicy(), BreakerPolicy(group="all")])
def test_group_that_is_gone(default: BreakerPolicy | None, clock: FakeClock) -> None:
    """A group that no policy names any more is forgotten, its open breaker too, whatever the default is."""
    breakers = BreakerRegistry({"pkg.S": quick(group="shared")}, default=default, clock=clock)
    breaker = breakers.breaker_for(f"/{METHOD}")
    assert breaker is not None
    breaker.admit().failure()
    breakers.reconfigure({"pkg.S": quick()}, default=default)
    assert list(breakers) == []
    again = breakers.breaker_for(f"/{METHOD}")
    assert again is not None
    assert (again.name, again.state) == (METHOD, State.CLOSED)


def test_group_changes_its_policy(clock: FakeClock) -> None:
    """The policy of a group is that of its breaker, and a member more or less changes nothing else."""
    breakers = BreakerRegistry({"a.A": quick(group="g")}, clock=clock)
    shared = breakers["g"]
    breakers.reconfigure({"a.A": quick(group="g", reset_timeout=2), "b.B": quick(group="g", reset_timeout=2)})
    assert shared.policy.reset_timeout == 2
    assert breakers.breaker_for("/b.B/M") is shared


def test_policies_for_targets(clock: FakeClock) -> None:
    """A policy for one target reaches its breaker alone; without one it has the method's again."""
    breakers = BreakerRegistry({"pkg.S": quick()}, clock=clock)
    eu, us = breakers[METHOD, "eu"], breakers[METHOD, "us"]
    changed = breakers.reconfigure({"pkg.S": quick(), ("pkg.S/M", "eu"): quick(reset_timeout=2)})
    assert changed == ("pkg.S/M@eu",)
    assert (eu.policy.reset_timeout, us.policy.reset_timeout) == (2, 10)
    breakers.reconfigure({"pkg.S": quick()})
    assert eu.policy.reset_timeout == 10


def test_new_window_begins_empty_and_old_one_stays(clock: FakeClock) -> None:
    """A window of another shape begins empty; the row of failures goes on."""
    breakers = BreakerRegistry({"pkg.S": quick(consecutive_failures=3)}, clock=clock)
    breaker = breakers[METHOD]
    breaker.admit().failure()
    breakers.reconfigure({"pkg.S": quick(consecutive_failures=3, window_calls=50)})
    assert breaker.snapshot()["window"] == {"calls": 0, "failures": 0, "slow": 0, "consecutive_failures": 1}


def test_limits_come_and_go() -> None:
    """Limits come into force for calls that come, and out of it."""
    method = Guarded(quick())
    method.admit()
    method.breakers.reconfigure({"pkg.S": MethodPolicy(breaker=quick(), max_concurrent_calls=1)}, default=None)
    assert isinstance(method.refusal(), BulkheadFullError)
    method.breakers.reconfigure({"pkg.S": MethodPolicy(rate_limit=RateLimit(1, burst=1))}, default=None)
    method.admit()
    assert isinstance(method.refusal(), RateLimitedError)
    method.breakers.reconfigure({"pkg.S": MethodPolicy(throttle=Throttle())}, default=None)
    assert method.passed(9) == 9
    method.breakers.reconfigure({"pkg.S": MethodPolicy(breaker=None)}, default=None)
    assert method.breaker.snapshot()["limits"] is None


@pytest.mark.parametrize("then", ["again", "back"])
def test_interrupted_reconfiguration_is_finished_by_the_next(then: str, clock: FakeClock) -> None:
    """Whatever the line at which it was interrupted: the same configuration again, or the one before, is in force whole."""
    first = {"pkg.S": MethodPolicy(breaker=quick(reset_timeout=1), max_concurrent_calls=1)}
    second = {"pkg.S": MethodPolicy(breaker=quick(reset_timeout=2), max_concurrent_calls=2)}
    wanted, at = second if then == "again" else first, 0
    while True:
        at += 1
        breakers = BreakerRegistry(first, clock=clock)
        held = [breakers[f"pkg.S/M{n}"] for n in range(2)]

        def interrupt() -> None:
            raise KeyboardInterrupt

        try:
            went_on = act_at(WATCHED, lambda: breakers.reconfigure(second), interrupt, at)  # noqa: B023
        except KeyboardInterrupt:
            went_on = True
        breakers.reconfigure(wanted)
        for breaker in (*held, breakers["pkg.S/New"]):
            limit = wanted["pkg.S"].max_concurrent_calls
            assert breaker.policy.reset_timeout == breaker.snapshot()["limits"]["max_concurrent_calls"] == limit
            assert [isinstance(breaker.try_admit(), Permit) for _ in range(3)] == [True, limit == 2, False]
        if not went_on:
            break
    assert at > 50


# ── Interceptors ──────────────────────────────────────────────────────────────────────────────────────────────────


def answered(call: Any) -> bool:
    """Whether a call was let through."""
    return not isinstance(call, CallRefusedError)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_interceptors_use_the_new_policy(kind: str, clock: FakeClock) -> None:
    """An interceptor that has called a method before finds its new policy with the next call."""
    breakers = BreakerRegistry(default=None, clock=clock)
    assert intercept(breakers, None, kind) is None
    breakers.reconfigure(default=quick())
    breakers[METHOD].force_open()
    assert not answered(intercept(breakers, None, kind))
    breakers.reconfigure(default=None)
    assert intercept(breakers, None, kind) is None


def test_interceptor_whose_methods_were_all_left_alone(clock: FakeClock) -> None:
    """A method that was left alone is guarded once it has a policy, also where many others were evicted before."""
    breakers = BreakerRegistry({"a.A": quick()}, default=None, max_breakers=2, clock=clock)
    interceptor = CircuitBreakerInterceptor(breakers, target="eu", telemetry=False)

    def call() -> Any:
        details: Any = SimpleNamespace(method=f"/{METHOD}", timeout=None)
        return interceptor.intercept_unary_unary(lambda *_: None, details, None)

    assert call() is None
    for n in range(5):
        breakers[f"a.A/M{n}"].admit().success()
    breakers.reconfigure({"pkg.S": quick()}, default=None)
    breakers[METHOD, "eu"].force_open()
    assert not answered(call())


# ── Threads ───────────────────────────────────────────────────────────────────────────────────────────────────────


def in_threads(*works: Callable[[], object]) -> list[BaseException]:
    """Do these at once; what they raised."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_calls_in_the_middle_of_it_see_no_error() -> None:
    """Threads make calls while others put one configuration after another in force: no error, and no permit is lost."""
    shapes: list[dict[str, BreakerPolicy | MethodPolicy]] = [
        {"pkg.S": quick()},
        {"pkg.S": MethodPolicy(breaker=quick(window_calls=20, hung_after=5), max_concurrent_calls=3)},
        {"pkg.S": quick(group="g", ramp=1)},
        {"pkg.S": MethodPolicy(rate_limit=RateLimit(1e6), throttle=Throttle(), max_concurrent_calls=2)},
        {},
    ]
    breakers = BreakerRegistry(shapes[0], default=None)
    callers = [threading.Event() for _ in range(3)]

    def call(over: threading.Event) -> None:
        try:
            for made in range(3000):
                breaker = breakers.breaker_for(f"/pkg.S/M{made % 3}")
                answer = None if breaker is None else breaker.try_admit()
                if isinstance(answer, Permit):
                    assert (answer.success, answer.failure, answer.ignore)[made % 3]()
        finally:
            over.set()

    def change() -> None:
        for n in count():
            breakers.reconfigure(shapes[n % len(shapes)], default=None)
            if all(over.is_set() for over in callers):
                break

    assert in_threads(change, *(partial(call, over) for over in callers)) == []
    breakers.reconfigure(shapes[0], default=None)
    for breaker in breakers:
        assert breaker.in_flight == 0
        assert breaker.policy == quick()


def test_last_of_several_is_in_force() -> None:
    """Threads that put different configurations in force at once end with one of them, everywhere."""
    wanted = [{"pkg.S": MethodPolicy(breaker=quick(reset_timeout=n), max_concurrent_calls=n)} for n in range(1, 5)]
    for _ in range(20):
        breakers = BreakerRegistry({"pkg.S": quick()}, default=None)
        held = [breakers[f"pkg.S/M{n}"] for n in range(20)]
        works = [partial(breakers.reconfigure, policies, default=None) for policies in wanted]
        assert in_threads(*works) == []
        found = {
            (breaker.policy.reset_timeout, breaker.snapshot()["limits"]["max_concurrent_calls"]) for breaker in held
        }
        assert len(found) == 1
        ((reset_timeout, most),) = found
        assert reset_timeout == most
        assert breakers["pkg.S/New"].policy.reset_timeout == reset_timeout


def test_registry_keeps_no_breaker_alive_for_it(clock: FakeClock) -> None:
    """What was forgotten and nobody holds is gone, and begins anew."""
    breakers = BreakerRegistry({"pkg.S": quick()}, default=None, clock=clock)
    breakers[METHOD].admit().failure()
    breakers.reconfigure({}, default=None)
    gc.collect()
    breakers.reconfigure({"pkg.S": quick()}, default=None)
    assert breakers[METHOD].state is State.CLOSED


def test_parts_around_the_breaker_follow(clock: FakeClock) -> None:
    """Timeout, retries and fallback of a method that was called are the new ones, and none where there is none."""
    policy = MethodPolicy(timeout=1, retry=RetryPolicy(), fallback=Fallback(last_good=LastGood()))
    breakers = BreakerRegistry({"pkg.S": policy}, clock=clock)

    def timeout() -> object:
        route = breakers.route(f"/{METHOD}")
        assert route is not None
        return None if route[2] is None else route[2].policy.timeout

    assert timeout() == 1
    breakers.reconfigure({"pkg.S": MethodPolicy(timeout=2)})
    assert timeout() == 2
    breakers.reconfigure({"pkg.S": quick()})
    assert timeout() is None


def test_shared_breaker_follows_the_default(clock: FakeClock) -> None:
    """The breaker that names share where there are too many of them has the default's policy, as they have."""
    breakers = BreakerRegistry(default=quick(), max_breakers=1, clock=clock)
    names = [f"pkg.S/M{n}" for n in range(12)]
    held = [breakers[name].admit() for name in names]
    shared = breakers.breaker_for("/pkg.S/M11")
    assert shared is not None
    assert shared.name == "other"
    breakers.reconfigure(default=quick(reset_timeout=33))
    assert shared.policy.reset_timeout == 33
    assert all(permit.success() for permit in held)


def test_retry_throttling_comes_and_goes(clock: FakeClock) -> None:
    """The tokens of retry throttling are one budget for each target; without throttling there is none."""
    policies = {"pkg.S": MethodPolicy(retry=RetryPolicy())}
    breakers = BreakerRegistry(policies, retry_throttling=RetryThrottling(max_tokens=4), clock=clock)

    def budget(method: str, target: str = "") -> Any:
        route = breakers.route(f"/pkg.S/{method}", target)
        assert route is not None
        assert route[2] is not None
        return route[2].budget

    assert budget("A") is budget("B") is not None
    assert budget("A", "eu") is not budget("A")
    breakers.reconfigure(policies, retry_throttling=RetryThrottling(max_tokens=8))
    assert budget("A") is budget("B") is not None
    breakers.reconfigure(policies)
    assert budget("A") is None


def test_parts_of_made_up_methods_are_bounded(clock: FakeClock) -> None:
    """A client that makes up names of methods fills no memory: the parts of those that came first are made anew."""
    breakers = BreakerRegistry(default=MethodPolicy(timeout=1), max_breakers=1, clock=clock)

    def stack(name: str) -> object:
        route = breakers.route(f"/pkg.S/{name}")
        assert route is not None
        return route[2]

    first = stack("First")
    assert stack("First") is first
    for n in range(20):
        stack(f"M{n}")
    assert stack("First") is not first
