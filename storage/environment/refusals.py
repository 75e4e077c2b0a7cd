"""Whether an error says that the system refused something, which tells nothing of what is stored."""

from typing import Final

import lmdb

from ..errors import StoreFull, StoreMapRefused, StoreReadOnly
from .errors import StoreUnreadable
from .folder import NO_ROOM
from .lmdb_errors import says_no_room

ABSENT: Final = (FileNotFoundError, NotADirectoryError)
"""What the system says of a file that is not there: that is known then."""
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
    """Whether it, or what it was caused by, is that a disk is full, or what may be put on it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return True
        if isinstance(error, lmdb.Error) and says_no_room(str(error)):
            return True
        error = error.__cause__
    return False


def is_refusal(error: BaseException | None) -> bool:
    """Whether it, or what it was caused by, is the system's: no right, no memory, no descriptors, a disk that fails."""
    while error is not None:
        if isinstance(error, OSError):
            return not isinstance(error, ABSENT)
        # LMDB has a class for each of its own errors, and this one for what the system says.
        if type(error) is lmdb.Error or isinstance(error, (MemoryError, *_OF_STORES, *_OF_LMDB)):
            return True
        error = error.__cause__
    return False
