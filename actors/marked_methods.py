"""Methods that a decorator has marked, in a class and its bases."""

from typing import Any


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
