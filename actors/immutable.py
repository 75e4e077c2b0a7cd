"""What the types of fields tell of their values: whether they can be changed, and which are stored as they are."""

import enum
import types
import typing
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import attrs

_VALUES: Final = frozenset(
    {type(None), bool, int, float, str, bytes, date, datetime, time, timedelta, Decimal, UUID, Ellipsis}
)

_PLAIN: Final = frozenset({type(None), bool, int, str, bytes})


def is_immutable(hint: Any) -> bool:
    """Whether no value of this type can be changed; False wherever that is not sure."""
    try:
        return _is_immutable(hint, frozenset())
    except TypeError:
        # An annotation that cannot even be hashed.
        return False


def exact_classes(hint: Any) -> frozenset[type]:
    """The classes whose very instances fit this type and are stored without loss; empty where only trying tells.

    Of those that fit a Literal, only its `literal_values` do.
    """
    required = _without_none(hint)
    if isinstance(required, type) and (required in _VALUES or issubclass(required, enum.Enum)):
        classes = frozenset[type]({required})
    else:
        classes = frozenset(map(type, literal_values(required)))
    return classes | {type(None)} if classes and required is not hint else classes


def literal_values(hint: Any) -> frozenset[Any]:
    """The values of a Literal of plain ones, and None where that is allowed beside it; empty for every other type."""
    required = _without_none(hint)
    values = typing.get_args(required) if typing.get_origin(required) is typing.Literal else ()
    if not values or not all(type(value) in _PLAIN for value in values):
        return frozenset()
    return frozenset(values if required is hint else (*values, None))


def _without_none(hint: Any) -> Any:
    """Of `X | None` the X; every other type as it is."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    return parts[0] if len(parts) == 1 else hint


def _is_immutable(hint: Any, within: frozenset[Any]) -> bool:
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    if hint in within:
        return True
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return True
    if origin is typing.Annotated:
        return _is_immutable(typing.get_args(hint)[0], within)
    if origin in (typing.Union, types.UnionType, tuple, frozenset):
        return all(_is_immutable(part, within) for part in typing.get_args(hint))
    if not isinstance(hint, type):
        return hint in _VALUES
    if hint in _VALUES or issubclass(hint, enum.Enum):
        return True
    if not attrs.has(hint) or not attrs.inspect(hint).is_frozen:
        return False
    try:
        hints = typing.get_type_hints(hint)
    except (NameError, AttributeError, TypeError):
        return False
    return all(_is_immutable(hints.get(field.name, Any), within | {hint}) for field in attrs.fields(hint))
