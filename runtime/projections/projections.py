"""The projections of one runtime: how far they are, waiting for them, steering them, and slowing writers down."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import trio

from ...actors.background import in_background
from ...actors.errors import DefinitionError, RuntimeClosed
from ...actors.feed import Feed
from ...actors.projections.projection import Projection
from ...actors.projections.projector import Projector
from ...actors.projections.workshare import Workshare
from ...actors.serialization.serializer import Serializer
from ...actors.subjects import SUBJECT_FORGOTTEN
from ...actors.views.errors import ProjectionUnavailable, ViewUnreachable
from ...actors.views.view_store import ViewStore
from ...storage.control.board import ControlBoard
from ...storage.environment.refusals import lacks_room
from ...storage.errors import StoreError
from ...storage.limits import Limits
from ...storage.past import PastLog
from ...storage.record import StoredEvent
from ...storage.store import EventReader
from ..errors import ArgumentInvalid, UnknownProjection
from ..on_board import on_board
from ..trio_thread import check_on_trio
from .arrivals import Arrivals
from .generations import RunningProjection
from .intake_rate import IntakeRate
from .open_generation import OpenGeneration
from .steering import Lag
from .view_schema import must_forget

logger = logging.getLogger("eventsrc.projection")
SCANS_MAX: Final = 4
"""Queries that look at many rows of LMDB views at once, each in a worker thread; others wait."""
THREADS_MAX: Final = 40
"""In which projections wait for their views, and as many for queries of views that wait: connections of a database."""
ARRIVALS_KEPT: Final = 128
"""Moments at which events came that are kept before it is looked which of them no projection needs."""
FORGET_RETRY_SECONDS: Final = 1.0
"""After which it is looked whether a view was built anew that may know somebody who was forgotten."""
LAG_MARGIN: Final = 0.5
"""Of `max_lag_seconds` after which writers wait: what is stored by then takes its time, too."""
LAG_WARNING_SECONDS: Final = 10.0
"""A projection that is over its bounds is reported so often."""


class Projections:
    """All projections of one runtime, made by `Runtime.open`; fulfils `ProjectionSteering`. Used on the trio thread."""

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
        self._running: dict[type[Projection], RunningProjection] = {}
        self._of_name: dict[str, RunningProjection] = {}
        self._moved = trio.lowlevel.ParkingLot()
        self._slow: list[RunningProjection] = []
        self._rates: dict[RunningProjection, IntakeRate] = {}
        self._board: ControlBoard | None = None
        self._arrivals = Arrivals(store, wall_clock)
        feed.listen(self._arrivals, self._arrivals.note)
        self.scans = trio.CapacityLimiter(SCANS_MAX)
        self.threads = trio.CapacityLimiter(THREADS_MAX)
        self.queries = trio.CapacityLimiter(THREADS_MAX)
        self.on_advance: Callable[[], None] = lambda: None
        self._is_closed = False
        self.forgotten_position = 0
        """Where the log says for the last time that a subject was forgotten."""
        self._forgetful: set[RunningProjection] = set()
        """Those that a task waits for, until they know nothing of that subject."""
        self._pasts: list[Projections] = []
        self._renewals: list[Callable[[], Awaitable[None]]] = []

    async def open(
        self,
        classes: Sequence[type[Projection]],
        views_of: Callable[[type[Projection]], ViewStore],
        board: ControlBoard | None,
    ) -> None:
        """Open every view and start its projector, unless it was paused: that is remembered on the board.

        Raises `DefinitionError`, `StoreError`.
        """
        self._board = board
        paused = board.paused() if board is not None else set()
        names: dict[str, type[Projection]] = {}
        for projection_class in classes:
            name = projection_class.__eventsrc_projection__.name
            other = names.setdefault(name, projection_class)
            if other is not projection_class:
                raise DefinitionError(
                    f"{projection_class.__name__} and {other.__name__} are both stored as {name!r}. Give one of them "
                    f'another name: class {projection_class.__name__}(Projection, name="...").'
                )
        away: list[ViewStore] = []
        forgotten = self.store.read_type(SUBJECT_FORGOTTEN, backwards=True, limit=1)
        self.forgotten_position = forgotten[0].position if forgotten else 0
        for projection_class in names.values():
            views = views_of(projection_class)
            running = RunningProjection(
                projection_class,
                views,
                serializer=self._serializer,
                host=self,
                nursery=self._nursery,
                forgotten_position=self.forgotten_position,
            )
            running.is_paused = running.name in paused
            self._running[projection_class] = self._of_name[running.name] = running
            try:
                # Commands do not wait for somebody else's server, nor for room: not for long, and not for each view.
                if views not in away:
                    await running.open()
            except StoreError as error:
                if not (isinstance(error, ViewUnreachable) or lacks_room(error)):
                    raise
                logger.warning("a view cannot be opened yet: %s", error, extra={"projection": running.name})
                away.append(views)
            if views in away:
                self._nursery.start_soon(in_background, self._open_later, running, name=f"{running.name}: opening")
            if projection_class.on_lag == "slow_writers":
                self._slow.append(running)
                self._rates[running] = IntakeRate(running.position)

    async def close(self) -> None:
        """Stop the projectors and close the views, all at once: a database may hang. Who waits for one is told."""
        self._is_closed = True
        self._moved.unpark_all()
        async with trio.open_nursery() as nursery:
            for running in self._running.values():
                nursery.start_soon(running.close)

    async def _open_later(self, running: RunningProjection) -> None:
        """Try again with a back-off until the view is open."""
        limits = self.limits
        seconds = limits.restart_backoff_seconds
        while running.active is None:
            await trio.sleep(seconds)
            if self._is_closed:
                # Nobody would close it any more.
                return
            seconds = min(2 * seconds, limits.restart_backoff_seconds_max)
            try:
                await running.open()
            except Exception as error:
                # Also what a server refuses that is back, as a login without rights: nothing here may end the runtime.
                logger.warning("a view cannot be opened yet: %s", error, extra={"projection": running.name})
        self.swapped()

    # --- asking ---

    def get(self, projection_class: type[Projection]) -> RunningProjection:
        """One projection. Raises `UnknownProjection`."""
        running = self._running.get(projection_class)
        if running is None:
            raise UnknownProjection(projection_class, [known.__name__ for known in self._running])
        return running

    def check(self, wait_for: Sequence[type[Projection]]) -> None:
        """Raise `UnknownProjection` or `ArgumentInvalid` for what cannot be waited for."""
        if isinstance(wait_for, type):
            raise ArgumentInvalid("wait_for", wait_for, f"give a list of projections: [{wait_for.__name__}]")
        for projection_class in wait_for:
            self.get(projection_class)

    def named(self, name: str) -> type[Projection]:
        """The projection that is stored under a name. Raises `UnknownProjection`."""
        running = self._of_name.get(name)
        if running is None:
            raise UnknownProjection(name, list(self._of_name))
        return running.projection_class

    def all(self) -> list[type[Projection]]:
        """Every projection, in the order in which they were given."""
        return list(self._running)

    def lag(self, projection_class: type[Projection]) -> Lag:
        """How far one is behind, for any thread. Raises `UnknownProjection`."""
        return self._lag(self.get(projection_class))

    def lags(self) -> dict[str, Lag]:
        """The same for each, by name."""
        return {running.name: self._lag(running) for running in self._running.values()}

    def _lag(self, running: RunningProjection) -> Lag:
        events = max(self.store.last_position - running.position, 0)
        is_rebuilding = running.building is not None or not running.has_forgotten
        return Lag(events, self._lag_seconds(running), running.state, running.error, is_rebuilding, running.position)

    async def wait_for(self, running: RunningProjection, position: int) -> None:
        """Wait until the generation that answers has seen the event at `position`.

        Raises `ProjectionUnavailable` when it is paused, has failed or was closed, so that it would not come to it.
        """
        while running.position < position:
            if self._is_closed:
                raise ProjectionUnavailable(running.name, "closed", "with its runtime")
            if running.will_not_come:
                raise ProjectionUnavailable(running.name, running.state, running.error)
            await self._moved.park()

    async def wait_while_possible(self, running: RunningProjection, position: int) -> None:
        """The same, but only for as long as it may still come to that."""
        while running.position < position and not running.will_not_come and not self._is_closed:
            await self._moved.park()

    async def wait_for_next(self, running: RunningProjection, removed: OpenGeneration) -> None:
        """Wait until another generation answers than one that was removed.

        Raises `ProjectionUnavailable` when that would not come.
        """
        await running.look_again().wait()
        while running.active is removed and not self._is_closed:
            if running.will_not_come:
                raise ProjectionUnavailable(running.name, running.state, running.error)
            await self._moved.park()

    def answering(self, running: RunningProjection) -> OpenGeneration:
        """The generation that answers. Raises `ProjectionUnavailable` as long as there is none, `RuntimeClosed`."""
        if self._is_closed:
            raise RuntimeClosed(f"The runtime was closed; its view {running.name!r} cannot be queried any more.")
        if running.active is None:
            raise ProjectionUnavailable(running.name, running.state, running.error)
        return running.active

    @property
    def slow_writers_down(self) -> bool:
        """Whether any projection may slow writers down."""
        return bool(self._slow)

    def admits(self, reached_position: int, event_count: int) -> bool:
        """Whether the log may grow: no projection that slows writers down would be too far behind."""
        return all(self._admits(running, reached_position, event_count) for running in self._slow)

    def let_writers_go(self) -> None:
        """Slow nobody down any more: the runtime closes, and what drains does not wait for views as well."""
        self._slow.clear()
        self.on_advance()

    # --- steering ---

    async def pause(self, projection_class: type[Projection]) -> None:
        """See `ProjectionSteering`."""
        await self._set_paused(self.get(projection_class), paused=True)

    async def resume(self, projection_class: type[Projection]) -> None:
        """See `ProjectionSteering`."""
        await self._set_paused(self.get(projection_class), paused=False)

    async def _set_paused(self, running: RunningProjection, *, paused: bool) -> None:
        check_on_trio("projections.pause" if paused else "projections.resume")
        if self._board is not None:
            await on_board(self._board, partial(self._board.set_paused, running.name, paused=paused))
        await running.set_paused(paused=paused)

    async def rebuild(self, projection_class: type[Projection]) -> None:
        """See `ProjectionSteering`."""
        check_on_trio("projections.rebuild")
        running = self.get(projection_class)
        if running.active is None:
            raise ProjectionUnavailable(running.name, running.state, running.error)
        await running.rebuild()

    # --- forgetting ---

    def forget(self, position: int) -> None:
        """A subject was forgotten, the log says so at this position: begin to build anew what may still know it."""
        self.forgotten_position = position
        for past in self._pasts:
            past.forget(position)
        for renew in self._renewals:
            self._nursery.start_soon(in_background, renew, name="eventsrc replay: forgetting")
        is_past = isinstance(self.store, PastLog)
        concerned = [each for each in self._running.values() if must_forget(each.projection_class, is_past=is_past)]
        for running in concerned:
            running.forgotten(position)
            self._nursery.start_soon(in_background, self._forget, running, name=f"{running.name}: forgetting")

    @contextmanager
    def taking_along(self, past: "Projections") -> Iterator[None]:
        """Have views of the past, for as long as they are there, forget along with those of now."""
        self._pasts.append(past)
        try:
            yield
        finally:
            self._pasts.remove(past)

    @contextmanager
    def renewing(self, renew: Callable[[], Awaitable[None]]) -> Iterator[None]:
        """Have a view that is none of ours made anew whenever a subject was forgotten, for as long as it is there."""
        self._renewals.append(renew)
        try:
            yield
        finally:
            self._renewals.remove(renew)

    async def forget_along(self, told: AsyncIterator[Sequence[StoredEvent]]) -> None:
        """Do so whenever another process, which writes the log, has forgotten a subject."""
        async for batch in told:
            self.forget(batch[-1].position)

    async def _forget(self, running: RunningProjection) -> None:
        """Until it has, whatever becomes of the place where the view lives; of several tasks one sees to that."""
        await self._begin_anew(running)
        if running in self._forgetful:
            return
        self._forgetful.add(running)
        while not (self._is_closed or running.has_forgotten):
            await trio.sleep(FORGET_RETRY_SECONDS)
            await self._begin_anew(running)
        self._forgetful.discard(running)

    async def _begin_anew(self, running: RunningProjection) -> None:
        if self._is_closed:
            return
        try:
            await running.forget()
        except Exception as error:
            logger.warning("a view cannot be built anew yet: %s", error, extra={"projection": running.name})

    def has_forgotten(self, projection_class: type[Projection]) -> bool:
        """Whether what answers knows nothing of those who were forgotten, and what did answer is removed."""
        running = self.get(projection_class)
        return running.has_forgotten and running.is_tidy

    async def wait_until_forgotten(self, projection_class: type[Projection]) -> None:
        """Wait until it `has_forgotten`.

        Raises `ProjectionUnavailable` when it is paused, has failed or was closed, so that it would not come to it.
        """
        running = self.get(projection_class)
        while not self.has_forgotten(projection_class):
            if self._is_closed:
                raise ProjectionUnavailable(running.name, "closed", "with its runtime")
            if running.will_not_come:
                raise ProjectionUnavailable(running.name, running.state, running.error)
            await self._moved.park()

    # --- what projectors need ---

    def advanced(self, projector: Projector) -> None:
        """A projector's position or state has changed."""
        running = self._of_name[projector.name]
        running.look_at_building()
        if running.active is not None and running.active.projector is projector:
            self._measure(running)
            self._report(running)
        self._moved.unpark_all()
        self.on_advance()

    def removed(self, projector: Projector) -> None:
        """Another process has removed the view of a projector."""
        self._of_name[projector.name].look_again()

    def swapped(self) -> None:
        """Another generation of a projection answers from now on."""
        self._moved.unpark_all()
        self.on_advance()

    # --- lag ---

    def _lag_seconds(self, running: RunningProjection) -> float:
        return self._arrivals.waited_seconds(running.position)

    def _exceeds(self, running: RunningProjection) -> bool:
        bounds = running.projection_class
        events, seconds = bounds.max_lag_events, bounds.max_lag_seconds
        if events is not None and self.store.last_position - running.position > events:
            return True
        return seconds is not None and self._lag_seconds(running) > seconds

    def _admits(self, running: RunningProjection, reached_position: int, event_count: int) -> bool:
        if running.state in ("paused", "failed", "retrying") or running.is_replaced:
            # Commands do not stand still for what may never go on, nor while a new version is built; the lag is
            # reported.
            return True
        position = running.position
        if position >= reached_position:
            return True
        bounds = running.projection_class
        behind = reached_position + event_count - position
        if bounds.max_lag_events is not None and behind > bounds.max_lag_events:
            return False
        if bounds.max_lag_seconds is None:
            return True
        # Not only what waits now: what is let through has to be taken in within the bound as well.
        rate = self._rates[running].events_per_second
        bound_seconds = bounds.max_lag_seconds * LAG_MARGIN
        ahead_max = self.limits.catch_up_batch_events if rate is None else rate * bound_seconds
        return behind <= ahead_max and self._lag_seconds(running) <= bound_seconds

    def _measure(self, running: RunningProjection) -> None:
        rate = self._rates.get(running)
        if rate is not None:
            rate.advance(running.position, self._arrivals)
        if len(self._arrivals) > ARRIVALS_KEPT:
            self._arrivals.drop_through(min(each.position for each in self._running.values()))

    def _report(self, running: RunningProjection) -> None:
        now = trio.current_time()
        if now - running.warned_at > LAG_WARNING_SECONDS and self._exceeds(running):
            running.warned_at = now
            lag = self._lag(running)
            logger.warning(
                "a projection is too far behind: %s",
                running.name,
                extra={"projection": running.name, "events": lag.events, "seconds": round(lag.seconds, 3)},
            )
