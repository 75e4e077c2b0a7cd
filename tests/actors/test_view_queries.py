"""Queries at the edges, the same wherever a view lives: odd values, long texts, pages while rows change."""

import enum
import logging
import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, field, frozen, make_class
from view_cases import FIRST, PLUS_2, Colour, Everything, Size, ask, everything, put

from eventsrc import QueryInvalid, Table, between, one_of, starting_with
from eventsrc.actors.criteria import Order, RowQuery, criteria_of
from eventsrc.actors.lmdb_reading import ROWS_BETWEEN_CHECKS
from eventsrc.actors.lmdb_view import LmdbViews
from eventsrc.actors.row_type import RowType
from eventsrc.actors.serializer import Serializer
from eventsrc.actors.view_store import Change, Checkpoint, View, ViewLookLong, ViewStore
from eventsrc.storage.ordered_key import INDEXED_SIZE_BYTES_MAX

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
MINUS_2 = timezone(timedelta(hours=-2))
LONG = "long " * 60
assert len(LONG) > INDEXED_SIZE_BYTES_MAX
ODD = [
    Everything("a", number=1, ratio=-0.0, flag=True, price=Decimal("1.0"), when=NOON, text="x"),
    Everything(
        "b",
        number=0,
        ratio=0.0,
        price=Decimal("1.00"),
        when=datetime(2024, 5, 1, 15, tzinfo=timezone(timedelta(hours=4))),
        colour=Colour.BLUE,
    ),
    Everything("c", number=-1, ratio=math.inf, price=Decimal("-1E+2"), size=Size.LARGE),
    Everything("d", number=-(2**62) - 1, ratio=-math.inf, price=Decimal("1E-30"), text="\x7f"),
    Everything("e", number=2**62 + 1, ratio=5e-324, price=Decimal("1E+30"), text="ß", flag=True),
]
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


def test_what_cannot_be_compared_is_told_when_it_is_asked() -> None:
    for prefix in (5, None, b"x"):
        with pytest.raises(QueryInvalid, match="takes the beginning of a text, not"):
            starting_with(prefix)  # type: ignore[arg-type]
    signalling = Decimal("sNaN")
    for ask_for in (lambda: between(None, signalling), lambda: between(signalling, 1), lambda: one_of(1, signalling)):
        with pytest.raises(QueryInvalid, match="cannot be compared"):
            ask_for()
    with pytest.raises(QueryInvalid, match="cannot be compared"):
        criteria_of(frozenset({"price"}), "things", {"price": signalling})


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
        writing.write(table, [Change(table.key(("red", Name.RED, 1, 1)), None, (), None)])
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
        writing.write(table, [Change(table.key((key,)), None, None, None)])
        writing.save(Checkpoint(7, b""))
    assert view.checkpoint.position == 7
    view.close()


def in_pages(view: View, table: RowType[Any], *order: str, size: int = 2) -> list[str]:
    orders = tuple(Order(name.removeprefix("-"), name.startswith("-")) for name in order)
    query = RowQuery({}, orders, limit=size)
    found = []
    with view.reading() as reading:
        while page := reading.find(table, query):
            found += [row.key for row in page]
            query = evolve(query, offset=len(found), last=page[-1])
    return found


@pytest.mark.parametrize("indexes", [(), ("text",)])
def test_long_texts_are_told_apart_and_ordered_beyond_the_cut(views: ViewStore, indexes: tuple[str, ...]) -> None:
    table = everything(indexes)
    view = views.open("all", FIRST, [table])
    texts = {"a": LONG + "3", "b": LONG + "1", "c": LONG, "d": "short", "e": LONG + "2", "f": LONG + "1", "g": "a"}
    put(view, table, *(Everything(key, text=text) for key, text in texts.items()))
    assert ask(view, table, "text") == "gcbfead"
    assert ask(view, table, "-text") == "daefbcg"
    assert ask(view, table, "text", limit=2, offset=2) == "bf"
    for size in range(1, 5):
        assert "".join(in_pages(view, table, "text", size=size)) == "gcbfead"
        assert "".join(in_pages(view, table, "-text", size=size)) == "daefbcg"
    assert ask(view, table, text=LONG + "2") == "e"
    assert sorted(ask(view, table, text=one_of(LONG + "2", LONG + "1", LONG + "2"))) == ["b", "e", "f"]
    assert sorted(ask(view, table, text=between(LONG + "1", LONG + "2"))) == ["b", "e", "f"]
    assert ask(view, table, text=starting_with(LONG + "3")) == "a"
    assert ask(view, table, "-text", text=starting_with(LONG), limit=3) == "aef"
    view.close()


