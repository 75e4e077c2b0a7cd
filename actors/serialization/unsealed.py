"""Objects that pydantic, msgspec or plain encoding turns into data must hold nothing personal: nothing seals it."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Literal, get_origin
from weakref import WeakKeyDictionary

from ..errors import EncodingError
from .annotations import alternatives, field_types, has_fields
from .model_types import is_pydantic_model, is_struct, model_field_types
from .personal import marked_name
from .primitives import PLAIN

_fields: Final[WeakKeyDictionary[type, tuple[str, ...]]] = WeakKeyDictionary()
"""By class: the fields whose values may hold an object."""


def check_nothing_personal(value: Any) -> None:
    """Raise `EncodingError` if an object, or an object within it, is of a class with fields marked as personal.

    The types of fields are checked beforehand, but a field may be `Any`, or hold an object of a subclass.
    """
    cls = type(value)
    if cls in PLAIN:
        return
    if isinstance(value, Mapping):
        for key, part in value.items():
            check_nothing_personal(key)
            check_nothing_personal(part)
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            check_nothing_personal(part)
    elif is_pydantic_model(cls) or is_struct(cls) or has_fields(cls):
        names = _fields.get(cls)
        for name in _fields_of(cls) if names is None else names:
            check_nothing_personal(getattr(value, name, None))


def _fields_of(cls: type) -> tuple[str, ...]:
    types = model_field_types(cls) or field_types(cls, with_marks=True)
    marked = marked_name(types)
    if marked is not None:
        raise EncodingError(
            f"{cls.__name__}.{marked} is marked as personal, and would not be sealed where it is: within what a model "
            "of pydantic or a struct of msgspec holds, or in what a saga is given from outside."
        )
    extra = ("__pydantic_extra__",) if is_pydantic_model(cls) else ()
    found = _fields[cls] = (*(name for name, hint in types.items() if not _is_plain(hint)), *extra)
    return found


def _is_plain(hint: Any) -> bool:
    if isinstance(hint, type):
        return hint in PLAIN or issubclass(hint, Enum)
    return get_origin(hint) is Literal or (len(parts := alternatives(hint)) > 1 and all(map(_is_plain, parts)))
