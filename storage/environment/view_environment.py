"""The LMDB environment of one view: rows, their indexes and the checkpoint that they stand for, as bytes.

A view is derived from the log, so its commits do not wait for the disk: a process that is killed loses nothing, since
the operating system has what was committed. When the machine itself stopped, the file may be damaged; the folder is
marked while it is open, so that this is noticed and the view is made anew.
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
from .folder import DATA_FILE, boot_id, reserve_lock_file

VIEW_FORMAT: Final = b"2"
VIEW_MAP_SIZE_BYTES: Final = 1 << 34
"""Reserved address space; doubled when it is full."""
TABLES_MAX: Final = 256
MARK_FILE: Final = "open"
ALONE_SECONDS_MAX: Final = 10.0
"""How long a growing or closing view waits for its readers, which call `check_welcome` every few rows."""

Handle: TypeAlias = Any
logger = logging.getLogger("eventsrc.views")


class ViewEnvironment:
    """One view in one folder. One thread writes, any may read; readers of other processes are not expected.

    A view of another format is removed and begun anew, as is one that was open when the machine stopped.

    Args:
        path: the folder, made when it is not there.
        tables: the tables, each with the names of its indexes.
        map_size_bytes: address space to begin with.

    After a write that the system refused it is opened anew, which is tried again where that is refused as well.

    Raises:
        ViewUnusable: it cannot be opened.

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
        # Its readers, which must have left before the map may move.
        self._turn = threading.Condition()
        self._readers = 0
        self._is_wanted_alone = False
        self._is_full = False
        self._is_lost = False
        self._is_left_to_readers = False
        folder = Path(self.path)
        try:
            if _was_open_when_the_machine_stopped(folder):
                logger.warning("the machine stopped while a view was open; it is made anew", extra={"path": self.path})
                shutil.rmtree(folder)
            stored_format = self._open(folder, map_size_bytes)
            if stored_format != VIEW_FORMAT:
                logger.info("a view is of format %r; it is made anew", stored_format, extra={"path": self.path})
                self._environment.close()
                shutil.rmtree(folder)
                self._open(folder, map_size_bytes)
        except OSError as error:
            raise ViewUnusable(self.path, str(error)) from error

    def _open(self, folder: Path, map_size_bytes: int) -> bytes:
        """Open it, or make it; returns its format."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not _is_marked(folder):
                # On the disk before anything that is written after it.
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
        """A read transaction; keep it short, and never across an await. One that lasts asks `check_welcome`."""
        with self._turn:
            if not self._turn.wait_for(lambda: not self._is_wanted_alone or self._closed, ALONE_SECONDS_MAX):
                raise ViewBusy(self.path)
            self._check()
            self._find()
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
        """For a long read: raises `ViewBusy` when the view has to grow, `ViewClosed` when it is about to close."""
        if self._closed:
            raise ViewClosed(self.path)
        if self._is_wanted_alone:
            raise ViewBusy(self.path)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A write transaction, committed when the block ends well.

        Raises `ViewFull` after making room where the block is to be run again, `StoreMapRefused` where there is none
        to be had, `FileWriteFailed` where the system refused.
        """
        with self._turn:
            self._check()
            self._find()
        try:
            with self.filling(), self._environment.begin(write=True) as transaction:
                yield transaction
        except FileWriteFailed:
            self._lose()
            raise
        finally:
            # Now that the transaction is over, however that was.
            if self._is_full:
                self._is_full = False
                self._grow()

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Around puts: raises `ViewFull` and `FileWriteFailed` at once, which `write` raises at its end."""
        try:
            yield
        except lmdb.MapFullError as error:
            self._is_full = True
            raise ViewFull(self.path) from error
        except lmdb.Error as error:
            raise FileWriteFailed(self.path, str(error)) from error

    def _grow(self) -> None:
        """Double the map, which may move: its readers leave first, and read again.

        Raises `StoreMapRefused` where it cannot; the view is then as it was.
        """
        with self._alone() as is_alone:
            if is_alone:
                self._resize(self._map_size_bytes * MAP_GROWTH_FACTOR)

    def _lose(self) -> None:
        """After a failed commit LMDB may refuse everything until it is opened anew, which tells what is stored."""
        with self._alone():
            self._is_lost = True
            with suppress(ViewUnusable):
                self._find()

    def _find(self) -> None:
        """Open it anew where it was lost, unless somebody still looks at it; call it in turn. Raises `ViewUnusable`."""
        if self._is_lost and not self._readers:
            self._environment.close()
            self._open(Path(self.path), self._map_size_bytes)
            self._is_lost = False

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Have whoever looks at it leave; whether they did in time."""
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
            # LMDB has given the old map up before it found that it may not have the new one.
            self._is_lost = True
            self._find()
            raise StoreMapRefused(self.path, size_bytes, is_growing=True) from error
        self._map_size_bytes = size_bytes

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
        with self._turn:
            self._turn.notify_all()
            if not self._turn.wait_for(lambda: not self._readers, ALONE_SECONDS_MAX):
                # Beneath a reader its memory would be gone, and the process with it.
                logger.warning("a view is still looked at, and closed after that", extra={"path": self.path})
                self._is_left_to_readers = True
                return
        self._end()

    def _end(self) -> None:
        try:
            self._environment.sync(True)
            (Path(self.path) / MARK_FILE).unlink(missing_ok=True)
        except (lmdb.Error, OSError) as error:
            # The mark stays, so that a later machine stop makes the view anew.
            logger.warning("a view could not be brought to the disk: %s", error, extra={"path": self.path})
        self._environment.close()

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise StoreForked(self.path)
        if self._closed:
            raise ViewClosed(self.path)


class ViewFull(Exception):
    """The map had to grow: run the same again."""


class ViewBusy(Exception):
    """The view has to grow while somebody looks at it for long: look again."""


def _size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _is_marked(folder: Path) -> bool:
    """Whether it is marked as open since the machine started: a full disk may have no room to say so once more."""
    mark = folder / MARK_FILE
    return mark.exists() and mark.read_text() == boot_id()


def _was_open_when_the_machine_stopped(folder: Path) -> bool:
    mark = folder / MARK_FILE
    return mark.exists() and mark.read_text() != boot_id()
