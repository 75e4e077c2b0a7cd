"""Connections to the database of SQL views, and the translation of its drivers' errors into this package's."""

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ...errors import DefinitionError
from ..errors import ViewReadFailed, ViewUnreachable, ViewWriteFailed
from ..view_store import ViewRetry
from .columns import DECIMAL_COLLATION
from .values import compare_decimals

Refused: TypeAlias = type[ViewWriteFailed] | type[ViewReadFailed]

CONNECTIONS_MAX: Final = 40
"""As many as trio's default number of worker threads."""
CONNECTIONS_KEPT: Final = 8
CONNECT_SECONDS_MAX: Final = 5
LOCK_SECONDS_MAX: Final = 10
"""How long a transaction waits for another one."""
LOCK_RETRY_SECONDS: Final = 0.01
SILENT_SECONDS_MAX: Final = 15
"""After so many seconds a PostgreSQL server that does not answer is given up."""
IDLE_SECONDS_MAX: Final = 60
"""After so many seconds PostgreSQL ends a transaction whose process has gone away."""

_SPOILT: Final = frozenset(
    (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL)
)
"""After these errors, SQLite may refuse everything on the same connection: if it cannot open a file for writing, for
lack of file descriptors for example, it opens the file read-only and keeps it so."""
_LOCKED: Final = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED))
_PRIMARY_CODE: Final = 0xFF
_WRITES: Final = "eventsrc_writes"
_AGAIN: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_LOCKED_TOO_LONG: Final = "55P03"
_TOOK_TOO_LONG: Final = "57014"
"""A statement took longer than the server allows. A query may simply be slow; a write of ours waits for a lock."""
_NO_ROOM: Final = frozenset({"53100", "53200"})  # disk full, out of memory
_NO_PRIVILEGE: Final = "42501"
_REFUSED_CLASSES: Final = frozenset({"0A", "22", "23", "54"})  # a value, a constraint, a limit
_REFUSED_TYPES: Final = frozenset({"42804", "42846"})
"""The only errors of their class that concern a value; the others concern a table changed by hand, or missing
rights."""


def make_engine(url: str | sqlalchemy.URL) -> sqlalchemy.Engine:
    """Make an engine for SQLite in a file or for PostgreSQL. Raises `DefinitionError` for anything else."""
    try:
        given = sqlalchemy.make_url(url)
    except SQLAlchemyError as error:
        raise DefinitionError(f"SqlViews takes a database URL such as sqlite:///views.db: {error}") from error
    if given.get_backend_name() in ("postgres", "postgresql"):
        return _postgresql(given)
    if given.get_backend_name() == "sqlite":
        return _sqlite(given)
    raise DefinitionError(
        f"Views live on SQLite or PostgreSQL, not {given.get_backend_name()}: sqlite:///views.db or "
        "postgresql://user@host/database."
    )


def begin_writing(
    connection: sqlalchemy.Connection, synchronous: Literal["NORMAL", "FULL"] = "NORMAL"
) -> sqlalchemy.RootTransaction:
    """Begin a writing transaction; on SQLite, it waits for other writers here rather than in its middle.

    On SQLite, its commit waits for the disk only with `synchronous="FULL"`. Otherwise a power loss may undo it and all
    later ones: rows with their checkpoint, so that the rows are projected again.
    """
    connection.execution_options(**{_WRITES: synchronous})
    return connection.begin()


@contextmanager
def unbounded(connection: sqlalchemy.Connection) -> Iterator[None]:
    """Wait in the block for as long as a statement takes: a query may look at any number of rows."""
    driver: Any = connection.connection.dbapi_connection
    bound = getattr(driver, "answer_seconds_max", None)
    if bound is not None:
        driver.answer_seconds_max = math.inf
    try:
        yield
    finally:
        if bound is not None:
            driver.answer_seconds_max = bound


