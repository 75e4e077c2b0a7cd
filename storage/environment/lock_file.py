"""LMDB's own lock file `lock.mdb`, a table of readers: who needs it, and room for it on the disk."""

import os
from pathlib import Path
from typing import Final

from ..errors import StoreFull
from .folder import LOCK_FILE, NO_ROOM, folder_error
from .locks import is_open_for_writing

LOCK_FILE_SIZE_BYTES: Final = 8192
"""The size of LMDB's lock file: a header, and a slot of 64 bytes for each of 126 readers."""
BLOCK_SIZE_BYTES: Final = 512
"""The size of the blocks that `st_blocks` counts."""


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
        raise folder_error(str(folder), error) from error


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
