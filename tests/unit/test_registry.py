"""`BreakerRegistry`: which breaker guards which method, and how many there may be."""

from __future__ import annotations

import gc
import json
import threading
from itertools import count
from typing import Any
from unittest.mock import patch

import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, Permit, State, StateChange
from grpc_breaker._core import ledger as ledger_module
from grpc_breaker._core import registry as registry_module
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.support.lines import visit_at

METHOD, SERVICE, DEFAULT = (BreakerPolicy(reset_timeout=seconds) for seconds in (1, 2, 3))


def registry(**arguments: Any) -> BreakerRegistry:
    """A registry with a policy of each kind."""
    policies = {"pkg.S/Named": METHOD, "/pkg.S": SERVICE, "grpc.health.v1.Health/Check": METHOD}
    return BreakerRegistry(policies, clock=FakeClock(), **{"default": DEFAULT, **arguments})


@pytest.mark.parametrize(
    ("method", "policy"),
    [
        ("/pkg.S/Named", METHOD),
        ("pkg.S/Named", METHOD),
        (b"/pkg.S/Named", METHOD),
        ("/pkg.S/Other", SERVICE),
        ("/other.S/Named", DEFAULT),
        ("/grpc.health.v1.Health/Check", METHOD),
        ("/a/b/c", DEFAULT),
        ("", DEFAULT),
        (b"/\xff/\xfe", DEFAULT),
    ],
)
def test_most_specific_policy_wins(method: str | bytes, policy: BreakerPolicy) -> None:
    """A method's policy beats its service's, which beats the default; odd names have the default."""
    breaker = registry().breaker_for(method)
    assert breaker is not None
    assert breaker.policy is policy


@pytest.mark.parametrize(
    "method",
    [
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.channelz.v1.Channelz/GetServers",
    ],
)
def test_left_alone_unless_named(method: str) -> None:
    """Health checks, reflection and channelz have no breaker unless they are named."""
    assert registry().breaker_for(method) is None


def test_without_default_only_named_methods_are_guarded() -> None:
    """With `default=None` methods not named are left alone."""
    breakers = registry(default=None)
    assert breakers.breaker_for("/other.S/M") is None
    with pytest.raises(KeyError, match=r"other\.S/M has no breaker: no policy covers it"):
        breakers["other.S/M"]


def test_each_method_has_its_own_breaker() -> None:
    """Methods of one service policy do not share a breaker; a call and an operator find the same one."""
    breakers = registry()
    assert breakers["pkg.S/A"] is not breakers["pkg.S/B"]
    assert breakers["pkg.S/A"] is breakers["/pkg.S/A"] is breakers.breaker_for(b"/pkg.S/A")


def test_group_shares_one_breaker() -> None:
    """Methods whose policies name the same group share its breaker; it is found by its name, too."""
    policy = BreakerPolicy(group="prices")
    breakers = BreakerRegistry({"pkg.S/A": policy, "pkg.T": BreakerPolicy(group="prices")}, default=None)
    assert breakers["prices"] is breakers["pkg.S/A"] is breakers["pkg.T/B"]
    assert breakers["prices"].name == "prices"


def test_default_group_shares_one_breaker() -> None:
    """A group in the default policy makes everything else share one."""
    breakers = BreakerRegistry(default=BreakerPolicy(group="all"))
    assert breakers["pkg.S/A"] is breakers["pkg.T/B"] is breakers["all"]


@pytest.mark.parametrize("name", ["", "/", "a/b/c", "pkg.S/", "//M", "pricing service", "pkg.S/Get Price", " pkg.S"])
def test_name_that_is_no_name(name: str) -> None:
    """A name that is no method name is an error at once, in the constructor and in a lookup."""
    with pytest.raises(ValueError, match="a method name must look like"):
        BreakerRegistry({name: METHOD})
    with pytest.raises(ValueError, match="a method name must look like"):
        registry()[name]


