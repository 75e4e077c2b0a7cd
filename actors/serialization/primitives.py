"""Numbers, truths, texts and bytes are read as what they are: cattrs alone takes 3.7 for 3, and None for "None".

A class whose field has changed its type would read what is stored as something else, and nobody would be told.
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
    """What is stored is not of the type that it is to be read as."""

    def __init__(self, value: Any, cls: Any) -> None:
        if isinstance(value, msgspec.msgpack.Ext):
            super().__init__(
                f"what is sealed is no {cls.__name__}: mark its field as personal, with Annotated[..., Personal(...)]"
            )
        else:
            super().__init__(f"{value!r:.100} is no {cls.__name__}")


def register_primitives(converter: cattrs.Converter) -> None:
    """Have a converter refuse what is stored of another type, but for a number that is equal: 3 for 3.0."""
    for primitive in _ACCEPTED:
        converter.register_structure_hook(primitive, structure_primitive)
    for view in (bytearray, memoryview):
        # They are written as bytes are.
        converter.register_unstructure_hook(view, bytes)


def structure_primitive(value: Any, cls: Any) -> Any:
    """The value, where it is of the class, or a number that is equal to it. Raises `NotOfType`."""
    # This is called for much of all that is read.
    return value if value.__class__ is cls else _made(value, cls)


def _made(value: Any, cls: Any) -> Any:
    primitive = next(each for each in _ACCEPTED if issubclass(cls, each))
    if isinstance(value, _ACCEPTED[primitive]):
        # Of a text that is an enum `str` makes its name.
        made = str.__str__(value) if cls is str else cls(value)
        # A subclass may make of a value what it likes.
        if cls is not primitive or made == value:
            return made
    raise NotOfType(value, cls)
