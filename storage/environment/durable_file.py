"""Durable files: small files are replaced atomically, large files are synced while they are written."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .folder import sync_folder

SYNC_PAUSE_SECONDS: Final = 0.002
"""The pause between two syncs of a file that is being written."""


def write_durably(path: Path, content: bytes) -> None:
    """Create or replace a file atomically and durably.

    Raises `OSError`; the old file, if any, is then unchanged. Waits for the disk: call this in a worker thread.
    """
    # The temporary name is always the same, so that the file of a killed process is replaced. A file has one writer.
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def synced_meanwhile(descriptor: int) -> Iterator[None]:
    """Sync a large file repeatedly while the block writes it; all of it is on disk when the block ends.

    Raises `OSError` at the end if any sync failed, since the system reports a failed write only once.
    """
    is_written = threading.Event()
    errors: list[BaseException] = []

    def sync() -> None:
        try:
            # A duplicate descriptor: an interrupt may leave this thread running when the caller closes its own.
            with os.fdopen(os.dup(descriptor), "wb") as own:
                while not is_written.wait(SYNC_PAUSE_SECONDS):
                    os.fsync(own)
                os.fsync(own)
        except BaseException as error:
            errors.append(error)

    syncing = threading.Thread(target=sync, name="eventsrc sync", daemon=True)
    try:
        syncing.start()
        finish: Callable[[], None] = syncing.join
    except RuntimeError:
        # The system starts no further thread: all of it goes to the disk at the end.
        finish = sync
    try:
        yield
    finally:
        is_written.set()
        finish()
    if errors:
        raise errors[0]
