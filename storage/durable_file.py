"""Small files that are whole or not there, whatever stops the process or the machine."""

import os
from pathlib import Path

from .folder import sync_folder


def write_durably(path: Path, content: bytes) -> None:
    """Put a file in the place of the one with this name, or beside the others, in one step that a power loss keeps.

    Raises `OSError`; the old file is there then, whole. Waits for the disk: call it in a worker thread.
    """
    # A name of its own for each process; two threads never write one file.
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
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
