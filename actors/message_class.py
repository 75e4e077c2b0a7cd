"""Makes the class of a command or an event: a frozen attrs class of its annotated fields."""

import enum
from typing import TypeVar

import attrs

from .errors import DefinitionError
from .serialization.model_types import is_pydantic_model, is_struct
from .state_fields import attrs_class, check_default

C = TypeVar("C")


def frozen_class(cls: type[C], decorator: str) -> type[C]:
    """The frozen attrs class that `decorator` makes of a class. Raises `DefinitionError` where it cannot be made."""
    if not isinstance(cls, type):
        raise DefinitionError(f"{decorator} stands over a class, and was given {cls!r:.100}.")
    _check_base(cls, decorator)
    own_init = vars(cls).get("__init__")
    called = getattr(getattr(own_init, "__code__", None), "co_names", ())
    if own_init is not None and not {"__attrs_init__", "__setattr__"} & set(called):
        raise DefinitionError(
            f"{cls.__name__} has an __init__ of its own, which cannot set the fields: {decorator} makes the class "
            "frozen, and writes one. Leave yours out; to check values write __attrs_post_init__."
        )
    frozen = attrs_class(cls, attrs.frozen, decorator)
    for field in attrs.fields(frozen):  # type: ignore[arg-type]
        check_default(frozen, field)
    return frozen


def _check_base(cls: type, decorator: str) -> None:
    if is_pydantic_model(cls) or is_struct(cls) or issubclass(cls, enum.Enum | tuple | dict):
        raise DefinitionError(
            f"{decorator} makes {cls.__name__} an attrs class, so it cannot be a model of pydantic, a msgspec.Struct, "
            "an enum, a named tuple or a TypedDict as well: write it without that base. The types of its fields may be "
            "such."
        )
    if "__attrs_attrs__" in vars(cls) or "__dataclass_fields__" in vars(cls):
        raise DefinitionError(
            f"{decorator} makes {cls.__name__} an attrs class itself: leave out the other decorator (@dataclass, "
            "@attrs.define, @command, @event)."
        )
