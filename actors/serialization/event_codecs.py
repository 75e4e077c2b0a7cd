"""The encoding of event objects as stored events, and their decoding."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs
import msgspec

from ...storage.errors import StoreError, described
from ...storage.record import Kind, StoredEvent
from ..errors import DecodingError, EventVersionUnknown, UpcasterFailed
from ..messages import SAGA_STEP, Upcaster, event_definition
from .came_back import is_misread
from .sealing import are_all_marked, key_tags
from .serializer import Serializer

_encode: Final = msgspec.msgpack.Encoder().encode


@attrs.frozen
class EventCodec:
    """The codec of one event class: its stored name, and the functions to and from plain data."""

    event_class: type
    name: str
    version: int
    kind: Kind | None
    tags: Callable[[Any], Iterable[str]] | None
    upcasters: Mapping[int, Upcaster]
    unstructure: Callable[[Any], Any]
    structure: Callable[[Any, type], Any]
    opened: Callable[[Any], Any]
    """Copies a stored payload with every sealed value opened that can be."""
    has_personal_data: bool
    key_tags: Callable[[bytes], tuple[str, ...]]
    """The tags of an event with this encoded payload, one for each key that seals something in it."""

    def upcast(self, stored: StoredEvent) -> Any:
        """The payload of a stored event of this name, upcast to the class's current version.

        Raises `EventVersionUnknown` if newer code stored the event, `UpcasterFailed`.
        """
        if stored.schema_version == self.version:
            return stored.payload
        if not 0 < stored.schema_version < self.version:
            raise EventVersionUnknown(stored, self.event_class, self.version)
        # A copy: others also get the stored event, and must see it as it is stored.
        payload = self.opened(stored.payload)
        for version in range(stored.schema_version, self.version):
            try:
                returned = self.upcasters[version](payload)
            except Exception as error:
                raise UpcasterFailed(stored, self.event_class, version, f"raised {described(error)}") from error
            fault = _fault_of(returned)
            if fault:
                raise UpcasterFailed(stored, self.event_class, version, fault)
            payload = dict(returned)
        return payload


class EventCodecs:
    """The codecs of some event classes, by class and by stored name.

    Raises `SchemaError` if a field cannot be turned into data.
    """

    def __init__(self, event_classes: Iterable[type], serializer: Serializer) -> None:
        self._serializer = serializer
        self.of_class: dict[type, EventCodec] = {}
        self.of_name: dict[str, EventCodec] = {}
        self.structures: dict[str, tuple[Callable[[Any, type], Any], type, int]] = {}
        """By stored name: the function that makes an event object from a payload, the class to pass to it, and the
        version that the payload must have."""
        for event_class in event_classes:
            is_personal = serializer.prepare(event_class)
            stored = event_definition(event_class)
            assert stored is not None, f"{event_class.__name__} was checked when it was named"
            unstructure, structure = serializer.functions(event_class)
            codec = EventCodec(
                event_class,
                name=stored.name,
                version=stored.version,
                kind=stored.kind,
                tags=stored.tags,
                upcasters=stored.upcasters,
                unstructure=unstructure,
                structure=structure,
                opened=serializer.opened,
                has_personal_data=is_personal,
                key_tags=serializer.key_tags,
            )
            self.of_class[event_class] = codec
            self.of_name[codec.name] = codec
            self.structures[codec.name] = structure, event_class, codec.version

    def decode(self, stored: StoredEvent) -> Any | None:
        """Decode a stored event into an event object; None if its class is not among these.

        Raises `DecodingError`, or `StoreError` if a sealed value cannot be opened.
        """
        found = self.structures.get(stored.type)
        if found is None:
            return None
        structure, event_class, version = found
        payload = stored.payload if stored.schema_version == version else self.upcast(stored)
        try:
            return structure(payload, event_class)
        except StoreError:
            raise
        except Exception as error:
            raise self.misfit(stored, error) from error

    def decode_as(self, codec: EventCodec, stored: StoredEvent) -> Any:
        """Decode a stored event with a codec that may not be the registered one of its name: classes may share a name.

        Raises `DecodingError`, also if a value is sealed that the class, or a class within it, does not mark as
        personal: it would be read as bytes. Raises `StoreError` if a sealed value cannot be opened.
        """
        # A saga's records hold its state as stored: the saga's class marks the sealed values in it, not the record's
        # class.
        sealed = () if codec.kind == SAGA_STEP else key_tags(_encode(stored.payload))
        if sealed and not codec.has_personal_data:
            raise DecodingError(
                f"The event {stored.type!r} of {stored.stream!r} at position {stored.position} holds personal data, "
                f"which are sealed, and {codec.event_class.__name__} has none: mark its field with Annotated[..., "
                "Personal(...)]."
            )
        payload = codec.upcast(stored)
        try:
            event = codec.structure(payload, codec.event_class)
        except StoreError:
            raise
        except Exception as error:
            raise self._misfit(codec, stored, error) from error
        if sealed and payload is stored.payload and not are_all_marked(event, payload):
            raise DecodingError(
                f"The event {stored.type!r} of {stored.stream!r} at position {stored.position} holds personal data, "
                f"which are sealed, in a class within {codec.event_class.__name__} that does not mark them any more: "
                "mark its field with Annotated[..., Personal(...)]."
            )
        # A custom hook may read what was stored in another form.
        if self._serializer.is_standard and is_misread(payload, event):
            raise self._misfit(codec, stored, ValueError(f"{payload!r:.200} would be read as {event!r:.200}"))
        return event

    def exchanged_fields(self, codec: EventCodec, stored: StoredEvent) -> tuple[list[str], list[str]]:
        """Returns (stored fields of the event that are ignored, fields of the class that take their defaults instead).

        Both lists are empty unless both would have entries: a field may have been renamed.
        """
        if not self._serializer.is_standard:
            return [], []
        fields = attrs.fields(codec.event_class)
        given = codec.upcast(stored).keys()
        passed_over = sorted(given - {field.name for field in fields})
        missing = sorted({field.name for field in fields if field.init} - given)
        return (passed_over, missing) if passed_over and missing else ([], [])

    def upcast(self, stored: StoredEvent) -> Any:
        """The payload of a stored event, upcast to its class's current version; unchanged if no class has its name.

        Raises `EventVersionUnknown` if newer code stored the event, `UpcasterFailed`.
        """
        codec = self.of_name.get(stored.type)
        return stored.payload if codec is None else codec.upcast(stored)

    def misfit(self, stored: StoredEvent, error: Exception) -> DecodingError:
        """The error for a stored event that does not fit its class."""
        return self._misfit(self.of_name[stored.type], stored, error)

    def _misfit(self, codec: EventCodec, stored: StoredEvent, error: Exception) -> DecodingError:
        name, version = codec.event_class.__name__, codec.version
        reason = self._serializer.explain(codec.upcast(stored), codec.event_class, error)
        event = f"The event {stored.type!r} of {stored.stream!r} at position {stored.position}"
        advice = (
            "raise its version and say how older events are read: "
            f"@event({stored.type!r}, version={version + 1}, upcasters={{...}})."
        )
        if stored.schema_version == version:
            return DecodingError(f"{event} does not fit {name}: {reason}. Where the class was changed, {advice}")
        return DecodingError(
            f"{event}, stored with version {stored.schema_version}, does not fit {name}: {reason}. Mend the upcasters "
            f"that lead from there to version {version}; where the class was changed after events of version {version} "
            f"were stored, {advice}"
        )


def _fault_of(returned: object) -> str:
    """What is wrong with an upcaster's result, which must be data as they could be stored; empty if nothing is."""
    if inspect.iscoroutine(returned):
        returned.close()
    # Anything else would be read as an event without fields, and fields with defaults would get them.
    if not isinstance(returned, Mapping):
        return f"returned {returned!r:.100}"
    payload = _without_sealed(dict(returned))
    try:
        plain = msgspec.to_builtins(payload, builtin_types=(bytes, bytearray, memoryview))
    except Exception as error:
        return f"returned what is no plain data ({error})"
    if plain == payload:
        return ""
    odd = {name: value for name, value in payload.items() if plain.get(name) != value}
    return f"returned {odd or payload!r:.100}, which is no plain data"


def _without_sealed(data: Any) -> Any:
    """The data with None in place of the sealed values of forgotten subjects, which are passed on unopened."""
    if isinstance(data, msgspec.msgpack.Ext):
        return None
    if isinstance(data, dict):
        return {name: _without_sealed(value) for name, value in data.items()}
    return list(map(_without_sealed, data)) if isinstance(data, list) else data
