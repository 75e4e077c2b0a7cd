"""Keys of subjects in an SQLite file, since SQLite can overwrite deleted data, which LMDB cannot.

Secrets have their own table, which only grows: SQLite appends new rows without moving others, and overwrites a row in
place with one of the same size, so no copy of a secret remains in the file. A test searches every byte of the file.
This process must not open the file by other means: closing it would release the locks that SQLite has on it. Copies of
the file, and overwritten data that the disk retains, cannot be destroyed from here.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import quote

from ..environment.folder import sync_folder
from ..errors import FileWriteFailed
from .errors import SubjectKeysUnusable, no_keys_at
from .key_table import SubjectKey

APPLICATION_ID: Final = 0x6573_6B79
"""In the header of the SQLite file; identifies a file of keys of eventsrc."""
KEYS_FORMAT: Final = 1
BUSY_SECONDS_MAX: Final = 5.0
"""How long SQLite waits for the locks of other connections."""
ACCESS: Final = 0o600
"""The file's mode: only the user of the process may read it."""
PRIMARY_CODE: Final = 0xFF
"""The mask of the primary code in an extended error code of SQLite."""
_REFUSED: Final = frozenset(
    (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM)
)
"""Refusals by the system, which say nothing about the file: a full disk has no room for the files that SQLite adds."""
_UNWRITTEN: Final = frozenset(
    (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_FSYNC,
        sqlite3.SQLITE_IOERR_TRUNCATE,
    )
)
_CREATE: Final = """
    CREATE TABLE subject_keys (id BLOB PRIMARY KEY, subject TEXT NOT NULL, slot INTEGER) WITHOUT ROWID;
    CREATE INDEX keys_of_subjects ON subject_keys (subject) WHERE subject <> '';
    CREATE INDEX unfinished ON subject_keys (subject) WHERE subject <> '' AND slot IS NULL;
    CREATE TABLE secrets (slot INTEGER PRIMARY KEY AUTOINCREMENT, secret BLOB NOT NULL);
"""
_SETTINGS: Final = {
    "write": ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "temp_store = MEMORY"),
    "read": ("query_only = ON",),
}
_OF_SUBJECT: Final = "subject = ? AND subject <> ''"
"""Repeats the condition of the partial index `keys_of_subjects`; without it, SQLite does not use the index."""
_SELECT: Final = "SELECT id, subject, secret FROM subject_keys LEFT JOIN secrets USING (slot) WHERE"
_LOST: Final = (
    "SELECT count(*) FROM subject_keys LEFT JOIN secrets USING (slot) "
    "WHERE slot IS NOT NULL AND (secret IS NULL OR secret = zeroblob(length(secret)))"
)

Access: TypeAlias = Literal["write", "read"]


