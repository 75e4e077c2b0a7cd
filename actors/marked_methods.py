"""Methods that a decorator has marked, in a class and in those that it is made from."""

from typing import Any


def names_in(cls: type) -> list[str]:
    """What the class and its bases define, those of the bases first."""
    return list(dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base)))


def mark_of(cls: type, name: str, mark: str) -> Any:
    """What a decorator left on a method, or else on the one that it overrides; None where there is nothing."""
    for base in cls.__mro__:
        method = vars(base).get(name)
        found = getattr(method.__func__ if isinstance(method, classmethod) else method, mark, None)
        if found is not None:
            return found
    return None
