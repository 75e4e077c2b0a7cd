"""What LMDB says when it refuses something, as an error of the store."""

import errno
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
from .folder import IF_SYSTEM_REFUSES, NO_ROOM, has_room


def open_error(path: str, error: lmdb.Error, map_size_bytes: int) -> StoreError:
    """Why the store at `path` cannot be opened."""
    reason = str(error)
    if os.strerror(errno.ENOMEM) in reason:
        return StoreMapRefused(path, map_size_bytes)
    if os.strerror(errno.EROFS) in reason:
        return StoreReadOnly(path, f"{path} is on a read-only file system. Put a copy where it can be written.")
    if _says_no_room(reason):
        return StoreFull(path, reason)
    if "already open" in reason:
        return StoreInUse(path, "this process")
    return StorePathInvalid(path, f"{path} cannot be opened as a store: {reason}. {IF_SYSTEM_REFUSES}.")


def write_error(path: str, error: lmdb.Error) -> StoreError:
    """Why a commit could not be written, where it is known not to be stored."""
    reason = str(error)
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError):
        return CorruptRecord(path, 0, reason)
    # LMDB reports a write that came to an end halfway, as on a disk that has become full, as an I/O error.
    if _says_no_room(reason) or (os.strerror(errno.EIO) in reason and not has_room(Path(path))):
        return StoreFull(path, reason)
    return StoreWriteFailed(path, reason)


def _says_no_room(reason: str) -> bool:
    return any(os.strerror(code) in reason for code in NO_ROOM)
