"""What type annotations say, however they are written."""

import dataclasses
import types
import typing
from typing import Any

import attrs


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may be of: those of a union, else the annotation itself."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def field_types(cls: Any, *, with_marks: bool = False) -> dict[str, Any]:
    """The types of the fields of an attrs class or a dataclass, by name; none for every other type.

    With marks `Annotated[str, Personal("customer")]` stays what it is, without it is `str`. Where a name is there for
    type checkers alone, the annotations are as they are written.
    """
    if not isinstance(cls, type):
        return {}
    if attrs.has(cls):
        declared = {field.name: field.type for field in attrs.fields(cls)}
    elif dataclasses.is_dataclass(cls):
        declared = {field.name: field.type for field in dataclasses.fields(cls)}
    else:
        return {}
    try:
        hints = typing.get_type_hints(cls, include_extras=with_marks)
    except (NameError, AttributeError, TypeError):
        hints = {}
    return {name: hints.get(name, field_type) for name, field_type in declared.items()}
