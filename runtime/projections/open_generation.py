"""One generation of a view while it is open: it answers queries, or is being built."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import attrs
import trio

from ...actors.background import in_thread_or_here
from ...actors.projections.projector import Projector
from ...actors.views.row_type import RowType
from ...actors.views.view_store import Checkpoint, Generation, StoredView

QUERY_SECONDS_MAX: Final = 60.0
"""How long a view that was replaced stays open for the queries that still look at it."""


@attrs.define(eq=False)
class OpenGeneration:
    """One generation of a view, open: its tables as they are queried, and its projector if it is kept up to date."""

    generation: Generation
    view: StoredView
    tables: dict[str, RowType[Any]]
    checkpoint: Checkpoint
    """As it was when the generation was opened."""
    projector: Projector | None = None
    stage: Literal["building", "activating", "next"] = "building"
    """Of one that is built beside another: "next" once it is stored that it answers from now on."""
    removed_position: int | None = None
    """Of one that another process has removed: how far it may have come by then."""
    queries: int = 0
    """How many look at it now."""
    _left: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    @property
    def position(self) -> int:
        """How far it has come."""
        return self.checkpoint.position if self.projector is None else self.projector.position

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it open for a query, also when another takes its place meanwhile."""
        self.queries += 1
        try:
            yield
        finally:
            self.queries -= 1
            if not self.queries:
                self._left.unpark_all()

    async def unused(self) -> None:
        """Wait until no query looks at it, for `QUERY_SECONDS_MAX` at most."""
        with trio.move_on_after(QUERY_SECONDS_MAX):
            while self.queries:
                await self._left.park()

    async def close(self) -> None:
        """End its projector and close the view.

        Also for a caller that is cut off: a view left open could not be opened again by this process.
        """
        with trio.CancelScope(shield=True):
            try:
                if self.projector is not None:
                    await self.projector.end()
            finally:
                await in_thread_or_here(self.view.close)
