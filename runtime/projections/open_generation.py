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
"""How long a replaced view stays open for the queries that still use it."""


@attrs.define(eq=False)
class OpenGeneration:
    """One open generation of a view: its tables for queries, and its projector if it is kept up to date."""

    generation: Generation
    view: StoredView
    tables: dict[str, RowType[Any]]
    checkpoint: Checkpoint
    """The checkpoint at the time of opening."""
    projector: Projector | None = None
    stage: Literal["building", "activating", "next"] = "building"
    """The stage of a generation that is built beside another: "next" once it is stored as the one that answers."""
    removed_position: int | None = None
    """How far a generation that another process has removed may have come by then."""
    queries: int = 0
    """How many queries use it now."""
    _left: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    @property
    def position(self) -> int:
        """How far the generation has come."""
        return self.checkpoint.position if self.projector is None else self.projector.position

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the generation open for a query, even when another takes its place meanwhile."""
        self.queries += 1
        try:
            yield
        finally:
            self.queries -= 1
            if not self.queries:
                self._left.unpark_all()

    async def unused(self) -> None:
        """Wait until no query uses the generation, for `QUERY_SECONDS_MAX` at most."""
        with trio.move_on_after(QUERY_SECONDS_MAX):
            while self.queries:
                await self._left.park()

    async def close(self) -> None:
        """End its projector and close the view.

        Also for a cancelled caller: this process could not open the view again while it is open.
        """
        with trio.CancelScope(shield=True):
            try:
                if self.projector is not None:
                    await self.projector.end()
            finally:
                await in_thread_or_here(self.view.close)
