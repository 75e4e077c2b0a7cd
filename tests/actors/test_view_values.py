"""Values that are stored in views and asked for, however odd: the same on every place for views."""

import enum
import math
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from attrs import field, frozen, make_class
from view_cases import (
    FIRST,
    NOON,
    ODD,
    PLUS_2,
    Colour,
    Everything,
    Size,
    ask,
    everything,
    in_pages,
    put,
)

from eventsrc import Table, between, one_of, starting_with
from eventsrc.actors.serialization.serializer import Serializer
from eventsrc.actors.views.criteria import Order, RowQuery, criteria_of
from eventsrc.actors.views.row_type import RowType
from eventsrc.actors.views.view_store import Checkpoint, RowChange, ViewStore

MINUS_2 = timezone(timedelta(hours=-2))


QUERIES: list[tuple[dict[str, Any], str]] = [
    ({"number": one_of(1, 1, 1.0, True, Decimal("1.00"))}, "a"),
    ({"text": one_of("x", "x", None)}, "abc"),
    ({"text": one_of("", "x" * 300, "x" * 300 + "y")}, ""),
    ({"flag": 1}, "ae"),
    ({"flag": one_of(True, 1)}, "ae"),
    ({"number": True}, "a"),
    ({"ratio": math.nan}, ""),
    ({"ratio": one_of(math.nan, math.inf)}, "c"),
    ({"ratio": between(math.nan, None)}, ""),
    ({"ratio": 0}, "ab"),
    ({"ratio": -0.0}, "ab"),
    ({"ratio": between(None, -0.0)}, "abd"),
    ({"ratio": between(0, None)}, "abce"),
    ({"number": between(20, 10)}, ""),
    ({"number": between(None, None)}, "abcde"),
    ({"text": between(None, None)}, "ade"),
    ({"text": between("z", "a")}, ""),
    ({"number": between("a", "b")}, ""),
    ({"text": between(1, 2)}, ""),
    ({"when": between(NOON.replace(tzinfo=None), None)}, ""),
    ({"when": NOON.replace(tzinfo=None)}, ""),
    ({"when": between(None, NOON - timedelta(minutes=1))}, "b"),
    ({"price": Decimal(1)}, "ab"),
    ({"price": one_of(1, Decimal("1.000"))}, "ab"),
    ({"price": between(Decimal("1E-31"), 1)}, "abd"),
    ({"price": between(Decimal("1E-29"), Decimal("1E+29"))}, "ab"),
    ({"price": Decimal("NaN")}, ""),
    ({"number": between(2**62 + 1, 2**80)}, "e"),
    ({"number": between(-(2**80), -(2**62) - 1)}, "d"),
    ({"number": 10**400}, ""),
    ({"text": "\ud800"}, ""),
    ({"text": starting_with("\x7f")}, "d"),
    ({"colour": one_of(Colour.BLUE, Colour.BLUE)}, "b"),
    ({"colour": between(Colour.BLUE, Colour.BLUE)}, "b"),
    ({"size": between(Size.LARGE, None)}, "c"),
    ({"key": one_of("a", "a", None, 7)}, "a"),
    ({"key": "x" * 300}, ""),
    ({"key": [1]}, ""),
    ({"key": math.nan}, ""),
    ({"key": None}, ""),
    ({"flag": between(False, True)}, "abcde"),
    ({"flag": between(True, None)}, "ae"),
    ({"flag": between(0, 5)}, "abcde"),
    ({"flag": between(None, Decimal("0.5"))}, "bcd"),
    ({"flag": between(2, None)}, ""),
    ({"flag": between("a", None)}, ""),
    ({"flag": between(None, None)}, "abcde"),
    ({"key": "a\0"}, ""),
    ({"text": one_of("x", "x\0")}, "a"),
    ({"text": starting_with("x\0")}, ""),
    ({"text": starting_with("\ud800")}, ""),
    ({"when": datetime.min.replace(tzinfo=PLUS_2)}, ""),
    ({"when": between(datetime.min.replace(tzinfo=PLUS_2), None)}, "ab"),
    ({"when": between(None, datetime.min.replace(tzinfo=PLUS_2))}, ""),
    ({"when": between(datetime.max.replace(tzinfo=MINUS_2), None)}, ""),
    ({"when": between(None, datetime.max.replace(tzinfo=MINUS_2))}, "ab"),
    ({"span": one_of(timedelta.max, timedelta())}, "abcde"),
    ({"span": between(timedelta.min, timedelta.max)}, "abcde"),
    ({"span": between(timedelta.max, None)}, ""),
    ({"span": between(None, timedelta.min)}, ""),
    ({"price": one_of(Decimal("1E+200000"), Decimal("1E-20000"), Decimal("1." + "0" * 20_000))}, "ab"),
    ({"price": between(0, Decimal("1E+200000"))}, "abde"),
    ({"price": between(Decimal("1E-20000"), 2)}, "abd"),
    ({"price": between(Decimal("1E+200000"), None)}, ""),
]