def test_lookup_of_a_service() -> None:
    """A service has no breaker; its methods have."""
    with pytest.raises(ValueError, match="one for each method"):
        registry()["pkg.S"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"policies": [METHOD]}, "policies must be a mapping"),
        ({"policies": BreakerRegistry()}, "policies must be a mapping"),
        ({"policies": METHOD}, "policies must be a mapping"),
        ({"policies": {"pkg.S": {"reset_timeout": 5}}}, "policy for 'pkg.S' must be a BreakerPolicy"),
        ({"policies": {b"pkg.S": METHOD}}, "a method name must be a string"),
        ({"policies": {"pkg.S": METHOD, "/pkg.S": METHOD}}, "two policies for 'pkg.S'"),
        (
            {"policies": {"a.S": BreakerPolicy(group="g"), "b.S": BreakerPolicy(group="g", reset_timeout=1)}},
            "group 'g' has two different policies",
        ),
        ({"default": "none"}, "default must be a BreakerPolicy or None"),
        ({"max_breakers": 0}, "max_breakers must be an integer, 1 or more, got 0"),
        ({"max_breakers": True}, "max_breakers must be an integer, 1 or more, got True"),
        ({"max_breakers": 1.5}, "max_breakers must be an integer, 1 or more, got 1.5"),
        ({"clock": None}, "clock must be a callable"),
        ({"random": 3}, "random must be a callable that answers a number in [0, 1), got 3"),
        ({"random": lambda: 1}, "answering 1"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    """A registry made wrong is an error at once that says what and why."""
    with pytest.raises((TypeError, ValueError)) as wrong:
        BreakerRegistry(**arguments)
    assert words in str(wrong.value)


def test_what_it_shows() -> None:
    """A registry can be counted, asked, iterated, printed and shown as JSON; an empty one is true."""
    breakers = registry()
    assert breakers
    assert repr(breakers) == "<BreakerRegistry of 0 breakers: all closed>"
    breakers["pkg.S/A"].force_open()
    assert repr(breakers) == "<BreakerRegistry of 1 breakers: pkg.S/A forced_open>"
    assert (len(breakers), "pkg.S/A" in breakers, "/pkg.S/A" in breakers, 7 in breakers) == (1, True, True, False)
    group = BreakerRegistry({"pkg.S": BreakerPolicy(group="prices")})
    assert "pkg.S/A" not in group
    assert group["pkg.S/A"] is group["prices"]
    assert ("pkg.S/A" in group, "pkg.S/B" in group, "prices" in group, "pkg.T/A" in group) == (True, True, True, False)
    assert [breaker.name for breaker in breakers] == ["pkg.S/A"]
    assert json.loads(json.dumps(breakers.snapshot()))["pkg.S/A"]["state"] == "forced_open"
    breakers["pkg.S/B"].disable()
    assert repr(breakers) == "<BreakerRegistry of 2 breakers: pkg.S/A forced_open, pkg.S/B disabled>"


def test_listeners_hear_every_breaker() -> None:
    """A registry's listeners hear of its breakers, those made before and those made later."""
    breakers = registry()
    breakers["pkg.S/A"]
    events = EventRecorder(breakers)
    for name in ("pkg.S/A", "pkg.S/B"):
        breakers[name].force_open()
        breakers[name].try_admit()
    events.stop()
    breakers["pkg.S/A"].reset()
    assert [change.breaker for change in events.changes] == ["pkg.S/A", "pkg.S/B"]
    assert [rejection.breaker for rejection in events.rejections] == ["pkg.S/A", "pkg.S/B"]


def test_never_more_than_its_cap() -> None:
    """Above the cap the breakers idle longest are forgotten; one that is open or has a call in flight never is."""
    clock = FakeClock()
    breakers = BreakerRegistry(max_breakers=20, clock=clock)
    breakers["kept.S/Open"].force_open()
    call = breakers["kept.S/Busy"].admit()
    for n in range(200):
        clock.advance(1)
        breakers[f"flood.S/M{n}"].admit().success()
        assert len(breakers) <= 20
    names = {breaker.name for breaker in breakers}
    assert {"kept.S/Open", "kept.S/Busy", "flood.S/M199"} <= names
    assert "flood.S/M0" not in names
    assert call.success()


def test_open_breakers_may_exceed_the_cap() -> None:
    """When none of them is closed and idle, none is forgotten."""
    breakers = BreakerRegistry(max_breakers=3, clock=FakeClock())
    for n in range(5):
        breakers[f"pkg.S/M{n}"].force_open()
    assert len(breakers) == 5


def test_forgotten_breaker_that_is_held_is_found_again() -> None:
    """A breaker that an operator holds is the one its next call finds, forgotten or not."""
    breakers = BreakerRegistry(max_breakers=2, clock=FakeClock())
    held = breakers["pkg.S/Held"]
    for n in range(5):
        breakers[f"pkg.S/M{n}"]
    assert "pkg.S/Held" not in breakers
    held.force_open()
    assert breakers.breaker_for("/pkg.S/Held") is held
    assert held.state is State.FORCED_OPEN


def test_memory_of_forgotten_names_is_bounded() -> None:
    """A client that makes up method names exhausts neither breakers, routes nor labels."""
    breakers = BreakerRegistry(max_breakers=10, clock=FakeClock())
    for n in range(1000):
        breakers.breaker_for(f"/flood.S/M{n}")
        breakers.breaker_for(f"flood.S/M{n}".encode())
    gc.collect()
    assert len(breakers) <= 10
    assert len(breakers._routes) <= 40
    assert len(breakers._remembered) <= 10
    assert len(breakers.ledger._labelled) <= 10
    shared = BreakerRegistry(default=BreakerPolicy(group="g"), max_breakers=10)
    sizes = set()
    for n in range(1000):
        shared.breaker_for(f"/flood.S/M{n}")
        sizes.add(len(shared._routes))
    assert max(sizes) == 40


def test_cap_holds_in_a_forked_child() -> None:
    """A child that was forked while a breaker was made forgets idle ones, too."""
    breakers = BreakerRegistry(max_breakers=2)
    breakers._busy = True
    breakers._after_fork()
    for n in range(5):
        breakers[f"pkg.S/M{n}"]
    assert len(breakers) == 2


def test_another_method_of_a_group_costs_nobody_a_place() -> None:
    """A method whose group has a breaker needs none."""
    clock = FakeClock()
    breakers = BreakerRegistry({"pkg.S": BreakerPolicy(group="prices")}, default=DEFAULT, max_breakers=2, clock=clock)
    for method in ("/pkg.T/M", "/pkg.S/A", "/pkg.S/B"):
        breakers.breaker_for(method)
        clock.advance(1)
    assert [breaker.name for breaker in breakers] == ["pkg.T/M", "prices"]


def test_counts_of_forgotten_breakers_are_kept() -> None:
    """What forgotten breakers counted stays in the totals, under their name or as `other`."""
    breakers = BreakerRegistry(max_breakers=2, clock=FakeClock())
    for n in range(10):
        breaker = breakers[f"pkg.S/M{n}"]
        breaker.admit().success()
        breaker.admit().failure("INTERNAL")
    totals = {(label, outcome): calls for label, outcome, _, calls in breakers.ledger.tallies()}
    assert sum(calls for (_, outcome), calls in totals.items() if outcome == "success") == 10
    assert {label for label, _ in totals} == {"pkg.S/M0", "pkg.S/M1", "other"}
    assert totals["other", "failure"] == 8
    assert breakers.ledger.label("pkg.S/M0") == "pkg.S/M0"


def test_configured_names_have_labels() -> None:
    """A method or group that was configured is counted by name, however many others came first."""
    policies = {"pkg.S/Named": METHOD, "pkg.T": BreakerPolicy(group="prices")}
    breakers = BreakerRegistry(policies, max_breakers=2, clock=FakeClock())
    for n in range(5):
        breakers[f"flood.S/M{n}"]
    labels = [breakers.ledger.label(name) for name in ("pkg.S/Named", "prices", "flood.S/M0", "flood.S/M4")]
    assert labels == ["pkg.S/Named", "prices", "flood.S/M0", "other"]


def test_configured_names_take_no_label_away() -> None:
    """As many others are counted by name as there may be, however many configured ones came first."""
    breakers = BreakerRegistry(
        {"pkg.S/A": METHOD, "pkg.S/B": METHOD}, default=DEFAULT, max_breakers=2, clock=FakeClock()
    )
    for name in ("pkg.S/A", "pkg.S/B", "pkg.S/C", "pkg.S/D", "pkg.S/E"):
        breakers[name]
    assert [breakers.ledger.label(f"pkg.S/{it}") for it in "CDE"] == ["pkg.S/C", "pkg.S/D", "other"]


@pytest.mark.parametrize("visited", ["pkg.S/Own", "pkg.S/Other", "pkg.S/M0"])
def test_calls_made_in_the_middle(visited: str) -> None:
    """A finalizer or a signal handler that makes a call while a breaker is made, or forgotten, loses none and no breaker."""

    def call(name: str) -> None:
        breaker = breakers.breaker_for(f"/{name}")
        assert breaker is not None
        breaker.admit().success()

    for at in count(1):
        breakers = BreakerRegistry(max_breakers=2, clock=FakeClock())
        for n in range(2):
            call(f"pkg.S/M{n}")
        files = {ledger_module.__file__, registry_module.__file__}
        if not visit_at(files, lambda: call("pkg.S/Own"), lambda: call(visited), at):
            break
        held = breakers.ledger.breakers
        assert all(held.get(breaker.name) is breaker for breaker, _ in breakers._routes.values())
        assert held["pkg.S/Own"] is breakers.breaker_for("/pkg.S/Own")
        assert sum(calls for *_, calls in breakers.ledger.tallies()) == 4
    assert at > 20


def test_what_an_operator_did_is_not_forgotten() -> None:
    """A breaker that was reconfigured, or has a listener of its own, is kept above the cap."""
    breakers = BreakerRegistry(max_breakers=3, clock=FakeClock())
    changes: list[Any] = []
    breakers["pkg.S/Policy"].reconfigure(METHOD)
    breakers["pkg.S/Change"].on_state_change(changes.append)
    end = breakers["pkg.S/Rejection"].on_rejection(print)
    for n in range(10):
        breakers[f"flood.S/M{n}"]
    kept = {"pkg.S/Policy", "pkg.S/Change", "pkg.S/Rejection"}
    assert {breaker.name for breaker in breakers} == {*kept, "flood.S/M9"}
    assert breakers["pkg.S/Policy"].policy is METHOD
    end()
    breakers["flood.S/M10"]
    assert {breaker.name for breaker in breakers} == {"pkg.S/Policy", "pkg.S/Change", "flood.S/M10"}


def test_health_checks_are_left_alone_and_say_so() -> None:
    """Asking for the breaker of a health check says why it has none."""
    with pytest.raises(
        KeyError, match=r"has no breaker: health checks, reflection and channelz are left alone unless named"
    ):
        BreakerRegistry()["grpc.health.v1.Health/Check"]


@pytest.mark.parametrize("name", ["*", "pkg.S/*", "?", "-/-", "a..b/C", "localhost:50051", "pkg.S/1", "p\u00e9.S"])
def test_wildcards_are_no_names(name: str) -> None:
    """A policy cannot be given for a pattern, an address, or what no method is called."""
    with pytest.raises(ValueError, match="no wildcards, got"):
        BreakerRegistry({name: METHOD})


def test_limits_of_the_cap() -> None:
    """A thousand breakers are the default; a cap of one is a cap."""
    assert BreakerRegistry()._max_breakers == 1000
    one = BreakerRegistry(max_breakers=1, clock=FakeClock())
    one["pkg.S/A"], one["pkg.S/B"]
    assert [breaker.name for breaker in one] == ["pkg.S/B"]


def test_the_tenth_is_forgotten_at_once() -> None:
    """At the cap the tenth that was idle longest goes at once, so that a flood of names costs little each."""
    clock = FakeClock()
    breakers = BreakerRegistry(max_breakers=20, clock=clock)
    for n in range(20):
        clock.advance(1)
        breakers.breaker_for(f"/pkg.S/M{n}")
    routes = set(breakers._routes)
    breakers.breaker_for("/pkg.S/M20")
    assert routes - set(breakers._routes) == {"/pkg.S/M0", "/pkg.S/M1"}
    assert [breaker.name for breaker in breakers] == [f"pkg.S/M{n}" for n in range(2, 21)]


def test_open_ones_do_not_stand_in_the_way() -> None:
    """Above the cap, because open ones are kept, idle closed ones go until there is room again."""
    breakers = BreakerRegistry(max_breakers=3, clock=FakeClock())
    for n in range(5):
        breakers[f"pkg.S/Open{n}"].force_open()
    for n in range(3):
        breakers[f"pkg.S/M{n}"]
    assert len(breakers) == 6
    for breaker in breakers:
        breaker.reset()
    breakers["pkg.S/Last"]
    assert len(breakers) == 3


def test_forgotten_breaker_counts_from_zero() -> None:
    """A forgotten breaker that is held begins to count again at zero: what it had counted is the registry's."""
    breakers = BreakerRegistry(max_breakers=1, clock=FakeClock())
    held = breakers["pkg.S/Held"]
    for _ in range(3):
        held.admit().success()
    held.force_open()
    held.try_admit()
    held.reset()
    breakers["pkg.S/Other"]
    assert held.tallies() == {}
    held.admit().success()
    held.force_open()
    held.try_admit()
    assert held.tallies() == {("success", "OK"): 1, ("rejected", ""): 1}
    held.reset()
    assert breakers["pkg.S/Held"] is held
    assert sorted(breakers.ledger.tallies()) == [
        ("pkg.S/Held", "rejected", "", 2),
        ("pkg.S/Held", "success", "OK", 4),
    ]


def test_clock_and_chance_reach_the_breakers() -> None:
    """The registry's clock and its source of chance are its breakers'."""
    clock = FakeClock(1000)
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=10, reset_timeout_jitter=1)
    breakers = BreakerRegistry(default=policy, clock=clock, random=lambda: 0.5)
    breakers["pkg.S/M"].admit().failure()
    assert breakers["pkg.S/M"].retry_after == 15
    clock.advance(5)
    assert breakers["pkg.S/M"].retry_after == 10


