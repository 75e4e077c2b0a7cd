"""Rules for the fields of aggregates and sagas: the fields are the state, from which the objects are made again."""

import attrs

from .errors import DefinitionError


def check_no_init(cls: type, advice: str) -> None:
    """Raise `DefinitionError` for a class with an __init__ of its own."""
    if "__init__" in vars(cls):
        raise DefinitionError(
            f"{cls.__name__} has an __init__ of its own, but is made from its fields, also when its state is read. "
            f"Remove it{advice}."
        )


def check_field(cls: type, field: "attrs.Attribute[object]") -> None:
    """Raise `DefinitionError` for a field that would be lost when the state is read, or shared by several objects."""
    if not field.init:
        raise DefinitionError(
            f"{cls.__name__}.{field.name} has init=False, so it would be lost when the state is read. Leave that out."
        )
    if isinstance(field.default, list | dict | set):
        raise DefinitionError(
            f"The default of {cls.__name__}.{field.name} would be shared by all its objects. Write {field.name}: "
            f"... = attrs.field(factory={type(field.default).__name__})"
        )