@pytest.mark.parametrize(
    ("order", "criteria", "told"),
    [
        (("-number",), {}, set[str]()),
        (("key",), {}, set[str]()),
        (("text",), {"number": 1}, set[str]()),
        (("text",), {}, {"text"}),
        (("number",), {"text": "x"}, {"text"}),
        (("flag",), {"text": "x"}, {"text", "flag"}),
    ],
)
def test_a_query_that_looks_at_every_row_says_so_to_who_debugs(
    views: ViewStore, caplog: pytest.LogCaptureFixture, order: tuple[str, ...], criteria: dict[str, Any], told: set[str]
) -> None:
    table = everything(("number",))
    view = views.open("all", FIRST, [table])
    put(view, table, *ODD)
    with caplog.at_level(logging.DEBUG, "eventsrc.views"):
        ask(view, table, *order, **criteria)
    assert [set(record.__dict__["fields"]) for record in caplog.records] == ([told] if told else [])
    view.close()


@pytest.mark.parametrize("indexes", [(), ("number",), ("text",)])
@pytest.mark.parametrize("order", [("number",), ("-number",), ("text", "-number"), ()])
def test_pages_hold_what_stays_once_while_rows_come_and_go(
    views: ViewStore, indexes: tuple[str, ...], order: tuple[str, ...]
) -> None:
    table = everything(indexes)
    view = views.open("all", FIRST, [table])
    stays = [Everything(f"k{number:02}", number=number % 4, text=f"t{number % 3}") for number in range(30)]
    goes = [Everything(f"a{number:02}", number=number % 4, text=f"t{number % 3}") for number in range(12)]
    put(view, table, *stays, *goes)
    orders = tuple(Order(name.removeprefix("-"), name.startswith("-")) for name in order)
    found: list[Everything] = []
    query = RowQuery({}, orders, limit=4)
    while True:
        with view.reading() as reading:
            page = reading.find(table, query)
        if not page:
            break
        found += page
        query = evolve(query, offset=len(found), last=page[-1])
        if goes:
            gone = goes.pop()
            with view.writing() as writing:
                writing.write(table, [Change(table.key((gone.key,)), None, table.indexed(gone), None)])
            put(view, table, Everything(f"z{len(goes):02}", number=len(goes) % 4, text="t1"))
    keys = [row.key for row in found]
    assert len(set(keys)) == len(keys), "none twice"
    assert {row.key for row in stays} <= set(keys), "and none left out"
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
        writing.write(table, [Change(table.key((Decimal("1e3"),)), None, (), None)])
    with view.reading() as reading:
        assert reading.get(table, (1000,)) is None
    view.close()


def named(row_class: type, key: str | tuple[str, ...]) -> Table[Any]:
    table: Table[Any] = Table(row_class, key=key)
    table.name = "named"
    return table


def test_an_order_by_what_has_none(views: ViewStore) -> None:
    @frozen
    class Nested:
        key: str
        marks: list[int] = field(factory=list[int])
        free: Any = None

    table = everything((), rows=Nested)
    view = views.open("nested", FIRST, [table])
    put(view, table, Nested("a", [2]), Nested("b", [1, 5], free={"x": 1}), Nested("c"))
    assert ask(view, table, "marks") == "cba"
    assert ask(view, table, "-marks", limit=2) == "ab"
    with pytest.raises(QueryInvalid, match="things cannot be ordered by free: dict has no order"):
        ask(view, table, "free")
    view.close()


def test_a_look_at_many_rows_goes_no_further_than_it_may(tmp_path: Path) -> None:
    table = everything(("number",))
    view = LmdbViews(tmp_path).open("all", FIRST, [table])
    put(view, table, *(Everything(f"{number}", number=number) for number in range(3 * ROWS_BETWEEN_CHECKS)))
    for query in (RowQuery(), RowQuery({}, (Order("text"),), limit=1), RowQuery({}, (Order("number"),))):
        with pytest.raises(ViewLookLong), view.reading(rows_max=2 * ROWS_BETWEEN_CHECKS) as reading:
            reading.find(table, query)
        with view.reading(rows_max=3 * ROWS_BETWEEN_CHECKS) as reading:
            assert reading.find(table, query)
    with view.reading(rows_max=10) as reading:
        assert reading.count(table, {}) == 3 * ROWS_BETWEEN_CHECKS, "what LMDB counts"
        assert len(reading.find(table, RowQuery({}, (Order("number", True),), limit=10))) == 10
    view.close()


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
    [1e300, -1e16, 1e15, 10**16, 2.0, 1e-300],
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
