"""What a program may do with the projections of its runtime."""

from typing import Protocol

import msgspec

from ...actors.projections.projection import Projection
from ...actors.projections.projector import ProjectionState


class Lag(msgspec.Struct, frozen=True):
    """How far a projection is behind: in events, and in the time that the oldest of them has waited."""

    events: int
    seconds: float
    state: ProjectionState
    error: str = ""
    rebuilding: bool = False
    position: int = 0
    """The position of the last event that the view has seen."""


class ProjectionSteering(Protocol):
    """Pauses, resumes and rebuilds projections. Each call raises `UnknownProjection` for one that is not there."""

    async def pause(self, projection_class: type[Projection]) -> None:
        """Pause the projection until `resume`, even across restarts. Raises `StoreError`.

        Callers that wait for the projection get `ProjectionUnavailable`.
        """

    async def resume(self, projection_class: type[Projection]) -> None:
        """Have the projection go on, after a pause or a failure. Raises `StoreError`."""

    async def rebuild(self, projection_class: type[Projection]) -> None:
        """Rebuild the view from the first event, beside the view that answers, and swap when the new one has caught up.

        Returns when the rebuild has begun; `lag` tells when it is over. Raises `ProjectionUnavailable` where there is
        no view yet.
        """

    def lag(self, projection_class: type[Projection]) -> Lag:
        """How far the projection is behind, in events and in seconds."""
