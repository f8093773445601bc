"""The recipes for tenacity, stamina and google-api-core, as printed, with the real packages around real calls."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("tenacity", reason="tenacity is not installed")
pytest.importorskip("stamina", reason="stamina is not installed")
pytest.importorskip("google.api_core", reason="google-api-core is not installed")

from google.api_core import exceptions, grpc_helpers, grpc_helpers_async

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, CircuitOpenError, aio
from tests.support.server import UNARY_UNARY, Server

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
RECIPES: dict[str, Any] = {}
exec(
    "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8").partition("## Retries with ")[2], re.DOTALL)),
    RECIPES,
)

UNAVAILABLE, OK = b"error UNAVAILABLE ill", b"ok"

pytestmark = pytest.mark.filterwarnings("default")  # those of the packages are theirs


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that does what each request says."""
    with Server() as it:
        yield it


class Guarded:
    """Makes guarded calls: each does the next thing of a list, and the last one for ever."""

    def __init__(self, channel: Any, breakers: BreakerRegistry) -> None:
        self.breaker = breakers[UNARY_UNARY]
        self.method = grpc.intercept_channel(channel, CircuitBreakerInterceptor(breakers, telemetry=False)).unary_unary(
            UNARY_UNARY
        )
        self.script = [OK]
        self.attempts = 0

    def __call__(self) -> Any:
        self.attempts += 1
        return self.method(self.script.pop(0) if len(self.script) > 1 else self.script[0])


@pytest.fixture
def call(server: Server) -> Iterator[Guarded]:
    """Guarded calls."""
    policy = BreakerPolicy(failure_threshold=1, reset_timeout=60)
    with grpc.insecure_channel(server.target) as channel:
        yield Guarded(channel, BreakerRegistry(default=policy))


STOPPING = ("stop_at_refusal", "stamina_stop_at_refusal")
WAITING = ("wait_for_probe", "stamina_wait_for_probe")


@pytest.mark.parametrize("recipe", STOPPING + WAITING)
def test_failure_is_repeated(recipe: str, call: Guarded) -> None:
    """Each recipe repeats a call that the server failed."""
    call.breaker.disable()
    call.script = [UNAVAILABLE, OK]
    assert RECIPES[recipe](call)() == b"answer"
    assert call.attempts == 2


@pytest.mark.parametrize("recipe", STOPPING + WAITING)
def test_other_failures_are_not_repeated(recipe: str, call: Guarded) -> None:
    """No recipe repeats what the server says of the request."""
    call.script = [b"error NOT_FOUND gone"]
    with pytest.raises(grpc.RpcError, match="gone"):
        RECIPES[recipe](call)()
    assert call.attempts == 1


@pytest.mark.parametrize("recipe", STOPPING)
def test_recipe_stops_at_a_refusal(recipe: str, call: Guarded) -> None:
    """The recipes that stop raise the refusal as it is, and do not try again."""
    call.script = [UNAVAILABLE]
    with pytest.raises(CircuitOpenError):
        RECIPES[recipe](call)()
    assert call.attempts == 2, "a failure, which is repeated, and a refusal, which is not"


@pytest.mark.parametrize("recipe", WAITING)
def test_recipe_waits_for_the_probe(recipe: str, call: Guarded) -> None:
    """The recipes that wait come back once the open period is over, and get through: no attempt is refused twice."""
    call.breaker.reconfigure(BreakerPolicy(failure_threshold=1, reset_timeout=3, half_open_max_calls=1))
    call.script = [UNAVAILABLE, OK]
    assert RECIPES[recipe](call)() == b"answer"
    assert call.attempts == 3, "a failure, one refusal, and the probe"
    assert call.breaker.state == "closed"


@pytest.mark.parametrize("recipe", WAITING)
def test_recipe_does_not_wait_for_an_operator(recipe: str, call: Guarded) -> None:
    """The recipes that wait stop at a refusal that only an operator ends."""
    call.breaker.force_open()
    with pytest.raises(CircuitOpenError):
        RECIPES[recipe](call)()
    assert call.attempts == 1


def test_google_retry_stops_at_a_refusal(call: Guarded) -> None:
    """With the predicate Google's retry repeats a failure, and stops at a refusal, which is found behind what it raises."""
    call.script = [UNAVAILABLE]
    wrapped = RECIPES["retry"](grpc_helpers.wrap_errors(call))
    with pytest.raises(exceptions.ServiceUnavailable) as error:
        wrapped()
    assert call.attempts == 2
    refused = CircuitOpenError.find(error.value)
    assert refused is not None
    assert refused.method == UNARY_UNARY.strip("/")


def test_google_retry_repeats_a_failure(call: Guarded) -> None:
    """With the predicate Google's retry still repeats what the server failed."""
    call.breaker.disable()
    call.script = [UNAVAILABLE, OK]
    assert RECIPES["retry"](grpc_helpers.wrap_errors(call))() == b"answer"
    assert call.attempts == 2


def test_google_retry_in_asyncio_stops_at_a_refusal(server: Server) -> None:
    """The same in asyncio."""
    breakers = BreakerRegistry(default=BreakerPolicy(failure_threshold=1, reset_timeout=60))
    attempts: list[bytes] = []

    async def story() -> None:
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            method = grpc_helpers_async.wrap_errors(channel.unary_unary(UNARY_UNARY))

            async def call() -> Any:
                attempts.append(UNAVAILABLE)
                return await method(UNAVAILABLE)

            with pytest.raises(exceptions.ServiceUnavailable) as error:
                await RECIPES["async_retry"](call)()
            assert CircuitOpenError.find(error.value) is not None

    asyncio.run(story())
    assert len(attempts) == 2


def test_google_client_with_the_recipe(call: Guarded) -> None:
    """What a client raises for a refusal is handed on as that refusal, and its other errors as they are."""

    class Publisher:
        def get_topic(self, topic: str, retry: Callable[[Any], Any]) -> Any:
            return retry(grpc_helpers.wrap_errors(call))()

    topic_or_refusal = RECIPES["topic_or_refusal"]
    call.script = [OK]
    assert topic_or_refusal(Publisher(), "orders") == b"answer"
    call.script = [b"error NOT_FOUND gone"]
    with pytest.raises(exceptions.NotFound):
        topic_or_refusal(Publisher(), "orders")
    call.breaker.force_open()
    assert isinstance(topic_or_refusal(Publisher(), "orders"), CircuitOpenError)
