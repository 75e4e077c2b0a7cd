"""The folder of a store besides LMDB's own work: whether it is usable, who writes it, how it was closed."""

import errno
import fcntl
import logging
import os
import resource
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from ..errors import StoreError, StoreFull, StoreInUse, StorePathInvalid, StoreReadOnly, StoreTruncated

DATA_FILE: Final = "data.mdb"
LOCK_FILE: Final = "lock.mdb"
LOCK_FILE_SIZE_BYTES: Final = 8192
"""The size of LMDB's lock file: a header, and a slot of 64 bytes for each of 126 readers."""
BLOCK_SIZE_BYTES: Final = 512
"""The size of the blocks that `st_blocks` counts."""
WRITER_FILE: Final = "writer.lock"
ARCHIVE_FOLDER: Final = "archive"
"""Created by the first compaction; see `storage/archive/archive.py`."""
CONTROL_FOLDER: Final = "control"
"""Created after the data file; see `storage/control/board.py`."""
RUNTIME_FILE: Final = "runtime.lock"
"""In the control folder; locked by the runtime that owns this control board and the views beside it."""
VIEWS_FOLDER: Final = "views"
ROWS_FOLDER: Final = "rows"
"""In each generation of a view: the folder that `view_environment.py` opens."""
GENERATION_FILE: Final = "generation.json"
"""Beside the rows folder; written once the environment in that folder has been created."""
READERS_FOLDER: Final = "readers"
"""Contains a folder for each reader process that keeps views, with its own control board and views."""
DATA_SIZE_BYTES_MIN: Final = 8192
"""LMDB begins a file with two pages of at least 4,096 bytes."""
LOOKS_MAX: Final = 5_000
LOOK_SECONDS: Final = 0.002
"""The most attempts, and the pause between them, to take a lock that another process only tests (`_is_held`)."""
ROOM_BYTES_MIN: Final = 256 * 1024
"""A disk with less free space than this counts as full."""
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
IF_SYSTEM_REFUSES: Final = "Look at the disk, and at the limits of this process, and try again"
NOT_OF_THE_PATH: Final = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK)
"""Error codes that do not depend on the path: another folder would not help."""

logger = logging.getLogger("eventsrc.storage")

_locked: Final = weakref.WeakSet[TextIO]()
"""The files whose locks this process holds or tries to take."""


def _leave_locks_to_parent() -> None:
    """Close lock files in a forked child, which may not write: a lock lasts while any process has its file open."""
    for file in list(_locked):
        file.close()


os.register_at_fork(after_in_child=_leave_locks_to_parent)


def path_problem(path: str | os.PathLike[str]) -> str:
    """The reason why no file can have this path; empty if a file can. A path need not be UTF-8."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return "it has characters that no name of a file can have"
    return "it has a NUL in it" if b"\0" in encoded else ""


def check_folder(folder: Path, *, create: bool) -> bool:
    """Create the folder if needed and `create` is true; return whether it has a store's data file.

    Raises `StorePathInvalid`, `StoreReadOnly`, `StoreFull` or `StoreTruncated`.
    """
    path = str(folder)
    problem = path_problem(path)
    if problem:
        raise StorePathInvalid(path, f"{path!r} cannot be the path of a store: {problem}. Name another one.")
    try:
        if folder.exists() and not folder.is_dir():
            raise StorePathInvalid(path, f"{path} is a file. A store is a folder: name one, or a path that is free.")
        if not folder.exists():
            if not create:
                raise StorePathInvalid(path, f"There is no store at {path}. See whether the path is right.")
            folder.mkdir(parents=True)
        data_file = folder / DATA_FILE
        # An empty data file is left if the disk was full when the store was created.
        size_bytes = data_file.stat().st_size if data_file.exists() else None
        if size_bytes is not None and size_bytes < DATA_SIZE_BYTES_MIN and (folder / CONTROL_FOLDER).exists():
            raise StoreTruncated(
                path, f"The store {path} has {size_bytes:,} bytes left: it was cut off. Restore it from a backup."
            )
    except OSError as error:
        raise _folder_error(path, error) from error
    if not size_bytes and not create:
        raise StorePathInvalid(path, f"{path} is a folder without a store in it. Name the folder of a store.")
    return bool(size_bytes)


def lock_for_writing(folder: Path) -> TextIO:
    """Lock the store for writing; return the locked file, whose lock ends with `drop` or with the process.

    Raises `StoreInUse` if another process holds the lock, `StorePathInvalid`, `StoreReadOnly` or `StoreFull`.
    """
    path = str(folder)
    try:
        file = (folder / WRITER_FILE).open("a+", encoding="ascii")
    except OSError as error:
        raise _folder_error(path, error) from error
    try:
        hold(file)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise _folder_error(path, error) from error
        raise StoreInUse(path, f"process {owner.split()[0]}" if owner else "another process") from None
    return file


def hold(file: TextIO) -> None:
    """Take the exclusive lock of a file until `drop`. Raises `OSError` if another process holds it exclusively."""
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


def drop(file: TextIO) -> None:
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


def needs_lock_file(folder: Path) -> bool:
    """Whether a reader must use LMDB's lock file: if a process writes the store or may begin to.

    A copy has no lock file and needs none. If nobody writes the store, a reader does not need a lock file that it may
    not write, as in the store of another user. Raises `OSError` if the system refuses to say.
    """
    path = folder / LOCK_FILE
    return is_open_for_writing(folder) or (path.exists() and os.access(path, os.W_OK))


def take_room(folder: Path) -> None:
    """Call `reserve_lock_file`; raise `StoreFull`, `StoreReadOnly` or `StorePathInvalid` for its `OSError`."""
    try:
        reserve_lock_file(folder)
    except OSError as error:
        raise _folder_error(str(folder), error) from error


def take_room_to_read(folder: Path) -> None:
    """Call `reserve_lock_file` for a reader. Raises `StoreFull`.

    Other errors are ignored: if the reader may not write the file, LMDB reports it or works without the file.
    """
    try:
        reserve_lock_file(folder)
    except OSError as error:
        if error.errno in NO_ROOM:
            what = f"its {LOCK_FILE}, in which LMDB notes who reads ({error.strerror})"
            raise StoreFull(str(folder), what, "read") from error


def reserve_lock_file(folder: Path) -> None:
    """Allocate the disk space of LMDB's lock file: the file is memory-mapped, so a full disk would kill the process.

    Raises `OSError`, for example if the disk is full.
    """
    path = folder / LOCK_FILE
    try:
        # LMDB creates the file sparse, and a tool that copies files may keep it sparse.
        if path.stat().st_blocks * BLOCK_SIZE_BYTES >= LOCK_FILE_SIZE_BYTES:
            return
        is_new = False
    except FileNotFoundError:
        is_new = True
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, LOCK_FILE_SIZE_BYTES)
    except OSError:
        if is_new:
            path.unlink()
        raise
    finally:
        os.close(descriptor)


def mark(writer_lock: TextIO, text: str) -> None:
    """Write the lock file's content: the writing process, or nothing after an orderly close. Raises `OSError`."""
    # Not through the file's buffer: text that the disk refused would stay in it and fail again when the file is closed.
    descriptor = writer_lock.fileno()
    os.ftruncate(descriptor, 0)
    os.write(descriptor, text.encode("ascii"))
    os.fsync(descriptor)


