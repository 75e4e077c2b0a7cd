"""The shape of a class as one short text, by which stored data of another shape are noticed."""

import enum
import hashlib
import typing
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from .annotations import field_types, without_alias
from .model_types import model_field_types
from .named_tuples import named_tuple_types


def schema_of(cls: type, versions: Mapping[str, int] | None = None) -> str:
    """A text that identifies the shape of an attrs class: its fields, and the fields of the classes within them.

    `versions` are the schema versions of the class's events, by name: a new version may give the same fields another
    meaning. An event's version 1 does not change the text, so that existing shapes keep theirs.
    """
    raised = (f"{name}@{version}" for name, version in sorted((versions or {}).items()) if version > 1)
    return hashlib.sha256(";".join((*_lines(cls, set()), *raised)).encode()).hexdigest()[:16]


def _lines(cls: Any, seen: set[Any]) -> Iterator[str]:
    """The description of a type and of the types within it, each once."""
    cls = without_alias(cls)
    if cls in seen:
        return
    seen.add(cls)
    number = len(seen)
    for part in typing.get_args(cls):
        if isinstance(part, type) or typing.get_args(part) or without_alias(part) is not part:
            yield from _lines(part, seen)
    own_class = typing.get_origin(cls) or cls
    if not isinstance(own_class, type):
        return
    if issubclass(own_class, enum.Enum):
        yield f"{number}={[member.value for member in own_class]}"
        return
    types = field_types(own_class) or named_tuple_types(cls) or _without_annotations(model_field_types(cls))
    for name, field_type in types.items():
        yield f"{number}.{name}:{field_type}"
    for field_type in types.values():
        yield from _lines(field_type, seen)


def _without_annotations(types: Mapping[str, Any]) -> dict[str, Any]:
    """Types without their annotations: the text of a validator, for example, differs in every process."""
    try:
        return typing.get_type_hints(SimpleNamespace(__annotations__=types))
    except (NameError, AttributeError, TypeError):
        return dict(types)