def test_odd_names_of_calls() -> None:
    """The service is what stands before the last slash, as gRPC has it; bytes that are no text do no harm."""
    breakers = BreakerRegistry({"pkg.S": METHOD}, default=None)
    assert breakers.breaker_for("/pkg.S/a/b") is None
    assert breakers.route(b"/pkg.S/\xff") == (breakers.breaker_for(b"/pkg.S/\xff"), "pkg.S/\ufffd")
    assert BreakerRegistry().route("") is not None
    assert next(iter(everything := BreakerRegistry()), everything.breaker_for("/")).name == "/"


def test_groups_are_found_and_checked_in_the_default_too() -> None:
    """A group of the default policy is checked against the others, and found before any call."""
    with pytest.raises(ValueError, match="group 'g' has two different policies"):
        BreakerRegistry({"pkg.S": BreakerPolicy(group="g", reset_timeout=1)}, default=BreakerPolicy(group="g"))
    two = {"a.S": BreakerPolicy(group="g"), "b.S": BreakerPolicy(group="h", reset_timeout=1)}
    breakers = BreakerRegistry(two, default=BreakerPolicy(group="rest", reset_timeout=2))
    assert breakers["h"].policy == two["b.S"]
    assert breakers["rest"].policy.reset_timeout == 2
    assert breakers["g"] is breakers["a.S/M"]


