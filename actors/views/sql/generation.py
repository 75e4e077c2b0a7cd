"""One generation of a view in SQL: each batch of rows and its checkpoint are one transaction."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import sqlalchemy

from ....storage.errors import ViewClosed
from ..criteria import Criterion, RowQuery
from ..errors import CheckpointMoved, RowInvalid, ViewReadFailed, ViewRemoved, ViewWriteFailed
from ..row_type import RowType
from ..view_store import Checkpoint, RowChange, ViewReading, ViewWriting
from .engine import Refused, begin_writing, is_refusal, translated, translating, unbounded
from .table import SqlTable

logger = logging.getLogger("eventsrc.views")


class SqlDatabase(Protocol):
    """What a generation needs of its database."""

    engine: sqlalchemy.Engine
    path: str
    is_postgresql: bool

    def turn(self) -> AbstractContextManager[None]:
        """Wait until writing is allowed."""

    def connected(self, engine: sqlalchemy.Engine | None = None) -> AbstractContextManager[sqlalchemy.Connection]:
        """Get a connection; from `engine` if other options are needed. Raises `ViewClosed`."""


class SqlView:
    """One generation in SQL."""

    waits = True

    def __init__(self, views: SqlDatabase, projection: str, number: int, tables: dict[str, SqlTable]) -> None:
        self.name = f"{projection}, generation {number},"
        self._views = views
        self._tables = tables
        self._key = (projection, number)
        self._is_closed = False
        mark = "%s" if views.is_postgresql else "?"
        own = f"FROM eventsrc_projections WHERE projection = {mark} AND generation = {mark} AND state <> 'dropped'"
        self._look = f"SELECT position, event_hash {own}"
        # Another process that projects into these tables waits here.
        self._claim = self._look + (" FOR UPDATE" if views.is_postgresql else "")
        self._save = (
            f"UPDATE eventsrc_projections SET position = {mark}, event_hash = {mark} "
            f"WHERE projection = {mark} AND generation = {mark} AND position = {mark}"
        )
        # On SQLite every transaction sees one consistent state.
        isolation = {"isolation_level": "REPEATABLE READ"} if views.is_postgresql else {}
        self._reader = views.engine.execution_options(**isolation)
        self._known = self._stored() or Checkpoint(0, b"")
        self._has_moved = False

    @property
    def checkpoint(self) -> Checkpoint:
        """The stored checkpoint, from which the caller must go on: after `CheckpointMoved`, it is read again.

        Raises `ViewRemoved`.
        """
        if self._has_moved:
            stored = self._stored()
            if stored is None:
                raise self._removed()
            self._known, self._has_moved = stored, False
        return self._known

    @contextmanager
    def reading(self, *, rows_max: int | None = None) -> Iterator[ViewReading]:
        """Begin a reading transaction. Raises `ViewUnreachable`, `ViewReadFailed`, `ViewRemoved`."""
        self._check()
        path = self._views.path
        try:
            with (
                translating(path, ViewReadFailed),
                self._views.connected(self._reader) as connection,
                connection.begin(),
                unbounded(connection),
            ):
                if not self._views.is_postgresql and self._look_at(connection) is None:
                    # On SQLite the rows of a dropped generation are removed in steps, so some may still be there.
                    raise self._removed()
                yield _Reading(self._tables, connection)
        except ViewReadFailed as error:
            if self._stored(ViewReadFailed) is None:
                # The view's tables were removed meanwhile.
                raise self._removed() from error
            raise

    @contextmanager
    def writing(self) -> Iterator[ViewWriting]:
        """Begin a writing transaction, which is committed if the block ends without an exception.

        Raises `CheckpointMoved` if the stored checkpoint is not the one that this view left, `ViewRemoved`,
        `ViewUnreachable`, `ViewWriteFailed`.
        """
        self._check()
        path = self._views.path
        with translating(path), self._views.turn(), self._views.connected() as connection:
            transaction = begin_writing(connection)
            writing = _Writing(self, connection, transaction)
            try:
                self._claim_it(connection)
                yield writing
                if writing.failure is not None:
                    # A handler has swallowed the error, and rows are missing.
                    raise writing.failure
                transaction.commit()
            except BaseException as error:
                _roll_back(transaction)
                # A database error in a handler is not its event's fault, unless the event's row caused it.
                failure = writing.failure
                if failure is not error and isinstance(error, Exception) and not isinstance(failure, RowInvalid | None):
                    raise failure from error
                raise
        if writing.saved is not None:
            self._known = writing.saved

    def close(self) -> None:
        self._is_closed = True

    @property
    def tables(self) -> dict[str, SqlTable]:
        """The view's tables by name."""
        return self._tables

    @property
    def path(self) -> str:
        """The database's URL, without the password."""
        return self._views.path

    def save(self, connection: sqlalchemy.Connection, checkpoint: Checkpoint) -> None:
        """Store the checkpoint, if the stored one is still that which this view left. Raises `CheckpointMoved`."""
        values = (checkpoint.position, checkpoint.event_hash, *self._key, self._known.position)
        if connection.exec_driver_sql(self._save, values).rowcount != 1:
            self._has_moved = True
            stored = self._look_at(connection)
            raise CheckpointMoved(self.path, self.name, self._known.position, 0 if stored is None else stored[0])

    def _claim_it(self, connection: sqlalchemy.Connection) -> None:
        stored = connection.exec_driver_sql(self._claim, self._key).first()
        if stored is None:
            raise self._removed()
        if self._has_moved or stored[0] != self._known.position:
            self._has_moved = True
            raise CheckpointMoved(self.path, self.name, self._known.position, stored[0])

    def _stored(self, refused: Refused = ViewWriteFailed) -> Checkpoint | None:
        with translating(self.path, refused), self._views.connected() as connection:
            stored = self._look_at(connection)
        return None if stored is None else Checkpoint(stored[0], bytes(stored[1]))

    def _look_at(self, connection: sqlalchemy.Connection) -> Any:
        """The stored checkpoint as a row; None if the view was removed."""
        return connection.exec_driver_sql(self._look, self._key).first()

    def _removed(self) -> ViewRemoved:
        return ViewRemoved(self.path, self.name.rstrip(","))

    def _check(self) -> None:
        if self._is_closed:
            raise ViewClosed(f"{self.path} ({self.name.rstrip(',')})")


