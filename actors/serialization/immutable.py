"""Whether the values of a type can be changed, as far as the type tells."""

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


def is_immutable(hint: Any) -> bool:
    """Whether no value of this type can be changed; False if that is not sure."""
    try:
        return _is_immutable(hint, frozenset())
    except TypeError:
        # The annotation cannot be hashed.
        return False


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
