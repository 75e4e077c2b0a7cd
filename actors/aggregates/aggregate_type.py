"""An aggregate class made ready to run: its stream names, and the encoding of its events and state."""

import inspect
from collections.abc import Awaitable, Callable, Iterator
from types import CoroutineType
from typing import Any, Final

import msgspec

from ...storage.archive.compacted import Compacted
from ...storage.errors import StoreError, StreamNameInvalid
from ...storage.names import check_stream_name
from ...storage.record import StoredEvent
from ...storage.snapshot import Snapshot
from ..errors import AggregateDeleted, DecodingError, EncodingError, Rejected, UnknownCommand, UnknownEvent
from ..messages import command_definition
from ..serialization.came_back import is_changed, is_same_data
from ..serialization.event_codecs import EventCodec, EventCodecs
from ..serialization.schema import schema_of
from ..serialization.serializer import Serializer
from .aggregate import IS_DECIDING, Aggregate
from .tombstone import Delete, Recreate

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


class AggregateType:
    """What a runtime knows of one aggregate class.

    Raises `SchemaError` if a field of the class's events or state cannot be turned into data.
    """

    def __init__(self, aggregate_class: type[Aggregate], serializer: Serializer) -> None:
        definition = aggregate_class.__eventsrc_definition__
        self.aggregate_class = aggregate_class
        self.category: str = definition.category
        self.handlers = definition.handlers
        self.appliers = definition.appliers
        self.async_commands = {of for of, handler in self.handlers.items() if inspect.iscoroutinefunction(handler)}
        """The commands whose handlers are `async def`."""
        self.snapshots = definition.snapshots
        self._serializer = serializer
        is_sealed = serializer.prepare(aggregate_class)
        self._events = EventCodecs(definition.event_classes, serializer)
        self.codecs = self._events.of_class
        self.has_personal_data = is_sealed or any(codec.has_personal_data for codec in self.codecs.values())
        # If nothing is sealed, both functions give the same, and `prepare` has made those of `unstructure` already.
        self._plain = serializer.plain if is_sealed else serializer.unstructure
        # Versions are part of the schema: a state made from an older version's events is not the state they give today.
        versions = {name: codec.version for name, codec in self._events.of_name.items()}
        self.schema = schema_of(aggregate_class, versions)

    def decide(self, state: Aggregate, version: int, command: object) -> Any:
        """Return the handler's result for a command, given the state and `version`, the number of events so far.

        The result may have to be awaited. The fields of the state cannot be set until the handler has finished.

        Raises `UnknownCommand`, `AggregateDeleted`, `Rejected`, `StateReadOnly`, and what the handler raises.
        """
        handler = self._handler(state, version, command)
        state.__dict__[IS_DECIDING] = True
        try:
            returned = self._complete(handler(state, command))
        finally:
            del state.__dict__[IS_DECIDING]
        return self._decided(state, returned) if isinstance(returned, CoroutineType) else returned

    def _complete(self, returned: Any) -> Any:
        """A handler's result; if the handler yields its events or makes them lazily, a tuple of all of them."""
        return returned if type(returned) in self.codecs or not isinstance(returned, Iterator) else tuple(returned)

    async def _decided(self, state: Aggregate, handling: Awaitable[Any]) -> Any:
        state.__dict__[IS_DECIDING] = True
        try:
            return self._complete(await handling)
        finally:
            del state.__dict__[IS_DECIDING]

    def _handler(self, state: Aggregate, version: int, command: object) -> Callable[[Any, Any], Any]:
        command_class = type(command)
        if state.is_deleted and command_class is not Recreate:
            raise AggregateDeleted(self.stream(state.id))
        if command_class is Delete and not version:
            raise Rejected(f"there is nothing to delete: {self.stream(state.id)!r} has no events")
        handler = self.handlers.get(command_class)
        if handler is None:
            is_command = command_definition(command_class) is not None
            raise UnknownCommand(self.aggregate_class, command, is_command=is_command)
        return handler

    def stream(self, aggregate_id: str) -> str:
        """The name of the stream of one aggregate. Raises `StreamNameInvalid`."""
        if not isinstance(aggregate_id, str):
            raise StreamNameInvalid(repr(aggregate_id), "an aggregate's id is a text: give str(id)")
        stream = f"{self.category}-{aggregate_id}"
        check_stream_name(stream if aggregate_id else "")
        return stream

    def encode_event(self, codec: EventCodec, event: object) -> tuple[bytes, Any]:
        """Return an event's payload as MessagePack, and the event as it comes back from the log, which must be applied.

        The returned event may behave differently although it is equal: a datetime comes back without the rules of its
        zone. An event of a subject that is being forgotten comes back without its personal data.

        Raises `EncodingError`, also if the event would come back changed, and `SubjectKeysUnusable`.
        """
        try:
            data = codec.unstructure(event)
            payload = _encode(data)
        except (EncodingError, StoreError):
            raise
        except Exception as error:
            raise EncodingError(f"{codec.event_class.__name__} cannot be stored: {error}") from error
        try:
            # A custom hook's result may change when it is written: a time becomes a text.
            stored = data if self._serializer.is_standard else _decode(payload)
            returned = codec.structure(stored, codec.event_class)
            # Equal events may compare unequal, for example if they contain NaN.
            is_same = (
                returned == event
                or (codec.has_personal_data and self._serializer.is_forgetting)
                or (is_same_data(codec.unstructure(returned), data) and not is_changed(event, returned))
            )
        except Exception as error:
            reason = self._serializer.explain(data, codec.event_class, error)
            raise EncodingError(f"{event!r:.200} could not be read again: {reason}") from error
        if not is_same:
            raise EncodingError(
                f"{event!r:.200} would come back as {returned!r:.200}: give its fields values of the types that they "
                "are annotated with."
            )
        return payload, returned

    def knows(self, event_type: str) -> bool:
        """Whether the aggregate has a class for events of this stored name."""
        return event_type in self._events.of_name

    def decode_event(self, stored: StoredEvent) -> Any:
        """Turn a stored event into an event object. Raises `UnknownEvent`, `DecodingError` or a `StoreError`."""
        event = self._events.decode(stored)
        if event is None:
            raise UnknownEvent(self.aggregate_class, stored.stream, stored.type, stored.position)
        return event

    def data(self, state: Aggregate) -> dict[str, Any]:
        """The state as plain data that shares nothing with the aggregate. Raises `EncodingError`."""
        return self._unshared(self._plain(state))

    def stored_data(self, state: Aggregate) -> dict[str, Any]:
        """The state as plain data with personal data sealed. Raises `EncodingError`, `SubjectKeysUnusable`."""
        return self._unshared(self._serializer.unstructure(state))

    def _unshared(self, data: Any) -> dict[str, Any]:
        plain: dict[str, Any] = _decode(self._encoded_state(data))
        return plain

    def plain(self, value: object) -> Any:
        """A part of a state as plain data. Raises `EncodingError`."""
        return self._serializer.plain(value)

    def encode_state(self, state: Aggregate) -> msgspec.Raw:
        """An aggregate's state as MessagePack, for a snapshot. Raises `EncodingError`, `SubjectKeysUnusable`."""
        return msgspec.Raw(self._encoded_state(self._serializer.unstructure(state)))

    def _encoded_state(self, data: Any) -> bytes:
        try:
            return _encode(data)
        except Exception as error:
            raise EncodingError(f"The state of {self.aggregate_class.__name__} cannot be stored: {error}") from error

    def copy_state(self, state: Aggregate) -> Aggregate:
        """Copy an aggregate; the copy shares nothing with the original.

        Raises `AggregateDeleted`, `EncodingError`.
        """
        stream = self.stream(state.id)
        if state.is_deleted:
            raise AggregateDeleted(stream)
        advice = (
            f"Have the methods of {self.aggregate_class.__name__} with @applies set its fields to values of the types "
            "that they are annotated with."
        )
        try:
            copied = self.decode_state(self._plain(state), state.id)
        except DecodingError as error:
            raise EncodingError(
                f"The state of {stream!r} could not be read again, nor can its snapshots. {error}. {advice}"
            ) from error
        if copied != state and is_changed(state, copied):
            raise EncodingError(
                f"The state of {stream!r}, {state!r:.200}, would come back as {copied!r:.200}. {advice}"
            )
        return copied

    def decode_state(self, data: Any, aggregate_id: str) -> Aggregate:
        """Make an aggregate with this state. Raises `DecodingError` or a `StoreError`."""
        state = self._serializer.structure(data, self.aggregate_class)
        state._eventsrc_identify(aggregate_id)
        return state

    def can_use(self, snapshot: Snapshot | Compacted) -> bool:
        """Whether the state of a snapshot is still the one that its events give.

        It is not if it is of another shape of the class, or holds data of a subject that was forgotten since: what
        replaces those data in the state may differ from what the events give now. Raises a `StoreError`.
        """
        if snapshot.schema != self.schema:
            return False
        return not (self.has_personal_data and self._serializer.holds_forgotten(snapshot.state))

    def initial_state(self, aggregate_id: str) -> Aggregate:
        """An aggregate before its first event."""
        state = self.aggregate_class()
        state._eventsrc_identify(aggregate_id)
        return state
