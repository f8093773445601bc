"""Scenes for `test_interleavings.py`: a breaker, the threads that use it at once, and what must hold afterwards.

What holds in any interleaving is asserted always: settled once, never more probes than the limit, only legal changes, each
event once and in order, and a breaker that recovers. Counts are kept by additions, which are whole lines but several
instructions; so exact counts are asked for (`Scene.exact`) only where threads switch between lines, as CPython does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CircuitBreaker,
    MethodPolicy,
    Outcome,
    Permit,
    RateLimit,
    RefusalReason,
    Rejection,
    State,
    StateChange,
)
from grpc_breaker._core.fallback import LastGood
from grpc_breaker._core.last_good import LastGoodAnswers
from grpc_breaker._core.traffic import TrafficQueue
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.support.transitions import check_events

METHOD = "pkg.S/Scene"


class Scene:
    """A breaker, the threads that use it, and what must hold afterwards."""

    def __init__(self, limits: dict[str, Any] | None = None, **policy: Any) -> None:
        rules = {"consecutive_failures": 1, "half_open_max_calls": 1, "reset_timeout": 5.0, "reset_timeout_jitter": 0.0}
        self.policy = BreakerPolicy(**{**rules, **policy})
        self.clock = FakeClock()
        self.breakers = BreakerRegistry(
            {METHOD: MethodPolicy(breaker=self.policy, **(limits or {}))}, clock=self.clock, random=lambda: 0.99
        )
        self.breaker = self.breakers[METHOD]
        self.events = EventRecorder(self.breaker)
        self.actors: list[Callable[[], object]] = []
        self.outstanding: list[Permit] = []
        """Permits that the scene itself has admitted and leaves out."""
        self.leases_end = False
        """Whether leases end in the middle, so that permits that were handed out may be out no more."""
        self.exact = True
        """Whether threads switch between lines only, so that additions are not torn."""
        self.judge: Callable[[list[Any]], object] = lambda results: None

    def open_and_wait(self) -> None:
        """Open the breaker, and let its open period pass."""
        self.breaker.admit().failure()
        self.clock.advance(5)

    def totals(self) -> dict[str, int]:
        """How many calls ended how."""
        counted: dict[str, int] = self.breaker.snapshot()["totals"]
        return counted

    def check(self, results: list[Any]) -> None:
        """What holds after every schedule."""
        breaker, changes = self.breaker, self.events.changes
        next_answer = breaker.try_admit()  # before anything is read: a call must find the state by itself
        if breaker.state in {State.OPEN, State.FORCED_OPEN}:
            assert not isinstance(next_answer, Permit), "a call passed an open breaker"
        results = [*results, next_answer]
        check_events(changes)
        assert [change.state for change in changes[-1:]] in ([], [breaker.state])
        out = [*self.outstanding, *(result for result in results if isinstance(result, Permit))]
        assert sum(permit.is_probe for permit in out) <= breaker.policy.half_open_max_calls
        assert breaker.in_flight == sum(not permit.settled for permit in out)
        assert self.leases_end or not any(permit.settled for permit in out)
        self.judge(results[:-1])
        for permit in out:
            assert permit.ignore() or self.leases_end
            assert not permit.ignore()
        assert breaker.in_flight == 0
        self.recover()

    def recover(self) -> None:
        """With a healthy server and calls that come, the breaker closes; then it opens and closes again."""
        if self.breaker.state in {State.FORCED_OPEN, State.DISABLED}:
            self.breaker.reset()
        for _ in range(20):
            if self.breaker.state is State.CLOSED:
                break
            self.clock.advance(self.policy.reset_timeout)
            self.breaker.admit().success()
        assert self.breaker.state is State.CLOSED
        self.breaker.reconfigure(self.policy)
        for _ in range(20):
            if self.breaker.state is not State.CLOSED:
                break
            self.breaker.admit().failure()
        assert self.breaker.state is State.OPEN
        check_events(self.events.changes)


def race_for_slots(threads: int, limit: int = 1) -> Scene:
    """Threads ask an open breaker whose period is over: as many probes as the limit pass, in any order."""
    scene = Scene(half_open_max_calls=limit)
    scene.open_and_wait()
    scene.actors = [scene.breaker.try_admit] * threads

    def judge(results: list[Any]) -> None:
        assert sum(isinstance(result, Permit) for result in results) == limit
        assert scene.events.states == [State.OPEN, State.HALF_OPEN]
        assert len(scene.events.rejections) == threads - limit + 1
        assert not scene.exact or scene.totals()["rejected"] == threads - limit + 1

    scene.judge = judge
    return scene


def probe_ends_as_others_ask(outcome: Outcome) -> Scene:
    """A probe ends while two calls ask for its slot: there is never more than one probe."""
    scene = Scene()
    scene.open_and_wait()
    probe = scene.breaker.admit()
    scene.actors = [scene.breaker.try_admit, lambda: probe.settle(outcome), scene.breaker.try_admit]

    def judge(results: list[Any]) -> None:
        passed = [result for result in results if isinstance(result, Permit)]
        if outcome is Outcome.SUCCESS:
            assert scene.breaker.state is State.CLOSED
        elif outcome is Outcome.FAILURE:
            assert (scene.breaker.state, len(passed) <= 1) == (State.OPEN, True)
        else:
            assert (scene.breaker.state, len(passed) <= 1) == (State.HALF_OPEN, True)

    scene.judge = judge
    return scene


def settled_twice(first: Outcome, second: Outcome, *, used: bool) -> Scene:
    """Two threads settle one permit, a callback and a finalizer: one of them does."""
    scene = Scene(consecutive_failures=2)
    if used:
        scene.breaker.admit().success()
    permit = scene.breaker.admit()
    scene.actors = [lambda: permit.settle(first), lambda: permit.settle(second)]

    def judge(results: list[Any]) -> None:
        assert sorted(results) == [False, True]
        totals = scene.totals()
        won = first if results[0] else second
        assert sum(totals.values()) == 1 + used
        assert totals[str(won)] == 1 + (used and won is Outcome.SUCCESS)

    scene.judge = judge
    return scene


def success_and_failure(*, used: bool, **conditions: Any) -> Scene:
    """A success and a failure that reaches the threshold, at once: it opens, and the success counts or is stale."""
    scene = Scene(**conditions)
    if used:
        scene.breaker.admit().success()
    good, bad = scene.breaker.admit(), scene.breaker.admit()
    scene.actors = [good.success, bad.failure]

    def judge(results: list[Any]) -> None:
        assert results == [True, True]
        if "failure_threshold" in conditions:  # a success that comes at once may end a row of failures
            assert scene.breaker.state is State.OPEN
        if scene.exact:
            totals = scene.totals()
            assert totals["success"] + totals["stale"] == 1 + used
            assert totals["failure"] == 1

    scene.judge = judge
    return scene


def two_successes_at_the_end_of_a_bucket() -> Scene:
    """Two successes as the window turns to its next bucket: both are in it."""
    scene = Scene()
    scene.breaker.admit().success()
    permits = scene.breaker.admit(), scene.breaker.admit()
    scene.clock.advance(4)
    scene.actors = [permits[0].success, permits[1].success]

    def judge(results: list[Any]) -> None:
        assert results == [True, True]
        if scene.exact:
            snapshot = scene.breaker.snapshot()
            assert snapshot["totals"]["success"] == 3
            assert snapshot["window"]["calls"] == 3

    scene.judge = judge
    return scene


def success_and_failure_beside_an_old_failure() -> Scene:
    """A success and a failure at once, with a failure in the window: both count, and the failures are not in a row."""
    scene = Scene(consecutive_failures=2, minimum_calls=10)
    scene.breaker.admit().failure()
    scene.breaker.admit().success()
    permits = [scene.breaker.admit() for _ in range(2)]
    scene.actors = [permits[0].success, permits[1].failure]

    def judge(results: list[Any]) -> None:
        assert scene.breaker.state is State.CLOSED
        if scene.exact:
            window = scene.breaker.snapshot()["window"]
            assert (window["calls"], window["failures"]) == (4, 2)
            assert window["consecutive_failures"] <= 1

    scene.judge = judge
    return scene


def successes_that_fill_the_window() -> Scene:
    """Successes that come at once and fill the window to `minimum_calls` open nothing."""
    scene = Scene(consecutive_failures=None, minimum_calls=4)
    for _ in range(2):
        scene.breaker.admit().failure()
    permits = [scene.breaker.admit() for _ in range(2)]
    scene.actors = [permits[0].success, permits[1].success]

    def judge(results: list[Any]) -> None:
        assert results == [True, True]
        assert scene.breaker.state is State.CLOSED
        assert not scene.exact or scene.breaker.snapshot()["window"]["calls"] == 4

    scene.judge = judge
    return scene


def failures_of_many_threads(threads: int) -> Scene:
    """Failures that come at once open it once: one is counted, or more; the others are stale."""
    scene = Scene(consecutive_failures=None, failure_threshold=1)
    permits = [scene.breaker.admit() for _ in range(threads)]
    scene.actors = [permit.failure for permit in permits]

    def judge(results: list[Any]) -> None:
        assert results == [True] * threads
        assert scene.events.states == [State.OPEN]
        if scene.exact:
            totals = scene.totals()
            assert totals["failure"] + totals["stale"] == threads

    scene.judge = judge
    return scene


def late_result_against_the_next_probe(outcome: Outcome) -> Scene:
    """An expired probe's result comes while its slot is given to the next: that one has it, and the result is stale."""
    scene = Scene(probe_timeout=3.0)
    scene.open_and_wait()
    lost = scene.breaker.admit()
    scene.clock.advance(3)
    scene.actors = [scene.breaker.try_admit, lambda: lost.settle(outcome)]

    def judge(results: list[Any]) -> None:
        assert isinstance(results[0], Permit)
        assert results[0].is_probe
        assert (scene.breaker.state, lost.is_probe) == (State.HALF_OPEN, False)
        totals = scene.totals()
        assert totals["stale"] == results[1]
        assert totals["failure"] + totals["success"] + totals["ignored"] == 1

    scene.judge = judge
    return scene


