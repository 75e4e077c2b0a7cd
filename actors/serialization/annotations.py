"""What type annotations say, however they are written."""

import types
import typing
from typing import Any


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may be of: those of a union, else the annotation itself."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)
