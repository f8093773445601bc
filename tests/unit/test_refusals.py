"""What a refused call says of itself, and how it travels."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import traceback
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
    facts = [(it.method, it.breaker, it.state, it.retry_after, it.condition) for it in (other, error)]
    assert facts == [("pkg.S/M", "pkg.S/M", "open", 1.0, "consecutive_failures")] * 2
    assert isinstance(other, CircuitOpenError)
    assert isinstance(other, grpc.RpcError)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "asyncio"])
def test_refusal_has_the_documented_name(asynchronous: bool, breakers: BreakerRegistry) -> None:
    """The last line of a traceback, and whatever else names the class of a refusal, says `grpc_breaker.CircuitOpenError`."""
    error = raised(intercept_aio(breakers, None)) if asynchronous else intercept(breakers, None)
    assert traceback.format_exception_only(error) == [f"grpc_breaker.CircuitOpenError: {WORDS}\n"]
    assert type(error).__name__ == "CircuitOpenError"


def test_refusal_outside_grpc_has_the_documented_name(breakers: BreakerRegistry) -> None:
    """So does the refusal of a breaker that guards plain code, and it pickles with every protocol."""
    with pytest.raises(CircuitOpenError) as error:
        breakers[METHOD].admit()
    (line,) = traceback.format_exception_only(error.value)
    assert line.startswith("grpc_breaker.CircuitOpenError: circuit breaker open for pkg.S/M")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error.value, protocol))
        assert (type(again), str(again)) == (CircuitOpenError, str(error.value))


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "asyncio"])
def test_refusal_keeps_its_words_as_json(asynchronous: bool, breakers: BreakerRegistry) -> None:
    """A refusal that is made again from the JSON of its arguments, as Celery does, says the same words."""
    error = raised(intercept_aio(breakers, None)) if asynchronous else intercept(breakers, None)
    written = json.dumps(error.args, default=lambda it: it.__json__())
    again = CircuitOpenError(*json.loads(written))
    assert (str(again), again.details(), again.code()) == (WORDS, WORDS, None)
    assert getattr(again, "retry_after", "not known") == "not known"
    assert str(CircuitOpenError()) == ""


# ── Finding the refusal behind an exception ───────────────────────────────────────────────────────────────────────


class TranslatedError(Exception):
    """What a client makes of gRPC's errors, like Google's."""

    def __init__(self, *errors: object) -> None:
        super().__init__("unavailable")
        self.errors = errors


def made_from(cause: BaseException | None = None, context: BaseException | None = None) -> Exception:
    """An exception that was raised from one, or while one was handled."""
    error = ValueError("translated")
    error.__context__ = context
    if cause is not None:
        error.__cause__ = cause
    return error


def test_refusal_is_found_behind_an_exception(breakers: BreakerRegistry) -> None:
    """`find` returns the refusal itself, or the one an exception was made from, however deep."""
    refused = intercept(breakers, None)
    for error in (
        refused,
        made_from(cause=refused),
        made_from(context=refused),
        made_from(cause=made_from(context=made_from(cause=refused))),
        ExceptionGroup("two", [ValueError("another"), ExceptionGroup("inner", [made_from(cause=refused)])]),
        TranslatedError(refused),
        made_from(cause=TranslatedError("no exception", TranslatedError(refused))),
    ):
        assert CircuitOpenError.find(error) is refused, repr(error)


def test_no_refusal_behind_an_exception(breakers: BreakerRegistry) -> None:
    """`find` returns nothing where there is no refusal, nor for one that the traceback would not show."""
    refused = intercept(breakers, None)
    hidden = made_from(context=refused)
    hidden.__suppress_context__ = True
    other = made_from(cause=ValueError("the cause"), context=refused)
    for error in (
        None,
        ValueError("alone"),
        TranslatedError(),
        ExceptionGroup("one", [ValueError("alone")]),
        hidden,
        other,
    ):
        assert CircuitOpenError.find(error) is None, repr(error)


def test_nearest_refusal_is_found(breakers: BreakerRegistry) -> None:
    """Of several refusals `find` returns the one nearest to the exception."""
    near, far = intercept(breakers, None), intercept(breakers, None)
    for members in ([made_from(cause=far), near], [near, made_from(cause=far)]):
        assert CircuitOpenError.find(ExceptionGroup("two", members)) is near


def test_cycle_of_exceptions_is_harmless() -> None:
    """`find` ends where exceptions are one another's causes."""
    first = made_from()
    first.__cause__ = made_from(cause=made_from(cause=first))
    assert CircuitOpenError.find(first) is None
