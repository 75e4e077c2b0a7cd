"""Where views live: what LMDB, SQLite and PostgreSQL have in common."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve, field, make_class
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from view_cases import (
    FIRST,
    NOON,
    PLUS_2,
    ROWS,
    Balance,
    Balances,
    Colour,
    Everything,
    Pair,
    Place,
    Size,
    apply,
    ask,
    everything,
    open_session,
    put,
    stored,
    total,
)

from eventsrc import (
    Table,
    ViewClosed,
    between,
    one_of,
    starting_with,
)
from eventsrc.actors.serialization.serializer import Serializer
from eventsrc.actors.views.criteria import Order, RowQuery, criteria_of
from eventsrc.actors.views.lmdb_view import LmdbViews
from eventsrc.actors.views.row_type import RowType
from eventsrc.actors.views.session import EventFailed
from eventsrc.actors.views.sql import SqlViews
from eventsrc.actors.views.view_store import Checkpoint, Generation, RowChange, StoredView, ViewReading, ViewStore
from eventsrc.storage.ordered_key import sorting_key


def test_rows_of_every_type_come_back_as_they_were(views: ViewStore) -> None:
    table = everything()
    view = views.open("all", FIRST, [table])
    put(view, table, *ROWS)
    with view.reading() as reading:
        assert [reading.get(table, (row.key,)) for row in ROWS] == ROWS
        assert reading.get(table, ("nobody",)) is None
        found = reading.get(table, ("b",))
        assert found is not None
        assert type(found.amount) is int
        assert found.price is not None
        assert str(found.price) == "9.50"
    view.close()


QUERIES: list[tuple[dict[str, Any], str]] = [
    ({"key": "d"}, "d"),
    ({"number": 7}, "def"),
    ({"number": 7.0}, "def"),
    ({"number": 7.5}, ""),
    ({"number": 2**70}, ""),
    ({"number": "7"}, ""),
    ({"number": between(-5, 7)}, "abdef"),
    ({"number": between(-5.5, 6.9)}, "ab"),
    ({"number": between(None, 2**70)}, "abcdefß"),
    ({"number": between(2**70, None)}, ""),
    ({"number": between(8, None)}, "cß"),
    ({"number": one_of(0, 7, "x", None)}, "adef"),
    ({"number": one_of()}, ""),
    ({"number": one_of(*range(5_000))}, "adefß"),
    ({"maybe": None}, "adeß"),
    ({"maybe": one_of(None, 2)}, "acdeß"),
    ({"maybe": between(None, 3)}, "bcf"),
    ({"ratio": 7}, "ß"),
    ({"ratio": 0.1}, "f"),
    ({"ratio": between(-1, Decimal("0.1"))}, "abde"),
    ({"text": "anna"}, "c"),
    ({"text": "Anna"}, ""),
    ({"text": starting_with("anna")}, "ceß"),
    ({"text": starting_with("anna%")}, "e"),
    ({"text": starting_with("anna\U0010ffff")}, "ß"),
    ({"text": starting_with("")}, "bcdefß"),
    ({"text": between("Z", "anna")}, "bc"),
    ({"text": between("a", None)}, "cdeß"),
    ({"text": None}, "a"),
    ({"number": starting_with("7")}, ""),
    ({"flag": True}, "bf"),
    ({"flag": 0}, "acdeß"),
    ({"raw": between(b"\x00", None)}, "be"),
    ({"raw": b"\x00\xff"}, "b"),
    ({"when": NOON.astimezone(PLUS_2)}, "b"),
    ({"when": between(datetime(2024, 5, 1, 11, 30, tzinfo=UTC), NOON)}, "bc"),
    ({"when": between(NOON, None)}, "bf"),
    ({"day": date(2024, 5, 1)}, "b"),
    ({"day": between(None, date(2024, 1, 1))}, "e"),
    ({"span": between(timedelta(), timedelta(days=1))}, "acdefß"),
    ({"price": Decimal("9.5")}, "b"),
    ({"price": 9.5}, "b"),
    ({"price": between(-1000, Decimal("9.5"))}, "be"),
    ({"price": one_of(Decimal("10.250"), None)}, "acdfß"),
    ({"uid": UUID(int=7)}, "b"),
    ({"uid": between(UUID(int=8), None)}, "d"),
    ({"colour": Colour.BLUE}, "b"),
    ({"colour": "blue"}, ""),
    ({"size": Size.LARGE}, "b"),
    ({"size": 2}, "b"),
    ({"amount": between(1, None)}, "b"),
    ({"place": Place("here", [1, 2])}, "b"),
    ({"place": None}, "acdef"),
    ({"tags": {"x": b"\x01\x02"}}, "b"),
    ({"number": 7, "text": starting_with("anna")}, "e"),
    ({"number": 7, "flag": True, "maybe": 3}, "f"),
    ({}, "abcdefß"),
]


@pytest.mark.parametrize("indexes", [(), ("number", "maybe", "ratio", "text", "price", "when", "colour")])
def test_every_criterion(views: ViewStore, indexes: tuple[str, ...]) -> None:
    table = everything(indexes)
    view = views.open("all", FIRST, [table])
    put(view, table, *ROWS)
    for criteria, keys in QUERIES:
        assert "".join(sorted(ask(view, table, **criteria))) == keys, criteria
        with view.reading() as reading:
            assert reading.count(table, criteria_of(table.fields, table.name, criteria)) == len(keys), criteria
    view.close()


@pytest.mark.parametrize("indexes", [(), ("number", "maybe", "text", "when", "price", "day", "uid")])
def test_orders_limits_and_offsets(views: ViewStore, indexes: tuple[str, ...]) -> None:
    table = everything(indexes)
    view = views.open("all", FIRST, [table])
    put(view, table, *reversed(ROWS))
    assert ask(view, table) == "abcdefß"
    assert ask(view, table, "-key") == "ßfedcba"
    assert ask(view, table, "number") == "badefßc"
    assert ask(view, table, "-number", "key") == "cßdefab"
    assert ask(view, table, "maybe", "key") == "adeßcbf", "None comes first"
    assert ask(view, table, "-maybe", "key") == "bfcadeß", "None comes last"
    assert ask(view, table, "text") == "afbceßd", "in the order of code points, capitals first"
    assert ask(view, table, "-text") == "dßecbfa"
    assert ask(view, table, "price", "key") == "acfßebd"
    assert ask(view, table, "when", "key") == "adeßcbf"
    assert ask(view, table, "-uid", "-key") == "dbßfeca"
    assert ask(view, table, "day", "-key") == "ßfdcaeb"
    assert ask(view, table, "span", "key") == "bacefßd"
    assert ask(view, table, "number", limit=2) == "ba"
    assert ask(view, table, "number", limit=2, offset=1) == "ad"
    assert ask(view, table, "number", offset=5) == "ßc"
    assert ask(view, table, "number", limit=0) == ""
    assert ask(view, table, "number", offset=50) == ""
    assert ask(view, table, limit=3, offset=2) == "cde"
    assert ask(view, table, "-text", limit=1, number=7) == "d"
    assert ask(view, table, "-key", limit=2, offset=1, place=None) == "ed", "what Python looks at has limits, too"
    assert ask(view, table, "price", price=between(0, None)) == "bd"
    view.close()


def test_pages_in_an_order_with_ties_hold_every_row_once(views: ViewStore) -> None:
    table = everything()
    view = views.open("all", FIRST, [table])
    put(view, table, *(Everything(f"{number:03}", number=number % 3) for number in range(100)))
    keys = [ask(view, table, "-number", limit=7, offset=offset) for offset in range(0, 100, 7)]
    assert sorted("".join(keys)[start : start + 3] for start in range(0, 300, 3)) == [f"{n:03}" for n in range(100)]
    view.close()


def test_put_replace_and_delete(views: ViewStore) -> None:
    session = open_session(views)
    session.apply([stored(1, "a", {"amount": 3}), stored(2, "b", {"amount": 4})], Checkpoint(2, b"2"))
    session.apply([stored(3, "a", {"amount": 5})], Checkpoint(3, b"3"))
    rows, pairs = (RowType(table, Serializer()) for table in Balances.__eventsrc_projection__.tables.values())
    day = date(2024, 1, 1)
    with session.view.reading() as reading:
        assert reading.find(rows, RowQuery()) == [Balance("a", "ann", 8), Balance("b", "ann", 4)]
        assert reading.get(pairs, (3, "a", day)) == Pair(3, "a", day)
        assert reading.count(pairs, {}) == 3
    session.apply([stored(4, "a", {}, "thing.undone"), stored(5, "c", {"amount": 1})], Checkpoint(5, b"5"))
    with session.view.reading() as reading:
        assert reading.find(rows, RowQuery(order=(Order("amount"),))) == [
            Balance("c", "ann", 1),
            Balance("b", "ann", 4),
        ]
        assert [row.left for row in reading.find(pairs, RowQuery())] == [2, 5]
        assert reading.get(rows, ("a",)) is None
    assert session.view.checkpoint == Checkpoint(5, b"5")
    session.view.close()


KEYS: list[tuple[type, list[Any]]] = [
    (int, [-(2**62), -1, 0, 3, 2**53 + 1, 2**62]),
    (float, [-1e300, -0.5, 0.1, 3.0]),
    (str, ["", "a", "a\U0001f600", "\x7f", "ä"]),
    (bytes, [b"", b"\x00", b"\x00\x01", b"\x01", b"\xff\x00"]),
    (bool, [False, True]),
    (date, [date(1, 1, 1), date(2024, 2, 29)]),
    (datetime, [NOON, NOON + timedelta(microseconds=1)]),
    (timedelta, [timedelta(days=-3), timedelta(microseconds=1)]),
    (Decimal, [Decimal("-7.25"), Decimal("0.10"), Decimal("1e10")]),
    (UUID, [UUID(int=1), UUID(int=2**100)]),
    (Colour, [Colour.BLUE, Colour.RED]),
    (Size, [Size.SMALL, Size.LARGE]),
]


@pytest.mark.parametrize(("key_type", "keys"), KEYS, ids=lambda given: getattr(given, "__name__", ""))
def test_keys_of_every_type_are_found_sorted_and_deleted(views: ViewStore, key_type: type, keys: list[Any]) -> None:
    keyed: Any = make_class("Keyed", {"key": field(type=key_type), "group": field(type=str), "value": field(type=int)})
    table: RowType[Any] = RowType(named(Table(keyed, key=("group", "key"))), Serializer())
    view = views.open("keyed", FIRST, [table])
    rows = [keyed(key, "g", number) for number, key in enumerate(keys)]
    put(view, table, *reversed(rows))
    put(view, table, *rows)
    with view.reading() as reading:
        assert reading.find(table, RowQuery()) == rows
        assert [reading.get(table, ("g", key)) for key in keys] == rows
    for number, key in enumerate(keys):
        with view.writing() as writing:
            writing.write(table, [RowChange(table.key(("g", key)), None, (), None)])
        with view.reading() as reading:
            assert reading.count(table, {}) == len(keys) - number - 1, key
            assert reading.get(table, ("g", key)) is None
    view.close()


def named(table: Table[Any]) -> Table[Any]:
    table.name = "keyed"
    return table


def test_nothing_of_a_batch_is_stored_when_a_handler_raises(views: ViewStore) -> None:
    session = open_session(views)
    apply(session, range(1, 51))
    events = [stored(51, "1", {"amount": 1}), stored(52, "2", {"amount": 1, "raises": True})]
    for _ in range(2):
        with pytest.raises(EventFailed, match="position 52"):
            session.apply(events, Checkpoint(52, b""))
        assert session.view.checkpoint.position == 50
        assert total(session.view) == 50
    apply(session, range(51, 61))
    assert total(session.view) == 60
    session.view.close()


def test_a_view_is_there_when_it_is_opened_again(views: ViewStore) -> None:
    session = open_session(views)
    apply(session, range(1, 101))
    session.view.close()
    session = open_session(views)
    assert session.view.checkpoint == Checkpoint(100, b"h" * 32)
    apply(session, range(101, 201))
    assert total(session.view) == 200
    session.view.close()


def test_generations_are_beside_each_other_and_one_answers(views: ViewStore) -> None:
    assert views.generations("balances") == []
    old, new = FIRST, Generation(2, 2, "second")
    first, second = open_session(views, old), open_session(views, new)
    views.activate("balances", old)
    assert views.generations("balances") == [old, new]
    assert views.generations("others") == []
    apply(first, range(1, 11))
    apply(second, range(1, 101))
    assert (total(first.view), total(second.view)) == (10, 100)
    views.activate("balances", new)
    assert views.generations("balances") == [new, old]
    first.view.close()
    views.drop("balances", old)
    assert views.generations("balances") == [new]
    assert total(second.view) == 100
    second.view.close()
    again = open_session(views, old)
    assert again.view.checkpoint == Checkpoint(0, b"")
    assert total(again.view) == 0
    again.view.close()
    with pytest.raises(ViewClosed):
        total(again.view)


CHILD = """
import sys
from pathlib import Path
from view_cases import apply, open_session
from eventsrc.actors.views.lmdb_view import LmdbViews

