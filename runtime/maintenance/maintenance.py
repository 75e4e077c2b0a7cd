"""What keeps a store in good order while it is used: proving snapshots, compacting streams, retention."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import trio

from ...actors.aggregates.aggregate import Aggregate
from ...actors.aggregates.aggregate_type import AggregateType
from ...actors.background import in_thread
from ...actors.journal.inline_journal import InlineJournal
from ...actors.journal.thread_journal import ThreadJournal
from ...storage.archive.compacted import Compacted
from ...storage.archive.errors import CompactionRefused
from ...storage.errors import EventSourcingError
from ...storage.limits import Limits
from ...storage.log import EventLog
from ...storage.query import find_streams
from ...storage.snapshot import Snapshot
from ...storage.store import EventStore
from ..trio_thread import check_on_trio
from .compactor import Compaction, Compactor
from .retention import Candidate
from .snapshot_prover import ProofCounts, SnapshotProver

logger = logging.getLogger("eventsrc.maintenance")


@attrs.frozen
class Retention:
    """What the policy did, or would do."""

    candidates: list[Candidate]
    compacted: list[Compaction]
    refused: dict[str, str]
    """Why a stream was left as it is."""


class Maintenance:
    """`Runtime.maintenance`. Snapshots are proved in the background; the rest is done when it is asked for."""

    def __init__(
        self,
        store: EventStore,
        journal: ThreadJournal | InlineJournal,
        types: Mapping[type[Aggregate], AggregateType],
        limits: Limits,
        wall_clock: Callable[[], int],
        type_of: Callable[[type[Aggregate]], AggregateType],
    ) -> None:
        self._store = store
        self._type_of = type_of
        by_category = {aggregate_type.category: aggregate_type for aggregate_type in types.values()}
        self.prover = SnapshotProver(store, journal, by_category, limits)
        self._compactor: Compactor | None = None
        if isinstance(store, EventLog) and isinstance(journal, ThreadJournal):
            self._compactor = Compactor(store, journal, by_category, limits, wall_clock)
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def run(self) -> None:
        """Finish what was interrupted, then prove snapshots, until it is closed."""
        try:
            with self._scope:
                await self._finish_compactions()
                await self.prover.run()
        finally:
            self._ended.set()

    async def close(self) -> None:
        """End what goes on in the background; the journal must still be there."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()
        if self._compactor is not None:
            await self._compactor.close()

    # --- compaction ---

    async def compact(self, aggregate_class: type[Aggregate], aggregate_id: str) -> Compaction:
        """Move the events of an aggregate that its newest snapshot stands for to the archive beside the store.

        Versions, positions and hashes stay, and whoever reads the events gets them from there. Commands go on
        meanwhile. Nothing is removed before the archive was read back, and replaying it gave the same state.

        Raises:
            CompactionTooSmall: not more than `Limits.compaction_events_min` events, and not ended
                `Limits.retention_days` ago.
            CompactionRefused: a saga that has sent it commands has not ended; the snapshot is not what the events
                give; ...
            StoreError: the disk refused.

        """
        return await self.compact_stream(self._type_of(aggregate_class).stream(aggregate_id))

    async def uncompact(self, aggregate_class: type[Aggregate], aggregate_id: str) -> int:
        """Put the events of an aggregate back into the log, bit for bit; return how many there were.

        Raises `CompactionRefused` where none is in the archive, `ArchiveUnreachable`, `StoreError`.
        """
        return await self.uncompact_stream(self._type_of(aggregate_class).stream(aggregate_id))

    async def compact_stream(self, stream: str) -> Compaction:
        """`compact` for a stream by its name."""
        check_on_trio("maintenance.compact")
        return await self._compacting(stream).compact(stream)

    async def uncompact_stream(self, stream: str) -> int:
        """`uncompact` for a stream by its name."""
        check_on_trio("maintenance.uncompact")
        return await self._compacting(stream).uncompact(stream)

    @asynccontextmanager
    async def standing_still(self) -> AsyncIterator[None]:
        """In the block nothing is compacted, and nothing that a proof which touches it finds out is kept.

        They begin with what was stored before: it would be stored again once it was removed.
        """
        async with AsyncExitStack() as stack:
            if self._compactor is not None:
                await stack.enter_async_context(self._compactor.one_at_a_time)
            stack.enter_context(self.prover.standing_still())
            yield

    async def take_back(self, stream: str) -> None:
        """While it stands still: undo the compaction of a stream, if there was one."""
        is_compacted = isinstance(self._store, EventLog) and self._store.compacted(stream) is not None
        if self._compactor is not None and is_compacted:
            await self._compactor.put_back(stream)

    async def retain(self, *, dry_run: bool = False) -> Retention:
        """Compact every stream that the policy names: long ones, and those that were ended long ago.

        An unfinished saga keeps a stream as it is where events that the saga caused would be moved. With `dry_run` it
        only tells which.
        """
        check_on_trio("maintenance.retain")
        compactor = self._compacting("*")
        candidates = await compactor.candidates()
        done: list[Compaction] = []
        refused: dict[str, str] = {}
        for candidate in () if dry_run else candidates:
            try:
                done.append(await compactor.compact(candidate.stream, by_policy=True))
            except EventSourcingError as error:
                logger.warning("not compacted: %s", error, extra={"stream": candidate.stream})
                refused[candidate.stream] = str(error)
        return Retention(candidates, done, refused)

    def compacted(self, aggregate_class: type[Aggregate], aggregate_id: str) -> Compacted | None:
        """What stands for the events of an aggregate that are in the archive; None where none is."""
        store = self._store
        return (
            store.compacted(self._type_of(aggregate_class).stream(aggregate_id))
            if isinstance(store, EventLog)
            else None
        )

    def _compacting(self, stream: str) -> Compactor:
        if self._compactor is None:
            raise CompactionRefused(stream, f"{self._store.path} has no folder for an archive")
        return self._compactor

    async def _finish_compactions(self) -> None:
        store = self._store
        if not isinstance(store, EventLog) or self._compactor is None:
            return
        after = ""
        while batch := store.compacted_streams(after=after):
            for compacted in batch:
                try:
                    await self._compactor.finish(compacted.stream)
                except EventSourcingError as error:
                    logger.error("a compaction cannot be finished: %s", error, extra={"stream": compacted.stream})
            after = batch[-1].stream

    # --- snapshots ---

    @property
    def proofs(self) -> ProofCounts:
        """How many snapshots were proved, and put in quarantine, since the runtime was opened."""
        return self.prover.counts

    def snapshots(self, aggregate_class: type[Aggregate], aggregate_id: str) -> list[Snapshot]:
        """The snapshots of an aggregate, newest first, without those in quarantine."""
        return self._store.snapshots(self._type_of(aggregate_class).stream(aggregate_id))

    async def prove(self, aggregate_class: type[Aggregate], aggregate_id: str) -> list[Snapshot]:
        """Prove the snapshots of an aggregate now, from its first event on; oldest first, with their verdicts.

        Raises `ApplierFailed`, `UnknownEvent`, `DecodingError` or a `StoreError` where its events cannot be replayed.
        """
        check_on_trio("maintenance.prove")
        return await self.prover.prove_stream(self._type_of(aggregate_class).stream(aggregate_id))

    async def quarantined(self) -> list[Snapshot]:
        """The snapshots that are not what their events give, and are never loaded."""

        def find() -> list[Snapshot]:
            heads = find_streams(self._store)
            return [each for head in heads for each in self._store.snapshots(head.stream, quarantined=True)]

        check_on_trio("maintenance.quarantined")
        return await in_thread(find)
