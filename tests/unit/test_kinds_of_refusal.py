"""One family of errors: a type for each thing that refuses, for grpc, grpc.aio and plain code."""

from __future__ import annotations

import copy
import pickle
import traceback
from typing import Any, Literal

import grpc
import pytest
from grpc import aio

from grpc_breaker import (
    BulkheadFullError,
    CallRefusedError,
    CircuitOpenError,
    RateLimitedError,
    RefusalReason,
    ThrottledError,
)
from grpc_breaker.testing import refusal
from tests.support.decisions import METHOD

Reason = Literal["breaker", "bulkhead", "rate", "throttle"]
Api = Literal["grpc", "grpc.aio", "plain"]

TYPES: dict[Reason, type[CallRefusedError]] = {
    "breaker": CircuitOpenError,
    "bulkhead": BulkheadFullError,
    "rate": RateLimitedError,
    "throttle": ThrottledError,
}
APIS: tuple[Api, ...] = ("grpc", "grpc.aio", "plain")
each_reason = pytest.mark.parametrize("reason", TYPES)
each_api = pytest.mark.parametrize("api", APIS)


@each_reason
@each_api
def test_type_is_that_of_the_reason(reason: Reason, api: Api) -> None:
    """Each reason has a type of its own, which is a `CallRefusedError` and none of the others."""
    error = refusal(METHOD, reason=reason, api=api)
    assert [isinstance(error, kind) for kind in TYPES.values()] == [kind is TYPES[reason] for kind in TYPES.values()]
    assert isinstance(error, CallRefusedError)
    assert error.reason is RefusalReason(reason)


@each_reason
def test_sync_refusal_is_error_call_and_future(reason: Reason) -> None:
    """That of a sync RPC is a `grpc.RpcError`, a `grpc.Call` and a `grpc.Future` that has ended."""
    error: Any = refusal(METHOD, reason=reason)
    assert [isinstance(error, it) for it in (grpc.RpcError, grpc.Call, grpc.Future)] == [True] * 3
    assert error.done()
    assert error.exception() is error
    with pytest.raises(TYPES[reason]):
        error.result()


@each_reason
def test_asyncio_refusal_is_an_aio_rpc_error(reason: Reason) -> None:
    """That of an asyncio RPC is a `grpc.aio.AioRpcError`."""
    assert isinstance(refusal(METHOD, reason=reason, api="grpc.aio"), aio.AioRpcError)


@each_reason
def test_plain_refusal_is_no_rpc_error(reason: Reason) -> None:
    """Outside gRPC it is no `grpc.RpcError`, and has no code."""
    error = refusal(METHOD, reason=reason, api="plain")
    assert not isinstance(error, grpc.RpcError)
    assert error.code() is None


@each_reason
@pytest.mark.parametrize("api", ["grpc", "grpc.aio"])
def test_code(reason: Reason, api: Api) -> None:
    """A rate limit shows RESOURCE_EXHAUSTED, the others UNAVAILABLE."""
    expected = grpc.StatusCode.RESOURCE_EXHAUSTED if reason == "rate" else grpc.StatusCode.UNAVAILABLE
    assert refusal(METHOD, reason=reason, api=api).code() is expected


@each_reason
@each_api
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(reason: Reason, api: Api, protocol: int) -> None:
    """With every protocol it is the same afterwards."""
    error = refusal("pkg.S/M@eu", reason=reason, api=api, retry_after=2.5)
    same(pickle.loads(pickle.dumps(error, protocol)), error)


@each_reason
@each_api
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies(reason: Reason, api: Api, copied: Any) -> None:
    """So is a copy, deep or not."""
    error = refusal("pkg.S/M@eu", reason=reason, api=api, retry_after=2.5)
    same(copied(error), error)


def same(other: CallRefusedError, error: CallRefusedError) -> None:
    """Both say the same."""
    assert other is not error
    assert type(other) is type(error)
    facts = [
        (it.reason, it.state, it.condition, it.retry_after, it.method, it.breaker, it.target, it.code(), str(it))
        for it in (other, error)
    ]
    assert facts[0] == facts[1]
    assert facts[0][6] == "eu"


@each_reason
@each_api
def test_traceback_shows_the_documented_name(reason: Reason, api: Api) -> None:
    """Tracebacks, and whatever else names the class, show the public name."""
    error = refusal(METHOD, reason=reason, api=api)
    kind = type(error)
    public = TYPES[reason].__name__
    assert (kind.__module__, kind.__qualname__, kind.__name__) == ("grpc_breaker", public, public)
    (line,) = traceback.format_exception_only(error)
    assert line == f"grpc_breaker.{public}: {error}\n"


@each_reason
@each_api
def test_find(reason: Reason, api: Api) -> None:
    """`find` of the base finds every kind; `find` of a type only that one."""
    error = refusal(METHOD, reason=reason, api=api)
    outer = ValueError("translated")
    outer.__cause__ = ExceptionGroup("several", [LookupError(), error])
    assert CallRefusedError.find(outer) is error
    assert {kind: kind.find(outer) is error for kind in TYPES.values()} == {
        kind: kind is TYPES[reason] for kind in TYPES.values()
    }


def test_find_passes_over_other_kinds() -> None:
    """`find` of a type goes on behind a refusal of another kind."""
    near, far = refusal(METHOD, reason="bulkhead"), refusal(METHOD)
    near.__cause__ = far
    assert CircuitOpenError.find(near) is far
    assert CallRefusedError.find(near) is near


@each_api
def test_base_catches_each(api: Api) -> None:
    """One `except` clause is enough for all."""
    for reason in TYPES:
        with pytest.raises(CallRefusedError):
            raise refusal(METHOD, reason=reason, api=api)


@each_reason
@each_api
def test_every_one_is_its_own(reason: Reason, api: Api) -> None:
    """No two refusals are the same object."""
    assert refusal(METHOD, reason=reason, api=api) is not refusal(METHOD, reason=reason, api=api)


def test_refusal_for_mocks_names_the_time_of_a_rate_limit() -> None:
    """A rate limit names the time that was given; a bulkhead and a throttle name none."""
    assert refusal(METHOD, reason="rate", retry_after=2.5).retry_after == 2.5
    assert refusal(METHOD, reason="bulkhead", retry_after=2.5).retry_after == 0
    assert refusal(METHOD, reason="throttle", retry_after=2.5).retry_after == 0
    assert refusal(METHOD, reason="rate", retry_after=None).retry_after == 0


def test_refusal_for_mocks_of_a_wrong_reason() -> None:
    """A reason that there is not is an error that names those that there are."""
    with pytest.raises(ValueError, match="must be one of breaker, bulkhead, rate, throttle, got 'full'"):
        refusal(METHOD, reason="full")  # type: ignore[arg-type]
