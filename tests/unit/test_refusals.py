"""What a refused call says of itself, and how it travels."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitOpenError
from grpc_breaker.testing import FakeClock
from tests.unit.test_adapters import METHOD, intercept, intercept_aio

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
WORDS = "circuit breaker open for pkg.S/M; next probe in 1.0 s"


@pytest.fixture
def breakers() -> BreakerRegistry:
    """An open breaker."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout_jitter=0, refusal_code=grpc.StatusCode.ABORTED)
    breakers = BreakerRegistry(default=policy, clock=FakeClock())
    breakers[METHOD].admit().failure()
    return breakers


def raised(call: Any) -> CircuitOpenError:
    """What a refused asyncio call raises."""

    async def meet() -> None:
        await (call.read() if hasattr(call, "read") else call)

    with pytest.raises(CircuitOpenError) as error:
        asyncio.run(meet())
    return error.value


def in_words(kind: str) -> str:
    """The form of grpcio's calls."""
    return f'<{kind} of RPC that was refused:\n\tstatus = StatusCode.ABORTED\n\tdetails = "{WORDS}"\n>'


def test_refused_call_in_words(breakers: BreakerRegistry) -> None:
    """The `repr` of a refused call names its status and says why, as the calls of grpcio do; `str` says why."""
    call = intercept(breakers, None)
    assert (repr(call), str(call)) == (in_words("CircuitOpenError"), WORDS)


@pytest.mark.parametrize("kind", KINDS)
def test_refused_asyncio_call_in_words(kind: str, breakers: BreakerRegistry) -> None:
    """So does a refused asyncio call of each kind, and the error that it raises."""
    call = intercept_aio(breakers, None, kind)
    assert repr(call) == in_words("".join(part.title() for part in kind.split("_")) + "Call")
    error = raised(call)
    assert (repr(error), str(error)) == (in_words("CircuitOpenError"), WORDS)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "asyncio"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_refusal_pickles(asynchronous: bool, protocol: int, breakers: BreakerRegistry) -> None:
    """A refusal is the same after it was pickled, with every protocol."""
    error = raised(intercept_aio(breakers, None)) if asynchronous else intercept(breakers, None)
    same(pickle.loads(pickle.dumps(error, protocol)), error)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "asyncio"])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_refusal_can_be_copied(asynchronous: bool, copied: Any, breakers: BreakerRegistry) -> None:
    """A copy of a refusal, deep or not, is another object that says the same."""
    error = raised(intercept_aio(breakers, None)) if asynchronous else intercept(breakers, None)
    same(copied(error), error)


def same(other: Any, error: Any) -> None:
    """Both say the same of the refused call."""
    assert other is not error
    assert type(other) is type(error)
    assert (repr(other), str(other), other.code()) == (repr(error), str(error), grpc.StatusCode.ABORTED)
    facts = [(it.method, it.breaker, it.state, it.retry_after, it.reason) for it in (other, error)]
    assert facts == [("pkg.S/M", "pkg.S/M", "open", 1.0, "consecutive_failures")] * 2
    assert isinstance(other, CircuitOpenError)
    assert isinstance(other, grpc.RpcError)
