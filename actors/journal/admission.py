"""Admission to the journal: writes wait here while a view that may slow writers down is too far behind."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from ...storage.store import EventReader

if TYPE_CHECKING:
    from .journal import Write


class Admission:
    """Lets writes through, in order, as long as `admits` does; None lets everything through.

    `admits(reached_position, event_count)` tells whether the log, once it has reached a position, may grow by so many
    events.
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
        """Let a write through, or have it wait behind those that do."""
        if self._held or not self._fits(write):
            self._held.append(write)
            self._held_count += 1
        else:
            self._under_way_events += write.event_count
            self._admit(write)

    def settled(self, write: "Write") -> None:
        """A write that was let through is stored, or failed."""
        self._under_way_events -= write.event_count

    def release(self) -> None:
        """Let through what fits by now."""
        while self._held and self._fits(self._held[0]):
            write = self._held.popleft()
            self._released_count += 1
            self._under_way_events += write.event_count
            self._admit(write)
        self._released.unpark_all()

    async def passed(self) -> None:
        """Wait until all that waits here by now was let through."""
        count = self._held_count
        while self._released_count < count:
            await self._released.park()

    def release_all(self) -> None:
        """Let everything through, from now on: the runtime closes, and what is decided is to be stored."""
        self.admits = None
        self.release()

    def _fits(self, write: "Write") -> bool:
        admits = self.admits
        return admits is None or admits(self._store.last_position + self._under_way_events, write.event_count)
