"""Replay: events of the past once more, in order, into a state, a view or a function, at any pace, under control.

It only reads: nothing that is replayed is stored, and no command is sent.
"""

import inspect
import math
import shutil
import tempfile
import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Generic, Literal, Self, TypeAlias, TypedDict, TypeVar, cast

import attrs
import trio

from ..actors.aggregate import Aggregate
from ..actors.aggregate_type import AggregateType
from ..actors.criteria import RowQuery, criteria_of
from ..actors.errors import DefinitionError
from ..actors.lmdb_view import LmdbViews
from ..actors.projection import Projection, Table
from ..actors.recovery import apply_event, newest_snapshot
from ..actors.row_type import RowType
from ..actors.serializer import Serializer
from ..actors.view_session import ViewSession
from ..actors.view_store import Checkpoint, Generation
from ..storage.limits import Limits
from ..storage.record import StoredEvent
from ..storage.store import EventReader
from .errors import ReplaySpeedInvalid
from .events import Wanted
from .history import position_of, position_of_version

ReplayMode: TypeAlias = Literal["full", "from_snapshot", "selective", "time_travel"]
MODES: Final = ("full", "from_snapshot", "selective", "time_travel")
SPEED_MIN: Final = 0.1
"""Times the original pace, at least; the most is `Limits.replay_speed_max`."""
EVENTS_PER_CHECKPOINT: Final = 100
NS_PER_SECOND: Final = 1e9

A = TypeVar("A", bound=Aggregate)
R = TypeVar("R")


class ReplayOptions(TypedDict, total=False):
    """What `Runtime.replay` takes besides: the filters of a selective replay, or the end of a time travel."""

    types: Sequence[type | str] | None
    category: str | None
    tag: str | Sequence[str] | None
    metadata: Mapping[str, Any] | None
    to_version: int | None
    to_position: int | None
    to_time: datetime | None


@attrs.frozen
class Progress:
    """How far a replay has come. `seconds_left` is None before there is anything to tell it by."""

    events: int
    position: int
    last_position: int
    per_second: float
    seconds_left: float | None


@attrs.frozen(kw_only=True)
class Selection:
    """Which events are replayed, and up to where."""

    mode: ReplayMode
    stream: str | None = None
    types: Sequence[type | str] | None = None
    category: str | None = None
    tag: str | Sequence[str] | None = None
    metadata: Mapping[str, Any] | None = None
    to_version: int | None = None
    to_position: int | None = None
    to_time: datetime | None = None

    def check(self) -> None:
        """Raise `ValueError` for what does not go together."""
        if self.mode not in MODES:
            raise ValueError(f"the mode of a replay is one of {', '.join(MODES)}, not {self.mode!r}")
        filters = (self.types, self.category, self.tag, self.metadata)
        ends = [end for end in (self.to_version, self.to_position, self.to_time) if end is not None]
        if self.mode == "selective" and not any(filters):
            raise ValueError("a selective replay needs types, a category, a tag or metadata to select by")
        if self.mode != "selective" and any(filters):
            raise ValueError(f"a replay in the mode {self.mode!r} takes no filter: use the mode 'selective'")
        if (self.mode == "time_travel") != (len(ends) == 1) or len(ends) > 1:
            raise ValueError("a time_travel needs one of to_version, to_position and to_time; other modes take none")
        if self.mode == "from_snapshot" and self.stream is None:
            raise ValueError("a replay from a snapshot is one of an aggregate: say which")
        if self.to_version is not None and self.stream is None:
            raise ValueError("a version is one of an aggregate: say which")

    def end(self, store: EventReader) -> int:
        """The last position that may be replayed. Raises `NotInHistory`."""
        if self.to_version is not None and self.stream is not None:
            return position_of_version(store, self.stream, self.to_version)
        if self.to_position is not None or self.to_time is not None:
            return position_of(store, position=self.to_position, time=self.to_time)
        return store.last_position


