"""Subscriptions: the log as a stream of batches, from any position, first what is stored and then what comes."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, TypeAlias

from ..actors.feed import Feed
from ..storage.record import StoredEvent

SUBSCRIPTION_BATCH_EVENTS: Final = 100

Find: TypeAlias = Callable[[int, int], Iterator[StoredEvent]]
"""Finds the events that are wanted between two positions, both excluded."""


class Subscription:
    """Fetches batches of events in the order of positions, without a gap or a repeat.

    One batch is in memory at a time: while the subscriber is at work, nothing is read.
    """

    def __init__(self, feed: Feed, find: Find, after: int, batch_size: int) -> None:
        self._feed = feed
        self._find = find
        self._after = after
        self._batch_size = batch_size
        self._end = after
        self._found: Iterator[StoredEvent] = iter(())

    async def fetch(self) -> list[StoredEvent]:
        """The next batch, waited for if need be; empty once the runtime closes."""
        while await self._feed.wait_beyond(self._after):
            batch = list(islice(self._found, self._batch_size))
            if batch:
                self._after = batch[-1].position
                return batch
            self._after = self._end
            self._end = self._feed.last_position
            self._found = self._find(self._after, self._end + 1)
        return []
