"""What a program reads from a runtime: events, streams, subscriptions and views."""

import itertools
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, Unpack, overload

import trio

from ..actors.aggregates.aggregate import Aggregate
from ..actors.aggregates.aggregate_type import AggregateType
from ..actors.aggregates.receipt import Receipt
from ..actors.background import in_thread
from ..actors.errors import DefinitionError, UnknownEvent
from ..actors.feed import Feed
from ..actors.projections.projection import Projection, Table
from ..actors.serialization.event_codecs import EventCodecs
from ..actors.serialization.serializer import Serializer
from ..storage.copies.backup import backup, fork
from ..storage.copies.errors import BackupRefused
from ..storage.errors import StoreError
from ..storage.keys.subject_keys import SubjectKeys
from ..storage.limits import Limits
from ..storage.past import PastLog
from ..storage.query import find_streams
from ..storage.reader import LogReader
from ..storage.record import StoredEvent, StreamHead
from ..storage.verification.verify import VerificationSummary
from .arguments import check_count, check_is_class
from .classes import check_class
from .errors import ArgumentInvalid, NoPlaceForProgress, NotInHistory, PastReadOnly, UnknownAggregate
from .events import STREAMS_PER_CHECKPOINT, EventFilter, check_category, read_events, with_subject
from .history.aggregate_replay import AggregateReplay
from .history.errors import UnknownCorrelation
from .history.history import Blame, Difference, blame, difference, position_of
from .history.pace import Speed
from .history.projection_replay import ProjectionReplay
from .history.replay import Replay
from .history.selection import ReplayMode, ReplayOptions, Selection
from .history.trace import TRACE_EVENTS_MAX, TracedEvent, correlation_of, traced
from .iteration import Batches, Items
from .known_names import check_types
from .opening import Opened
from .projections.projections import Projections
from .projections.steering import Lag, ProjectionSteering
from .projections.view import View
from .subscriptions.consumer import Consumer
from .subscriptions.steering import SubscriptionSteering
from .subscriptions.subscription import SUBSCRIPTION_BATCH_EVENTS, Subscription
from .subscriptions.subscriptions import Subscriptions
from .trio_thread import check_on_trio

A = TypeVar("A", bound=Aggregate)
R = TypeVar("R")


