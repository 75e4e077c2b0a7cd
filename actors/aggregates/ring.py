"""Rings of aggregates whose handlers wait for each other, so that none of them would ever answer."""

from typing import TYPE_CHECKING, Any

import attrs

from ..future import TrioFuture

if TYPE_CHECKING:
    from .aggregate_actor import AggregateActor


@attrs.frozen
class Question:
    """What a handler asked another aggregate last. It may wait for the answer, or go on."""

    to: "AggregateActor"
    answer: TrioFuture[Any]


def ring_through(asked: "AggregateActor", asking: "AggregateActor") -> list[str]:
    """The streams of a ring: those from `asked` to `asking` if each one's handler waits for the next; else empty."""
    ring = [asked]
    while ring[-1] is not asking:
        question, task = ring[-1].question, ring[-1].task
        if question is None or task is None or not question.answer.is_awaited_by(task):
            return []
        assert question.to not in ring, "a ring is refused before it is one"
        ring.append(question.to)
    return [actor.stream for actor in ring]
