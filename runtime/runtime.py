"""The runtime: opens a store, routes commands to aggregates, and closes in order."""

import logging
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Final, Literal, TypeVar

import cattrs
import trio

from ..actors.aggregates.aggregate import Aggregate
from ..actors.aggregates.aggregate_type import AggregateType
from ..actors.aggregates.receipt import Receipt
from ..actors.background import in_background, in_thread, in_thread_or_here, nursery_within
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
from .maintenance.upkeep import Upkeep
from .opening import Home, Opened, P, ViewsGiven, close_store, follow, home_of, keys_of, open_store, refusal
from .projections.projections import Projections
from .projections.view import wait_for_views, wait_until_forgotten
from .reading import Reading
from .reference import AggregateRef
from .residents import Residents
from .router import Router
from .sagas.saga_methods import SagaMethods
from .sagas.sagas import Sagas
from .schema_check import check_stored_events
from .settings import check_settings
from .subscriptions.subscriptions import Subscriptions
from .transaction import Part, Transaction
from .trio_thread import check_on_trio

A = TypeVar("A", bound=Aggregate)

logger = logging.getLogger("eventsrc.runtime")
DEFAULT_LIMITS: Final = Limits()


class Runtime(Reading, SagaMethods, Figures):
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
        self._upkeep: Upkeep | None = None
        self._maintenance: Maintenance | None = None
        self._forgetting: Forgetting | None = None
        if isinstance(store, EventLog) or not isinstance(store, LogReader | PastLog):
            self._start_writing(nursery, store)
        elif isinstance(store, LogReader):
            nursery.start_soon(in_background, follow, store, self.feed, name="eventsrc reader")
        self._router = Router(store, limits, self._projections, self._residents)
        nursery.start_soon(in_background, self._router.deadlines.run, name="eventsrc deadlines")

    def _start_writing(self, nursery: trio.Nursery, store: EventStore) -> None:
        limits, wall_clock = self.limits, self._wall_clock
        journal_class = InlineJournal if isinstance(store, MemoryLog) else ThreadJournal
        self._journal = journal_class(
            store,
            wall_clock=wall_clock,
            commits_waiting_max=limits.commits_waiting_max,
            on_commit=self.feed.notify,
            before_commit=(lambda: None) if self._keys is None else self._keys.flush,
        )
        self._projections.on_advance = self._journal.admission.release
        self._upkeep = Upkeep(store, self._journal, types=self._types, limits=limits, wall_clock=wall_clock)
        self._maintenance = Maintenance(store, self._upkeep, self._type_of)
        self._residents = Residents(
            nursery,
            store=store,
            journal=self._journal,
            limits=limits,
            wall_clock=wall_clock,
            snapshot_taken=self._upkeep.prover.taken,
        )
        self._upkeep.prover.on_quarantine = self._residents.load_again
        if self._keys is not None:
            self._forgetting = Forgetting(
                keys=self._keys,
                store=store,
                journal=self._journal,
                residents=self._residents,
                projections=self._projections,
                nursery=nursery,
                upkeep=self._upkeep,
                limits=limits,
                wall_clock=wall_clock,
            )
            nursery.start_soon(in_background, self._forgetting.finish_interrupted, name="eventsrc forgetting")
        nursery.start_soon(in_background, self._upkeep.run, name="eventsrc maintenance")
        nursery.start_soon(in_background, self._residents.passivate_idle, name="eventsrc passivation")

    async def _begin(
        self, nursery: trio.Nursery, home: Home, projections: Sequence[type[Projection]], sagas: Sequence[type[Saga]]
    ) -> None:
        logger.info("opened", extra={"path": self._store.path, "position": self._store.last_position})
        await self._projections.open(projections, home.views_of, home.board)
        if isinstance(self._store, LogReader) and not isinstance(self._store, EventLog):
            told = self.subscribe(types=SUBJECT_FORGOTTEN, after=self._projections.forgotten_position)
            nursery.start_soon(in_background, self._projections.forget_along, told, name="eventsrc forgetting")
        if self._journal is not None and self._projections.slow_writers_down:
            self._journal.admission.admits = self._projections.admits
        if home.board is not None and not isinstance(self._store, PastLog):
            self._subscriptions = Subscriptions(
                nursery,
                store=self._store,
                feed=self.feed,
                limits=self.limits,
                board=home.board,
                wall_clock=self._wall_clock,
                keeps_progress=not home.is_numbered,
            )
            await self._subscriptions.open()
        if sagas:
            await self._open_sagas(nursery, home, sagas)
        # Requests from outside are carried out once every part that they may concern is there.
        if home.board is not None and home.board.waits and self._subscriptions is not None:
            self._control = Control(
                home.board,
                projections=self._projections,
                subscriptions=self._subscriptions,
                numbers=self._numbers,
                sagas=self._sagas,
                maintenance=self._maintenance,
                forgetting=self._forgetting,
            )
            nursery.start_soon(in_background, self._control.run, name="eventsrc control")

    async def _open_sagas(self, nursery: trio.Nursery, home: Home, classes: Sequence[type[Saga]]) -> None:
        assert home.board is not None, "sagas have a view, and views have a home"
        sagas = Sagas(
            nursery,
            classes,
            type_of=self._type_of,
            router=self._router,
            store=self._store,
            feed=self.feed,
            serializer=self._serializer,
            codecs=self._codecs,
        )
        await sagas.open(self._projections, home.board)
        self._sagas = sagas
        if self._forgetting is not None:
            self._forgetting.sagas = sagas.supervisor

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
            store: the path of a folder, made if missing; or a store such as `MemoryLog()`.
            aggregates: the classes whose actors may be used.
            projections: the classes whose views are kept up to date.
            sagas: the classes that may be started, and whose instances are resumed.
            views: the folder for views, by default beside the log; or a mapping of projections to a `ViewStore`.
            keys: the file of the keys that seal personal data, by default beside the log: `bank.db.keys`.
            role: a "reader" opens the store read-only and follows the process that writes it.
            limits: the bounds, see `Limits`.
            converter: a cattrs converter with hooks of your own; see `make_converter`.
            wall_clock: returns the time that events are stored with, in UTC nanoseconds.

        Leaving the block drains every mailbox and closes the store; a second Ctrl-C skips commands that have not begun.

        Raises:
            NotInTrio, ArgumentInvalid: not called by a task of trio; an argument of a wrong kind.
            DefinitionError: two classes of one category, or a class that is no aggregate, projection or saga.
            SchemaError: a field of a class cannot be turned into data.
            DecodingError: an event class cannot read its stored events (`EventVersionUnknown`, `UpcasterFailed`).
            StoreError: the store cannot be opened; or later, in a group, `StoreReplaced` for a reader.
            ShutdownTimeout: on leaving, when mailboxes did not drain in `Limits.shutdown_seconds`.
        """
        check_settings(limits, converter, wall_clock)
        subject_keys = keys_of(store, keys, role)
        serializer = Serializer(converter, subject_keys)
        projections = with_sagas_view(projections, sagas, limits)
        types = types_of(aggregates, serializer)
        codecs = EventCodecs(event_classes(aggregates, projections, sagas), serializer)
        opened = await open_store(store, role, limits)
        failure: BaseException | None = None
        try:
            # Opened outside of the nursery: worker threads of its tasks may still be writing to the store.
            await in_thread(forget_again, opened, subject_keys)
            await in_thread(check_stored_events, opened, codecs, types.values())
            async with home_of(opened, projections, views) as home, trio.open_nursery() as keeper:
                nursery = await nursery_within(keeper)
                # Failures are raised again outside of the nursery, which would wrap them in a group.
                try:
                    runtime = cls(nursery, opened, types, codecs, serializer, subject_keys, limits, wall_clock)
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
                await in_thread_or_here(close_store, opened, None if subject_keys is keys else subject_keys)
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
            commands: (class, id, command) of each; an aggregate decides several commands one after the other.
            unchanged: (class, id, version) of aggregates that were read: the commit fails if one has another version.
            idempotency_key: a second transaction with the same key and the same aggregates, in any order, takes no
                effect and gets the first one's receipts. The aggregates remember the key: other aggregates do not.
            timeout: seconds for all of it; `Limits.command_timeout_seconds` unless given.
            correlation_id: as in `ask`, for all commands.
            metadata: plain data stored with each event.
            unless: nothing is stored if an event matches this query.
            wait_for: projections whose views must show the transaction's effect before the receipts are returned.

        Raises:
            Rejected: one of them refused; nothing was stored.
            VersionConflict: one of `unchanged` has another version; nothing was stored.
            TransactionTimeout: it did not end in time; the error says whether it may still take effect.
            TransactionTooLarge, TransactionKeyReused, ConditionNotMet: nothing was stored.
            UnknownCommand, HandlerFailed, MailboxFull, StoreError, ...: as in `ask`; nothing was stored.
        """
        self._projections.check(wait_for)
        if idempotency_key is not None:
            check_key(idempotency_key, self.limits)
        if not checked_triples("commands", commands):
            return []
        seconds = checked_timeout(timeout, self.limits)
        transaction = Transaction(
            self._router,
            [Part(self._type_of(of), each, command) for of, each, command in commands],
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
        """Forget a subject: destroy its keys, so that nobody can read its personal data, here or in a copy.

        Events stay, and their personal fields take their `forgotten` values; states are loaded, and views built, anew.
        A step that fails is tried again once a minute, and when the store is opened. Handlers and saga steps under way
        end first; data of the subject stored meanwhile may be forgotten as well, and later data are sealed with a new
        key.

        Args:
            subject: the id that the personal fields name.
            even_in_sagas: forget even where unfinished sagas hold data of the subject; they go on without those data.
            metadata: plain data stored with the `SubjectForgotten` event, for example who asked for it.
            wait_for: projections whose views must have forgotten the subject before this returns.
            timeout: seconds to wait for those views; unbounded by default, since they may be built from all events.

        Raises:
            UnknownSubject: it was forgotten before, or nothing personal was ever stored of it.
            SubjectInSagas, SagaHoldsSubject: unfinished sagas hold data of the subject; nothing was forgotten.
            RuntimeReadOnly, ArgumentInvalid, EncodingError: nothing was forgotten.
            ProjectionUnavailable: one of `wait_for` is paused or has failed; the subject is forgotten.
            ViewStillRemembers: one of `wait_for` took longer than `timeout`; the subject is forgotten.
            SubjectKeysUnusable, ArchiveUnreachable, StoreError: where keys were destroyed, the rest is tried again.
        """
        check_subject(subject)
        check_timeout(timeout)
        self._projections.check(wait_for)
        check_metadata({} if metadata is None else metadata)
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
        """A read-only runtime whose states, events and views are as they were at a past moment.

        `async with runtime.as_of(time=...) as past: await past.actor(Account, "ann").state()`. The views of
        `projections` are built from all events up to that moment and are ready when the block begins; `timeout` bounds
        that in seconds, and is unbounded by default. A position inside a transaction shows the transaction's events up
        to it. A time shows all events stored at or before it, and so never a part of a transaction.

        Raises `ViewTooOld` after `timeout`, `NotInHistory` for a moment that the log does not reach, and within the
        block `PastReadOnly` for changes.
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
        """Compaction and its undoing, retention, proofs of snapshots. Raises `RuntimeReadOnly` for a reader."""
        if self._maintenance is None:
            raise refusal(self._store)
        return self._maintenance

    async def _shut_down(self) -> None:
        """Drain the mailboxes and store what they decide, so that nothing is in flight any more."""
        self._router.is_closing = True
        self._projections.let_writers_go()
        # The callbacks run from the last to the first; each runs even if another raises, and each bounds its own time.
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
                if self._upkeep is not None:
                    closing.push_async_callback(self._upkeep.close)
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
