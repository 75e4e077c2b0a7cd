"""The LMDB environment of one store: opening it safely, reading, writing from one thread, growing, reopening.

These properties of LMDB (py-lmdb 3.0, engine 0.9) determine the code (see the design, section 4): the map can be
resized only while no transaction is open, the outcome of a failed commit is unknown, and a forked child must not use
the environment of its parent.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import lmdb

from ..copies.errors import CopyInterrupted
from ..errors import (
    FileWriteFailed,
    StoreClosed,
    StoreError,
    StoreForked,
    StoreFormatUnknown,
    StoreFull,
    StoreMapOutgrown,
    StoreMapRefused,
    StoreOutcomeUnknown,
    StoreReplaced,
    StoreTruncated,
)
from .durable_file import synced_meanwhile
from .errors import StoreUnreadable
from .folder import (
    DATA_FILE,
    check_folder,
    identity,
    is_in_place,
    permission_error,
    sync_folder,
    sync_names,
    translated_errors,
)
from .gate import Gate
from .lmdb_errors import lock_problem, open_error, write_error
from .lock_file import needs_lock_file, take_room, take_room_to_read
from .locks import (
    CREATING,
    boot_id,
    close_in_order,
    lock_for_writing,
    unlock,
    was_closed_cleanly,
    write_owner,
)
from .outlet import Outlet
from .pages import check_length, has_valid_pages
from .store_format import check_format

ENGINE: Final = 0
"""LMDB 0.9. LMDB 1.0 is young, and py-lmdb does not expose its checksums."""
MAP_SIZE_BYTES: Final = 1 << 36
"""The reserved address space. It takes no disk space until it is used, so it is large and the map rarely grows."""
MAP_GROWTH_FACTOR: Final = 2
MAP_GROWTHS_MAX: Final = 24
"""The most doublings of the map for one write, and the most attempts of a reader to follow the growing map."""
COMMIT_TIME_DRIFT: Final = 1.02
"""The factor by which a slower commit may raise the estimate of the disk's commit time."""
TABLES: Final = (
    "meta",
    "log",
    "heads",
    "streams",
    "types",
    "categories",
    "tags",
    "tree",
    "idempotency",
    "expiries",
    "snapshots",
    "compacted",
)
"""The tables of a log; an archive has others."""
TABLES_MAX: Final = 256
SPARE_READERS: Final = 2
"""Finished read transactions kept for reuse."""


Transaction: TypeAlias = "lmdb.Transaction[bytes]"
Table: TypeAlias = Any
"""A handle of an LMDB sub-database; py-lmdb keeps its class private."""
T = TypeVar("T")

logger = logging.getLogger("eventsrc.storage")


