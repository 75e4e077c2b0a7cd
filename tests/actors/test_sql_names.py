"""Names in SQL: one that the database refuses is a mistake of the definition, and no fault that passes."""

from pathlib import Path

import pytest
import sqlalchemy
from attrs import field, frozen, make_class
from view_cases import FIRST, Balances, ask, everything, put

from eventsrc import DefinitionError, MemoryLog, Runtime
from eventsrc.actors.sql_view import SqlViews


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