where = sys.argv[1]
if "://" in where:
    from eventsrc.actors.views.sql import SqlViews

    views = SqlViews(where)
else:
    views = LmdbViews(Path(where))
session = open_session(views)
position = session.view.checkpoint.position
while True:
    apply(session, range(position + 1, position + 21))
    print("goes on", flush=True)
    position += 20
"""


def until_nobody_else_is_connected(views: SqlViews) -> None:
    """A server brings to its end what it does for a client that was killed."""
    others = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    while views.is_postgresql:
        with views.engine.connect() as connection:
            if not connection.exec_driver_sql(others).all():
                return


@pytest.mark.parametrize("kind", ["lmdb", "sqlite", "postgresql"])
def test_rows_and_checkpoint_agree_whenever_the_process_is_killed(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = {"lmdb": str(tmp_path / "views"), "sqlite": f"sqlite:///{tmp_path / 'views.db'}"}.get(kind)
    where = where or str(request.getfixturevalue("postgres_url"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    reached = 0
    for attempt in range(3):
        child = subprocess.Popen([sys.executable, "-c", CHILD, where], stdout=subprocess.PIPE, env=environment)
        with child:
            assert child.stdout is not None
            for _ in range(1 + 3 * attempt):
                assert child.stdout.readline() == b"goes on\n"
            child.send_signal(signal.SIGKILL)
        views: ViewStore = LmdbViews(Path(where)) if kind == "lmdb" else SqlViews(where)
        if isinstance(views, SqlViews):
            until_nobody_else_is_connected(views)
        session = open_session(views)
        position = session.view.checkpoint.position
        assert total(session.view) == position
        assert position > reached, "it went on from where it was"
        reached = position
        session.view.close()
        if isinstance(views, SqlViews):
            views.close()


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)
DECIMALS = [
    *map(Decimal, ("1", "1.0", "1.00", "1e30", "-1e30", "1e-30", "-0.0", "1e2", "100")),
    *map(Decimal, ("12345678901234567890.12", "12345678901234567890.13", "0.1234567890123456789012")),
]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "number": st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
    "maybe": st.none() | st.integers(-3, 3),
    "ratio": st.floats(allow_nan=False) | st.sampled_from([0.5, 1.0, 2.0]),
    "text": st.none() | TEXTS | TEXTS.map(("long" * 60).__add__),
    "when": st.none() | st.datetimes(datetime(1, 1, 2), timezones=st.sampled_from([UTC, PLUS_2])),
    "price": st.none() | st.decimals(-100, 100, places=2) | st.sampled_from(DECIMALS),
    "raw": st.binary(max_size=3),
    "flag": st.booleans(),
}
NUMBERS = itertools.count(1)


@st.composite
def criteria(draw: st.DrawFn) -> dict[str, Any]:
    fields = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=2, unique=True))
    asked: dict[str, Any] = {}
    for field_ in fields:
        values = VALUES[field_].filter(lambda value: value is not None)
        kinds = [VALUES[field_], st.builds(lambda given: one_of(*given), st.lists(VALUES[field_], max_size=3))]
        kinds.append(st.builds(between, st.none() | values, st.none() | values))
        if field_ == "text":
            kinds.append(st.builds(starting_with, TEXTS))
        asked[field_] = draw(st.one_of(*kinds))
    return asked


@st.composite
def everything_rows(draw: st.DrawFn) -> list[Everything]:
    keys = draw(st.lists(TEXTS, max_size=8, unique=True))
    return [Everything(key, **{name: draw(values) for name, values in VALUES.items()}) for key in keys]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_query_of_any_rows_finds_what_python_finds(views: ViewStore, data: st.DataObject) -> None:
    table = everything(("number", "text", "when", "price"))
    rows = data.draw(everything_rows())
    generation = Generation(next(NUMBERS), 1, "any")
    with closing(views.open("any", generation, [table])) as view:
        put(view, table, *rows)
        check_queries(view, table, rows, data)
        with view.writing() as writing:
            writing.write(table, [RowChange(table.key((row.key,)), None, table.indexed(row), None) for row in rows])
        with view.reading() as reading:
            assert reading.count(table, {}) == 0
    views.drop("any", generation)


def check_queries(view: StoredView, table: RowType[Any], rows: list[Everything], data: st.DataObject) -> None:
    with view.reading() as reading:
        assert [reading.get(table, (row.key,)) for row in rows] == rows
        for _ in range(5):
            query = RowQuery(
                criteria_of(table.fields, table.name, data.draw(criteria())),
                (Order(data.draw(st.sampled_from(sorted(VALUES))), data.draw(st.booleans())), Order("key")),
                data.draw(st.integers(0, 3)),
                data.draw(st.none() | st.integers(0, 5)),
            )
            wanted = sorted((row for row in rows if query.matches(row)), key=lambda row: row.key)
            wanted.sort(key=sort_key(query.order[0].field), reverse=query.order[0].descending)
            end = None if query.limit is None else query.offset + query.limit
            assert reading.find(table, query) == wanted[query.offset : end], query
            assert reading.count(table, dict(query.criteria)) == len(wanted)
            # Of a query by one field, which an index may serve, and of one in no order.
            for order in (query.order[:1], ()):
                paged = evolve(query, order=order, offset=0, limit=data.draw(st.integers(1, 4)))
                found = list(pages(reading, table, paged))
                assert sorted(row.key for row in found) == sorted(row.key for row in wanted), paged
                values = [sort_key(each.field)(row) for row in found for each in order]
                assert values == sorted(values, reverse=query.order[0].descending), paged


def sort_key(field_: str) -> Callable[[Any], bytes]:
    return lambda row: sorting_key(getattr(row, field_))


def pages(reading: ViewReading, table: RowType[Any], query: RowQuery) -> Iterator[Any]:
    """All rows that a query finds, a page at a time."""
    while page := reading.find(table, query):
        yield from page
        query = evolve(query, offset=query.offset + len(page), last=page[-1])
