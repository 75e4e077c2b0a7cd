"""What classes of pydantic and msgspec are, and what their fields are of.

pydantic is imported nowhere here: a class is known by what it has.
"""

from typing import Annotated, Any, get_origin

import msgspec

from .annotations import without_alias


def is_pydantic_model(cls: Any) -> bool:
    """Whether it is a class made with pydantic's `BaseModel`, of pydantic 2, and not that itself."""
    return isinstance(cls, type) and hasattr(cls, "__pydantic_generic_metadata__") and hasattr(cls, "model_fields")


def is_struct(cls: Any) -> bool:
    """Whether it is a class made with `msgspec.Struct`, or a generic one of these with its parameters."""
    origin = get_origin(cls) or cls
    return isinstance(origin, type) and issubclass(origin, msgspec.Struct) and origin is not msgspec.Struct


def model_field_types(cls: Any) -> dict[str, Any]:
    """The types of the fields of a model or a struct, by name, with what they are annotated with; else none."""
    if is_struct(cls):
        return {field.name: without_alias(field.type) for field in msgspec.structs.fields(cls)}
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
