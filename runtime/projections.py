"""The projections of one runtime: opens their views, runs their projectors, rebuilds beside the old and swaps."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import msgspec
import trio

from ..actors.errors import DefinitionError, ProjectionUnavailable
from ..actors.feed import Feed
from ..actors.projection import Projection, Table
from ..actors.projector import Pause, ProjectionState, Projector, Resume
from ..actors.row_type import RowType
from ..actors.serializer import Serializer
from ..actors.view_session import ViewSession
from ..actors.view_store import Checkpoint, Generation, View, ViewStore
from ..actors.workshare import Workshare
from ..storage.limits import Limits
from ..storage.store import EventReader
from .errors import TooManyProjections, UnknownProjection

logger = logging.getLogger("eventsrc.projection")
LAG_WARNING_SECONDS: Final = 10.0
"""A projection that is over its bounds is reported so often."""


class Lag(msgspec.Struct, frozen=True):
    """How far a projection is behind: in events, and in the age of the oldest event that it has not seen."""

    events: int
    seconds: float
    state: ProjectionState
    error: str = ""
    rebuilding: bool = False


@attrs.define(eq=False)
class Built:
    """One generation of a view, open: its tables as they are queried, and its projector if it is kept up to date."""

    generation: Generation
    view: View
    tables: dict[str, RowType[Any]]
    projector: Projector | None = None
    is_swapped_in: bool = False


class RunningProjection:
    """One projection class: the generation that answers, and the one that is being built beside it, if any."""

    def __init__(self, projection_class: type[Projection], views: ViewStore, serializer: Serializer) -> None:
        definition = projection_class.__eventsrc_projection__
        self.projection_class = projection_class
        self.name: str = definition.name
        self.views = views
        self.tables = {name: RowType(table, serializer) for name, table in definition.tables.items()}
        self.schema = ";".join(table.schema for table in self.tables.values())
        self.active: Built
        self.building: Built | None = None
        self.warned_at = float("-inf")

    @property
    def projector(self) -> Projector:
        """The one that works on it: of the generation that answers, or of the one that will."""
        projector = self.active.projector or (self.building and self.building.projector)
        assert projector, f"nothing works on {self.name}"
        return projector

    @property
    def position(self) -> int:
        """How far the generation that answers has come."""
        projector = self.active.projector
        return projector.position if projector else self.active.view.checkpoint.position

    def fits(self, generation: Generation) -> bool:
        """Whether a generation was built by this version of the class."""
        return (generation.version, generation.schema) == (self.projection_class.version, self.schema)


class Projections:
    """Made by `Runtime.open`. Used on the trio thread."""

    def __init__(
        self,
        nursery: trio.Nursery,
        store: EventReader,
        feed: Feed,
        limits: Limits,
        serializer: Serializer,
        wall_clock: Callable[[], int],
    ) -> None:
        self.store = store
        self.feed = feed
        self.limits = limits
        self.workshare = Workshare(feed)
        self._nursery = nursery
        self._serializer = serializer
        self._wall_clock = wall_clock
        self._running: dict[type[Projection], RunningProjection] = {}
        self._moved = trio.lowlevel.ParkingLot()
        self._slow: list[RunningProjection] = []
        self.on_advance: Callable[[], None] = lambda: None

    async def open(
        self, classes: Sequence[type[Projection]], views_of: Callable[[type[Projection]], ViewStore]
    ) -> None:
        """Open every view and start its projector. Raises `TooManyProjections`, `DefinitionError`, `StoreError`."""
        if len(classes) > self.limits.projections_max:
            raise TooManyProjections(
                "Projections of a runtime", len(classes), self.limits.projections_max, "Split it, or raise the limit."
            )
        names: dict[str, type[Projection]] = {}
        for projection_class in classes:
            name = projection_class.__eventsrc_projection__.name
            other = names.setdefault(name, projection_class)
            if other is not projection_class:
                raise DefinitionError(
                    f"{projection_class.__name__} and {other.__name__} are both stored as {name!r}. Give one of them "
                    f'another name: class {projection_class.__name__}(Projection, name="...").'
                )
        for projection_class in names.values():
            running = RunningProjection(projection_class, views_of(projection_class), self._serializer)
            await self._open_one(running)
            self._running[projection_class] = running
            if projection_class.on_lag == "slow_writers":
                self._slow.append(running)

    async def close(self) -> None:
        """Stop the projectors and close the views."""
        for running in self._running.values():
            for built in (running.active, running.building):
                if built is not None:
                    await self._close(built)

    # --- asking ---

    def get(self, projection_class: type[Projection]) -> RunningProjection:
        """One projection. Raises `UnknownProjection`."""
        running = self._running.get(projection_class)
        if running is None:
            raise UnknownProjection(projection_class, [known.__name__ for known in self._running])
        return running

    def all(self) -> list[type[Projection]]:
        """Every projection, in the order in which they were given."""
        return list(self._running)

    def lag(self, projection_class: type[Projection]) -> Lag:
        """How far one is behind. Raises `UnknownProjection`."""
        return self._lag(self.get(projection_class))

    def lags(self) -> dict[str, Lag]:
        """The same for each, by name."""
        return {running.name: self._lag(running) for running in self._running.values()}

    def _lag(self, running: RunningProjection) -> Lag:
        projector = running.projector
        events = max(self.store.last_position - running.position, 0)
        return Lag(events, self._lag_seconds(running), projector.state, projector.error, running.building is not None)

    async def wait_for(self, running: RunningProjection, position: int) -> None:
        """Wait until the generation that answers has seen the event at `position`.

        Raises `ProjectionUnavailable` when it is paused or has failed, so that it would not come to it.
        """
        while running.position < position:
            projector = running.projector
            if projector.state in ("paused", "failed"):
                raise ProjectionUnavailable(running.name, projector.state, projector.error)
            await self._moved.park()

    async def wait_while_possible(self, running: RunningProjection, position: int) -> None:
        """The same, but only for as long as it may still come to that."""
        while running.position < position and running.projector.state not in ("paused", "failed"):
            await self._moved.park()

    def table(self, running: RunningProjection, table: Table[Any] | None) -> tuple[View, RowType[Any]]:
        """A table of the generation that answers; without a name the only one."""
        built = running.active
        if table is None:
            if len(built.tables) > 1:
                name = running.projection_class.__name__
                raise DefinitionError(f"{name} has several tables; say which: view({name}.{next(iter(built.tables))}).")
            return built.view, next(iter(built.tables.values()))
        return built.view, built.tables[table.name]

    def admits(self, reached_position: int, event_count: int) -> bool:
        """Whether the log may grow: no projection that slows writers down would be too far behind."""
        return all(self._admits(running, reached_position, event_count) for running in self._slow)

    # --- steering ---

    async def pause(self, projection_class: type[Projection]) -> None:
        """Have it stay where it is. Whoever waits for it gets `ProjectionUnavailable`. Raises `UnknownProjection`."""
        await self.get(projection_class).projector.order(Pause())

    async def resume(self, projection_class: type[Projection]) -> None:
        """Have it go on, after a pause or a failure. Raises `UnknownProjection`."""
        await self.get(projection_class).projector.order(Resume())

    async def rebuild(self, projection_class: type[Projection]) -> None:
        """Build it anew from the first event, beside the view that answers, and swap when it has caught up.

        Returns when the building has begun; `lag` tells when it is over. Raises `UnknownProjection`.
        """
        running = self.get(projection_class)
        if running.building is None:
            running.building = await self._build_new(running, await _stored(running))

    # --- what projectors need ---

    def advanced(self, projector: Projector) -> None:
        """A projector's position or state has changed."""
        self._moved.unpark_all()
        self.on_advance()
        for running in self._running.values():
            building = running.building
            if building is not None and building.projector is projector:
                if projector.state != "live" or building.is_swapped_in:
                    return
                building.is_swapped_in = True
                self._nursery.start_soon(self._swap, running, building, name=f"{running.name}: swap")
            elif running.active.projector is projector:
                self._report(running)

    # --- opening and swapping ---

    async def _open_one(self, running: RunningProjection) -> None:
        stored = await _stored(running)
        if not stored:
            running.active = await self._build_new(running, stored)
            await trio.to_thread.run_sync(running.views.activate, running.name, running.active.generation)
            return
        first, *others = stored
        current = await self._open_generation(running, first)
        if not self._is_of_this_log(current.view.checkpoint):
            logger.warning(
                "the view knows events that the log does not have (a restored backup?); it is built anew",
                extra={"projection": running.name, "position": current.view.checkpoint.position},
            )
            await self._close(current)
            running.active = await self._build_new(running, stored)
            await trio.to_thread.run_sync(running.views.activate, running.name, running.active.generation)
            others = stored
        elif running.fits(first):
            running.active = current
            await self._start(running, current)
        else:
            running.active = current
        await self._take_up_building(running, others)

    async def _take_up_building(self, running: RunningProjection, others: list[Generation]) -> None:
        """Go on with a generation that was being built, or begin one where the class has changed; drop the others."""
        newer = [each for each in others if running.fits(each) and each.number > running.active.generation.number]
        if newer:
            building = await self._open_generation(running, newer[0])
            if self._is_of_this_log(building.view.checkpoint):
                running.building = building
                await self._start(running, building)
                others = [each for each in others if each is not newer[0]]
            else:
                await self._close(building)
        if running.active.projector is None and running.building is None:
            running.building = await self._build_new(running, [running.active.generation, *others])
        for generation in others:
            self._nursery.start_soon(self._drop, running, generation, name=f"{running.name}: drop")

    async def _build_new(self, running: RunningProjection, stored: Sequence[Generation]) -> Built:
        number = max((generation.number for generation in stored), default=0) + 1
        generation = Generation(number, running.projection_class.version, running.schema)
        built = await self._open_generation(running, generation)
        await self._start(running, built)
        return built

    async def _open_generation(self, running: RunningProjection, generation: Generation) -> Built:
        tables = running.tables
        if generation.schema != running.schema:
            # Of an older class: its indexes may be others, so its rows are looked at one by one.
            tables = {name: table.without_indexes() for name, table in tables.items()}
        view = await trio.to_thread.run_sync(running.views.open, running.name, generation, list(tables.values()))
        return Built(generation, view, tables)

    async def _start(self, running: RunningProjection, built: Built) -> None:
        session = ViewSession(running.projection_class, built.view, self._serializer)
        checkpoint = built.view.checkpoint
        if built.view.waits:
            checkpoint = await trio.to_thread.run_sync(lambda: built.view.checkpoint)
        projector = Projector(self, running.name, session, checkpoint)
        built.projector = projector
        projector.start_in(self._nursery)

    async def _swap(self, running: RunningProjection, building: Built) -> None:
        await trio.to_thread.run_sync(running.views.activate, running.name, building.generation)
        old, running.active, running.building = running.active, building, None
        logger.info("view rebuilt", extra={"projection": running.name, "generation": building.generation.number})
        self._moved.unpark_all()
        await self._close(old)
        await self._drop(running, old.generation)

    async def _drop(self, running: RunningProjection, generation: Generation) -> None:
        try:
            await trio.to_thread.run_sync(running.views.drop, running.name, generation)
        except Exception:
            # It is tried again when the store is opened next.
            logger.exception("an old view could not be removed", extra={"projection": running.name})

    async def _close(self, built: Built) -> None:
        if built.projector is not None:
            await built.projector.end()
        await trio.to_thread.run_sync(built.view.close)

    def _is_of_this_log(self, checkpoint: Checkpoint) -> bool:
        if not checkpoint.position:
            return True
        events = self.store.read(after=checkpoint.position - 1, limit=1)
        return bool(events) and events[0].hash == checkpoint.event_hash

    # --- lag ---

    def _lag_seconds(self, running: RunningProjection) -> float:
        position = running.position
        if position >= self.store.last_position:
            return 0.0
        (event,) = self.store.read(after=position, limit=1)
        return max((self._wall_clock() - event.time_ns) / 1e9, 0.0)

    def _exceeds(self, running: RunningProjection) -> bool:
        bounds = running.projection_class
        events, seconds = bounds.max_lag_events, bounds.max_lag_seconds
        if events is not None and self.store.last_position - running.position > events:
            return True
        return seconds is not None and self._lag_seconds(running) > seconds

    def _admits(self, running: RunningProjection, reached_position: int, event_count: int) -> bool:
        if running.projector.state in ("paused", "failed", "retrying"):
            # Commands do not stand still for what may never go on; the lag is reported.
            return True
        position = running.position
        if position >= reached_position:
            return True
        bounds = running.projection_class
        if bounds.max_lag_events is not None and reached_position + event_count - position > bounds.max_lag_events:
            return False
        return bounds.max_lag_seconds is None or self._lag_seconds(running) <= bounds.max_lag_seconds

    def _report(self, running: RunningProjection) -> None:
        now = time.monotonic()
        if now - running.warned_at > LAG_WARNING_SECONDS and self._exceeds(running):
            running.warned_at = now
            lag = self._lag(running)
            logger.warning(
                "a projection is too far behind",
                extra={"projection": running.name, "events": lag.events, "seconds": round(lag.seconds, 3)},
            )


async def _stored(running: RunningProjection) -> list[Generation]:
    return await trio.to_thread.run_sync(running.views.generations, running.name)
