"""The runtime: opens a store, routes commands to aggregates, and closes in order."""

import logging
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Final, Literal, TypeVar

import cattrs
import trio

from ..actors.aggregates.aggregate import Aggregate
from ..actors.aggregates.aggregate_type import AggregateType
from ..actors.aggregates.receipt import Receipt
from ..actors.background import in_background, nursery_within
from ..actors.feed import Feed
from ..actors.journal.inline_journal import InlineJournal
from ..actors.journal.thread_journal import ThreadJournal
from ..actors.projections.projection import Projection
from ..actors.sagas.saga import Saga
from ..actors.serialization.event_codecs import EventCodecs
from ..actors.serialization.serializer import Serializer
from ..actors.subjects import SUBJECT_FORGOTTEN
from ..storage.commit import StreamAppend
from ..storage.event_query import EventQuery
from ..storage.keys.subject_keys import SubjectKeys
from ..storage.limits import Limits
from ..storage.log import EventLog
from ..storage.memory import MemoryLog
from ..storage.past import PastLog
from ..storage.reader import LogReader
from ..storage.store import EventStore
from .arguments import check_key, check_metadata, check_subject, check_timeout, checked_timeout, checked_triples
from .classes import event_classes, types_of, with_sagas_view
from .control import Control
from .errors import ShutdownTimeout, UnknownSubject
from .events import resolved
from .figures import Figures
from .forgetting import Forgetting, Forgotten, forget_again
from .history.history import position_of
from .maintenance.maintenance import Maintenance
from .opening import Home, Opened, P, ViewsGiven, close_store, follow, home_of, keys_of, open_store, refusal
from .projections.projections import Projections
from .projections.view import wait_for_views, wait_until_forgotten
from .reading import Reading
from .reference import AggregateRef
from .residents import Residents
from .router import Router
from .sagas.running_sagas import RunningSagas
from .sagas.sagas import Sagas
from .schema_check import check_stored_events
from .subscriptions.subscriptions import Subscriptions
from .transaction import Part, Transaction
from .trio_thread import check_on_trio

A = TypeVar("A", bound=Aggregate)

logger = logging.getLogger("eventsrc.runtime")
DEFAULT_LIMITS: Final = Limits()


