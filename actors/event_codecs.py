"""Between event classes and what is stored of them."""

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from ..storage.record import Kind, StoredEvent
from .errors import DecodingError
from .messages import event_type
from .serializer import Serializer


@attrs.frozen
class EventCodec:
    """One event class: its stored name, and the functions between it and plain data."""

    event_class: type
    name: str
    version: int
    kind: Kind | None
    tags: Callable[[Any], Iterable[str]] | None
    unstructure: Callable[[Any], Any]
    structure: Callable[[Any, type], Any]


class EventCodecs:
    """The codecs of some event classes, by class and by stored name.

    Raises `SchemaError` when a field cannot be turned into data.
    """

    def __init__(self, event_classes: Iterable[type], serializer: Serializer) -> None:
        self._serializer = serializer
        self.of_class: dict[type, EventCodec] = {}
        self.of_name: dict[str, EventCodec] = {}
        self.structures: dict[str, tuple[Callable[[Any, type], Any], type]] = {}
        """By stored name: what makes an event object of a payload, and the class that it takes for it."""
        for event_class in event_classes:
            serializer.prepare(event_class)
            stored = event_type(event_class)
            assert stored is not None, f"{event_class.__name__} was checked when it was named"
            unstructure, structure = serializer.functions(event_class)
            codec = EventCodec(
                event_class, stored.name, stored.version, stored.kind, stored.tags, unstructure, structure
            )
            self.of_class[event_class] = codec
            self.of_name[codec.name] = codec
            self.structures[codec.name] = structure, event_class

    def decode(self, stored: StoredEvent) -> Any | None:
        """The event object for a stored event; None where its class is not among these. Raises `DecodingError`."""
        found = self.structures.get(stored.type)
        if found is None:
            return None
        structure, event_class = found
        try:
            return structure(stored.payload, event_class)
        except Exception as error:
            raise self.misfit(stored, error) from error

    def misfit(self, stored: StoredEvent, error: Exception) -> DecodingError:
        """What a stored event is refused with that does not fit its class."""
        _, event_class = self.structures[stored.type]
        reason = self._serializer.explain(stored.payload, event_class, error)
        return DecodingError(
            f"The event {stored.type!r} of {stored.stream!r} at position {stored.position} does not fit "
            f"{event_class.__name__}: {reason}"
        )
