"""What type annotations mean, in any of their notations."""

import dataclasses
import sys
import types
import typing
from typing import Any

import attrs

if sys.version_info >= (3, 14):
    import annotationlib


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have: the members of a union, else the annotation itself."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def field_types(cls: Any, *, with_marks: bool = False) -> dict[str, Any]:
    """The types of the fields of an attrs class or a dataclass, by name; empty for every other type.

    With marks, `Annotated[str, Personal("customer")]` is kept; without, it becomes `str`. If an annotation cannot be
    resolved, because a name is imported for type checkers only, the annotations are returned as written.
    """
    if not isinstance(cls, type) or not has_fields(cls):
        return {}
    fields = attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cls)
    hints = annotations_of(cls, with_marks=with_marks)
    return {field.name: without_alias(hints.get(field.name, field.type)) for field in fields}


def has_fields(cls: Any) -> bool:
    """Whether `cls` is an attrs class or a dataclass."""
    return attrs.has(cls) or dataclasses.is_dataclass(cls)


def annotations_of(cls: type, *, with_marks: bool = False) -> dict[str, Any]:
    """The annotations of a class and its bases, by name; empty if a name in them is imported for type checkers only."""
    try:
        return typing.get_type_hints(cls, include_extras=with_marks)
    except (NameError, AttributeError, TypeError):
        return {}


def own_annotations(cls: type) -> dict[str, Any]:
    """The annotations of a class without its bases, as far as they are known while the class is being made."""
    if sys.version_info >= (3, 14):
        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    found: dict[str, Any] = vars(cls).get("__annotations__", {})
    return found


def without_alias(annotation: Any) -> Any:
    """Resolve a type alias: `type Name = Annotated[str, Personal("customer")]` becomes what it stands for."""
    while type(annotation).__name__ == "TypeAliasType":
        annotation = annotation.__value__
    return annotation
