"""What a program may ask of the upkeep of its store: compaction, retention and proofs of snapshots."""

import logging
from collections.abc import Callable

import attrs

from ...actors.aggregates.aggregate import Aggregate
from ...actors.aggregates.aggregate_type import AggregateType
from ...actors.background import in_thread
from ...storage.archive.compacted import Compacted
from ...storage.errors import EventSourcingError
from ...storage.log import EventLog
from ...storage.query import find_streams
from ...storage.snapshot import Snapshot
from ...storage.store import EventStore
from ..trio_thread import check_on_trio
from .compactor import Compaction
from .retention import CompactionCandidate
from .snapshot_prover import ProofCounts
from .upkeep import Upkeep

logger = logging.getLogger("eventsrc.maintenance")


@attrs.frozen
class RetentionReport:
    """What the retention policy did, or would do."""

    candidates: list[CompactionCandidate]
    compacted: list[Compaction]
    refused: dict[str, str]
    """The reason for each stream that was not compacted."""


class Maintenance:
    """`Runtime.maintenance`: compaction, retention and proofs of snapshots, each on request."""

    def __init__(self, store: EventStore, upkeep: Upkeep, type_of: Callable[[type[Aggregate]], AggregateType]) -> None:
        self._store = store
        self._upkeep = upkeep
        self._type_of = type_of

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
        return await self._upkeep.compactor(stream).compact(stream)

    async def uncompact_stream(self, stream: str) -> int:
        """`uncompact` for a stream by its name."""
        check_on_trio("maintenance.uncompact")
        return await self._upkeep.compactor(stream).uncompact(stream)

    async def retain(self, *, dry_run: bool = False) -> RetentionReport:
        """Compact every stream that the policy names: long streams, and streams that ended long ago.

        A stream is left as it is where the compaction would move events of an unfinished saga's commands. With
        `dry_run` the result only lists the candidates.
        """
        check_on_trio("maintenance.retain")
        compactor = self._upkeep.compactor("*")
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

    # --- snapshots ---

    @property
    def proofs(self) -> ProofCounts:
        """How many snapshots were proved, and put in quarantine, since the runtime was opened."""
        return self._upkeep.prover.counts

    def snapshots(self, aggregate_class: type[Aggregate], aggregate_id: str) -> list[Snapshot]:
        """The snapshots of an aggregate, newest first, without those in quarantine."""
        return self._store.snapshots(self._type_of(aggregate_class).stream(aggregate_id))

    async def prove(self, aggregate_class: type[Aggregate], aggregate_id: str) -> list[Snapshot]:
        """Prove the snapshots of an aggregate now, from its first event on; returns them with verdicts, oldest first.

        Raises `ApplierFailed`, `UnknownEvent`, `DecodingError` or a `StoreError` where its events cannot be replayed.
        """
        check_on_trio("maintenance.prove")
        return await self._upkeep.prover.prove_stream(self._type_of(aggregate_class).stream(aggregate_id))

    async def quarantined(self) -> list[Snapshot]:
        """The snapshots that differ from the state that their events give; they are never loaded."""

        def find() -> list[Snapshot]:
            heads = find_streams(self._store)
            return [each for head in heads for each in self._store.snapshots(head.stream, quarantined=True)]

        check_on_trio("maintenance.quarantined")
        return await in_thread(find)
