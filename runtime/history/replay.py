"""Replay: past events once more, in order, into a state, a view or a function, at any pace and under control.

A replay only reads: it stores nothing and sends no command.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, Self

import attrs
import trio

from ...storage.limits import Limits
from ...storage.record import StoredEvent
from ...storage.store import EventReader
from ..arguments import check_count
from ..errors import NotInHistory
from ..trio_thread import check_on_trio
from .errors import ReplayHandlerFailed, ReplayPositionPassed, ReplayStarted
from .history import find_snapshot
from .pace import Pace, Speed, checked_speed
from .selection import Selection

NEVER: Final = math.inf
PLAIN_CLASSES_MAX: Final = 100
"""The most classes of a function's return values that are remembered as not awaitable."""


@attrs.frozen(kw_only=True)
class Progress:
    """How far a replay has come.

    `events_total` is None where filters apply, since counting the events would need a look at each. `fraction` is 0 to
    1, by versions where one stream is replayed, by positions otherwise. `per_second` and `seconds_left` leave out the
    time in which the replay was paused; `seconds_left` is None before it can be estimated. At a pace it follows from
    the times of the events, and is an upper bound where events are filtered or waits are bounded.
    """

    events: int
    events_total: int | None
    position: int
    last_position: int
    fraction: float
    per_second: float
    seconds_left: float | None


