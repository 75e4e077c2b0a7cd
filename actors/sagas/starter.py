"""What starts sagas by events: each event once, also where the disk is full for a while or the process ends."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import trio

from ...storage.errors import EventSourcingError
from ...storage.limits import Limits
from ...storage.record import StoredEvent
from ..feed import Feed
from .orders import StartSaga

FOLLOW_BATCH_EVENTS: Final = 500

logger = logging.getLogger("eventsrc.saga")


class StarterHost(Protocol):
    """What the starter needs of the runtime."""

    feed: Feed
    limits: Limits
    start_types: Sequence[str]
    """The stored names of the events that start sagas."""

    def position(self) -> int:
        """Where the log is."""

    def read_types(self, types: Sequence[str], after: int, until: int, limit: int) -> list[StoredEvent]:
        """The first events of these types between two positions."""

    def starts(self, event: StoredEvent) -> Iterable[StartSaga]:
        """The sagas that an event starts."""

    async def followed(self, position: int) -> None:
        """Remember that the events up to a position have started what they start."""


class SagaStarter:
    """Follows the log behind `position`, and has each event start what it starts before it goes on to the next."""

    def __init__(self, host: StarterHost, start: Callable[[StartSaga], None], position: int) -> None:
        self._host = host
        self._start = start
        self._position = position
        self.is_stopping = False
        """Start nothing more; the next runtime does."""

    async def run(self) -> None:
        """Until the feed is closed. What cannot be stored is tried again, with a back-off."""
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
        host, until = self._host, self._host.position()
        batch = host.read_types(host.start_types, self._position, until, FOLLOW_BATCH_EVENTS)
        orders = [order for event in batch for order in host.starts(event)]
        for order in orders:
            self._start(order)
        for order in orders:
            await order.answer
        position = batch[-1].position if len(batch) == FOLLOW_BATCH_EVENTS else until
        await host.followed(position)
        self._position = position
