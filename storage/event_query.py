"""A question about events across streams, which an append can be made conditional on."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
import msgspec
from attrs.validators import instance_of, optional

from .names import category_of
from .record import StoredEvent

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


def _values(given: Iterable[Any] | type | None) -> tuple[Any, ...] | None:
    """Several values, or one text, which is not to be taken for a sequence of letters."""
    if given is None:
        return None
    return (given,) if isinstance(given, str | type) or not isinstance(given, Iterable) else tuple(given)


def _check_values(query: "EventQuery", field: "attrs.Attribute[Any]", values: tuple[Any, ...] | None) -> None:
    if values is None:
        return
    if not values:
        # Any event, or none? A computed list that came out empty must not mean the opposite of what it says.
        raise ValueError(f"{field.name} is empty: leave it out (None) to ask for events whatever their {field.name}.")
    fitting = (str, type) if field.name == "types" else str
    for value in values:
        if not isinstance(value, fitting):
            wanted = "stored names or event classes" if field.name == "types" else "texts"
            raise TypeError(f"{field.name} must be {wanted}, not {value!r}.")
        if value == "":
            raise ValueError(f"{field.name} has an empty text, which no event has: leave it out (None) to ask for all.")


def _as_stored(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Metadata as they are read again: a UUID is a text then, and a tuple a list."""
    return {key: _value_as_stored(key, value) for key, value in metadata.items()}


def _value_as_stored(key: str, value: Any) -> Any:
    if isinstance(value, AnyOf):
        return AnyOf(tuple(_value_as_stored(key, each) for each in value.values))
    try:
        return _decode(_encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"metadata have no {value!r:.100} as {key!r}: it is no plain data ({error}).") from error


def _check_text(query: "EventQuery", field: "attrs.Attribute[Any]", value: str | None) -> None:
    if value == "":
        raise ValueError(f"{field.name} is empty: leave it out (None) to ask for events of all of them.")


def _is_same(stored: Any, wanted: Any) -> bool:
    if isinstance(wanted, AnyOf):
        return any(_is_same(stored, value) for value in wanted.values)
    # In Python 1 == True; in stored data they differ.
    return bool(stored == wanted) and isinstance(stored, bool) == isinstance(wanted, bool)


@attrs.frozen(repr=False)
class AnyOf:
    """Stands for several values of metadata, of which one must be there."""

    values: tuple[Any, ...]

    def __repr__(self) -> str:
        return " or ".join(map(repr, self.values))


@attrs.frozen(kw_only=True)
class EventQuery:
    """Events after the position `after` that meet every criterion given.

    `types` are stored names (the runtime also takes event classes), of which one must fit; `tags` must all be there;
    `metadata` must hold these values, as they are stored: the number 3 is not the text "3", nor is 1 true, but a UUID
    is its text; `AnyOf` stands for several. As the condition of an append it says: only if no event matches. See
    https://dcb.events for what can be kept consistent that way.

    The narrowest index of those by tag, type and category serves; metadata and the correlation id are compared, so that
    a query for them alone looks at every event after `after`. One text stands for a list of one.

    Raises `ValueError` for types, tags or a category that are given and empty, `TypeError` for what cannot be one, and
    for metadata that cannot be stored.
    """

    types: tuple[Any, ...] | None = attrs.field(default=None, converter=_values, validator=_check_values)
    tags: tuple[str, ...] | None = attrs.field(default=None, converter=_values, validator=_check_values)
    category: str | None = attrs.field(default=None, validator=[optional(instance_of(str)), _check_text])
    metadata: Mapping[str, Any] = attrs.field(factory=dict[str, Any], converter=_as_stored)
    correlation_id: str | None = attrs.field(default=None, validator=[optional(instance_of(str)), _check_text])
    after: int = attrs.field(default=0, validator=instance_of(int))

    def matches(self, event: StoredEvent) -> bool:
        """Whether an event meets it."""
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
        """What it asks for, in words; empty when it asks for any event."""
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
