"""A replay into a separate view, which nothing else sees."""

import logging
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final, Self, TypeAlias, TypeVar

import trio

from ...actors.background import in_thread, in_thread_or_here
from ...actors.errors import DefinitionError
from ...actors.projections.projection import Projection, Table
from ...actors.serialization.personal import has_personal_data
from ...actors.serialization.serializer import Serializer
from ...actors.views.criteria import RowQuery
from ...actors.views.lmdb_view import LmdbView, LmdbViews
from ...actors.views.row_type import RowType
from ...actors.views.session import EventFailed, ViewSession
from ...actors.views.view_store import Checkpoint, Generation
from ...storage.environment.temporary_folder import TemporaryFolder
from ...storage.errors import EventSourcingError, FileWriteFailed
from ...storage.record import StoredEvent
from ...storage.store import EventReader
from ..trio_thread import check_on_trio
from .errors import ReplayHandlerFailed, ReplayNotEntered
from .replay import Replay
from .selection import Selection

RENEWAL_RETRY_SECONDS: Final = 1.0
"""How long to wait before another attempt to rebuild a view, for example one that had no room."""

R = TypeVar("R")
Renewing: TypeAlias = Callable[[Callable[[], Awaitable[None]]], AbstractContextManager[None]]
"""Registers a function that is called whenever a subject was forgotten, for as long as its block lasts."""

logger = logging.getLogger("eventsrc.replay")


