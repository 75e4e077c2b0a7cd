"""The advisory locks of a store: one process writes it, and one runtime owns its control board."""

import errno
import fcntl
import logging
import os
import time
import weakref
from pathlib import Path
from typing import Final, TextIO

from ..errors import StoreInUse
from .folder import RUNTIME_FILE, WRITER_FILE, folder_error

CREATING: Final = "creating"
"""The last word of the lock file's content until a new store is on disk."""
BOOT_ID_FILE: Final = Path("/proc/sys/kernel/random/boot_id")
UNKNOWN_BOOT: Final = "unknown"
LOOKS_MAX: Final = 5_000
LOOK_SECONDS: Final = 0.002
"""The most attempts, and the pause between them, to take a lock that another process only tests (`_is_held`)."""

logger = logging.getLogger("eventsrc.storage")

_locked: Final = weakref.WeakSet[TextIO]()
"""The files whose locks this process holds or tries to take."""


def _leave_locks_to_parent() -> None:
    """Close lock files in a forked child, which may not write: a lock lasts while any process has its file open."""
    for file in list(_locked):
        file.close()


os.register_at_fork(after_in_child=_leave_locks_to_parent)


def lock_for_writing(folder: Path) -> TextIO:
    """Lock the store for writing; return the locked file, whose lock ends with `unlock` or with the process.

    Raises `StoreInUse` if another process holds the lock, `StorePathInvalid`, `StoreReadOnly` or `StoreFull`.
    """
    path = str(folder)
    try:
        file = (folder / WRITER_FILE).open("a+", encoding="ascii")
    except OSError as error:
        raise folder_error(path, error) from error
    try:
        lock(file)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise folder_error(path, error) from error
        raise StoreInUse(path, f"process {owner.split()[0]}" if owner else "another process") from None
    return file


def lock(file: TextIO) -> None:
    """Take the exclusive lock of a file until `unlock`. Raises `OSError` if another process holds it exclusively."""
    _locked.add(file)
    for _ in range(LOOKS_MAX):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # A process that only tests the lock shares it briefly, which may be long on a busy machine: try again.
            # Sharing fails, and raises, if the lock is held exclusively.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
            time.sleep(LOOK_SECONDS)
        else:
            return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlock(file: TextIO) -> None:
    """Release the lock of a file and close the file."""
    # Closing alone is not enough while a child that was just forked has the file open as well.
    with file:
        fcntl.flock(file, fcntl.LOCK_UN)


def is_open_for_writing(folder: Path) -> bool:
    """Whether a process has the store open for writing; True if this user may not read the lock file.

    Raises `OSError` for other errors of the system.
    """
    try:
        return _is_held(folder / WRITER_FILE)
    except PermissionError:
        return True


def has_runtime(control_folder: Path) -> bool:
    """Whether a runtime owns this control board and the views beside it now. Raises `OSError`."""
    return _is_held(control_folder / RUNTIME_FILE)


def _is_held(path: Path) -> bool:
    try:
        with path.open(encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    return False


def write_owner(writer_lock: TextIO, text: str) -> None:
    """Write the lock file's content: the writing process, or nothing after an orderly close. Raises `OSError`."""
    # Not through the file's buffer: text that the disk refused would stay in it and fail again when the file is closed.
    descriptor = writer_lock.fileno()
    os.ftruncate(descriptor, 0)
    os.write(descriptor, text.encode("ascii"))
    os.fsync(descriptor)


def close_in_order(writer_lock: TextIO) -> None:
    """Mark the store as closed in order, and release its lock. Logs a warning if the mark cannot be written."""
    try:
        write_owner(writer_lock, "")
    except OSError as error:
        # The old mark stays: if the machine stops before the next orderly close, the pages are checked needlessly.
        logger.warning("a store is closed, but cannot be marked so: %s", error, extra={"path": writer_lock.name})
    finally:
        unlock(writer_lock)


def was_closed_cleanly(folder: Path) -> bool:
    """Whether the pages can be trusted: the store was closed in order, or its process died but the machine ran on.

    The writes of a killed process are in the page cache, so LMDB's pages stay valid. After a stop of the machine the
    pages must be checked.
    """
    mark = (folder / WRITER_FILE).read_text(encoding="ascii").split()
    return not mark or is_this_start(" ".join(mark[1:]))


def was_being_created(folder: Path) -> bool:
    """Whether the machine, or the writing process, stopped before the store was created: nothing is stored in it."""
    return (folder / WRITER_FILE).read_text(encoding="ascii").split()[2:] == [CREATING]


def boot_id() -> str:
    """Identifies this start of the machine; "unknown" if the system does not tell, as with `ProcSubset=pid`."""
    try:
        return BOOT_ID_FILE.read_text(encoding="ascii").strip()
    except OSError:
        return UNKNOWN_BOOT


def is_this_start(boot: str) -> bool:
    """Whether this boot id is certainly that of this start of the machine."""
    return boot == boot_id() != UNKNOWN_BOOT
