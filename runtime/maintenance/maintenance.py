"""Keeps a store in good order while it is used: proves snapshots, compacts streams, applies retention."""

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
from .retention import CompactionCandidate
from .snapshot_prover import ProofCounts, SnapshotProver

logger = logging.getLogger("eventsrc.maintenance")


@attrs.frozen
class RetentionReport:
    """What the retention policy did, or would do."""

    candidates: list[CompactionCandidate]
    compacted: list[Compaction]
    refused: dict[str, str]
    """The reason for each stream that was not compacted."""


class Maintenance:
    """`Runtime.maintenance`. Proves snapshots in the background; everything else runs on request."""

    def __init__(
        self,
        store: EventStore,
        journal: ThreadJournal | InlineJournal,
        *,
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
        """Finish interrupted compactions, then prove snapshots, until closed."""
        try:
            with self._scope:
                await self._finish_compactions()
                await self.prover.run()
        finally:
            self._ended.set()

    async def close(self) -> None:
        """End the background work; the journal must still be open."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()
        if self._compactor is not None:
            await self._compactor.close()

    # --- compaction ---

    async def compact(self, aggregate_class: type[Aggregate], aggregate_id: str) -> Compaction:
        """Move the events of an aggregate that its newest snapshot stands for to the archive beside the store.

        Versions, positions and hashes stay, and readers get the events from the archive. Commands go on meanwhile.
        Nothing is removed before the archive was read back, and replaying it gave the same state.

        Raises:
            CompactionTooSmall: not more than `Limits.compaction_events_min` events outside of the archive, and not
                ended at least `Limits.retention_days` ago.
            CompactionRefused: a saga that has sent it commands has not ended; the events do not give the snapshot; ...
            StoreError: the disk refused.
        """
        return await self.compact_stream(self._type_of(aggregate_class).stream(aggregate_id))

    async def uncompact(self, aggregate_class: type[Aggregate], aggregate_id: str) -> int:
        """Put the events of an aggregate back into the log, bit for bit; returns how many there were.

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
        """While the block runs, no stream is compacted, and the result of any proof that overlaps it is discarded.

        Compactions and proofs begin with data that were read earlier, and would store them again after they were
        removed.
        """
        async with AsyncExitStack() as stack:
            if self._compactor is not None:
                await stack.enter_async_context(self._compactor.one_at_a_time)
            stack.enter_context(self.prover.standing_still())
            yield

    async def take_back(self, stream: str) -> None:
        """Undo the compaction of a stream, if there was one; only within `standing_still`."""
        is_compacted = isinstance(self._store, EventLog) and self._store.compacted(stream) is not None
        if self._compactor is not None and is_compacted:
            await self._compactor.put_back(stream)

    async def retain(self, *, dry_run: bool = False) -> RetentionReport:
        """Compact every stream that the policy names: long streams, and streams that ended long ago.

        A stream is left as it is where the compaction would move events of an unfinished saga's commands. With
        `dry_run` the result only lists the candidates.
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
        return RetentionReport(candidates, done, refused)

    def compacted(self, aggregate_class: type[Aggregate], aggregate_id: str) -> Compacted | None:
        """The record that stands for the archived events of an aggregate; None where no event is archived."""
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
        """Prove the snapshots of an aggregate now, from its first event on; returns them with verdicts, oldest first.

        Raises `ApplierFailed`, `UnknownEvent`, `DecodingError` or a `StoreError` where its events cannot be replayed.
        """
        check_on_trio("maintenance.prove")
        return await self.prover.prove_stream(self._type_of(aggregate_class).stream(aggregate_id))

    async def quarantined(self) -> list[Snapshot]:
        """The snapshots that differ from the state that their events give; they are never loaded."""

        def find() -> list[Snapshot]:
            heads = find_streams(self._store)
            return [each for head in heads for each in self._store.snapshots(head.stream, quarantined=True)]

        check_on_trio("maintenance.quarantined")
        return await in_thread(find)
