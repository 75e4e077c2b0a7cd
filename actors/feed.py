"""The feed: tells the followers of the log that the log has grown."""

from collections.abc import Callable

import trio

from ..storage.store import EventReader


class Feed:
    """Where tasks wait for events that are not stored yet. Used on the trio thread; the tasks read the log themselves.

    `is_over` marks the feed of a past state of the log, to which no event will be added.
    """

    def __init__(self, store: EventReader, *, is_over: bool = False) -> None:
        self._store = store
        self._is_over = is_over
        self._waiting = trio.lowlevel.ParkingLot()
        self._listeners: dict[object, Callable[[], object]] = {}
        self.is_closed = False
        """Whether the runtime is closing: nobody is to read the log any more."""
        self.notifications = 0
        """How many times the log has grown."""

    @property
    def last_position(self) -> int:
        """The position of the newest event on disk."""
        return self._store.last_position

    async def wait_beyond(self, position: int) -> bool:
        """Wait until an event after `position` is on disk. Always a checkpoint.

        Returns False if no such event will come: the feed was closed, or it is over.
        """
        await trio.lowlevel.checkpoint()
        while not self.is_closed and self._store.last_position <= position:
            if self._is_over:
                return False
            await self._waiting.park()
        return not self.is_closed

    def notify(self) -> None:
        """Wake all waiting tasks and call all listeners: an event was stored."""
        self.notifications += 1
        self._waiting.unpark_all()
        for listener in tuple(self._listeners.values()):
            listener()

    def listen(self, owner: object, listener: Callable[[], object]) -> None:
        """Call `listener` whenever the log grows, until `stop_listening(owner)`."""
        self._listeners[owner] = listener

    def stop_listening(self, owner: object) -> None:
        """Remove the listener of `owner`. Idempotent."""
        self._listeners.pop(owner, None)

    def close(self) -> None:
        """Wake all waiting tasks for the last time and drop the listeners. Idempotent."""
        self.is_closed = True
        self.notify()
        self._listeners.clear()
