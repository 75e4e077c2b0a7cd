"""Methods that a decorator has marked, in a class and its bases."""

import sys
from collections.abc import Mapping
from functools import cached_property, partialmethod, singledispatchmethod
from typing import Any, Final

from .errors import DefinitionError

ROLE_MARK: Final = "__eventsrc_role__"
ON_MARK: Final = "__eventsrc_on__"
STEP_MARK: Final = "__eventsrc_step__"
STARTS_ON_MARK: Final = "__eventsrc_starts_on__"
DECORATORS: Final[Mapping[str, tuple[str, str]]] = {
    ROLE_MARK: ("@handles or @applies", "methods of an Aggregate"),
    ON_MARK: ("@on", "methods of a Projection"),
    STEP_MARK: ("@step", "methods of a Saga"),
    STARTS_ON_MARK: ("@starts_on", "class methods of a Saga"),
}
"""By mark, the decorator that leaves it, and what that is for."""


def names_in(cls: type) -> list[str]:
    """The names that the class and its bases define, those of the bases first."""
    return list(dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base)))


def mark_of(cls: type, name: str, mark: str) -> Any:
    """The mark that a decorator left on a method, or else on the method that it overrides; None if neither has one."""
    for base in cls.__mro__:
        method = vars(base).get(name)
        found = getattr(method.__func__ if isinstance(method, classmethod) else method, mark, None)
        if found is not None:
            return found
    return None


def put_mark(method: Any, mark: str, value: object) -> None:
    """Leave a mark on a method, for the decorator that is called in the body of a class.

    Raises `DefinitionError` where the body has a method of the same name with that mark: the later one would silently
    take its place.
    """
    frame = sys._getframe(2)
    # A decorator that may have arguments is one call deeper when it has none.
    frame = frame if "__qualname__" in frame.f_locals or frame.f_back is None else frame.f_back
    body, name = frame.f_locals, getattr(method, "__name__", "")
    if "__qualname__" in body and getattr(_inner(body.get(name)), mark, None) is not None:
        decorator = DECORATORS[mark][0]
        raise DefinitionError(
            f"{body['__qualname__']}.{name} is defined twice with {decorator}, so the first one would be lost. Give "
            "each of them a name of its own."
        )
    setattr(method, mark, value)


def check_marks(cls: type, *own: str) -> None:
    """Raise `DefinitionError` for a method with a mark that would be without effect, where `own` are those of the kind.

    Such are the marks of another kind of class, and those on what is no plain method.
    """
    for name, attribute in vars(cls).items():
        method = _inner(attribute)
        for mark, (decorator, purpose) in DECORATORS.items():
            if getattr(attribute, mark, None) is None and getattr(method, mark, None) is None:
                continue
            if mark not in own:
                raise DefinitionError(f"{cls.__name__}.{name} has {decorator}, which is for {purpose}.")
            if method is not attribute and mark != STARTS_ON_MARK:
                raise DefinitionError(
                    f"{cls.__name__}.{name} has {decorator} and is a {type(attribute).__name__}, which is never "
                    "called so. Make it a plain method, with self as its first parameter."
                )


def _inner(attribute: Any) -> Any:
    """The function within a `classmethod`, a property or the like; anything else is returned unchanged."""
    match attribute:
        case classmethod() | staticmethod():
            return attribute.__func__
        case property():
            return attribute.fget
        case cached_property() | partialmethod() | singledispatchmethod():
            return attribute.func
        case _:
            return attribute