def lease_ends_as_the_result_comes(outcome: Outcome) -> Scene:
    """A probe's result comes while the clock passes the end of its lease: it counts as itself or as stale, once."""
    scene = Scene(probe_timeout=3.0)
    scene.open_and_wait()
    probe = scene.breaker.admit()

    def look() -> int:
        scene.clock.advance(3)
        return scene.breaker.in_flight

    scene.actors = [look, lambda: probe.settle(outcome)]

    def judge(results: list[Any]) -> None:
        assert results[0] == 0
        totals = scene.totals()
        failed = outcome is Outcome.FAILURE
        assert totals["stale"] + totals[str(outcome)] == results[1] + failed
        assert not (results[1] and probe.settle(outcome)), "settled twice"

    scene.judge = judge
    return scene


def lease_ends_as_others_ask() -> Scene:
    """The clock passes the end of every lease while two calls ask for a slot: each passes or is refused, whole."""
    scene = Scene(probe_timeout=3.0)
    scene.open_and_wait()

    def look() -> int:
        scene.clock.advance(3)
        return scene.breaker.in_flight

    scene.actors = [scene.breaker.try_admit, look, scene.breaker.try_admit]

    def judge(results: list[Any]) -> None:
        assert isinstance(results[1], int)
        assert scene.breaker.state is State.HALF_OPEN

    scene.judge = judge
    scene.leases_end = True
    return scene


