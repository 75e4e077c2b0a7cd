"""What an aggregate's actor needs of its runtime."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ...storage.errors import EventSourcingError
from ...storage.limits import Limits
from ...storage.store import EventStore
from ..journal.journal import Journal

if TYPE_CHECKING:
    from .aggregate_actor import AggregateActor


class AggregateHost(Protocol):
    """Implemented by the runtime."""

    store: EventStore
    journal: Journal
    limits: Limits
    wall_clock: Callable[[], int]
    snapshot_taken: Callable[[str], None]
    """Called with the stream when a snapshot is on its way to the disk."""

    is_forgetting: bool
    """Whether a subject is being forgotten: no snapshot is then loaded that may hold personal data."""

    def failed(self, stream: str, error: EventSourcingError) -> float:
        """Note that an actor failed. Returns for how many seconds it must not be activated (0: none)."""

    def recovered(self, stream: str) -> None:
        """Note that an actor that may have failed stored something: its earlier failures no longer count."""

    def began(self, actor: "AggregateActor") -> None:
        """Note that the current task is the actor's."""

    def ended(self, actor: "AggregateActor") -> None:
        """Note that the actor's task, the current one, ends; messages for its aggregate need a new actor."""
