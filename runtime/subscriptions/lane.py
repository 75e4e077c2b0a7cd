"""A lane: the unfinished events of one stream in a durable subscription, in order; only the first may be handed out."""

from collections import deque
from typing import Final

import attrs

from ...storage.record import StoredEvent

LANE_EVENTS_MAX: Final = 50
"""The most events of one stream in memory; the rest is read again when its turn comes."""


@attrs.define(eq=False)
class Held:
    """An event in memory that is not done."""

    event: StoredEvent
    was_parked: bool = False
    """Whether it was parked; the control board keeps it as parked until it is done."""
    attempts: int = 0
    """How often it was handed out and failed."""


@attrs.frozen
class Rest:
    """The beginning of a stream's found events that are not held in memory."""

    position: int
    version: int

    @classmethod
    def at(cls, event: StoredEvent) -> "Rest":
        """The rest from this event on."""
        return cls(event.position, event.version)


@attrs.define(eq=False)
class Lane:
    """The unfinished events of `stream`: those that are `held`, then the `parked` ones to retry, then the `rest`.

    Even while the first event is stuck, the others take a few dozen events of memory at most, and a restart goes on
    from one position.
    """

    stream: str
    held: deque[Held] = attrs.field(factory=deque)
    parked: deque[int] = attrs.field(factory=deque)
    """Their positions."""
    rest: Rest | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the lane has no unfinished event."""
        return not (self.held or self.parked or self.rest)

    @property
    def pending(self) -> int | None:
        """The position of its first event that is neither done nor on the control board as parked."""
        for held in self.held:
            if not held.was_parked:
                return held.event.position
        return None if self.rest is None else self.rest.position

    def admits(self, event: StoredEvent) -> bool:
        """Whether the next event of the stream can be held in memory; otherwise it becomes part of the rest."""
        if self.rest is None and not self.parked and len(self.held) < LANE_EVENTS_MAX:
            return True
        self.rest = self.rest or Rest.at(event)
        return False

    def shorten(self) -> int:
        """Hold only the first event, since it takes its time; returns how many are no longer held."""
        count = len(self.held) - 1
        while len(self.held) > 1:
            last = self.held.pop()
            if last.was_parked:
                self.parked.appendleft(last.event.position)
            else:
                self.rest = Rest.at(last.event)
        return count
