"""The feed: tells those that follow the log that it has grown."""

import trio

from ..storage.store import EventReader


class Feed:
    """Where tasks wait for events that are not stored yet. Used on the trio thread; they read the log themselves."""

    def __init__(self, store: EventReader) -> None:
        self._store = store
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def last_position(self) -> int:
        """The position of the newest event that is on disk."""
        return self._store.last_position

    async def wait_beyond(self, position: int) -> None:
        """Wait until an event with a greater position is on disk; a checkpoint in any case."""
        await trio.lowlevel.checkpoint()
        while self._store.last_position <= position:
            await self._waiting.park()

    def notify(self) -> None:
        """Wake everyone who waits: something was stored."""
        self._waiting.unpark_all()