class _Reading:
    def __init__(self, tables: dict[str, SqlTable], connection: sqlalchemy.Connection) -> None:
        self._tables = tables
        self._connection = connection

    def get(self, table: RowType[Any], key: tuple[Any, ...]) -> Any | None:
        return self._tables[table.name].get(self._connection, key)

    def find(self, table: RowType[Any], query: RowQuery) -> list[Any]:
        return self._tables[table.name].find(self._connection, query)

    def count(self, table: RowType[Any], criteria: dict[str, Criterion]) -> int:
        return self._tables[table.name].count(self._connection, criteria)


class _Writing(_Reading):
    def __init__(
        self, view: SqlView, connection: sqlalchemy.Connection, transaction: sqlalchemy.RootTransaction
    ) -> None:
        super().__init__(view.tables, connection)
        self._view = view
        self._transaction = transaction
        self.saved: Checkpoint | None = None
        self.failure: Exception | None = None
        """The error that the database raised, even if a handler has swallowed it. Nothing else is done then."""

    def get(self, table: RowType[Any], key: tuple[Any, ...]) -> Any | None:
        with self._noting():
            return super().get(table, key)

    def find(self, table: RowType[Any], query: RowQuery) -> list[Any]:
        with self._noting():
            return super().find(table, query)

    def count(self, table: RowType[Any], criteria: dict[str, Criterion]) -> int:
        with self._noting():
            return super().count(table, criteria)

    def write(self, table: RowType[Any], changes: Sequence[RowChange]) -> None:
        sql = self._tables[table.name]
        if not sql.is_current:
            raise ViewWriteFailed(self._view.path, f"{sql.sql.name} has other columns; raise the projection's version")
        put = [change.row for change in changes if change.row is not None]
        removed = [key for change in changes if change.row is None and (key := sql.key_from(change.key)) is not None]
        with self._noting():
            try:
                if put:
                    self._connection.exec_driver_sql(sql.upsert, [sql.parameters(row) for row in put])
            except Exception as error:
                if not is_refusal(error):
                    raise
                self._find_refused(sql, put, error)
                raise
            if removed:
                self._connection.exec_driver_sql(sql.delete, removed)

    def save(self, checkpoint: Checkpoint) -> None:
        with self._noting():
            self._view.save(self._connection, checkpoint)
        self.saved = checkpoint

    def _find_refused(self, sql: SqlTable, rows: list[Any], reason: Exception) -> None:
        """Raise `RowInvalid` for the row that the database refuses; nothing of the batch is stored anyway."""
        self._transaction.rollback()
        trial = begin_writing(self._connection)
        try:
            for row in rows:
                try:
                    with self._connection.begin_nested():
                        self._connection.exec_driver_sql(sql.upsert, [sql.parameters(row)])
                except Exception as error:
                    if not is_refusal(error):
                        raise
                    because = " ".join(str(getattr(error, "orig", None) or error).split())
                    self.failure = RowInvalid(f"A row of {sql.table.name} is refused: {because}: {row!r}", row)
                    raise self.failure from reason
        finally:
            _roll_back(trial)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        if self.failure is not None:
            # The transaction has failed: for any further statement, the database would only repeat that.
            raise self.failure
        try:
            yield
        except sqlalchemy.exc.SQLAlchemyError as error:
            self.failure = translated(self._view.path, error)
            raise self.failure from error


def _roll_back(transaction: sqlalchemy.RootTransaction) -> None:
    try:
        if transaction.is_active:
            transaction.rollback()
    except sqlalchemy.exc.SQLAlchemyError:
        # The connection is lost, and with it the transaction; the error that lost it is raised.
        logger.debug("a transaction could not be rolled back", exc_info=True)
