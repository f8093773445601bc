"""A bulkhead: how many calls are in flight at once, and what gives a place back."""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc
import pytest

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    BulkheadFullError,
    CallRefusedError,
    CircuitBreaker,
    MethodPolicy,
    Permit,
    RefusalReason,
    State,
)
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.support.core import WATCHED
from tests.support.decisions import METHOD, Guarded, quick
from tests.support.lines import lines_run


def limited(most: int = 2, *, streams: bool = False, **breaker: object) -> Guarded:
    """A method with a bulkhead."""
    policy = MethodPolicy(breaker=quick(**breaker), max_concurrent_calls=most, bulkhead_streams=streams)
    return Guarded(policy)


def test_call_above_the_limit_is_refused_at_once() -> None:
    """As many calls as the limit are admitted, and one more is refused."""
    method = limited(2)
    assert method.passed(3) == 2
    assert isinstance(method.refusal(), BulkheadFullError)


def test_refusal_says_what_was_full() -> None:
    """The refusal names the bulkhead, its size and the method; a call may pass at any moment."""
    method = limited(2)
    method.passed(2)
    error = method.refusal()
    assert error is not None
    assert (error.reason, error.state, error.condition) == (RefusalReason.BULKHEAD, State.CLOSED, None)
    assert (error.retry_after, error.method, error.breaker) == (0.0, METHOD, METHOD)
    assert str(error) == "bulkhead full for pkg.S/M; 2 calls in flight"


def test_refusal_of_a_bulkhead_for_one_says_call() -> None:
    """One call is no "calls"."""
    method = limited(1)
    method.passed(1)
    assert str(method.refusal()) == "bulkhead full for pkg.S/M; 1 call in flight"


def test_refusal_says_the_state_of_now() -> None:
    """Each refused call is told the state in which it came."""
    method = limited(1)
    method.passed(1)
    states = []
    for command in (method.breaker.reset, method.breaker.disable, method.breaker.reset):
        command()
        error = method.refusal()
        assert error is not None
        states.append(error.state)
    assert states == [State.CLOSED, State.DISABLED, State.CLOSED]


def test_refusal_is_unavailable() -> None:
    """A refused RPC would show UNAVAILABLE."""
    method = limited(1)
    method.passed(1)
    recorder = EventRecorder(method.breakers)
    method.refusal()
    (rejection,) = recorder.rejections
    assert grpc.StatusCode[rejection.code] is grpc.StatusCode.UNAVAILABLE
    assert (rejection.reason, rejection.enforced, rejection.probes) == ("bulkhead", True, 0)


def test_refusals_are_counted_by_their_reason() -> None:
    """What the bulkhead refused is counted as its refusals, and enters no window."""
    method = limited(1)
    method.passed(4)
    assert method.breaker.tallies() == {("rejected", "bulkhead"): 3}
    snapshot = method.breaker.snapshot()
    assert (snapshot["window"]["calls"], snapshot["totals"]["rejected"]) == (0, 3)


def leave(permit: Permit, error: BaseException | None) -> None:
    """Leave the block of a permit, by an exception or without."""
    try:
        with permit:
            if error is not None:
                raise error
    except BaseException:
        pass


