"""The LMDB environment of a control board, which several processes may write; it is reopened after a failed write."""

import errno
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import lmdb
import msgspec

from ..control.errors import ControlBoardUnreadable
from ..errors import FileWriteFailed, StoreClosed, StoreError, StoreForked, StoreInUse, StoreReadOnly
from .environment import ENGINE
from .folder import sync_names
from .gate import Gate
from .lmdb_errors import lock_problem
from .lock_file import reserve_lock_file

ALREADY_OPEN: Final = "already open in this process"
"""The text of py-lmdb's error for an environment that this process has open already."""
MAP_SIZE_BYTES: Final = 1 << 30
"""The reserved address space, and the largest size of the data file."""
READERS_MAX: Final = 126
"""The most simultaneous readers, over all processes."""
TABLES: Final = ("subscriptions", "parked", "requests", "answers", "paused", "positions", "status")
IF_DAMAGED: Final = (
    "Look at the disk; `eventsrc verify` tells what is damaged. Without its folder a runtime begins a new one: "
    "subscriptions begin anew then, and what is parked or asked is forgotten."
)
IF_CROWDED: Final = "End some of the programs that do, and try again."
_DAMAGE: Final = (
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.IncompatibleError,
)
_UNDECODABLE: Final = (msgspec.MsgspecError, struct.error, UnicodeDecodeError)

Transaction: TypeAlias = "lmdb.Transaction[bytes]"
T = TypeVar("T")


class BoardEnvironment:
    """The environment in the folder `path`, created if it does not exist. Any thread may use it.

    Raises `FileWriteFailed`, `StoreInUse` if this process has it open already, `StoreReadOnly` if it is on a read-only
    file system, `ControlBoardUnreadable` if it is damaged.
    """

    def __init__(self, path: str, *, durable: bool) -> None:
        self.path = path
        self._durable = durable
        self._pid = os.getpid()
        self._gate = Gate()
        self._closed = False
        self._is_lost = False
        self._open()

    def _open(self) -> None:
        try:
            Path(self.path).mkdir(parents=True, exist_ok=True)
            reserve_lock_file(Path(self.path))
            environment = lmdb.open(
                os.fsencode(self.path),
                max_dbs=len(TABLES) + 1,
                map_size=MAP_SIZE_BYTES,
                max_readers=READERS_MAX,
                lib_version=ENGINE,
                sync=self._durable,
            )
        except (lmdb.Error, OSError) as error:
            raise _opening_error(self.path, error) from error
        try:
            environment.reader_check()
            self.tables: dict[str, Any] = {name: environment.open_db(name.encode()) for name in TABLES}
            if self._durable:
                sync_names(Path(self.path))
        except (lmdb.Error, OSError) as error:
            environment.close()
            raise _opening_error(self.path, error) from error
        self.opened = environment
        """The open LMDB environment; replaced after a failed write."""

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A read transaction. Raises `ControlBoardUnreadable`, `StoreClosed`, `StoreForked`.

        After a failed write it reopens the environment, and raises what the constructor raises if that fails.
        """
        try:
            with self._usable(), self.opened.begin() as transaction:
                yield transaction
        except lmdb.ReadersFullError as error:
            raise ControlBoardUnreadable(self.path, f"{READERS_MAX} look at it already", IF_CROWDED) from error
        except lmdb.Error as error:
            raise ControlBoardUnreadable(self.path, str(error), IF_DAMAGED) from error

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a write transaction. Raises the errors of `read`, and `FileWriteFailed`."""
        try:
            with self._usable(), self.opened.begin(write=True) as transaction:
                return work(transaction)
        except lmdb.Error as error:
            # After a failed commit LMDB may refuse everything until the environment is reopened.
            self._is_lost = True
            raise FileWriteFailed(self.path, str(error)) from error

    def close(self) -> None:
        """Close the environment. Idempotent; does nothing in a forked child."""
        if os.getpid() != self._pid:
            return
        with self._gate.alone():
            self._closed = True
            self.opened.close()

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Check that the environment is usable, keep it open for the block, and translate errors about damage."""
        if os.getpid() != self._pid:
            raise StoreForked(self.path)
        if self._is_lost and not self._gate.depth:
            self._reopen_if_lost()
        self._gate.enter()
        try:
            if self._closed:
                raise StoreClosed(self.path)
            yield
        except _DAMAGE as error:
            raise ControlBoardUnreadable(self.path, str(error), IF_DAMAGED) from error
        except _UNDECODABLE as error:
            raise ControlBoardUnreadable(self.path, f"a row of it is damaged ({error})", IF_DAMAGED) from error
        finally:
            self._gate.leave()

    def _reopen_if_lost(self) -> None:
        """Reopen the environment after a failed write, once no thread uses it."""
        with self._gate.alone():
            if self._is_lost and not self._closed:
                self.opened.close()
                self._open()
                self._is_lost = False


def _opening_error(path: str, error: Exception) -> StoreError:
    problem = lock_problem(path, error)
    if problem is not None:
        return FileWriteFailed(path, str(problem))
    if isinstance(error, _DAMAGE):
        return ControlBoardUnreadable(path, str(error), IF_DAMAGED)
    if ALREADY_OPEN in str(error):
        return StoreInUse(path, "this process")
    if os.strerror(errno.EROFS) in str(error):
        said = f"{path} is on a read-only file system, and who looks at it is noted there. Copy the store to another."
        return StoreReadOnly(path, said)
    return FileWriteFailed(path, str(error))
