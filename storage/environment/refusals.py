"""Tells whether an error is a refusal by the system, which says nothing about the stored data."""

from typing import Final

import lmdb

from ..errors import StoreFull, StoreMapRefused, StoreReadOnly
from .errors import StoreUnreadable
from .folder import NO_ROOM
from .lmdb_errors import says_no_room

ABSENT: Final = (FileNotFoundError, NotADirectoryError)
"""The errors for a file that does not exist. They are no refusals: the file is known to be missing."""
_OF_STORES: Final = (StoreFull, StoreMapRefused, StoreReadOnly, StoreUnreadable)
_OF_LMDB: Final = (
    lmdb.MemoryError,
    lmdb.DiskError,
    lmdb.LockError,
    lmdb.ReadonlyError,
    lmdb.ReadersFullError,
    lmdb.TlsFullError,
)


def lacks_room(error: BaseException | None) -> bool:
    """Whether an error or one of its causes says that a disk, a quota or the limit on file sizes is exhausted."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return True
        if isinstance(error, lmdb.Error) and says_no_room(str(error)):
            return True
        error = error.__cause__
    return False


def is_refusal(error: BaseException | None) -> bool:
    """Whether an error or one of its causes is a refusal: no permission, memory or descriptors, or a failing disk."""
    while error is not None:
        if isinstance(error, OSError):
            return not isinstance(error, ABSENT)
        # py-lmdb has a subclass for each error of LMDB itself, and raises the base class for errors of the system.
        if type(error) is lmdb.Error or isinstance(error, (MemoryError, *_OF_STORES, *_OF_LMDB)):
            return True
        error = error.__cause__
    return False
