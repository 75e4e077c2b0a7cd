"""Names in SQL: those by which people query, and those that the database refuses."""

from pathlib import Path

import pytest
import sqlalchemy
from attrs import field, frozen, make_class
from view_cases import FIRST, ROWS, Balances, apply, ask, everything, open_session, put

from eventsrc import DefinitionError, MemoryLog, Runtime
from eventsrc.actors.views.sql import SqlViews
from eventsrc.actors.views.view_store import Generation


@frozen
class Cased:
    key: str
    N: int = 0
    n: int = 0


def is_sqlite(sql: SqlViews) -> bool:
    return not sql.is_postgresql


def test_fields_that_differ_in_case_alone(sql: SqlViews) -> None:
    table = everything((), rows=Cased)
    if is_sqlite(sql):
        with pytest.raises(
            DefinitionError, match=r"called all_things_g1 in SQL, .* key, N, n: duplicate column name: n"
        ):
            sql.open("all", FIRST, [table])
        assert sql.generations("all") == []
    else:
        view = sql.open("all", FIRST, [table])
        put(view, table, Cased("a", 1, 2))
        assert ask(view, table, N=1, n=2) == "a"


def test_names_that_the_database_keeps_for_itself(sql: SqlViews) -> None:
    if is_sqlite(sql):
        with pytest.raises(DefinitionError, match=r"projection 'sqlite' cannot be called .* reserved for internal use"):
            sql.open("sqlite", FIRST, [everything()])
        return
    # The first is one of its own columns; of the others it takes 63 characters, and then they are one.
    for names in (["ctid"], ["n" * 63 + "a", "n" * 63 + "b"]):
        rows: type = make_class("Rows", {"key": field(type=str)} | {name: field(type=int) for name in names})
        with pytest.raises(DefinitionError, match=f"columns key, {', '.join(names)}: .* Name the projection"):
            sql.open("all", FIRST, [everything((), rows=rows)])


def test_a_name_that_something_else_has(sql: SqlViews) -> None:
    with sql.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE all_things_g1 (x INTEGER)")
    with pytest.raises(DefinitionError, match="already exists"):
        sql.open("all", FIRST, [everything()])


class Sqlite(Balances, name="sqlite"):
    pass


async def test_a_runtime_says_so_when_it_is_opened(tmp_path: Path) -> None:
    views = SqlViews(f"sqlite:///{tmp_path}/views.db")
    with pytest.raises(DefinitionError, match="projection 'sqlite' cannot be called sqlite_rows_g1"):
        async with Runtime.open(MemoryLog(), projections=[Sqlite], views={Sqlite: views}):
            pass
    assert sqlalchemy.inspect(views.engine).get_view_names() == []
    views.close()


def test_people_can_query_the_rows_by_a_plain_name(url: str, sql: SqlViews) -> None:
    session = open_session(sql)
    apply(session, range(1, 21))
    sql.activate("balances", FIRST)
    database = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with database.connect() as connection:
        run = connection.exec_driver_sql
        assert run("SELECT sum(amount), min(owner) FROM balances_rows").one() == (20, "ann")
        assert run("SELECT position FROM eventsrc_projections WHERE projection = 'balances'").scalar() == 20
        names = {index["name"] for index in sqlalchemy.inspect(connection).get_indexes("balances_rows_g1")}
        assert names == {"balances_rows_g1_amount"}
    other = Generation(2, 2, "second")
    apply(open_session(sql, other), range(1, 31))
    sql.activate("balances", other)
    with database.connect() as connection:
        assert connection.exec_driver_sql("SELECT sum(amount) FROM balances_rows").scalar() == 30
    sql.drop("balances", FIRST)
    sql.drop("balances", other)
    with database.connect() as connection:
        inspector = sqlalchemy.inspect(connection)
        assert inspector.get_view_names() == []
        assert sorted(inspector.get_table_names()) == ["eventsrc_projections", "eventsrc_tables"]
    database.dispose()


def test_two_tables_of_one_name_are_told_apart(sql: SqlViews) -> None:
    one, other = everything(), everything()
    one.name, other.name = "b_c", "c"
    sql.open("a", FIRST, [one])
    with pytest.raises(DefinitionError, match=r"would be called a_b_c in SQL, as the table 'b_c' of 'a' is"):
        sql.open("a_b", FIRST, [other])
    assert sql.generations("a_b") == []
    other.name = "B_C"
    with pytest.raises(DefinitionError, match=r"would be called a_B_C in SQL, as the table 'b_c' of 'a' is"):
        sql.open("a", FIRST, [one, other])


def test_long_names_are_cut(sql: SqlViews) -> None:
    table = everything()
    names = ["p" * 99 + end for end in "ab"]
    for name in names:
        view = sql.open(name, FIRST, [table])
        put(view, table, *ROWS)
        sql.activate(name, FIRST)
        assert ask(view, table, "number", limit=1) == "b"
    for name in names:
        sql.drop(name, FIRST)
