"""Keeps a store in good order while it is used: finishes compactions, proves snapshots, and stands still on request."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from ...actors.aggregates.aggregate import Aggregate
from ...actors.aggregates.aggregate_type import AggregateType
from ...actors.journal.inline_journal import InlineJournal
from ...actors.journal.thread_journal import ThreadJournal
from ...storage.archive.errors import CompactionRefused
from ...storage.errors import EventSourcingError
from ...storage.limits import Limits
from ...storage.log import EventLog
from ...storage.store import EventStore
from .compactor import Compactor
from .snapshot_prover import SnapshotProver

logger = logging.getLogger("eventsrc.maintenance")


class Upkeep:
    """Proves snapshots in the background, and owns the compactor."""

    def __init__(
        self,
        store: EventStore,
        journal: ThreadJournal | InlineJournal,
        *,
        types: Mapping[type[Aggregate], AggregateType],
        limits: Limits,
        wall_clock: Callable[[], int],
    ) -> None:
        self._store = store
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

    def compactor(self, stream: str) -> Compactor:
        """Compacts streams. Raises `CompactionRefused` for `stream` where the store has no archive."""
        if self._compactor is None:
            raise CompactionRefused(stream, f"{self._store.path} has no folder for an archive")
        return self._compactor

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