def silent_stream_at_the_end_of_its_lease(*, ends: bool) -> Scene:
    """A call finds that a silent stream has stayed open, while another one finds it, too, or the stream fails: it closes the
    breaker once, or it is too late, and both calls pass.
    """
    scene = Scene(probe_timeout=3.0)
    scene.open_and_wait()
    stream = scene.breaker.admit(timed=False)
    scene.clock.advance(3)
    scene.actors = [scene.breaker.try_admit, stream.failure if ends else scene.breaker.try_admit]

    def judge(results: list[Any]) -> None:
        assert isinstance(results[0], Permit)
        assert ends or isinstance(results[1], Permit)
        assert scene.breaker.state is State.CLOSED or (ends and results[0].is_probe)
        assert scene.totals()["stale"] == (results[1] is True)

    scene.judge = judge
    scene.leases_end = True
    return scene


def two_probes(first: Outcome, second: Outcome) -> Scene:
    """The results of two probes come at once: two successes close, a failure opens, whichever comes first."""
    scene = Scene(half_open_max_calls=2)
    scene.open_and_wait()
    probes = scene.breaker.admit(), scene.breaker.admit()
    scene.actors = [lambda: probes[0].settle(first), lambda: probes[1].settle(second)]

    def judge(results: list[Any]) -> None:
        assert results == [True, True]
        if Outcome.FAILURE in {first, second}:
            assert scene.breaker.state is State.OPEN
        elif scene.exact:
            assert scene.breaker.state is State.CLOSED
        assert len(scene.events.changes) <= 3

    scene.judge = judge
    return scene


