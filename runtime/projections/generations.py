"""The generations of one projection's view: which one answers, which one is being built beside it, and the swap.

Several processes may keep one view, where it lives in SQL. The process that swaps drops the replaced generation, and
the others find theirs removed. They go over to the one that answers if it has their own version. A process opened with
another version takes over, and the others stop: no running process builds its own in answer, or two versions would drop
each other's for ever.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final, Protocol, TypeVar, TypeVarTuple

import attrs
import trio

from ...actors.background import in_background, in_thread
from ...actors.projections.projection import Projection
from ...actors.projections.projector import GiveUp, Pause, ProjectionState, Projector, ProjectorHost, Resume
from ...actors.serialization.serializer import Serializer
from ...actors.views.errors import ViewRemoved
from ...actors.views.row_type import RowType
from ...actors.views.session import ViewSession
from ...actors.views.view_store import Checkpoint, Generation, StoredView, ViewStore
from ...storage.errors import EventSourcingError
from ...storage.log import EventLog
from ...storage.reader import LogReader
from .open_generation import OpenGeneration
from .view_schema import ViewSchema

SWAP_RETRY_SECONDS: Final = 1.0
NUMBERS_TRIED_MAX: Final = 10
"""How many generations are begun before giving up, where other processes take each number for another version."""
Arguments = TypeVarTuple("Arguments")
T = TypeVar("T")
logger = logging.getLogger("eventsrc.projection")


class GenerationsHost(ProjectorHost, Protocol):
    """The parts of the runtime that the generations need."""

    def swapped(self) -> None:
        """Report that another generation answers from now on."""


class RunningProjection:
    """One projection class and its generations. Until `open` has succeeded there is none, and nothing answers."""

    def __init__(
        self,
        projection_class: type[Projection],
        views: ViewStore,
        *,
        serializer: Serializer,
        host: GenerationsHost,
        nursery: trio.Nursery,
        forgotten_position: int,
    ) -> None:
        definition = projection_class.__eventsrc_projection__
        self.projection_class = projection_class
        self.name: str = definition.name
        self.tables = {name: RowType(table, serializer) for name, table in definition.tables.items()}
        self.schema = ViewSchema.of(projection_class, self.tables.values(), forgotten_position)
        self.active: OpenGeneration | None = None
        self.building: OpenGeneration | None = None
        self.is_paused = False
        self.warned_at = float("-inf")
        self._views = views
        self._serializer = serializer
        self._host = host
        self._nursery = nursery
        self._error = "it is not open yet"
        self._newest_number = 0
        self._changing = trio.Lock()
        self._looked: trio.Event | None = None
        self._leaving: set[int] = set()
        """The numbers of generations that are being removed."""

    @property
    def projector(self) -> Projector | None:
        """The projector of the generation that answers or, without one, of the generation that is being built."""
        if self.active is not None and self.active.projector is not None:
            return self.active.projector
        return None if self.building is None else self.building.projector

    @property
    def state(self) -> ProjectionState:
        """What its projector is doing; "retrying" as long as it could not be opened."""
        projector = self.projector
        if projector is None:
            return "paused" if self.is_paused else "retrying"
        return projector.state

    @property
    def error(self) -> str:
        """The last error; empty when all is well."""
        projector = self.projector
        if projector is None:
            return self._error
        building = None if self.building is None else self.building.projector
        if projector.error or building is None or not building.error:
            return projector.error
        return f"the view that is being built beside it: {building.error}"

    @property
    def will_not_come(self) -> bool:
        """Whether no generation will see any further event, unless the projection is resumed."""
        working = [each.projector for each in (self.active, self.building) if each and each.projector]
        if not working:
            return self.is_paused
        return all(projector.state in ("paused", "failed") for projector in working)

    @property
    def position(self) -> int:
        """How far the generation that answers has come."""
        return 0 if self.active is None else self.active.position

    @property
    def is_replaced(self) -> bool:
        """Whether the generation that answers is of an older class: it stands still until the new one has caught up."""
        return self.active is not None and self.active.projector is None

    # --- opening and closing ---

    async def open(self) -> None:
        """Open the stored generations, or begin one. May be retried after `StoreError` or `ViewUnreachable`."""
        # Forgetting may build a view at the same time: of two new generations one would never be removed.
        async with self._changing:
            try:
                stored = await self._stored()
                if stored:
                    await self._open_stored(stored)
                else:
                    await self._begin(stored)
                await self._renew_if_told()
            except BaseException as error:
                self._error = str(error)
                await self._close_all()
                raise
        self._nursery.start_soon(in_background, self._tidy, name=f"{self.name}: tidy")

    async def close(self) -> None:
        """Stop the projectors and close the views, even where closing one fails."""
        with trio.CancelScope(shield=True):
            async with self._changing:
                await self._close_all()

    async def _close_all(self) -> None:
        async with AsyncExitStack() as closing:
            for built in (self.active, self.building):
                if built is not None:
                    closing.push_async_callback(built.close)
        self.active = self.building = None

    async def set_paused(self, *, paused: bool) -> None:
        """Pause or resume its projectors, and set the state of later ones."""
        self.is_paused = paused
        working = [each.projector for each in (self.active, self.building) if each and each.projector]
        # All are told before the first is waited for: the caller may be cancelled.
        for obeyed in [projector.told(Pause() if paused else Resume()) for projector in working]:
            await obeyed

    async def rebuild(self) -> None:
        """Begin a new generation beside the one that answers, unless one is being built already."""
        async with self._changing:
            if self.building is None:
                # Shielded: a stored generation that nobody builds would only be built after a restart.
                with trio.CancelScope(shield=True):
                    self.building = await self._build_new(await self._stored())

    @property
    def has_forgotten(self) -> bool:
        """Whether the generation that answers shows no forgotten subject."""
        return self.active is None or self.schema.fits(self.active.generation)

    @property
    def is_tidy(self) -> bool:
        """Whether every replaced generation is removed."""
        return not self._leaving

    def forgotten(self, position: int) -> None:
        """Take note that the log has a `SubjectForgotten` at this position."""
        self.schema = attrs.evolve(self.schema, forgotten_position=position)

    async def forget(self) -> None:
        """Rebuild a generation that was begun before a subject was forgotten.

        A generation that is already being built takes its place first, even if it must then be rebuilt: frequent
        forgetting would otherwise keep every generation from getting there.
        """
        async with self._changing:
            await self._renew_if_told()

    async def _renew_if_told(self) -> None:
        if self.building is None and not self.has_forgotten:
            self.building = await self._build_new(await self._stored())

    async def _begin(self, stored: Sequence[Generation]) -> None:
        """Let a new generation answer from its beginning, as soon as it is stored as the one that answers."""
        built = await self._build_new(stored, starts=False)
        try:
            await self._in_thread(self._views.activate, self.name, built.generation)
        except BaseException:
            await built.close()
            raise
        self._start(built)
        self.active = built

    async def _open_stored(self, stored: Sequence[Generation]) -> None:
        first, *others = stored
        active = self.active = await self._open_generation(first)
        if not self._is_of_this_log(active.checkpoint):
            logger.warning(
                "the view knows events that the log does not have (a restored backup?); it is built anew",
                extra={"projection": self.name, "position": active.checkpoint.position},
            )
            await active.close()
            self.active = None
            await self._begin(stored)
            self._drop_later(stored)
            return
        if self.schema.is_of_class(first):
            self._start(active)
        newer = [each for each in others if self.schema.fits(each) and each.number > first.number]
        if newer:
            self.building = await self._open_generation(newer[0])
            others.remove(newer[0])
            if self._is_of_this_log(self.building.checkpoint):
                self._start(self.building)
            else:
                await self.building.close()
                self.building = None
                others.append(newer[0])
        if not self.schema.fits(first) and self.building is None:
            self.building = await self._build_new(stored)
        self._drop_later(others)

    async def _build_new(self, stored: Sequence[Generation], *, starts: bool = True) -> OpenGeneration:
        # No number is used twice: the generation that had it may still be on its way out.
        known = max((generation.number for generation in stored), default=0)
        self._newest_number = max(self._newest_number, known)
        for _ in range(NUMBERS_TRIED_MAX):
            self._newest_number += 1
            generation = self.schema.generation(self._newest_number)
            built = await self._open_generation(generation)
            try:
                if generation in await self._stored():
                    if starts:
                        self._start(built)
                    return built
            except BaseException:
                # No one else knows of it.
                await built.close()
                raise
            # Another process has begun a generation of another version under this number.
            await built.close()
        raise ViewRemoved(self.name, f"{self.name}, generation {self._newest_number}")

    async def _open_generation(self, generation: Generation) -> OpenGeneration:
        tables = self.tables
        if not self.schema.has_rows_of(generation):
            tables = {name: table.for_older_rows() for name, table in tables.items()}

        def open_it() -> tuple[StoredView, Checkpoint]:
            view = self._views.open(self.name, generation, list(tables.values()))
            try:
                return view, view.checkpoint
            except BaseException:
                view.close()
                raise

        view, checkpoint = await self._in_thread(open_it)
        return OpenGeneration(generation, view, tables, checkpoint)

    def _start(self, built: OpenGeneration) -> None:
        session = ViewSession(self.projection_class, built.view, self._serializer)
        built.projector = Projector(self._host, self.name, session, built.checkpoint)
        if self.is_paused:
            built.projector.state = "paused"
        built.projector.start_in(self._nursery)

    def _is_of_this_log(self, checkpoint: Checkpoint) -> bool:
        if not checkpoint.position:
            return True
        self._refresh()
        events = self._host.store.read(after=checkpoint.position - 1, limit=1)
        return bool(events) and events[0].hash == checkpoint.event_hash

    def _refresh(self) -> None:
        """Have a reader take in all of the log: other processes may have brought the view further than it has seen."""
        store = self._host.store
        if isinstance(store, LogReader) and not isinstance(store, EventLog) and store.refresh():
            self._host.feed.notify()

    def _end_of_log(self) -> int:
        self._refresh()
        return self._host.store.last_position

    async def _stored(self) -> list[Generation]:
        return await self._in_thread(self._views.generations, self.name)

    async def _in_thread(self, call: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        return await in_thread(call, *arguments, limiter=self._host.threads)

    # --- swapping ---

    def look_at_building(self) -> None:
        """Swap, if the generation that is being built has caught up."""
        building = self.building
        if building is None or building.projector is None:
            return
        if building.stage == "building" and building.projector.state == "live":
            building.stage = "activating"
            self._nursery.start_soon(in_background, self._activate, building, name=f"{self.name}: swap")
        # The old one went on meanwhile: an event that a query has seen must be in the new view as well.
        elif building.stage == "next" and building.position >= self._seen_position():
            self._swap(building)

    def _seen_position(self) -> int:
        """How far a query may have seen the generation that answers; other processes may advance one in SQL."""
        active = self.active
        if active is None or not active.view.waits or self.is_paused:
            return self.position
        end = self._end_of_log() if active.removed_position is None else active.removed_position
        return max(self.position, end)

    async def _activate(self, building: OpenGeneration) -> None:
        try:
            if building.generation not in await self._stored():
                self.look_again()
                return
            await self._in_thread(self._views.activate, self.name, building.generation)
        except EventSourcingError as error:
            logger.warning("a rebuilt view cannot take its place yet: %s", error, extra={"projection": self.name})
            await trio.sleep(SWAP_RETRY_SECONDS)
            building.stage = "building"
        else:
            building.stage = "next"
        self.look_at_building()

    def _swap(self, building: OpenGeneration) -> None:
        old, self.active, self.building = self.active, building, None
        logger.info("view rebuilt", extra={"projection": self.name, "generation": building.generation.number})
        if old is not None:
            self._leaving.add(old.generation.number)
            self._nursery.start_soon(in_background, self._retire, old, name=f"{self.name}: drop")
        self._host.swapped()

    async def _retire(self, old: OpenGeneration) -> None:
        try:
            await old.unused()
        finally:
            # Also when the runtime ends meanwhile.
            await old.close()
        if old.removed_position is None:
            await self._drop(old.generation)
        else:
            self._left(old.generation)

    def _drop_later(self, generations: Sequence[Generation]) -> None:
        for generation in generations:
            self._leaving.add(generation.number)
            self._nursery.start_soon(in_background, self._drop, generation, name=f"{self.name}: drop")

    async def _drop(self, generation: Generation) -> None:
        try:
            await self._in_thread(self._views.drop, self.name, generation)
        except Exception as error:
            # The removal is tried again when the store is opened next.
            self._warn("an old view could not be removed", error)
        finally:
            self._left(generation)

    def _left(self, generation: Generation) -> None:
        self._leaving.discard(generation.number)
        self._host.swapped()

    async def _tidy(self) -> None:
        try:
            await self._in_thread(self._views.tidy, self.name)
        except Exception as error:
            self._warn("what is left of an old view could not be removed", error)

    def _warn(self, what: str, error: Exception) -> None:
        unexpected = None if isinstance(error, EventSourcingError) else error
        logger.warning("%s: %s", what, error, exc_info=unexpected, extra={"projection": self.name})

    # --- other processes ---

    def look_again(self) -> trio.Event:
        """Look at the stored generations, one of which was removed; the event is set when that is done."""
        if self._looked is None:
            self._looked = trio.Event()
            self._nursery.start_soon(in_background, self._look_again, self._looked, name=f"{self.name}: look again")
        return self._looked

    async def _look_again(self, looked: trio.Event) -> None:
        try:
            async with self._changing:
                await self._go_on_with_stored()
        except EventSourcingError as error:
            # Callers that waited for this look ask for another.
            logger.warning("a view was removed: %s", error, extra={"projection": self.name})
        finally:
            self._looked = None
            looked.set()

    async def _go_on_with_stored(self) -> None:
        stored = await self._stored()
        active, building = self.active, self.building
        if active is None:
            return
        is_removed = active.generation not in stored
        if is_removed and active.removed_position is None:
            active.removed_position = self._end_of_log()
        is_building_removed = building is not None and building.generation not in stored
        if building is not None and is_building_removed:
            self.building = None
            await building.close()
        if is_removed and stored and self.schema.fits(stored[0]):
            await self._go_over_to(stored[0])
        elif is_removed and stored and active.projector is not None and self.building is None:
            newer = stored[0]
            await active.projector.order(
                GiveUp(
                    f"another process has taken over the view with version {newer.version} of the projection, or with "
                    f"other rows; here it has version {self.projection_class.version}. Restart this process with the "
                    "same, or rebuild the projection to have its own answer"
                )
            )
        elif self.building is None and (is_removed or is_building_removed):
            self.building = await self._build_new(stored)

    async def _go_over_to(self, generation: Generation) -> None:
        """Have another process's generation answer here, as soon as it has reached what was seen here."""
        building = self.building
        if building is not None and building.stage != "building":
            # This process's own generation is about to take that place.
            return
        if building is not None and building.generation != generation:
            # The other process has built the generation that this one was begun for.
            self.building = None
            await building.close()
            self._drop_later([building.generation])
        if self.building is None:
            self.building = await self._open_generation(generation)
            self._start(self.building)
        self.building.stage = "next"
        self.look_at_building()