class KeyFile:
    """The file of keys at `path`, created by the first write; a missing file has no keys. Fulfils `KeyTable`.

    Reading does not wait for the disk, so it may be done on the trio thread.
    """

    def __init__(self, path: str | os.PathLike[str], access: Access = "write") -> None:
        self._path = Path(path).absolute()
        self.path = str(self._path)
        self.is_shared = access == "read"
        self._reading: sqlite3.Connection | None = None
        self._writing: sqlite3.Connection | None = None
        self._place: tuple[int, int] | None = None
        """Device and inode of the file that is open for writing."""
        self._reading_place: tuple[int, int] | None = None
        self._is_reading_alone = False
        self._openings = 0
        """How often the file was opened for reading; SQLite counts changes from each opening."""
        self._version: tuple[int, int] = 0, 0
        self._reading_lock = threading.Lock()
        self._writing_lock = threading.Lock()

    # --- reading ---

    @property
    def is_empty(self) -> bool:
        return not self._path.exists()

    def of_subject(self, subject: str) -> list[SubjectKey]:
        return self._select(f"{_OF_SUBJECT} AND slot IS NOT NULL ORDER BY id", subject)

    def find(self, key_id: bytes) -> SubjectKey | None:
        return next(iter(self._select("id = ?", key_id)), None)

    def unfinished(self) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for key in self._select("subject <> '' AND slot IS NULL ORDER BY subject"):
            found.setdefault(key.subject, []).append(key.id)
        return found

    def problem(self) -> str:
        with self._reading_lock, self._translated():
            reading = self._to_read(self._place_now())
            if reading is None:
                return ""
            (found,) = reading.execute("PRAGMA integrity_check(1)").fetchone()
            (lost,) = reading.execute(_LOST).fetchone()
        if found != "ok":
            return str(found)
        return f"of {lost} keys that nobody destroyed the secret is gone" if lost else ""

    def version(self) -> object:
        with self._reading_lock, self._translated():
            place = self._place_now()
            reading = None if place is None else self._to_read(place)
            if reading is not None:
                (changes,) = reading.execute("PRAGMA data_version").fetchone()
                self._version = self._openings, changes
            # If the file was removed, the last known version remains valid.
            return self._version

    def _select(self, condition: str, *values: object) -> list[SubjectKey]:
        with self._reading_lock, self._translated():
            reading = self._to_read(self._place_now())
            if reading is None:
                return []
            return [SubjectKey(*row) for row in reading.execute(f"{_SELECT} {condition}", values)]

    def _to_read(self, place: tuple[int, int] | None) -> sqlite3.Connection | None:
        """A connection for reading the present file; None if it does not exist yet. Raises `SubjectKeysUnusable`."""
        if place is None and (self._reading_place or self._place):
            raise self._taken_away()
        if self._reading is not None and (place != self._reading_place or self._is_reading_alone):
            self._reading.close()
            self._reading = None
        if self._reading is None and self._is_there():
            self._is_reading_alone = self._is_alone()
            if not self.is_shared:
                self._sync_log()
            self._reading, self._reading_place = self._opened_to_read(), place
            self._openings += 1
        return self._reading

    def copy_to(self, destination: Path) -> None:
        if destination.resolve() == self._path.resolve():
            raise SubjectKeysUnusable(self.path, "a copy cannot take its own place", "Name another file for the copy")
        with self._reading_lock, self._translated():
            reading = self._to_read(self._place_now())
            if reading is None:
                raise no_keys_at(self.path)
            with _written_anew(destination) as new, closing(sqlite3.connect(new)) as copy:
                try:
                    reading.backup(copy)
                except sqlite3.DatabaseError as error:
                    if getattr(error, "sqlite_errorcode", 0) not in _UNWRITTEN:
                        raise
                    # Only the copy is written, so the error is about the copy.
                    raise FileWriteFailed(str(destination), str(error)) from error

    # --- writing ---

    def add(self, keys: Sequence[SubjectKey]) -> None:
        with self._changing() as connection:
            for key in keys:
                slot = connection.execute("INSERT INTO secrets (secret) VALUES (?)", (key.secret,)).lastrowid
                connection.execute("INSERT INTO subject_keys VALUES (?, ?, ?)", (key.id, key.subject, slot))

    def destroy(self, subject: str) -> list[bytes]:
        with self._changing() as connection:
            known = connection.execute(f"SELECT id FROM subject_keys WHERE {_OF_SUBJECT}", (subject,)).fetchall()
            connection.execute(
                "UPDATE secrets SET secret = zeroblob(length(secret)) "
                f"WHERE slot IN (SELECT slot FROM subject_keys WHERE {_OF_SUBJECT})",
                (subject,),
            )
            connection.execute(f"UPDATE subject_keys SET slot = NULL WHERE {_OF_SUBJECT}", (subject,))
        self.sweep()
        return [key_id for (key_id,) in known]

    def destroy_again(self, key_ids: Sequence[bytes]) -> None:
        if not self._is_there():
            return
        ids = [(key_id,) for key_id in key_ids]
        with self._changing() as connection:
            connection.executemany(
                "UPDATE secrets SET secret = zeroblob(length(secret)) "
                "WHERE slot = (SELECT slot FROM subject_keys WHERE id = ?)",
                ids,
            )
            connection.executemany("INSERT OR REPLACE INTO subject_keys VALUES (?, '', NULL)", ids)
        self.sweep()

    def sweep(self) -> None:
        # The write-ahead log still has the overwritten secrets from when they were new.
        with self._writing_lock, self._translated():
            is_busy, _, _ = self._writable().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise SubjectKeysUnusable(
                self.path,
                f"somebody has been reading it for {BUSY_SECONDS_MAX:g} seconds, so what was destroyed is still in "
                f"{self.path}-wal",
                "End that, and forget the subject again",
            )

    def finish_forgetting(self, subject: str) -> None:
        with self._changing() as connection:
            connection.execute(f"UPDATE subject_keys SET subject = '' WHERE {_OF_SUBJECT} AND slot IS NULL", (subject,))
        self.sweep()

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction."""
        with self._writing_lock, self._translated(), self._writable() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            self._check_place()

    def _writable(self) -> sqlite3.Connection:
        if self.is_shared:
            raise SubjectKeysUnusable(self.path, "a reader changes none", "Ask the process that writes the store")
        if self._writing is None:
            self._make()
            self._writing = self._opened("write")
            self._place = self._place_now()
        self._check_place()
        return self._writing

    def _check_place(self) -> None:
        """Raise `SubjectKeysUnusable` if the open file was moved, removed or replaced."""
        if self._place_now() != self._place:
            raise self._taken_away()

    def _taken_away(self) -> SubjectKeysUnusable:
        advice = "Put the file that was there back, and open the store again"
        return SubjectKeysUnusable(self.path, "it was moved, removed or replaced while it was in use", advice)

    def _place_now(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    # --- the file ---

    def _is_there(self) -> bool:
        if self._path.exists() and not self._path.is_file():
            raise SubjectKeysUnusable(self.path, "it is no file", "Name another: Runtime.open(..., keys=PATH)")
        return self._path.exists()

    def _make(self) -> None:
        """Create the file, atomically, if it does not exist; only this user may read it."""
        if self._is_there():
            return
        path, new = self._path, _begun(self._path)
        with closing(sqlite3.connect(new, isolation_level=None)) as connection:
            connection.executescript(
                f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {KEYS_FORMAT}; {_CREATE}"
            )
        _sync(new)
        with suppress(FileExistsError):  # another process was faster
            os.link(new, path)
        new.unlink()
        sync_folder(path.parent)

    def _sync_log(self) -> None:
        """Sync the write-ahead log: a process may have been killed before it did, and its keys are known from here on.

        SQLite holds no locks on that file, so it may be opened.
        """
        with suppress(FileNotFoundError):
            _sync(_log_of(self._path))

    def _is_alone(self) -> bool:
        """Whether no process writes the file, and SQLite cannot create its shared files beside it.

        The file is then opened anew for each read, since SQLite does not notice when a process begins to write.
        """
        path = self._path
        return not os.access(path.parent, os.W_OK) and not _log_of(path).exists()

    def _opened_to_read(self) -> sqlite3.Connection:
        """Open the file for reading. Raises `sqlite3.Error`, `SubjectKeysUnusable`.

        On a full disk SQLite cannot create its shared files. If there is no write-ahead log, no process writes, and the
        file is opened without them.
        """
        try:
            return self._opened("read")
        except sqlite3.OperationalError as error:
            log = _log_of(self._path)
            if _code_of(error) != sqlite3.SQLITE_IOERR or (log.exists() and log.stat().st_size):
                raise
            self._is_reading_alone = True
            return self._opened("read")

    def _opened(self, access: Access) -> sqlite3.Connection:
        """Open the file. Raises `sqlite3.Error`, `SubjectKeysUnusable`."""
        mode = "immutable=1" if access == "read" and self._is_reading_alone else "mode=rw"
        connection = sqlite3.connect(
            f"file:{quote(self.path)}?{mode}",
            uri=True,
            timeout=BUSY_SECONDS_MAX,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._check(connection)
            for setting in _SETTINGS[access]:
                connection.execute(f"PRAGMA {setting}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (number,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise SubjectKeysUnusable(self.path, "it is no file of keys", "Name another: Runtime.open(..., keys=PATH)")
        if number != KEYS_FORMAT:
            reason = f"it has format {number}, and this version of eventsrc knows format {KEYS_FORMAT}"
            raise SubjectKeysUnusable(self.path, reason, "Use the version that wrote it, or a newer one")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = _code_of(error)
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                reason = f"somebody else has had it locked for {BUSY_SECONDS_MAX:g} seconds"
                raise SubjectKeysUnusable(self.path, reason, "End that, and try again", is_refused=True) from error
            raise SubjectKeysUnusable(self.path, str(error), is_refused=code in _REFUSED) from error
        except OSError as error:
            raise SubjectKeysUnusable(self.path, error.strerror or str(error), is_refused=True) from error

    def close(self) -> None:
        with self._reading_lock, self._writing_lock, self._translated():
            # The writing connection last: closing it removes the write-ahead log.
            for connection in (self._reading, self._writing):
                if connection is not None:
                    connection.close()
            self._reading = self._writing = None


def _code_of(error: sqlite3.Error) -> int:
    """The primary code of an error of SQLite; 0 if the driver itself raised the error."""
    return int(getattr(error, "sqlite_errorcode", 0)) & PRIMARY_CODE


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _log_of(path: Path) -> Path:
    """SQLite's write-ahead log of the file at `path`."""
    return path.with_name(f"{path.name}-wal")


def _begun(path: Path) -> Path:
    """A new empty file beside `path`, which only this user may read. Raises `OSError`."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, ACCESS))
    return new


@contextmanager
def _written_anew(path: Path) -> Iterator[Path]:
    """A file to write in the block, which then replaces `path` durably. Raises `FileWriteFailed`."""
    try:
        new = _begun(path)
        try:
            yield new
            _sync(new)
            # SQLite would take what a killed process has left there for a part of the new file.
            _log_of(path).unlink(missing_ok=True)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise FileWriteFailed(str(path), str(error)) from error
