"""Values in SQL: what a column cannot hold, and what somebody else has put there."""

import math
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from sqlalchemy import event
from view_cases import FIRST, NOON, PLUS_2, ROWS, Colour, Everything, Happened, Size, ask, everything, put, stored

from eventsrc import (
    DecodingError,
    EventMeta,
    Projection,
    RowInvalid,
    StoreError,
    Table,
    ViewReadFailed,
    between,
    on,
    one_of,
)
from eventsrc.actors.serialization.serializer import Serializer
from eventsrc.actors.views.criteria import Order, RowQuery
from eventsrc.actors.views.row_type import RowType
from eventsrc.actors.views.session import EventFailed, SessionRows, ViewSession
from eventsrc.actors.views.sql import SqlViews
from eventsrc.actors.views.sql.json_text import from_json, to_json
from eventsrc.actors.views.view_store import Checkpoint, RowChange, ViewStore


@pytest.mark.parametrize("damage", ['{"$bytes":"no base64"}', '{"$items":[1,2,3]}'])
def test_a_damaged_value_is_said_to_be(sql: SqlViews, damage: str) -> None:
    table = everything()
    view = sql.open("all", FIRST, [table])
    put(view, table, Everything("a"), Everything("b"))
    with sql.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE all_things_g1 SET free = '{damage}' WHERE key = 'b'")
    with view.reading() as reading:
        with pytest.raises(DecodingError, match="A stored row of things does not fit Everything"):
            reading.get(table, ("b",))
        with pytest.raises(DecodingError):
            reading.find(table, RowQuery())
    assert ask(view, table, key="a") == "a"


def test_a_query_that_fails_says_so_and_nothing_of_a_batch(sql: SqlViews) -> None:
    table = everything()
    view = sql.open("all", FIRST, [table])
    put(view, table, Everything("a"))
    with sql.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE all_things_g1 RENAME TO moved")
    with pytest.raises(ViewReadFailed, match=r"could not answer a query: .*all_things_g1.* ask again") as failed:
        ask(view, table)
    assert "batch" not in str(failed.value)
    assert isinstance(failed.value, StoreError)
    with sql.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE moved RENAME TO all_things_g1")
    assert ask(view, table) == "a"


def test_nan_within_a_value_is_json_that_a_database_takes(sql: SqlViews) -> None:
    table = everything()
    view = sql.open("all", FIRST, [table])
    put(view, table, Everything("a", free=[math.nan, {"high": math.inf}]))
    with view.reading() as reading:
        row = reading.get(table, ("a",))
    assert row is not None
    assert math.isnan(row.free[0])
    assert row.free[1] == {"high": math.inf}
    with sql.engine.connect() as connection:
        high = connection.exec_driver_sql("SELECT CAST(free -> 1 -> 'high' AS TEXT) FROM all_things_g1").scalar_one()
        assert from_json(high) == math.inf


def test_what_is_nested_too_deeply_is_a_fault_of_the_value() -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deeply"):
        to_json(deep)


@frozen
class Keyed:
    key: str
    sizes: dict[Size, int]
    flags: dict[bool, str]
    ratios: dict[float, list[float]]


def test_the_keys_of_a_dict_come_back_as_what_they_were(sql: SqlViews) -> None:
    table = everything((), rows=Keyed)
    view = sql.open("all", FIRST, [table])
    row = Keyed("a", {Size.LARGE: 1, Size.SMALL: 2}, {False: "no", True: "yes"}, {0.5: [1e300]})
    put(view, table, row)
    with view.reading() as reading:
        assert reading.get(table, ("a",)) == row
    assert from_json(to_json({(1, ("x",)): 2})) == {(1, ("x",)): 2}, "as a hook of cattrs may make of a key"


@pytest.mark.parametrize(
    ("order", "criteria"),
    [
        ((), {"when": NOON}),
        ((), {"when": one_of(NOON, None, NOON.replace(tzinfo=None))}),
        (("-when",), {"when": between(NOON, None)}),
        (("when",), {}),
        ((), {"price": None}),
        (("-price",), {"price": between(Decimal(1), None)}),
    ],
)
def test_sqlite_finds_and_sorts_by_an_index_what_it_compares_by_more_than_its_text(
    tmp_path: Path, order: tuple[str, ...], criteria: dict[str, Any]
) -> None:
    with closing(SqlViews(f"sqlite:///{tmp_path / 'views.db'}")) as views:
        table = everything(("when", "price"))
        view = views.open("all", FIRST, [table])
        asked = statements_of(views)
        ask(view, table, *order, **criteria, limit=5)
        plan = plan_of(views, *asked[-1])
    assert "INDEX all_things_g1_" in plan
    assert ("SEARCH" in plan) == bool(criteria), plan


