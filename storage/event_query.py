"""A query for events across streams; an append can be conditional on it."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
import msgspec

from .errors import EventQueryInvalid
from .names import category_of
from .record import StoredEvent

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


def _values(given: Iterable[Any] | type | None) -> tuple[Any, ...] | None:
    """The values as a tuple; a single text or class becomes a tuple of one."""
    if given is None:
        return None
    return (given,) if isinstance(given, str | type) or not isinstance(given, Iterable) else tuple(given)


def _check_values(query: "EventQuery", field: "attrs.Attribute[Any]", values: tuple[Any, ...] | None) -> None:
    if values is None:
        return
    if not values:
        # An empty list is ambiguous: it could mean any event or none. A caller that computed it may expect either.
        raise EventQueryInvalid(
            f"{field.name} is empty: leave it out (None) to ask for events whatever their {field.name}."
        )
    fitting = (str, type) if field.name == "types" else str
    for value in values:
        if not isinstance(value, fitting):
            wanted = "stored names or event classes" if field.name == "types" else "texts"
            raise EventQueryInvalid(f"{field.name} must be {wanted}, not {value!r}.")
        if value == "":
            raise EventQueryInvalid(
                f"{field.name} has an empty text, which no event has: leave it out (None) to ask for all."
            )


def _as_stored(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Metadata as they are read again: a UUID is a text then, and a tuple a list."""
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        raise EventQueryInvalid(f'metadata must be a mapping by name, {{"principal": "ann"}}, not {metadata!r:.100}.')
    return {key: _value_as_stored(key, value) for key, value in metadata.items()}


def _value_as_stored(key: str, value: Any) -> Any:
    if isinstance(value, AnyOf):
        return AnyOf(tuple(_value_as_stored(key, each) for each in value.values))
    try:
        return _decode(_encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EventQueryInvalid(
            f"metadata have no {value!r:.100} as {key!r}: it is no plain data ({error})."
        ) from error


def _check_text(query: "EventQuery", field: "attrs.Attribute[Any]", value: str | None) -> None:
    if not isinstance(value, str | None):
        raise EventQueryInvalid(f"{field.name} must be a text, not {value!r:.100}.")
    if value == "":
        raise EventQueryInvalid(f"{field.name} is empty: leave it out (None) to ask for events of all of them.")


def _check_position(query: "EventQuery", field: "attrs.Attribute[Any]", value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise EventQueryInvalid(f"{field.name} must be a position, a whole number from 0 on, not {value!r:.100}.")


def _several(values: Iterable[Any]) -> tuple[Any, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise EventQueryInvalid(f"AnyOf takes several values, AnyOf((1, 2)), not {values!r:.100}.")
    return tuple(values)


def _is_same(stored: Any, wanted: Any) -> bool:
    if isinstance(wanted, AnyOf):
        return any(_is_same(stored, value) for value in wanted.values)
    # In Python 1 == True; in stored data they differ.
    return bool(stored == wanted) and isinstance(stored, bool) == isinstance(wanted, bool)


@attrs.frozen(repr=False)
class AnyOf:
    """Matches any one of several values of a metadata field."""

    values: tuple[Any, ...] = attrs.field(converter=_several)

    def __repr__(self) -> str:
        return " or ".join(map(repr, self.values))


@attrs.frozen(kw_only=True)
class EventQuery:
    """Matches the events after position `after` that meet every given criterion.

    An event must have one of `types` (stored names; the runtime also accepts event classes), all `tags`, the
    `category`, the `correlation_id`, and every value in `metadata`. Metadata values are compared as they are stored:
    the number 3 is not the text "3", and 1 is not true, but a UUID is its text; `AnyOf` matches several values. A
    single text for `types` or `tags` is a list of one. As the condition of an append, the query means: append only if
    no event matches. See https://dcb.events for the kinds of consistency that this allows.

    Of the indexes for tags, types and category, the narrowest one is used. Metadata and the correlation id have no
    index: a query for them alone reads every event after `after`.

    Raises `EventQueryInvalid`, which is a `ValueError` and a `TypeError`, for `types`, `tags`, `category` or
    `correlation_id` that are given but empty, values of the wrong type, and metadata that cannot be stored.
    """

    types: tuple[Any, ...] | None = attrs.field(default=None, converter=_values, validator=_check_values)
    tags: tuple[str, ...] | None = attrs.field(default=None, converter=_values, validator=_check_values)
    category: str | None = attrs.field(default=None, validator=_check_text)
    metadata: Mapping[str, Any] = attrs.field(factory=dict[str, Any], converter=_as_stored)
    correlation_id: str | None = attrs.field(default=None, validator=_check_text)
    after: int = attrs.field(default=0, validator=_check_position)

    def matches(self, event: StoredEvent) -> bool:
        """Whether an event meets all criteria."""
        if event.position <= self.after:
            return False
        if self.correlation_id is not None and event.correlation_id != self.correlation_id:
            return False
        if self.types and event.type not in self.types:
            return False
        if self.category is not None and category_of(event.stream) != self.category:
            return False
        if self.tags and not set(self.tags) <= set(event.tags):
            return False
        metadata = event.metadata if self.metadata else {}
        return all(key in metadata and _is_same(metadata[key], value) for key, value in self.metadata.items())

    @property
    def criteria(self) -> str:
        """The criteria as text, without `after`; empty if there are none."""
        parts = (
            ("types", ", ".join(map(str, self.types or ()))),
            ("tags", ", ".join(self.tags or ())),
            ("category", self.category),
            (
                "metadata",
                ", ".join(f"{key}={value!r}" for key, value in self.metadata.items()),
            ),
            ("correlation", self.correlation_id),
        )
        return "; ".join(f"{name} {value}" for name, value in parts if value)

    def __str__(self) -> str:
        return f"{self.criteria or 'any event'}, after position {self.after}"
