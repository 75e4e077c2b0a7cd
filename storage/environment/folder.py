"""The folder of a store: the names of its files, whether it is usable, and what the system says of it."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ..errors import StoreError, StoreFull, StorePathInvalid, StoreReadOnly, StoreTruncated

DATA_FILE: Final = "data.mdb"
LOCK_FILE: Final = "lock.mdb"
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
ROOM_BYTES_MIN: Final = 256 * 1024
"""A disk with less free space than this counts as full."""
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
IF_SYSTEM_REFUSES: Final = "Look at the disk, and at the limits of this process, and try again"
NOT_OF_THE_PATH: Final = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK)
"""Error codes that do not depend on the path: another folder would not help."""


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
            make_folder(folder)
        data_file = folder / DATA_FILE
        # An empty data file is left if the disk was full when the store was created.
        size_bytes = data_file.stat().st_size if data_file.exists() else None
        if size_bytes is not None and size_bytes < DATA_SIZE_BYTES_MIN and (folder / CONTROL_FOLDER).exists():
            raise StoreTruncated(
                path, f"The store {path} has {size_bytes:,} bytes left: it was cut off. Restore it from a backup."
            )
    except OSError as error:
        raise folder_error(path, error) from error
    if not size_bytes and not create:
        raise StorePathInvalid(path, f"{path} is a folder without a store in it. Name the folder of a store.")
    return bool(size_bytes)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents durably, where they do not exist. Raises `OSError`."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in new:
        _sync_if_permitted(each.parent)


def sync_names(folder: Path) -> None:
    """Sync a folder and its parent: LMDB does not, and the process that created them may have been killed.

    Raises `OSError`.
    """
    sync_folder(folder)
    _sync_if_permitted(folder.parent)


def _sync_if_permitted(folder: Path) -> None:
    with suppress(PermissionError):
        sync_folder(folder)


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
        raise folder_error(path, error) from error


@contextmanager
def translated_errors(folder: Path) -> Iterator[None]:
    """Raise an `OSError` about the files of a store as the matching `StoreError`."""
    try:
        yield
    except OSError as error:
        raise folder_error(str(folder), error) from error


def folder_error(path: str, error: OSError) -> StoreError:
    """The `StoreError` for what the system refused at the folder of a store."""
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
        return folder_error(str(folder), PermissionError(errno.EACCES, f"{DATA_FILE} may not be read"))
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
