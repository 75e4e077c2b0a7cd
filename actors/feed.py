"""The feed: tells those that follow the log that it has grown."""

from collections.abc import Callable

import trio

from ..storage.store import EventReader


class Feed:
    """Where tasks wait for events that are not stored yet. Used on the trio thread; they read the log themselves.

    One that `is_over` is that of the past: nothing will come.
    """

    def __init__(self, store: EventReader, *, is_over: bool = False) -> None:
        self._store = store
        self._is_over = is_over
        self._waiting = trio.lowlevel.ParkingLot()
        self._listeners: dict[object, Callable[[], object]] = {}
        self.is_closed = False
        """The runtime closes: nobody is to read any more."""
        self.notifications = 0
        """How often the log has grown."""

    @property
    def last_position(self) -> int:
        """The position of the newest event that is on disk."""
        return self._store.last_position

    async def wait_beyond(self, position: int) -> bool:
        """Wait until an event with a greater position is on disk; a checkpoint in any case.

        Returns False when the feed was closed, or is over and has no such event, so that nothing will come.
        """
        await trio.lowlevel.checkpoint()
        while not self.is_closed and self._store.last_position <= position:
            if self._is_over:
                return False
            await self._waiting.park()
        return not self.is_closed

    def notify(self) -> None:
        """Wake everyone who waits: something was stored."""
        self.notifications += 1
        self._waiting.unpark_all()
        for listener in tuple(self._listeners.values()):
            listener()

    def listen(self, owner: object, listener: Callable[[], object]) -> None:
        """Call `listener` whenever the log has grown, until `owner` stops listening."""
        self._listeners[owner] = listener

    def stop_listening(self, owner: object) -> None:
        """The end of `listen`. Idempotent."""
        self._listeners.pop(owner, None)

    def close(self) -> None:
        """Let everyone who waits go. Idempotent."""
        self.is_closed = True
        self.notify()
        self._listeners.clear()
