"""Targets: one registry, and breakers of its own for each target."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, CircuitOpenError, State, aio
from grpc_breaker._core import registry
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.support.lines import lines_run
from tests.support.memory import memory_grown
from tests.unit.test_adapters import METHOD, Details, Ended

NAME = METHOD.removeprefix("/")
ONE_OPENS = BreakerPolicy(consecutive_failures=1)


@pytest.fixture
def breakers() -> BreakerRegistry:
    """One failure opens."""
    return BreakerRegistry(default=ONE_OPENS, clock=FakeClock())


class Finished:
    """A blocking call that has ended."""

    def __init__(self, status: grpc.StatusCode) -> None:
        self.status = status

    def done(self) -> bool:
        return True

    def code(self) -> grpc.StatusCode:
        return self.status

    def exception(self) -> None:
        return None

    def details(self) -> str:
        return "gone"

    def trailing_metadata(self) -> tuple[()]:
        return ()


def call(breakers: BreakerRegistry, target: str | None, status: grpc.StatusCode = grpc.StatusCode.OK) -> Any:
    """Make a call through an interceptor that was told `target`, and see its end."""
    interceptor = CircuitBreakerInterceptor(breakers, target=target, telemetry=False)
    return interceptor.intercept_unary_unary(lambda details, request: Finished(status), Details(), b"")


def test_targets_have_breakers_of_their_own(breakers: BreakerRegistry) -> None:
    """A target that is dead is refused; the other, and calls without a target, go on."""
    call(breakers, "eu", grpc.StatusCode.UNAVAILABLE)
    assert isinstance(call(breakers, "eu"), CircuitOpenError)
    assert not isinstance(call(breakers, "us"), CircuitOpenError)
    assert not isinstance(call(breakers, None), CircuitOpenError)
    assert {breaker.name: breaker.state for breaker in breakers} == {
        f"{NAME}@eu": State.OPEN,
        f"{NAME}@us": State.CLOSED,
        NAME: State.CLOSED,
    }


def test_asyncio_interceptors_are_told_their_target(breakers: BreakerRegistry) -> None:
    """The same in asyncio."""

    async def continuation(details: Any, request: Any) -> Any:
        return Ended(grpc.StatusCode.UNAVAILABLE)

    (interceptor,) = [
        it for it in aio.interceptors(breakers, target="eu", telemetry=False) if hasattr(it, "intercept_unary_stream")
    ]
    asyncio.run(interceptor.intercept_unary_stream(continuation, Details(), b""))
    assert {breaker.name: breaker.state for breaker in breakers} == {f"{NAME}@eu": State.OPEN}


def test_everything_says_the_target(breakers: BreakerRegistry) -> None:
    """Breaker, event, refusal and snapshot say the target; what has none says the empty one."""
    events = EventRecorder(breakers)
    breakers[NAME, "eu"].admit(NAME).failure("UNAVAILABLE")
    with pytest.raises(CircuitOpenError, match=f"open for {NAME}@eu; next probe in") as refused:
        breakers[NAME, "eu"].admit(NAME)
    assert (refused.value.target, refused.value.method, refused.value.breaker) == ("eu", NAME, f"{NAME}@eu")
    assert [(change.target, change.method) for change in events.changes] == [("eu", NAME)]
    assert breakers.snapshot()[f"{NAME}@eu"]["target"] == "eu"
    assert (breakers[NAME].target, breakers[NAME].snapshot()["target"]) == ("", "")


def test_registry_finds_breakers_by_target(breakers: BreakerRegistry) -> None:
    """A method and a target, as a pair or as the breaker's name has them, find one breaker."""
    breaker = breakers.breaker_for(METHOD, "eu")
    assert breaker is breakers[NAME, "eu"] is breakers[f"{NAME}@eu"] is breakers[METHOD, "eu"]
    assert breaker is not breakers[NAME]
    assert (NAME, "eu") in breakers
    assert f"{NAME}@eu" in breakers
    assert (NAME, "us") not in breakers
    assert (NAME, "e u") not in breakers
    assert 3 not in breakers