def answer_and_result(outcome: Outcome) -> Scene:
    """A stream's first answer and its final status at once: one success at most, and a failure is not lost."""
    scene = Scene(half_open_max_calls=2)
    scene.open_and_wait()
    probe = scene.breaker.admit()
    scene.actors = [probe.answered, lambda: probe.settle(outcome)]

    def judge(results: list[Any]) -> None:
        expected = State.OPEN if outcome is Outcome.FAILURE else State.HALF_OPEN
        assert (scene.breaker.state, results[1]) == (expected, True)
        if expected is State.HALF_OPEN:
            assert scene.breaker.snapshot()["window"]["calls"] <= 1

    scene.judge = judge
    return scene


def operator_against_traffic() -> Scene:
    """An operator forces it open while a probe ends and a call comes: it is forced open in the end."""
    scene = Scene()
    scene.open_and_wait()
    probe = scene.breaker.admit()
    scene.actors = [scene.breaker.force_open, probe.success, scene.breaker.try_admit]

    def judge(results: list[Any]) -> None:
        assert scene.breaker.state is State.FORCED_OPEN
        assert results[1]

    scene.judge = judge
    return scene


def hold_ends_as_others_ask() -> Scene:
    """A hold is over while calls ask, another looks, and an operator gives it more time: both calls agree with it."""
    scene = Scene()
    scene.breaker.force_open(ttl=2)
    scene.clock.advance(2)
    more = partial(scene.breaker.force_open, ttl=10)
    scene.actors = [scene.breaker.try_admit, scene.breaker.snapshot, more]

    def judge(results: list[Any]) -> None:
        assert scene.breaker.state is State.FORCED_OPEN
        assert scene.breaker.retry_after == 10
        assert scene.events.states == [State.FORCED_OPEN, State.CLOSED, State.FORCED_OPEN]
        assert isinstance(scene.breaker.try_admit(), Rejection)

    scene.judge = judge
    return scene


def hold_by_name_as_a_breaker_is_made() -> Scene:
    """A service is held while its first call comes: the breaker that the call makes is held, too."""
    scene = Scene()
    scene.actors = [
        partial(scene.breakers.breaker_for, "/pkg.S/New"),
        partial(scene.breakers.force_open, "pkg.S", ttl=10),
        partial(scene.breakers.breaker_for, "/pkg.S/New"),
    ]

    def judge(results: list[Any]) -> None:
        assert results[0] is results[2] is scene.breakers["pkg.S/New"]
        assert results[0].state is State.FORCED_OPEN

    scene.judge = judge
    return scene


def two_operators(first: str, second: str) -> Scene:
    """Two commands at once: both are carried out, one after the other."""
    scene = Scene()
    scene.actors = [getattr(scene.breaker, first), getattr(scene.breaker, second)]
    states = {"force_open": State.FORCED_OPEN, "disable": State.DISABLED, "reset": State.CLOSED}

    def judge(results: list[Any]) -> None:
        assert scene.breaker.state in {states[first], states[second]}
        assert {states[it] for it in (first, second) if it != "reset"} <= set(scene.events.states)

    scene.judge = judge
    return scene