ENDINGS: dict[str, Callable[[Permit], object]] = {
    "success": Permit.success,
    "failure": Permit.failure,
    "ignored": Permit.ignore,
    "a block that ends": lambda permit: leave(permit, None),
    "a block that raises": lambda permit: leave(permit, LookupError()),
    "a block that is interrupted": lambda permit: leave(permit, KeyboardInterrupt()),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_every_ending_frees_the_place(how: str) -> None:
    """However a call ends, the next one has its place."""
    method = limited(1, consecutive_failures=10)
    permit = method.admit()
    assert method.refusal()
    ENDINGS[how](permit)
    assert method.refusal() is None


def test_end_of_a_lease_frees_the_place() -> None:
    """A call that nobody ends has its place until its lease is over: five seconds after its deadline."""
    method = limited(1)
    method.admit(timeout=1)
    method.clock.advance(5.5)
    assert method.refusal()
    method.clock.advance(0.5)
    assert method.refusal()  # noticed within a second
    method.clock.advance(0.5)
    assert method.refusal() is None


def test_place_is_freed_once() -> None:
    """A call that is ended twice frees one place."""
    method = limited(2)
    first, _ = method.admit(), method.admit()
    first.success()
    first.success()
    assert method.passed(2) == 1


def test_late_end_of_a_call_whose_lease_is_over_frees_nothing() -> None:
    """A place that was taken again is not freed by the call that had it before."""
    method = limited(1)
    lost = method.admit(timeout=1)
    method.clock.advance(6)
    method.admit()
    assert lost.success()
    assert method.refusal()


def test_streams_are_not_limited() -> None:
    """Streams pass a full bulkhead, and any number of them."""
    method = limited(1)
    method.admit()
    for _ in range(5):
        method.admit(timed=False)
    assert method.breaker.in_flight == 6


def test_streams_take_no_place() -> None:
    """Calls pass beside streams until there are as many of them as the limit."""
    method = limited(2)
    method.succeed()
    for _ in range(5):
        method.admit(timed=False)
    assert method.passed(3) == 2


def test_streams_that_have_been_there_for_long_take_no_place() -> None:
    """A stream that is older than the calls beside it takes no place either, however long it lives."""
    method = limited(2)
    method.admit(timed=False)
    method.admit()
    method.clock.advance(60)
    method.breaker.snapshot()  # looks at all calls in flight
    assert method.passed(2) == 1


def test_streams_that_were_there_before_the_bulkhead_take_no_place() -> None:
    """A bulkhead that comes into force counts no stream that was admitted before."""
    method = Guarded(MethodPolicy())
    method.succeed()
    for _ in range(3):
        method.admit(timed=False)
    method.breakers.reconfigure({"pkg.S": MethodPolicy(max_concurrent_calls=2)}, default=None)
    assert method.passed(3) == 2


def test_streams_count_where_they_are_to() -> None:
    """With `bulkhead_streams` streams take places, and are refused where there is none."""
    method = limited(2, streams=True)
    method.admit(timed=False)
    method.admit()
    assert isinstance(method.refusal(timed=False), BulkheadFullError)
    assert isinstance(method.refusal(), BulkheadFullError)


def test_methods_of_a_group_share_the_places() -> None:
    """A group has one bulkhead, whose calls and streams are told apart."""
    policy = MethodPolicy(breaker=BreakerPolicy(group="shared"), max_concurrent_calls=2)
    breakers = BreakerRegistry({"pkg.S/Ask": policy, "pkg.S/Watch": policy}, clock=FakeClock())
    ask, watch = breakers.breaker_for("/pkg.S/Ask"), breakers.breaker_for("/pkg.S/Watch")
    assert ask is watch is not None
    for _ in range(3):
        watch.admit("pkg.S/Watch", timed=False)
    ask.admit("pkg.S/Ask").success()
    watch.admit("pkg.S/Watch")
    ask.admit("pkg.S/Ask")
    with pytest.raises(BulkheadFullError, match=r"bulkhead full for pkg\.S/Ask; 2 calls in flight"):
        ask.admit("pkg.S/Ask")


def test_methods_of_a_service_have_places_of_their_own() -> None:
    """A policy for a service is a bulkhead for each method."""
    method = limited(1)
    method.admit()
    assert method.breakers["pkg.S/Other"].admit()


def test_smaller_bulkhead_waits_for_nobody() -> None:
    """Calls that are in flight when the limit shrinks go on; none comes in until they are fewer than the new limit."""
    method = limited(3)
    permits = [method.admit() for _ in range(3)]
    method.breakers.reconfigure({"pkg.S": MethodPolicy(max_concurrent_calls=1)}, default=None)
    assert [permit.settled for permit in permits] == [False] * 3
    for permit in permits:
        assert method.refusal()
        permit.success()
    assert method.passed(2) == 1


def test_larger_bulkhead_is_there_at_once() -> None:
    """After the limit has grown, the next calls pass."""
    method = limited(1)
    method.admit()
    method.breakers.reconfigure({"pkg.S": MethodPolicy(max_concurrent_calls=3)}, default=None)
    assert method.passed(5) == 2


def test_bulkhead_can_be_taken_away() -> None:
    """Without a limit any number of calls passes again."""
    method = limited(1)
    method.breakers.reconfigure({"pkg.S": BreakerPolicy()}, default=None)
    assert method.passed(50) == 50
    assert method.breaker.snapshot()["limits"] is None


def test_hung_calls_keep_their_places() -> None:
    """A call that was counted as hung still occupies a worker, so it keeps its place until it ends."""
    method = limited(2, consecutive_failures=5, hung_after=3)
    hung = method.admit()
    method.clock.advance(4)
    method.admit()
    assert isinstance(method.refusal(), BulkheadFullError)
    assert method.breaker.snapshot()["hung"] == 1
    hung.success()
    assert method.refusal() is None


def test_probes_have_places_like_all_calls() -> None:
    """A half-open breaker behind a full bulkhead admits no probe, and one as soon as there is a place."""
    method = limited(1)
    stuck = method.admit()
    method.breaker.force_open()
    method.breaker.reset()
    method.clock.advance(1)
    stuck.success()
    method.fail()
    method.clock.advance(10)
    probe = method.admit()
    assert probe.is_probe
    assert str(method.refusal()) == "circuit breaker half_open for pkg.S/M; 1 probe in flight"


def test_disabled_breaker_keeps_its_bulkhead() -> None:
    """What an operator has disabled is the breaker, not the bulkhead."""
    method = limited(1)
    method.breaker.disable()
    assert method.passed(2) == 1


@pytest.mark.parametrize("streams", [0, 3])
def test_never_more_than_the_limit_in_flight(streams: int) -> None:
    """A hundred threads that call at once never have more calls in flight than the limit."""
    most, threads = 3, 100
    breakers = BreakerRegistry({"pkg.S": MethodPolicy(breaker=None, max_concurrent_calls=most)})
    breaker = breakers[METHOD]
    for _ in range(streams):
        breaker.admit(timed=False)
    ready, inside, seen = threading.Barrier(threads), [0], []
    lock = threading.Lock()

    def calls() -> None:
        ready.wait()
        for _ in range(50):
            try:
                permit = breaker.admit()
            except CallRefusedError:
                continue
            with lock:
                inside[0] += 1
                seen.append(inside[0])
            with lock:
                inside[0] -= 1
            permit.success()

    workers = [threading.Thread(target=calls) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert max(seen) <= most
    assert breaker.in_flight == streams
    tallies = breaker.tallies()
    assert tallies["success", "OK"] + tallies.get(("rejected", "bulkhead"), 0) == threads * 50


def test_breaker_that_is_full_is_not_looked_at_call_by_call() -> None:
    """A refusal costs the same whether ten calls are in flight or a thousand."""

    def cost(most: int) -> int:
        method = limited(most)
        method.passed(most)
        breaker: CircuitBreaker = method.breaker
        breaker.try_admit()
        return sum(lines_run(WATCHED, breaker.try_admit).values())

    assert cost(10) == cost(1000)