def let_go(writer_lock: TextIO) -> None:
    """Mark the store as closed in order, and release its lock. Logs a warning if the mark cannot be written."""
    try:
        mark(writer_lock, "")
    except OSError as error:
        # The old mark stays: if the machine stops before the next orderly close, the pages are checked needlessly.
        logger.warning("a store is closed, but cannot be marked so: %s", error, extra={"path": writer_lock.name})
    finally:
        drop(writer_lock)


def was_closed_cleanly(folder: Path) -> bool:
    """Whether the pages can be trusted: the store was closed in order, or its process died but the machine ran on.

    The writes of a killed process are in the page cache, so LMDB's pages stay valid. After a stop of the machine the
    pages must be checked.
    """
    mark = (folder / WRITER_FILE).read_text(encoding="ascii").split()
    return not mark or mark[1:] == [boot_id()]


def boot_id() -> str:
    """Identifies this start of the machine; "unknown" if the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names of its files are on disk. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def identity(path: str) -> tuple[int, int]:
    """The device and inode of a store's data file, which identify the file. Raises `OSError`."""
    status = os.stat(f"{path}/{DATA_FILE}")  # noqa: PTH116 - with each commit: a `Path` takes longer than the call
    return status.st_dev, status.st_ino


def is_in_place(path: str, data_file: tuple[int, int]) -> bool:
    """Whether the data file at this path has this identity; True if this user may not look. Raises a `StoreError`."""
    try:
        return identity(path) == data_file
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # a program may drop its privileges once the store is open
    except OSError as error:
        raise _folder_error(path, error) from error


@contextmanager
def translated_errors(folder: Path) -> Iterator[None]:
    """Raise an `OSError` about the files of a store as the matching `StoreError`."""
    try:
        yield
    except OSError as error:
        raise _folder_error(str(folder), error) from error


def _folder_error(path: str, error: OSError) -> StoreError:
    reason = error.strerror or str(error)
    if error.errno == errno.EROFS:
        return StoreReadOnly(
            path, f'{path} is on a read-only file system. What is there can be read with role="reader".'
        )
    if error.errno in NO_ROOM:
        return StoreFull(path, reason, "open")
    advice = (
        IF_SYSTEM_REFUSES if error.errno in NOT_OF_THE_PATH else "Name another folder, or get the right to this one"
    )
    return StorePathInvalid(path, f"{path} cannot be used as a store: {reason}. {advice}.")


def permission_error(folder: Path, *, read_only: bool) -> StoreError:
    """The error for a store whose folder is accessible, but whose files LMDB may not open."""
    if not os.access(folder / DATA_FILE, os.R_OK):
        return _folder_error(str(folder), PermissionError(errno.EACCES, f"{DATA_FILE} may not be read"))
    if read_only:
        what, advice = f"its {LOCK_FILE}, in which LMDB notes who reads", "read a copy (`eventsrc verify` needs none)"
    else:
        what, advice = f"its {DATA_FILE} and {LOCK_FILE}", 'open it with role="reader"'
    return StoreReadOnly(
        str(folder), f"The store {folder} cannot be opened: this user may not write {what}. Get the right, or {advice}."
    )


def has_room(folder: Path) -> bool:
    """Whether the disk and the limit on file sizes leave room to write; True if the system refuses to say."""
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        disk = os.statvfs(folder)
        size_bytes = (folder / DATA_FILE).stat().st_size
    except OSError:
        return True
    if disk.f_bavail * disk.f_frsize < ROOM_BYTES_MIN:
        return False
    return limit_bytes == resource.RLIM_INFINITY or size_bytes + ROOM_BYTES_MIN < limit_bytes
