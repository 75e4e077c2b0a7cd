"""Proves snapshots in the background, at a low rate: what their events do not give is put in quarantine."""

import logging
from collections.abc import Mapping
from typing import Final

import attrs
import trio

from ..actors.aggregate_type import AggregateType
from ..actors.journal import Journal
from ..actors.snapshot_proof import prove
from ..storage.errors import EventSourcingError
from ..storage.limits import Limits
from ..storage.names import category_of
from ..storage.query import find_streams
from ..storage.snapshot import Snapshot
from ..storage.store import EventStore

PROOF_DELAY_SECONDS: Final = 1.0
"""Between a snapshot's being taken and its proof, in which it comes to the disk."""
STREAMS_WAITING_MAX: Final = 10_000
"""Streams with new snapshots that are remembered; when there are more, all streams are gone through once more."""

STREAMS_PER_REST: Final = 100
"""A stream that is looked at counts as an event."""

logger = logging.getLogger("eventsrc.snapshots")


@attrs.define
class ProofCounts:
    """What was found since the runtime was opened."""

    proved: int = 0
    quarantined: int = 0
    impossible: int = 0
    """The events cannot be replayed by the classes as they are."""


class SnapshotProver:
    """Goes through all streams once, and then through those that get new snapshots."""

    def __init__(self, store: EventStore, journal: Journal, types: Mapping[str, AggregateType], limits: Limits) -> None:
        self.counts = ProofCounts()
        self._store = store
        self._journal = journal
        self._types = types
        self._rate = limits.proof_events_per_second
        self._waiting: dict[str, None] = {}
        self._one_at_a_time = trio.Lock()
        self._is_scan_due = True
        self._more = trio.Event()

    def taken(self, stream: str) -> None:
        """A snapshot of this stream is on its way to the disk."""
        self._waiting[stream] = None
        if len(self._waiting) > STREAMS_WAITING_MAX:
            self._waiting.clear()
            self._is_scan_due = True
        self._more.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._is_scan_due:
                self._is_scan_due = False
                await self._scan()
            while self._waiting:
                await trio.sleep(PROOF_DELAY_SECONDS)
                for stream in list(self._waiting):
                    self._waiting.pop(stream, None)
                    await self._guarded(stream)
            if not self._is_scan_due:
                self._more = trio.Event()
                await self._more.wait()

    async def prove_stream(self, stream: str) -> list[Snapshot]:
        """Prove the snapshots of one stream that are not proved yet, oldest first; they come with their verdicts.

        Raises what a replay raises.
        """
        aggregate_type = self._types.get(category_of(stream))
        if aggregate_type is None:
            return []
        async with self._one_at_a_time:
            return await self._prove_all(aggregate_type, stream)

    async def _prove_all(self, aggregate_type: AggregateType, stream: str) -> list[Snapshot]:
        verdicts: list[Snapshot] = []
        for snapshot in reversed(self._store.snapshots(stream)):
            if snapshot.is_proved or snapshot.schema != aggregate_type.schema:
                continue
            found = await prove(self._store, aggregate_type, snapshot, self._pace)
            self._journal.save(found)
            verdicts.append(found)
            if found.quarantined:
                self.counts.quarantined += 1
                logger.error(
                    "snapshot quarantined: %s",
                    found.quarantined,
                    extra={"stream": stream, "version": snapshot.version},
                )
            else:
                self.counts.proved += 1
        if verdicts:
            await self._journal.until_saved()
        return verdicts

    async def _scan(self) -> None:
        for number, head in enumerate(find_streams(self._store), 1):
            await self._guarded(head.stream)
            if number % STREAMS_PER_REST == 0:
                await self._pace(STREAMS_PER_REST)

    async def _guarded(self, stream: str) -> None:
        try:
            await self.prove_stream(stream)
        except EventSourcingError as error:
            self.counts.impossible += 1
            logger.warning("snapshots cannot be proved: %s", error, extra={"stream": stream})

    async def _pace(self, events: int) -> None:
        await trio.sleep(events / self._rate)
