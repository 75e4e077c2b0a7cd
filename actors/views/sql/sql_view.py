"""Views in SQL: a projection's rows in their own tables, on SQLite or PostgreSQL; each batch is one transaction.

Generation N of the table `rows` of the projection `balances` is the SQL table `balances_rows_gN`. `balances_rows` is an
SQL view of the active generation, for people and programs that query the database themselves. `eventsrc_projections`
holds the checkpoints, `eventsrc_tables` assigns the tables to projections and generations.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table, Text, and_, func, or_, select, update

from ....storage.errors import ViewClosed
from ...errors import DefinitionError
from ..errors import ViewRemoved, ViewUnreachable
from ..row_type import RowType
from ..view_store import Generation, ViewRetry
from .engine import LOCK_SECONDS_MAX, begin_writing, make_engine, refuses_names, translating
from .generation import SqlView
from .table import SqlTable, columns_of

NAME_BYTES_MAX: Final = 63
"""The longest name in PostgreSQL; a longer name is cut and made unique with a hash."""
ROWS_DROPPED: Final = 5_000
"""How many rows one transaction removes when a generation is dropped on SQLite, where other writers wait meanwhile."""
_DDL_LOCK: Final = 0x6576_656E_7473_7263

logger = logging.getLogger("eventsrc.views")
_metadata = MetaData()
_projections = Table(
    "eventsrc_projections",
    _metadata,
    Column("projection", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("schema", Text, nullable=False),
    Column("state", Text, nullable=False),  # "active", "beside" or "dropped"
    Column("position", BigInteger, nullable=False),
    Column("event_hash", LargeBinary, nullable=False),
)
_tables = Table(
    "eventsrc_tables",
    _metadata,
    Column("name", Text, primary_key=True),
    Column("view_name", Text, nullable=False),
    Column("projection", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("table_name", Text, nullable=False),
    Column("columns", Text, nullable=False),
)


class SqlViews:
    """Keeps views in a database: `SqlViews("sqlite:///views.db")`, `SqlViews("postgresql://user@host/database")`.

    Close it when the runtime that uses it is closed. Its methods wait for the database: call them in a worker thread.
    Each raises `ViewUnreachable` or `ViewWriteFailed`, and `ViewClosed` once it is closed.

    Args:
        url: an SQLAlchemy URL of SQLite (a file) or PostgreSQL. Raises `DefinitionError` for any other URL.

    """

    def __init__(self, url: str | sqlalchemy.URL) -> None:
        self.engine = make_engine(url)
        self.path = self.engine.url.render_as_string(hide_password=True)
        self.is_postgresql = self.engine.dialect.name == "postgresql"
        self._turn = threading.Lock()
        self._is_closed = False

    def generations(self, projection: str) -> list[Generation]:
        with self._changing() as connection:
            stored = connection.execute(
                select(_projections.c.generation, _projections.c.version, _projections.c.schema)
                .where(_projections.c.projection == projection, _projections.c.state != "dropped")
                .order_by(_projections.c.state, _projections.c.generation.desc())
            )
            return [Generation(number, version, schema) for number, version, schema in stored]

    def open(self, projection: str, generation: Generation, tables: Iterable[RowType[Any]]) -> "SqlView":
        """Open a generation; make it if it is not there. Raises `DefinitionError` if a name is taken or refused."""
        wanted = list(tables)
        own = _generation(projection, generation.number)
        with self._changing() as connection:
            state = connection.execute(select(_projections.c.state).where(own)).scalar()
            if state == "dropped":
                self._remove(connection, projection, generation.number)
            if state is None or state == "dropped":
                connection.execute(
                    _projections.insert().values(
                        projection=projection,
                        generation=generation.number,
                        version=generation.version,
                        schema=generation.schema,
                        state="beside",
                        position=0,
                        event_hash=b"",
                    )
                )
            sql_tables = {
                table.name: self._open_table(connection, projection, generation.number, table) for table in wanted
            }
        return SqlView(self, projection, generation.number, sql_tables)

    def activate(self, projection: str, generation: Generation) -> None:
        """Make a generation the one that answers. Raises `ViewRemoved` if another process has dropped it meanwhile."""
        own = _generation(projection, generation.number)
        with self._changing() as connection:
            state = connection.execute(select(_projections.c.state).where(own)).scalar()
            if state in (None, "dropped"):
                raise ViewRemoved(self.path, f"{projection}, generation {generation.number}")
            names = select(_tables.c.view_name, _tables.c.name, _tables.c.generation)
            known = connection.execute(names.where(_tables.c.projection == projection)).all()
            new = {view: name for view, name, number in known if number == generation.number}
            for view in sorted({view for view, _, _ in known} - new.keys()):
                self._execute(connection, f"DROP VIEW IF EXISTS {self._quoted(view)}")
            for view, name in new.items():
                self._show(connection, view, name)
            connection.execute(
                update(_projections)
                .where(_projections.c.projection == projection, _projections.c.state != "dropped")
                .values(state=sqlalchemy.case((own, "active"), else_="beside"))
            )

    def drop(self, projection: str, generation: Generation) -> None:
        number = generation.number
        own = and_(_tables.c.projection == projection, _tables.c.generation == number)
        with self._changing() as connection:
            was_active = connection.execute(
                select(_projections.c.state).where(_generation(projection, number), _projections.c.state == "active")
            ).first()
            # From now on it is no generation any more, whatever happens next.
            connection.execute(update(_projections).where(_generation(projection, number)).values(state="dropped"))
            if was_active:
                for (view,) in connection.execute(select(_tables.c.view_name).where(own)).all():
                    self._execute(connection, f"DROP VIEW IF EXISTS {self._quoted(view)}")
        self._remove_in_steps(projection, number)

    def tidy(self, projection: str) -> None:
        dropped = and_(_projections.c.projection == projection, _projections.c.state == "dropped")
        with self._changing() as connection:
            numbers = [number for (number,) in connection.execute(select(_projections.c.generation).where(dropped))]
        for number in numbers:
            self._remove_in_steps(projection, number)

    def close(self) -> None:
        """Close all idle connections; abandoned queries close theirs when they end. Idempotent."""
        self._is_closed = True
        self.engine.pool.dispose()

    @contextmanager
    def connected(self, engine: sqlalchemy.Engine | None = None) -> Iterator[sqlalchemy.Connection]:
        """Get a connection; from `engine` if other options are needed. Raises `ViewClosed`."""
        if self._is_closed:
            raise ViewClosed(self.path)
        try:
            with (engine or self.engine).connect() as connection:
                yield connection
        finally:
            if self._is_closed:
                # A connection returned to the emptied pool would be left to the garbage collector.
                self.engine.pool.dispose()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other transaction of this process writes to SQLite. With PostgreSQL, do not wait."""
        if self.is_postgresql:
            yield
            return
        if not self._turn.acquire(timeout=LOCK_SECONDS_MAX):
            waited = f"another transaction of this process took {LOCK_SECONDS_MAX} seconds"
            raise ViewUnreachable(self.path, waited, is_locked=True)
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _changing(self) -> Iterator[sqlalchemy.Connection]:
        """A durable transaction that changes generations or tables, one at a time among all processes."""
        try:
            with translating(self.path), self.turn(), self.connected() as connection, begin_writing(connection, "FULL"):
                if self.is_postgresql:
                    self._execute(connection, f"SELECT pg_advisory_xact_lock({_DDL_LOCK})")
                _metadata.create_all(connection)
                yield connection
        except ViewRetry as error:
            raise ViewUnreachable(self.path, str(error), is_locked=True) from error

    def _open_table(
        self, connection: sqlalchemy.Connection, projection: str, number: int, table: RowType[Any]
    ) -> SqlTable:
        stored = connection.execute(
            select(_tables.c.name, _tables.c.columns).where(
                _tables.c.projection == projection,
                _tables.c.generation == number,
                _tables.c.table_name == table.name,
            )
        ).first()
        if stored is not None:
            return SqlTable(table, stored.name, json.loads(stored.columns), self.engine)
        view = _fitted(f"{projection}_{table.name}")
        name = _fitted(f"{projection}_{table.name}_g{number}")
        self._check_names(connection, projection, table.name, (view, name))
        columns = columns_of(table, "postgresql" if self.is_postgresql else "sqlite")
        kinds = {field: column.kind for field, column in columns.items()}
        try:
            made = SqlTable(table, name, kinds, self.engine)
            made.create(connection, lambda field: _fitted(f"{name}_{field}"))
        except sqlalchemy.exc.SQLAlchemyError as error:
            if not refuses_names(error):
                raise
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            raise DefinitionError(
                f"The table {table.name!r} of the projection {projection!r} cannot be called {name} in SQL, with the "
                f"columns {', '.join(kinds)}: {reason}. Name the projection, the table or the field otherwise."
            ) from error
        connection.execute(
            _tables.insert().values(
                name=name,
                view_name=view,
                projection=projection,
                generation=number,
                table_name=table.name,
                columns=json.dumps(kinds),
            )
        )
        return made

    def _check_names(
        self, connection: sqlalchemy.Connection, projection: str, table: str, names: tuple[str, str]
    ) -> None:
        is_own = and_(_tables.c.projection == projection, _tables.c.table_name == table)
        # To SQLite, `Rows` and `rows` are the same name.
        lowered = [name.lower() for name in names]
        taken = connection.execute(
            select(_tables.c.projection, _tables.c.table_name).where(
                or_(func.lower(_tables.c.name).in_(lowered), func.lower(_tables.c.view_name).in_(lowered)), ~is_own
            )
        ).first()
        if taken is not None:
            raise DefinitionError(
                f"The table {table!r} of the projection {projection!r} would be called {names[0]} in SQL, as the table "
                f"{taken.table_name!r} of {taken.projection!r} is. Rename one of them."
            )

    def _show(self, connection: sqlalchemy.Connection, view: str, name: str) -> None:
        """Have the SQL view show this table."""
        shown = f"VIEW {self._quoted(view)} AS SELECT * FROM {self._quoted(name)}"
        if self.is_postgresql:
            # Keeps grants on the view, and objects that depend on it, as long as the columns are the same.
            try:
                with connection.begin_nested():
                    self._execute(connection, f"CREATE OR REPLACE {shown}")
                return
            except sqlalchemy.exc.ProgrammingError:
                logger.info("an SQL view is made anew, since its columns have changed", extra={"sql_view": view})
        self._execute(connection, f"DROP VIEW IF EXISTS {self._quoted(view)}")
        self._execute(connection, f"CREATE {shown}")

    def _remove_in_steps(self, projection: str, number: int) -> None:
        """Remove a dropped generation's rows in steps, between which others can write, and then its tables.

        Stops if the number was given to a new generation meanwhile.
        """
        own = and_(_tables.c.projection == projection, _tables.c.generation == number)
        names: list[str] = []
        if not self.is_postgresql:
            with self._changing() as connection:
                names = [name for (name,) in connection.execute(select(_tables.c.name).where(own))]
        for name in names:
            left = 1
            while left:
                with self._changing() as connection:
                    if not self._is_dropped(connection, projection, number):
                        return
                    left = self._remove_rows(connection, name)
        with self._changing() as connection:
            if self._is_dropped(connection, projection, number):
                self._remove(connection, projection, number)

    def _is_dropped(self, connection: sqlalchemy.Connection, projection: str, number: int) -> bool:
        state = connection.execute(select(_projections.c.state).where(_generation(projection, number))).scalar()
        return state == "dropped"

    def _remove_rows(self, connection: sqlalchemy.Connection, name: str) -> int:
        if not sqlalchemy.inspect(connection).has_table(name):
            return 0
        keys = ", ".join(self._quoted(key) for key in _key_columns(connection, name))
        return connection.exec_driver_sql(
            f"DELETE FROM {self._quoted(name)} WHERE ({keys}) IN "
            f"(SELECT {keys} FROM {self._quoted(name)} LIMIT {ROWS_DROPPED})"
        ).rowcount

    def _remove(self, connection: sqlalchemy.Connection, projection: str, number: int) -> None:
        own = and_(_tables.c.projection == projection, _tables.c.generation == number)
        for (name,) in connection.execute(select(_tables.c.name).where(own)).all():
            self._execute(connection, f"DROP TABLE IF EXISTS {self._quoted(name)}")
        connection.execute(_tables.delete().where(own))
        connection.execute(_projections.delete().where(_generation(projection, number)))

    def _quoted(self, name: str) -> str:
        return self.engine.dialect.identifier_preparer.quote(name)

    def _execute(self, connection: sqlalchemy.Connection, statement: str) -> None:
        connection.exec_driver_sql(statement).close()


def _generation(projection: str, number: int) -> sqlalchemy.ColumnElement[bool]:
    return and_(_projections.c.projection == projection, _projections.c.generation == number)


def _key_columns(connection: sqlalchemy.Connection, name: str) -> list[str]:
    return list(sqlalchemy.inspect(connection).get_pk_constraint(name)["constrained_columns"])


def _fitted(name: str) -> str:
    """The name, shortened if it is too long for PostgreSQL."""
    encoded = name.encode()
    if len(encoded) <= NAME_BYTES_MAX:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{encoded[: NAME_BYTES_MAX - 9].decode(errors='ignore')}_{digest}"