def test_threads_find_one_breaker() -> None:
    """However many threads call a method for the first time at once, it has one breaker."""
    breakers = BreakerRegistry()
    barrier = threading.Barrier(8)
    found: list[Any] = []

    def find() -> None:
        barrier.wait(10)
        found.append(breakers.breaker_for("/pkg.S/M"))

    threads = [threading.Thread(target=find) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_fork_gives_a_fresh_lock() -> None:
    """A forked child's registry has a lock that nobody holds."""
    breakers = BreakerRegistry()
    lock = breakers.ledger.lock
    breakers._after_fork()
    assert breakers.ledger.lock is not lock
    assert isinstance(breakers["pkg.S/M"].admit(), Permit)


def test_listener_runs_without_the_registrys_lock() -> None:
    """A listener told while a breaker is forgotten holds no lock of the registry: another thread may look meanwhile."""
    breakers = BreakerRegistry(default=BreakerPolicy(consecutive_failures=1), max_breakers=1)
    looked: list[bool] = []

    def listener(change: StateChange) -> None:
        done = threading.Event()
        threading.Thread(target=lambda: (list(breakers), done.set()), daemon=True).start()
        looked.append(done.wait(15))

    breakers.on_state_change(listener)
    breaker = breakers["pkg.S/Old"]
    # As if another thread were delivering, and just about to stop.
    with patch.dict(breaker._delivering, by="another thread"):
        breaker.admit().failure()
        breaker.reset()
    assert not looked
    breakers["pkg.S/New"]
    assert looked == [True, True]
    assert "pkg.S/Old" not in breakers


def test_lost_probe_does_not_keep_a_breaker() -> None:
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


def test_refusal_is_told_once_to_each() -> None:
    """A refusal reaches the breaker's listeners and the registry's, each once."""
    registry = BreakerRegistry(clock=FakeClock())
    breaker = registry["pkg.S/M"]
    told: list[str] = []
    breaker.on_rejection(lambda rejection: told.append("breaker's"))
    registry.on_rejection(lambda rejection: told.append("registry's"))
    breaker.force_open()
    breaker.try_admit()
    assert told == ["breaker's", "registry's"]