def policy_against_traffic() -> Scene:
    """Another policy comes into force while a failure is judged and a call comes: nothing is lost."""
    scene = Scene(consecutive_failures=2)
    permit = scene.breaker.admit()
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=5, reset_timeout_jitter=0, window_calls=20)
    scene.actors = [lambda: scene.breaker.reconfigure(policy), permit.failure, scene.breaker.try_admit]

    def judge(results: list[Any]) -> None:
        assert scene.breaker.policy is policy
        assert results[1]
        assert scene.breaker.state in {State.CLOSED, State.OPEN}

    scene.judge = judge
    return scene


def snapshot_of_a_change() -> Scene:
    """A snapshot taken while another thread opens and forces the breaker is of one of its states, whole."""
    scene = Scene()
    permit = scene.breaker.admit()
    scene.actors = [scene.breaker.snapshot, lambda: (permit.failure(), scene.breaker.force_open())]

    def judge(results: list[Any]) -> None:
        picture = results[0]
        seen = tuple(picture[it] for it in ("state", "generation", "sequence", "reason", "retry_after"))
        assert seen in {
            ("closed", 0, 0, None, 0.0),
            ("open", 1, 1, "consecutive_failures", 5.0),
            ("forced_open", 2, 2, "forced_open", None),
        }

    scene.judge = judge
    return scene


def listener_that_causes_changes() -> Scene:
    """A listener resets what one thread forces open while another disables it: every event comes once and in order."""
    scene = Scene()
    nested: list[int] = []

    def listener(change: StateChange) -> None:
        nested.append(change.sequence)
        if change.state is State.FORCED_OPEN:
            scene.breaker.reset()
        assert nested.pop() == change.sequence

    scene.breaker.on_state_change(listener)
    scene.actors = [scene.breaker.force_open, scene.breaker.disable]

    def judge(results: list[Any]) -> None:
        assert {State.FORCED_OPEN, State.DISABLED} <= set(scene.events.states)
        assert nested == []

    scene.judge = judge
    return scene


def call_of_a_breaker_that_is_evicted() -> Scene:
    """A call finds its breaker while another name evicts it: the call is counted, and operators find the breaker that calls do."""
    scene = Scene()
    breakers = BreakerRegistry(default=scene.policy, max_breakers=1, clock=scene.clock)
    breakers["pkg.S/A"].admit().success()

    def call(name: str) -> CircuitBreaker:
        breaker = breakers.breaker_for(f"/{name}")
        assert breaker is not None
        breaker.admit().success()
        return breaker

    scene.actors = [lambda: call("pkg.S/A"), lambda: call("pkg.S/B"), lambda: call("pkg.S/A")]

    def judge(results: list[Any]) -> None:
        assert all(breakers[it.name] is breakers.breaker_for(f"/{it.name}") for it in results)
        assert [it.name for it in results] == ["pkg.S/A", "pkg.S/B", "pkg.S/A"]
        assert not scene.exact or sum(calls for *_, calls in breakers.counts.tallies()) == 4

    scene.judge = judge
    return scene


OUTCOMES = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED)
THRESHOLD = {"consecutive_failures": None, "failure_threshold": 1}


def answers_kept_at_once(kept: str, beside: str) -> Scene:
    """Threads keep answers in a cache that is full: it stays within its bounds, and counts what it holds."""
    scene = Scene()
    answers = LastGoodAnswers(LastGood(max_entries=2, max_bytes=100), scene.clock)
    for key in ("a", "b"):
        answers.keep(key.encode(), "old", 9)
    scene.actors = [
        lambda: answers.keep(kept.encode(), "new", 39),
        lambda: answers.keep(beside.encode(), "new", 29),
        lambda: answers.find(b"b"),
    ]

    def judge(results: list[Any]) -> None:
        assert results[2] in ({"old", "new", None} if {kept, beside} - {"a", "b"} else {"old", "new"})
        assert len(answers) <= 2
        assert answers.bytes <= 100 or not scene.exact
        left = answers.bytes
        for key in (b"a", b"b", b"c", b"d"):
            if answers.find(key) is not None:
                answers.keep(key, "empty", 0)  # counts for its key alone
        assert answers.bytes == len(answers) or not scene.exact, left

    scene.judge = judge
    return scene


