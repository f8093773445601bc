"""`BreakerRegistry`: which breaker guards which method, and what a registry says."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry
from grpc_breaker.testing import EventRecorder, FakeClock

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
    breakers = registry()
    assert breakers.breaker_for(method) is None
    assert method not in breakers


def test_health_checks_are_left_alone_and_say_so() -> None:
    """Asking for the breaker of a health check says why it has none."""
    with pytest.raises(
        KeyError, match=r"has no breaker: health checks, reflection and channelz are left alone unless named"
    ):
        BreakerRegistry()["grpc.health.v1.Health/Check"]


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


def test_groups_are_found_and_checked_in_the_default_too() -> None:
    """A group of the default policy is checked against the others, and found before any call."""
    with pytest.raises(ValueError, match="group 'g' has two different policies"):
        BreakerRegistry({"pkg.S": BreakerPolicy(group="g", reset_timeout=9)}, default=BreakerPolicy(group="g"))
    two = {"a.S": BreakerPolicy(group="g"), "b.S": BreakerPolicy(group="h", reset_timeout=1)}
    breakers = BreakerRegistry(two, default=BreakerPolicy(group="rest", reset_timeout=2))
    assert breakers["h"].policy == two["b.S"]
    assert breakers["rest"].policy.reset_timeout == 2
    assert breakers["g"] is breakers["a.S/M"]


def test_odd_names_of_calls() -> None:
    """The service is what stands before the last slash, as gRPC has it; bytes that are no text do no harm."""
    breakers = BreakerRegistry({"pkg.S": METHOD}, default=None)
    assert breakers.breaker_for("/pkg.S/a/b") is None
    assert breakers.route(b"/pkg.S/\xff") == (breakers.breaker_for(b"/pkg.S/\xff"), "pkg.S/\ufffd", None)
    assert BreakerRegistry().route("") is not None
    assert next(iter(everything := BreakerRegistry()), everything.breaker_for("/")).name == "/"


def test_clock_and_random_reach_the_breakers() -> None:
    """The registry's clock and its `random` are its breakers'."""
    clock = FakeClock(1000)
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=10, reset_timeout_jitter=1)
    breakers = BreakerRegistry(default=policy, clock=clock, random=lambda: 0.5)
    breakers["pkg.S/M"].admit().failure()
    assert breakers["pkg.S/M"].retry_after == 15
    clock.advance(5)
    assert breakers["pkg.S/M"].retry_after == 10


def test_random_that_fails_later_costs_no_breaker() -> None:
    """A `random` that goes wrong after the registry was made costs the jitter, never the breaker of a new method."""
    drawn = [0.5]
    breakers = BreakerRegistry(
        default=BreakerPolicy(consecutive_failures=1), clock=FakeClock(), random=lambda: drawn[0]
    )
    drawn.clear()
    breakers["pkg.S/M"].admit().failure()
    assert breakers["pkg.S/M"].retry_after == 1


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


@pytest.mark.parametrize("name", ["*", "pkg.S/*", "?", "-/-", "a..b/C", "localhost:50051", "pkg.S/1", "p\u00e9.S"])
def test_wildcards_are_no_names(name: str) -> None:
    """A policy cannot be given for a pattern, an address, or what no method is called."""
    with pytest.raises(ValueError, match="no wildcards, got"):
        BreakerRegistry({name: METHOD})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"policies": [METHOD]}, "policies must be a mapping"),
        ({"policies": BreakerRegistry()}, "policies must be a mapping"),
        ({"policies": METHOD}, "; give a policy for every method as default"),
        ({"policies": {"pkg.S": {"reset_timeout": 5}}}, "policy for 'pkg.S' must be a BreakerPolicy"),
        ({"policies": {b"pkg.S": METHOD}}, "a method name must be a string"),
        ({"policies": {"pkg.S": METHOD, "/pkg.S": METHOD}}, "two policies for 'pkg.S'"),
        (
            {"policies": {"a.S": BreakerPolicy(group="g"), "b.S": BreakerPolicy(group="g", reset_timeout=9)}},
            "group 'g' has two different policies",
        ),
        ({"default": "none"}, "default must be a BreakerPolicy, a MethodPolicy or None"),
        ({"max_breakers": 0}, "max_breakers must be an integer, 1 or more, got 0"),
        ({"max_breakers": True}, "max_breakers must be an integer, 1 or more, got True"),
        ({"max_breakers": 1.5}, "max_breakers must be an integer, 1 or more, got 1.5"),
        ({"clock": None}, "clock must be a callable"),
        ({"random": 3}, "a number in [0, 1), got 3"),
        ({"random": lambda: 1}, "random must be a callable"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    """A registry made wrong is an error at once that says what and why."""
    with pytest.raises((TypeError, ValueError)) as wrong:
        BreakerRegistry(**arguments)
    assert words in str(wrong.value)


def test_name_in_errors_about_arguments() -> None:
    """Python's own errors about arguments name the class that users know."""
    assert BreakerRegistry.__init__.__qualname__ == "BreakerRegistry.__init__"


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


