"""The names of policies: compared with services' descriptors, and with the calls that come."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from examples.pricing.v1 import pricing_pb2
from examples.pricing.v1.pricing_pb2_grpc import PricingStub
from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, MethodPolicy, RetryPolicy

POLICY = BreakerPolicy()
DESCRIPTOR = pricing_pb2.DESCRIPTOR
SERVICE = next(iter(DESCRIPTOR.services_by_name.values()))
METHOD = f"{SERVICE.full_name}/{next(iter(SERVICE.methods_by_name))}"


def registry(*names: Any, **arguments: Any) -> BreakerRegistry:
    """A registry with policies of these names."""
    return BreakerRegistry(dict.fromkeys(names, POLICY), **arguments)


STUB = PricingStub(grpc.insecure_channel("localhost:1"))


@pytest.mark.parametrize(
    "described", [pricing_pb2, DESCRIPTOR, SERVICE, SimpleNamespace(DESCRIPTOR=SERVICE), PricingStub, STUB]
)
def test_check_knows_what_protobuf_describes(described: object) -> None:
    """`check` takes generated modules, descriptors and stubs, and finds methods and services there."""
    registry(METHOD, SERVICE.full_name, (METHOD, "eu")).check(described)
    with pytest.raises(ValueError, match=f"names? of these policies: '{METHOD}s' .did you mean '{METHOD}'"):
        registry(METHOD, f"{METHOD}s").check(described)


@pytest.mark.parametrize("described", [pricing_pb2, PricingStub, STUB])
def test_streams_are_known_from_what_is_described(described: object) -> None:
    """A channel retries the streams among the methods that descriptors or stubs describe, and no other call."""
    policy = MethodPolicy(retry=RetryPolicy())
    ((_, config),) = BreakerRegistry({SERVICE.full_name: policy}).channel_options(described)
    retried = [entry for entry in json.loads(config)["methodConfig"] if "retryPolicy" in entry]
    streams = {name["method"] for entry in retried for name in entry["name"]}
    assert streams == {"WatchPrices", "UploadPrices", "Quote"}


def test_check_names_every_mistake() -> None:
    """One error names each name that no method has, with its target, and the nearest one where there is one."""
    wrong = registry("pricing.v1", (METHOD.lower(), "eu"), "Unheard/Of", METHOD)
    with pytest.raises(ValueError, match="no service or method") as raised:
        wrong.check(pricing_pb2)
    assert str(raised.value) == (
        "no service or method has the name of these policies: 'pricing.v1' (did you mean 'pricing.v1.Pricing'?), "
        f"'{METHOD.lower()}@eu' (did you mean '{METHOD}'?), 'Unheard/Of'"
    )


def test_check_of_several_services() -> None:
    """A policy is right if one of the services has its method."""
    other = SimpleNamespace(full_name="other.S", methods_by_name={"M": None})
    both = registry(METHOD, "other.S/M")
    both.check(pricing_pb2, other)
    with pytest.raises(ValueError, match=r"'other\.S/M'"):
        both.check(pricing_pb2)
    with pytest.raises(ValueError, match=METHOD):
        both.check()


@pytest.mark.parametrize("wrong", [None, "pricing.v1.Pricing", pytest, 7, object, BreakerPolicy])
def test_check_of_something_else(wrong: object) -> None:
    """What describes no services is an error that says what does."""
    with pytest.raises(TypeError) as raised:
        registry().check(wrong)
    assert str(raised.value) == (
        "services are described by modules that protoc generated, such as pricing_pb2 (not pricing_pb2_grpc), "
        f"descriptors of files or services, or stubs, got {wrong!r}"
    )


@pytest.fixture
def call(caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
    """Make a call of each method through an interceptor; returns what was logged since the last time."""

    def make(breakers: BreakerRegistry, *methods: str, target: str | None = None) -> list[str]:
        interceptor = CircuitBreakerInterceptor(breakers, target=target, telemetry=False)
        for method in methods:
            details: Any = SimpleNamespace(method=method, timeout=None)
            with pytest.raises(KeyboardInterrupt):
                interceptor.intercept_unary_unary(interrupted, details, b"")
        logged = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return logged

    return make


def interrupted(details: object, request: object) -> None:
    """A call that Ctrl-C ends."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("default", [POLICY, None])
@pytest.mark.parametrize(
    "name",
    [
        "shop.v1.S/GetPrize",
        "shop.v1.S/getprice",
        "shop.v1.S/get_price",
        "Shop.v1.S/GetPrice",
        "shop.v1.s",
        "shop.v1.S.GetPrice",
        "shop.v1",
    ],
)
def test_misspelt_name_is_warned_of_once(name: str, default: Any, call: Callable[..., list[str]]) -> None:
    """A name that a call matches almost is warned of, once, whether or not the call is guarded."""
    breakers = registry(name, "other.S/GetPrize", default=default)
    words = f"no call has used the name of the policy for {name}, but shop.v1.S/GetPrice was called, "
    words += "which has no policy of its own; is the name misspelt?"
    assert call(breakers, "/shop.v1.S/GetPrice", "/shop.v1.S/GetPrice", "/shop.v1.S/GetPrices") == [words]


def test_right_names_are_not_warned_of(call: Callable[..., list[str]]) -> None:
    """Names that calls match, or whose method was not called yet, are not warned of, however alike the names are."""
    breakers = registry(
        "shop.v1.S/GetPrice", "shop.v1.S/GetPrices", "shop.v1.S", "shop.v1.S/List", ("shop.v1.S/Set", "eu")
    )
    assert not call(breakers, "/shop.v1.S/GetPrice", "/shop.v1.S/Put", "/shop.v1.S/Lists_All", "/odd", "")
    assert not call(breakers, "/shop.v1.S/GetPrice", "/shop.v1.S/Set", target="us")
    assert not call(registry("shop.v1.S/GetPrize"), "/shop.v1.S/GetPrize", "/shop.v1.S/GetPrice")
    assert not call(registry(("shop.v1.S/GetPrize", "eu")), "/shop.v1.S/GetPrize", "/shop.v1.S/GetPrice", target="us")


def test_odd_method_matches_no_service(call: Callable[..., list[str]]) -> None:
    """A method with a slash too many matches no policy of the service before the first one, so that may be misspelt."""
    breakers = registry("shop.v1.s")
    assert not call(breakers, "/shop.v1.s/Get/Price")
    assert len(call(breakers, "/shop.v1.S/GetPrice")) == 1


def test_looking_for_a_breaker_is_no_call(call: Callable[..., list[str]], caplog: pytest.LogCaptureFixture) -> None:
    """To look for a breaker by a name neither matches a policy's nor is a call that almost does."""
    breakers = registry("shop.v1.S/GetPrize", "shop.v1.S/List")
    assert breakers["shop.v1.S/GetPrize"] is not breakers["shop.v1.S/Lists"]
    assert not caplog.records
    assert len(call(breakers, "/shop.v1.S/GetPrice")) == 1


def test_flood_of_methods_hides_no_misspelt_name(call: Callable[..., list[str]]) -> None:
    """After a flood of other methods a misspelt name is still warned of."""
    breakers = registry("shop.v1.S/GetPrize", default=None)
    assert not call(breakers, *(f"/flood.S/M{n}" for n in range(1001)))
    assert len(call(breakers, "/shop.v1.S/GetPrice")) == 1
