"""Delivering the events of a breaker: each once, in order, by one thread at a time.

The events are those of its generations, so their order is the order of the chain. The caller that changed the state
walks along the chain and delivers what was not delivered yet. A caller that meets a generation whose event another one
is delivering leaves, because that one looks for a successor when it is done; so does a listener that causes the next
event, which therefore comes after the one it is handling, not inside it.

Who delivers an event has *claimed* its generation. A claim is a weak reference to an object that lives only while its
claimer is inside the loop below: it ends however that ends, returning, raising, or interrupted at any line. The next
caller finds a reference to nothing and claims the generation itself. So no exception leaves an event, or those after
it, undelivered for longer than until the next change. What it can cost is one event that a listener does not receive,
or receives twice. A listener that never returns keeps its own caller, and later events wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any
from weakref import ref

from grpc_breaker._core.events import Listeners, StateChange, deliver
from grpc_breaker._core.generation import Generation

Claim = ref[deque[Any]]


def deliver_from(
    generation: Generation, lists: Iterable[Listeners[StateChange]]
) -> tuple[Generation, BaseException | None]:
    """Deliver every event from this generation on, unless another caller is doing it.

    Returns:
        Where to begin the next time, because everything before it has been delivered; and what to raise: the first
        that a listener raised and that is no `Exception`, or that passed through.
    """
    passing: BaseException | None = None
    for claim in _one_claim():
        while generation.event is None or _claimed(generation, claim):
            event = generation.event
            if event is not None:
                try:
                    deliver(lists, event)
                except BaseException as error:  # noqa: BLE001 - raised by the caller
                    passing = passing or error
                finally:
                    generation.event = None
                    generation.claims = {}
            if not generation.successor:
                break
            generation = generation.successor[0]
    return generation, passing


def _one_claim() -> Iterator[Claim]:
    """A claim that lives as long as the loop over it.

    It refers to what the loop iterates over, which no variable holds: a traceback keeps the variables of its frames,
    but not what their loops were iterating over.
    """
    claimer: deque[Any] = deque()
    claimer.append(ref(claimer))
    return iter(claimer)


def _claimed(generation: Generation, claim: Claim) -> bool:
    """Claim a generation; false if another caller has claimed it and is still there.

    A claim is never taken away, because two callers might do that at once; the next one is made beside it.
    """
    for attempt in count():
        held = generation.claims.setdefault(attempt, claim)
        if held is claim:
            return True
        if held() is not None:  # pragma: no branch - else an interrupted one; see tests/model/test_interrupts.py
            return False
    raise AssertionError  # pragma: no cover - `count` does not end
