"""Admission to the journal: writes wait here while a view that may slow down writers is too far behind."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from ...storage.store import EventReader

if TYPE_CHECKING:
    from .journal import Write


class Admission:
    """Lets writes through, in order, while `admits` returns True. An `admits` of None lets every write through.

    `admits(reached_position, event_count)` tells whether `event_count` events may be added once the log has reached
    `reached_position`.
    """

    def __init__(self, store: EventReader, admit: "Callable[[Write], None]") -> None:
        self._store = store
        self._admit = admit
        self._held: deque[Write] = deque()
        self._held_count = self._released_count = 0
        self._released = trio.lowlevel.ParkingLot()
        self._under_way_events = 0
        self.admits: Callable[[int, int], bool] | None = None

    def __len__(self) -> int:
        """How many writes wait."""
        return len(self._held)

    def take(self, write: "Write") -> None:
        """Let a write through, or queue it behind the writes that wait already."""
        if self._held or not self._fits(write):
            self._held.append(write)
            self._held_count += 1
        else:
            self._under_way_events += write.event_count
            self._admit(write)

    def settled(self, write: "Write") -> None:
        """Note that a write that was let through is stored, or failed."""
        self._under_way_events -= write.event_count

    def release(self) -> None:
        """Let through the waiting writes that fit now."""
        while self._held and self._fits(self._held[0]):
            write = self._held.popleft()
            self._released_count += 1
            self._under_way_events += write.event_count
            self._admit(write)
        self._released.unpark_all()

    async def passed(self) -> None:
        """Wait until every write that waits now has been let through."""
        count = self._held_count
        while self._released_count < count:
            await self._released.park()

    def release_all(self) -> None:
        """Let every write through from now on: the runtime closes, and decided commands must be stored."""
        self.admits = None
        self.release()

    def _fits(self, write: "Write") -> bool:
        admits = self.admits
        return admits is None or admits(self._store.last_position + self._under_way_events, write.event_count)
