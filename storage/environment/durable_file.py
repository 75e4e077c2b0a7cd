"""Files that are on the disk: small ones as a whole or not at all, large ones while they are written."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .folder import sync_folder

SYNC_PAUSE_SECONDS: Final = 0.002
"""Between two syncs of a file that is being written."""


def write_durably(path: Path, content: bytes) -> None:
    """Put a file in the place of the one with this name, or beside the others, in one step that a power loss keeps.

    Raises `OSError`; the old file is there then, whole. Waits for the disk: call it in a worker thread.
    """
    # Always the same name, so that what a killed process leaves is replaced. Two never write one file at a time.
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
    """Have what is written to a large file go to the disk while the rest is written: all of it is there at the end.

    Raises `OSError` at the end where any of it could not be stored: the system tells that only once.
    """
    is_written = threading.Event()
    errors: list[BaseException] = []

    def sync() -> None:
        try:
            # A descriptor of its own, since an interrupt may leave the thread at its last sync.
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
