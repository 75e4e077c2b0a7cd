"""The journal: the one thread that writes. It orders commits and stores as many as wait in one transaction.

An LMDB write transaction belongs to the thread that began it, so the storage asks for exactly this: a thread actor. It
drains its inbox into one group commit, syncs once, then settles every answer with one hop back to trio.
"""

import logging
import queue
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar

import msgspec
import pykka
import trio

from ..storage.commit import Appended, Commit, IdempotencyEntry, StreamAppend
from ..storage.errors import EventSourcingError
from ..storage.event_query import EventQuery
from ..storage.snapshot import Snapshot
from ..storage.store import EventStore
from .admission import Admission
from .errors import JournalFailed

if TYPE_CHECKING:
    from pykka._envelope import Envelope

GROUP_EVENTS_MAX: Final = 1_000
"""Events in one group commit, and answers that leave with it, at most; a single write may have more of either."""
GROUP_ANSWERS_MIN: Final = 16
"""So many answers leave with one group commit where they wait, however fast the disk is."""
DISK_SHARE_SECONDS: Final = 20e-6
"""A group is as large as it takes to bring the disk's share of each answer down to this. The interpreter takes as much
at the same time, so a larger one would only make its first answers wait."""

T = TypeVar("T")
logger = logging.getLogger("eventsrc.journal")


class Lane:
    """The commits of one actor that were decided on each other's outcome.

    Once one of them fails, all that follow in the lane fail with it, since their decisions were made on a state that
    never came to be.
    """

    __slots__ = ("error", "last_commit_id")

    def __init__(self) -> None:
        self.last_commit_id = 0
        self.error: EventSourcingError | None = None


class Write(msgspec.Struct, frozen=True, gc=False):
    """What an actor hands to the journal; `settle` is called on the trio thread with the outcome, in order."""

    appends: Sequence[StreamAppend]
    idempotency: Sequence[IdempotencyEntry]
    event_count: int
    answer_count: int
    """How many answers leave with it."""
    lane: Lane
    settle: Callable[[Appended | EventSourcingError], None]
    conditions: Sequence[EventQuery] = ()


class Work(msgspec.Struct, frozen=True, gc=False):
    """Something else that only the thread that writes may do, between two group commits: a step of a compaction."""

    run: Callable[[], Any]
    settle: Callable[[Any], None]
    """Called on the journal's thread with what `run` returned, or with the error that it raised."""


class Journal(Protocol):
    """What an aggregate's actor needs of the journal. Every method is called on the trio thread."""

    def submit(self, write: Write) -> None:
        """Put a write in line for the disk."""

    def save(self, snapshot: Snapshot) -> None:
        """Store a snapshot along with the next writes. A failure is logged: a snapshot can be made again."""

    async def until_saved(self) -> None:
        """Wait until the snapshots that were handed in so far are stored."""

    @property
    def is_full(self) -> bool:
        """Whether as many writes are in line as the bound allows."""

    async def room(self) -> None:
        """Wait until fewer writes than the bound are in line."""

    async def close(self) -> None:
        """Write what is in line, and end."""

    @property
    def admission(self) -> Admission:
        """Where writes wait while a view is too far behind."""


class Batch:
    """Everything that one group commit takes from the inbox.

    A snapshot needs no room: it rides along, and is no reason for a sync of its own. A single write may be larger than
    a group is to be.
    """

    __slots__ = ("_answers", "_answers_max", "_events", "messages")

    def __init__(self, answers_max: int) -> None:
        self.messages: list[Write | Snapshot] = []
        self._answers_max = answers_max
        self._answers = self._events = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be put in."""
        return self._answers >= self._answers_max or max(self._events, len(self.messages)) >= GROUP_EVENTS_MAX

    def put(self, message: Write | Snapshot) -> bool:
        """Put in a message, if there is room for it; returns whether there was."""
        if isinstance(message, Write):
            answers, events = self._answers + max(message.answer_count, 1), self._events + message.event_count
            if self._answers and (answers > self._answers_max or events > GROUP_EVENTS_MAX):
                return False
            self._answers, self._events = answers, events
        self.messages.append(message)
        return True


class JournalInbox:
    """An inbox that hands out all that waits as one batch, so that the actor commits it as one group."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Envelope[Any]] = queue.SimpleQueue()
        self._held: deque[Envelope[Any]] = deque()
        self.group_answers_max = GROUP_ANSWERS_MIN

    def put(self, envelope: "Envelope[Any]", /) -> None:
        self._queue.put(envelope)

    def empty(self) -> bool:
        return not self._held and self._queue.empty()

    def get(self) -> "Envelope[Any]":
        """Wait for a message, take those behind it up to the bounds, and leave anything else for the next call."""
        first = self._held.popleft() if self._held else self._queue.get()
        if not isinstance(first.message, Write | Snapshot):
            return first
        batch = Batch(self.group_answers_max)
        batch.put(first.message)
        while not batch.is_full:
            try:
                envelope = self._queue.get_nowait()
            except queue.Empty:
                break
            if not (isinstance(envelope.message, Write | Snapshot) and batch.put(envelope.message)):
                self._held.append(envelope)
                break
        first.message = batch
        return first


Settled: TypeAlias = tuple[Write, Appended | EventSourcingError]


