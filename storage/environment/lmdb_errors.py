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
from .folder import has_room


def open_error(path: str, error: lmdb.Error, map_size_bytes: int) -> StoreError:
    """Why the store at `path` cannot be opened."""
    reason = str(error)
    if os.strerror(errno.ENOMEM) in reason:
        return StoreMapRefused(path, map_size_bytes)
    if os.strerror(errno.EROFS) in reason:
        return StoreReadOnly(path, f"{path} is on a read-only file system. Put a copy where it can be written.")
    if os.strerror(errno.ENOSPC) in reason:
        return StoreFull(path, reason)
    if "already open" in reason:
        return StoreInUse(path, "this process")
    return StorePathInvalid(path, f"{path} cannot be opened as a store: {reason}.")


def write_error(path: str, error: lmdb.Error) -> StoreError:
    """Why a commit could not be written, where it is known not to be stored."""
    reason = str(error)
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError):
        return CorruptRecord(path, 0, reason)
    no_room = any(os.strerror(code) in reason for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    # LMDB reports a write that came to an end halfway, as on a disk that has become full, as an I/O error.
    if no_room or (os.strerror(errno.EIO) in reason and not has_room(Path(path))):
        return StoreFull(path, reason)
    return StoreWriteFailed(path, reason)
