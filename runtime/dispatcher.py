"""Handing out the events of one durable subscription: who has which, what failed, what is parked, what is on disk.

Events of one stream are handed out one at a time, so a stream stays in order whoever consumes it. An event that keeps
failing is parked, and so is what comes after it in its stream.
"""

import logging
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import attrs
import trio

from ..actors.feed import Feed
from ..storage.control import ControlBoard, ParkedEvent, Progress
from ..storage.errors import EventSourcingError
from ..storage.limits import Limits
from ..storage.record import StoredEvent
from ..storage.store import EventReader
from .errors import SubscriptionDeleted, SubscriptionFull
from .subscription import Find

WINDOW_EVENTS_MAX: Final = 1_000
"""Events of one subscription that are read and not acknowledged."""
ATTEMPTS_MAX: Final = 5
"""How often an event is handed out before it is parked."""
PARKED_EVENTS_MAX: Final = 100_000
"""Events parked in one subscription (`SubscriptionFull`)."""

T = TypeVar("T")
logger = logging.getLogger("eventsrc.subscription")


@attrs.define(eq=False)
class Message:
    """One event in the hands of one consumer: acknowledge it with `ack`, or say that it failed with `fail`."""

    event: StoredEvent
    attempts: int = 1
    """How often it was handed out, this time included."""
    _dispatcher: "Dispatcher | None" = None
    _was_parked: bool = False
    _not_before: float = 0.0

    @property
    def is_in_hand(self) -> bool:
        """Whether it was neither acknowledged nor given back."""
        return self._dispatcher is not None

    async def ack(self) -> None:
        """It is done, and on disk as such: it is not handed out again. Idempotent."""
        dispatcher = self._dispatcher
        self.ack_soon()
        if dispatcher is not None:
            await dispatcher.saved()

    def ack_soon(self) -> None:
        """The same without waiting for the disk: after a crash in the next moment it is handed out again."""
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            dispatcher.acknowledge(self)

    def fail(self, error: BaseException | str) -> None:
        """It could not be handled: it is handed out again after a back-off, and parked after `ATTEMPTS_MAX` times."""
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            dispatcher.failed(self, error if isinstance(error, str) else f"{type(error).__name__}: {error}")

    def release(self) -> None:
        """It was not handled and nothing is known against it: it goes to the next consumer."""
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            dispatcher.released(self)


