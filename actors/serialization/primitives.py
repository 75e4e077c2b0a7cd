"""Numbers, booleans, texts and bytes are read strictly: cattrs alone reads 3.7 as 3, and None as "None".

If a field's type had changed, cattrs would read stored data as something else, without an error.
"""

from typing import Any, Final

import cattrs
import msgspec

PLAIN: Final = frozenset({bool, int, float, str, bytes, type(None)})
"""The classes whose objects are stored as they are."""
_ACCEPTED: Final[dict[type, tuple[type, ...]]] = {
    bool: (bool, int),
    int: (int, float),
    float: (float, int),
    str: (str,),
    bytes: (bytes, bytearray, memoryview),
}


class NotOfType(TypeError):
    """A stored value is not of the type that it is to be read as."""

    def __init__(self, value: Any, cls: Any) -> None:
        if isinstance(value, msgspec.msgpack.Ext):
            super().__init__(
                f"what is sealed is no {cls.__name__}: mark its field as personal, with Annotated[..., Personal(...)]"
            )
        else:
            super().__init__(f"{value!r:.100} is no {cls.__name__}")


def register_primitives(converter: cattrs.Converter) -> None:
    """Have a converter refuse stored values of another type, except equal numbers: 3 for 3.0."""
    for primitive in _ACCEPTED:
        converter.register_structure_hook(primitive, structure_primitive)
    for view in (bytearray, memoryview):
        # They are written as bytes.
        converter.register_unstructure_hook(view, bytes)


def structure_primitive(value: Any, cls: Any) -> Any:
    """The value, if it is of the class or is an equal number. Raises `NotOfType`."""
    # Called for most of the values that are read.
    return value if value.__class__ is cls else _made(value, cls)


def _made(value: Any, cls: Any) -> Any:
    primitive = next(each for each in _ACCEPTED if issubclass(cls, each))
    if isinstance(value, _ACCEPTED[primitive]):
        # For a `str` enum member, `str` would give the member's name.
        made = str.__str__(value) if cls is str else cls(value)
        # A subclass may convert a value as it likes.
        if cls is not primitive or made == value:
            return made
    raise NotOfType(value, cls)
