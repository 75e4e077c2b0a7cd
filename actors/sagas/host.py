"""What the runs of sagas need of their runtime."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from ...storage.record import StoredEvent
from ...storage.store import EventReader
from ..aggregates.aggregate import Aggregate
from ..aggregates.receipt import Receipt
from ..journal.journal import CommitSeries, Journal
from .codec import SagaCodec
from .threads import SagaThreads

Commands: TypeAlias = Sequence[tuple[type[Aggregate], str, object]]
"""The aggregate class, id and command of each."""


class AggregateCalls(Protocol):
    """What sagas ask of aggregates, and what they look up among the aggregates' events."""

    async def send(
        self, commands: Commands, key: str, timeout: float | None, *, is_new: bool, follows: CommitSeries
    ) -> list[Receipt]:
        """Send commands, several of them as a transaction; `is_new` tells that the key was never used before.

        They take no effect if a commit of the series `follows` that comes before them is refused.
        """

    async def state_of(self, aggregate_class: type[Any], aggregate_id: str) -> Any:
        """An aggregate's state, after all commands that were sent to it before."""

    async def find(self, commands: Commands, key: str, after: int) -> list[Receipt] | None:
        """The receipts of the commands with this key, if any of them made events after a position."""

    async def took_effect(self, commands: Commands, key: str, after: int) -> bool:
        """Whether commands that were sent have taken effect by now; True if this cannot be found out."""

    async def has_calls(self, prefix: str, after: int, until: int) -> bool:
        """Whether a saga's command whose key has this prefix made events between two positions."""

    async def find_event(
        self, event_type: str, where: Mapping[str, Any], after: int, until: int, unless: Container[int]
    ) -> StoredEvent | None:
        """The first event between two positions with this type and these stored values, except those at `unless`."""

    def came(self, event_type: str, where: Mapping[str, Any], after: int, until: int) -> bool:
        """Whether there is, or may be, an event between two positions with this type and these stored values."""


class SagaHost(Protocol):
    """What a run needs of its runtime."""

    journal: Journal
    store: EventReader
    wall_clock: Callable[[], int]
    """Returns UTC nanoseconds."""
    codec: SagaCodec
    calls: AggregateCalls
    threads: SagaThreads
    """Runs the effects that are plain functions."""
