"""Checks the pages of an LMDB file without LMDB, which may abort the process on a damaged page."""

import logging
from pathlib import Path

import lmdb
import lmdb.verify

from ..errors import StoreTruncated
from .folder import DATA_FILE
from .locks import was_being_created

logger = logging.getLogger("eventsrc.storage")


def has_valid_pages(folder: Path) -> bool:
    """Check every page without opening the file with LMDB, which may abort the process on a damaged page.

    Returns False after removing what an interrupted creation has left. Raises `StoreTruncated` for a damaged store.
    """
    logger.warning("store was not closed before the machine stopped; checking its pages", extra={"path": str(folder)})
    problem = page_problem(folder)
    if problem and was_being_created(folder):
        (folder / DATA_FILE).unlink()
        return False
    if problem:
        raise StoreTruncated(
            str(folder), f"The pages of the store {folder} are damaged ({problem}). Restore it from a backup."
        )
    return True


def page_problem(folder: Path) -> str:
    """The first fault of the pages of a file that nobody writes; empty if the pages are valid. Raises `OSError`."""
    try:
        problems: list[str] = lmdb.verify.verify(str(folder))  # type: ignore[no-untyped-call]
    except lmdb.verify.VerifyError as error:
        return str(error)
    return problems[0] if problems else ""


def check_length(folder: Path, environment: lmdb.Environment) -> None:
    """Raise `StoreTruncated` for a truncated file: reading a map beyond the end of its file kills the process."""
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    actual = (folder / DATA_FILE).stat().st_size
    # LMDB does not write pages that a transaction allocated and freed, so a valid file may be shorter as well.
    if actual < needed and page_problem(folder):
        raise StoreTruncated(
            str(folder),
            f"The store {folder} has {actual:,} bytes and needs {needed:,}: it was cut off. Restore it from a backup.",
        )
