"""Values of any types in fields of any types: an event comes back the same each time it is read, or it is refused."""

import enum
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import attrs
import msgspec
import pydantic
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventsrc import Aggregate, EncodingError, SchemaError, applies, event
from eventsrc.actors.aggregates.aggregate_type import AggregateType
from eventsrc.actors.serialization.serializer import Serializer


class Color(enum.Enum):
    RED = "r"


class Level(enum.Enum):
    LOW = 1


class Orbit(enum.Enum):
    EARTH = (1, 2)


class Status(enum.StrEnum):
    OPEN = "a"


class Place(NamedTuple):
    name: str
    floor: int = 0


@attrs.frozen
class Item:
    count: int
    price: float = 0.0


class Model(pydantic.BaseModel, frozen=True):
    at: date | None = None


VALUES = [
    *(0, 1, True, 1.5, 2.0, "a", "r", "2026-01-01", b"a", None, (), {}, {"a"}, ["a", 1], {"a": 1}),
    *(datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), date(2026, 1, 1), time(1), timedelta(1)),
    *(UUID(int=1), Decimal("1.0"), Path("a"), Color.RED, Level.LOW, Orbit.EARTH, Status.OPEN),
    *(Place("a"), Item(1), Item(1, 2), Model(), Model(at=date(2026, 1, 1))),
]
LEAVES: list[Any] = [*{type(value) for value in VALUES if not isinstance(value, list | dict | set | type(None))}, Any]
KEYS: list[Any] = [str, int, UUID, date, Color, Status, Color | str, datetime | str, Level | int]


def _wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        inner.map(lambda hint: list[hint]),
        inner.map(lambda hint: frozenset[hint]),
        inner.map(lambda hint: deque[hint]),
        inner.map(lambda hint: Sequence[hint]),
        inner.map(lambda hint: tuple[hint, ...]),
        inner.map(lambda hint: Mapping[str, hint]),
        inner.map(lambda hint: hint | None),
        inner.map(lambda hint: hint | str),
        st.tuples(st.sampled_from(KEYS), inner).map(lambda hints: dict[hints[0], hints[1]]),
    )


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


leaves = st.sampled_from(VALUES)
keys = st.sampled_from([value for value in VALUES if _hashable(value)])
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.lists(inner, max_size=2).map(tuple),
        st.lists(keys, max_size=2).map(frozenset),
        st.dictionaries(keys, inner, max_size=2),
    ),
    max_leaves=4,
)
hints = st.recursive(st.sampled_from(LEAVES), _wider, max_leaves=3)


@example(list[list[int]], [[[True]]])
@example(Orbit, [Orbit.EARTH])
@example(Status | str, [Status.OPEN])
@example(Any, [[Status.OPEN, bytearray(b"a")]])
@settings(derandomize=True, deadline=None)
@given(hints, st.lists(values, min_size=5, max_size=10))
def test_what_is_accepted_is_the_same_each_time_it_is_read(hint: Any, held: list[Any]) -> None:
    made = event("thing.held")(type("Held", (), {"__annotations__": {"value": hint}}))

    class Thing(Aggregate):
        @applies
        def held(self, event: made) -> None: ...  # type: ignore[valid-type]

    try:
        thing = AggregateType(Thing, Serializer())
    except SchemaError:
        return
    codec = thing.codecs[made]
    for value in held:
        try:
            payload, returned = thing.encode_event(codec, made(value))
        except EncodingError:
            continue
        again = codec.structure(msgspec.msgpack.decode(payload), made)
        assert type(again.value) is type(returned.value)
        assert again == returned
        # True in the place of a number is 1, which is written otherwise.
        assert thing.encode_event(codec, again)[1] == again