class Reading:
    """The read-only part of `Runtime`."""

    feed: Feed
    limits: Limits
    _types: Mapping[type[Aggregate], AggregateType]
    _serializer: Serializer
    _keys: SubjectKeys | None
    _store: Opened
    _codecs: EventCodecs
    _projections: Projections
    _subscriptions: Subscriptions | None

    def events(
        self,
        *,
        stream: str | None = None,
        types: Sequence[type | str] | type | str | None = None,
        category: str | None = None,
        tag: str | Sequence[str] | None = None,
        subject: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        after: int = 0,
        before: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[StoredEvent]:
        """Stored events in the order of their positions, up to the newest event at the time of the call.

        Args:
            stream: only this stream, by its name, such as `account-ann`.
            types: only these event classes or stored names; None for all.
            category: only streams of this category.
            tag: only events with this tag, or with all of these; None for all.
            subject: only events that hold personal data of this subject, unless it was forgotten.
            metadata: only events whose metadata hold these values. No index serves metadata: without another filter
                every event is compared, while other tasks get their turn every few hundred events.
            correlation_id: only events of this correlation. No index serves it either. `trace` also gives the causal
                order.
            after: only positions greater than this.
            before: only positions smaller than this.
            since: only events stored at this time or later.
            until: only events stored before this time.
            limit: at most this many events.
            backwards: from the newest to the oldest.

        Raises:
            DefinitionError: for a class that is no event.
            ArgumentInvalid: for a negative limit or position, a time without a zone, empty types or tags, or an
                argument of a wrong type.
        """
        filters: dict[str, Any] = {"stream": stream, "types": types, "category": category, "metadata": metadata}
        filters |= {"correlation_id": correlation_id, "after": after}
        wanted = [EventFilter.of(**filters, tag=tags) for tags in with_subject(tag, subject, self._keys)]
        return read_events(
            self._store, wanted, before=before, since=since, until=until, limit=limit, backwards=backwards
        )

    def decode(self, stored: StoredEvent) -> Any:
        """A stored event as an object of its class, which an aggregate or a projection of this runtime names.

        Raises `UnknownEvent`, `DecodingError`, `ArgumentInvalid`, or `StoreError` where sealed data cannot be opened.
        """
        try:
            found = self._codecs.structures.get(stored.type)
        except AttributeError as error:
            raise ArgumentInvalid("stored", stored, "give a stored event, such as message.event") from error
        if found is None:
            raise UnknownEvent(None, stored.stream, stored.type, stored.position)
        structure, event_class, version = found
        payload = stored.payload if stored.schema_version == version else self._codecs.upcast(stored)
        try:
            return structure(payload, event_class)
        except StoreError:
            raise
        except Exception as error:
            raise self._codecs.misfit(stored, error) from error

    def streams(self, *, category: str | None = None) -> AsyncIterator[StreamHead]:
        """The head of every stream (of a category), in the order of stream names. Raises `ArgumentInvalid`."""
        check_category(category)
        found = find_streams(self._store, category=category)

        async def fetch() -> list[StreamHead]:
            await trio.lowlevel.checkpoint()
            return list(itertools.islice(found, STREAMS_PER_CHECKPOINT))

        return Items(fetch)

    def subscribe(
        self,
        *,
        after: int = 0,
        stream: str | None = None,
        types: Sequence[type | str] | type | str | None = None,
        category: str | None = None,
        tag: str | Sequence[str] | None = None,
        batch_size: int = SUBSCRIPTION_BATCH_EVENTS,
    ) -> AsyncIterator[list[StoredEvent]]:
        """Batches of the events after a position: stored events first, then new ones; see `events` for the filters.

        The iteration ends when the runtime closes or, in the past (`as_of`), with the newest event. A slow subscriber
        holds up nobody and costs the memory of one batch. If the log ends before `after`, the iteration waits until it
        goes beyond.

        Raises:
            DefinitionError: for a class that is no event.
            ArgumentInvalid: for a batch size below 1, or empty types or tags.
        """
        check_count("batch_size", batch_size, least=1)
        check_count("after", after, least=0)
        wanted = EventFilter.of(stream=stream, types=types, category=category, tag=tag)
        return Batches(Subscription(self.feed, partial(wanted.batches, self._store), after, batch_size).fetch)

    def consume(
        self,
        name: str,
        *,
        after: int = 0,
        types: Sequence[type | str] | type | str | None = None,
        category: str | None = None,
        tag: str | Sequence[str] | None = None,
    ) -> AbstractAsyncContextManager[Consumer]:
        """Become a consumer of the durable subscription `name`; a new subscription begins after the position `after`.

        Write `async with runtime.consume("mailer") as consumer: async for message in consumer: ...` and acknowledge
        each message; or `await consumer.run(handler)`, where the handler is any async function: a sink that gets each
        event at least once. Consumers of one name share its events, each stream in order, and a stream that is slow or
        fails holds up no other.

        Consumers share events within one runtime only. The writer keeps its progress beside the store, a reader in its
        own folder (`views=`). Changed filters apply to the events that the subscription has not read yet.

        Raises:
            SubscriptionNameInvalid, NoPlaceForProgress: the progress cannot be kept.
            SubscriptionFilterDiffers: this runtime has consumers of this name with another filter.
            SubscriptionDiverged: the progress belongs to a history that is not the log's.
            NotInHistory, ArgumentInvalid: `after` is no position of the log.
            PastReadOnly: the runtime is one of `as_of`.
        """
        wanted = EventFilter.of(types=types, category=category, tag=tag)
        return self._durable.consume(name, wanted, after)

    @property
    def subscriptions(self) -> SubscriptionSteering:
        """The durable subscriptions: lists and retries parked events, deletes one. Raises `NoPlaceForProgress`."""
        return self._durable

    @property
    def _durable(self) -> Subscriptions:
        if isinstance(self._store, PastLog):
            raise PastReadOnly(self._store.path)
        if self._subscriptions is None:
            raise NoPlaceForProgress(self._store.path)
        return self._subscriptions

    @overload
    def view(self, of: type[Projection]) -> View[Any]: ...
    @overload
    def view(self, of: Table[R]) -> View[R]: ...
    def view(self, of: type[Projection] | Table[R]) -> View[Any]:
        """The table of a projection, for queries: `runtime.view(Balances)`, or typed, `runtime.view(Balances.rows)`.

        Raises `UnknownProjection`, or `DefinitionError` where the projection has several tables and `of` names none of
        them.
        """
        if isinstance(of, Table):
            if not hasattr(of, "projection"):
                raise DefinitionError(
                    f"This table of {of.row_class.__name__} is in no projection: name one that is, view(Balances.rows)."
                )
            return View(self._projections, self._projections.get(of.projection), of)
        return View(self._projections, self._projections.get(of), None)

    @property
    def projections(self) -> ProjectionSteering:
        """Pauses, resumes and rebuilds views."""
        return self._projections

    def lag(self) -> dict[str, Lag]:
        """How far each projection is behind the log, by name. May be called on any thread."""
        return self._projections.lags()

    # --- the past ---

    @overload
    def replay(
        self,
        mode: ReplayMode,
        *,
        aggregate: tuple[type[A], str],
        into: Callable[[StoredEvent], Any] | None = None,
        speed: Speed = None,
        wait_seconds_max: float = math.inf,
        **options: Unpack[ReplayOptions],
    ) -> AggregateReplay[A]: ...
    @overload
    def replay(
        self,
        mode: ReplayMode,
        *,
        projection: type[Projection],
        into: Callable[[StoredEvent], Any] | None = None,
        speed: Speed = None,
        wait_seconds_max: float = math.inf,
        **options: Unpack[ReplayOptions],
    ) -> ProjectionReplay: ...
    @overload
    def replay(
        self,
        mode: ReplayMode,
        *,
        into: Callable[[StoredEvent], Any],
        speed: Speed = None,
        wait_seconds_max: float = math.inf,
        **options: Unpack[ReplayOptions],
    ) -> Replay: ...
    def replay(
        self,
        mode: ReplayMode,
        *,
        aggregate: tuple[type[Aggregate], str] | None = None,
        projection: type[Projection] | None = None,
        into: Callable[[StoredEvent], Any] | None = None,
        speed: Speed = None,
        wait_seconds_max: float = math.inf,
        **options: Unpack[ReplayOptions],
    ) -> Replay:
        """Prepare a replay; `await replay.run()` runs it.

        Args:
            mode: "full", from the first event; "from_snapshot", an aggregate's newest snapshot and the events since;
                "selective", the events that the filters select; "time_travel", up to a version, a position or a time.
            aggregate: (class, id): replays into this aggregate's state, `replay.state`.
            projection: replays into a separate view: `async with runtime.replay(..., projection=Balances) as replay`.
                The view that answers queries is not touched. Both are rebuilt when a subject is forgotten.
            into: a function, async or not, that is called with each event; may be combined with one of the two above.
            speed: times the original pace, 0.1 to `Limits.replay_speed_max`; None or "flat" is as fast as possible.
            wait_seconds_max: the longest wait between two events when `speed` is a pace. By default waits are not
                bounded: days without events take days, divided by the speed. `replay.step()` ends a wait.
            options: a stream, the filters and the end, by the names in `ReplayOptions`.

        Raises:
            ArgumentInvalid: for arguments that exclude each other; `DefinitionError` for a class that is no event or no
                projection.
            UnknownEventType: for a stored name that neither the log nor a class of this runtime has.
            ReplaySpeedInvalid, NotInHistory, UnknownAggregate: for a speed, end or aggregate that is not possible.
        """
        _check_targets(aggregate, projection, into)
        for name in options.keys() - ReplayOptions.__annotations__.keys():
            known = ", ".join(sorted(ReplayOptions.__annotations__))
            raise ArgumentInvalid(name, options.get(name), f"a replay has no such option; further ones are {known}")
        aggregate_type = None if aggregate is None else self._type_of(aggregate[0])
        if aggregate is not None and aggregate_type is not None:
            if options.get("stream") is not None:
                raise ArgumentInvalid("stream", options["stream"], "an aggregate has its stream: leave out stream=")
            options["stream"] = aggregate_type.stream(aggregate[1])
        selection = Selection(mode=mode, **options)
        selection.check()
        check_types(self._store, selection.type_names, self._codecs.of_name)
        how: dict[str, Any] = {
            "speed": speed,
            "wait_seconds_max": wait_seconds_max,
            "limits": self.limits,
            "into": into,
        }
        if aggregate is not None and aggregate_type is not None:
            return AggregateReplay(self._store, aggregate_type, aggregate[1], selection, **how)
        if projection is not None:
            how |= {"renewing": self._projections.renewing}
            return ProjectionReplay(self._store, projection, self._serializer, selection, **how)
        return Replay(self._store, selection, **how)

    async def diff(self, aggregate_class: type[Aggregate], aggregate_id: str, first: int, second: int) -> Difference:
        """The changes of an aggregate between two versions: the events, and the fields that the events changed.

        Raises `NotInHistory` for a version that the aggregate does not have.
        """
        check_on_trio("runtime.diff")
        return await difference(self._store, self._type_of(aggregate_class), aggregate_id, first, second)

    async def blame(self, aggregate_class: type[Aggregate], aggregate_id: str) -> dict[str, Blame]:
        """The event, command and principal that last set each field of an aggregate's state; `is_set` where one did."""
        check_on_trio("runtime.blame")
        return await blame(self._store, self._type_of(aggregate_class), aggregate_id)

    async def trace(self, of: Receipt | int | str, *, limit: int = TRACE_EVENTS_MAX) -> list[TracedEvent]:
        """Every event of one correlation, in causal order.

        `for each in await runtime.trace(receipt): print("  " * each.depth, each.event.type)`. The events that a command
        caused are listed below the command's own, whether aggregates or sagas stored them.

        Args:
            of: a receipt, the position of an event, or a correlation id. No index serves it: every event is compared.
            limit: at most this many events, the oldest ones.

        Raises `NotInHistory` for a position or a receipt without an event, `UnknownCorrelation`, `ArgumentInvalid`.
        """
        check_on_trio("runtime.trace")
        check_count("limit", limit, least=1)
        correlation_id = correlation_of(self._store, of)
        found = [event async for event in self.events(correlation_id=correlation_id, limit=limit)]
        if not found:
            raise UnknownCorrelation(self._store.path, correlation_id)
        return traced(found)

    async def backup(self, destination: str | os.PathLike[str]) -> VerificationSummary:
        """Copy the store into a new folder while commands go on, and verify the copy.

        The folder appears as a whole or not at all. Raises `BackupRefused`: as `DestinationExists`,
        `DestinationOverlaps`, `DestinationUnusable`, `DestinationInUse`, `DestinationFull` or `CopyUnsound`, or itself
        for a store in memory or of the past, which cannot be copied.
        """
        check_on_trio("runtime.backup")
        return await in_thread(backup, self._store_on_disk, destination)

    async def fork(self, at_position: int, destination: str | os.PathLike[str]) -> None:
        """Make a separate store, in a new folder, that shares the history up to a position: for what-if commands.

        A position within a commit, such as one of a transaction, splits the commit: the fork has its events up to the
        position. Raises `NotInHistory` for a position that the log does not have, and the errors of `backup`.
        """
        check_on_trio("runtime.fork")
        if not position_of(self._store, position=at_position):
            raise NotInHistory(f"A fork of {self._store.path} shares at least the event at position 1.")
        await in_thread(fork, self._store_on_disk, at_position, destination)

    @property
    def _store_on_disk(self) -> LogReader:
        if isinstance(self._store, LogReader):
            return self._store
        if isinstance(self._store, PastLog):
            raise BackupRefused(
                f"This runtime shows {self._store.path}. Copy the store by a runtime of now, or fork it there at that "
                "position."
            )
        raise BackupRefused(f"{self._store.path} is no store on a disk: there is nothing to copy.")

    def _type_of(self, aggregate_class: type[Aggregate]) -> AggregateType:
        try:
            aggregate_type = self._types.get(aggregate_class)
        except TypeError:  # it has no hash
            aggregate_type = None
        if aggregate_type is None:
            check_is_class("aggregate_class", aggregate_class, self._types)
            raise UnknownAggregate(aggregate_class, [known.__name__ for known in self._types])
        return aggregate_type


def _check_targets(aggregate: object, projection: type | None, into: object) -> None:
    """Raise `ArgumentInvalid` for a target that a replay cannot have."""
    if aggregate is None and projection is None and into is None:
        raise ArgumentInvalid("into", into, "say what to replay into: an aggregate, a projection or a function")
    if aggregate is not None and projection is not None:
        advice = "replay into an aggregate or into a projection, and make two replays for both"
        raise ArgumentInvalid("projection", projection, advice)
    if aggregate is not None and not (isinstance(aggregate, tuple) and len(aggregate) == 2):
        raise ArgumentInvalid("aggregate", aggregate, "give its class and its id: (Account, 'ann')")
    if projection is not None:
        check_class(projection, Projection)
    if into is not None and not callable(into):
        raise ArgumentInvalid("into", into, "give a function, which is called with each event")
