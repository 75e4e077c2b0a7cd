"""Views in SQL: what is special about a database."""

import gc
import sqlite3
import threading
import warnings
from datetime import datetime
from pathlib import Path
from sqlite3 import dbapi2
from typing import Any

import pytest
from attrs import frozen
from postgres_server import PostgresServer
from sqlalchemy.exc import OperationalError
from view_cases import (
    FIRST,
    PLUS_2,
    ROWS,
    Balances,
    Everything,
    apply,
    ask,
    everything,
    open_session,
    put,
    stored,
    total,
)

from eventsrc import (
    CheckpointMoved,
    DecodingError,
    DefinitionError,
    ViewUnreachable,
    ViewWriteFailed,
)
from eventsrc.actors.serialization.serializer import Serializer
from eventsrc.actors.views.criteria import RowQuery
from eventsrc.actors.views.errors import RowInvalid, ViewRemoved
from eventsrc.actors.views.row_type import RowType
from eventsrc.actors.views.session import EventFailed
from eventsrc.actors.views.sql import SqlViews
from eventsrc.actors.views.view_store import Generation, RowChange


def test_an_old_generation_answers_queries_of_a_changed_class(sql: SqlViews) -> None:
    @frozen
    class Old:
        key: str
        number: int
        gone: str = "x"
        changed: int = 4

    @frozen
    class New:
        key: str
        number: int
        added: int = 9
        changed: float = 0.0

    @frozen
    class Other:
        key: str
        number: int
        changed: str = ""

    old = everything((), rows=Old)
    view = sql.open("all", FIRST, [old])
    put(view, old, Old("a", 1), Old("b", 2))
    view.close()
    new = everything((), rows=New)
    view = sql.open("all", FIRST, [new])
    with view.reading() as reading:
        assert reading.find(new, RowQuery()) == [New("a", 1, 9, 4.0), New("b", 2, 9, 4.0)]
        assert reading.get(new, ("b",)) == New("b", 2, 9, 4.0)
        assert reading.get(new, ("c",)) is None
    assert ask(view, new, number=2) == "b"
    assert ask(view, new, added=9) == "ab"
    assert ask(view, new, "-added", "-number", changed=4) == "ba"
    with pytest.raises(ViewWriteFailed, match="raise the projection's version"):
        put(view, new, New("c", 1))
    view.close()
    other = everything((), rows=Other).for_older_rows()
    view = sql.open("all", FIRST, [other])
    with view.reading() as reading, pytest.raises(DecodingError, match=r"4 is no str @ \$.changed.* being built anew"):
        reading.get(other, ("b",))


def test_two_that_project_into_the_same_tables_take_each_event_once(url: str) -> None:
    stores = [SqlViews(url), SqlViews(url)]
    reached: list[int] = []
    failures: list[BaseException] = []

    def project(views: SqlViews) -> None:
        try:
            session = open_session(views)
            position = session.view.checkpoint.position
            while position < 1_000:
                try:
                    apply(session, range(position + 1, position + 11))
                    position += 10
                except CheckpointMoved:
                    position = session.view.checkpoint.position
            reached.append(position)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=project, args=[views]) for views in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert reached == [1_000, 1_000]
    assert total(open_session(stores[0]).view) == 1_000
    for views in stores:
        views.close()


def test_the_loser_repeats_nothing_until_it_has_read_the_checkpoint(url: str, sql: SqlViews) -> None:
    other = SqlViews(url)
    loser, winner = open_session(sql), open_session(other)
    apply(loser, range(1, 11))
    with pytest.raises(CheckpointMoved):
        apply(winner, range(1, 11))
    assert winner.view.checkpoint.position == 10
    apply(winner, range(11, 21))
    for _ in range(3):
        with pytest.raises(CheckpointMoved, match="is at position 20, and its projector left it at 10"):
            apply(loser, range(11, 21))
    assert loser.view.checkpoint.position == 20
    apply(loser, range(21, 31))
    assert total(loser.view) == 30
    other.close()