def race_for_places(threads: int, most: int, *, streams: int = 0, open_before: bool = False) -> Scene:
    """Threads ask for the last places of a bulkhead: as many pass as there are, and streams take none."""
    limits = {"max_concurrent_calls": most, "rate_limit": RateLimit(0.001, burst=50)}
    scene = Scene(limits, half_open_max_calls=most)
    if open_before:
        scene.open_and_wait()
    scene.outstanding = [scene.breaker.admit(timed=False) for _ in range(streams)]
    scene.actors = [scene.breaker.try_admit] * threads

    def judge(results: list[Any]) -> None:
        assert sum(isinstance(result, Permit) for result in results) == most
        refused = [result for result in results if isinstance(result, Rejection)]
        allowed = {RefusalReason.BULKHEAD, RefusalReason.BREAKER} if open_before else {RefusalReason.BULKHEAD}
        assert {rejection.reason for rejection in refused} <= allowed

    scene.judge = judge
    return scene


def race_for_the_rate() -> Scene:
    """Threads that lose the race for a probe's slot take nothing from the rate limit."""
    scene = Scene({"rate_limit": RateLimit(0.001, burst=4)})
    scene.open_and_wait()
    scene.actors = [scene.breaker.try_admit] * 2
    scene.leases_end = True  # the probe is ended below

    def judge(results: list[Any]) -> None:
        for result in results:
            if isinstance(result, Permit):
                result.success()
        assert scene.breaker.state is State.CLOSED
        left = 0
        while isinstance(answer := scene.breaker.try_admit(), Permit):
            answer.ignore()
            left += 1
        assert left >= 2  # the failure and the probe took two
        scene.breakers.reconfigure({METHOD: scene.policy})

    scene.judge = judge
    return scene


def hung_call_ends_as_others_ask(outcome: Outcome, failures: int) -> Scene:
    """A hung call ends while two calls ask: it counts as what it ended with, or as hung, and never as both."""
    scene = Scene(consecutive_failures=failures, hung_after=2.0)
    hung = scene.breaker.admit()
    scene.clock.advance(3)
    scene.actors = [scene.breaker.try_admit, lambda: hung.settle(outcome, "ENDED"), scene.breaker.try_admit]

    def judge(results: list[Any]) -> None:
        assert results[1]
        assert not hung.settle(outcome)
        if scene.exact:
            tallies = scene.breaker.tallies()
            counted = tallies.get((str(outcome), "ENDED"), 0)
            assert counted + tallies.get(("stale", "ENDED"), 0) == 1
            assert counted + tallies.get(("failure", "HUNG"), 0) <= 1
            assert scene.breaker.snapshot()["hung"] == 0

    scene.judge = judge
    return scene


def hung_calls_found_by_two() -> Scene:
    """Two calls find the same hung calls at once: each is one failure, and its place stays taken."""
    scene = Scene({"max_concurrent_calls": 4}, consecutive_failures=5, hung_after=2.0)
    scene.outstanding = [scene.breaker.admit(), scene.breaker.admit()]
    scene.clock.advance(3)
    scene.actors = [scene.breaker.try_admit] * 3

    def judge(results: list[Any]) -> None:
        assert sum(isinstance(result, Permit) for result in results) == 2
        if scene.exact:
            assert scene.breaker.tallies()["failure", "HUNG"] == 2

    scene.judge = judge
    return scene


