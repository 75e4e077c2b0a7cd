"""Whether a value comes back as it was, although the same data are made of both."""

import typing
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

from .annotations import field_types, has_fields
from .model_types import is_pydantic_model, is_struct, model_field_types


def is_changed(value: Any, again: Any) -> bool:
    """Whether something in `value` is something else in `again`, which is read from its data.

    That is a text, bytes or a mapping of which a collection was made, of its characters or keys; and what is stored as
    a text, a time say, and read as one, by a field that is a `str`, or a `datetime | str`. And it is a model that is
    one of another class, or holds less: a union of two of the same fields tells nothing of which it was, and a secret
    is written as stars. What was plain data all the time, as in an `Any`, and an object of a subclass that adds
    nothing, are let pass, as those of attrs classes are.
    """
    if isinstance(value, Mapping) and isinstance(again, Mapping):
        return any(is_changed(part, again[key]) for key, part in value.items() if key in again)
    if isinstance(again, list | tuple | set | frozenset | deque):
        if isinstance(value, list | tuple) and isinstance(again, list | tuple):
            return any(map(is_changed, value, again))
        return isinstance(value, str | bytes | bytearray | memoryview | Mapping)
    cls = type(again)
    if is_pydantic_model(cls) or is_struct(cls):
        return not isinstance(value, cls) or any(
            _is_lost(getattr(value, name, None), getattr(again, name, None)) for name in _stored_fields(cls)
        )
    if has_fields(cls) and isinstance(value, cls):
        return any(
            _is_field_changed(hint, getattr(value, name, None), getattr(again, name, None))
            for name, hint in field_types(cls).items()
        )
    return False


def _is_field_changed(hint: Any, value: Any, again: Any) -> bool:
    return is_changed(value, again) or (not _admits_anything(hint) and _is_text_now(value, again))


def _admits_anything(hint: Any) -> bool:
    """Whether something in it is of no type that is known, as in an `Any`, a bare `dict` or a type variable."""
    if hint in (Any, object) or isinstance(hint, typing.TypeVar):
        return True
    if isinstance(hint, type):
        return issubclass(hint, Collection) and not issubclass(hint, str)
    return any(map(_admits_anything, typing.get_args(hint)))


def _is_text_now(value: Any, again: Any) -> bool:
    if isinstance(value, Mapping) and isinstance(again, Mapping):
        return any(_is_text_now(part, again[key]) for key, part in value.items() if key in again)
    if isinstance(value, list | tuple) and isinstance(again, list | tuple):
        return any(map(_is_text_now, value, again))
    return isinstance(again, str) and not isinstance(value, str)


def _stored_fields(cls: Any) -> list[str]:
    """Without those that a model is told to leave out."""
    excluded = {name for name, field in cls.model_fields.items() if field.exclude} if is_pydantic_model(cls) else ()
    return [name for name in model_field_types(cls) if name not in excluded]


def _is_lost(value: Any, again: Any) -> bool:
    """Of a value that a model holds."""
    if value == again:
        return False
    if type(value) is type(again) and _is_leaf(value):
        # A NaN is unequal to itself.
        return bool(value == value) and _compares_values(type(value))
    return is_changed(value, again)


def _compares_values(cls: Any) -> bool:
    return cls.__eq__ is not object.__eq__


def _is_leaf(value: Any) -> bool:
    cls = type(value)
    is_container = isinstance(value, Mapping | list | tuple | set | frozenset)
    return not (is_container or is_pydantic_model(cls) or is_struct(cls) or has_fields(cls))
