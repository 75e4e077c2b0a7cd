"""Unions of classes with what is stored as it is: `Card | Account | None`, say."""

from collections.abc import Callable
from types import UnionType
from typing import Any, Union, get_args, get_origin

import cattrs

from .annotations import has_fields
from .primitives import PLAIN


def is_partly_plain(hint: Any) -> bool:
    """Whether it is a union of classes with what is stored as it is, `Card | Account | None` say."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    plain = [part for part in parts if part in PLAIN]
    return bool(plain) and len(parts) - len(plain) > 1 and all(map(has_fields, set(parts) - PLAIN))


def structure_partly_plain(union: Any, own: cattrs.Converter) -> Callable[[Any, Any], Any]:
    """Of cattrs' own function the same, which has the classes structured by the converter that it was made for first.

    That would be one that seals nothing.
    """
    parts = get_args(union)
    plain = {part for part in parts if part in PLAIN} | ({int} if float in parts else set())
    classes: Any = Union[tuple(part for part in parts if part not in PLAIN)]  # noqa: UP007 (made of a tuple)
    return lambda value, _: value if type(value) in plain else own.structure(value, classes)
