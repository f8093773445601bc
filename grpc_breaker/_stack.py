"""The parts around the breaker, as far as both adapters share them: deadlines, retries, fallbacks.

    fallback → timeout → retry → [the breaker's decision] → attempt timeout → wire

1.  A deadline is put into the call's details, so that the server learns of it. Of several the shortest counts. Details
    are changed in copies; whatever class another interceptor made of them, the fields that it left out stay out.
2.  An attempt after the first carries `grpc-previous-rpc-attempts`, as gRPC's own retries do. It reaches the server
    where the channel's own are off (`grpc.enable_retries=0`): with them on, grpcio takes out what applications send
    under that key. What was made on this side is not retried, whatever its status: a cancellation, a request that
    cannot be serialised.
3.  A fallback answers errors that its policy names. A refusal is named by "refused" alone, not by the status it shows;
    a call that this side cancelled is never answered. The sources are tried in the order last good answer, function,
    constant; a function that returns `None` has no answer. What is answered says so: by its trailing metadata.
4.  A last good answer is found by the request, serialised, and by the metadata that the policy names. An answer for one
    user must never reach another: where the policy names no metadata, or the call has none of what it names, calls with
    credentials of their own are not kept.
    What does not serialise is not kept. Messages of protobuf are kept serialised; so each caller gets one of its own.
5.  Errors of our own bookkeeping, and of a user's function, are logged once; the caller gets the call as it would be
    without the part. See rule 5 of `_rpc.py`.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, Final, NamedTuple, cast

import grpc
from grpc import aio

from grpc_breaker._core.callables import name_of
from grpc_breaker._core.errors import CallRefusedError
from grpc_breaker._core.fallback import REFUSED, Fallback
from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.last_good import LastGoodAnswers
from grpc_breaker._core.log import log_once
from grpc_breaker._core.method_policy import MethodPolicy
from grpc_breaker._core.permit import Permit
from grpc_breaker._core.retrying import Retrying
from grpc_breaker._core.stack import CONSTANT, FUNCTION, LAST_GOOD, Stack
from grpc_breaker._error_details import pushback
from grpc_breaker._rpc import made_locally, own_cancellation, report, timeout_of

ANSWERED_BY: Final = "grpc-breaker-fallback"
"""The key of the trailing metadata of a call that a fallback answered."""
_PREVIOUS_ATTEMPTS: Final = "grpc-previous-rpc-attempts"
_CREDENTIALS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
"""Metadata by which callers are told apart everywhere; what else does so must be named by the policy."""
_CREDENTIALS_AS_SENT: Final[frozenset[Any]] = _CREDENTIALS | {key.encode() for key in _CREDENTIALS}
"""The same as callers may write them: grpcio takes keys that are bytes, too."""

# ── Deadlines and details ─────────────────────────────────────────────────────────────────────────────────────────────


def shortest(one: float | None, other: float | None) -> float | None:
    """The shorter of two times, of which `None` is the longest."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


class _ChangedDetails(grpc.ClientCallDetails):
    """The details of a call that another interceptor made of a class of its own, with some fields changed."""

    def __init__(self, details: Any, changes: dict[str, Any]) -> None:
        self._details = details
        vars(self).update(changes)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._details, name)


def changed(details: Any, **changes: Any) -> Any:
    """A copy of a call's details, with some fields changed."""
    fields = getattr(details, "_fields", ())  # of a named tuple, as grpcio's are
    if isinstance(fields, tuple) and all(name in fields for name in changes):
        return details._replace(**changes)
    return _ChangedDetails(details, changes)


def first_timeout(policy: MethodPolicy, given: float | None) -> float | None:
    """The seconds that a first attempt has, and a call with one attempt: `given` itself if that is the shortest."""
    limit, of_attempt = policy.timeout, policy.attempt_timeout
    if of_attempt is not None and (limit is None or of_attempt < limit):
        limit = of_attempt
    return given if limit is None or (given is not None and given <= limit) else limit


_GRPCIOS: Final[frozenset[Any]] = frozenset(
    kind
    for kind in (getattr(import_module("grpc._interceptor"), "_ClientCallDetails", None), aio.ClientCallDetails)
    if getattr(kind, "_fields", ())[:2] == ("method", "timeout")
)
"""grpcio's own classes of details: tuples that begin so."""


def with_timeout(details: Any, timeout: float | None) -> Any:
    """A copy of a call's details with another timeout."""
    kind = details.__class__
    if kind in _GRPCIOS:
        return kind._make((details[0], timeout, *details[2:]))  # at a fraction of what `_replace` costs
    return changed(details, timeout=timeout)