class ProjectionReplay(Replay):
    """A replay into a separate view, which exists as long as the block of `async with` lasts.

    The view that answers queries is not touched. When a subject is forgotten, the separate view is rebuilt from the
    events replayed so far; until the rebuild is done, the old rows show. Entering the block raises `FileWriteFailed` or
    `ViewUnusable` where the system's folder for temporary files has no room.
    """

    _has_own = _takes_batches = True

    def __init__(
        self,
        store: EventReader,
        projection: type[Projection],
        serializer: Serializer,
        selection: Selection,
        *,
        renewing: Renewing,
        **options: Any,
    ) -> None:
        super().__init__(store, selection, **options)
        self._projection = projection
        self._serializer = serializer
        tables = projection.__eventsrc_projection__.tables
        self._tables = {name: RowType(table, serializer) for name, table in tables.items()}
        self._folder: TemporaryFolder | None = None
        self._opened: _Opened | None = None
        self._renewing = renewing
        self._entered = ExitStack()
        self._one_at_a_time = trio.Lock()
        """Held while the view is rebuilt."""
        self._taken_position = 0
        self._failure: ReplayHandlerFailed | None = None
        """The error of a handler on the rest of an event whose subject was forgotten, during a rebuild."""

    async def __aenter__(self) -> Self:
        check_on_trio("replay", "portal.enter(replay)")
        try:
            await in_thread(self._open)
        except BaseException:
            await self._remove()
            raise
        if any(map(has_personal_data, self._projection.__eventsrc_projection__.handlers)):
            self._entered.enter_context(self._renewing(self._renew))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._entered.close()
        await self._remove()

    async def run(self) -> Self:
        """Replay to the end; see `Replay.run`. Raises `ReplayNotEntered` outside of the block."""
        self._in_hand()
        return await super().run()

    def rows(self, table: Table[R], **criteria: Any) -> list[R]:
        """The rows of a table that meet the criteria, after the events replayed so far; see `View.where`.

        Raises `ReplayNotEntered` outside of the block, `DefinitionError` for a table of another projection,
        `QueryInvalid` for invalid criteria.
        """
        row_type = self._tables.get(table.name)
        if row_type is None:
            raise DefinitionError(f"The projection that is replayed has no table {table.name!r}.")
        query = RowQuery(row_type.criteria(criteria))
        with self._in_hand().view.reading() as reading:
            return reading.find(row_type, query)

    def _take(self, events: Sequence[StoredEvent]) -> None:
        if not events:
            return
        opened = self._in_hand()
        if self._failure is not None:
            raise self._failure
        try:
            opened.apply(events)
        except EventFailed as failure:
            # Nothing of the batch is stored: apply the events before the failed one, which were replayed.
            before = [event for event in events if event.position < failure.event.position]
            self._take(before)
            self._passed(before)
            raise _failed(failure) from failure.error
        self._taken_position = events[-1].position

    def _in_hand(self) -> "_Opened":
        if self._opened is None:
            raise ReplayNotEntered(self._projection)
        return self._opened

    # --- the view ---

    def _open(self) -> None:
        try:
            self._folder = TemporaryFolder("eventsrc-replay-")
        except OSError as error:
            raise FileWriteFailed(tempfile.gettempdir(), str(error)) from error
        self._opened = self._begun(self._folder, 1)

    def _begun(self, folder: TemporaryFolder, number: int) -> "_Opened":
        return _Opened(LmdbViews(folder.path), number, self._projection, self._tables, self._serializer)

    async def _renew(self) -> None:
        """Rebuild the view after a subject was forgotten: retry until the rebuild succeeds or the block is left."""
        async with self._one_at_a_time:
            while self._opened is not None:
                try:
                    await self._replace(self._opened)
                except Exception as error:
                    logger.warning(
                        "a view that is replayed into cannot be built anew yet: %s",
                        error,
                        exc_info=None if isinstance(error, EventSourcingError) else error,
                        extra={"projection": self._projection.__eventsrc_projection__.name},
                    )
                    await trio.sleep(RENEWAL_RETRY_SECONDS)
                else:
                    return

    async def _replace(self, old: "_Opened") -> None:
        assert self._folder is not None, "what is open has a folder"
        new = await in_thread(self._begun, self._folder, old.number + 1)
        failure = None
        try:
            failure = await self._catch_up(new)
            if self._opened is old:
                self._opened, self._failure, new = new, failure or self._failure, old
        finally:
            with trio.CancelScope(shield=True):
                await in_thread_or_here(new.remove)

    async def _catch_up(self, new: "_Opened") -> ReplayHandlerFailed | None:
        """Bring a new view to the position of the old one by then, or to an event on which a handler raises."""
        batches = self._selection.batches(self._store, self._extent)
        coming: list[StoredEvent] = []
        while self._opened is not None:
            until = self._taken_position
            if not coming:
                found = next(batches, None)
                if found is None:
                    return None
                coming = found
                await trio.lowlevel.checkpoint()
            now = [event for event in coming if event.position <= until]
            try:
                if now:
                    await in_thread(new.apply, now)
            except EventFailed as failure:
                before = [event for event in now if event.position < failure.event.position]
                await in_thread(new.apply, before)
                error = _failed(failure)
                error.__cause__ = failure.error
                return error
            if len(now) < len(coming) and until == self._taken_position:
                return None
            coming = coming[len(now) :]
        return None

    async def _remove(self) -> None:
        opened, self._opened = self._opened, None
        with trio.CancelScope(shield=True):
            async with self._one_at_a_time:
                if opened is not None:
                    opened.view.close()
                folder, self._folder = self._folder, None
                if folder is not None:
                    await in_thread_or_here(folder.remove)


class _Opened:
    """A replay's view while it is open."""

    def __init__(
        self,
        views: LmdbViews,
        number: int,
        projection: type[Projection],
        tables: dict[str, RowType[Any]],
        serializer: Serializer,
    ) -> None:
        self.number = number
        self._views = views
        self._name = projection.__eventsrc_projection__.name
        self._generation = Generation(number, 1, "")
        self.view: LmdbView = views.open(self._name, self._generation, tables.values())
        self._session = ViewSession(projection, self.view, serializer)

    def apply(self, events: Sequence[StoredEvent]) -> None:
        """Apply events to the view, all or none. Raises `EventFailed`."""
        if events:
            self._session.apply(events, Checkpoint(events[-1].position, events[-1].hash))

    def remove(self) -> None:
        """Close the view, and remove it from the disk."""
        self.view.close()
        self._views.drop(self._name, self._generation)


def _failed(failure: EventFailed) -> ReplayHandlerFailed:
    event = failure.event
    return ReplayHandlerFailed(event.stream, event.version, event.position, event.type, failure.error)
