"""Enums as plain data: what is stored of a member is its value, made plain, and read it is that member again.

cattrs leaves a tuple or a date that is a value as it is, and looks for a member with the list or the text that it is
stored as; and it takes an enum of texts for a text, so that the member would be kept until it is read as that text.
"""

import enum
from abc import ABC
from collections.abc import Callable
from typing import Any, Final

import cattrs
import msgspec

from .primitives import PLAIN

_encode: Final = msgspec.msgpack.Encoder().encode


def register_enums(converter: cattrs.Converter) -> None:
    """Register the hooks of enums of texts, and of those whose values are not all plain."""
    # Where the enum is declared, one of its values may be given in the place of a member.
    converter.register_unstructure_hook(_TextEnum, lambda member: getattr(member, "_value_", member))
    converter.register_unstructure_hook_factory(_is_compound, _unstructure)
    converter.register_structure_hook_factory(_is_compound, _structure)


class _TextEnum(ABC):  # noqa: B024 (nobody inherits from it)
    """Stands for every enum of texts: the hook of cattrs for `str` would go before one that is for enums."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return issubclass(other, enum.Enum) and issubclass(other, str)


def _is_compound(cls: Any) -> bool:
    return (
        isinstance(cls, type)
        and issubclass(cls, enum.Enum)
        and not all(type(member.value) in PLAIN for member in cls.__members__.values())
    )


def _unstructure(_: Any, converter: cattrs.Converter) -> Callable[[Any], Any]:
    return lambda member: converter.unstructure(member.value)


def _structure(cls: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    members: dict[bytes, Any] = {}

    def structure(data: Any, _: Any) -> Any:
        # Not before there is one to read: what its values are may not be data at all.
        if not members:
            members.update((_encode(converter.unstructure(member.value)), member) for member in cls)
        try:
            return members[_encode(data)]
        except KeyError:
            raise ValueError(f"{data!r:.100} is no value of {cls.__name__}") from None

    return structure
