"""Proves snapshots in the background, at a low rate; snapshots that their events do not give are put in quarantine.

New snapshots are proved from the newest proved snapshot before them. In addition, each time a store is opened every
snapshot is proved once more from the first event on, whatever was found before: the appliers may have changed, and
anybody who can forge a snapshot can mark it as proved.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import attrs
import trio

from ...actors.aggregates.aggregate_type import AggregateType
from ...actors.aggregates.snapshot_proof import beginning, prove, proved_before
from ...actors.background import in_background
from ...actors.journal.journal import Journal
from ...storage.errors import EventSourcingError
from ...storage.limits import Limits
from ...storage.names import category_of
from ...storage.query import find_streams
from ...storage.snapshot import Snapshot
from ...storage.store import EventStore

PROOF_DELAY_SECONDS: Final = 1.0
"""The delay between taking a snapshot and proving it: the new snapshots of one stream are proved together."""
STREAMS_WAITING_MAX: Final = 10_000
"""The most streams with new snapshots that are remembered; when there are more, all streams are searched for them."""

STREAMS_PER_REST: Final = 100
"""Streams looked at before a rest; each counts as an event."""

logger = logging.getLogger("eventsrc.snapshots")


@attrs.define
class ProofCounts:
    """The results since the runtime was opened."""

    proved: int = 0
    quarantined: int = 0
    impossible: int = 0
    """Streams whose events the current classes cannot replay."""


class SnapshotProver:
    """Goes through all streams once, and also proves the new snapshots of streams.

    `on_quarantine` is called with the stream of a wrong snapshot, once the quarantine is on disk.
    """

    def __init__(self, store: EventStore, journal: Journal, types: Mapping[str, AggregateType], limits: Limits) -> None:
        self.counts = ProofCounts()
        self._store = store
        self._journal = journal
        self._types = types
        self._rate = limits.proof_events_per_second
        self._waiting: dict[str, None] = {}
        self.on_quarantine: Callable[[str], None] = lambda _: None
        self._one_at_a_time = trio.Lock()
        self._interruptions = 0
        self._is_scan_due = False
        self._more = trio.Event()

    def taken(self, stream: str) -> None:
        """Take note that a snapshot of this stream is on its way to the disk."""
        self._waiting[stream] = None
        if len(self._waiting) > STREAMS_WAITING_MAX:
            self._waiting.clear()
            self._is_scan_due = True
        self._more.set()

    async def run(self) -> None:
        """Prove snapshots until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_background, self._scan, True)
            await self._follow()

    async def prove_stream(self, stream: str, *, once_more: bool = True) -> list[Snapshot]:
        """Prove the snapshots of one stream, or only the unproved ones; returns them oldest first, with their verdicts.

        Raises the errors of a replay.
        """
        aggregate_type = self._types.get(category_of(stream))
        if aggregate_type is None:
            return []
        async with self._one_at_a_time:
            return await self._prove(aggregate_type, stream, once_more)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Discard the results of proofs that overlap the block."""
        self._interruptions += 1
        try:
            yield
        finally:
            self._interruptions += 1

    async def _prove(self, aggregate_type: AggregateType, stream: str, once_more: bool) -> list[Snapshot]:
        snapshots = [
            snapshot
            for snapshot in reversed(self._store.snapshots(stream))
            if (once_more or not snapshot.is_proved) and aggregate_type.can_use(snapshot)
        ]
        if not snapshots:
            return []
        base = (
            beginning(aggregate_type, stream)
            if once_more
            else proved_before(self._store, aggregate_type, stream, snapshots[0].version)
        )
        begun = self._interruptions
        verdicts = await prove(self._store, aggregate_type, snapshots, base, self._pace)
        if begun % 2 or begun != self._interruptions:
            return []
        await self._note([found for found, known in zip(verdicts, snapshots, strict=True) if found != known])
        return verdicts

    async def _note(self, verdicts: list[Snapshot]) -> None:
        """Store the verdicts, and report them once they are stored."""
        if not verdicts:
            return
        await self._journal.save_now(verdicts)
        if any(found.quarantined for found in verdicts):
            self.on_quarantine(verdicts[0].stream)
        for found in verdicts:
            if found.quarantined:
                self.counts.quarantined += 1
                where = {"stream": found.stream, "version": found.version}
                logger.error("snapshot quarantined: %s", found.quarantined, extra=where)
            else:
                self.counts.proved += 1

    async def _follow(self) -> None:
        """Prove new snapshots."""
        while True:
            if self._is_scan_due:
                self._is_scan_due = False
                await self._scan(False)
            while self._waiting:
                await trio.sleep(PROOF_DELAY_SECONDS)
                due, self._waiting = self._waiting, {}
                await self._journal.until_saved()
                for stream in due:
                    await self._guarded(stream, False)
            if not self._is_scan_due:
                self._more = trio.Event()
                await self._more.wait()

    async def _scan(self, once_more: bool) -> None:
        for number, head in enumerate(find_streams(self._store), 1):
            await self._guarded(head.stream, once_more)
            if number % STREAMS_PER_REST == 0:
                await self._pace(STREAMS_PER_REST)

    async def _guarded(self, stream: str, once_more: bool) -> None:
        try:
            await self.prove_stream(stream, once_more=once_more)
        except EventSourcingError as error:
            self.counts.impossible += 1
            logger.warning("snapshots cannot be proved: %s", error, extra={"stream": stream})

    async def _pace(self, events: int) -> None:
        await trio.sleep(events / self._rate)
