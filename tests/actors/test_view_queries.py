"""Queries at the edges, the same wherever a view lives: odd values, long texts, pages while rows change."""

import logging
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, field, frozen
from view_cases import (
    FIRST,
    ODD,
    Everything,
    ask,
    everything,
    in_pages,
    put,
)

from eventsrc import QueryInvalid, between, one_of, starting_with
from eventsrc.actors.views.criteria import Order, RowQuery, criteria_of
from eventsrc.actors.views.lmdb_reading import ROWS_BETWEEN_CHECKS
from eventsrc.actors.views.lmdb_view import LmdbViews
from eventsrc.actors.views.sql import SqlViews
from eventsrc.actors.views.view_store import RowChange, ViewReadTooLong, ViewStore
from eventsrc.storage.ordered_key import INDEXED_SIZE_BYTES_MAX

LONG = "long " * 60
assert len(LONG) > INDEXED_SIZE_BYTES_MAX


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
        ({"raw": between(bytearray(b"b"), None)}, "bc"),
        ({"number": one_of(2 + 0j, Fraction(7, 2))}, "b"),
    ],
)
@pytest.mark.parametrize("indexes", [(), ("number", "raw")])
def test_a_value_of_a_type_without_an_order_finds_what_equals_it(
    views: ViewStore, indexes: tuple[str, ...], criteria: dict[str, Any], keys: str
) -> None:
    for key in ("key", next(iter(criteria))):
        table = everything(indexes, key)
        view = views.open(f"by_{key}", FIRST, [table])
        put(view, table, *(Everything(name, number=n, raw=name.encode()) for n, name in enumerate("abc", 1)))
        assert ask(view, table, **criteria) == keys
        assert ask(view, table, "-key", **criteria) == keys[::-1]
        assert ask(view, table, "-number", limit=3, **criteria) == keys[::-1]
        with view.reading() as reading:
            assert reading.count(table, criteria_of(table.fields, table.name, criteria)) == len(keys)
        view.close()


@pytest.mark.parametrize("indexes", [(), ("text", "raw")])
def test_values_that_begin_with_another_and_nul_are_found_once(views: ViewStore, indexes: tuple[str, ...]) -> None:
    has_nul = not (isinstance(views, SqlViews) and views.is_postgresql)  # in texts
    fields = ("text", "raw") if has_nul else ("raw",)
    table = everything(indexes)
    view = views.open("all", FIRST, [table])
    texts = ["x", "x\0", "x\0\0", "x\0a", "y"]
    put(view, table, *(Everything(f"{n}", text=t if has_nul else None, raw=t.encode()) for n, t in enumerate(texts)))
    for wanted, keys in ((texts, "01234"), (texts[:2], "01"), (["y", "x\0a", "x"], "034"), (["x\0", "y"], "14")):
        for name in fields:
            values = wanted if name == "text" else [text.encode() for text in wanted]
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


def test_an_order_that_nobody_asks_for_is_the_same_everywhere(views: ViewStore) -> None:
    table = everything(("number", "text"))
    view = views.open("all", FIRST, [table])
    put(view, table, *(Everything(key, number=number, text="x") for key, number in (("a", 3), ("b", 2), ("c", 1))))
    assert ask(view, table, number=one_of(1, 2, 3), text="x") == "abc"
    assert ask(view, table, number=one_of(1, 2, 3)) == "cba"
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
                writing.write(table, [RowChange(table.key((gone.key,)), None, table.indexed(gone), None)])
            put(view, table, Everything(f"z{len(goes):02}", number=len(goes) % 4, text="t1"))
    keys = [row.key for row in found]
    assert len(set(keys)) == len(keys), "none twice"
    assert {row.key for row in stays} <= set(keys), "and none left out"
    view.close()


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
        with pytest.raises(ViewReadTooLong), view.reading(rows_max=2 * ROWS_BETWEEN_CHECKS) as reading:
            reading.find(table, query)
        with view.reading(rows_max=3 * ROWS_BETWEEN_CHECKS) as reading:
            assert reading.find(table, query)
    with view.reading(rows_max=10) as reading:
        assert reading.count(table, {}) == 3 * ROWS_BETWEEN_CHECKS, "what LMDB counts"
        assert len(reading.find(table, RowQuery({}, (Order("number", True),), limit=10))) == 10
    view.close()
