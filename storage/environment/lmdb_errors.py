"""What LMDB says when it refuses something, as an error of the store."""

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
    """What LMDB has told as a file that is none of LMDB."""


def open_error(path: str, error: lmdb.Error, map_size_bytes: int) -> StoreError:
    """Why the store at `path` cannot be opened, whose data file LMDB finds no fault with."""
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
    """What is wrong with LMDB's lock file, where that is why it said that a file is none of LMDB; else None.

    LMDB says the same of both files. It does so of a lock file that is new when the system refused to lock it, which it
    takes for another process that has it, and of one that another program has made.
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
    """What LMDB said, and of which of its files where the system refuses that still."""
    reason = str(error).removeprefix(f"{path}: ")
    for name, use in ((LOCK_FILE, _try_lock), (DATA_FILE, _try_read)):
        try:
            use(Path(path))
        except OSError as refusal:
            if refusal.strerror and refusal.strerror in reason:
                return f"its {name}: {reason}"
    return reason


def _try_lock(folder: Path) -> None:
    """Do as LMDB does with its lock file. Only where this process has not opened it: closing ends all its locks."""
    with (folder / LOCK_FILE).open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)


def _try_read(folder: Path) -> None:
    with (folder / DATA_FILE).open("rb") as file:
        file.read(1)


def write_error(path: str, error: lmdb.Error) -> StoreError:
    """Why a commit could not be written, where it is known not to be stored."""
    reason = str(error)
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError):
        return CorruptRecord(path, 0, reason)
    # LMDB reports a write that came to an end halfway, as on a disk that has become full, as an I/O error.
    if says_no_room(reason) or (os.strerror(errno.EIO) in reason and not has_room(Path(path))):
        return StoreFull(path, reason)
    return StoreWriteFailed(path, reason)


def says_no_room(reason: str) -> bool:
    """Whether what LMDB said is that a disk is full, or what may be put on it."""
    return any(os.strerror(code) in reason for code in NO_ROOM)