ORDERS = {
    "ratio": "dabec",
    "-ratio": "cebad",
    "number": "dcbae",
    "price": "cdabe",
    "-price": "ebadc",
    "when": "cdeba",
    "flag": "bcdae",
    "-flag": "eadcb",
    "colour": "bacde",
    "-size": "cedba",
    "text": "bcade",
    "-text": "edacb",
}


INDEXED = ("number", "ratio", "text", "price", "when", "colour", "flag", "size")


@pytest.mark.parametrize("indexes", [(), INDEXED])
def test_odd_values(views: ViewStore, indexes: tuple[str, ...]) -> None:
    table = everything(indexes)
    view = views.open("all", FIRST, [table])
    put(view, table, *ODD)
    for criteria, keys in QUERIES:
        assert "".join(sorted(ask(view, table, **criteria))) == keys, criteria
        with view.reading() as reading:
            assert reading.count(table, criteria_of(table.fields, table.name, criteria)) == len(keys), criteria
    for order, keys in ORDERS.items():
        assert ask(view, table, order) == keys, order
        assert "".join(in_pages(view, table, order)) == keys, order
    view.close()


class Moment(datetime):
    """As libraries for times have one."""


def test_a_time_of_another_class_finds_what_equals_it(views: ViewStore) -> None:
    table = everything(("when",))
    view = views.open("all", FIRST, [table])
    put(view, table, *ODD)
    noon = Moment.fromtimestamp(NOON.timestamp(), PLUS_2)
    assert ask(view, table, when=noon) == ask(view, table, when=between(noon, None)) == "a"
    assert ask(view, table, day=noon) == ""
    view.close()


TEXTS = ["", "p", "p\x01", "p\ud7ff", "p\ue000", "p\U0010ffff", "q", "\ud7ff", "\ue000"]


ODD_TEXTS = ["\0", "p\0", "p\0z", "p\ud800", "p\ud800z", "p\udfffz", "\udfff", "p\ud800\0"]


@pytest.mark.parametrize("indexes", [(), ("text",)])
def test_texts_between_ones_that_not_every_database_can_hold(views: ViewStore, indexes: tuple[str, ...]) -> None:
    table = everything(indexes)
    view = views.open("all", FIRST, [table])
    rows = [Everything(str(number), text=text) for number, text in enumerate(TEXTS)]
    put(view, table, *rows)
    for odd in ODD_TEXTS:
        for criterion in (between(odd, None), between(None, odd), between("p", odd), between(odd, "q")):
            wanted = [row.key for row in rows if criterion.matches(row.text)]
            assert sorted(ask(view, table, text=criterion)) == wanted, criterion
    view.close()


class Permission(enum.Flag):
    READ = 1
    WRITE = 2
    RUN = 4


class Bits(enum.IntFlag):
    ONE = 1
    TWO = 2


@frozen
class Allowed:
    key: str
    permission: Permission
    bits: Bits = Bits.ONE


@pytest.mark.parametrize("indexes", [(), ("permission", "bits")])
def test_combined_flags_are_found(views: ViewStore, indexes: tuple[str, ...]) -> None:
    table = everything(indexes, rows=Allowed)
    view = views.open("allowed", FIRST, [table])
    both = Permission.READ | Permission.WRITE
    put(view, table, Allowed("a", both, Bits(3)), Allowed("b", Permission.READ), Allowed("c", Permission(0), Bits(0)))
    with view.reading() as reading:
        assert reading.get(table, ("a",)) == Allowed("a", both, Bits(3))
    assert ask(view, table, permission=both) == "a"
    assert ask(view, table, permission=Permission(0)) == "c"
    assert sorted(ask(view, table, permission=one_of(both, Permission.READ, Permission.RUN))) == ["a", "b"]
    assert ask(view, table, permission=between(both, None)) == "a"
    assert ask(view, table, permission=3) == "", "a plain flag equals no number"
    assert ask(view, table, bits=3) == ask(view, table, bits=3.0) == ask(view, table, bits=Bits(3)) == "a"
    assert ask(view, table, bits=one_of(7, -1, "x", Permission.READ)) == ""
    view.close()


