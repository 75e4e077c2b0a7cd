"""Enums as plain data: an enum member is stored as its value and read back as the same member.

cattrs alone does not convert the value of a member: it leaves a tuple or a date as it is, and then looks for a member
whose value is the stored list or text. It also treats a `str` enum as a text, so that a member would stay in the data
and be read back as a plain text.
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
    """Register the hooks for `str` enums, and for enums whose values are not all plain data."""
    # A field declared as the enum may be given one of its values instead of a member.
    converter.register_unstructure_hook(_TextEnum, lambda member: getattr(member, "_value_", member))
    converter.register_unstructure_hook_factory(_is_compound, _unstructure)
    converter.register_structure_hook_factory(_is_compound, _structure)


class _TextEnum(ABC):  # noqa: B024 (nobody inherits from it)
    """Stands for every `str` enum: cattrs' hook for `str` would take precedence over a hook for enums."""

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
        # Only when a member is read: the enum's values may not be storable at all.
        if not members:
            members.update((_encode(converter.unstructure(member.value)), member) for member in cls)
        try:
            return members[_encode(data)]
        except KeyError:
            raise ValueError(f"{data!r:.100} is no value of {cls.__name__}") from None

    return structure
