"""Unions of classes with plain types: `Card | Account | None`, for example."""

from collections.abc import Callable
from types import UnionType
from typing import Any, Union, get_args, get_origin

import cattrs

from .annotations import has_fields
from .primitives import PLAIN


def is_partly_plain(hint: Any) -> bool:
    """Whether `hint` is a union of at least two classes with plain types, such as `Card | Account | None`."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    plain = [part for part in parts if part in PLAIN]
    return bool(plain) and len(parts) - len(plain) > 1 and all(map(has_fields, set(parts) - PLAIN))


def structure_partly_plain(union: Any, own: cattrs.Converter) -> Callable[[Any, Any], Any]:
    """Like cattrs' union passthrough, but structures classes with `own`, the converter in use.

    cattrs' version keeps the converter it was first registered on, which does not seal personal data.
    """
    parts = get_args(union)
    plain = {part for part in parts if part in PLAIN} | ({int} if float in parts else set())
    classes: Any = Union[tuple(part for part in parts if part not in PLAIN)]  # noqa: UP007 (made of a tuple)
    return lambda value, _: value if type(value) in plain else own.structure(value, classes)
