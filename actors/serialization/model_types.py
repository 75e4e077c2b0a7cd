"""Recognises pydantic models and msgspec structs, and tells the types of their fields.

pydantic is not imported here: its classes are recognised by their attributes.
"""

from typing import Annotated, Any, get_origin

import msgspec

from ..errors import SchemaError
from .annotations import without_alias


def is_pydantic_model(cls: Any) -> bool:
    """Whether `cls` is a subclass of pydantic 2's `BaseModel`, but not `BaseModel` itself."""
    return isinstance(cls, type) and hasattr(cls, "__pydantic_generic_metadata__") and hasattr(cls, "model_fields")


def is_struct(cls: Any) -> bool:
    """Whether `cls` is a subclass of `msgspec.Struct`, or a generic subclass with its parameters."""
    origin = get_origin(cls) or cls
    return isinstance(origin, type) and issubclass(origin, msgspec.Struct) and origin is not msgspec.Struct


def model_field_types(cls: Any) -> dict[str, Any]:
    """The types of the fields of a model or struct, by name, with their annotations; empty for other classes.

    Raises `SchemaError` if a struct's annotation names something that is not there.
    """
    if is_struct(cls):
        try:
            return {field.name: without_alias(field.type) for field in msgspec.structs.fields(cls)}
        except NameError as error:
            raise SchemaError(
                f"{cls.__name__} cannot be turned into data: {error}, which the type of one of its fields names. "
                "Import it where the class is, not for type checkers alone."
            ) from error
    if not is_pydantic_model(cls):
        return {}
    if not cls.__pydantic_complete__:
        # The annotations name classes that were made after the model.
        cls.model_rebuild(raise_errors=False)
    types = {}
    for name, field in cls.model_fields.items():
        hint = without_alias(field.annotation)
        types[name] = Annotated[(hint, *field.metadata)] if field.metadata else hint
    return types
