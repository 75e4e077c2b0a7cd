"""The journal as trio tasks use it: hands writes to the `JournalActor` and their outcomes back to the tasks."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import trio

from ...storage.errors import EventSourcingError
from ...storage.snapshot import Snapshot
from ...storage.store import EventStore
from ..background import in_thread_or_here
from ..errors import RuntimeClosed
from .admission import Admission
from .commit_order import CommitOrder, Settled
from .journal import Work, Write
from .journal_actor import JournalActor

T = TypeVar("T")
logger = logging.getLogger("eventsrc.journal")


class ThreadJournal:
    """A journal with its own thread, which waits for the disk."""

    def __init__(
        self,
        store: EventStore,
        *,
        wall_clock: Callable[[], int],
        commits_waiting_max: int,
        on_commit: Callable[[], None],
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._commits_waiting_max = commits_waiting_max
        self._on_commit = on_commit
        self._room = trio.lowlevel.ParkingLot()
        self._waiting = 0
        self._closing: Literal["no", "under way", "done"] = "no"
        self._late: list[Write] = []
        self.group_count = 0
        self.commit_count = 0
        self._order = CommitOrder(store, wall_clock, before_commit)
        self._actor = JournalActor.start(self._order, self._settle_from_thread)
        self.admission = Admission(store, self._actor.tell)

    def submit(self, write: Write) -> None:
        match self._closing:
            case "no":
                self._waiting += 1
                self.admission.take(write)
            case "under way":
                # Earlier writes may still be in flight and must be settled first.
                self._late.append(write)
            case "done":
                write.settle(_closed())

    def save(self, snapshot: Snapshot) -> None:
        if self._closing == "no":
            self._actor.tell(snapshot)
        else:
            logger.debug("closed before a snapshot was stored", extra={"stream": snapshot.stream})

    async def until_saved(self) -> None:
        await self.run(lambda: None)

    async def store(self, snapshots: Sequence[Snapshot]) -> None:
        await self.run(partial(self._order.store, snapshots))

    async def run(self, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closing != "no":
            raise _closed()
        done = trio.Event()
        outcome: list[Any] = []

        def settle(value: Any) -> None:
            outcome.append(value)
            self._call_soon(done.set)

        self._actor.tell(Work(work, settle))
        # The work runs in any case. Shielded: a cancelled caller must not let others begin the same work early.
        with trio.CancelScope(shield=True):
            await done.wait()
        if isinstance(outcome[0], EventSourcingError):
            raise outcome[0]
        result: T = outcome[0]
        return result

    @property
    def is_full(self) -> bool:
        return self._waiting >= self._commits_waiting_max

    async def room(self) -> None:
        while self.is_full:
            await self._room.park()

    async def close(self) -> None:
        """Write what is queued, then end the thread. Shielded: everything answered or queued reaches the disk.

        A write submitted from now on, by a handler that outlasts the runtime's wait, gets `RuntimeClosed`.
        """
        self.admission.release_all()
        self._closing = "under way"
        with trio.CancelScope(shield=True):
            await in_thread_or_here(partial(self._actor.stop, block=True))
            # Queued behind every outcome that the thread has handed back.
            handed_back = trio.Event()
            self._token.run_sync_soon(handed_back.set)
            await handed_back.wait()
        self._closing = "done"
        for write in self._late:
            write.settle(_closed())

    def _settle_from_thread(self, settled: list[Settled]) -> None:
        self._call_soon(self._settle, settled)

    def _call_soon(self, function: Callable[..., object], *args: Any) -> None:
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            logger.warning("trio ended before the journal")

    def _settle(self, settled: list[Settled]) -> None:
        self._waiting -= len(settled)
        self.group_count += 1
        self.commit_count += len(settled)
        for write, outcome in settled:
            self.admission.settled(write)
            write.settle(outcome)
        self._room.unpark_all()
        self._on_commit()


def _closed() -> RuntimeClosed:
    return RuntimeClosed("The runtime was closed before this was stored; it took no effect.")
