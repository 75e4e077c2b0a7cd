"""The differences between two states: the innermost values, by their paths."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from typing import Any, Final, NamedTuple

import attrs


class Absent:
    """Stands for the missing side of a value that was added or removed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = Absent()


class Change(NamedTuple):
    """One value that differs. The path locates it: `address.city`, `lines['a']`, `seats[2]`, `tags{'x'}`.

    `before` and `after` are plain data; `ABSENT` is the missing side of a value that was added or removed.
    """

    path: str
    before: Any
    after: Any


def changed_values(before: Any, after: Any, plain: Callable[[Any], Any], path: str = "") -> Iterator[Change]:
    """The innermost values that differ between two states in memory.

    Objects are compared by their fields, mappings by their keys, sets by their elements, sequences by index between
    their common beginning and their common end.
    """
    if _is_same(before, after):
        return
    names = _fields(before) if type(before) is type(after) else ()
    if names:
        for name in names:
            inner = f"{path}.{name}" if path else name
            yield from changed_values(getattr(before, name), getattr(after, name), plain, inner)
    elif isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            old, new = before.get(key, ABSENT), after.get(key, ABSENT)
            yield from changed_values(old, new, plain, f"{path}[{plain(key)!r}]")
    elif isinstance(before, AbstractSet) and isinstance(after, AbstractSet):
        yield from (Change(f"{path}{{{plain(each)!r}}}", plain(each), ABSENT) for each in _sorted(before - after))
        yield from (Change(f"{path}{{{plain(each)!r}}}", ABSENT, plain(each)) for each in _sorted(after - before))
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple):
        yield from _changed_places(before, after, plain, path)
    else:
        yield Change(path, *(value if value is ABSENT else plain(value) for value in (before, after)))


def _changed_places(
    before: Sequence[Any], after: Sequence[Any], plain: Callable[[Any], Any], path: str
) -> Iterator[Change]:
    shorter = min(len(before), len(after))
    first = next((place for place in range(shorter) if not _is_same(before[place], after[place])), shorter)
    alike = next(
        (place for place in range(shorter - first) if not _is_same(before[-1 - place], after[-1 - place])),
        shorter - first,
    )
    for place in range(first, max(len(before), len(after)) - alike):
        old, new = (each[place] if place < len(each) - alike else ABSENT for each in (before, after))
        yield from changed_values(old, new, plain, f"{path}[{place}]")


def _fields(value: Any) -> Iterable[str]:
    if attrs.has(type(value)):
        return [field.name for field in attrs.fields(type(value))]
    return [field.name for field in dataclass_fields(value)] if is_dataclass(value) else ()


def _sorted(values: Iterable[Any]) -> list[Any]:
    return sorted(values, key=repr)


def _is_same(before: Any, after: Any) -> bool:
    # NaN differs from itself, but a field that stays NaN has not changed.
    is_nan = isinstance(before, float) and isinstance(after, float) and math.isnan(before) and math.isnan(after)
    return is_nan or bool(before == after)