def test_policies_for_a_target() -> None:
    """A method's policy beats its service's; of two for one name, the target's own counts."""
    numbers = {
        "pkg.S": 1,
        ("pkg.S", "eu"): 2,
        "pkg.S/M": 3,
        ("pkg.S/M", "eu"): 4,
        "pkg.S/Other@us": 5,
    }
    policies = {key: BreakerPolicy(consecutive_failures=number) for key, number in numbers.items()}
    breakers = BreakerRegistry(policies)
    found = {
        key: breakers[key].policy.consecutive_failures
        for key in (("pkg.S/M", "eu"), ("pkg.S/M", "us"), ("pkg.S/X", "eu"), ("pkg.S/X", "us"), ("pkg.S/Other", "us"))
    }
    assert list(found.values()) == [4, 3, 2, 1, 5]


def test_groups_by_target() -> None:
    """The methods of a group share one breaker for each target."""
    breakers = BreakerRegistry({"pkg.S": BreakerPolicy(group="prices")})
    assert breakers["pkg.S/A", "eu"] is breakers["pkg.S/B", "eu"] is breakers["prices", "eu"]
    assert breakers["pkg.S/A", "eu"] is not breakers["pkg.S/A"]
    assert ("pkg.S/A", "eu") in breakers
    assert ("pkg.S/B", "us") not in breakers
    assert "pkg.S/B" in breakers
    assert "pkg.T/B" not in breakers


def test_target_of_an_odd_method(breakers: BreakerRegistry) -> None:
    """The target is what stands after the last '@': gRPC lets applications call methods that have one."""
    breaker = breakers.breaker_for("/pkg.S/odd@one", "eu")
    assert breaker is not None
    assert (breaker.name, breaker.target) == ("pkg.S/odd@one@eu", "eu")


def test_group_of_one_target() -> None:
    """A group that a policy makes for one target is that target's alone."""
    breakers = BreakerRegistry({("pkg.S", "eu"): BreakerPolicy(group="prices")})
    assert breakers["pkg.S/A", "eu"] is breakers["pkg.S/B", "eu"]
    assert ("pkg.S/C", "eu") in breakers
    assert "pkg.S/C" not in breakers


def test_eviction_forgets_routes_of_every_target() -> None:
    """A breaker of a target that is evicted is made anew for its next call, and one registry's cap holds for all."""
    breakers = BreakerRegistry(max_breakers=5)
    for number in range(50):
        assert breakers.breaker_for(f"/pkg.S/M{number}", "eu") is not None
        assert breakers.breaker_for(f"/pkg.S/M{number}") is not None
    assert len(breakers) <= 6


def test_names_that_are_configured_stay_labels_for_every_target() -> None:
    """Counts of a configured method are kept apart by target, however many other names there are."""
    breakers = BreakerRegistry({"pkg.S/M": ONE_OPENS}, max_breakers=1)
    for number in range(20):
        breakers[f"pkg.Made/Up{number}"].admit().success()
    breakers["pkg.S/M", "eu"].admit().success()
    assert ("pkg.S/M@eu", "success", "OK", 1) in list(breakers.counts.tallies())


def test_labels_of_targets_are_bounded() -> None:
    """A client with ever new targets makes no more labels of a configured method than twice `max_breakers`."""
    breakers = BreakerRegistry({"pkg.S/M": ONE_OPENS}, max_breakers=5)
    for number in range(50):
        breakers["pkg.S/M", f"pod-{number}"].admit().success()
    labels = {label for label, *_ in breakers.counts.tallies()}
    assert "other" in labels
    assert len(labels) <= 12


def test_open_breakers_of_targets_that_are_gone_are_bounded() -> None:
    """Breakers of a configured method that stay open, because their targets are gone, are bounded like all others."""
    breakers = BreakerRegistry({"pkg.S/M": ONE_OPENS}, max_breakers=2)
    for number in range(100):
        breakers["pkg.S/M", f"pod-{number}"].force_open()
    assert len(breakers) == 41
    assert breakers["pkg.S/M", "new"].name == "other"
    assert breakers["pkg.S/M"].name == "pkg.S/M"


def test_memory_of_targets_that_are_gone_is_bounded() -> None:
    """A client that makes an interceptor for each of ever new targets fills no memory."""
    breakers = BreakerRegistry(max_breakers=10, clock=FakeClock())

    def make(numbers: range) -> None:
        for number in numbers:
            call(breakers, f"pod-{number}")

    grown = memory_grown(make, range(500), range(500, 2000))
    assert (
        grown < 30_000
    )  # what 1,500 would leave is more, and what threads of earlier tests take at the moment is less


