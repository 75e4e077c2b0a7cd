"""What the runs of sagas need of the runtime that they live in."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from ...storage.record import StoredEvent
from ...storage.store import EventReader
from ..aggregates.aggregate import Aggregate
from ..aggregates.receipt import Receipt
from ..journal.journal import Journal
from .codec import SagaCodec
from .threads import SagaThreads

Commands: TypeAlias = Sequence[tuple[type[Aggregate], str, object]]
"""Aggregate class, id and command of each."""


class AggregateCalls(Protocol):
    """What sagas ask of aggregates, and look for among the events of these."""

    async def send(self, commands: Commands, key: str, timeout: float | None, *, is_new: bool) -> list[Receipt]:
        """Send commands, as a transaction if there are several; `is_new` tells that the key was never used."""

    async def state_of(self, aggregate_class: type[Any], aggregate_id: str) -> Any:
        """An aggregate's state, everything included that it was sent before."""

    async def find(self, commands: Commands, key: str, after: int) -> list[Receipt] | None:
        """What commands with this key were answered, where any of them did something after a position."""

    async def took_effect(self, commands: Commands, key: str, after: int) -> bool:
        """Whether commands that were sent have done something by now; True where that cannot be found out."""

    async def has_calls(self, prefix: str, after: int, until: int) -> bool:
        """Whether any saga's command whose key begins like this did something between two positions."""

    async def find_event(
        self, event_type: str, where: Mapping[str, Any], after: int, until: int, unless: Container[int]
    ) -> StoredEvent | None:
        """The first event of a type with these stored values, between two positions, that is at none of `unless`."""

    def came(self, event_type: str, where: Mapping[str, Any], after: int, until: int) -> bool:
        """Whether there is an event of a type with these stored values between two positions, or may be one."""


class SagaHost(Protocol):
    """What a run needs of the runtime that it lives in."""

    journal: Journal
    store: EventReader
    wall_clock: Callable[[], int]
    """UTC, in nanoseconds."""
    codec: SagaCodec
    calls: AggregateCalls
    threads: SagaThreads
    """Where effects that are plain functions are called."""