class Name(enum.Enum):
    RED = "red"
    ONE = "one"


class Number(enum.Enum):
    ONE = 1


@frozen
class Keyed:
    colour: Colour
    name: str
    size: Size
    number: int


def test_an_enum_and_its_value_are_one_key(views: ViewStore) -> None:
    table: RowType[Any] = RowType(named(Keyed, ("colour", "name", "size", "number")), Serializer())
    view = views.open("keyed", FIRST, [table])
    row = Keyed(Colour.RED, "red", Size.SMALL, 1)
    put(view, table, row)
    keys = [
        (Colour.RED, "red", Size.SMALL, 1),
        ("red", Colour.RED, 1, Number.ONE),
        (Name.RED, Name.RED, Number.ONE, Size.SMALL),
        ("red", "red", 1.0, True),
    ]
    with view.reading() as reading:
        assert [reading.get(table, key) for key in keys] == [row] * len(keys)
        assert reading.get(table, ("one", "red", 1, 1)) is None
        assert reading.get(table, (Name.ONE, "red", 1, 1)) is None
        assert reading.find(table, RowQuery(criteria_of(table.fields, table.name, {"colour": "red"}))) == []
    with view.writing() as writing:
        writing.write(table, [RowChange(table.key(("red", Name.RED, 1, 1)), None, (), None)])
    with view.reading() as reading:
        assert reading.get(table, keys[0]) is None
    view.close()


UNHELD: list[tuple[type, Any]] = [
    (str, "a\0b"),
    (str, "\ud800"),
    (int, 2**63),
    (Decimal, Decimal("1E+200000")),
    (Decimal, Decimal("1E-20000")),
    (timedelta, timedelta.max),
    (datetime, datetime.min.replace(tzinfo=PLUS_2)),
    (datetime, datetime.max.replace(tzinfo=MINUS_2)),
]


@pytest.mark.parametrize(("key_type", "key"), UNHELD, ids=lambda given: str(given)[:20])
def test_a_key_that_not_every_database_can_hold_is_that_of_no_row(views: ViewStore, key_type: type, key: Any) -> None:
    keyed: Any = make_class("Keyed", {"key": field(type=key_type), "value": field(type=int)})
    table: RowType[Any] = RowType(named(keyed, "key"), Serializer())
    view = views.open("keyed", FIRST, [table])
    with view.reading() as reading:
        assert reading.get(table, (key,)) is None
        assert reading.find(table, RowQuery(criteria_of(table.fields, table.name, {"key": key}))) == []
    with view.writing() as writing:
        assert writing.get(table, (key,)) is None
        writing.write(table, [RowChange(table.key((key,)), None, None, None)])
        writing.save(Checkpoint(7, b""))
    assert view.checkpoint.position == 7
    view.close()


def test_equal_decimals_are_one_key(views: ViewStore) -> None:
    @frozen
    class Priced:
        price: Decimal
        name: str = ""

    table: RowType[Any] = RowType(named(Priced, "price"), Serializer())
    view = views.open("priced", FIRST, [table])
    prices = ["1E+3", "-2", "0.1234567890123456789012", "0.1234567890123456789013", "1E-20", "-2.5", "0.00"]
    put(view, table, *(Priced(Decimal(price)) for price in prices))
    put(view, table, Priced(Decimal("1000.0"), "again"), Priced(Decimal("-0"), "nothing"))
    with view.reading() as reading:
        found = reading.find(table, RowQuery())
        assert [row.price for row in found] == sorted({Decimal(price) for price in prices})
        assert reading.get(table, (Decimal("1000.00"),)) == Priced(Decimal(1000), "again")
        assert reading.get(table, (1000,)) == Priced(Decimal(1000), "again")
        assert reading.get(table, (0.0,)) == Priced(Decimal(0), "nothing")
        backwards = reading.find(table, RowQuery({}, (Order("price", True),)))
        assert backwards == found[::-1]
    with view.writing() as writing:
        writing.write(table, [RowChange(table.key((Decimal("1e3"),)), None, (), None)])
    with view.reading() as reading:
        assert reading.get(table, (1000,)) is None
    view.close()