class Dispatcher:
    """Hands out the events of one named subscription. Used on the trio thread."""

    def __init__(
        self,
        name: str,
        store: EventReader,
        feed: Feed,
        limits: Limits,
        board: ControlBoard,
        wall_clock: Callable[[], int],
    ) -> None:
        self.name = name
        self._store = store
        self._feed = feed
        self._limits = limits
        self._board = board
        self._wall_clock = wall_clock
        self._find: Find
        self._read_through = 0
        self._floor = 0
        self._open: dict[int, StoredEvent] = {}
        self._done: set[int] = set()
        self._queues: dict[str, deque[Message]] = {}
        self._ready: deque[str] = deque()
        self._resting: list[Message] = []
        self._parked: dict[str, set[int]] = {}
        self._parked_count = 0
        self._newly_parked: list[ParkedEvent] = []
        self._unparked: list[int] = []
        self._changes = 0
        self._saved_changes = 0
        self._is_deleted = False
        self._changed = trio.lowlevel.ParkingLot()
        self._was_saved = trio.lowlevel.ParkingLot()
        self._saving = trio.Lock()

    async def open(self, find: Find, after: int) -> None:
        """Take up where the subscription was left; a new one begins after the position `after`."""
        self._find = find
        progress = self._board.progress(self.name)
        if progress is None:
            progress = Progress(after, [])
            await on_board(self._board, partial(self._board.save, self.name, progress, [], [], create=True))
        self._floor = self._read_through = progress.floor
        self._done = set(progress.done)
        for event in await on_board(self._board, partial(self._board.parked, self.name)):
            self._parked.setdefault(event.stream, set()).add(event.position)
            self._parked_count += 1
        self._feed.listen(self, self._changed.unpark_all)

    # --- handing out ---

    async def next_message(self) -> Message | None:
        """Wait for an event that may be handed out; None when the runtime closes."""
        await trio.lowlevel.checkpoint()
        while not self._feed.is_closed:
            if self._is_deleted:
                raise SubscriptionDeleted(self.name)
            rest_seconds = self._end_rests()
            if not self._ready:
                self._fill()
            if self._ready:
                message = self._queues[self._ready.popleft()][0]
                message._dispatcher = self
                return message
            with trio.move_on_after(rest_seconds):
                await self._changed.park()
        return None

    def _fill(self) -> None:
        """Read on, as far as the window allows."""
        room = WINDOW_EVENTS_MAX - len(self._open)
        end = self._feed.last_position
        if room <= 0 or end <= self._read_through:
            return
        taken = 0
        for event in self._find(self._read_through, end + 1):
            self._read_through = event.position
            if event.position in self._done:
                continue
            if event.stream in self._parked:
                self._done.add(event.position)
                self._park(event, "", 0)
                continue
            self._open[event.position] = event
            self._queue(Message(event))
            taken += 1
            if taken == room:
                return
        self._read_through = end
        self._changes += 1

    def _queue(self, message: Message) -> None:
        queue = self._queues.setdefault(message.event.stream, deque())
        queue.append(message)
        if len(queue) == 1:
            self._ready.append(message.event.stream)

    # --- what becomes of it ---

    def acknowledge(self, message: Message) -> None:
        """It is done; the next of its stream may be handed out."""
        position = message.event.position
        if message._was_parked:
            self._unpark(message.event)
        else:
            del self._open[position]
            self._done.add(position)
        self._go_on(message.event.stream)

    def failed(self, message: Message, error: str) -> None:
        """Hand it out again later, or park it and what comes after it in its stream."""
        if message.attempts < ATTEMPTS_MAX:
            limits = self._limits
            seconds = limits.restart_backoff_seconds * 2 ** (message.attempts - 1)
            message._not_before = trio.current_time() + min(seconds, limits.restart_backoff_seconds_max)
            message.attempts += 1
            self._resting.append(message)
            self._changed.unpark_all()
            return
        logger.error(
            "an event is parked: %s",
            error,
            extra={"subscription": self.name, "stream": message.event.stream, "position": message.event.position},
        )
        for queued in self._queues.pop(message.event.stream):
            is_first = queued is message
            if not queued._was_parked:
                del self._open[queued.event.position]
                self._done.add(queued.event.position)
            self._park(queued.event, error if is_first else "", message.attempts if is_first else 0)
        self._changed.unpark_all()

    def released(self, message: Message) -> None:
        """Its consumer has gone: the next one gets it."""
        self._ready.appendleft(message.event.stream)
        self._changed.unpark_all()

    def retry_parked(self, stream: str | None = None) -> int:
        """Hand out what is parked, of one stream or of all; return how many events that are."""
        count = 0
        for name in [stream] if stream is not None else list(self._parked):
            positions = sorted(self._parked.pop(name, ()))
            for position in positions:
                (event,) = self._store.read(after=position - 1, limit=1)
                self._queue(Message(event, was_parked=True))
            count += len(positions)
        self._parked_count -= count
        self._changed.unpark_all()
        return count

    def deleted(self) -> None:
        """It was deleted: whoever consumes it is told."""
        self._is_deleted = True
        self._changed.unpark_all()
        self._was_saved.unpark_all()

    def _go_on(self, stream: str) -> None:
        queue = self._queues[stream]
        queue.popleft()
        if queue:
            self._ready.append(stream)
        else:
            del self._queues[stream]
        self._changes += 1
        self._changed.unpark_all()

    def _park(self, event: StoredEvent, error: str, attempts: int) -> None:
        if self._parked_count >= PARKED_EVENTS_MAX:
            raise SubscriptionFull(self.name, PARKED_EVENTS_MAX)
        self._parked_count += 1
        self._parked.setdefault(event.stream, set()).add(event.position)
        parked = ParkedEvent(self.name, event.position, event.stream, error, attempts, self._wall_clock())
        self._newly_parked.append(parked)
        self._changes += 1

    def _unpark(self, event: StoredEvent) -> None:
        self._unparked.append(event.position)
        self._changes += 1

    def _end_rests(self) -> float:
        """Hand out again what has rested; return the seconds until the next has."""
        now = trio.current_time()
        for message in [each for each in self._resting if each._not_before <= now]:
            self._resting.remove(message)
            self._ready.append(message.event.stream)
        return max(min((message._not_before for message in self._resting), default=math.inf) - now, 0.0)

    # --- keeping it ---

    @property
    def is_saved(self) -> bool:
        """Whether everything is on disk."""
        return self._saved_changes == self._changes or self._is_deleted

    async def saved(self) -> None:
        """Wait until what was acknowledged so far is on disk."""
        await trio.lowlevel.checkpoint()
        wanted = self._changes
        while self._saved_changes < wanted and not self._is_deleted:
            await self._was_saved.park()

    async def keep(self) -> None:
        """Bring changes to the disk as they come, several at a time, until cancelled or deleted."""
        attempts = 0
        while not self._is_deleted:
            while self.is_saved and not self._is_deleted:
                await self._changed.park()
            try:
                await self.save()
                attempts = 0
            except EventSourcingError as error:
                limits = self._limits
                logger.error("progress could not be stored: %s", error, extra={"subscription": self.name})
                seconds = limits.restart_backoff_seconds * 2 ** min(attempts, 30)
                await trio.sleep(min(seconds, limits.restart_backoff_seconds_max))
                attempts += 1

    async def save(self) -> None:
        """Bring what has changed to the disk. Raises `StoreWriteFailed`; nothing is forgotten then."""
        async with self._saving:
            changes = self._changes
            parked, unparked = self._newly_parked[:], self._unparked[:]
            save = partial(self._board.save, self.name, self._progress(), parked, unparked)
            with trio.CancelScope(shield=True):
                exists = await on_board(self._board, save)
            del self._newly_parked[: len(parked)], self._unparked[: len(unparked)]
            if not exists:
                self.deleted()
            self._saved_changes = changes
            self._was_saved.unpark_all()

    def _progress(self) -> Progress:
        floor = min(self._open, default=self._read_through + 1) - 1
        self._done = {position for position in self._done if position > floor}
        return Progress(floor, sorted(self._done))


async def on_board(board: ControlBoard, call: Callable[[], T]) -> T:
    """Do something on the control board, in a worker thread where that waits for the disk."""
    return await trio.to_thread.run_sync(call) if board.waits else call()