def for_probe(permit: Permit, details: Any) -> Any:
    """A probe's details: with its deadline, where the policy has one and the call is of one request and one answer."""
    try:
        policy = permit.policy
        deadline = policy.probe_deadline
        if deadline is None or not permit.timed or policy.enforcement_percentage == 0.0:  # a trial changes no call
            return details
        given = timeout_of(details)
        return details if given is not None and given <= deadline else with_timeout(details, deadline)
    except Exception as error:  # noqa: BLE001 - see rule 5
        report(error, "shortening the deadline of a probe failed; it keeps its caller's")
        return details


class Attempts:
    """The attempts of a call that may be tried again: its deadline, its pauses, and what each attempt is sent with."""

    __slots__ = ("_attempt_timeout", "_deadline", "_details", "_retrying")

    def __init__(self, stack: Stack, policy: MethodPolicy, details: Any, begun: float, given: float | None) -> None:
        """Begin with the failure of the first attempt.

        Args:
            stack: What is kept of the method.
            policy: What was wanted of it when the call began; with a `retry`.
            details: The call's details, as its caller gave them.
            begun: When the call began, in the seconds of `time.monotonic`.
            given: The seconds that its caller gave it; `None` without a deadline.
        """
        assert policy.retry is not None
        self._retrying = Retrying(policy.retry, stack.budget, stack.random)
        self._details = details
        timeout = shortest(given, policy.timeout)
        self._deadline = math.inf if timeout is None else begun + timeout
        self._attempt_timeout = policy.attempt_timeout

    def pause_after(self, error: Any, now: float) -> float | None:
        """Take in how an attempt failed; returns the seconds until the next one, `None` if there is none."""
        try:
            code, words = error.code(), error.details()
            if not isinstance(code, grpc.StatusCode) or made_locally(code, str(words or "")):
                return None
            return self._retrying.pause_after_failure(
                code.name, pushback(error.trailing_metadata()), now, self._deadline
            )
        except Exception as trouble:  # noqa: BLE001 - an error of somebody's own need not have them; see rule 5
            if not isinstance(trouble, AttributeError):
                report(trouble, "deciding on a retry failed; the call is not tried again")
            return None

    def next(self, now: float) -> tuple[Any, float | None] | None:
        """The details and the timeout of the next attempt; `None` if the pause outlasted the deadline after all."""
        left = None if self._deadline == math.inf else self._deadline - now
        if left is not None and left <= 0.0:
            return None
        timeout = shortest(left, self._attempt_timeout)
        metadata = getattr(self._details, "metadata", None)
        pairs = (*(metadata or ()), (_PREVIOUS_ATTEMPTS, str(self._retrying.attempts - 1)))
        metadata = aio.Metadata(*pairs) if isinstance(metadata, aio.Metadata) else pairs
        return changed(self._details, timeout=timeout, metadata=metadata), timeout


def with_lasting_metadata(details: Any) -> Any:
    """A call's details, with metadata that can be sent more than once."""
    metadata: Any = getattr(details, "metadata", None)
    if type(metadata) in _LASTING or not _ends(metadata):
        return details
    return changed(details, metadata=tuple(metadata))


_LASTING: Final[frozenset[type]] = frozenset({type(None), tuple, list, aio.Metadata})


def _ends(iterable: object) -> bool:
    """Whether something can be iterated over once only."""
    return isinstance(iterable, Iterator)


# ── Fallbacks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Answer(NamedTuple):
    """What a caller gets instead of an error."""

    message: Any
    kind: str
    """Where it comes from: "last-good", "function" or "constant"."""


class Remembered(NamedTuple):
    """Where the last good answer to a request is kept."""

    answers: LastGoodAnswers
    key: bytes

    def keep(self, message: Any, given: dict[str, bool] | None = None) -> None:
        """Keep an answer; `None` is none: it is what grpcio makes of one that cannot be read.

        Args:
            message: The answer.
            given: Not empty once the caller has the answer, who may change it. Then it was kept before; what is taken
                of it now is thrown away. Default `None`: the caller gets it later.
        """
        try:
            if message is None:
                return
            kept: Any
            if type(message) is bytes:
                kept, size = message, len(message)
            elif hasattr(message, "SerializePartialToString"):
                data, kind = message.SerializePartialToString(), cast("Any", type(message))
                kept, size = (kind.FromString, data), len(data)
            else:
                kept, size = (copy.deepcopy, copy.deepcopy(message)), sys.getsizeof(message)
            if not given:
                self.answers.keep(self.key, kept, size)
        except Exception as error:  # noqa: BLE001 - see rule 5
            report(error, f"an answer of type {type(message).__qualname__} cannot be kept as the last good one")

    def find(self) -> Answer | None:
        """The last good answer, the caller's own copy."""
        kept = self.answers.find(self.key)
        if kept is None:
            return None
        if type(kept) is bytes:
            return Answer(kept, LAST_GOOD)
        make, of = kept
        return Answer(make(of), LAST_GOOD)


