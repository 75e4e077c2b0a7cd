"""Objects whose fields hold exactly values of the declared types: they come back from the store unchanged."""

import enum
import typing
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from operator import attrgetter, contains
from typing import Any, Final
from uuid import UUID

import attrs

from .annotations import alternatives
from .class_readers import is_made_of_its_fields
from .serializer import Serializer

_PLAIN: Final = frozenset({type(None), bool, int, str, bytes})
_WATCHED: Final = frozenset({datetime, time, Decimal})
"""Some instances of these classes do not come back unchanged."""
_EXACT: Final = _PLAIN | _WATCHED | {float, date, timedelta, UUID}


class ExactFields:
    """Tells which objects of one class come back from the store unchanged, without encoding and decoding them.

    For other objects only encoding and decoding tells: a converter with hooks, or a class with code of its own for
    making objects, may change a value in any way.
    """

    def __init__(self, cls: type, serializer: Serializer) -> None:
        fields = attrs.fields(cls)
        self._is_known = serializer.is_standard and is_made_of_its_fields(cls) and attrs.inspect(cls).is_frozen
        self._values_of = values_getter([field.name for field in fields])
        self._classes = [exact_classes(field.type) for field in fields]
        literals = {field.name: literal_values(field.type) for field in fields}
        self._literals = [(attrgetter(name), values) for name, values in literals.items() if values]
        watched = [field.name for field, classes in zip(fields, self._classes, strict=True) if classes & _WATCHED]
        self._watched = [attrgetter(name) for name in watched]

    def hold(self, instance: Any) -> bool:
        """Whether this object, of exactly the class, certainly comes back unchanged; False if that is not sure."""
        if not (self._is_known and all(map(contains, self._classes, map(type, self._values_of(instance))))):
            return False
        if self._literals and not all(value_of(instance) in values for value_of, values in self._literals):
            return False
        return not self._watched or all(_is_exact(value_of(instance)) for value_of in self._watched)


def exact_classes(hint: Any) -> frozenset[type]:
    """The classes whose direct instances fit this type and are stored without loss; empty if only trying tells.

    Some instances of these classes do not come back unchanged: for a Literal, all but its `literal_values`; of times,
    those in a zone other than UTC or with `fold` set; of decimals, a signalling NaN.
    """
    required = _without_none(hint)
    if isinstance(required, type) and issubclass(required, enum.Enum):
        # A member with the value None would come back as None if the type also admits None.
        is_exact = required is hint or None not in [member.value for member in required]
        classes = frozenset[type]({required} if is_exact else ())
    elif isinstance(required, type) and required in _EXACT:
        classes = frozenset[type]({required})
    else:
        classes = frozenset(map(type, literal_values(required)))
    return classes | {type(None)} if classes and required is not hint else classes


def literal_values(hint: Any) -> frozenset[Any]:
    """The values of a Literal of plain values, and None if the type also admits None; empty for every other type."""
    required = _without_none(hint)
    values = typing.get_args(required) if typing.get_origin(required) is typing.Literal else ()
    if not values or not all(type(value) in _PLAIN for value in values):
        return frozenset()
    return frozenset(values if required is hint else (*values, None))


def values_getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Make a function that returns the values of these fields of an object, as a tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    if not names:
        return lambda _: ()
    one = attrgetter(names[0])
    return lambda instance: (one(instance),)


def _without_none(hint: Any) -> Any:
    """`X` for `X | None`; every other type unchanged."""
    parts = [part for part in alternatives(hint) if part is not type(None)]
    return parts[0] if len(parts) == 1 else hint


def _is_exact(value: datetime | time | Decimal | None) -> bool:
    """Whether the value comes back unchanged, and compares with values that do."""
    if isinstance(value, datetime | time):
        # A stored time keeps only its offset: not the rules of its zone, and not which of two ambiguous times it is.
        return (value.tzinfo is None or value.tzinfo is UTC) and not value.fold
    return value is None or not value.is_snan()