class Environment:
    """One LMDB environment in the folder `path`.

    Any thread may read; one thread at a time may `write`. With `read_only`, another process may have the environment
    open for writing. With `leaves_no_trace` as well, no lock file is created, and none is needed if nobody writes.

    Raises a `StoreError` if the folder cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        read_only: bool = False,
        leaves_no_trace: bool = False,
        map_size_bytes: int = MAP_SIZE_BYTES,
        tables: Sequence[str] = TABLES,
    ):
        self._folder = Path(path).absolute()  # absolute: the environment may be reopened after `os.chdir`
        self.path = str(self._folder)
        self._pid = os.getpid()
        self._map_size_bytes = map_size_bytes
        self.table_names = tuple(tables)
        """The names of the tables."""
        self._gate = Gate()
        self._closed = False
        self.commit_seconds = math.inf
        """The estimated time that the disk takes for a commit; infinite before the first commit."""
        self._read_only = read_only
        self.leaves_no_trace = leaves_no_trace
        existed = check_folder(self._folder, create=create and not read_only)
        if read_only:
            self._open(create=False)
            return
        self._writer_lock = lock_for_writing(self._folder)
        try:
            take_room(self._folder)
            with translated_errors(self._folder):
                if existed and not was_closed_cleanly(self._folder):
                    existed = has_valid_pages(self._folder)
                owner = f"{os.getpid()} {boot_id()}"
                write_owner(self._writer_lock, owner if existed else f"{owner} {CREATING}")
            self._open(create=not existed)
            self._end_opening("" if existed else owner)
        except BaseException:
            unlock(self._writer_lock)
            raise

    def table(self, name: str) -> Table:
        """The handle of a table. Do not keep the handle: reopening after a failed write replaces it."""
        return self._tables[name]

    @property
    def is_read_only(self) -> bool:
        """Whether this environment is open for reading only; another process may be writing it."""
        return self._read_only

    @property
    def is_closed(self) -> bool:
        """Whether the environment is unusable: it was closed, or could not be reopened after a failed write."""
        return self._closed

    def check_usable(self) -> None:
        """Raise `StoreForked` or `StoreClosed` if the environment cannot be used."""
        if os.getpid() != self._pid:
            raise StoreForked(self.path)
        if self._closed:
            raise StoreClosed(self.path)

    def check_in_place(self) -> None:
        """Raise `StoreReplaced` if the open data file is no longer the file at `path`."""
        if not is_in_place(self.path, self._identity):
            raise StoreReplaced(self.path)

    def read(self) -> AbstractContextManager[Transaction]:
        """A read transaction. Keep it short, and never hold it across an `await` or a call of user code."""
        return _Read(self)

    def begin_reading(self) -> Transaction:
        """Begin a read transaction, which must be ended by `end_reading`."""
        # Before entering the gate: in a forked child, a thread that does not exist there may hold the gate's lock.
        if os.getpid() != self._pid:
            raise StoreForked(self.path)
        self._gate.enter()
        try:
            if self._closed:
                raise StoreClosed(self.path)
            return self._begin()
        except BaseException:
            self._gate.leave()
            raise

    def end_reading(self, transaction: Transaction) -> None:
        """End a read transaction."""
        transaction.abort()
        self._gate.leave()

    def _begin(self) -> Transaction:
        for _ in range(MAP_GROWTHS_MAX):
            try:
                return self._environment.begin()
            except lmdb.MapResizedError:
                self._take_over_map()
            except lmdb.Error as error:
                raise StoreUnreadable(self.path, str(error)) from error
        raise StoreMapOutgrown(self.path)

    def _take_over_map(self) -> None:
        """Follow the growth of the map by the writing process, once no other thread reads."""
        if self._gate.depth > 1:
            raise StoreMapOutgrown(self.path)  # this thread has an open transaction, which would be lost
        self._gate.leave()
        try:
            with self._gate.alone():
                self.check_usable()
                self._resize(0)
        finally:
            self._gate.enter()
        self.check_usable()

    def copy(self, folder: Path) -> None:
        """Copy the present content durably into an existing folder, without freed pages.

        Waits for the disk: call this in a worker thread. Reading and writing continue meanwhile.

        Raises `CopyInterrupted` if the map must be resized or the environment reopened: all readers wait for that, so
        it cannot wait for the copy. Raises `FileWriteFailed` if the copy cannot be written.
        """
        try:
            # LMDB writes to our file, through the page cache: a file that LMDB opens waits for the disk at every
            # megabyte.
            with (folder / DATA_FILE).open("xb") as file, synced_meanwhile(file.fileno()):
                self._copy_to(file.fileno())
            sync_folder(folder)
        except (lmdb.Error, OSError) as error:
            raise FileWriteFailed(str(folder), str(error)) from error

    def _copy_to(self, descriptor: int) -> None:
        with closing(Outlet(descriptor)) as outlet:
            try:
                # In this order: a copy that waits for its turn must not hold a read, which `alone` would wait for.
                with self._gate.giving_way(outlet.cut), self.read():
                    self._environment.copyfd(outlet.descriptor, compact=True)
            except lmdb.Error as error:
                if outlet.is_cut or isinstance(error, lmdb.MapResizedError):
                    raise CopyInterrupted(self.path) from error
                raise

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a write transaction and commit durably; if the map is full, grow it and run `work` again.

        Raises `StoreReplaced`, and stores nothing, if the data file is no longer at `path`. Raises `StoreFull`,
        `StoreMapRefused`, `StoreWriteFailed` or `CorruptRecord` if LMDB or the system refuses; the environment was then
        reopened, so that the caller can check whether the commit is stored. Raises `StoreOutcomeUnknown` if reopening
        failed, `StoreClosed` and `StoreForked`.
        """
        self.check_usable()
        self.check_in_place()
        for _ in range(MAP_GROWTHS_MAX):
            is_cleared = False
            try:
                with self._environment.begin(write=True) as transaction:
                    try:
                        result = work(transaction)
                    except BaseException:
                        # py-lmdb does not abort a write transaction while a copy is running.
                        self._gate.clear()
                        is_cleared = True
                        raise
                    started = time.perf_counter()
                # The least measured time is that of the disk; the rest of a longer time is waiting for the GIL.
                self.commit_seconds = min(time.perf_counter() - started, self.commit_seconds * COMMIT_TIME_DRIFT)
                return result
            except lmdb.MapFullError:
                self._grow()
            except lmdb.Error as error:
                self._reopen()
                raise write_error(self.path, error) from error
            finally:
                if is_cleared:
                    self._gate.cleared()
        raise StoreFull(self.path, f"the map could not grow beyond {self._map_size_bytes:,} bytes")

    def sizes(self) -> tuple[int, int]:
        """(bytes of the data file on disk, bytes of the map)."""
        with translated_errors(self._folder):
            return (self._folder / DATA_FILE).stat().st_size, self._map_size_bytes

    def close(self) -> None:
        """Close the environment and mark it as closed cleanly. Idempotent; does nothing in a forked child."""
        if self._closed or os.getpid() != self._pid:
            return
        with self._gate.alone():
            self._closed = True
            self._environment.close()
        if not self._read_only:
            close_in_order(self._writer_lock)

    def _open(self, *, create: bool) -> None:
        with translated_errors(self._folder):
            self._environment = self._opened(create=create)

    def _end_opening(self, owner_of_new: str) -> None:
        """Sync the names of the files; then mark a new store as created."""
        try:
            with translated_errors(self._folder):
                sync_names(self._folder)
                if owner_of_new:
                    write_owner(self._writer_lock, owner_of_new)
        except BaseException:
            self._environment.close()
            raise

    def _opened(self, *, create: bool) -> lmdb.Environment:
        lock = not self.leaves_no_trace or needs_lock_file(self._folder)
        if lock and self._read_only:
            take_room_to_read(self._folder)
        environment = _open_lmdb(self.path, self._map_size_bytes, create=create, read_only=self._read_only, lock=lock)
        try:
            check_length(self._folder, environment)
            # An environment without a table is left by an interrupted creation.
            create = create or (not self._read_only and not environment.stat()["entries"])
            check_format(self.path, environment, create=create)
            self._tables: dict[str, Table] = {
                name: environment.open_db(name.encode(), create=not self._read_only) for name in self.table_names
            }
            environment.reader_check()
            self._map_size_bytes = environment.info()["map_size"]
            self._identity = identity(self.path)
            return environment
        except lmdb.Error as error:
            environment.close()
            if create:
                raise write_error(self.path, error) from error
            raise StoreTruncated(
                self.path, f"The store {self.path} cannot be read ({error}). Restore it from a backup."
            ) from error
        except BaseException:
            environment.close()
            raise

    def _grow(self) -> None:
        """Grow the map. Raises `StoreMapRefused`; the map then keeps its size."""
        with self._gate.alone():
            self._resize(self._map_size_bytes * MAP_GROWTH_FACTOR)
        logger.info("store map grown", extra={"path": self.path, "map_size_bytes": self._map_size_bytes})

    def _resize(self, size_bytes: int) -> None:
        """Resize the map; 0 takes the size of the writing process. Call only while nobody reads (`Gate.alone`)."""
        try:
            self._environment.set_mapsize(size_bytes)
        except lmdb.Error as error:
            # LMDB has released the old map before the system refused the new one.
            self._open_again()
            if size_bytes:
                raise StoreMapRefused(self.path, size_bytes, is_growing=True) from error
            # The reopened environment maps at least everything that is stored by now.
        self._map_size_bytes = self._environment.info()["map_size"]

    def _reopen(self) -> None:
        """Reopen after a failed commit: LMDB may refuse everything until then, and only then shows what is stored."""
        with self._gate.alone():
            self._open_again()

    def _open_again(self) -> None:
        """Close and open the environment. Call only while nobody reads (`Gate.alone`)."""
        self._environment.close()
        try:
            self._open(create=False)
        except StoreError as error:
            self._closed = True
            if self._read_only:
                raise
            unlock(self._writer_lock)
            raise StoreOutcomeUnknown(self.path, str(error)) from error


