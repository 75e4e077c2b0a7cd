"""What the runs of sagas need of the runtime that they live in."""

from collections.abc import Awaitable, Callable, Container, Mapping
from typing import Any, Protocol, TypeVar

from ...storage.commit import NewEvent
from ...storage.record import StoredEvent
from ..journal import Journal
from ..receipt import Receipt
from .context import Commands
from .saga import Saga
from .threads import SagaThreads

E = TypeVar("E")


class SagaHost(Protocol):
    """What a run needs of the runtime that it lives in."""

    journal: Journal
    wall_clock: Callable[[], int]
    threads: SagaThreads
    """Where effects that are plain functions are called."""

    def encode(self, record: Any, correlation_id: str, causation_id: str) -> NewEvent:
        """A record of a saga as the log takes it. Raises `EncodingError`, `EventTooLarge`."""

    def state_data(self, saga: Saga) -> dict[str, Any]:
        """The state of a saga as plain data. Raises `EncodingError`."""

    def saga_from(self, saga_class: type[Saga], state: Mapping[str, Any]) -> Saga:
        """A saga with this state. Raises `DecodingError`."""

    def send(self, commands: Commands, key: str, timeout: float | None, *, is_new: bool) -> Awaitable[list[Receipt]]:
        """Send commands, as a transaction if there are several; `is_new` tells that the key was never used."""

    async def state_of(self, aggregate_class: type[Any], aggregate_id: str) -> Any:
        """An aggregate's state."""

    async def find_call(self, commands: Commands, key: str, after: int) -> list[Receipt] | None:
        """What a saga's commands with this key were answered, where they did something after a position."""

    async def took_effect(self, commands: Commands, key: str, after: int) -> bool:
        """Whether commands that were sent have done something by now; True where that cannot be found out."""

    async def has_calls(self, prefix: str, after: int, until: int) -> bool:
        """Whether any saga's command whose key begins like this did something between two positions."""

    def encode_where(self, event_class: type, where: Mapping[str, Any]) -> dict[str, Any]:
        """Values of an event's fields as they are stored. Raises `DefinitionError`, `EncodingError`."""

    async def find_event(
        self, event_type: str, where: Mapping[str, Any], after: int, until: int, unless: Container[int]
    ) -> StoredEvent | None:
        """The first event of a type with these values, between two positions, that is at none of `unless`."""

    def event_at(self, position: int) -> StoredEvent:
        """The event at a position."""

    def decode(self, stored: StoredEvent, event_class: type[E]) -> E:
        """A stored event as an object of its class."""

    def position(self) -> int:
        """Where the log is."""