def statements_of(views: SqlViews) -> list[tuple[str, Any]]:
    """What is asked of the database from now on, with the parameters."""
    asked: list[tuple[str, Any]] = []

    @event.listens_for(views.engine, "before_cursor_execute")
    def note(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        asked.append((statement, parameters))

    return asked


def plan_of(views: SqlViews, statement: str, parameters: Any) -> str:
    """How SQLite does it."""
    with views.engine.connect() as connection:
        return " ".join(row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters))


@pytest.mark.parametrize("order", ["number", "-number", "text", "key", "-key"])
def test_a_later_page_begins_where_the_one_before_ended_and_not_at_the_first_row(tmp_path: Path, order: str) -> None:
    with closing(SqlViews(f"sqlite:///{tmp_path / 'views.db'}")) as views:
        table = everything(("number", "text"))
        view = views.open("all", FIRST, [table])
        put(view, table, *ROWS)
        asked = statements_of(views)
        by = Order(order.removeprefix("-"), order.startswith("-"))
        with view.reading() as reading:
            first = reading.find(table, RowQuery({}, (by,)))
            assert reading.find(table, RowQuery({}, (by,), 4, 2, first[3])) == first[4:6]
        assert "SEARCH" in plan_of(views, *asked[-1])


@pytest.mark.parametrize("count", [499, 500, 501, 999, 1_000, 1_001])
def test_a_decimal_is_one_of_many(sql: SqlViews, count: int) -> None:
    table = everything(("price",))
    view = sql.open("all", FIRST, [table])
    put(view, table, Everything("a", price=Decimal("1.50")), Everything("b", price=Decimal(2)), Everything("c"))
    assert ask(view, table, price=one_of(*(Decimal(number) / 2 for number in range(count - 1)), None)) == "cab"


@frozen
class Number:
    key: str
    number: int | float


def test_a_number_that_no_double_equals_is_refused(sql: SqlViews) -> None:
    table = everything((), rows=Number)
    view = sql.open("numbers", FIRST, [table])
    rows = [Number("a", 2**60), Number("b", 0.1), Number("c", -7)]
    put(view, table, *rows)
    for number in (2**60 + 1, 10**400):
        with pytest.raises(RowInvalid, match=r"is refused: .*Number"):
            put(view, table, Number("d", number))
        assert ask(view, table, number=number) == ""
    with view.reading() as reading:
        assert reading.find(table, RowQuery()) == rows
    assert ask(view, table, number=2**60) == "a"


def test_an_old_generation_is_asked_by_an_enum_or_its_value(sql: SqlViews) -> None:
    @frozen
    class Old:
        key: Colour
        gone: int = 1

    @frozen
    class New:
        key: Colour

    old, new = everything((), rows=Old), everything((), rows=New)
    view = sql.open("all", FIRST, [old])
    put(view, old, Old(Colour.RED))
    view = sql.open("all", FIRST, [new])
    with view.reading() as reading:
        assert reading.get(new, (Colour.RED,)) == reading.get(new, ("red",)) == New(Colour.RED)
        assert reading.get(new, ("blue",)) is None


def opened(views: ViewStore, row_class: type, handle: Callable[[SessionRows[Any], Happened], None]) -> ViewSession:
    """A projection with one table `rows` that does this with each event."""

    class Handled(Projection, name="handled"):
        rows: Table[Any] = Table(row_class, key="key")

        @on(Happened)
        def happened(self, event: Happened, meta: EventMeta) -> None:
            handle(self.rows, event)  # type: ignore[arg-type]

    serializer = Serializer()
    tables = [RowType(Handled.rows, serializer)]
    return ViewSession(Handled, views.open("handled", FIRST, tables), serializer)


def apply(session: ViewSession, *amounts: int) -> None:
    events = [stored(position, "a", {"amount": amount}) for position, amount in enumerate(amounts, 1)]
    session.apply(events, Checkpoint(len(amounts), b""))


@frozen
class Span:
    key: timedelta


@frozen
class When:
    key: datetime


@frozen
class Whole:
    key: int


@pytest.mark.parametrize(
    ("row_class", "key"),
    [(Whole, 2**63), (Span, timedelta.max), (When, datetime.min.replace(tzinfo=PLUS_2))],
)
def test_an_event_whose_key_does_not_fit_is_named_when_its_row_is_put(sql: SqlViews, row_class: type, key: Any) -> None:
    def handle(rows: SessionRows[Any], event: Happened) -> None:
        assert rows.get(key) is None
        assert rows.where(key=key) == []
        rows.delete(key)
        if event.amount == 3:
            rows.put(row_class(key))

    session = opened(sql, row_class, handle)
    apply(session, 1, 2)
    assert session.view.checkpoint.position == 2
    with pytest.raises(EventFailed, match=r"at position 3: RowInvalid: A row of rows is refused"):
        apply(opened(sql, row_class, handle), 1, 1, 3)


@frozen
class Named:
    key: str
    number: int = 0


