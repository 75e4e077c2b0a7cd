"""Subscriptions: the log as a stream of batches from any position, first the stored events and then new ones."""

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import trio

from ...actors.feed import Feed
from ...storage.record import StoredEvent

SUBSCRIPTION_BATCH_EVENTS: Final = 100

Find: TypeAlias = Callable[[int, int], Iterator[list[StoredEvent]]]
"""Finds the matching events between two positions, both excluded, in bounded steps."""


class Search:
    """Searches the log from a position on, one bounded step at a time, to the end of the log."""

    def __init__(self, find: Find, after: int) -> None:
        self.position = after
        """Every matching event up to this position was found."""
        self._find = find
        self._end = after
        self._steps: Iterator[list[StoredEvent]] | None = None

    def step(self, last_position: int) -> list[StoredEvent] | None:
        """Look at some more events, at most through `last_position`; returns the matching ones, often none.

        Returns None at the end of the log as it was when the search began.
        """
        # A read that fails ends these steps: the next call begins again at the last position.
        steps, self._steps = self._steps, None
        if steps is None:
            if last_position <= self.position:
                return None
            self._end = last_position
            steps = self._find(self.position, last_position + 1)
        found = next(steps, None)
        if found is None:
            self.position = self._end
            return None
        if found:
            self.position = found[-1].position
        self._steps = steps
        return found

    def back_to(self, position: int) -> None:
        """Search again from after a position."""
        self.position = position
        self._steps = None


class Subscription:
    """Fetches batches of events in the order of positions, without a gap or a repeat.

    While the subscriber is at work nothing is read: memory holds one batch, and the events of one step beyond it.
    """

    def __init__(self, feed: Feed, find: Find, after: int, batch_size: int) -> None:
        self._feed = feed
        self._search = Search(find, after)
        self._batch_size = batch_size
        self._waiting: list[StoredEvent] = []

    async def fetch(self) -> list[StoredEvent]:
        """The next batch, waited for if need be; empty once the runtime closes."""
        await trio.lowlevel.checkpoint()
        while not self._feed.is_closed:
            if len(self._waiting) >= self._batch_size:
                return self._take()
            found = self._search.step(self._feed.last_position)
            if found is not None:
                self._waiting += found
                await trio.lowlevel.checkpoint()
            elif self._waiting:
                return self._take()
            elif not await self._feed.wait_beyond(self._search.position):
                break
        return []

    def _take(self) -> list[StoredEvent]:
        batch = self._waiting[: self._batch_size]
        del self._waiting[: self._batch_size]
        return batch
