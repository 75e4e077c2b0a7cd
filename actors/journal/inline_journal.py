"""The journal of a store in memory, which needs no thread."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from ...storage.snapshot import Snapshot
from ...storage.store import EventStore
from .admission import Admission
from .commit_order import CommitOrder
from .journal import Write

T = TypeVar("T")


class InlineJournal:
    """A journal without a thread, for stores that wait for no disk: `submit` settles the write, once it is admitted."""

    def __init__(
        self,
        store: EventStore,
        *,
        wall_clock: Callable[[], int],
        commits_waiting_max: int,
        on_commit: Callable[[], None],
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._order = CommitOrder(store, wall_clock, before_commit)
        self._commits_waiting_max = commits_waiting_max
        self._on_commit = on_commit
        self._room = trio.lowlevel.ParkingLot()
        self.admission = Admission(store, self._write)
        self.group_count = 0
        self.commit_count = 0

    def submit(self, write: Write) -> None:
        self.admission.take(write)

    def save(self, snapshot: Snapshot) -> None:
        self._order.write([snapshot])

    async def until_saved(self) -> None:
        await trio.lowlevel.checkpoint()

    async def store(self, snapshots: Sequence[Snapshot]) -> None:
        await trio.lowlevel.checkpoint()
        self._order.store(snapshots)

    async def run(self, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return work()

    @property
    def is_full(self) -> bool:
        return len(self.admission) >= self._commits_waiting_max

    async def room(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while self.is_full:
            await self._room.park()

    async def close(self) -> None:
        self.admission.release_all()

    def _write(self, write: Write) -> None:
        self.group_count += 1
        self.commit_count += 1
        for settled, outcome in self._order.write([write]):
            self.admission.settled(settled)
            settled.settle(outcome)
        self._room.unpark_all()
        self._on_commit()
