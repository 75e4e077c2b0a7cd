"""Starts sagas by events: each event once, even if the disk is full for a while or the process ends."""

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final, Protocol

import trio

from ...storage.errors import EventSourcingError
from ...storage.event_query import EventQuery
from ...storage.limits import Limits
from ...storage.query import find_events
from ...storage.record import StoredEvent
from ...storage.store import EventReader
from ..feed import Feed
from .orders import StartSaga

FOLLOW_BATCH_EVENTS: Final = 500

logger = logging.getLogger("eventsrc.saga")


class EventStarts(Protocol):
    """Which sagas an event starts."""

    @property
    def event_types(self) -> Sequence[str]:
        """The stored names of the events that start sagas."""

    def of(self, event: StoredEvent) -> Iterable[StartSaga]:
        """The orders to start the sagas of an event."""

    async def followed(self, position: int) -> None:
        """Note that the events up to a position have started their sagas."""


class StarterHost(Protocol):
    """What the starter needs of the runtime."""

    feed: Feed
    limits: Limits
    store: EventReader

    @property
    def starts(self) -> EventStarts:
        """Which sagas each event starts."""


class SagaStarter:
    """Follows the log after `position`. Each batch of events starts its sagas before the next batch is read."""

    def __init__(self, host: StarterHost, start: Callable[[StartSaga], None], position: int) -> None:
        self._host = host
        self._start = start
        self._position = position
        self.is_stopping = False
        """Whether to start nothing more; the next runtime goes on."""

    async def run(self) -> None:
        """Follow the log until the feed is closed. Retry what cannot be stored, with a back-off."""
        limits = self._host.limits
        failures = 0
        while await self._host.feed.wait_beyond(self._position) and not self.is_stopping:
            try:
                await self._start_some()
                failures = 0
                continue
            except EventSourcingError as error:
                logger.error("events cannot start their sagas yet: %s", error, extra={"after": self._position})
            except Exception:
                logger.exception("events cannot start their sagas yet", extra={"after": self._position})
            await trio.sleep(limits.restart_backoff(failures))
            failures += 1

    async def _start_some(self) -> None:
        starts, store = self._host.starts, self._host.store
        until = store.last_position
        batch = next_events(store, starts.event_types, self._position, until)
        orders = [order for event in batch for order in starts.of(event)]
        for order in orders:
            self._start(order)
        for order in orders:
            await order.answer
        position = batch[-1].position if len(batch) == FOLLOW_BATCH_EVENTS else until
        await starts.followed(position)
        self._position = position


def next_events(store: EventReader, types: Sequence[str], after: int, until: int) -> list[StoredEvent]:
    """The first events of these types after one position and up to another, `FOLLOW_BATCH_EVENTS` at most."""
    found = find_events(store, EventQuery(types=types, after=after), before=until + 1)
    return list(islice(found, FOLLOW_BATCH_EVENTS))
