"""Objects become plain data and come back as they were."""

import enum
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self
from uuid import UUID

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsrc import DecodingError, EncodingError, SchemaError, make_converter
from eventsrc.actors.serialization.serializer import Serializer


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: str


@attrs.frozen
class Card:
    number: str
    kind: Literal["card"] = "card"


@attrs.frozen
class Cash:
    kind: Literal["cash"] = "cash"


@attrs.frozen
class Inner:
    when: datetime
    amount: Decimal


@dataclass(frozen=True)
class Plain:
    name: str


@dataclass(frozen=True)
class Gridded:
    cells: dict[timedelta, str]
    within: "Gridded | None" = None


@attrs.frozen
class Everything:
    aware: datetime
    day: date
    clock: time
    span: timedelta
    uuid: UUID
    decimal: Decimal
    color: Color
    level: Level
    numbers: tuple[int, ...]
    pair: tuple[int, str]
    words: set[str]
    frozen: frozenset[int]
    raw: bytes
    inner: Inner
    maybe: Inner | None
    by_name: dict[str, Inner]
    by_uuid: dict[UUID, int]
    payment: Card | Cash
    either: int | str
    literal: Literal["a", "b"]
    anything: Any
    point: Point
    plain: Plain
    path: Path


inner = st.builds(Inner, when=st.datetimes(), amount=st.decimals(allow_nan=False, allow_infinity=False))
everything = st.builds(
    Everything,
    aware=st.datetimes(timezones=st.just(UTC)),
    day=st.dates(),
    clock=st.times(),
    span=st.timedeltas(),
    uuid=st.uuids(),
    decimal=st.decimals(allow_nan=False),
    color=st.sampled_from(Color),
    level=st.sampled_from(Level),
    numbers=st.lists(st.integers(-(2**63), 2**64 - 1)).map(tuple),
    pair=st.tuples(st.integers(0, 9), st.text()),
    words=st.sets(st.text()),
    frozen=st.frozensets(st.integers(0, 99)),
    raw=st.binary(),
    inner=inner,
    maybe=st.none() | inner,
    by_name=st.dictionaries(st.text(), inner, max_size=3),
    by_uuid=st.dictionaries(st.uuids(), st.integers(0, 9), max_size=3),
    payment=st.builds(Card, number=st.text()) | st.just(Cash()),
    either=st.integers(0, 9) | st.text(),
    literal=st.sampled_from(["a", "b"]),
    anything=st.recursive(st.none() | st.text() | st.booleans(), lambda children: st.lists(children, max_size=3)),
    point=st.builds(Point, st.integers(0, 9), st.text()),
    plain=st.builds(Plain, st.text()),
    path=st.sampled_from([Path("a/b"), Path("/c")]),
)


@given(everything)
def test_everything_comes_back_as_it_was(value: Everything) -> None:
    serializer = Serializer()
    encoded = msgspec.msgpack.encode(serializer.unstructure(value))
    assert serializer.structure(msgspec.msgpack.decode(encoded), Everything) == value


@given(inner)
def test_what_has_no_bytes_is_json(value: Inner) -> None:
    serializer = Serializer()
    text = json.dumps(serializer.unstructure(value))
    assert serializer.structure(json.loads(text), Inner) == value


def test_a_field_that_was_added_takes_its_default_and_one_that_was_removed_is_passed_over() -> None:
    @attrs.frozen
    class Changed:
        name: str
        added: int = 7

    assert Serializer().structure({"name": "x", "removed": 1}, Changed) == Changed("x", 7)


def test_data_that_does_not_fit_names_the_field() -> None:
    with pytest.raises(DecodingError, match=r"does not fit Inner: .*\$\.amount"):
        Serializer().structure({"when": "2026-01-01T00:00:00", "amount": "much"}, Inner)
    with pytest.raises(DecodingError, match=r"required field missing @ \$\.when"):
        Serializer().structure({"amount": "1"}, Inner)


@attrs.frozen
class Measured:
    count: int = 0
    name: str = ""
    done: bool = False
    share: float = 0.0
    digest: bytes = b""
    level: Level = Level.LOW


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", 3.7),
        ("count", "12"),
        ("count", None),
        ("name", 5),
        ("name", None),
        ("name", ["a"]),
        ("done", "no"),
        ("done", 2),
        ("share", "1.5"),
        ("share", 2**53 + 1),
        ("digest", 3),
        ("digest", "abc"),
        ("level", "1"),
    ],
)
def test_what_is_of_another_type_is_not_taken_for_what_it_would_become(field: str, value: object) -> None:
    with pytest.raises(DecodingError, match=rf"fit Measured: {re.escape(repr(value))} is no \w+ @ \$\.{field}"):
        Serializer().structure({field: value}, Measured)


def test_a_number_that_is_equal_is_read() -> None:
    read = Serializer().structure({"count": 3.0, "share": 3, "done": 1, "level": 1}, Measured)
    assert read == Measured(3, "", True, 3.0)
    assert list(map(type, attrs.astuple(read))) == [int, str, bool, float, bytes, Level]


def test_a_class_of_ones_own_may_make_of_a_text_what_it_likes() -> None:
    class Address(str):
        def __new__(cls, text: str) -> Self:
            return super().__new__(cls, text.lower())

    @attrs.frozen
    class Person:
        address: Address

    assert Serializer().structure({"address": "Ann@X.org"}, Person) == Person(Address("ann@x.org"))


def test_a_type_without_a_hook_is_found_when_the_class_is_prepared() -> None:
    @attrs.frozen
    class Locked:
        lock: threading.Event

    with pytest.raises(SchemaError, match=r"Locked.lock cannot be turned into data: .*\w\. Use another"):
        Serializer().prepare(Locked)


@pytest.mark.parametrize(
    "hint",
    [dict[tuple[int, int], str], list[Mapping[Point, int] | None], dict[str, dict[Plain | str, int]], Gridded | None],
)
def test_keys_that_would_be_no_keys_are_found_when_the_class_is_prepared(hint: Any) -> None:
    wanted = r"Holder\.held cannot be turned into data: it has keys of .*, which would be lists or dicts"
    holder = attrs.make_class("Holder", {"held": attrs.field(type=hint)})
    with pytest.raises(SchemaError, match=wanted):
        Serializer().prepare(holder)
    # Hooks of one's own may make something else of them.
    Serializer(make_converter()).prepare(holder)
    Serializer().prepare(attrs.make_class("Holder", {"held": attrs.field(type=dict[int | Color | date, Point])}))


def test_hooks_of_ones_own() -> None:
    class Celsius:
        def __init__(self, degrees: float) -> None:
            self.degrees = degrees

    @attrs.frozen
    class Weather:
        temperature: Celsius

    converter = make_converter()
    converter.register_unstructure_hook(Celsius, lambda value: value.degrees)
    converter.register_structure_hook(Celsius, lambda value, _: Celsius(value))
    serializer = Serializer(converter)
    serializer.prepare(Weather)
    assert serializer.unstructure(Weather(Celsius(21.5))) == {"temperature": 21.5}
    assert serializer.structure({"temperature": 3.0}, Weather).temperature.degrees == 3.0


def test_an_object_that_cannot_be_turned_into_data() -> None:
    converter = make_converter()
    converter.register_unstructure_hook(Plain, lambda value: 1 // 0)
    with pytest.raises(EncodingError, match="Plain cannot be turned into data"):
        Serializer(converter).unstructure(Plain("x"))
