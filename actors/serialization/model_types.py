"""What classes of pydantic and msgspec are, and what their fields are of.

pydantic is imported nowhere here: a class is known by what it has.
"""

from typing import Annotated, Any, get_origin

import msgspec

from ..errors import SchemaError
from .annotations import without_alias


def is_pydantic_model(cls: Any) -> bool:
    """Whether it is a class made with pydantic's `BaseModel`, of pydantic 2, and not that itself."""
    return isinstance(cls, type) and hasattr(cls, "__pydantic_generic_metadata__") and hasattr(cls, "model_fields")


def is_struct(cls: Any) -> bool:
    """Whether it is a class made with `msgspec.Struct`, or a generic one of these with its parameters."""
    origin = get_origin(cls) or cls
    return isinstance(origin, type) and issubclass(origin, msgspec.Struct) and origin is not msgspec.Struct


def model_field_types(cls: Any) -> dict[str, Any]:
    """The types of the fields of a model or a struct, by name, with what they are annotated with; else none.

    Raises `SchemaError` where a struct names what is not there.
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
        # Its annotations name classes that were made after it.
        cls.model_rebuild(raise_errors=False)
    types = {}
    for name, field in cls.model_fields.items():
        hint = without_alias(field.annotation)
        types[name] = Annotated[(hint, *field.metadata)] if field.metadata else hint
    return types
