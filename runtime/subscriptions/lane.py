"""A lane: what a durable subscription has open of one stream, in order; only the first of it may be handed out."""

from collections import deque
from typing import Final

import attrs

from ...storage.record import StoredEvent

LANE_EVENTS_MAX: Final = 50
"""Events of one stream that are held in memory; the rest is read again when its turn comes."""


@attrs.define(eq=False)
class Held:
    """An event in memory that is not done."""

    event: StoredEvent
    was_parked: bool = False
    """It was parked, and is on the control board as such until it is done."""
    attempts: int = 0
    """How often it was handed out and failed."""


@attrs.frozen
class Rest:
    """Where the events of a stream begin that are found and not held."""

    position: int
    version: int

    @classmethod
    def at(cls, event: StoredEvent) -> "Rest":
        """From this event on."""
        return cls(event.position, event.version)


@attrs.define(eq=False)
class Lane:
    """The open events of `stream`: those that are `held`, then those `parked` ones that are retried, then the `rest`.

    Whatever becomes of the first one, the others take a few dozen events of memory at most, and the place where a
    restart goes on is one position.
    """

    stream: str
    held: deque[Held] = attrs.field(factory=deque)
    parked: deque[int] = attrs.field(factory=deque)
    """Positions."""
    rest: Rest | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is open."""
        return not (self.held or self.parked or self.rest)

    @property
    def pending(self) -> int | None:
        """The position of its first event that is neither done nor on the control board as parked."""
        for held in self.held:
            if not held.was_parked:
                return held.event.position
        return None if self.rest is None else self.rest.position

    def admits(self, event: StoredEvent) -> bool:
        """Whether the next event of the stream can be held; otherwise it is part of the rest from here on."""
        if self.rest is None and not self.parked and len(self.held) < LANE_EVENTS_MAX:
            return True
        self.rest = self.rest or Rest.at(event)
        return False

    def shorten(self) -> int:
        """Hold the first event alone, since it takes its time; returns how many are held no longer."""
        count = len(self.held) - 1
        while len(self.held) > 1:
            last = self.held.pop()
            if last.was_parked:
                self.parked.appendleft(last.event.position)
            else:
                self.rest = Rest.at(last.event)
        return count
