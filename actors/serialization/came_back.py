"""Whether a value comes back unchanged from its stored data, although the data of both are the same."""

import typing
from collections import deque
from collections.abc import Collection, Mapping
from datetime import date, datetime
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec

from .annotations import field_types, has_fields
from .model_types import is_pydantic_model, is_struct, model_field_types
from .named_tuples import named_tuple_types
from .primitives import PLAIN

_encode: Final = msgspec.msgpack.Encoder().encode
_fields: Final[WeakKeyDictionary[type, dict[str, bool]]] = WeakKeyDictionary()
"""By class: its fields, and whether each admits values of any type."""


def is_changed(value: Any, again: Any, hint: Any = Any) -> bool:
    """Whether a part of `value` is something else in `again`, which was read from its data as the type `hint`.

    A part has changed if a text, bytes, a mapping or a model has become a collection, of its characters, keys or
    fields; or if a value that is stored as a text or a number, such as a time or an enum member, was read as that text
    or number, by a field of type `str` or `datetime | str`; or if a datetime has become a date. A model has changed if
    it comes back as another class or with values lost: a union of two models with the same fields does not tell which
    one was stored, and a secret is written as stars. Plain data may come back for any value in a field that admits any
    type, such as `Any`; and an object of a subclass that adds nothing may come back as one of the base class.
    """
    return _is_other(value, again) or (not _admits_anything(hint) and _is_plain_now(value, again))


def is_same_data(data: Any, other: Any) -> bool:
    """Whether two storable values are the same: equal (1 and 1.0 are encoded differently), or encoded alike (NaN)."""
    return bool(data == other) or _encode(data) == _encode(other)


def is_misread(data: Any, value: Any) -> bool:
    """Whether a text, bytes or a mapping in the stored `data` was taken apart into a collection in `value`.

    `value` was read from `data`. Models are exempt: they define what they are read from, and a validator may split a
    text.
    """
    cls = type(value)
    if is_pydantic_model(cls) or is_struct(cls):
        return False
    if isinstance(data, Mapping) and isinstance(value, Mapping):
        return any(map(is_misread, data.values(), value.values()))
    if isinstance(data, Mapping) and has_fields(cls):
        return any(is_misread(part, getattr(value, name, None)) for name, part in data.items())
    if isinstance(data, list) and isinstance(value, list | tuple | deque):
        return any(map(is_misread, data, value))
    if isinstance(data, list) and isinstance(value, set | frozenset):
        texts = [part for part in data if isinstance(part, str | bytes) and part not in value]
        return bool(texts) and any(_is_taken_apart(texts[0], part) for part in value)
    return _is_taken_apart(data, value)


def _is_taken_apart(value: Any, again: Any) -> bool:
    if not isinstance(again, list | tuple | set | frozenset | deque):
        return False
    # Iterating over a model yields its fields.
    return isinstance(value, str | bytes | bytearray | memoryview | Mapping) or is_pydantic_model(type(value))


def _is_other(value: Any, again: Any) -> bool:
    if type(again) in PLAIN:
        return False
    if type(again) is date:
        return isinstance(value, datetime)
    if isinstance(value, Mapping) and isinstance(again, Mapping):
        return any(_is_other(part, again[key]) for key, part in value.items() if key in again)
    if isinstance(value, list | tuple) and isinstance(again, list | tuple):
        return any(map(_is_other, value, again))
    cls = type(again)
    if is_pydantic_model(cls) or is_struct(cls):
        return not isinstance(value, cls) or any(
            _is_lost(getattr(value, name, None), getattr(again, name, None)) for name in _stored_fields(cls)
        )
    if has_fields(cls) and isinstance(value, cls):
        return any(
            _is_field_changed(getattr(value, name, None), getattr(again, name, None), admits_anything)
            for name, admits_anything in (_fields.get(cls) or _fields_of(cls)).items()
        )
    return _is_taken_apart(value, again)


def _fields_of(cls: type) -> dict[str, bool]:
    found = _fields[cls] = {name: _admits_anything(hint) for name, hint in field_types(cls).items()}
    return found


def _is_field_changed(value: Any, again: Any, admits_anything: bool) -> bool:
    return _is_other(value, again) or (not admits_anything and _is_plain_now(value, again))


def _admits_anything(hint: Any) -> bool:
    """Whether a part of the type is unknown, as in `Any`, a bare `dict` or a type variable."""
    if hint in (Any, object) or isinstance(hint, typing.TypeVar):
        return True
    named = named_tuple_types(hint)
    if named:
        return any(map(_admits_anything, named.values()))
    if isinstance(hint, type):
        return issubclass(hint, Collection) and not issubclass(hint, str | bytes)
    return any(map(_admits_anything, typing.get_args(hint)))


def _is_plain_now(value: Any, again: Any) -> bool:
    if isinstance(value, Mapping) and isinstance(again, Mapping):
        shared = value.keys() & again.keys()
        return any(_is_new(key, value) for key in again) or any(_is_plain_now(value[key], again[key]) for key in shared)
    if isinstance(value, list | tuple) and isinstance(again, list | tuple):
        return any(map(_is_plain_now, value, again))
    if isinstance(value, Collection) and isinstance(again, list | tuple | set | frozenset | deque):
        return any(_is_new(part, value) for part in again)
    return type(again) in PLAIN and value != again and not isinstance(value, type(again))


def _is_new(part: Any, value: Collection[Any]) -> bool:
    # A collection contains a NaN only if it holds that very object.
    return type(part) in PLAIN and part == part and part not in value


def _stored_fields(cls: Any) -> list[str]:
    """The fields of a model or struct, without those that the model excludes from its data."""
    excluded = {name for name, field in cls.model_fields.items() if field.exclude} if is_pydantic_model(cls) else ()
    return [name for name in model_field_types(cls) if name not in excluded]


def _is_lost(value: Any, again: Any) -> bool:
    """Whether a value that a model holds comes back as another value."""
    if value == again:
        return False
    if type(value) is type(again) and _is_leaf(value):
        # A NaN is unequal to itself.
        return bool(value == value) and _compares_values(type(value))
    return _is_other(value, again)


def _compares_values(cls: Any) -> bool:
    return cls.__eq__ is not object.__eq__


def _is_leaf(value: Any) -> bool:
    cls = type(value)
    is_container = isinstance(value, Mapping | list | tuple | set | frozenset)
    return not (is_container or is_pydantic_model(cls) or is_struct(cls) or has_fields(cls))