class _Read:
    """One read transaction as a context manager; `contextlib.contextmanager` would take longer than the transaction."""

    __slots__ = ("_environment", "_transaction")

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def __enter__(self) -> Transaction:
        self._transaction = self._environment.begin_reading()
        return self._transaction

    def __exit__(self, *_: object) -> None:
        self._environment.end_reading(self._transaction)


def _open_lmdb(path: str, map_size_bytes: int, *, create: bool, read_only: bool, lock: bool) -> lmdb.Environment:
    options = {
        "map_size": map_size_bytes,
        "max_dbs": TABLES_MAX,
        "max_spare_txns": SPARE_READERS,
        "create": create,
        "readonly": read_only,
        "lock": lock,
    }
    if create:
        # An existing file determines the engine itself.
        options["lib_version"] = ENGINE
    try:
        return lmdb.open(os.fsencode(path), **options)  # type: ignore[arg-type]
    except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError, lmdb.PageNotFoundError) as error:
        problem = lock_problem(path, error)
        if problem is not None:
            raise open_error(path, problem, map_size_bytes) from problem
        raise StoreFormatUnknown(
            path, f"{path} holds no LMDB data of a known version ({error}). Name another folder."
        ) from error
    except lmdb.ReadonlyError as error:
        raise permission_error(Path(path), read_only=read_only) from error
    except lmdb.Error as error:
        raise open_error(path, error, map_size_bytes) from error
