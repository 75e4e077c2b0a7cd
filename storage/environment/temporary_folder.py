"""A folder for what need not outlast the program, which the next one removes where this one is killed."""

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
"""In each such folder, and locked from when it has this name until the folder is removed, or its program is gone."""

logger = logging.getLogger("eventsrc.storage")


class TemporaryFolder:
    """A new folder where the system has its temporary files. Waits for the disk: make it in a worker thread.

    What programs that were killed have left of the same prefix is removed first. Raises `OSError`.
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
        """Remove it with all that is in it, or leave what cannot be removed to the next one."""
        try:
            _remove(self.path)
        except OSError as error:
            logger.warning("a temporary folder could not be removed: %s", error, extra={"path": str(self.path)})
        finally:
            self._held.close()


def _remove_abandoned(prefix: str) -> None:
    for held in Path(tempfile.gettempdir()).glob(f"{prefix}*/{HELD_FILE}"):
        # One that is gone meanwhile was removed by its program, or by another that begins.
        with suppress(FileNotFoundError):
            if _is_ours(held.parent):
                _remove_unless_held(held)


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder of this user, and no link: others may make what they like beside it."""
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
    # The file that is held last: as long as it is there, what is left of this is removed by the next.
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != HELD_FILE:
            entry.unlink()
    shutil.rmtree(folder)
