"""What a program reads of a runtime: events, streams, subscriptions and views."""

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, overload

import trio

from ..actors.errors import UnknownEvent
from ..actors.event_codecs import EventCodecs
from ..actors.feed import Feed
from ..actors.projection import Projection, Table
from ..storage.query import find_streams
from ..storage.reader import LogReader
from ..storage.record import StoredEvent, StreamHead
from ..storage.store import EventStore
from .consumers import Consumer, Subscriptions
from .errors import NoPlaceForProgress
from .events import EVENTS_PER_CHECKPOINT, Wanted, read_events
from .iteration import Batches, Items
from .projections import Lag, Projections
from .subscription import SUBSCRIPTION_BATCH_EVENTS, Subscription
from .view import View

R = TypeVar("R")


class Reading:
    """The part of `Runtime` that changes nothing."""

    feed: Feed
    projections: Projections
    _store: EventStore | LogReader
    _codecs: EventCodecs
    _subscriptions: Subscriptions | None

    def events(
        self,
        *,
        stream: str | None = None,
        types: Sequence[type | str] | None = None,
        category: str | None = None,
        tag: str | Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        after: int = 0,
        before: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[StoredEvent]:
        """Stored events in the order of their positions, as far as they go now.

        Args:
            stream: only this stream; its name, such as `account-ann`.
            types: only these event classes or stored names.
            category: only streams of this category.
            tag: only events with this tag, or with all of these.
            metadata: only events whose metadata hold these values; compared, since no index serves it alone.
            after: only positions greater than this.
            before: only positions smaller than this.
            since: only events stored at this time or later.
            until: only events stored before this time.
            limit: at most so many.
            backwards: from the newest to the oldest.

        Raises:
            DefinitionError: for a class that is no event.
            ValueError: for a negative limit, or a time without a zone.

        """
        wanted = Wanted.of(stream=stream, types=types, category=category, tag=tag, metadata=metadata, after=after)
        return read_events(
            self._store, wanted, before=before, since=since, until=until, limit=limit, backwards=backwards
        )

    def decode(self, stored: StoredEvent) -> Any:
        """A stored event as an object of its class, which an aggregate or a projection of this runtime names.

        Raises `UnknownEvent` or `DecodingError`.
        """
        event = self._codecs.decode(stored)
        if event is None:
            raise UnknownEvent(None, stored.stream, stored.type, stored.position)
        return event

    def streams(self, *, category: str | None = None) -> AsyncIterator[StreamHead]:
        """The head of every stream, in the order of their names."""
        found = find_streams(self._store, category=category)

        async def fetch() -> list[StreamHead]:
            await trio.lowlevel.checkpoint()
            return list(itertools.islice(found, EVENTS_PER_CHECKPOINT))

        return Items(fetch)

    def subscribe(
        self,
        *,
        after: int = 0,
        stream: str | None = None,
        types: Sequence[type | str] | None = None,
        category: str | None = None,
        tag: str | Sequence[str] | None = None,
        batch_size: int = SUBSCRIPTION_BATCH_EVENTS,
    ) -> AsyncIterator[list[StoredEvent]]:
        """Batches of the events after a position, first what is stored, then what comes; see `events` for the filters.

        It ends when the runtime closes. A slow subscriber holds up nobody and costs the memory of one batch.

        Raises:
            ValueError: for a batch size below 1.

        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        wanted = Wanted.of(stream=stream, types=types, category=category, tag=tag)
        return Batches(Subscription(self.feed, partial(wanted.find, self._store), after, batch_size).fetch)

    def consume(
        self,
        name: str,
        *,
        after: int = 0,
        types: Sequence[type | str] | None = None,
        category: str | None = None,
        tag: str | Sequence[str] | None = None,
    ) -> AbstractAsyncContextManager[Consumer]:
        """Be one of the consumers of the durable subscription `name`; a new one begins after the position `after`.

        Write `async with runtime.consume("mailer") as consumer: async for message in consumer: ...` and acknowledge
        each message; or `await consumer.run(handler)`. Consumers of one name share its events, each stream in order.

        Raises:
            SubscriptionNameInvalid, NoPlaceForProgress: it cannot be kept.

        """
        wanted = Wanted.of(types=types, category=category, tag=tag)
        return self.subscriptions.consume(name, partial(wanted.find, self._store), after)

    @property
    def subscriptions(self) -> Subscriptions:
        """The durable subscriptions: what is parked, retrying it, deleting one. Raises `NoPlaceForProgress`."""
        if self._subscriptions is None:
            raise NoPlaceForProgress(self._store.path)
        return self._subscriptions

    @overload
    def view(self, of: type[Projection]) -> View[Any]: ...
    @overload
    def view(self, of: Table[R]) -> View[R]: ...
    def view(self, of: type[Projection] | Table[R]) -> View[Any]:
        """The table of a projection, for queries: `runtime.view(Balances)`, or typed, `runtime.view(Balances.rows)`.

        Raises `UnknownProjection`, or `DefinitionError` where a projection has several tables and none is named.
        """
        if isinstance(of, Table):
            return View(self.projections, self.projections.get(of.projection), of)
        return View(self.projections, self.projections.get(of), None)

    def lag(self) -> dict[str, Lag]:
        """How far each projection is behind the log, by name."""
        return self.projections.lags()