class Replay:
    """One replay. `await replay.run()` runs it, once; other tasks may `pause`, `step`, `run_to` and `resume` it.

    These calls take effect at once, even during the wait for the next event's time, but do not interrupt a handler. A
    replay is used on the trio thread; from another thread use `trio.from_thread.run_sync(replay.pause)`.
    """

    _has_own = False
    """Whether the subclass replays into a target of its own, by `_take`."""
    _takes_batches = False
    """Whether `_take` accepts several events at once."""

    def __init__(
        self,
        store: EventReader,
        selection: Selection,
        *,
        speed: Speed,
        limits: Limits,
        wait_seconds_max: float = math.inf,
        into: Callable[[StoredEvent], Any] | None = None,
    ) -> None:
        selection.check()
        self._pace = Pace(speed, limits.replay_speed_max, wait_seconds_max)
        self._speed_max = limits.replay_speed_max
        self._store = store
        self._selection = selection
        self._into = into
        self.snapshot_version = self._find_snapshot() if selection.mode == "from_snapshot" else 0
        """In the mode "from_snapshot": the version of the snapshot at which the replay begins; 0 for none."""
        self._extent = selection.extent(store, self.snapshot_version)
        self._events = 0
        self._passing: Sequence[StoredEvent] = ()
        self._newest: StoredEvent | None = None
        self._is_through = self._extent.end == self._extent.begin
        self._has_begun = self._has_ended = False
        self._last_time_ns = 0
        self._ran_seconds = 0.0
        self._runs_since: float | None = None
        self._stood_since = 0.0
        # The state of steering. `_is_free` means that no check is needed before each event.
        self._is_paused = self._stands = False
        self._steps = 0
        self._pause_at: float = NEVER
        self._is_free = self._pace.speed is None
        self._plain: set[type] = {type(None)}
        self._steered = trio.lowlevel.ParkingLot()
        self._stopped = trio.lowlevel.ParkingLot()

    def _find_snapshot(self) -> int:
        """The version of the snapshot to begin from; 0 for none."""
        found = find_snapshot(self._store, self._selection.stream or "")
        return 0 if found is None else found.version

    # --- control ---

    @property
    def speed(self) -> float | None:
        """Times the original pace; None is as fast as possible. May be set at any time, also to "flat"."""
        return self._pace.speed

    @speed.setter
    def speed(self, speed: Speed) -> None:
        self._pace.speed = checked_speed(speed, self._speed_max)
        self._steer()

    @property
    def is_paused(self) -> bool:
        """Whether the replay waits for `resume`, `step` or `run_to`, or will wait before the next event."""
        return self._is_paused and not self._steps

    @property
    def goes_to_end(self) -> bool:
        """Whether the replay is neither paused nor set to pause at a position."""
        return not self._is_paused and self._pause_at == NEVER

    def pause(self) -> None:
        """Stop before the next event."""
        self._is_paused, self._steps, self._pause_at = True, 0, NEVER
        self._steer()

    def resume(self) -> None:
        """Go on to the end."""
        self._is_paused, self._steps, self._pause_at = False, 0, NEVER
        self._steer()

    def step(self) -> None:
        """Let one event pass at once, and stop again. Several calls let as many events pass."""
        self._is_paused, self._pause_at = True, NEVER
        self._steps += 1
        self._steer()

    def run_to(self, position: int) -> None:
        """Go on to this position and stop after it, or before the next event where the replay has none at the position.

        Raises `ReplayPositionPassed` for a position that the replay has passed, or after which it began: a replay does
        not go backwards; `NotInHistory` for a position after its end, `ArgumentInvalid` unless the position is a whole
        number, 0 or more.
        """
        check_count("position", position, least=0)
        if position < self._position:
            raise ReplayPositionPassed(position, self._position)
        if position > self._extent.end_position:
            raise NotInHistory(
                f"The replay ends at position {self._extent.end_position}, so it cannot run to {position}."
            )
        self._is_paused, self._steps, self._pause_at = position == self._position, 0, position
        self._steer()

    async def wait_paused(self) -> None:
        """Wait until the replay stands still, with no event in hand, because it is paused or has ended."""
        await trio.lowlevel.checkpoint()
        while not (self._has_ended or (self._stands and self.is_paused)):
            await self._stopped.park()

    @property
    def _position(self) -> int:
        if self._is_through and not self._extent.by_version:
            return self._extent.end_position
        return self._extent.begin_position if self._newest is None else self._newest.position

    @property
    def _events_by_now(self) -> int:
        """How many events have passed: counted by the batch, and within a batch derived from the newest event."""
        if self._newest is None:
            return self._events
        return self._events + bisect_right(self._passing, self._newest.position, key=attrgetter("position"))

    def _steer(self) -> None:
        self._is_free = self._pace.speed is None and not self._is_paused and self._pause_at == NEVER
        self._steered.unpark_all()
        self._stopped.unpark_all()

    @property
    def progress(self) -> Progress:
        """How far the replay has come."""
        now = self._stood_since if self._runs_since is None else trio.current_time()
        seconds = self._ran_seconds + (0.0 if self._runs_since is None else now - self._runs_since)
        extent = self._extent
        share = 1.0 if self._is_through else 0.0 if self._newest is None else extent.share(self._newest)
        left: float | None = 0.0
        if share < 1:
            left = self._pace.seconds_left(self._last_time_ns, now)
            if not left:
                # As fast as possible, or behind the schedule by all the time that it had left.
                left = seconds * (1 - share) / share if share > 0 else None
        return Progress(
            events=self._events_by_now,
            events_total=extent.events_total,
            position=self._position,
            last_position=extent.end_position,
            fraction=share,
            per_second=self._events_by_now / seconds if seconds > 0 else 0.0,
            seconds_left=left,
        )

    # --- running ---

    async def run(self) -> Self:
        """Replay to the end; other tasks get their turn every few hundred events.

        A cancelled or failed run stays at its last event, and cannot be started again.

        Raises:
            ReplayStarted: it was run before.
            ReplayHandlerFailed: a function or a projection raised; the error names the event.
            ApplierFailed, UnknownEvent, DecodingError: an aggregate cannot apply an event, which the error names.
            StoreError: the log cannot be read.
        """
        check_on_trio("replay.run", "portal.call(replay.run)")
        if self._has_begun:
            raise ReplayStarted
        self._has_begun = True
        self._goes_on()
        try:
            await trio.lowlevel.checkpoint()
            if self._extent.last_position:
                self._last_time_ns = self._store.time_at(self._extent.last_position)
            for batch in self._selection.batches(self._store, self._extent):
                if self._takes_batches and self._is_free and self._into is None:
                    self._take(batch)
                    self._passed(batch)
                else:
                    await self._replay(batch if self._has_own else batch[await self._replay_freely(batch) :])
                await trio.lowlevel.checkpoint()
            self._is_through = True
        finally:
            self._stands_still()
            self._has_ended = True
            self._stopped.unpark_all()
        return self

    async def _replay_freely(self, batch: Sequence[StoredEvent]) -> int:
        """Pass events to the function as long as no event needs steering before it; returns how many were passed."""
        into, plain = self._into, self._plain
        if into is None:
            return 0
        done_before, self._passing = self._events, batch
        try:
            for event in batch:
                if not self._is_free:
                    break
                returned = into(event)
                if type(returned) not in plain and self._is_awaited(returned):
                    await returned
                self._newest = event
        except Exception as error:
            raise ReplayHandlerFailed(event.stream, event.version, event.position, event.type, error) from error
        finally:
            self._events, self._passing = self._events_by_now, ()
        return self._events - done_before

    async def _replay(self, batch: Sequence[StoredEvent]) -> None:
        into, has_own = self._into, self._has_own
        for event in batch:
            if not self._is_free:
                await self._turn(event)
            if has_own:
                self._take((event,))
            if into is not None:
                try:
                    returned = into(event)
                    if type(returned) not in self._plain and self._is_awaited(returned):
                        await returned
                except Exception as error:
                    raise ReplayHandlerFailed(event.stream, event.version, event.position, event.type, error) from error
            self._newest = event
            self._events += 1
            if event.position >= self._pause_at:
                self.pause()

    def _is_awaited(self, returned: object) -> bool:
        """Whether a function's return value must be awaited; looked up once for each class of return value."""
        kind = type(returned)
        if hasattr(kind, "__await__"):
            return True
        if len(self._plain) < PLAIN_CLASSES_MAX:
            self._plain.add(kind)
        return False

    def _take(self, events: Sequence[StoredEvent]) -> None:
        """Apply events to the subclass's target."""

    def _passed(self, events: Sequence[StoredEvent]) -> None:
        if events:
            self._newest = events[-1]
            self._events += len(events)

    async def _turn(self, event: StoredEvent) -> None:
        """Wait until the event may pass."""
        while True:
            if event.position > self._pause_at:
                self.pause()
            if self._steps:
                self._steps -= 1
                self._pace.take(event, trio.current_time())
                return
            if self._is_paused:
                await self._stand()
                continue
            due, now = self._pace.due(event), trio.current_time()
            if due <= now:
                self._pace.take(event, now if due == -math.inf else due)
                return
            with trio.move_on_at(due):
                await self._steered.park()

    async def _stand(self) -> None:
        """Stand still until a call steers the replay."""
        self._stands_still()
        self._stands = True
        self._stopped.unpark_all()
        try:
            await self._steered.park()
        finally:
            self._stands = False
        self._pace.shift(trio.current_time() - self._stood_since)
        self._goes_on()

    def _goes_on(self) -> None:
        self._runs_since = trio.current_time()

    def _stands_still(self) -> None:
        if self._runs_since is not None:
            self._stood_since = trio.current_time()
            self._ran_seconds += self._stood_since - self._runs_since
            self._runs_since = None
