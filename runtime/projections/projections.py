"""The projections of one runtime: their progress, waiting for them, steering them, and slowing writers down."""

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
from ..arguments import check_is_class
from ..errors import ArgumentInvalid, NotInHistory, UnknownProjection
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
"""The most queries that look at many rows of LMDB views at once, each in a worker thread; others wait."""
THREADS_MAX: Final = 40
"""The most threads that wait for views, for projections and again for queries: each uses a database connection."""
ARRIVALS_KEPT: Final = 128
"""How many moments of arrival are kept before those that no projection needs are dropped."""
FORGET_RETRY_SECONDS: Final = 1.0
"""How often an unfinished rebuild of a view that may show a forgotten subject is tried again."""
LAG_MARGIN: Final = 0.5
"""The share of `max_lag_seconds` after which writers wait: events stored by then still need time."""
LAG_WARNING_SECONDS: Final = 10.0
"""The shortest interval between two reports of a projection over its bounds."""


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
        """The position of the log's last `SubjectForgotten`."""
        self._forgetful: set[RunningProjection] = set()
        """The projections that a task watches until they show no forgotten subject."""
        self._pasts: list[Projections] = []
        self._renewals: list[Callable[[], Awaitable[None]]] = []

    async def open(
        self,
        classes: Sequence[type[Projection]],
        views_of: Callable[[type[Projection]], ViewStore],
        board: ControlBoard | None,
    ) -> None:
        """Open every view and start its projector, unless it is paused: pauses are remembered on the board.

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
                # Commands do not wait long for a remote server or for disk space, and not once for each view.
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
        """Stop the projectors and close the views, all at once since a database may hang. Waiters get an error."""
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
                # Nothing would close it any more.
                return
            seconds = min(2 * seconds, limits.restart_backoff_seconds_max)
            try:
                await running.open()
            except Exception as error:
                # Including refusals of a server that is back, such as a login without rights: no error here may end the
                # runtime.
                logger.warning("a view cannot be opened yet: %s", error, extra={"projection": running.name})
        self.swapped()

    # --- asking ---

    def get(self, projection_class: type[Projection]) -> RunningProjection:
        """The projection of a class. Raises `UnknownProjection`, or `ArgumentInvalid` for what is no class."""
        try:
            running = self._running.get(projection_class)
        except TypeError:  # it has no hash
            running = None
        if running is None:
            check_is_class("projection", projection_class, self._running)
            raise UnknownProjection(projection_class, [known.__name__ for known in self._running])
        return running

    def check(self, wait_for: Sequence[type[Projection]]) -> None:
        """Raise `UnknownProjection` or `ArgumentInvalid` for projections that cannot be waited for."""
        if isinstance(wait_for, type):
            raise ArgumentInvalid("wait_for", wait_for, f"give a list of projections: [{wait_for.__name__}]")
        for projection_class in wait_for:
            self.get(projection_class)

    def named(self, name: str) -> type[Projection]:
        """The projection class that is stored under a name. Raises `UnknownProjection`."""
        running = self._of_name.get(name)
        if running is None:
            raise UnknownProjection(name, list(self._of_name))
        return running.projection_class

    def all(self) -> list[type[Projection]]:
        """Every projection, in the order in which they were given."""
        return list(self._running)

    def lag(self, projection_class: type[Projection]) -> Lag:
        """How far a projection is behind the log. May be called on any thread. Raises `UnknownProjection`."""
        return self._lag(self.get(projection_class))

    def lags(self) -> dict[str, Lag]:
        """How far each projection is behind the log, by name."""
        return {running.name: self._lag(running) for running in self._running.values()}

    def _lag(self, running: RunningProjection) -> Lag:
        events = max(self.store.last_position - running.position, 0)
        is_rebuilding = running.building is not None or not running.has_forgotten
        return Lag(events, self._lag_seconds(running), running.state, running.error, is_rebuilding, running.position)

    async def wait_for(self, running: RunningProjection, position: int) -> None:
        """Wait until the generation that answers has seen the event at `position`.

        Raises `ProjectionUnavailable` when the projection is paused, has failed or was closed, and so would not reach
        it; `NotInHistory` in a runtime of the past that ends before it.
        """
        while running.position < position:
            if self._is_closed:
                raise ProjectionUnavailable(running.name, "closed", "with its runtime")
            if running.will_not_come:
                raise ProjectionUnavailable(running.name, running.state, running.error)
            if self._ends_before(position):
                raise NotInHistory(
                    f"Position {position} does not come: this runtime is one of the past, which ends at "
                    f"{self.store.last_position}. Ask the runtime of now for later positions."
                )
            await self._moved.park()

    async def wait_while_possible(self, running: RunningProjection, position: int) -> None:
        """Wait like `wait_for`, but return where the projection would not reach the position."""
        while running.position < position and not (
            running.will_not_come or self._is_closed or self._ends_before(position)
        ):
            await self._moved.park()

    def _ends_before(self, position: int) -> bool:
        """Whether the log is one of the past, which will never have this position."""
        return isinstance(self.store, PastLog) and position > self.store.last_position

    async def wait_for_next(self, running: RunningProjection, removed: OpenGeneration) -> None:
        """Wait until another generation answers in place of a removed one.

        Raises `ProjectionUnavailable` when none would.
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

    def _check_open(self, running: RunningProjection) -> None:
        if self._is_closed:
            raise RuntimeClosed(f"The runtime was closed; nothing of its projection {running.name!r} was changed.")

    @property
    def slow_writers_down(self) -> bool:
        """Whether any projection may slow writers down."""
        return bool(self._slow)

    def admits(self, reached_position: int, event_count: int) -> bool:
        """Whether the log may grow: no projection that slows writers down would be too far behind."""
        return all(self._admits(running, reached_position, event_count) for running in self._slow)

    def let_writers_go(self) -> None:
        """Stop slowing writers down: the runtime closes, and draining must not wait for views as well."""
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
        self._check_open(running)
        if self._board is not None:
            await on_board(self._board, partial(self._board.set_paused, running.name, paused=paused))
        await running.set_paused(paused=paused)

    async def rebuild(self, projection_class: type[Projection]) -> None:
        """See `ProjectionSteering`."""
        check_on_trio("projections.rebuild")
        running = self.get(projection_class)
        self._check_open(running)
        if running.active is None:
            raise ProjectionUnavailable(running.name, running.state, running.error)
        await running.rebuild()

    # --- forgetting ---

    def forget(self, position: int) -> None:
        """After a `SubjectForgotten` at this position: begin to rebuild every view that may still show the subject."""
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
        """Have views of the past, for as long as they exist, forget along with those of now."""
        self._pasts.append(past)
        try:
            yield
        finally:
            self._pasts.remove(past)

    @contextmanager
    def renewing(self, renew: Callable[[], Awaitable[None]]) -> Iterator[None]:
        """While the block lasts, call `renew` whenever a subject was forgotten, to rebuild a view kept elsewhere."""
        self._renewals.append(renew)
        try:
            yield
        finally:
            self._renewals.remove(renew)

    async def forget_along(self, told: AsyncIterator[Sequence[StoredEvent]]) -> None:
        """Forget along with the process that writes the log: rebuild views at each `SubjectForgotten`."""
        async for batch in told:
            self.forget(batch[-1].position)

    async def _forget(self, running: RunningProjection) -> None:
        """Retry the rebuild of a view, in one task, until the view shows no forgotten subject."""
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
        """Whether the generation that answers shows no forgotten subject, and replaced generations are removed."""
        running = self.get(projection_class)
        return running.has_forgotten and running.is_tidy

    async def wait_until_forgotten(self, projection_class: type[Projection]) -> None:
        """Wait until the projection `has_forgotten`.

        Raises `ProjectionUnavailable` when the projection is paused, has failed or was closed, and so would not forget.
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
        """Report that a projector's position or state has changed."""
        running = self._of_name[projector.name]
        running.look_at_building()
        if running.active is not None and running.active.projector is projector:
            self._measure(running)
            self._report(running)
        self._moved.unpark_all()
        self.on_advance()

    def removed(self, projector: Projector) -> None:
        """Report that another process has removed the view of a projector."""
        self._of_name[projector.name].look_again()

    def swapped(self) -> None:
        """Report that another generation of a projection answers from now on."""
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
            # Commands do not wait for a projection that may never go on, nor while a new version is built; the lag is
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
        # Not only the events that wait now: the admitted ones must be taken in within the bound as well.
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
