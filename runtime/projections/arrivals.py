"""Records when events arrived, which tells how long the oldest event that a view has not seen has waited."""

import bisect
from collections.abc import Callable
from operator import itemgetter
from typing import Final

import trio

from ...storage.record import NS_PER_SECOND
from ...storage.store import EventReader

ARRIVALS_MAX: Final = 1_024
"""The most moments that are kept. Beyond that, neighbours merge, as if the later had come with the earlier."""


class Arrivals:
    """Records the growth of the log by trio's clock; events from before the opening are dated by their stored time.

    The stored times of new events say little about their waits: an import keeps old times, and a clock may be set. Call
    `note` whenever the log has grown. Any thread may ask.
    """

    def __init__(self, store: EventReader, wall_clock: Callable[[], int]) -> None:
        self._store = store
        self._wall_clock = wall_clock
        self._clock = trio.lowlevel.current_clock()
        self._first_position = self._last_position = store.last_position
        self._began = self._clock.current_time()
        self._moments: list[tuple[int, float]] = []
        """(position that the log had reached, time). Appended to in place, otherwise replaced as a whole."""

    def __len__(self) -> int:
        """How many moments are kept."""
        return len(self._moments)

    def note(self) -> None:
        """Take note that the log may have grown."""
        position = self._store.last_position
        if position <= self._last_position:
            return
        self._last_position = position
        self._moments.append((position, self._clock.current_time()))
        if len(self._moments) > ARRIVALS_MAX:
            # The newest stays as it is; the others are merged in pairs.
            *older, newest = self._moments
            pairs = zip(older[::2], older[1::2], strict=False)
            self._moments = [(position, came) for (_, came), (position, _) in pairs] + [newest]

    def time_of(self, position: int) -> float:
        """When the stored event at a position arrived, in seconds of trio's clock."""
        now, moments = self._clock.current_time(), self._moments
        if position <= self._first_position:
            age_seconds = (self._wall_clock() - self._store.time_at(position)) / NS_PER_SECOND
            return min(now - age_seconds, self._began)
        found = bisect.bisect_left(moments, position, key=itemgetter(0))
        return moments[found][1] if found < len(moments) else now

    def waited_seconds(self, position: int) -> float:
        """How many seconds the event after `position` has waited; 0 where there is none."""
        if position >= self._store.last_position:
            return 0.0
        return max(self._clock.current_time() - self.time_of(position + 1), 0.0)

    def drop_through(self, position: int) -> None:
        """Drop the moments before `position`, which no caller asks for any more."""
        self._moments = self._moments[bisect.bisect_left(self._moments, position, key=itemgetter(0)) :]