def trial_of_an_open_breaker() -> Scene:
    """Where nothing is enforced every call passes, and one of them is the probe."""
    scene = Scene(enforcement_percentage=0)
    scene.open_and_wait()
    scene.actors = [scene.breaker.try_admit] * 3

    def judge(results: list[Any]) -> None:
        assert all(isinstance(result, Permit) for result in results)
        assert sum(result.is_probe for result in results) == 1
        assert scene.events.states == [State.OPEN, State.HALF_OPEN]

    scene.judge = judge
    return scene


def ramp_ends_as_others_ask() -> Scene:
    """A ramp is over while one call asks and an operator resets it: the call passes."""
    scene = Scene(ramp=5.0)
    scene.open_and_wait()
    scene.breaker.admit().success()
    scene.outstanding = [scene.breaker.admit()]
    scene.clock.advance(5)
    scene.actors = [scene.breaker.try_admit, scene.breaker.reset, scene.breaker.try_admit]

    def judge(results: list[Any]) -> None:
        assert isinstance(results[0], Permit)
        assert isinstance(results[2], Permit)
        assert scene.breaker.state is State.CLOSED

    scene.judge = judge
    return scene


def two_configurations() -> Scene:
    """Two configurations at once, and a call: one of the two is in force in the end, whole."""
    scene = Scene()
    wanted = {
        n: {METHOD: MethodPolicy(breaker=replace(scene.policy, reset_timeout=n), max_concurrent_calls=n)}
        for n in (1, 2)
    }

    def call() -> None:
        answer = scene.breaker.try_admit()
        if isinstance(answer, Permit):
            answer.success()

    scene.actors = [*(partial(scene.breakers.reconfigure, policies) for policies in wanted.values()), call]

    def judge(results: list[Any]) -> None:
        most = scene.breaker.snapshot()["limits"]["max_concurrent_calls"]
        assert scene.breaker.policy == wanted[most][METHOD].breaker
        assert scene.breakers["pkg.S/New"].policy == BreakerPolicy()
        assert scene.breakers.reconfigure(wanted[most]) == (), "another one than the registry says"
        scene.breakers.reconfigure({METHOD: scene.policy})

    scene.judge = judge
    return scene


def configuration_against_traffic(*, left_alone: bool) -> Scene:
    """A call finds its method while another configuration comes into force: the next one finds the new policy."""
    scene = Scene({"timeout": 1.0})
    policies = {} if left_alone else {METHOD: MethodPolicy(breaker=scene.policy, timeout=2.0)}

    def call() -> None:
        route = scene.breakers.route(f"/{METHOD}")
        if route is not None:
            answer = route[0].try_admit()
            if isinstance(answer, Permit):
                answer.success()

    scene.actors = [partial(scene.breakers.reconfigure, policies, default=None), call, call]

    def judge(results: list[Any]) -> None:
        route = scene.breakers.route(f"/{METHOD}")
        if left_alone:
            assert route is None
            assert list(scene.breakers) == []
        else:
            assert route is not None
            assert route[0] is scene.breaker
            assert route[2] is not None
            assert route[2].policy.timeout == 2.0

    scene.judge = judge
    return scene


def recording_begins(beside: str) -> Scene:
    """Recording begins while a breaker is made, a policy comes into force, the state changes, or a recording ends."""
    scene = Scene()
    queue, ending = TrafficQueue(scene.breakers, 10), TrafficQueue(scene.breakers, 10)
    if beside == "a recording ends":
        ending.open()
    others: dict[str, Callable[[], object]] = {
        "a breaker is made": partial(scene.breakers.breaker_for, METHOD, "new"),
        "a policy comes into force": partial(scene.breaker.reconfigure, replace(scene.policy, window_seconds=60.0)),
        "the state changes": scene.breaker.reset,
        "a recording ends": ending.close,
    }
    scene.actors = [queue.open, others[beside]]

    def judge(_: list[Any]) -> None:
        for breaker in scene.breakers:
            queue.take(10)
            breaker.admit("told").success()
            told = [call[3] for call in queue.take(10) if isinstance(call, tuple)]
            assert told == ["told"] or not scene.exact
        queue.close()
        for breaker in scene.breakers:
            breaker.admit("not told").success()
        assert not any(isinstance(call, tuple) for call in queue.take(10))

    scene.judge = judge
    return scene