def test_listeners_receive_events_of_every_breaker() -> None:
    """A registry's listeners receive the events of its breakers, those made before and those made later."""
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


@pytest.mark.parametrize("of", ["registry", "breaker"])
def test_listener_of_one_name_is_added_once(of: str) -> None:
    """While a registry or a breaker has a listener of a name, another of that name is not added; afterwards it is."""
    breakers = registry()
    received: list[str] = []

    def add(name: str) -> Callable[[], None]:
        it = breakers if of == "registry" else breakers["pkg.S/A"]
        return it.on_state_change(lambda change: received.append(f"{name} {change.state}"), key="the name")

    end = add("first")
    add("second")
    breakers["pkg.S/A"].force_open()
    end()
    add("third")
    breakers["pkg.S/A"].reset()
    assert received == ["first forced_open", "third closed"]


def test_refusal_reaches_each_listener_once() -> None:
    """A refusal reaches the breaker's listeners and the registry's, each once, the breaker's first."""
    breakers = BreakerRegistry(clock=FakeClock())
    breaker = breakers["pkg.S/M"]
    received: list[str] = []
    breaker.on_rejection(lambda rejection: received.append("breaker's"))
    breakers.on_rejection(lambda rejection: received.append("registry's"))
    breaker.force_open()
    breaker.try_admit()
    assert received == ["breaker's", "registry's"]


def test_listener_may_use_the_registry() -> None:
    """While a listener runs, another thread makes and lists breakers of the same registry."""
    breakers = BreakerRegistry(clock=FakeClock())
    seen: list[list[str]] = []

    def another_thread() -> None:
        breakers["pkg.S/Other"]
        seen.append([breaker.name for breaker in breakers])

    def listener(change: object) -> None:
        thread = threading.Thread(target=another_thread)
        thread.start()
        thread.join(10)

    breakers.on_state_change(listener)
    breakers["pkg.S/M"].force_open()
    assert seen == [["pkg.S/M", "pkg.S/Other"]]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"])
@pytest.mark.filterwarnings("ignore:Pickle, copy, and deepcopy support:DeprecationWarning")
def test_registry_cannot_be_copied(copied: Any) -> None:
    """A registry is shared, not copied: the error says why."""
    with pytest.raises(
        TypeError, match=r"^a breaker registry cannot be copied or pickled: a copy would share a part of its state$"
    ):
        copied(BreakerRegistry())


@pytest.mark.parametrize(("command", "reason"), [("force_open", "forced_open"), ("disable", "disabled")])
def test_command_for_a_name_that_no_call_has_used(command: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """An operator's command for a name that no call has used is logged as a warning: the name may be misspelt."""
    breakers = BreakerRegistry(clock=FakeClock())
    getattr(breakers["misspelt.S/M"], command)()
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == [f"circuit breaker misspelt.S/M: {reason}, but no call has used this name yet"]


def test_command_for_a_name_in_use_is_not_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """An operator's command for a method that was called is carried out in silence."""
    breakers = BreakerRegistry(clock=FakeClock())
    breakers["pkg.S/M"].admit().success()
    breakers["pkg.S/M"].force_open()
    assert not caplog.records
