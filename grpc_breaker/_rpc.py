"""What gRPC means to a breaker: the one file with an opinion about statuses. Both adapters use it; it knows neither.

1.  A call has one of three outcomes. An answer is a success, whatever the server thinks of the request: counting
    NOT_FOUND as an outage is the commonest false alarm on record (Linkerd #2183).

    success   OK, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, UNAUTHENTICATED, FAILED_PRECONDITION,
              OUT_OF_RANGE, ABORTED, UNIMPLEMENTED
    failure   UNAVAILABLE, INTERNAL, UNKNOWN, DATA_LOSS, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, CANCELLED
    ignored   what was made on the client's side, its own CANCELLED above all

2.  A status made on the client's side has the code of a server's, and is known by what grpcio writes in its details; a
    proxy in Python that hands on the details of such a failure of its own is taken for one. A DEADLINE_EXCEEDED of the
    client's and one of the server's are alike in every field; only the breaker's own clock tells them apart.
3.  A proxy that replies for the service says an HTTP status, of which grpcio makes a code of its own. Then the HTTP
    status counts: 401, 403, 413 and 431 are about the request, and ignored, because the service was not asked; every
    other one is a failure, 404 too, which looks like UNIMPLEMENTED.
4.  A call that cannot be judged is ignored, so that its permit comes back.
5.  An error of this package's own bookkeeping, or of a user's hook, is logged once and never reaches the application;
    where a breaker cannot be asked, the call goes on unguarded. What a signal handler raises meanwhile, or another
    thread injects, is neither, and goes on to the caller (`_core/interrupts.py`); the permit is given back first.
6.  Streams end badly on a day on which all is well, too. One that was answered, and lasted longer than the window
    before it was cut or its deadline passed, has been served: it is ignored, and the answer was its success. One that
    had no answer may have waited for news: it is ignored where it lasted as long and was lost with its connection.
"""

from __future__ import annotations

import asyncio
import re
from asyncio import _get_running_loop
from collections.abc import Callable
from contextvars import ContextVar
from threading import current_thread, get_ident, main_thread
from types import TracebackType
from typing import Any, Final, TypeVar

import grpc

from grpc_breaker._core.breaker import CircuitBreaker
from grpc_breaker._core.errors import CallRefusedError
from grpc_breaker._core.events import EndedCall
from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.log import log_once
from grpc_breaker._core.permit import Permit
from grpc_breaker._core.policy import BreakerPolicy, classified
from grpc_breaker._core.refusing import Rejection
from grpc_breaker._core.stack import Stack
from grpc_breaker._core.state import Outcome
from grpc_breaker._core.target import check_target
from grpc_breaker._error_details import error_reasons, period_asked_for
from grpc_breaker._registry import BreakerRegistry

OK: Final = grpc.StatusCode.OK
Refused = TypeVar("Refused", bound=CallRefusedError)

_SUCCESS: Final = Outcome.SUCCESS
_IGNORED: Final = Outcome.IGNORED

_VERDICTS: Final = {
    grpc.StatusCode.OK: Outcome.SUCCESS,
    grpc.StatusCode.INVALID_ARGUMENT: Outcome.SUCCESS,
    grpc.StatusCode.NOT_FOUND: Outcome.SUCCESS,
    grpc.StatusCode.ALREADY_EXISTS: Outcome.SUCCESS,
    grpc.StatusCode.PERMISSION_DENIED: Outcome.SUCCESS,
    grpc.StatusCode.UNAUTHENTICATED: Outcome.SUCCESS,
    grpc.StatusCode.FAILED_PRECONDITION: Outcome.SUCCESS,
    grpc.StatusCode.OUT_OF_RANGE: Outcome.SUCCESS,
    grpc.StatusCode.ABORTED: Outcome.SUCCESS,
    grpc.StatusCode.UNIMPLEMENTED: Outcome.SUCCESS,
    grpc.StatusCode.UNAVAILABLE: Outcome.FAILURE,
    grpc.StatusCode.INTERNAL: Outcome.FAILURE,
    grpc.StatusCode.UNKNOWN: Outcome.FAILURE,
    grpc.StatusCode.DATA_LOSS: Outcome.FAILURE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Outcome.FAILURE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Outcome.FAILURE,
    grpc.StatusCode.CANCELLED: Outcome.FAILURE,
}

