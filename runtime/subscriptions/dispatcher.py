"""Hands out the events of one durable subscription: which are in hand, failed, parked, or stored as done.

Events of one stream are handed out one at a time, so a stream stays in order whichever consumers take it, and a slow or
stuck stream holds up no other. An event that keeps failing is parked together with the later events of its stream.
"""

import heapq
import logging
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Final

import attrs
import trio

from ...actors.error_text import kept_text, told
from ...actors.errors import RuntimeClosed
from ...actors.feed import Feed
from ...storage.control.board import ControlBoard, ParkedEvent, SubscriptionProgress
from ...storage.errors import EventSourcingError
from ...storage.limits import Limits
from ...storage.record import StoredEvent
from ...storage.store import EventReader
from ..errors import NotInHistory, SubscriptionDeleted, SubscriptionDiverged, SubscriptionFull
from ..events import EventFilter
from ..on_board import on_board
from ..trio_thread import check_on_trio
from .lane import LANE_EVENTS_MAX, Held, Lane, Rest
from .subscription import Search

STREAMS_OPEN_MAX: Final = 1_000
"""The most streams of one subscription with unfinished events; beyond that, no more of the log is read."""
HELD_EVENTS_MAX: Final = 1_000
"""The most events in memory, besides the first one of each such stream."""
ATTEMPTS_MAX: Final = 5
"""How often an event is handed out before it is parked."""
PARKED_EVENTS_MAX: Final = 100_000
"""The most parked events in one subscription, which then hands out nothing (`SubscriptionFull`)."""
SAVED_EVERY_POSITIONS: Final = 10_000
"""Progress is stored after this many positions, even when the filters matched no event among them."""

logger = logging.getLogger("eventsrc.subscription")


@attrs.define(eq=False)
class Message:
    """One event in the hands of one consumer: acknowledge it with `ack`, or report a failure with `fail`.

    A message stands for one hand-out of its event and does not affect later ones. Its methods belong on the trio
    thread, and raise `WrongThread` elsewhere: write `portal.call(message.fail, error)`.
    """

    event: StoredEvent
    attempts: int = 1
    """How often it was handed out, this time included."""
    _dispatcher: "Dispatcher | None" = None
    _lane: Lane | None = None

    @property
    def is_in_hand(self) -> bool:
        """Whether it was neither acknowledged, failed nor given back."""
        return self._dispatcher is not None

    async def ack(self) -> None:
        """Acknowledge the event, and wait until that is on disk: it is not handed out again. Idempotent.

        Raises `RuntimeClosed`.
        """
        dispatcher = self._dispatcher
        self.ack_soon()
        if dispatcher is not None:
            await dispatcher.saved()

    def ack_soon(self) -> None:
        """Acknowledge the event without waiting for the disk: an immediate crash has it handed out again."""
        dispatcher, lane = self._settle("ack", "message.ack")
        if dispatcher is not None and lane is not None:
            dispatcher.acknowledge(lane)

    def fail(self, error: BaseException | str) -> None:
        """Report a failure: the event is handed out again after a back-off, or parked after `ATTEMPTS_MAX` times."""
        dispatcher, lane = self._settle("fail", "message.fail, error")
        if dispatcher is not None and lane is not None:
            dispatcher.failed(lane, kept_text(error if isinstance(error, str) else told(error)))

    def release(self) -> None:
        """Give the event back without a failure: it goes to the next consumer."""
        dispatcher, lane = self._settle("release", "message.release")
        if dispatcher is not None and lane is not None:
            dispatcher.released(lane)

    def _settle(self, method: str, example: str) -> "tuple[Dispatcher | None, Lane | None]":
        check_on_trio(method, f"portal.call({example})")
        dispatcher, self._dispatcher = self._dispatcher, None
        return dispatcher, self._lane