def test_a_commit_whose_answer_is_lost_is_not_repeated(sql: SqlViews, monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(sql)
    apply(session, range(1, 11))
    commit = sql.engine.dialect.do_commit

    def lose_the_answer(connection: Any) -> None:
        commit(connection)
        raise OperationalError("COMMIT", {}, ConnectionError("the line is dead"))

    monkeypatch.setattr(sql.engine.dialect, "do_commit", lose_the_answer)
    with pytest.raises((ViewUnreachable, ViewWriteFailed)):
        apply(session, range(11, 21))
    monkeypatch.undo()
    with pytest.raises(CheckpointMoved):
        apply(session, range(11, 21))
    assert session.view.checkpoint.position == 20
    apply(session, range(21, 31))
    assert total(session.view) == 30


def test_a_row_that_does_not_fit_its_column_is_named(sql: SqlViews) -> None:
    table = everything()
    view = sql.open("all", FIRST, [table])
    for bad in (
        Everything("x", number="many"),  # type: ignore[arg-type]
        Everything("x", number=2**63),
        Everything("x", number=None),  # type: ignore[arg-type]
        Everything("x", text="lone \udc00"),
        Everything("x", when="today"),  # type: ignore[arg-type]
        Everything("x", when=datetime.min.replace(tzinfo=PLUS_2)),  # in UTC it would be before the year 1
    ):
        with pytest.raises(RowInvalid, match=r"row of things .*: Everything") as refused, view.writing() as writing:
            changes = [RowChange(table.key((row.key,)), row, None, None) for row in (ROWS[0], bad, ROWS[1])]
            writing.write(table, changes)
        assert refused.value.row is bad
        assert ask(view, table) == ""
    put(view, table, *ROWS)
    assert ask(view, table) == "abcdefß"


def test_databases_and_keys_that_cannot_be(tmp_path: Path, sql: SqlViews) -> None:
    for bad in ("mysql://localhost/views", "sqlite://", "sqlite:///:memory:", "no url"):
        with pytest.raises(DefinitionError):
            SqlViews(bad)
    with pytest.raises(DefinitionError, match=r"Everything.maybe is a key and cannot be one in SQL"):
        sql.open("all", FIRST, [everything((), "maybe")])
    with pytest.raises(DefinitionError, match="place of things can be neither a key nor an index"):
        sql.open("all", FIRST, [everything((), "place")])


def test_what_was_dropped_in_part_is_made_anew(url: str, sql: SqlViews) -> None:
    apply(open_session(sql), range(1, 101))
    with sql.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE eventsrc_projections SET state = 'dropped'")
    assert sql.generations("balances") == []
    session = open_session(sql)
    assert session.view.checkpoint.position == 0
    apply(session, range(1, 11))
    assert total(session.view) == 10


def test_what_another_process_has_dropped_does_not_become_what_answers(
    sql: SqlViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Generation(2, 1, "second")
    for generation in (FIRST, second):
        open_session(sql, generation)
    sql.activate("balances", FIRST)
    with monkeypatch.context() as patched:
        # The other process has not come to removing its tables yet.
        patched.setattr(SqlViews, "_remove_in_steps", lambda *_: None)
        sql.drop("balances", second)
    with pytest.raises(ViewRemoved):
        sql.activate("balances", second)
    assert sql.generations("balances") == [FIRST]
    sql.tidy("balances")
    with pytest.raises(ViewRemoved):
        sql.activate("balances", second)
    with sql.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM balances_rows").scalar() == 0
        assert connection.exec_driver_sql("SELECT state FROM eventsrc_projections").scalars().all() == ["active"]


def test_a_reader_sees_one_state_while_batches_are_written(sql: SqlViews) -> None:
    session = open_session(sql)
    apply(session, range(1, 11))
    table = RowType(Balances.rows, Serializer())
    with session.view.reading() as reading:
        before = reading.find(table, RowQuery())
        thread = threading.Thread(target=apply, args=[session, range(11, 21)])
        thread.start()
        thread.join()
        assert reading.find(table, RowQuery()) == before
    assert total(session.view) == 20


def test_many_readers_at_once(sql: SqlViews) -> None:
    session = open_session(sql)
    apply(session, range(1, 101))
    sums: list[int] = []
    threads = [threading.Thread(target=lambda: sums.append(total(session.view))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [100] * 20


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "views.db").write_bytes(b"something else" * 1000)
    views = SqlViews(f"sqlite:///{tmp_path / 'views.db'}")
    with pytest.raises(ViewWriteFailed, match="file is not a database"):
        views.generations("balances")
    views.close()
    views = SqlViews(f"sqlite:///{tmp_path / 'missing' / 'views.db'}")
    with pytest.raises(ViewUnreachable, match="unable to open"):
        views.generations("balances")
    views.close()
    with warnings.catch_warnings():
        # SQLAlchemy before 2.1 leaves closing such a connection to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_a_locked_database_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventsrc.actors.views.sql.engine.LOCK_SECONDS_MAX", 0.05)
    views = SqlViews(f"sqlite:///{tmp_path / 'views.db'}")
    session = open_session(views)
    other = sqlite3.connect(tmp_path / "views.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ViewUnreachable, match=r"is locked: database is locked\. .* which other transaction"):
        apply(session, range(1, 11))
    other.execute("ROLLBACK")
    other.close()
    apply(session, range(1, 11))
    assert total(session.view) == 10
    views.close()


def test_a_database_that_could_once_be_opened_for_reading_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = SqlViews(f"sqlite:///{tmp_path / 'views.db'}")
    session = open_session(views)
    views.engine.dispose()
    connect = dbapi2.connect

    def connect_for_reading(path: str, **options: Any) -> sqlite3.Connection:
        # What SQLite does itself where it finds no descriptor, and one a moment later.
        return connect(f"file:{path}?mode=ro", uri=True, **options)

    with monkeypatch.context() as patch:
        patch.setattr(dbapi2, "connect", connect_for_reading)
        with pytest.raises(ViewWriteFailed, match="readonly database"):
            apply(session, range(1, 11))
    apply(session, range(1, 11))
    assert total(session.view) == 10
    views.close()


def test_a_server_that_stops_and_starts_again(postgres_server: PostgresServer, postgres_url: str) -> None:
    views = SqlViews(postgres_url)
    session = open_session(views)
    apply(session, range(1, 11))
    postgres_server.stop()
    try:
        for _ in range(3):
            with pytest.raises(ViewUnreachable, match="cannot be reached"):
                apply(session, range(11, 21))
            with pytest.raises(ViewUnreachable):
                total(session.view)
    finally:
        postgres_server.start()
    apply(session, range(11, 21))
    assert total(session.view) == 20
    assert session.view.checkpoint.position == 20
    views.close()


def test_a_server_that_goes_away_in_mid_batch(postgres_server: PostgresServer, postgres_url: str) -> None:
    views = SqlViews(postgres_url)
    session = open_session(views)
    apply(session, range(1, 11))
    table = RowType(Balances.rows, Serializer())
    with pytest.raises(ViewUnreachable), session.view.writing() as writing:
        assert writing.get(table, ("1",)) is not None
        postgres_server.stop()
        postgres_server.start()
        try:
            writing.get(table, ("1",))
        except ViewUnreachable as error:
            # As the session does with whatever a handler raises.
            raise EventFailed(stored(11, "1", {}), error) from error
    apply(session, range(11, 21))
    assert total(session.view) == 20
    views.close()