SCENES: dict[str, Callable[[], Scene]] = {
    "two threads race for the slot": partial(race_for_slots, 2),
    "three threads race for the slot": partial(race_for_slots, 3),
    "three threads race for two slots": partial(race_for_slots, 3, 2),
    "success and failure": partial(success_and_failure, used=False, **THRESHOLD),
    "success and failure after a success": partial(success_and_failure, used=True, **THRESHOLD),
    "success and a failure in a row": partial(success_and_failure, used=True),
    "two successes as the window turns": two_successes_at_the_end_of_a_bucket,
    "success and failure beside an old failure": success_and_failure_beside_an_old_failure,
    "successes that fill the window": successes_that_fill_the_window,
    "failures of three threads": partial(failures_of_many_threads, 3),
    "lease ends as others ask": lease_ends_as_others_ask,
    **{
        f"silent stream{' fails' if ends else ''} at the end of its lease": partial(
            silent_stream_at_the_end_of_its_lease, ends=ends
        )
        for ends in (False, True)
    },
    "operator against traffic": operator_against_traffic,
    "policy against traffic": policy_against_traffic,
    "snapshot of a change": snapshot_of_a_change,
    "listener that causes changes": listener_that_causes_changes,
    "call of a breaker that is evicted": call_of_a_breaker_that_is_evicted,
    "two threads race for one place": partial(race_for_places, 2, 1),
    "three threads race for two places": partial(race_for_places, 3, 2),
    "two threads race for one place beside streams": partial(race_for_places, 2, 1, streams=2),
    "two threads race for one place and the slot": partial(race_for_places, 2, 1, open_before=True),
    "threads race for the slot and the rate": race_for_the_rate,
    **{
        f"hung call ends with {o} as others ask, of {n}": partial(hung_call_ends_as_others_ask, o, n)
        for o, n in product(OUTCOMES, (1, 5))
    },
    "hung calls found by two": hung_calls_found_by_two,
    "trial of an open breaker": trial_of_an_open_breaker,
    "ramp ends as others ask": ramp_ends_as_others_ask,
    "two configurations": two_configurations,
    "hold ends as others ask": hold_ends_as_others_ask,
    **{
        f"recording begins as {it}": partial(recording_begins, it)
        for it in ("a breaker is made", "a policy comes into force", "the state changes", "a recording ends")
    },
    "hold by name as a breaker is made": hold_by_name_as_a_breaker_is_made,
    "configuration against traffic": partial(configuration_against_traffic, left_alone=False),
    "configuration against traffic, left alone": partial(configuration_against_traffic, left_alone=True),
    **{
        f"{a} and {b}": partial(two_operators, a, b)
        for a, b in (
            ("force_open", "disable"),
            ("force_open", "reset"),
            ("force_open", "force_open"),
            ("reset", "reset"),
        )
    },
    **{
        f"answers kept at once, {a} and {b}": partial(answers_kept_at_once, a, b)
        for a, b in (("a", "a"), ("a", "b"), ("c", "c"), ("b", "c"), ("c", "d"))
    },
    **{f"probe {o} as others ask": partial(probe_ends_as_others_ask, o) for o in OUTCOMES},
    **{f"late {o} against the next probe": partial(late_result_against_the_next_probe, o) for o in OUTCOMES},
    **{f"lease ends as {o} comes": partial(lease_ends_as_the_result_comes, o) for o in OUTCOMES},
    **{f"first answer and {o}": partial(answer_and_result, o) for o in OUTCOMES},
    **{f"probes {a} and {b}": partial(two_probes, a, b) for a, b in product(OUTCOMES[:2], repeat=2)},
    **{
        f"settled twice {a} {b} {'used' if used else 'new'}": partial(settled_twice, a, b, used=used)
        for a, b, used in product(OUTCOMES, OUTCOMES, (False, True))
    },
}
"""Every scene by name."""
