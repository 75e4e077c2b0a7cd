"""Temporary folders; a program removes those that killed programs have left."""

import fcntl
import logging
import os
import shutil
import stat
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

HELD_FILE: Final = "eventsrc-temporary.lock"
"""The lock file in each temporary folder, locked from before it gets this name until its program removes it or ends."""

logger = logging.getLogger("eventsrc.storage")


class TemporaryFolder:
    """A new folder in the system's folder for temporary files. Waits for the disk: create it in a worker thread.

    First removes folders with the same prefix that killed programs have left. Raises `OSError`.
    """

    def __init__(self, prefix: str) -> None:
        _remove_abandoned(prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        with ExitStack() as undoing:
            undoing.callback(shutil.rmtree, self.path)
            unnamed = self.path / f"{HELD_FILE}.new"
            self._held = undoing.enter_context(unnamed.open("w", encoding="ascii"))
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(self.path / HELD_FILE)
            undoing.pop_all()

    def remove(self) -> None:
        """Remove the folder and its content; what cannot be removed is left to the next program, and logged."""
        try:
            _remove(self.path)
        except OSError as error:
            logger.warning("a temporary folder could not be removed: %s", error, extra={"path": str(self.path)})
        finally:
            self._held.close()


def _remove_abandoned(prefix: str) -> None:
    for held in Path(tempfile.gettempdir()).glob(f"{prefix}*/{HELD_FILE}"):
        # A folder that has disappeared was removed by its own program, or by another that starts now.
        with suppress(FileNotFoundError):
            if _is_ours(held.parent):
                _remove_unless_held(held)


def _is_ours(folder: Path) -> bool:
    """Whether the path is a folder, not a link, of this user: other users may create anything beside it."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _remove_unless_held(held: Path) -> None:
    with held.open("r+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        _remove(held.parent)


def _remove(folder: Path) -> None:
    # The lock file goes last: if this process is killed, the next one still finds the folder and removes the rest.
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != HELD_FILE:
            entry.unlink()
    shutil.rmtree(folder)
