"""Durable subscriptions: consumers that share the events of one name, acknowledge them, and lose none.

Different streams go to different consumers at once. An event that a consumer leaves unacknowledged goes to another
consumer, or to the next one after a restart.
"""

import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import trio

from ...actors.background import in_background
from ...actors.errors import RuntimeClosed
from ...actors.feed import Feed
from ...storage.control.board import ControlBoard, ParkedEvent
from ...storage.limits import Limits
from ...storage.store import EventReader
from ..arguments import check_count
from ..errors import NoPlaceForProgress, SubscriptionFilterDiffers, SubscriptionNameInvalid, UnknownSubscription
from ..events import EventFilter
from ..on_board import on_board
from ..trio_thread import check_on_trio
from .consumer import Consumer
from .dispatcher import Dispatcher

SUBSCRIPTION_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
RETRY: Final = "retry"
"""The control board's request to hand out parked events again."""

logger = logging.getLogger("eventsrc.subscription")


class Subscriptions:
    """The durable subscriptions of one runtime; fulfils `SubscriptionSteering`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        store: EventReader,
        feed: Feed,
        limits: Limits,
        board: ControlBoard,
        wall_clock: Callable[[], int],
        keeps_progress: bool,
    ) -> None:
        self._keeps_progress = keeps_progress
        self._nursery = nursery
        self._store = store
        self._feed = feed
        self._limits = limits
        self._board = board
        self._wall_clock = wall_clock
        self._dispatchers: dict[str, Dispatcher] = {}
        self._consumers: Counter[str] = Counter()
        self._opening = trio.Lock()

    async def open(self) -> None:
        """After a restore of an older copy of the log, bring the followers' progress in line with it.

        Progress is exact up to the end of such a copy, and any later event is new to the followers. So they go on from
        there: no event is lost, and none comes again.
        """
        if not self._board.is_ahead_of(self._store.last_position):
            return
        last = self._store.read(backwards=True, limit=1)
        position, event_hash = (last[0].position, last[0].hash) if last else (0, b"")
        for follower in await on_board(self._board, partial(self._board.cut, position, event_hash)):
            logger.warning(
                "%r knows events that the log does not have (a restored backup?); it goes on after position %d, "
                "where the log ends",
                follower,
                position,
            )

    @asynccontextmanager
    async def consume(self, name: str, wanted: EventFilter, after: int) -> AsyncIterator[Consumer]:
        """Be one of the consumers of a subscription for as long as the block lasts."""
        check_on_trio("consume", "portal.enter(runtime.consume(...))")
        _check_name(name)
        check_count("after", after, least=0)
        if self._feed.is_closed:
            raise RuntimeClosed(f"The runtime has closed; {name!r} cannot be consumed any more.")
        if not self._keeps_progress:
            raise NoPlaceForProgress(self._store.path)
        async with self._opening:
            dispatcher = self._dispatchers.get(name)
            if dispatcher is not None and not dispatcher.is_deleted and dispatcher.wanted != wanted:
                raise SubscriptionFilterDiffers(name, dispatcher.wanted.query.criteria, wanted.query.criteria)
            if dispatcher is None or dispatcher.is_deleted:
                dispatcher = Dispatcher(
                    name, wanted, self._store, self._feed, self._limits, self._board, self._wall_clock
                )
                await dispatcher.open(after)
                self._dispatchers[name] = dispatcher
                self._nursery.start_soon(in_background, dispatcher.keep, name=f"eventsrc subscription {name}")
            await self._retry_as_asked(dispatcher)
            self._consumers[name] += 1
        consumer = Consumer(dispatcher)
        try:
            yield consumer
        finally:
            self._consumers[name] -= 1
            if not self._consumers[name]:
                # A program may have a subscription for each request, and delete it.
                del self._consumers[name]
            consumer.leave()

    async def parked(self, name: str | None = None) -> list[ParkedEvent]:
        """See `SubscriptionSteering`."""
        check_on_trio("subscriptions.parked")
        if name is not None:
            _check_name(name)
        for dispatcher in tuple(self._dispatchers.values()):
            if not dispatcher.is_saved:
                await dispatcher.save()
        return await on_board(self._board, partial(self._board.parked, name))

    async def retry(self, name: str, stream: str | None = None) -> int:
        """See `SubscriptionSteering`."""
        check_on_trio("subscriptions.retry")
        if self.is_consumed(name):
            return self._dispatchers[name].retry_parked(stream)
        known = await on_board(self._board, self._board.subscriptions)
        if name not in known:
            raise UnknownSubscription(name, list(known))
        await on_board(self._board, partial(self._board.request, RETRY, name, stream or ""))
        return 0

    def is_consumed(self, name: str) -> bool:
        """Whether this runtime has a consumer of the subscription now."""
        return name in self._dispatchers and self._consumers[name] > 0

    async def _retry_as_asked(self, dispatcher: Dispatcher) -> None:
        """Carry out the requests that came while there was no consumer."""
        for request in await on_board(self._board, self._board.requests):
            if (request.action, request.subject) == (RETRY, dispatcher.name):
                dispatcher.retry_parked(request.argument or None)
                await on_board(self._board, partial(self._board.done, request, ""))

    async def delete(self, name: str) -> bool:
        """See `SubscriptionSteering`."""
        check_on_trio("subscriptions.delete")
        _check_name(name)
        dispatcher = self._dispatchers.get(name)
        # This comes first: if the deletion is refused or cancelled, the consumers go on.
        was_there = await on_board(self._board, partial(self._board.delete, name))
        if dispatcher is not None:
            dispatcher.deleted()
            if self._dispatchers.get(name) is dispatcher:
                del self._dispatchers[name]
        return was_there

    async def close(self) -> None:
        """Store what was acknowledged."""
        async with AsyncExitStack() as closing:
            for dispatcher in self._dispatchers.values():
                closing.push_async_callback(dispatcher.close)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not SUBSCRIPTION_NAME.fullmatch(name):
        raise SubscriptionNameInvalid(name)
