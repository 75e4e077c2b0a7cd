"""What an aggregate's actor needs of the runtime that it lives in."""

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
    """To be called with the stream when a snapshot is on its way to the disk."""

    is_forgetting: bool
    """While a subject is forgotten no snapshot is loaded of what may hold personal data."""

    def failed(self, stream: str, error: EventSourcingError) -> float:
        """An actor failed; returns for how many seconds it must not be activated (0: at once)."""

    def recovered(self, stream: str) -> None:
        """An actor that may have failed stored something: its failures no longer count."""

    def ended(self, actor: "AggregateActor") -> None:
        """An actor's task ends; messages for its aggregate need a new one."""