_LOSES_CALLS: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED})
_LOST_CONNECTION: Final = re.compile(
    "RST_STREAM|GOAWAY|Socket closed|Connection reset|Broken pipe|[Kk]eepalive|[Pp]ing "
)
"""grpcio's words, among others, for a call that was lost with its stream or its connection."""
_UNPROCESSED: Final = re.compile(r"(?:Stream removed \()?GOAWAY received; Error code: 0;")
"""How the words begin when a server ended a connection in good order and never took the call up. Where it did take the
call up, they begin in another way; where the server is not well, its error code is not 0."""
_ENDED_TOGETHER: Final = re.compile(
    "GOAWAY|Socket closed|Connection reset|Broken pipe|Cancelling all calls|max connection age"
)
"""grpcio's words, among others, and those of its servers, where all streams of a connection end at once: the connection
is lost, the server stops, or the connection is old. A single stream that is reset or fails is not among them."""
_RECONNECTING: Final = 0.25
"""Seconds in which calls may still fail after a connection was lost, until another one is made."""
_WRITE_FAILED: Final = "Internal error from Core"
_MADE_LOCALLY: Final = {
    grpc.StatusCode.INTERNAL: frozenset({"Exception serializing request!", "Invalid metadata", _WRITE_FAILED}),
    grpc.StatusCode.UNKNOWN: frozenset({"Exception iterating requests!"}),
    grpc.StatusCode.UNAVAILABLE: frozenset({"Illegal metadata"}),  # from call credentials
}
_OWN_CANCELLATION: Final = re.compile(
    "Locally cancelled by application!|Cancelled upon garbage collection!"
    "|Channel closed"  # "!", or " due to fork"
    "|^CANCELLED$"  # before 1.75, of a stream on which an answer was too large
)
"""grpcio's words, among others of its newer versions, for a call that this side cancelled."""
_NO_CHANNEL: Final = ("Failed to create channel to ", "Failed to create secure client channel")
"""How the words begin, whatever the code, when the channel could not be made: of a bad service configuration, say."""
_NO_CONNECTION: Final = (
    "failed to connect to all addresses",
    "connections to all backends failing",
    "DNS resolution failed",
    "errors resolving ",
    "empty address list",
)
"""How the words of UNAVAILABLE begin when the call never left the client. The channel says them from memory until its
own back-off is over."""
_ATTEMPT_HUNG: Final = "perAttemptRecvTimeout exceeded"
"""grpcio's words, with CANCELLED, when no try of a call was answered in time."""
_HTTP_STATUS: Final = re.compile(r"headers? with status:? (\d{3})")
"""grpcio's words for a reply that is HTTP and not gRPC: "Received http2 header with status: 404"."""
_ABOUT_THE_REQUEST: Final = frozenset({"401", "403", "413", "431"})
"""HTTP statuses of a proxy that are about the request: who may ask, and how large it is."""
_TOO_LARGE: Final = "message larger than max"  # among other words, which differ with the version
_TOO_MUCH_METADATA: Final = "received metadata size exceeds"  # the server's words; of its own too large ones differ
_LONGEST_TIMEOUT: Final = 7e9
"""Seconds. A deadline after the year 2262 has more nanoseconds than grpcio counts, which takes it for one long past."""
_NO_CREDENTIALS: Final = {
    grpc.StatusCode.UNAVAILABLE: "Getting metadata from plugin failed",  # and then what the plugin raised
    grpc.StatusCode.UNAUTHENTICATED: "Established channel does not have a sufficient security level",
}
"""How the words begin when a call's credentials could not be had, or not be sent over such a channel."""


