"""Named tuples as fields: stored as a list of their values, each by its annotated type.

cattrs takes annotations as they are written, which are texts in a module with `from __future__ import annotations`. It
supports neither generic named tuples nor those made by a call.
"""

import typing
from collections.abc import Callable
from typing import Any

import cattrs

from .annotations import annotations_of


def register_named_tuples(converter: cattrs.Converter) -> None:
    """Register the hooks of named tuples."""
    converter.register_unstructure_hook_factory(_is_named_tuple, _unstructure)
    converter.register_structure_hook_factory(_is_named_tuple, _structure)


def named_tuple_types(hint: Any) -> dict[str, Any]:
    """The types of a named tuple's fields, by name, `Any` for those without annotation; empty for every other type."""
    if not _is_named_tuple(hint):
        return {}
    cls = typing.get_origin(hint) or hint
    hints = annotations_of(cls, with_marks=True) or cls.__annotations__
    given = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(hint), strict=False))
    return {name: _with(hints.get(name, Any), given) for name in cls._fields}


def _is_named_tuple(hint: Any) -> bool:
    cls = typing.get_origin(hint) or hint
    return isinstance(cls, type) and issubclass(cls, tuple) and hasattr(cls, "_fields")


def _with(hint: Any, given: dict[Any, Any]) -> Any:
    """A type with its type variables replaced by the given types."""
    parameters = getattr(hint, "__parameters__", ())
    if parameters and not isinstance(hint, type):
        return hint[tuple(given.get(parameter, Any) for parameter in parameters)]
    return given.get(hint, Any) if isinstance(hint, typing.TypeVar) else hint


def _unstructure(hint: Any, converter: cattrs.Converter) -> Callable[[Any], Any]:
    hook: Callable[[Any], Any] = converter.get_unstructure_hook(
        tuple.__class_getitem__(tuple(named_tuple_types(hint).values()))
    )
    return hook


def _structure(hint: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    """Read a list of values; missing fields at the end, which were added later, take their defaults."""
    cls = typing.get_origin(hint) or hint
    hooks = [(field_type, converter.get_structure_hook(field_type)) for field_type in named_tuple_types(hint).values()]

    def structure(values: Any, _: Any) -> Any:
        if len(values) > len(hooks):
            raise ValueError(f"{len(values)} values for the {len(hooks)} fields of {cls.__name__}")
        return cls(*(hook(value, field_type) for value, (field_type, hook) in zip(values, hooks, strict=False)))

    return structure