def named(row_class: type, key: str | tuple[str, ...], indexes: tuple[str, ...] = ()) -> Table[Any]:
    table: Table[Any] = Table(row_class, key=key, indexes=indexes)
    table.name = "named"
    return table


FREE: list[Any] = [
    {"$bytes": "aGk="},
    {"$bytes": "no base64"},
    {"$bytes": b"hi"},
    {"$bytes": [{"$bytes": [b"hi"]}], "more": {"$bytes": {"$bytes": None}}},
    {"$bytes": []},
    ["$bytes", {"": b""}, {"$bytes": ["$bytes"]}],
    {1: "a", "1": "b"},
    {True: {None: {1.5: b"x"}}, 2: {b"y": {}}},
    {"$items": [1, 2], "$float": {"$items": {"$float": "1.5"}}},
    [1e300, -1e16, 1e15, 10**16, 2.0, 1e-300, math.inf, {"low": -math.inf}],
]


def test_what_is_nested_comes_back_as_it_was_put(views: ViewStore) -> None:
    table = everything()
    view = views.open("all", FIRST, [table])
    put(view, table, *(Everything(str(number), free=free) for number, free in enumerate(FREE)))
    with view.reading() as reading:
        assert [row.free for row in reading.find(table, RowQuery())] == FREE
        for number, free in enumerate(FREE):
            found = reading.get(table, (str(number),))
            assert found is not None
            assert found.free == free
            assert not isinstance(free, list) or list(map(type, found.free)) == list(map(type, free))
            assert ask(view, table, free=free) == str(number)
    view.close()


@frozen
class Timed:
    key: datetime
    at: datetime | None = None
    name: str = ""


@pytest.mark.parametrize("indexes", [(), ("at",)])
def test_times_without_a_zone_come_after_those_with_one(views: ViewStore, indexes: tuple[str, ...]) -> None:
    naive = NOON.replace(tzinfo=None)
    hour = timedelta(hours=1)
    times = [NOON - hour, NOON + hour, NOON + 9 * hour, naive - 2 * hour, naive, naive + 3 * hour]
    table: RowType[Any] = RowType(named(Timed, "key", indexes), Serializer())
    view = views.open("moments", FIRST, [table])
    put(view, table, *(Timed(time, time, str(number)) for number, time in enumerate(times)))
    # With None at first, and one level with another.
    put(view, table, Timed(naive + 4 * hour, None, "-"), Timed(naive + 5 * hour, naive, "4+"))

    def asked(*order: Order, limit: int | None = None, **criteria: Any) -> list[str]:
        found: list[Any] = []
        query = RowQuery(criteria_of(table.fields, table.name, criteria), order, limit=limit)
        with view.reading() as reading:
            while page := reading.find(table, query):
                found += page
                if limit is None:
                    break
                query = RowQuery(query.criteria, order, len(found), limit, page[-1])
            assert reading.count(table, dict(query.criteria)) == len(found)
        return [row.name for row in found]

    upwards = ["-", "0", "1", "2", "3", "4", "4+", "5"]
    for limit in (None, 1, 3):
        assert asked(Order("at"), limit=limit) == upwards
        assert asked(Order("at", True), limit=limit) == upwards[::-1]
        assert asked(limit=limit) == ["0", "1", "2", "3", "4", "5", "-", "4+"], "in the order of the key"
        assert asked(Order("key", True), limit=limit) == ["4+", "-", "5", "4", "3", "2", "1", "0"]
        assert asked(Order("at"), limit=limit, at=between(NOON, None)) == ["1", "2"]
        assert asked(Order("at"), limit=limit, at=between(None, naive)) == ["3", "4", "4+"]
        assert asked(Order("at"), limit=limit, at=between(NOON, naive)) == []
        assert asked(Order("at", True), limit=limit, at=one_of(None, naive, NOON - hour)) == ["4+", "4", "0", "-"]
    assert asked(key=naive.replace(tzinfo=PLUS_2)) == []
    assert asked(at=(NOON + hour).astimezone(PLUS_2)) == ["1"]
    view.close()
