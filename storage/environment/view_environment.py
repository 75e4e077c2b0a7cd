"""The LMDB environment of one view: its rows, their indexes and its checkpoint, as bytes.

A view is derived from the log, so its commits do not wait for the disk. A killed process loses nothing, since the
operating system has the committed data. If the machine stops, the file may be damaged; a mark in the folder of an open
view reveals this, and the view is rebuilt.
"""

import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import lmdb

from ..errors import FileWriteFailed, StoreForked, StoreMapRefused, ViewClosed, ViewUnusable
from .durable_file import write_durably
from .environment import ENGINE, MAP_GROWTH_FACTOR, Transaction
from .folder import DATA_FILE, sync_folder
from .lock_file import reserve_lock_file
from .locks import boot_id, is_this_start

VIEW_FORMAT: Final = b"2"
VIEW_MAP_SIZE_BYTES: Final = 1 << 34
"""The reserved address space; doubled when it is full."""
TABLES_MAX: Final = 256
MARK_FILE: Final = "open"
ALONE_SECONDS_MAX: Final = 10.0
"""How long a growing or closing view waits for its readers to leave. Readers call `check_welcome` every few rows."""

Handle: TypeAlias = Any
logger = logging.getLogger("eventsrc.views")


class ViewEnvironment:
    """One view in one folder. One thread may write, any thread may read; other processes must not use the folder.

    A view of another format, or one that was open when the machine stopped, is removed and created anew. After a failed
    write the environment is reopened; if that fails, the next read or write tries again.

    Args:
        path: the folder, created if it does not exist.
        tables: the tables, each with the names of its indexes.
        map_size_bytes: the initial address space.

    Raises:
        ViewUnusable: the view cannot be opened.

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
        self._tables = tables
        # Guards the readers, which must leave before the map may be resized.
        self._turn = threading.Condition()
        self._readers = 0
        self._is_wanted_alone = False
        self._is_full = False
        self._is_lost = False
        self._is_left_to_readers = False
        folder = Path(self.path)
        try:
            if was_open_when_the_machine_stopped(folder):
                logger.warning("the machine stopped while a view was open; it is made anew", extra={"path": self.path})
                _remove(folder)
            stored_format = self._open(folder, map_size_bytes)
            if stored_format != VIEW_FORMAT:
                logger.info("a view is of format %r; it is made anew", stored_format, extra={"path": self.path})
                self._environment.close()
                _remove(folder)
                self._open(folder, map_size_bytes)
        except OSError as error:
            raise ViewUnusable(self.path, str(error)) from error

    def _open(self, folder: Path, map_size_bytes: int) -> bytes:
        """Open or create the environment; return its format. Raises `ViewUnusable`."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # The mark is on disk before any later write.
            if _is_marked(folder):
                sync_folder(folder)  # the process that wrote it may have been killed before it did this
            else:
                write_durably(folder / MARK_FILE, boot_id().encode())
            reserve_lock_file(folder)
            self._environment = lmdb.open(
                os.fsencode(self.path),
                max_dbs=TABLES_MAX,
                map_size=max(map_size_bytes, _size_of(folder / DATA_FILE)),
                lib_version=ENGINE,
                sync=False,
            )
        except (lmdb.Error, OSError) as error:
            raise ViewUnusable(self.path, str(error)) from error
        self._map_size_bytes: int = self._environment.info()["map_size"]
        try:
            self._meta = self._environment.open_db(b"meta")
            self.rows: dict[str, Handle] = {}
            self.indexes: dict[tuple[str, str], Handle] = {}
            for table, fields in self._tables.items():
                self.rows[table] = self._environment.open_db(f"rows {table}".encode())
                for field in fields:
                    self.indexes[table, field] = self._environment.open_db(f"index {table} {field}".encode())
            with self._environment.begin(write=True) as transaction:
                stored_format = transaction.get(b"format", db=self._meta)
                if stored_format is None:
                    transaction.put(b"format", VIEW_FORMAT, db=self._meta)
            return VIEW_FORMAT if stored_format is None else stored_format
        except lmdb.Error as error:
            self._environment.close()
            raise ViewUnusable(self.path, str(error)) from error
        except BaseException:
            self._environment.close()
            raise

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A read transaction. Keep it short, and never hold it across an `await`; a long read calls `check_welcome`.

        Raises `ViewBusy`, `ViewClosed`, `ViewUnusable`, `StoreForked`.
        """
        with self._turn:
            if not self._turn.wait_for(lambda: not self._is_wanted_alone or self._closed, ALONE_SECONDS_MAX):
                raise ViewBusy(self.path)
            self._check()
            self._reopen_if_lost()
            self._readers += 1
        try:
            try:
                transaction = self._environment.begin()
            except lmdb.Error as error:
                raise ViewUnusable(self.path, str(error)) from error
            with transaction:
                yield transaction
        finally:
            with self._turn:
                self._readers -= 1
                self._turn.notify_all()
                if self._is_left_to_readers and not self._readers:
                    self._end()

    def check_welcome(self) -> None:
        """Check whether a long read may continue: raise `ViewBusy` if the view must grow, `ViewClosed` if it closes."""
        if self._closed:
            raise ViewClosed(self.path)
        if self._is_wanted_alone:
            raise ViewBusy(self.path)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A write transaction, committed when the block ends without an error.

        Raises `ViewFull` if the map was full: the map was grown, run the block again. Raises `StoreMapRefused` if the
        map cannot grow, `FileWriteFailed` if the system refuses, `ViewClosed`, `ViewUnusable`, `StoreForked`.
        """
        with self._turn:
            self._check()
            self._reopen_if_lost()
        try:
            with self.filling(), self._environment.begin(write=True) as transaction:
                yield transaction
        except FileWriteFailed:
            self._lose()
            raise
        finally:
            # The transaction has ended, with or without an error.
            if self._is_full:
                self._is_full = False
                self._grow()

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Translate LMDB errors of the block: raise `ViewFull` or `FileWriteFailed`. For puts inside `write`."""
        try:
            yield
        except lmdb.MapFullError as error:
            self._is_full = True
            raise ViewFull(self.path) from error
        except lmdb.Error as error:
            raise FileWriteFailed(self.path, str(error)) from error

    def _grow(self) -> None:
        """Double the map once all readers have left; do nothing if they do not leave in time.

        Raises `StoreMapRefused`; the view is then unchanged.
        """
        with self._alone() as is_alone:
            if is_alone:
                self._resize(self._map_size_bytes * MAP_GROWTH_FACTOR)

    def _lose(self) -> None:
        """Reopen after a failed commit: LMDB may refuse everything until then, and only then shows what is stored."""
        with self._alone():
            self._is_lost = True
            with suppress(ViewUnusable):
                self._reopen_if_lost()

    def _reopen_if_lost(self) -> None:
        """Reopen a lost environment unless a reader remains. The caller holds `_turn`. Raises `ViewUnusable`."""
        if self._is_lost and not self._readers:
            self._environment.close()
            self._open(Path(self.path), self._map_size_bytes)
            self._is_lost = False

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Ask the readers to leave; yield whether all did in time. No read begins during the block."""
        with self._turn:
            self._is_wanted_alone = True
            try:
                yield self._turn.wait_for(lambda: not self._readers, ALONE_SECONDS_MAX)
            finally:
                self._is_wanted_alone = False
                self._turn.notify_all()

    def _resize(self, size_bytes: int) -> None:
        try:
            self._environment.set_mapsize(size_bytes)
        except lmdb.Error as error:
            # LMDB has released the old map before the system refused the new one.
            self._is_lost = True
            self._reopen_if_lost()
            raise StoreMapRefused(self.path, size_bytes, is_growing=True) from error
        self._map_size_bytes = size_bytes

    def meta(self, transaction: Transaction, key: bytes) -> bytes | None:
        """A value stored beside the rows, such as the checkpoint; None if it does not exist."""
        return transaction.get(key, db=self._meta)

    def put_meta(self, transaction: Transaction, key: bytes, value: bytes) -> None:
        """Store a value beside the rows."""
        transaction.put(key, value, db=self._meta)

    def size_bytes(self) -> int:
        """The size of the data file on disk."""
        return _size_of(Path(self.path) / DATA_FILE)

    def close(self) -> None:
        """Sync and close the view. Idempotent; does nothing in a forked child.

        If readers do not leave in time, the last of them closes the view.
        """
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        with self._turn:
            self._turn.notify_all()
            if not self._turn.wait_for(lambda: not self._readers, ALONE_SECONDS_MAX):
                # Closing would unmap the memory that a reader uses, and kill the process.
                logger.warning("a view is still looked at, and closed after that", extra={"path": self.path})
                self._is_left_to_readers = True
                return
        self._end()

    def _end(self) -> None:
        try:
            self._environment.sync(True)
            (Path(self.path) / MARK_FILE).unlink(missing_ok=True)
        except (lmdb.Error, OSError) as error:
            # The mark stays, so that the view is rebuilt if the machine stops.
            logger.warning("a view could not be brought to the disk: %s", error, extra={"path": self.path})
        self._environment.close()

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise StoreForked(self.path)
        if self._closed:
            raise ViewClosed(self.path)


class ViewFull(Exception):
    """The map was full and was grown: run the transaction again."""


class ViewBusy(Exception):
    """The view must grow while a long read is running: read again."""


def _size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _remove(folder: Path) -> None:
    """Remove a view: its data before its mark, without which damaged data would be taken for valid ones."""
    (folder / DATA_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _is_marked(folder: Path) -> bool:
    """Whether the folder is marked as open since this start of the machine; writing the mark again might fail."""
    mark = folder / MARK_FILE
    return mark.exists() and mark.read_text() == boot_id()


def was_open_when_the_machine_stopped(folder: Path) -> bool:
    """Whether the view in a folder may be damaged, and is made anew when it is opened. Raises `OSError`."""
    mark = folder / MARK_FILE
    return mark.exists() and not is_this_start(mark.read_text())
