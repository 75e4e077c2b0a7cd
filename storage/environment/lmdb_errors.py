"""Translates errors of LMDB into errors of the store."""

import errno
import fcntl
import os
from pathlib import Path

import lmdb

from ..errors import (
    CorruptRecord,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreMapRefused,
    StorePathInvalid,
    StoreReadOnly,
    StoreWriteFailed,
)
from .folder import DATA_FILE, IF_SYSTEM_REFUSES, LOCK_FILE, NO_ROOM, has_room


class LockFileUnusable(lmdb.LockError):
    """The lock file cannot be used; LMDB reports it as an invalid data file."""


def open_error(path: str, error: lmdb.Error, map_size_bytes: int) -> StoreError:
    """The error for a store at `path` that cannot be opened although its data file is valid."""
    reason = str(error)
    if os.strerror(errno.ENOMEM) in reason:
        return StoreMapRefused(path, map_size_bytes)
    if os.strerror(errno.EROFS) in reason:
        return StoreReadOnly(path, f"{path} is on a read-only file system. Put a copy where it can be written.")
    if says_no_room(reason):
        return StoreFull(path, reason, "open")
    if "already open" in reason:
        return StoreInUse(path, "this process")
    problem = str(error) if isinstance(error, LockFileUnusable) else _refusal(path, error)
    return StorePathInvalid(path, f"{path} cannot be opened as a store: {problem}. {IF_SYSTEM_REFUSES}.")


def lock_problem(path: str, error: Exception) -> LockFileUnusable | None:
    """The problem of LMDB's lock file, if the lock file is why LMDB reported an invalid file; otherwise None.

    LMDB raises the same error for its data file and its lock file. It raises the error for a new lock file that the
    system refused to lock, which LMDB takes for one that another process has locked, and for a file of another program.
    """
    if not isinstance(error, lmdb.InvalidError | lmdb.VersionMismatchError):
        return None
    try:
        lmdb.open(os.fsencode(path), readonly=True, create=False, lock=False).close()
    except lmdb.Error:
        return None
    try:
        _try_lock(Path(path))
    except BlockingIOError:
        return LockFileUnusable(f"its {LOCK_FILE} is not as this LMDB makes it, and another process has it locked")
    except OSError as refusal:
        return LockFileUnusable(f"its {LOCK_FILE}: {refusal.strerror}")
    return LockFileUnusable(f"its {LOCK_FILE} could not be locked a moment ago")


def _refusal(path: str, error: lmdb.Error) -> str:
    """The text of LMDB's error, with the name of the file that the system still refuses to open or lock, if any."""
    reason = str(error).removeprefix(f"{path}: ")
    for name, use in ((LOCK_FILE, _try_lock), (DATA_FILE, _try_read)):
        try:
            use(Path(path))
        except OSError as refusal:
            if refusal.strerror and refusal.strerror in reason:
                return f"its {name}: {reason}"
    return reason


def _try_lock(folder: Path) -> None:
    """Lock LMDB's lock file as LMDB does. Closing ends all locks of this process on it: it must not have it open."""
    with (folder / LOCK_FILE).open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)


def _try_read(folder: Path) -> None:
    with (folder / DATA_FILE).open("rb") as file:
        file.read(1)


def write_error(path: str, error: lmdb.Error) -> StoreError:
    """The error for a failed commit that is known not to be stored."""
    reason = str(error)
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError):
        return CorruptRecord(path, 0, reason)
    # LMDB reports a partial write, as on a disk that has become full, as an I/O error.
    if says_no_room(reason) or (os.strerror(errno.EIO) in reason and not has_room(Path(path))):
        return StoreFull(path, reason)
    return StoreWriteFailed(path, reason)


def says_no_room(reason: str) -> bool:
    """Whether the text of an LMDB error says that a disk, a quota or the limit on file sizes is exhausted."""
    return any(os.strerror(code) in reason for code in NO_ROOM)