class Probing:
    """A block in which the next interceptors make a probe.

    Where one of them asks the same breaker again, it is handed the permit of the probe: were it refused for want of a
    second slot, no probe would ever get through. Whichever of the two sees the end first settles it.

    Only the probe itself is handed its permit, and once: a call that an interceptor repeats is another call. Threads
    and tasks that begin meanwhile inherit the context, grpcio's own among them, which serve a channel for as long as it
    lives. So the context alone says nothing; it must be the same thread and the same task, too.
    """

    __slots__ = ("_outer", "_permit", "_task", "_thread")

    def __init__(self, permit: Permit) -> None:
        self._permit: Permit | None = permit
        self._thread = get_ident()
        self._task = _current_task()
        self._outer: Probing | None = None

    def __enter__(self) -> None:
        self._outer = _probing.get()
        _probing.set(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._permit = self._task = None
        _probing.set(self._outer)  # a coroutine may be closed in another context, where a token is of no use

    def hand_down(self, breaker: object) -> Permit | None:
        """The permit, if `breaker` gave it and it is the probe itself that asks, for the first time."""
        permit = self._permit
        if permit is None or permit.breaker is not breaker or not permit.is_probe:
            return None
        if self._thread != get_ident() or self._task is not _current_task():
            return None
        self._permit = None
        return permit


_probing: ContextVar[Probing | None] = ContextVar("grpc_breaker_probing", default=None)
"""The probe that is being made in this context."""


def _current_task() -> object:
    """The task that runs on this thread, if any."""
    loop = _get_running_loop()
    return None if loop is None else asyncio.current_task(loop)


StackedRoute = tuple[CircuitBreaker, str, Stack]
"""The route of a method whose policy wants more than the breaker."""


class Guard:
    """The breakers that an interceptor asks."""

    __slots__ = ("_capture", "_routes", "_target", "breakers")

    def __init__(self, breakers: BreakerRegistry | None, target: str | None = None) -> None:
        self.breakers = check_registry(breakers)
        self._target = check_target(target)
        self._routes = self.breakers.routes_to(self._target)
        self._capture: Callable[[], object] | None = None

    def capture_with(self, capture: Callable[[], object] | None) -> None:
        """Admit each call with what `capture` returns as it begins, for the events that the call causes."""
        self._capture = capture

    def admit(self, call_details: Any, timed: bool) -> Permit | Rejection | StackedRoute | None:
        """Ask for a permit; `None` where the method is left alone, or the breaker cannot be asked.

        Where the policy wants more than the breaker, nothing is asked yet: the route is returned, and each attempt asks
        by `admit_attempt`.
        """
        try:
            route = self._routes.get(call_details.method)
            if not route:
                if route is None:
                    route = self.breakers.route(call_details.method, self._target)
                    self._routes = self.breakers.routes_to(self._target)
                if not route:
                    return None
            breaker, method, stack = route
            if stack is not None:
                return breaker, method, stack
            probing = _probing.get()
            if probing is not None and (permit := probing.hand_down(breaker)) is not None:
                return permit
            timeout = timeout_of(call_details)
            if timeout is not None and not 0.0 <= timeout < _LONGEST_TIMEOUT:
                timeout = None  # it ends at once, or never
            capture = self._capture
            return breaker.try_admit(method, None if capture is None else capture(), timed, timeout)
        except Exception as error:  # noqa: BLE001 - see rule 5
            report(error, "asking the breaker failed; the call goes on unguarded")
            return None

    def admit_attempt(self, route: StackedRoute, timed: bool, timeout: float | None) -> Permit | Rejection | None:
        """Ask for a permit for one attempt, which has `timeout` seconds; `None` if the breaker cannot be asked."""
        try:
            breaker, method, _ = route
            probing = _probing.get()
            if probing is not None and (permit := probing.hand_down(breaker)) is not None:
                return permit
            if timeout is not None and not 0.0 <= timeout < _LONGEST_TIMEOUT:
                timeout = None  # it ends at once, or never
            capture = self._capture
            return breaker.try_admit(method, None if capture is None else capture(), timed, timeout)
        except Exception as error:  # noqa: BLE001 - see rule 5
            report(error, "asking the breaker failed; the call goes on unguarded")
            return None


def report(error: BaseException, message: str) -> None:
    """Log, once, an error that must not reach the application; raise one that only passes through (rule 5).

    To be called where `error` has been caught.
    """
    if passes_through(error):
        raise error
    log_once(message)


def report_in_callback(error: BaseException, message: str) -> None:
    """Like `report`, in a callback that may run on a thread of grpcio's.

    What is no `Exception` would end that thread, and with it the other calls of the channel. It can have come from a
    signal handler on the main thread alone.
    """
    if isinstance(error, Exception) or current_thread() is main_thread():
        report(error, message)
    else:
        log_once(message)


def check_registry(breakers: object) -> BreakerRegistry:
    """The registry itself, or a new one for `None`.

    Raises:
        TypeError: Something else.
    """
    if breakers is None:
        return BreakerRegistry()
    if not isinstance(breakers, BreakerRegistry):
        message = f"breakers must be a BreakerRegistry or None, got {breakers!r}"
        raise TypeError(message)
    return breakers


def refusal_code(rejection: Rejection) -> grpc.StatusCode:
    """The status a refused call shows."""
    return grpc.StatusCode[rejection.code]


def shown_as(error: type[CallRefusedError]) -> Callable[[type[Refused]], type[Refused]]:
    """Give the class of a refused RPC the name of the class of errors that it is one of: the documented name."""

    def rename(refused: type[Refused]) -> type[Refused]:
        refused.__module__, refused.__qualname__, refused.__name__ = (
            error.__module__,
            error.__qualname__,
            error.__name__,
        )
        return refused

    return rename


def refusal_in_words(kind: str, code: grpc.StatusCode, details: str) -> str:
    """What the `repr` of a refusal says, in the form of grpcio's calls."""
    return f'<{kind} of RPC that was refused:\n\tstatus = {code}\n\tdetails = "{details}"\n>'


def timeout_of(call_details: Any) -> float | None:
    """The seconds the caller gave the call. Other interceptors may hand on bare details, or odd ones."""
    try:
        timeout = getattr(call_details, "timeout", None)
        return None if timeout is None else float(timeout)
    except Exception as error:  # what is no number is grpcio's to complain about
        if passes_through(error):
            raise
        return None


def settle(
    permit: Permit,
    code: Any,
    details: Any = "",
    trailing_metadata: Any = (),
    timeout: float | None = None,
    error: BaseException | None = None,
) -> None:
    """Settle the permit of an ended call by its status."""
    try:
        policy = permit.policy
        if code is OK and policy.plain:
            permit.success()
            return
        if not isinstance(code, grpc.StatusCode):
            permit.settle(_IGNORED)
            return
        words = details.decode("utf-8", "replace") if isinstance(details, bytes) else str(details or "")
        elapsed = permit.elapsed
        stream = not permit.timed
        outcome = verdict(policy, code, words, elapsed, timeout, trailing_metadata, stream, permit.was_answered)
        if policy.classify is not None:
            ended = EndedCall(
                method=permit.method,
                code=code,
                details=words,
                trailing_metadata=tuple(trailing_metadata or ()),
                elapsed=elapsed,
                timeout=timeout,
                error=None if code is OK else error,
            )
            outcome = classified(policy.classify, ended, outcome)
        if outcome is Outcome.FAILURE:
            unreached = code is grpc.StatusCode.UNAVAILABLE and words.startswith(_NO_CONNECTION)
            pushback = period_asked_for(trailing_metadata) if trailing_metadata else None
            incident = _incident(code, words)
            permit.settle(
                outcome,
                code.name,
                words,
                incident=incident,
                counts_once=incident is not None and _counts_once(words, stream),
                unreached=unreached,
                pushback=pushback,
            )
        else:
            permit.settle(outcome, code.name, words)
    except BaseException as trouble:  # noqa: BLE001 - see rule 5
        give_back(permit)
        report(trouble, "judging an ended call failed; it is ignored")


def settle_raised(permit: Permit, error: BaseException, timeout: float | None) -> None:
    """Settle the permit of a call that ended by raising out of the next interceptor, or out of grpcio.

    An RPC's error carries a status. Anything else was made on this side: KeyboardInterrupt, a closed channel, a bug of
    another interceptor, another breaker's refusal.
    """
    if not isinstance(error, grpc.RpcError) or isinstance(error, CallRefusedError):
        give_back(permit)
        return
    facts: Any = error
    try:
        code, details = facts.code(), facts.details()
        trailing = facts.trailing_metadata() if hasattr(facts, "trailing_metadata") else ()
    except BaseException as trouble:  # an RpcError of somebody's own need not have them
        give_back(permit)
        if passes_through(trouble):
            raise
    else:
        settle(permit, code, details, trailing, timeout, error)


def give_back(permit: Permit) -> None:
    """Settle a permit from which nothing was learned."""
    try:
        permit.settle(_IGNORED)
    except Exception as error:  # noqa: BLE001 - see rule 5
        report(error, "giving a permit back failed")


def answered(permit: Permit) -> None:
    """Count the first answer of a stream."""
    try:
        permit.answered()
    except Exception as error:  # noqa: BLE001 - see rule 5
        report(error, "counting the first answer of a stream failed; its final status counts")


def _incident(code: grpc.StatusCode, details: str) -> float | None:
    """For how long others belong to the incident of a failure; see `Permit.settle`.

    A connection that is lost fails every call on it at once, and for a moment those that come while another is made. A
    server or proxy that is gone for its clients fails calls that are in flight together, but each call after it anew.
    """
    if code in _LOSES_CALLS and _LOST_CONNECTION.search(details):
        return _RECONNECTING
    alone = code not in _LOSES_CALLS or code is grpc.StatusCode.INTERNAL or _ATTEMPT_HUNG in details
    return None if alone else 0.0


def _counts_once(details: str, stream: bool) -> bool:
    """Whether the incident of a failure says nothing about how calls are served; see `Permit.settle`."""
    words = _ENDED_TOGETHER.search(details) if stream else _UNPROCESSED.match(details)
    return words is not None


def telling_words(status: str, details: str) -> str:
    """What of a failure's details says more than its status does; made of grpcio's own words and of nothing else.

    They say that there was no connection, that one was lost, that the server never took the call up, or that no try was
    answered; see `settle`.
    """
    code = getattr(grpc.StatusCode, status, None)
    if code not in _LOSES_CALLS:
        return ""
    lost = _UNPROCESSED.match(details) or _ENDED_TOGETHER.search(details) or _LOST_CONNECTION.search(details)
    words = [it for it in _NO_CONNECTION if details.startswith(it)]
    words += [] if lost is None else [lost[0]]
    words += [_ATTEMPT_HUNG] if _ATTEMPT_HUNG in details else []
    return "; ".join(words)


def own_cancellation(code: Any, details: Any) -> bool:
    """Whether a status says that this side cancelled the call."""
    return code is grpc.StatusCode.CANCELLED and _OWN_CANCELLATION.search(str(details)) is not None


def write_failed(code: Any, details: Any) -> bool:
    """Whether a status is the one that grpcio makes of a request that could not be written."""
    return code is grpc.StatusCode.INTERNAL and details == _WRITE_FAILED


def verdict(
    policy: BreakerPolicy,
    code: grpc.StatusCode,
    details: str,
    elapsed: float,
    timeout: float | None,
    trailing_metadata: Any = (),
    stream: bool = False,
    was_answered: bool = False,
) -> Outcome:
    """What a status says about the server; `was_answered`: of a stream, whether it had an answer before."""
    if policy.verdicts is not None:
        if trailing_metadata and (by_reason := policy.verdicts_by_reason):
            for reason in error_reasons(trailing_metadata):
                if reason in by_reason:
                    return by_reason[reason]
        if code.name in policy.verdicts:
            return policy.verdicts[code.name]
    stayed = stream and elapsed > policy.window_seconds
    if stayed and _ends_as_on_good_days(code, details, was_answered):
        return Outcome.IGNORED
    if _had_no_time(policy, code, elapsed, timeout) or made_locally(code, details):
        return Outcome.IGNORED
    proxy = _HTTP_STATUS.search(details)
    if proxy is not None:
        return Outcome.IGNORED if proxy[1] in _ABOUT_THE_REQUEST else Outcome.FAILURE
    return _VERDICTS[code]


def _ends_as_on_good_days(code: grpc.StatusCode, details: str, was_answered: bool) -> bool:
    """Whether long streams end like this where all is well, too: they are cut, or their deadline has passed."""
    if was_answered:
        return code is grpc.StatusCode.DEADLINE_EXCEEDED or _incident(code, details) is not None
    return code in _LOSES_CALLS and _ENDED_TOGETHER.search(details) is not None


def _had_no_time(policy: BreakerPolicy, code: grpc.StatusCode, elapsed: float, timeout: float | None) -> bool:
    """Whether the deadline of a call was too short to say anything about the server."""
    if code is not grpc.StatusCode.DEADLINE_EXCEEDED or timeout is None:
        return False
    never_sent = not 0 < timeout <= _LONGEST_TIMEOUT  # nor NaN
    return never_sent or (timeout < policy.minimum_deadline and elapsed >= timeout)


def made_locally(code: grpc.StatusCode, details: str) -> bool:
    """Whether a status was made on the client's side, and says nothing about the server."""
    too_large = code is grpc.StatusCode.RESOURCE_EXHAUSTED and (
        _TOO_LARGE in details or details.startswith(_TOO_MUCH_METADATA)
    )
    no_credentials = code in _NO_CREDENTIALS and details.startswith(_NO_CREDENTIALS[code])
    own = own_cancellation(code, details)
    return (
        own or too_large or no_credentials or details in _MADE_LOCALLY.get(code, ()) or details.startswith(_NO_CHANNEL)
    )
