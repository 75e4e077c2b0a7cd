"""Queries at the edges, the same wherever a view lives: odd values, long texts, pages while rows change."""

import logging
import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, field, frozen
from view_cases import FIRST, Colour, Everything, Size, ask, everything, put

from eventsrc import QueryInvalid, Table, between, one_of, starting_with
from eventsrc.actors.criteria import Order, RowQuery, criteria_of
from eventsrc.actors.lmdb_reading import ROWS_BETWEEN_CHECKS
from eventsrc.actors.lmdb_view import LmdbViews
from eventsrc.actors.row_type import RowType
from eventsrc.actors.serializer import Serializer
from eventsrc.actors.sql_view import SqlViews
from eventsrc.actors.view_store import Change, View, ViewLookLong, ViewStore
from eventsrc.storage.ordered_key import INDEXED_SIZE_BYTES_MAX

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
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
    ("criteria", "keys"),
    [
        ({"number": Fraction(2)}, "b"),
        ({"number": one_of(Fraction(3), 1, math.nan)}, "ac"),
        ({"number": between(Fraction(3, 2), None)}, "bc"),
        ({"number": between(Fraction(3, 2), math.nan)}, ""),
        ({"number": between(1, Fraction(7, 3))}, "ab"),
        ({"raw": bytearray(b"b")}, "b"),
        ({"raw": one_of(memoryview(b"c"), b"a")}, "ac"),
        ({"raw": [98]}, ""),
    ],
)
@pytest.mark.parametrize("indexes", [(), ("number", "raw")])
def test_an_index_finds_what_equals_a_value_of_a_type_without_an_order(
    tmp_path: Path, indexes: tuple[str, ...], criteria: dict[str, Any], keys: str
) -> None:
    for key in ("key", next(iter(criteria))):
        table = everything(indexes, key)
        view = LmdbViews(tmp_path / key).open("all", FIRST, [table])
        put(view, table, *(Everything(name, number=n, raw=name.encode()) for n, name in enumerate("abc", 1)))
        assert ask(view, table, **criteria) == keys
        assert ask(view, table, "-key", **criteria) == keys[::-1]
        assert ask(view, table, "-number", limit=3, **criteria) == keys[::-1]
        with view.reading() as reading:
            assert reading.count(table, criteria_of(table.fields, table.name, criteria)) == len(keys)
        view.close()


@pytest.mark.parametrize("indexes", [(), ("text", "raw")])
def test_values_that_begin_with_another_and_nul_are_found_once(views: ViewStore, indexes: tuple[str, ...]) -> None:
    if isinstance(views, SqlViews) and views.is_postgresql:
        pytest.skip("PostgreSQL has no NUL in texts")
    table = everything(indexes)
    view = views.open("all", FIRST, [table])
    texts = ["x", "x\0", "x\0\0", "x\0a", "y"]
    put(view, table, *(Everything(f"{n}", text=text, raw=text.encode()) for n, text in enumerate(texts)))
    for wanted, keys in ((texts, "01234"), (texts[:2], "01"), (["y", "x\0a", "x"], "034"), (["x\0", "y"], "14")):
        for name, values in (("text", wanted), ("raw", [text.encode() for text in wanted])):
            criteria: dict[str, Any] = {name: one_of(*values)}
            assert ask(view, table, **criteria) == keys
            assert ask(view, table, f"-{name}", **criteria) == keys[::-1]
            with view.reading() as reading:
                assert reading.count(table, criteria_of(table.fields, table.name, criteria)) == len(keys)
    view.close()


@pytest.mark.parametrize("indexes", [(), ("number", "raw")])
def test_rows_that_are_level_go_by_their_key_also_where_one_is_another_and_nul(
    views: ViewStore, indexes: tuple[str, ...]
) -> None:
    table = everything(indexes, "raw")
    view = views.open("all", FIRST, [table])
    put(view, table, *(Everything(f"{n}", raw=raw) for n, raw in enumerate([b"x", b"x\0", b"x\0\0", b"x\1", b"y"])))
    for order, keys in {("number",): "01234", ("-number",): "43210", ("raw",): "01234", ("-raw",): "43210"}.items():
        assert ask(view, table, *order) == keys, order
        assert ask(view, table, *order, limit=4) == keys[:4], order
        assert "".join(in_pages(view, table, *order)) == keys, order
    for order, keys in {("-raw", "number"): "43210", ("number", "-raw"): "43210", ("-number", "raw"): "01234"}.items():
        assert ask(view, table, *order) == keys, order
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

    table: RowType[Any] = RowType(keyed_by_price(Priced), Serializer())
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


def keyed_by_price(row_class: type) -> Table[Any]:
    table: Table[Any] = Table(row_class, key="price")
    table.name = "priced"
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
