"""A replay into a view of its own, which nothing else sees."""

from collections.abc import Sequence
from typing import Any, Self, TypeVar

import trio

from ...actors.errors import DefinitionError
from ...actors.projections.projection import Projection, Table
from ...actors.serialization.serializer import Serializer
from ...actors.views.criteria import RowQuery, criteria_of
from ...actors.views.lmdb_view import LmdbView, LmdbViews
from ...actors.views.row_type import RowType
from ...actors.views.session import EventFailed, ViewSession
from ...actors.views.view_store import Checkpoint, Generation
from ...storage.environment.temporary_folder import TemporaryFolder
from ...storage.record import StoredEvent
from ...storage.store import EventReader
from .errors import ReplayHandlerFailed, ReplayNotEntered
from .replay import Replay
from .selection import Selection

R = TypeVar("R")


class ProjectionReplay(Replay):
    """A replay into a view of its own, which is there as long as the block of `async with` lasts.

    The view that answers queries is left alone.
    """

    _has_own = _takes_batches = True

    def __init__(
        self,
        store: EventReader,
        projection: type[Projection],
        serializer: Serializer,
        selection: Selection,
        **options: Any,
    ) -> None:
        super().__init__(store, selection, **options)
        self._projection = projection
        self._serializer = serializer
        tables = projection.__eventsrc_projection__.tables
        self._tables = {name: RowType(table, serializer) for name, table in tables.items()}
        self._folder: TemporaryFolder | None = None
        self._opened: tuple[LmdbView, ViewSession] | None = None

    async def __aenter__(self) -> Self:
        try:
            await trio.to_thread.run_sync(self._open)
        except BaseException:
            await self._remove()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._remove()

    async def run(self) -> Self:
        """Replay to the end; see `Replay.run`. Raises `ReplayNotEntered` outside of the block."""
        self._in_hand()
        return await super().run()

    def rows(self, table: Table[R], **criteria: Any) -> list[R]:
        """The rows of a table that meet the criteria, as far as it has been replayed; see `View.where`.

        Raises `ReplayNotEntered` outside of the block, `DefinitionError`, `QueryInvalid` for what cannot be asked.
        """
        row_type = self._tables.get(table.name)
        if row_type is None:
            raise DefinitionError(f"The projection that is replayed has no table {table.name!r}.")
        query = RowQuery(criteria_of(row_type.fields, table.name, criteria))
        with self._in_hand()[0].reading() as reading:
            return reading.find(row_type, query)

    def _take(self, events: Sequence[StoredEvent]) -> None:
        if not events:
            return
        _, session = self._in_hand()
        try:
            session.apply(events, Checkpoint(events[-1].position, events[-1].hash))
        except EventFailed as failure:
            # Nothing of the batch is stored: what came before the event is shown, as it was replayed.
            before = [event for event in events if event.position < failure.event.position]
            self._take(before)
            self._passed(before)
            event = failure.event
            raise ReplayHandlerFailed(
                event.stream, event.version, event.position, event.type, failure.error
            ) from failure.error

    def _in_hand(self) -> tuple[LmdbView, ViewSession]:
        if self._opened is None:
            raise ReplayNotEntered(self._projection)
        return self._opened

    def _open(self) -> None:
        name = self._projection.__eventsrc_projection__.name
        self._folder = TemporaryFolder("eventsrc-replay-")
        view = LmdbViews(self._folder.path).open(name, Generation(1, 1, ""), self._tables.values())
        self._opened = view, ViewSession(self._projection, view, self._serializer)

    async def _remove(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened[0].close()
        folder, self._folder = self._folder, None
        if folder is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(folder.remove)