class JournalActor(pykka.ThreadingActor):
    """Writes what its inbox hands out; `settle` is called on this thread with the outcomes of each batch."""

    # A program that is told to stop at once must not wait for it; `ThreadJournal.close` waits in an orderly end.
    use_daemon_thread = True

    actor_inbox: JournalInbox

    def __init__(self, order: "CommitOrder", settle: Callable[[list["Settled"]], None]) -> None:
        super().__init__()
        self._order = order
        self._settle = settle

    @staticmethod
    def _create_actor_inbox() -> JournalInbox:
        return JournalInbox()

    def on_receive(self, message: Any) -> None:
        if isinstance(message, Work):
            self._work(message)
            return
        assert isinstance(message, Batch), f"the journal was sent {message!r}"
        self._settle(self._order.write(message.messages))
        worthwhile = int(self._order.disk_seconds / DISK_SHARE_SECONDS)
        self.actor_inbox.group_answers_max = min(max(worthwhile, GROUP_ANSWERS_MIN), GROUP_EVENTS_MAX)

    def _work(self, work: Work) -> None:
        try:
            outcome = work.run()
        except EventSourcingError as error:
            outcome = error
        except Exception as error:
            logger.exception("the journal failed at work")
            outcome = JournalFailed(self._order.path, error)
        work.settle(outcome)


class CommitOrder:
    """Gives commits their ids and times, in the order in which they came, and has the store apply them."""

    def __init__(self, store: EventStore, wall_clock: Callable[[], int]) -> None:
        self._store = store
        self._wall_clock = wall_clock
        self._last_commit_id = store.last_commit_id
        self._last_time_ns = 0

    @property
    def path(self) -> str:
        """Where the store is."""
        return self._store.path

    @property
    def disk_seconds(self) -> float:
        """How long the store last waited for its disk."""
        return self._store.disk_seconds

    def write(self, messages: Sequence[Write | Snapshot]) -> list[Settled]:
        """Store a batch as one group commit; the outcomes come in the order of its writes."""
        # Times in the log never run backwards, whatever the clock of the machine does.
        time_ns = self._last_time_ns = max(self._wall_clock(), self._last_time_ns)
        writes = [message for message in messages if isinstance(message, Write)]
        snapshots = [message for message in messages if isinstance(message, Snapshot)]
        commits = [self._commit(write, time_ns) for write in writes if write.lane.error is None]
        outcomes = iter(self._append(commits, snapshots))
        settled: list[Settled] = []
        for write in writes:
            outcome = write.lane.error or next(outcomes)
            if isinstance(outcome, EventSourcingError):
                write.lane.error = outcome
            settled.append((write, outcome))
        return settled

    def _commit(self, write: Write, time_ns: int) -> Commit:
        self._last_commit_id = max(self._last_commit_id, self._store.last_commit_id) + 1
        lane = write.lane
        commit = Commit(
            self._last_commit_id, time_ns, write.appends, write.idempotency, lane.last_commit_id, write.conditions
        )
        lane.last_commit_id = commit.id
        return commit

    def _append(self, commits: list[Commit], snapshots: list[Snapshot]) -> list[Appended | EventSourcingError]:
        try:
            return self._store.append(commits, snapshots)
        except EventSourcingError as error:
            return [error] * len(commits)
        except Exception as error:
            # A fault of ours or of the store's: everyone who waits is told, and the journal stays alive.
            logger.exception("the journal failed to write a batch", extra={"commits": len(commits)})
            return [JournalFailed(self._store.path, error)] * len(commits)


class ThreadJournal:
    """The journal as trio tasks see it: hands writes to the `JournalActor` and their outcomes back to the tasks."""

    def __init__(
        self,
        store: EventStore,
        *,
        wall_clock: Callable[[], int],
        commits_waiting_max: int,
        on_commit: Callable[[], None],
    ) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._commits_waiting_max = commits_waiting_max
        self._on_commit = on_commit
        self._room = trio.lowlevel.ParkingLot()
        self._waiting = 0
        self.group_count = 0
        self.commit_count = 0
        self._actor = JournalActor.start(CommitOrder(store, wall_clock), self._settle_from_thread)
        self.admission = Admission(store, self._actor.tell)

    def submit(self, write: Write) -> None:
        self._waiting += 1
        self.admission.take(write)

    def save(self, snapshot: Snapshot) -> None:
        try:
            self._actor.tell(snapshot)
        except pykka.ActorDeadError:
            logger.debug("closed before a snapshot was stored", extra={"stream": snapshot.stream})

    async def until_saved(self) -> None:
        await self.run(lambda: None)

    async def run(self, work: Callable[[], T]) -> T:
        """Have the journal's thread do something between two group commits. Raises what that raises.

        It is done, or not, also when the caller is cancelled.
        """
        done = trio.Event()
        outcome: list[Any] = []

        def settle(value: Any) -> None:
            outcome.append(value)
            try:
                self._token.run_sync_soon(done.set)
            except trio.RunFinishedError:
                logger.warning("trio ended before the journal")

        self._actor.tell(Work(work, settle))
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
        """Write what waits, then end the thread. Shielded: what was answered or is in line reaches the disk."""
        self.admission.release_all()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(self._actor.stop, block=True))
            while self._waiting:
                await trio.lowlevel.checkpoint()

    def _settle_from_thread(self, settled: list[Settled]) -> None:
        try:
            self._token.run_sync_soon(self._settle, settled)
        except trio.RunFinishedError:
            logger.warning("trio ended before the journal", extra={"commits": len(settled)})

    def _settle(self, settled: list[Settled]) -> None:
        self._waiting -= len(settled)
        self.group_count += 1
        self.commit_count += len(settled)
        for write, outcome in settled:
            self.admission.settled(write)
            write.settle(outcome)
        self._room.unpark_all()
        self._on_commit()


class InlineJournal:
    """A journal without a thread, for stores that wait for no disk: a write is settled before `submit` ends."""

    def __init__(
        self,
        store: EventStore,
        *,
        wall_clock: Callable[[], int],
        commits_waiting_max: int,
        on_commit: Callable[[], None],
    ) -> None:
        self._order = CommitOrder(store, wall_clock)
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