def _sqlite(url: sqlalchemy.URL) -> sqlalchemy.Engine:
    if url.database in (None, "", ":memory:") or "mode=memory" in str(url):
        raise DefinitionError("Views on SQLite need a file, since several threads use them: sqlite:///views.db.")
    engine = sqlalchemy.create_engine(
        url,
        pool_size=CONNECTIONS_KEPT,
        max_overflow=CONNECTIONS_MAX - CONNECTIONS_KEPT,
        poolclass=sqlalchemy.QueuePool,
        connect_args={"check_same_thread": False, "timeout": LOCK_SECONDS_MAX, "cached_statements": 256},
    )

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        # The driver must begin no transactions of its own.
        connection.isolation_level = None
        connection.create_collation(DECIMAL_COLLATION, compare_decimals)
        _use_wal(connection)
        connection.execute("PRAGMA cache_size=-16000").close()

    @event.listens_for(engine, "handle_error")
    def refused(context: Any) -> None:
        if _code_of(context.original_exception) in _SPOILT:
            context.is_disconnect = True

    @event.listens_for(engine, "begin")
    def begun(connection: sqlalchemy.Connection) -> None:
        synchronous = connection.get_execution_options().get(_WRITES)
        if synchronous:
            connection.exec_driver_sql(f"PRAGMA synchronous={synchronous}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if synchronous else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL mode, so that readers and a writer do not block each other.

    If another process does the same at the moment, the switch fails at once and is retried.
    """
    deadline = time.monotonic() + LOCK_SECONDS_MAX
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if _code_of(error) not in _LOCKED or time.monotonic() > deadline:
                raise
            time.sleep(LOCK_RETRY_SECONDS)


def _postgresql(url: sqlalchemy.URL) -> sqlalchemy.Engine:
    if "+" not in url.drivername:
        url = url.set(drivername="postgresql+psycopg")
    defaults = {
        "connect_timeout": CONNECT_SECONDS_MAX,
        "keepalives_idle": SILENT_SECONDS_MAX,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": SILENT_SECONDS_MAX * 1000,
    }
    try:
        engine = sqlalchemy.create_engine(
            url,
            pool_size=CONNECTIONS_KEPT,
            max_overflow=CONNECTIONS_MAX - CONNECTIONS_KEPT,
            pool_pre_ping=True,
            paramstyle="format",
            connect_args={name: value for name, value in defaults.items() if name not in url.query},
        )
    except ImportError as missing:
        raise ImportError("Views on PostgreSQL need psycopg: pip install 'eventsrc[postgresql]'") from missing

    if engine.dialect.driver == "psycopg":
        from .postgresql import BoundedConnection  # noqa: PLC0415 (it needs psycopg, which is an extra)

        @event.listens_for(engine, "do_connect")
        def connect(_dialect: object, _record: object, arguments: Any, options: Any) -> BoundedConnection:
            return BoundedConnection.connect(*arguments, **options)

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.autocommit = True
        connection.execute(f"SET lock_timeout = '{LOCK_SECONDS_MAX}s'")
        connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS_MAX}s'")
        connection.autocommit = False

    return engine


@contextmanager
def translating(path: str, refused: Refused = ViewWriteFailed) -> Iterator[None]:
    """Translate errors of the database and its driver into `ViewUnreachable`, `ViewRetry` or, by default, `refused`."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise translated(path, error, refused) from error


def translated(path: str, error: Exception, refused: Refused = ViewWriteFailed) -> Exception:
    """Translate one error as `translating` does."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    reason = " ".join(str(original).split()) or type(original).__name__
    state: str = getattr(original, "sqlstate", None) or ""
    if isinstance(original, sqlite3.Error):
        if "unable to open" in reason:
            return ViewUnreachable(path, reason)
        return ViewUnreachable(path, reason, is_locked=True) if _code_of(original) in _LOCKED else refused(path, reason)
    if state == _LOCKED_TOO_LONG or (state == _TOOK_TOO_LONG and refused is ViewWriteFailed):
        return ViewUnreachable(path, reason, is_locked=True)
    if state in _AGAIN:
        return ViewRetry(reason)
    if isinstance(error, sqlalchemy.exc.TimeoutError):
        return ViewUnreachable(path, f"all {CONNECTIONS_MAX} connections are in use")
    is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
    # 08: connection, 28: login, 3D: no such database (yet), 53: too many connections, 57P: the server shuts down.
    if is_lost or (state not in _NO_ROOM and state[:2] in ("08", "28", "3D", "53")) or state[:3] == "57P":
        return ViewUnreachable(path, reason)
    if not state and isinstance(error, sqlalchemy.exc.OperationalError):
        return ViewUnreachable(path, reason)
    return refused(path, reason)


def is_refusal(error: Exception) -> bool:
    """Whether the database or its driver refused a value, rather than the whole operation."""
    if isinstance(error, DBAPIError) and error.orig is not None and not error.connection_invalidated:
        state: str | None = getattr(error.orig, "sqlstate", None)
        if state is not None:
            return state[:2] in _REFUSED_CLASSES or state in _REFUSED_TYPES
        # SQLite raises the base class of its errors for a damaged file.
        return type(error.orig) is not sqlite3.DatabaseError and not isinstance(error, sqlalchemy.exc.OperationalError)
    return isinstance(error, OverflowError | ValueError | TypeError | AttributeError)


def refuses_names(error: SQLAlchemyError) -> bool:
    """Whether a statement that creates something was refused for its names: a name is taken or reserved."""
    original = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(original, sqlite3.Error):
        return _code_of(original) == sqlite3.SQLITE_ERROR
    state: str = getattr(original, "sqlstate", None) or ""
    return state[:2] == "42" and state != _NO_PRIVILEGE


def _code_of(error: object) -> int | None:
    """The primary code of an SQLite error; None if the driver itself raised it."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & _PRIMARY_CODE
