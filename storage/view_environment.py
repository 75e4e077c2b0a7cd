"""The LMDB environment of one view: rows, their indexes and the checkpoint that they stand for, as bytes.

A view is derived from the log, so its commits do not wait for the disk: a process that is killed loses nothing, since
the operating system has what was committed. When the machine itself stopped, the file may be damaged; the folder is
marked while it is open, so that this is noticed and the view is made anew.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import lmdb

from .environment import ENGINE
from .errors import StoreForked, StoreWriteFailed, ViewClosed, ViewUnusable
from .folder import DATA_FILE, boot_id, reserve_lock_file

VIEW_FORMAT: Final = b"1"
VIEW_MAP_SIZE_BYTES: Final = 1 << 34
"""Reserved address space; doubled when it is full."""
TABLES_MAX: Final = 256
MARK_FILE: Final = "open"

Transaction: TypeAlias = "lmdb.Transaction[bytes]"
Handle: TypeAlias = Any
logger = logging.getLogger("eventsrc.views")


class ViewEnvironment:
    """One view in one folder. Used by one thread; readers of other processes are not expected.

    Args:
        path: the folder, made when it is not there.
        tables: the tables, each with the names of its indexes.
        map_size_bytes: address space to begin with.

    Raises:
        ViewUnusable: it is of another format or cannot be opened.

    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tables: Mapping[str, Sequence[str]],
        *,
        map_size_bytes: int = VIEW_MAP_SIZE_BYTES,
    ) -> None:
        self.path = os.fspath(path)
        self._pid = os.getpid()
        self._closed = False
        folder = Path(self.path)
        if _was_open_when_the_machine_stopped(folder):
            logger.warning("the machine stopped while a view was open; it is made anew", extra={"path": self.path})
            shutil.rmtree(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _mark_as_open(folder)
            reserve_lock_file(folder)
            self._environment = lmdb.open(
                self.path,
                max_dbs=TABLES_MAX,
                map_size=max(map_size_bytes, _size_of(folder / DATA_FILE)),
                lib_version=ENGINE,
                sync=False,
                meminit=False,
            )
        except (lmdb.Error, OSError) as error:
            raise ViewUnusable(self.path, str(error)) from error
        self._map_size_bytes: int = self._environment.info()["map_size"]
        try:
            self._meta = self._environment.open_db(b"meta")
            self.rows: dict[str, Handle] = {}
            self.indexes: dict[tuple[str, str], Handle] = {}
            for table, fields in tables.items():
                self.rows[table] = self._environment.open_db(f"rows {table}".encode())
                for field in fields:
                    self.indexes[table, field] = self._environment.open_db(f"index {table} {field}".encode())
            with self._environment.begin(write=True) as transaction:
                stored_format = transaction.get(b"format", db=self._meta)
                if stored_format is None:
                    transaction.put(b"format", VIEW_FORMAT, db=self._meta)
            if stored_format not in (None, VIEW_FORMAT):
                raise ViewUnusable(self.path, f"it has format {stored_format!r}")
        except lmdb.Error as error:
            self._environment.close()
            raise ViewUnusable(self.path, str(error)) from error
        except BaseException:
            self._environment.close()
            raise

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A read transaction; keep it short, and never across an await."""
        self._check()
        with self._environment.begin() as transaction:
            yield transaction

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A write transaction, committed when the block ends well.

        Raises `ViewFull` after making room where the block is to be run again, `StoreWriteFailed` where the system
        refused.
        """
        self._check()
        try:
            with self._environment.begin(write=True) as transaction:
                yield transaction
        except lmdb.MapFullError as error:
            self._map_size_bytes *= 2
            self._environment.set_mapsize(self._map_size_bytes)
            raise ViewFull(self.path) from error
        except lmdb.Error as error:
            raise StoreWriteFailed(self.path, str(error)) from error

    def meta(self, transaction: Transaction, key: bytes) -> bytes | None:
        """A value kept beside the rows, such as the checkpoint."""
        return transaction.get(key, db=self._meta)

    def put_meta(self, transaction: Transaction, key: bytes, value: bytes) -> None:
        """Keep a value beside the rows."""
        transaction.put(key, value, db=self._meta)

    def size_bytes(self) -> int:
        """Bytes of its file on disk."""
        return _size_of(Path(self.path) / DATA_FILE)

    def close(self) -> None:
        """Bring it to the disk and close it. Idempotent; does nothing in a forked child."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        try:
            self._environment.sync(True)
        except lmdb.Error as error:
            # The mark stays, so that a later machine stop makes the view anew.
            logger.warning("a view could not be brought to the disk: %s", error, extra={"path": self.path})
        else:
            (Path(self.path) / MARK_FILE).unlink(missing_ok=True)
        self._environment.close()

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise StoreForked(self.path)
        if self._closed:
            raise ViewClosed(self.path)


class ViewFull(Exception):
    """The map had to grow: run the same again."""


def _mark_as_open(folder: Path) -> None:
    """Leave a mark that is on the disk before anything that is written after it."""
    with (folder / MARK_FILE).open("w") as mark:
        mark.write(boot_id())
        mark.flush()
        os.fsync(mark.fileno())
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _was_open_when_the_machine_stopped(folder: Path) -> bool:
    mark = folder / MARK_FILE
    return mark.exists() and mark.read_text() != boot_id()
