"""When events came, as far as a view has not seen them yet: how long the oldest of those has waited."""

import bisect
from collections.abc import Callable
from typing import Final

import trio

from ...storage.record import NS_PER_SECOND
from ...storage.store import EventReader

ARRIVALS_MAX: Final = 1_024
"""Moments that are kept; with more, neighbours become one, as if the later had come with the earlier."""


class Arrivals:
    """Watches the log grow, by the trio clock; what was there before is as old as the time that it was stored with.

    The times of events say little of how long they have waited: an import keeps those of long ago, and a clock may be
    set. `note` is to be called whenever the log has grown.
    """

    def __init__(self, store: EventReader, wall_clock: Callable[[], int]) -> None:
        self._store = store
        self._wall_clock = wall_clock
        self._first_position = self._last_position = store.last_position
        self._began = trio.current_time()
        self._through: list[int] = []
        self._times: list[float] = []

    def __len__(self) -> int:
        """How many moments are kept."""
        return len(self._times)

    def note(self) -> None:
        """The log may have grown."""
        position = self._store.last_position
        if position <= self._last_position:
            return
        self._last_position = position
        self._through.append(position)
        self._times.append(trio.current_time())
        if len(self._through) > ARRIVALS_MAX:
            del self._through[:-1:2], self._times[1::2]

    def time_of(self, position: int) -> float:
        """When the event at a position that is on disk came, in seconds of the trio clock."""
        if position <= self._first_position:
            age_seconds = (self._wall_clock() - self._store.time_at(position)) / NS_PER_SECOND
            return min(trio.current_time() - age_seconds, self._began)
        found = bisect.bisect_left(self._through, position)
        return self._times[found] if found < len(self._times) else trio.current_time()

    def waited_seconds(self, position: int) -> float:
        """How many seconds the event after `position` has waited; 0 where there is none."""
        if position >= self._store.last_position:
            return 0.0
        return max(trio.current_time() - self.time_of(position + 1), 0.0)

    def forget(self, position: int) -> None:
        """Nobody asks for an event up to this position any more."""
        done = bisect.bisect_left(self._through, position)
        del self._through[:done], self._times[:done]