class Replay:
    """One replay. `await replay.run()` runs it; another task may `pause`, `resume`, `step` or `run_to` meanwhile."""

    def __init__(
        self,
        store: EventReader,
        selection: Selection,
        *,
        speed: float | None,
        limits: Limits,
        into: Callable[[StoredEvent], Any] | None = None,
    ) -> None:
        selection.check()
        if speed is not None and not SPEED_MIN <= speed <= limits.replay_speed_max:
            raise ReplaySpeedInvalid(speed, SPEED_MIN, limits.replay_speed_max)
        self.speed = speed
        """Times the original pace; None is as fast as it goes."""
        self._store = store
        self._selection = selection
        self._targets: list[Callable[[StoredEvent], Any]] = [] if into is None else [into]
        self._end = selection.end(store)
        self._begin = 0
        self._position = 0
        self._events = 0
        self._busy_seconds = 0.0
        self._allowed: float = math.inf
        self._pause_at: float = math.inf
        self._moved = trio.lowlevel.ParkingLot()

    # --- control ---

    @property
    def is_paused(self) -> bool:
        """Whether it waits for `resume`, `step` or `run_to`."""
        return self._allowed <= 0

    def pause(self) -> None:
        """Have it stop before the next event."""
        self._allowed = 0

    def resume(self) -> None:
        """Have it go on to the end."""
        self._allowed = self._pause_at = math.inf
        self._moved.unpark_all()

    def step(self) -> None:
        """Let one event through, and stop again."""
        self._allowed = 1
        self._moved.unpark_all()

    def run_to(self, position: int) -> None:
        """Have it go on to this position, and stop behind it."""
        self._allowed, self._pause_at = math.inf, position
        self._moved.unpark_all()

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        rate = self._events / self._busy_seconds if self._busy_seconds else 0.0
        passed, whole = self._position - self._begin, self._end - self._begin
        left = self._busy_seconds * (whole - passed) / passed if passed else None
        return Progress(self._events, self._position, self._end, rate, left)

    # --- running ---

    async def run(self) -> Self:
        """Replay to the end. Raises what a function raises, `ApplierFailed`, `DecodingError` or a `StoreError`."""
        selection = self._selection
        previous: StoredEvent | None = None
        self._busy_seconds = 0.0
        begun = clock.perf_counter()
        for event in self._events_wanted():
            if self._allowed <= 0 or event.position > self._pause_at:
                self._busy_seconds += clock.perf_counter() - begun
                if event.position > self._pause_at:
                    self._allowed = 0
                await self._while_paused()
                begun = clock.perf_counter()
            if self.speed is not None and previous is not None:
                await trio.sleep(max(event.time_ns - previous.time_ns, 0) / NS_PER_SECOND / self.speed)
            elif self._events % EVENTS_PER_CHECKPOINT == 0:
                self._busy_seconds += clock.perf_counter() - begun
                await trio.lowlevel.checkpoint()
                begun = clock.perf_counter()
            for target in self._targets:
                result = target(event)
                if result is not None and inspect.isawaitable(result):
                    await result
            previous = event
            self._events += 1
            self._allowed -= 1
            self._position = event.position
        self._busy_seconds += clock.perf_counter() - begun
        self._position = max(self._position, self._end if selection.stream is None else self._position)
        return self

    async def _while_paused(self) -> None:
        while self._allowed <= 0:
            await self._moved.park()

    def _events_wanted(self) -> Iterator[StoredEvent]:
        selection = self._selection
        wanted = Wanted.of(
            stream=selection.stream,
            types=selection.types,
            category=selection.category,
            tag=selection.tag,
            metadata=selection.metadata,
        )
        return wanted.find(self._store, self._begin, self._end + 1)


class AggregateReplay(Replay, Generic[A]):
    """A replay into the state of one aggregate."""

    def __init__(
        self, store: EventReader, aggregate_type: AggregateType, aggregate_id: str, selection: Selection, **options: Any
    ) -> None:
        super().__init__(store, selection, **options)
        self.state = cast(A, aggregate_type.initial_state(aggregate_id))
        """As far as it has been replayed."""
        self._type = aggregate_type
        if selection.mode == "from_snapshot":
            stream = aggregate_type.stream(aggregate_id)
            found = newest_snapshot(store, aggregate_type, stream, aggregate_id)
            if found is not None:
                self.state, version = cast(A, found.state), found.version
                self._begin = position_of_version(store, stream, version)
        self._targets.insert(0, self._apply)

    def _apply(self, event: StoredEvent) -> None:
        apply_event(self._type, self.state, event)


class ProjectionReplay(Replay):
    """A replay into a view of its own, which is gone when the block of `async with` ends."""

    def __init__(
        self,
        store: EventReader,
        projection: type[Projection],
        serializer: Serializer,
        selection: Selection,
        **options: Any,
    ) -> None:
        super().__init__(store, selection, **options)
        definition = projection.__eventsrc_projection__
        self._tables = {name: RowType(table, serializer) for name, table in definition.tables.items()}
        self._folder = Path(tempfile.mkdtemp(prefix="eventsrc-replay-"))
        self._view = LmdbViews(self._folder).open(definition.name, Generation(1, 1, ""), self._tables.values())
        self._session = ViewSession(projection, self._view, serializer)
        self._targets.insert(0, self._project)

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._view.close()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(shutil.rmtree, self._folder)

    def rows(self, table: Table[R], **criteria: Any) -> list[R]:
        """The rows of a table that meet the criteria, as far as it has been replayed; see `View.where`."""
        row_type = self._tables.get(table.name)
        if row_type is None:
            raise DefinitionError(f"The projection that is replayed has no table {table.name!r}.")
        query = RowQuery(criteria_of(row_type.fields, table.name, criteria))
        with self._view.reading() as reading:
            return reading.find(row_type, query)

    def _project(self, event: StoredEvent) -> None:
        self._session.apply([event], Checkpoint(event.position, event.hash))