def remembered(answers: LastGoodAnswers, method: str, details: Any, request: Any) -> Remembered | None:
    """Where the last good answer to a request is kept; `None` if it is not."""
    try:
        prefix = _metadata_of_key(answers.key_metadata, details)
        if prefix is None:
            log_once(
                f"last good answers of {method} are not kept for calls with credentials of their own: one user's must "
                "not reach another; name the metadata that tells the users apart in LastGood.key_metadata",
                exc_info=False,
            )
            return None
        serialised = request if type(request) is bytes else request.SerializeToString(deterministic=True)
        return Remembered(answers, prefix + serialised)
    except Exception as error:  # noqa: BLE001 - see rule 5
        report(error, f"a request of {method} does not serialise; its last good answer is not kept")
        return None


def _metadata_of_key(names: tuple[str, ...], details: Any) -> bytes | None:
    """What a call's metadata adds to its key; `None` where the call has credentials that the key would not hold."""
    metadata = getattr(details, "metadata", None) or ()
    added = getattr(details, "credentials", None) is not None  # by call credentials, after the interceptors
    if not names:
        return None if added or (metadata and any(key in _CREDENTIALS_AS_SENT for key, _ in metadata)) else b""
    written = [(key.decode() if isinstance(key, bytes) else key, value) for key, value in metadata]
    pairs = [pair for pair in written if pair[0] in names]
    pairs.sort(key=lambda pair: names.index(pair[0]))
    there = {key for key, _ in pairs}
    if added and (not there or any(name in _CREDENTIALS and name not in there for name in names)):
        return None
    if not there and any(key in _CREDENTIALS for key, _ in written):
        return None
    return repr(pairs).encode()  # no request can begin with another call's: a list says where it ends


def may_answer(fallback: Fallback, error: Any) -> bool:
    """Whether a fallback answers a call that ended with `error`."""
    if isinstance(error, CallRefusedError):
        return REFUSED in fallback.when
    if not isinstance(error, grpc.RpcError):
        return False
    facts: Any = error
    try:
        code = facts.code()
        return code.name in fallback.when and not own_cancellation(code, facts.details())
    except Exception as trouble:  # an RpcError of somebody's own need not have them
        if passes_through(trouble):
            raise
        return False


def last_good(kept: Remembered | None) -> Answer | None:
    """The last good answer, if there is one."""
    try:
        return None if kept is None else kept.find()
    except Exception as error:  # noqa: BLE001 - see rule 5
        report(error, "the last good answer cannot be copied; the caller gets the error")
        return None


def constant(fallback: Fallback) -> Answer | None:
    """The constant, if there is one."""
    return Answer(fallback.constant, CONSTANT) if fallback.has_constant else None


def from_function(fallback: Fallback, message: Any) -> Answer | None:
    """What a function returned; the constant if that is nothing."""
    return constant(fallback) if message is None else Answer(message, FUNCTION)


def report_function(function: Callable[..., Any] | None, error: BaseException) -> None:
    """Log, once, what a user's function raised; raise what only passed through."""
    if passes_through(error):
        raise error
    log_function(function)


def log_function(function: Callable[..., Any] | None) -> None:
    """Log, once, that a user's function raised."""
    log_once(f"fallback function {name_of(function)} raised; the caller gets the original error")


def report_no_answer(what: str) -> None:
    """Log, once, that what a fallback gave is no answer."""
    log_once(f"{what}; the caller gets the original error", exc_info=False)


def messages_of(fallback: Fallback, answer: Answer) -> Answer | None:
    """An iterator over the messages of a stream, from what its fallback gave; `None` if that are none."""
    messages = answer.message
    if not _are_several(messages):
        why = "not an iterable of messages, as a stream needs"
    elif answer.kind == CONSTANT and _ends(messages):
        why = "an iterator, which gives its messages only once"
    else:
        try:
            return Answer(iter(messages), answer.kind)
        except Exception as error:  # noqa: BLE001 - a user's object must not break a user's call
            report(error, "the messages of a fallback cannot be iterated over; the caller gets the original error")
            return None
    source = "the fallback constant" if answer.kind == CONSTANT else f"what {name_of(fallback.function)} returned"
    report_no_answer(f"{source} is {why}")
    return None


def _are_several(messages: object) -> bool:
    return isinstance(messages, Iterable) and not isinstance(messages, bytes | bytearray | memoryview | str)
