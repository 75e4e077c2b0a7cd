"""The files of a store's folder besides what LMDB writes: is it usable, who writes, how did it end."""

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
"""What LMDB makes it: a header, and a slot of 64 bytes for each of 126 readers."""
BLOCK_SIZE_BYTES: Final = 512
"""Of what `st_blocks` counts."""
WRITER_FILE: Final = "writer.lock"
ARCHIVE_FOLDER: Final = "archive"
"""Is made by the first compaction; see `storage/archive/archive.py`."""
CONTROL_FOLDER: Final = "control"
"""Is made once the data file has been; see `storage/control/board.py`."""
RUNTIME_FILE: Final = "runtime.lock"
"""In the control folder; held by the runtime that keeps what is there, and the views beside it."""
VIEWS_FOLDER: Final = "views"
ROWS_FOLDER: Final = "rows"
"""Of each generation of a view: what `view_environment.py` opens."""
GENERATION_FILE: Final = "generation.json"
"""Beside it once it has been made."""
READERS_FOLDER: Final = "readers"
"""In it are a folder for each reader that keeps views, with control and views of its own."""
DATA_SIZE_BYTES_MIN: Final = 8192
"""LMDB begins a file with two pages, of 4,096 bytes at least."""
LOOKS_MAX: Final = 5_000
LOOK_SECONDS: Final = 0.002
"""So often, and after so long, a lock is tried again while somebody only looks whether it is held."""
ROOM_BYTES_MIN: Final = 256 * 1024
"""A disk with less than this has no room."""
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
IF_SYSTEM_REFUSES: Final = "Look at the disk, and at the limits of this process, and try again"
NOT_OF_THE_PATH: Final = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK)
"""What says nothing of whether the folder is the right one."""

logger = logging.getLogger("eventsrc.storage")

_locked: Final = weakref.WeakSet[TextIO]()
"""Files whose locks this process holds, or tries to."""


def _leave_locks_to_parent() -> None:
    """In a forked child, which may not write: a lock is held for as long as any process has its file open."""
    for file in list(_locked):
        file.close()


os.register_at_fork(after_in_child=_leave_locks_to_parent)


def path_problem(path: str | os.PathLike[str]) -> str:
    """Why no file can have this name, whatever is there; empty where one can. It need not be UTF-8."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return "it has characters that no name of a file can have"
    return "it has a NUL in it" if b"\0" in encoded else ""


def check_folder(folder: Path, *, create: bool) -> bool:
    """Make the folder if need be; return whether a store's data file is there."""
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
        # An empty file is what is left where the disk was full when the store was created.
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
    """Hold an advisory lock for as long as the store is open; the system drops it with the process."""
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
    """Take the lock of a file until `drop`. Raises `OSError` where another process holds it, and does not only look."""
    _locked.add(file)
    for _ in range(LOOKS_MAX):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Who only looks shares it, for a moment that may be long on a busy machine; who holds it does not.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
            time.sleep(LOOK_SECONDS)
        else:
            return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def drop(file: TextIO) -> None:
    """Give up the lock of a file, and close it."""
    # Closing alone is not enough while a process that was forked just now has the file, too.
    with file:
        fcntl.flock(file, fcntl.LOCK_UN)


def is_open_for_writing(folder: Path) -> bool:
    """Whether a process has the store open for writing at this moment, or may have: that may be another user's secret.

    Raises `OSError` where the system does not tell.
    """
    try:
        return _is_held(folder / WRITER_FILE)
    except PermissionError:
        return True


def has_runtime(control_folder: Path) -> bool:
    """Whether a runtime keeps this control board, and the views beside it, at this moment. Raises `OSError`."""
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
    """Whether a reader must use LMDB's lock file: where a process writes the store, or may begin to.

    A copy has no lock file and needs none. Nor does a reader need one that it may not write, as in the store of another
    user, while nobody writes the store. Raises `OSError` where the system does not tell.
    """
    path = folder / LOCK_FILE
    return is_open_for_writing(folder) or (path.exists() and os.access(path, os.W_OK))


def take_room(folder: Path) -> None:
    """`reserve_lock_file` with our errors: raises `StoreFull`, `StoreReadOnly` or `StorePathInvalid`."""
    try:
        reserve_lock_file(folder)
    except OSError as error:
        raise _folder_error(str(folder), error) from error


def take_room_to_read(folder: Path) -> None:
    """The same for a reader; where it may not write the file, LMDB says so, or does without."""
    try:
        reserve_lock_file(folder)
    except OSError as error:
        if error.errno in NO_ROOM:
            what = f"its {LOCK_FILE}, in which LMDB notes who reads ({error.strerror})"
            raise StoreFull(str(folder), what, "read") from error


def reserve_lock_file(folder: Path) -> None:
    """Take the room of LMDB's lock file: it is mapped into memory, where a full disk would kill the process.

    Raises `OSError` when there is no room.
    """
    path = folder / LOCK_FILE
    try:
        # LMDB makes it without taking its room, and what copies files may leave that out.
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
    """Write who has the store open for writing; nothing once it was closed in order. Raises `OSError`."""
    # Past the file's buffer: what the disk refused would be in it, and be refused once more when the file is closed.
    descriptor = writer_lock.fileno()
    os.ftruncate(descriptor, 0)
    os.write(descriptor, text.encode("ascii"))
    os.fsync(descriptor)


def let_go(writer_lock: TextIO) -> None:
    """Leave the mark of an orderly end, and let others write."""
    try:
        mark(writer_lock, "")
    except OSError as error:
        # The pages are looked at once more then, should the machine stop before the next orderly end.
        logger.warning("a store is closed, but cannot be marked so: %s", error, extra={"path": writer_lock.name})
    finally:
        drop(writer_lock)


def was_closed_cleanly(folder: Path) -> bool:
    """Whether the pages can be trusted: closed in order, or only the process died.

    A killed process leaves what it wrote in the page cache, so LMDB's pages stay whole; after the machine went down
    they are checked.
    """
    mark = (folder / WRITER_FILE).read_text(encoding="ascii").split()
    return not mark or mark[1:] == [boot_id()]


def boot_id() -> str:
    """Tells this start of the machine from every other."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def sync_folder(folder: Path) -> None:
    """Bring the names of its files to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def identity(path: str) -> tuple[int, int]:
    """What tells the data file of a store from every other. Raises `OSError`."""
    status = os.stat(f"{path}/{DATA_FILE}")  # noqa: PTH116 - with each commit: a `Path` takes longer than the call
    return status.st_dev, status.st_ino


def is_in_place(path: str, data_file: tuple[int, int]) -> bool:
    """Whether the data file at this path is still this one, as far as this user may look. Raises a `StoreError`."""
    try:
        return identity(path) == data_file
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # a program may give up its rights once the store is open
    except OSError as error:
        raise _folder_error(path, error) from error


@contextmanager
def translated_errors(folder: Path) -> Iterator[None]:
    """Turn what the system says of the files of a store into our errors."""
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
    """Why LMDB may not open the files of a store in a folder that may be entered."""
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
    """Whether its disk, and the limit on the size of files, leave room to write, as far as the disk tells."""
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        disk = os.statvfs(folder)
        size_bytes = (folder / DATA_FILE).stat().st_size
    except OSError:
        return True
    if disk.f_bavail * disk.f_frsize < ROOM_BYTES_MIN:
        return False
    return limit_bytes == resource.RLIM_INFINITY or size_bytes + ROOM_BYTES_MIN < limit_bytes