class Dispatcher:
    """Hands out the events of one named subscription. Used on the trio thread.

    Each stream with unfinished events has a lane. A lane is in one place at a time: ready to be handed out, in the
    hands of a consumer, resting after a failure, hungry (more of it must be read) or about to be parked.
    """

    def __init__(
        self,
        name: str,
        wanted: EventFilter,
        store: EventReader,
        feed: Feed,
        limits: Limits,
        board: ControlBoard,
        wall_clock: Callable[[], int],
    ) -> None:
        self.name = name
        self.wanted = wanted
        self.is_deleted = False
        self._store = store
        self._feed = feed
        self._limits = limits
        self._board = board
        self._wall_clock = wall_clock
        self._search: Search
        self._lanes: dict[str, Lane] = {}
        self._ready: deque[Lane] = deque()
        self._hungry: deque[Lane] = deque()
        self._resting: list[tuple[float, int, Lane]] = []
        self._rests = count()
        self._parking: deque[Lane] = deque()
        self._held_count = 0
        self._parked: dict[str, set[int]] = {}
        self._parked_count = 0
        self._newly_parked: list[ParkedEvent] = []
        self._unparked: list[int] = []
        self._changes = 0
        self._saved_changes = 0
        self._saved_position = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._was_saved = trio.lowlevel.ParkingLot()
        self._saving = trio.Lock()
        self._is_closed = False

    async def open(self, after: int) -> None:
        """Resume the subscription; a new one begins after the position `after`.

        Raises `SubscriptionDiverged`, and `NotInHistory` for a new one whose `after` the log does not reach.
        """
        progress = self._board.progress(self.name)
        if progress is None:
            if after > self._store.last_position:
                raise NotInHistory(
                    f"The subscription {self.name!r} cannot begin after position {after}: the log ends at "
                    f"{self._store.last_position}."
                )
            progress = SubscriptionProgress(after, self._hash_at(after), [])
            await on_board(self._board, partial(self._board.save, self.name, progress, [], [], create=True))
        elif self._hash_at(progress.position) != progress.event_hash:
            raise SubscriptionDiverged(self.name, progress.position)
        self._search = Search(partial(self.wanted.batches, self._store), progress.position)
        self._saved_position = progress.position
        for parked in await on_board(self._board, partial(self._board.parked, self.name)):
            self._parked.setdefault(parked.stream, set()).add(parked.position)
            self._parked_count += 1
        for position in progress.pending:
            await trio.lowlevel.checkpoint()
            event = self._event_at(position)
            lane = self._lanes[event.stream] = Lane(event.stream, rest=Rest.at(event))
            (self._parking if event.stream in self._parked else self._hungry).append(lane)
        self._feed.listen(self, self._changed.unpark_all)

    # --- handing out ---

    async def next_message(self) -> Message | None:
        """Wait for an event that may be handed out; None when the runtime closes."""
        await trio.lowlevel.checkpoint()
        while not self._feed.is_closed:
            if self.is_deleted:
                raise SubscriptionDeleted(self.name)
            if self._parked_count >= PARKED_EVENTS_MAX:
                raise SubscriptionFull(self.name, PARKED_EVENTS_MAX)
            rest_seconds = self._end_rests()
            if self._ready:
                lane = self._ready.popleft()
                return Message(lane.held[0].event, lane.held[0].attempts + 1, self, lane)
            if self._read_on():
                await trio.lowlevel.checkpoint()
                continue
            with trio.move_on_after(rest_seconds):
                await self._changed.park()
        return None

    def _read_on(self) -> bool:
        """Read a bounded number of events; returns False when there is nothing to read, or no room."""
        if self._hungry:
            self._refill(self._hungry[0])
            self._place(self._hungry.popleft())
            return True
        if len(self._lanes) >= STREAMS_OPEN_MAX:
            return False
        found = self._search.step(self._feed.last_position)
        for event in found or ():
            if not self._take(event):
                self._search.back_to(event.position - 1)
                break
        if self._search.position - self._saved_position >= SAVED_EVERY_POSITIONS:
            self._changes += 1
            self._changed.unpark_all()
        return found is not None or self._feed.last_position > self._search.position

    def _take(self, event: StoredEvent) -> bool:
        """Put a found event behind the unfinished ones of its stream; returns False for one stream too many."""
        lane = self._lanes.get(event.stream)
        if lane is None:
            if event.stream in self._parked:
                self._park(event, "", 0)
                return True
            if len(self._lanes) >= STREAMS_OPEN_MAX:
                return False
            lane = self._lanes[event.stream] = Lane(event.stream)
            self._hold(lane, Held(event))
            self._ready.append(lane)
        elif self._held_count >= HELD_EVENTS_MAX:
            lane.rest = lane.rest or Rest.at(event)
        elif lane.admits(event):
            self._hold(lane, Held(event))
        return True

    def _refill(self, lane: Lane) -> None:
        """Hold the next events of a lane that holds none."""
        if not lane.parked:
            for event in self._read_rest(lane):
                self._hold(lane, Held(event))
        while lane.parked and len(lane.held) < LANE_EVENTS_MAX:
            self._hold(lane, Held(self._event_at(lane.parked[0]), was_parked=True))
            lane.parked.popleft()

    def _read_rest(self, lane: Lane) -> list[StoredEvent]:
        """The matching ones of the next events of a lane's rest, up to the position of the search."""
        assert lane.rest is not None, "a lane that holds nothing and has no rest is gone"
        read = self._store.read_stream(lane.stream, from_version=lane.rest.version, limit=LANE_EVENTS_MAX + 1)
        found = [event for event in read if event.position <= self._search.position]
        lane.rest = Rest.at(found[LANE_EVENTS_MAX]) if len(found) > LANE_EVENTS_MAX else None
        return [event for event in found[:LANE_EVENTS_MAX] if self.wanted.query.matches(event)]

    def _hold(self, lane: Lane, held: Held) -> None:
        lane.held.append(held)
        self._held_count += 1

    def _place(self, lane: Lane) -> None:
        """Put a lane that no consumer has in hand where it belongs."""
        if lane.held:
            self._ready.append(lane)
        elif lane.is_empty:
            del self._lanes[lane.stream]
        else:
            self._hungry.append(lane)
        self._changes += 1
        self._changed.unpark_all()

    def _event_at(self, position: int) -> StoredEvent:
        (event,) = self._store.read(after=position - 1, limit=1)
        return event

    # --- what becomes of it ---

    def acknowledge(self, lane: Lane) -> None:
        """Finish the first event of a lane; the next one may be handed out."""
        done = lane.held.popleft()
        self._held_count -= 1
        if done.was_parked:
            self._unparked.append(done.event.position)
        self._place(lane)

    def failed(self, lane: Lane, error: str) -> None:
        """Hand the first event of a lane out again later, or park it together with the later events of its stream."""
        held = lane.held[0]
        held.attempts += 1
        self._held_count -= lane.shorten()
        if held.attempts < ATTEMPTS_MAX:
            seconds = self._limits.restart_backoff(held.attempts - 1)
            heapq.heappush(self._resting, (trio.current_time() + seconds, next(self._rests), lane))
        else:
            logger.error(
                "the event at position %d is parked in %s: %s",
                held.event.position,
                self.name,
                error,
                extra={"subscription": self.name, "stream": lane.stream, "position": held.event.position},
            )
            lane.held.clear()
            self._held_count -= 1
            self._park(held.event, error, held.attempts)
            self._parked[lane.stream].update(lane.parked)
            self._parked_count += len(lane.parked)
            lane.parked.clear()
            if lane.rest is None:
                del self._lanes[lane.stream]
            else:
                self._parking.append(lane)
                self._park_rest()
        self._changed.unpark_all()

    def released(self, lane: Lane) -> None:
        """Give a lane whose consumer has gone to the next consumer."""
        self._ready.appendleft(lane)
        self._changed.unpark_all()

    def retry_parked(self, stream: str | None = None) -> int:
        """Hand out the parked events, of one stream or of all; returns how many there are."""
        total = 0
        for name in [stream] if stream is not None else list(self._parked):
            positions = sorted(self._parked.pop(name, ()))
            if not positions:
                continue
            lane = self._lanes.get(name)
            if lane is None:
                lane = self._lanes[name] = Lane(name)
            else:
                self._parking.remove(lane)
            lane.parked.extend(positions)
            self._hungry.append(lane)
            total += len(positions)
        self._parked_count -= total
        self._changed.unpark_all()
        return total

    def deleted(self) -> None:
        """Take note that the subscription was deleted: its consumers get `SubscriptionDeleted`."""
        self.is_deleted = True
        self._feed.stop_listening(self)
        self._changed.unpark_all()
        self._was_saved.unpark_all()

    def _park(self, event: StoredEvent, error: str, attempts: int) -> None:
        self._parked_count += 1
        self._parked.setdefault(event.stream, set()).add(event.position)
        parked = ParkedEvent(self.name, event.position, event.stream, error, attempts, self._wall_clock())
        self._newly_parked.append(parked)
        self._changes += 1

    def _park_rest(self) -> None:
        """For the first lane that waits for it, park some of the events after a parked one."""
        lane = self._parking[0]
        for event in self._read_rest(lane):
            self._park(event, "", 0)
        self._changes += 1
        if lane.rest is None:
            self._parking.popleft()
            del self._lanes[lane.stream]

    def _end_rests(self) -> float:
        """Make lanes ready that have rested; returns the seconds until the next one has."""
        now = trio.current_time()
        while self._resting and self._resting[0][0] <= now:
            self._ready.append(heapq.heappop(self._resting)[2])
        return self._resting[0][0] - now if self._resting else math.inf

    # --- keeping it ---

    @property
    def is_saved(self) -> bool:
        """Whether all changes are on disk."""
        return self.is_deleted or (
            self._saved_changes == self._changes and self._saved_position == self._search.position
        )

    async def saved(self) -> None:
        """Wait until everything acknowledged so far is on disk. Raises `RuntimeClosed` when it will not be stored."""
        await trio.lowlevel.checkpoint()
        wanted = self._changes
        while self._saved_changes < wanted and not self.is_deleted:
            if self._is_closed:
                raise RuntimeClosed(
                    f"The runtime has closed; what {self.name!r} is told now is not kept. It is handed out again."
                )
            await self._was_saved.park()

    async def close(self) -> None:
        """Store what was acknowledged, and nothing from then on. Raises `FileWriteFailed`."""
        try:
            while not self.is_saved:
                await self.save()
        finally:
            self._is_closed = True
            self._was_saved.unpark_all()

    async def keep(self) -> None:
        """Store changes as they come, several at a time, until cancelled or deleted."""
        attempts = 0
        while not self.is_deleted:
            can_park = self._parking and self._parked_count < PARKED_EVENTS_MAX
            if not can_park and self._saved_changes == self._changes:
                await self._changed.park()
                continue
            try:
                if can_park:
                    self._park_rest()
                await self.save()
                attempts = 0
            except Exception as error:
                # No error here may end the runtime, either.
                is_expected = isinstance(error, EventSourcingError)
                logger.error(
                    "progress could not be stored: %s",
                    error,
                    exc_info=None if is_expected else error,
                    extra={"subscription": self.name},
                )
                await trio.sleep(self._limits.restart_backoff(attempts))
                attempts += 1

    async def save(self) -> None:
        """Store the changes. Raises `FileWriteFailed`; then the changes stay to be stored."""
        async with self._saving:
            changes, progress = self._changes, self._progress()
            parked, unparked = self._newly_parked[:], self._unparked[:]
            save = partial(self._board.save, self.name, progress, parked, unparked)
            with trio.CancelScope(shield=True):
                exists = await on_board(self._board, save)
            del self._newly_parked[: len(parked)], self._unparked[: len(unparked)]
            if not exists:
                self.deleted()
            self._saved_changes, self._saved_position = changes, progress.position
            self._was_saved.unpark_all()

    def _progress(self) -> SubscriptionProgress:
        position = self._search.position
        pending = sorted(pending for lane in self._lanes.values() if (pending := lane.pending) is not None)
        return SubscriptionProgress(position, self._hash_at(position), pending)

    def _hash_at(self, position: int) -> bytes:
        """The hash of the event at a position; empty at 0, and where the log does not reach."""
        events = self._store.read(after=position - 1, limit=1) if position else []
        return events[0].hash if events else b""