class Runtime(Reading, RunningSagas, Figures):
    """Aggregates, their actors and their log. Make one with `Runtime.open`; use it on the trio thread."""

    def __init__(
        self,
        nursery: trio.Nursery,
        store: Opened,
        aggregate_types: Mapping[type[Aggregate], AggregateType],
        codecs: EventCodecs,
        serializer: Serializer,
        keys: SubjectKeys | None,
        limits: Limits,
        wall_clock: Callable[[], int],
    ) -> None:
        self.limits = limits
        self._keys = keys
        self._codecs = codecs
        self._serializer = serializer
        self._store = store
        self._wall_clock = wall_clock
        self._subscriptions: Subscriptions | None = None
        self._control: Control | None = None
        self._sagas: Sagas | None = None
        self._types = aggregate_types
        self.feed = Feed(store, is_over=isinstance(store, PastLog))
        self._projections = Projections(nursery, store, self.feed, limits, serializer, wall_clock)
        self._journal: ThreadJournal | InlineJournal | None = None
        self._residents: Residents | None = None
        self._maintenance: Maintenance | None = None
        self._forgetting: Forgetting | None = None
        if isinstance(store, EventLog) or not isinstance(store, LogReader | PastLog):
            self._start_writing(nursery, store, limits, wall_clock)
        elif isinstance(store, LogReader):
            nursery.start_soon(in_background, follow, store, self.feed, name="eventsrc reader")
        self._router = Router(store, limits, self._projections, self._residents)
        nursery.start_soon(in_background, self._router.deadlines.run, name="eventsrc deadlines")

    def _start_writing(
        self, nursery: trio.Nursery, store: EventStore, limits: Limits, wall_clock: Callable[[], int]
    ) -> None:
        journal_class = InlineJournal if isinstance(store, MemoryLog) else ThreadJournal
        self._journal = journal_class(
            store,
            wall_clock=wall_clock,
            commits_waiting_max=limits.commits_waiting_max,
            on_commit=self.feed.notify,
            before_commit=(lambda: None) if self._keys is None else self._keys.flush,
        )
        self._projections.on_advance = self._journal.admission.release
        self._maintenance = Maintenance(store, self._journal, self._types, limits, wall_clock, self._type_of)
        self._residents = Residents(nursery, store, self._journal, limits, wall_clock, self._maintenance.prover.taken)
        self._maintenance.prover.on_quarantine = self._residents.load_again
        if self._keys is not None:
            parts = (self._keys, store, self._journal, self._residents, self._projections, nursery)
            self._forgetting = Forgetting(*parts, self._maintenance, limits, wall_clock)
            nursery.start_soon(in_background, self._forgetting.finish_interrupted, name="eventsrc forgetting")
        nursery.start_soon(in_background, self._maintenance.run, name="eventsrc maintenance")
        nursery.start_soon(in_background, self._residents.passivate_idle, name="eventsrc passivation")

    async def _begin(
        self, nursery: trio.Nursery, home: Home, projections: Sequence[type[Projection]], sagas: Sequence[type[Saga]]
    ) -> None:
        logger.info("opened", extra={"path": self._store.path, "position": self._store.last_position})
        await self._follow(nursery, home, projections)
        await self._open_sagas(nursery, home, sagas)
        self._take_requests(nursery, home)

    async def _follow(self, nursery: trio.Nursery, home: Home, projections: Sequence[type[Projection]]) -> None:
        """Start what follows the log."""
        await self._projections.open(projections, home.views_of, home.board)
        if isinstance(self._store, LogReader) and not isinstance(self._store, EventLog):
            told = self.subscribe(types=SUBJECT_FORGOTTEN, after=self._projections.forgotten_position)
            nursery.start_soon(in_background, self._projections.forget_along, told, name="eventsrc forgetting")
        if self._journal is not None and self._projections.slow_writers_down:
            self._journal.admission.admits = self._projections.admits
        if home.board is not None and not isinstance(self._store, PastLog):
            parts = (nursery, self._store, self.feed, self.limits, home.board, self._wall_clock)
            self._subscriptions = Subscriptions(*parts, keeps_progress=not home.is_numbered)
            await self._subscriptions.open()

    async def _open_sagas(self, nursery: trio.Nursery, home: Home, classes: Sequence[type[Saga]]) -> None:
        if not classes:
            return
        assert home.board is not None, "sagas have a view, and views have a home"
        parts = (self._type_of, self._router, self._store, self.feed, self._serializer, self._codecs)
        sagas = Sagas(nursery, classes, *parts)
        await sagas.open(self._projections, home.board)
        self._sagas = sagas
        if self._forgetting is not None:
            self._forgetting.sagas = sagas.supervisor

    def _take_requests(self, nursery: trio.Nursery, home: Home) -> None:
        """Do what is asked from outside, once everything that it may be about is there."""
        if home.board is not None and home.board.waits and self._subscriptions is not None:
            parts = (self._projections, self._subscriptions, self._numbers, self._sagas, self._maintenance)
            self._control = Control(home.board, *parts, self._forgetting)
            nursery.start_soon(in_background, self._control.run, name="eventsrc control")

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        store: str | os.PathLike[str] | EventStore | PastLog,
        *,
        aggregates: Sequence[type[Aggregate]] = (),
        projections: Sequence[type[Projection]] = (),
        sagas: Sequence[type[Saga]] = (),
        views: ViewsGiven[P] = None,
        keys: str | os.PathLike[str] | SubjectKeys | None = None,
        role: Literal["writer", "reader"] = "writer",
        limits: Limits = DEFAULT_LIMITS,
        converter: cattrs.Converter | None = None,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> "AsyncIterator[Runtime]":
        """Open a store and run its aggregates until the block ends.

        Args:
            store: the path of a folder, made if it is not there; or a store such as `MemoryLog()`.
            aggregates: the classes whose actors may be used.
            projections: the classes whose views are kept up to date.
            sagas: the classes that may be started, and whose instances are resumed.
            views: a folder for them, by default beside the log; or for some a `ViewStore`, such as `SqlViews(url)`.
            keys: the file with the keys that personal data are sealed with, by default beside the log: `bank.db.keys`.
            role: a "reader" opens the store read-only, while another process writes it, and follows that one.
            limits: the bounds, see `Limits`.
            converter: a cattrs converter with hooks of your own; see `make_converter`.
            wall_clock: gives the time that events are stored with, in UTC nanoseconds.

        Leaving the block drains every mailbox and closes the store; a second Ctrl-C skips what was not begun.

        Raises:
            NotInTrio, DefinitionError: not called by a task of trio; two classes of one category, or none of its kind.
            SchemaError: a field of a class cannot be turned into data.
            DecodingError: an event class cannot read what is stored of it (`EventVersionUnknown`, `UpcasterFailed`).
            StoreError: the store cannot be opened; or later, in a group, a reader's was replaced (`StoreReplaced`).
            ShutdownTimeout: on leaving, when mailboxes did not drain in `Limits.shutdown_seconds`.

        """
        subject_keys = keys_of(store, keys, role)
        serializer = Serializer(converter, subject_keys)
        projections = with_sagas_view(projections, sagas, limits)
        aggregate_types = types_of(aggregates, serializer)
        codecs = EventCodecs(event_classes(aggregates, projections, sagas), serializer)
        opened = await open_store(store, role, limits)
        failure: BaseException | None = None
        try:
            # Around the nursery: what runs there may still be writing to it in a worker thread.
            await trio.to_thread.run_sync(_look_at_stored, opened, codecs, aggregate_types.values(), subject_keys)
            async with home_of(opened, projections, views) as home, trio.open_nursery() as keeper:
                nursery = await nursery_within(keeper)
                # Failures are raised again outside of the nursery, which would wrap them in a group.
                try:
                    runtime = cls(
                        nursery, opened, aggregate_types, codecs, serializer, subject_keys, limits, wall_clock
                    )
                    try:
                        await runtime._begin(nursery, home, projections, sagas)
                        yield runtime
                    except BaseException as error:
                        failure = error
                    await runtime._shut_down()
                except BaseException as error:
                    failure = failure or error
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(close_store, opened, None if subject_keys is keys else subject_keys)
            logger.info("closed", extra={"path": opened.path, "position": opened.last_position})
        if failure is not None:
            raise failure

    def actor(self, aggregate_class: type[A], aggregate_id: str) -> AggregateRef[A]:
        """A reference to an aggregate, whether or not it exists or is in memory.

        Raises `UnknownAggregate`, or `StreamNameInvalid` for an id that cannot be stored.
        """
        return AggregateRef(self._router, self._type_of(aggregate_class), aggregate_id)

    async def transact(
        self,
        commands: Sequence[tuple[type[Aggregate], str, object]],
        *,
        unchanged: Sequence[tuple[type[Aggregate], str, int]] = (),
        idempotency_key: str | None = None,
        timeout: float | None = None,
        correlation_id: str | None = None,
        metadata: Mapping[str, object] | None = None,
        unless: EventQuery | None = None,
        wait_for: Sequence[type[Projection]] = (),
    ) -> list[Receipt]:
        """Have several aggregates decide, and store all their events in one commit, or none.

        `await runtime.transact([(Account, "ann", Withdraw(5)), (Account, "bob", Deposit(5))])`

        Args:
            commands: (class, id, command) of each; one aggregate may get several, which it decides one after the other.
            unchanged: (class, id, version) of aggregates that were read: the commit fails if they have moved.
            idempotency_key: a second transaction with the same key and aggregates, in whatever order, takes no effect
                and gets the first one's receipts. It is the aggregates that know the key: others do not.
            timeout: seconds for all of it; `Limits.command_timeout_seconds` unless given.
            correlation_id: as in `ask`, for all commands.
            metadata: plain data stored with each event.
            unless: nothing is stored if an event matches this query.
            wait_for: projections whose views are to hold what was done before the receipts are returned.

        Raises:
            Rejected: one of them refused; nothing was stored.
            VersionConflict: one of `unchanged` has moved.
            TransactionTimeout: it did not end in time; the error says whether it may still take effect.
            TransactionTooLarge, TransactionKeyReused, ConditionNotMet: nothing was stored.
            UnknownCommand, HandlerFailed, MailboxFull, StoreError, ...: as in `ask`; nothing was stored.

        """
        self._projections.check(wait_for)
        if idempotency_key is not None:
            check_key(idempotency_key, self.limits)
        if not commands:
            return []
        seconds = checked_timeout(timeout, self.limits)
        transaction = Transaction(
            self._router,
            [Part(self._type_of(of), each, command) for of, each, command in checked_triples("commands", commands)],
            [
                StreamAppend(self._type_of(of).stream(each), version, ())
                for of, each, version in checked_triples("unchanged", unchanged)
            ],
            idempotency_key,
            correlation_id,
            metadata,
            None if unless is None else resolved(unless),
        )
        receipts = await transaction.run(seconds)
        for receipt in receipts if wait_for else ():
            await wait_for_views(self._projections, wait_for, receipt.position, transaction.deadline, receipt)
        return receipts

    async def forget(
        self,
        subject: str,
        *,
        even_in_sagas: bool = False,
        metadata: Mapping[str, object] | None = None,
        wait_for: Sequence[type[Projection]] = (),
        timeout: float | None = None,
    ) -> Forgotten:
        """Forget a subject: destroy its keys, so that nobody can read what is stored of it, here or in a copy.

        Events stay, with what their personal fields are once they are `forgotten`; states are loaded, and views built,
        anew. What fails is tried again once a minute, and when the store is opened. Handlers and steps under way end
        first; what is stored of it meanwhile may be forgotten, too, and is sealed with a new key after that.

        Args:
            subject: its id, as the personal fields name it.
            even_in_sagas: also where sagas hold something of it that have not ended; they go on with what is left.
            metadata: plain data stored with the `SubjectForgotten`: who asked for it, say.
            wait_for: projections whose views are to have forgotten it before this returns.
            timeout: how many seconds to wait for those; for ever by default, since they may be built from all events.

        Raises:
            UnknownSubject: it was forgotten before, or nothing personal was ever stored of it.
            SubjectInSagas, SagaHoldsSubject: sagas that have not ended hold something of it; nothing was forgotten.
            RuntimeReadOnly, ArgumentInvalid, EncodingError: nothing was forgotten.
            ProjectionUnavailable: one of `wait_for` is paused, or has failed; the subject is forgotten.
            ViewStillRemembers: one of `wait_for` took longer than `timeout`; the subject is forgotten.
            SubjectKeysUnusable, ArchiveUnreachable, StoreError: where keys were destroyed, the rest is tried again.

        """
        check_subject(subject)
        check_timeout(timeout)
        self._projections.check(wait_for)
        if metadata is not None:
            check_metadata(metadata)
        if self._journal is not None and self._keys is None:
            raise UnknownSubject(subject, self._store.path)
        if self._forgetting is None:
            raise refusal(self._store)
        forgotten = await self._forgetting.forget(subject, metadata or {}, even_in_sagas=even_in_sagas)
        await wait_until_forgotten(self._projections, wait_for, subject, math.inf if timeout is None else timeout)
        return forgotten

    # --- the past ---

    @asynccontextmanager
    async def as_of(
        self,
        *,
        position: int | None = None,
        time: datetime | None = None,
        projections: Sequence[type[Projection]] = (),
        timeout: float | None = None,
    ) -> "AsyncIterator[Runtime]":
        """A runtime that only reads, in which states, events and views are as they were then.

        `async with runtime.as_of(time=...) as past: await past.actor(Account, "ann").state()`. The views of the
        `projections` are built for it, from all events until then, and ready when the block begins; `timeout` is for
        how many seconds that may take, by default any. A position inside of a transaction shows the part of it up to
        there; a time, all that was stored then or before: never a part of a transaction.

        Raises `ViewTooOld` after `timeout`, `NotInHistory` for a moment that the log does not reach, and inside
        `PastReadOnly` for what changes.
        """
        check_on_trio("runtime.as_of", "portal.enter(runtime.as_of(...))")
        check_timeout(timeout)
        deadline = math.inf if timeout is None else trio.current_time() + timeout
        past = PastLog(self._store, position_of(self._store, position=position, time=time))
        async with Runtime.open(
            past,
            aggregates=list(self._types),
            projections=projections,
            keys=self._keys,
            role="reader",
            limits=self.limits,
            converter=self._serializer.converter,
        ) as runtime:
            await wait_for_views(runtime._projections, projections, past.last_position, deadline)
            with self._projections.taking_along(runtime._projections):
                yield runtime

    @property
    def maintenance(self) -> Maintenance:
        """Compaction and its way back, retention, proofs of snapshots. Raises `RuntimeReadOnly` for a reader."""
        if self._maintenance is None:
            raise refusal(self._store)
        return self._maintenance

    async def _shut_down(self) -> None:
        """Drain the mailboxes and write what they decide; then nothing is in flight any more."""
        self._router.is_closing = True
        self._projections.let_writers_go()
        # From the last to the first; each is closed, whatever another raises. Each bounds its own time.
        with trio.CancelScope(shield=True):
            async with AsyncExitStack() as closing:
                if self._subscriptions is not None:
                    closing.push_async_callback(self._subscriptions.close)
                closing.push_async_callback(self._projections.close)
                if self._control is not None:
                    closing.push_async_callback(self._control.close)
                closing.callback(self.feed.close)
                if self._journal is not None:
                    closing.push_async_callback(self._journal.close)
                if self._maintenance is not None:
                    closing.push_async_callback(self._maintenance.close)
                if self._control is not None:
                    closing.push_async_callback(self._control.stop)
                closing.push_async_callback(self._stop_residents)
                if self._sagas is not None:
                    closing.push_async_callback(self._sagas.close, self.limits.shutdown_seconds)

    async def _stop_residents(self) -> None:
        if self._residents is None:
            return
        with trio.move_on_after(self.limits.shutdown_seconds) as scope:
            await self._residents.stop()
        if scope.cancelled_caught and len(self._residents):
            raise ShutdownTimeout(self.limits.shutdown_seconds, self._residents.streams)


def _look_at_stored(
    store: Opened, codecs: EventCodecs, types: Iterable[AggregateType], keys: SubjectKeys | None
) -> None:
    forget_again(store, keys)
    check_stored_events(store, codecs, types)