def test_method_that_is_left_alone_is_looked_for_once() -> None:
    """A call without a breaker costs a look for one the first time, and none from then on."""
    breakers = BreakerRegistry({"other.S": ONE_OPENS}, default=None, max_breakers=5)
    interceptor = CircuitBreakerInterceptor(breakers, target="eu", telemetry=False)

    def once() -> None:
        interceptor.intercept_unary_unary(lambda details, request: Finished(grpc.StatusCode.OK), Details(), b"")

    once()
    assert not lines_run({registry.__file__}, once)
    assert breakers.breaker_for(METHOD, "eu") is None
    assert len(breakers) == 0
    for number in range(20):  # evicts breakers, and with them what was found of targets
        assert breakers.breaker_for(f"/other.S/M{number}", "eu") is not None
        assert breakers.breaker_for(f"/other.S/M{number}", f"pod-{number}") is not None
    assert breakers.breaker_for(METHOD, "eu") is None


def test_memory_of_methods_that_are_left_alone_is_bounded() -> None:
    """Made-up method names without a breaker fill no memory, for one target or for ever new ones."""
    breakers = BreakerRegistry({"other.S": ONE_OPENS}, default=None, max_breakers=10, clock=FakeClock())

    def flood(numbers: range) -> None:
        for number in numbers:
            breakers.breaker_for(f"/flood.S/M{number}")
            breakers.breaker_for(METHOD, f"pod-{number}")
            breakers.breaker_for("/other.S/M", f"pod-{number}")

    # methods that were seen are remembered, too, up to a thousand
    grown = memory_grown(flood, range(1500), range(1500, 3000))
    assert grown < 20_000


def test_interceptor_of_a_target_that_was_not_called_for_long() -> None:
    """An interceptor whose target's breakers were all evicted looks for one once more, and no more than once."""
    breakers = BreakerRegistry(default=ONE_OPENS, max_breakers=1, clock=FakeClock())
    interceptor = CircuitBreakerInterceptor(breakers, target="eu", telemetry=False)

    def once(status: grpc.StatusCode = grpc.StatusCode.OK) -> Any:
        return interceptor.intercept_unary_unary(lambda details, request: Finished(status), Details(), b"")

    once()
    for number in range(5):
        call(breakers, f"pod-{number}")
    assert (NAME, "eu") not in breakers
    once()
    assert not lines_run({registry.__file__}, once)
    once(grpc.StatusCode.UNAVAILABLE)
    assert isinstance(once(), CircuitOpenError)


@pytest.mark.parametrize("target", ["", "e u", "e@u", "e\nu", "x" * 201])
def test_target_that_is_no_name(target: str, breakers: BreakerRegistry) -> None:
    """A target that cannot stand in a breaker's name is an error that says what may."""
    words = "target must be a name of 1 to 200 characters without spaces and '@', or None, got"
    for attempt in (
        lambda: CircuitBreakerInterceptor(breakers, target=target),
        lambda: aio.interceptors(breakers, target=target),
        lambda: breakers[NAME, target],
        lambda: BreakerRegistry({(NAME, target): ONE_OPENS}),
    ):
        with pytest.raises(ValueError, match=words):
            attempt()


def test_target_of_a_wrong_type(breakers: BreakerRegistry) -> None:
    """A target is a string."""
    with pytest.raises(TypeError, match="target must be a name"):
        CircuitBreakerInterceptor(breakers, target=7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^a method name must be a string like 'pkg\.Service/Method', got "):
        breakers[7, "eu"]  # type: ignore[index]
    with pytest.raises(TypeError, match=r"^a method name must be a string like 'pkg\.Service/Method', got "):
        breakers[NAME, "eu", 3]  # type: ignore[index]


def test_two_policies_for_one_name_and_target() -> None:
    """One name and target, written in two ways, has one policy."""
    with pytest.raises(ValueError, match="two policies"):
        BreakerRegistry({("pkg.S/M", "eu"): ONE_OPENS, "/pkg.S/M@eu": ONE_OPENS})
