"""Rules for fields: those of aggregates and sagas are the state, from which the objects are made again."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar

import attrs

from .errors import DefinitionError
from .serialization.annotations import own_annotations

C = TypeVar("C")


def attrs_class(cls: type[C], define: Callable[[type[C]], type[C]], by: str) -> type[C]:
    """What `define` makes of a class. Raises `DefinitionError` where attrs refuses it; `by` names who asked for it."""
    try:
        return define(cls)
    except (TypeError, ValueError) as error:
        # attrs shows all that it knows of a field; its name is enough.
        reason = re.sub(r"\s+Attribute in question: Attribute\(name='(\w+)'.*", r" It is \1.", str(error))
        raise DefinitionError(f"{by} cannot make {cls.__name__} an attrs class: {reason}") from error


def check_no_init(cls: type, advice: str) -> None:
    """Raise `DefinitionError` for a class with an __init__ of its own."""
    if "__init__" in vars(cls):
        raise DefinitionError(
            f"{cls.__name__} has an __init__ of its own, but is made from its fields, also when its state is read. "
            f"Remove it{advice}."
        )


def check_no_argument(cls: type, base: str, arguments: Mapping[str, Any]) -> None:
    """Raise `DefinitionError` for an attribute, not a field, with the name and kind of an argument of the class."""
    for name, kinds in arguments.items():
        value = vars(cls).get(name)
        if name not in own_annotations(cls) and isinstance(value, kinds):
            raise DefinitionError(
                f"{cls.__name__}.{name} is without effect there: it is an argument of the class. Write class "
                f"{cls.__name__}({base}, {name}={value!r}); a field of that name has an annotation."
            )


def check_no_cache(cls: type) -> None:
    """Raise `DefinitionError` for a class with a cached property, which would not follow the state."""
    for name in dir(cls):
        if isinstance(inspect.getattr_static(cls, name, None), cached_property):
            raise DefinitionError(
                f"{cls.__name__}.{name} is a cached_property, so it would keep its first value while the state goes "
                "on. Make it a property, or a field that is set where the state changes."
            )


def check_field(cls: type, field: "attrs.Attribute[object]") -> None:
    """Raise `DefinitionError` for a field that would be lost when the state is read, or shared by several objects."""
    if not field.init:
        raise DefinitionError(
            f"{cls.__name__}.{field.name} has init=False, so it would be lost when the state is read. Leave that out."
        )
    check_default(cls, field)


def check_default(cls: type, field: "attrs.Attribute[object]") -> None:
    """Raise `DefinitionError` for a default that objects would share although it can be changed, or that is no value.

    As in dataclasses, what has no hash can be changed.
    """
    default, where = field.default, f"{cls.__name__}.{field.name}"
    if isinstance(default, dataclasses.Field):
        raise DefinitionError(
            f"{where} is declared with dataclasses.field, and {cls.__name__} is no dataclass but an attrs class. Write "
            f"{field.name}: ... = attrs.field(factory=...), or default=..."
        )
    if inspect.isroutine(default):
        raise DefinitionError(f"{where} is both a field and a method. Rename one of them.")
    if type(default).__hash__ is None and not isinstance(default, MappingProxyType):
        made_by = type(default).__name__
        factory = made_by if isinstance(default, list | dict | set) and not default else f"lambda: {made_by}(...)"
        raise DefinitionError(
            f"The default of {where} would be shared by all its objects. Write {field.name}: ... = "
            f"attrs.field(factory={factory})"
        )
