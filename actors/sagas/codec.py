"""The encoding of sagas: their records, their state, and the events that they wait for."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar, cast

import msgspec

from ...storage.commit import NewEvent
from ...storage.errors import EventTooLarge
from ...storage.limits import Limits
from ...storage.record import StoredEvent
from ..aggregates.decision import RECORD_OVERHEAD_BYTES
from ..errors import DecodingError, DefinitionError, EncodingError
from ..messages import check_names, stored_name
from ..serialization.came_back import is_changed
from ..serialization.event_codecs import EventCodecs
from ..serialization.serializer import Serializer
from .effect_result import EffectResult
from .events import SAGA_EVENTS, SagaRemade, SagaStarted, StepDone
from .failure import FAILURE_BYTES
from .plain_data import plain_data
from .saga import Saga

STATES: Final = (SagaStarted, SagaRemade, StepDone)
"""Records with a state that a step begins with. They leave `FAILURE_BYTES` free, since a failure's record holds the
same state."""

E = TypeVar("E")
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


class SagaCodec:
    """Encodes and decodes for all sagas of one runtime; `codecs` are those of the aggregates' events."""

    def __init__(self, serializer: Serializer, codecs: EventCodecs, limits: Limits) -> None:
        self._serializer = serializer
        self._codecs = codecs
        self._waited: dict[str, EventCodecs] = {}
        """By stored name: the codecs of events that only a waiting step has named, and no class of the runtime."""
        self._records = EventCodecs(SAGA_EVENTS, serializer)
        self._limits = limits

    # --- records ---

    def encode(self, record: Any, correlation_id: str, stream: str) -> NewEvent:
        """Encode a record of the saga `stream` for the log. Raises `EncodingError`, `EventTooLarge`."""
        codec = self._records.of_class[type(record)]
        try:
            payload = _encode(codec.unstructure(record))
        except Exception as error:
            raise EncodingError(f"{type(record).__name__} cannot be stored: {error}") from error
        tags = self._serializer.key_tags(payload)
        size, bound = len(payload) + RECORD_OVERHEAD_BYTES + len("".join(tags)), self._limits.event_size_bytes_max
        if isinstance(record, STATES):
            size += FAILURE_BYTES
        if size > bound:
            advice = "Keep large data elsewhere and its reference in the saga's state."
            raise EventTooLarge(stream, codec.name, size, bound, advice)
        return NewEvent(codec.name, msgspec.Raw(payload), 1, codec.kind, correlation_id, stream, tags=tags)

    def decode(self, stored: StoredEvent) -> Any:
        """Decode a record. Raises `DecodingError`."""
        return self._records.decode(stored)

    # --- states ---

    def encode_state(self, saga: Saga) -> dict[str, Any]:
        """Turn a saga's state into plain data. Raises `EncodingError`, `SubjectKeysUnusable`."""
        for name in saga.__eventsrc_saga__.untyped:
            _check_untyped(name, getattr(saga, name))
        data: dict[str, Any] = self._serializer.unstructure(saga)
        try:
            stored = _decode(_encode(data))
        except Exception as error:
            raise EncodingError(f"The state of the saga cannot be stored: {error}") from error
        try:
            again = self.decode_state(type(saga), stored)
        except DecodingError as error:
            # If it were stored, the saga could neither go on nor be compensated.
            raise EncodingError(f"The state of the saga could not be read again: {error}") from error
        if again != saga and is_changed(saga, again):
            raise EncodingError(f"The state of the saga, {saga!r:.200}, would come back as {again!r:.200}")
        return data

    def decode_state(self, saga_class: type[Saga], state: Mapping[str, Any]) -> Saga:
        """Make a saga with this state. Raises `DecodingError`, or a `StoreError` if a sealed value cannot be opened."""
        return self._serializer.structure(state, saga_class)

    # --- results of effects ---

    def result_of(self, effect: str, returns: type[Any] | None) -> EffectResult:
        """The codec for what an effect returns. Raises `DefinitionError`."""
        return EffectResult(effect, returns, self._serializer)

    # --- events that sagas wait for ---

    def payload(self, stored: StoredEvent) -> Mapping[str, Any] | None:
        """The payload of a stored event, upcast to its class's current version; None if no class is known for it yet.

        Raises `DecodingError`.
        """
        codecs = self._codecs if stored.type in self._codecs.of_name else self._waited.get(stored.type)
        return None if codecs is None else codecs.upcast(stored)

    def is_current(self, event_type: str, version: int) -> bool:
        """Whether `version` is the current version of the event; True if the event has no class in the runtime."""
        codec = self._codecs.of_name.get(event_type)
        return codec is None or codec.version == version

    def encode_where(self, event_class: type, where: Mapping[str, Any]) -> dict[str, Any]:
        """Encode the values of an event's fields as they are stored. Raises `DefinitionError`, `EncodingError`."""
        if not isinstance(where, Mapping):
            raise DefinitionError(f"where= takes values by the names of fields, {{'total': 5}}, not {where!r:.100}")
        self._codecs_of(event_class)
        return self._serializer.fields_data(event_class, where)

    def decode_event(self, stored: StoredEvent, event_class: type[E]) -> E:
        """Decode a stored event as this class. Raises `DefinitionError`, `DecodingError` or a `StoreError`."""
        return cast("E", self._codecs_of(event_class).decode(stored))

    def _codecs_of(self, event_class: type) -> EventCodecs:
        """The codecs that have an event class. Raises `DefinitionError` if another class is stored under its name."""
        name = stored_name(event_class)
        if name not in self._codecs.of_name and name not in self._waited:
            self._waited[name] = EventCodecs([event_class], self._serializer)
        codecs = self._waited.get(name, self._codecs)
        check_names((codecs.of_name[name].event_class, event_class))
        return codecs


def _check_untyped(name: str, value: Any) -> None:
    """Raise `EncodingError` if the value of a field without a type would come back as another value."""
    advice = f"Declare it with its type: {name}: {type(value).__name__} | None = None"
    try:
        again = plain_data(value, f"self.{name}")
    except EncodingError as error:
        raise EncodingError(f"{error}. {advice}") from error
    # `repr` tells 1 from True and a list from a tuple, at any depth.
    if repr(again) != repr(value):
        raise EncodingError(f"self.{name} would come back as {again!r:.100} instead of {value!r:.100}. {advice}")
