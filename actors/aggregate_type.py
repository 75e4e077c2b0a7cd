"""An aggregate class made ready to run: its stream names, and how its events and state become data and come back."""

import hashlib
import inspect
from collections.abc import Callable
from typing import Any, Final

import attrs
import msgspec

from ..storage.names import check_stream_name
from ..storage.record import StoredEvent
from .aggregate import Aggregate
from .errors import AggregateDeleted, EncodingError, Rejected, UnknownCommand, UnknownEvent
from .event_codecs import EventCodec, EventCodecs
from .serializer import Serializer
from .tombstone import Delete, Recreate

_encode: Final = msgspec.msgpack.Encoder().encode


class AggregateType:
    """What a runtime knows of one aggregate class.

    Raises `SchemaError` when a field of its events or of its state cannot be turned into data.
    """

    def __init__(self, aggregate_class: type[Aggregate], serializer: Serializer) -> None:
        definition = aggregate_class.__eventsrc_definition__
        self.aggregate_class = aggregate_class
        self.category: str = definition.category
        self.handlers = definition.handlers
        self.appliers = definition.appliers
        self.async_commands = {of for of, handler in self.handlers.items() if inspect.iscoroutinefunction(handler)}
        """The commands whose handlers may wait for something."""
        self.snapshots = definition.snapshots
        self._serializer = serializer
        serializer.prepare(aggregate_class)
        self._events = EventCodecs(definition.event_classes, serializer)
        self.codecs = self._events.of_class
        self.schema = _schema_of(aggregate_class)

    def handler(self, state: Aggregate, version: int, command: object) -> Callable[[Any, Any], Any]:
        """What decides on a command to an aggregate in this state, which has had `version` events.

        Raises `UnknownCommand`, `AggregateDeleted`, or `Rejected` for a `Delete` of nothing.
        """
        command_class = type(command)
        if state.is_deleted and command_class is not Recreate:
            raise AggregateDeleted(self.stream(state.id))
        if command_class is Delete and not version:
            raise Rejected(f"there is nothing to delete: {self.stream(state.id)!r} has no events")
        handler = self.handlers.get(command_class)
        if handler is None:
            raise UnknownCommand(self.aggregate_class, command)
        return handler

    def stream(self, aggregate_id: str) -> str:
        """The name of the stream of one aggregate. Raises `StreamNameInvalid`."""
        stream = f"{self.category}-{aggregate_id}"
        check_stream_name(stream if aggregate_id else "")
        return stream

    def encode_event(self, codec: EventCodec, event: object) -> bytes:
        """An event's payload as MessagePack. Raises `EncodingError`."""
        try:
            return _encode(codec.unstructure(event))
        except Exception as error:
            raise EncodingError(f"{codec.event_class.__name__} cannot be stored: {error}") from error

    def decode_event(self, stored: StoredEvent) -> Any:
        """The event object for a stored event. Raises `UnknownEvent` or `DecodingError`."""
        event = self._events.decode(stored)
        if event is None:
            raise UnknownEvent(self.aggregate_class, stored.stream, stored.type, stored.position)
        return event

    def data(self, state: Aggregate) -> dict[str, Any]:
        """An aggregate's state as plain data that shares nothing with it. Raises `EncodingError`."""
        plain: dict[str, Any] = msgspec.msgpack.decode(self.encode_state(state))
        return plain

    def encode_state(self, state: Aggregate) -> msgspec.Raw:
        """An aggregate's state as MessagePack, for a snapshot. Raises `EncodingError`."""
        data = self._serializer.unstructure(state)
        try:
            return msgspec.Raw(_encode(data))
        except Exception as error:
            raise EncodingError(f"The state of {self.aggregate_class.__name__} cannot be stored: {error}") from error

    def copy_state(self, state: Aggregate) -> Aggregate:
        """A copy of an aggregate that shares nothing with it.

        Raises `AggregateDeleted`, `EncodingError`, `DecodingError`.
        """
        if state.is_deleted:
            raise AggregateDeleted(self.stream(state.id))
        return self.decode_state(self._serializer.unstructure(state), state.id)

    def decode_state(self, data: Any, aggregate_id: str) -> Aggregate:
        """An aggregate with this state. Raises `DecodingError`."""
        state = self._serializer.structure(data, self.aggregate_class)
        state._identify(aggregate_id)
        return state

    def initial_state(self, aggregate_id: str) -> Aggregate:
        """An aggregate before its first event."""
        state = self.aggregate_class()
        state._identify(aggregate_id)
        return state


def _schema_of(aggregate_class: type[Aggregate]) -> str:
    """Names the shape of a state, so that a snapshot of a class that changed shape is not used."""
    fields = (f"{field.name}:{field.type}" for field in attrs.fields(aggregate_class))  # type: ignore[arg-type]
    return hashlib.sha256(";".join(fields).encode()).hexdigest()[:16]