def test_a_text_with_nul_is_no_row_on_postgresql_and_an_event_that_puts_it_is_named(postgres_url: str) -> None:
    def handle(rows: SessionRows[Any], event: Happened) -> None:
        assert rows.get("a\0b") is None
        assert rows.where(key="a\0b") == []
        assert rows.where(key=between("a", "b\0")) == ([Named("ann")] if event.amount > 1 else [])
        rows.delete("a\0b")
        rows.put(Named("ann" if event.amount < 3 else "a\0b"))

    with closing(SqlViews(postgres_url)) as views:
        apply(opened(views, Named, handle), 1, 2)
        with pytest.raises(EventFailed, match=r"at position 3: RowInvalid: A row of rows is refused: .*NUL"):
            apply(opened(views, Named, handle), 2, 2, 3)


@pytest.mark.parametrize("ask_again", ["get", "where", "put", "raise", "nothing"])
def test_a_refused_row_that_a_handler_passes_over_is_named_all_the_same(views: ViewStore, ask_again: str) -> None:
    def handle(rows: SessionRows[Any], event: Happened) -> None:
        # No place has so large a number, and the row is written when rows are looked for.
        rows.put(Named(f"{event.amount}", 2**70 if event.amount == 3 else event.amount))
        with suppress(Exception):
            rows.where(number=between(0, None))
        match ask_again:
            case "get":
                rows.get("not there")
            case "where":
                rows.where(number=1)
            case "put":
                rows.put(Named("another"))
            case "raise":
                if event.amount == 3:
                    raise ValueError("it makes another error of it")

    session = opened(views, Named, handle)
    for _ in range(2):
        with pytest.raises(EventFailed, match=r"at position 3: RowInvalid: .*number=1180591620717411303424"):
            apply(session, 1, 2, 3, 4)
    assert session.view.checkpoint.position == 0
    apply(session, 1, 2)
    assert session.view.checkpoint.position == 2
    session.view.close()


def test_a_transaction_that_refused_a_row_says_so_until_its_end(sql: SqlViews) -> None:
    table = everything()
    view = sql.open("all", FIRST, [table])
    change = [RowChange(table.key(("x",)), Everything("x", number=2**63), None, None)]
    with pytest.raises(RowInvalid, match="is refused"), view.writing() as writing:
        for act in (
            lambda: writing.write(table, change),
            lambda: writing.get(table, ("a",)),
            lambda: writing.find(table, RowQuery()),
            lambda: writing.count(table, {}),
            lambda: writing.save(Checkpoint(1, b"")),
        ):
            with pytest.raises(RowInvalid, match="is refused"):
                act()
    assert view.checkpoint.position == 0
    assert ask(view, table) == ""


@frozen
class Priced:
    key: str
    price: Decimal | None = None
    prices: tuple[Decimal, ...] = ()


@pytest.mark.parametrize("bad", [Priced("x", Decimal("sNaN")), Priced("x", None, (Decimal("sNaN"),))])
def test_a_row_with_a_signalling_nan_is_refused(views: ViewStore, bad: Priced) -> None:
    def handle(rows: SessionRows[Any], event: Happened) -> None:
        rows.put(bad if event.amount == 3 else Priced("a", Decimal("NaN")))

    session = opened(views, Priced, handle)
    with pytest.raises(EventFailed, match="at position 3: RowInvalid: A row of rows has a signalling NaN"):
        apply(session, 1, 2, 3)
    apply(session, 1)
    session.view.close()


@pytest.mark.parametrize("indexes", [(), ("price",)])
def test_infinite_decimals_and_nan_have_their_place(views: ViewStore, indexes: tuple[str, ...]) -> None:
    table = everything(indexes, rows=Priced)
    view = views.open("priced", FIRST, [table])
    prices = ["Infinity", "-Infinity", "1E+400", "0", "-1E+400", "-7", "NaN"]
    # NaN cannot be indexed.
    rows = [Priced(key, Decimal(price)) for key, price in zip("abcdefg"[: 6 if indexes else 7], prices, strict=False)]
    put(view, table, *rows)
    with view.reading() as reading:
        found = [row.price for row in reading.find(table, RowQuery())]
        assert found[:6] == list(map(Decimal, prices[:6]))
        assert all(price.is_nan() for price in found[6:])
    infinity = Decimal("Infinity")
    assert ask(view, table, price=infinity) == ask(view, table, price=math.inf) == "a"
    assert ask(view, table, price=one_of(-infinity, infinity)) in ("ab", "ba")
    assert sorted(ask(view, table, price=between(0, None))) == ["a", "c", "d"]
    assert sorted(ask(view, table, price=between(None, infinity))) == ["a", "b", "c", "d", "e", "f"]
    assert sorted(ask(view, table, price=between(None, None))) == [row.key for row in rows]
    assert ask(view, table, "price") == ("befdca" if indexes else "befdcag")
    assert ask(view, table, "-price", price=between(Decimal("1E+300"), None)) == "ac"
    view.close()
