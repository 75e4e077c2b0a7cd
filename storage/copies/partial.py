"""Folders and files that appear as a whole or not at all: written beside their destination, synced, then renamed.

A killed process leaves its unfinished work as `….partial`; the next process with the same destination replaces it.
"""

import errno
import fcntl
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from ..environment.folder import (
    ARCHIVE_FOLDER,
    DATA_FILE,
    IF_SYSTEM_REFUSES,
    LOCK_FILE,
    NO_ROOM,
    NOT_OF_THE_PATH,
    WRITER_FILE,
    path_problem,
    sync_folder,
)
from ..errors import (
    FileWriteFailed,
    StoreFull,
    StoreOutcomeUnknown,
    StorePathInvalid,
    StoreReadOnly,
    StoreWriteFailed,
)
from .errors import (
    DestinationExists,
    DestinationFull,
    DestinationInUse,
    DestinationOverlaps,
    DestinationUnusable,
)

PARTIAL_SUFFIX: Final = ".partial"
_OURS: Final = frozenset({DATA_FILE, LOCK_FILE, WRITER_FILE, ARCHIVE_FOLDER})
"""The content of a partial store; a folder with any other entry is not ours and is left alone."""
_WRITE_ERRORS: Final = (
    FileWriteFailed,
    StoreFull,
    StoreOutcomeUnknown,
    StorePathInvalid,
    StoreReadOnly,
    StoreWriteFailed,
)

logger = logging.getLogger("eventsrc.storage")


@contextmanager
def partial_folder(destination: str | os.PathLike[str], *, source: str | None = None) -> Iterator[Path]:
    """A folder to fill, which is renamed to `destination` when the block ends, and removed when the block fails.

    The block must close every file that it opens in the folder. Raises `DestinationExists` unless the destination is
    free or an empty folder, `DestinationOverlaps` if it is the store `source` or inside it, `DestinationUnusable`,
    `DestinationInUse` and `DestinationFull`.
    """
    final = _place(destination, source)
    partial = final.with_name(final.name + PARTIAL_SUFFIX)
    with _translated(final, partial):
        _check_free(final, is_folder=True)
        lock = _claim(final, partial, is_folder=True)
        try:
            empty_folder(partial)
            yield partial
            sync_folder(partial)
            _check_free(final, is_folder=True)
            _put_in_place(partial, final)
        except BaseException:
            _remove(partial)
            raise
        finally:
            os.close(lock)


@contextmanager
def partial_file(destination: str | os.PathLike[str], *, source: str | None = None) -> Iterator[IO[bytes]]:
    """A file to write, which is renamed to `destination` when the block ends, and removed when the block fails.

    Raises `DestinationExists` unless the destination is free, and otherwise the errors of `partial_folder`.
    """
    final = _place(destination, source)
    partial = final.with_name(final.name + PARTIAL_SUFFIX)
    with _translated(final, partial):
        _check_free(final, is_folder=False)
        lock = _claim(final, partial, is_folder=False)
        try:
            with os.fdopen(os.dup(lock), "wb") as file:
                file.truncate(0)
                yield file
                file.flush()
                os.fsync(file.fileno())
            _check_free(final, is_folder=False)
            _put_in_place(partial, final)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        finally:
            os.close(lock)


def _remove(partial: Path) -> None:
    """Remove an unfinished folder; log a warning if the system refuses.

    Files are removed by name, since listing the folder takes a file descriptor and the process may have none left.
    """
    try:
        for folder in (partial / ARCHIVE_FOLDER, partial):
            for name in (DATA_FILE, LOCK_FILE, WRITER_FILE):
                (folder / name).unlink(missing_ok=True)
            if folder.exists():
                folder.rmdir()
    except OSError as error:
        reason = error.strerror or str(error)
        logger.warning(
            "%s stays, since it cannot be removed (%s): whoever writes the same replaces it", partial, reason
        )


def _put_in_place(partial: Path, final: Path) -> None:
    """Rename the partial durably to its final name; undo the rename if the folder cannot be synced."""
    partial.rename(final)
    try:
        sync_folder(final.parent)
    except BaseException:
        final.rename(partial)
        raise


def _place(destination: str | os.PathLike[str], source: str | None) -> Path:
    """The real path of the destination, with links resolved. Raises `DestinationUnusable`, `DestinationOverlaps`."""
    problem = path_problem(destination)
    if problem:
        raise DestinationUnusable(repr(os.fspath(destination)), problem)
    final = Path(os.path.realpath(destination))
    if source is not None:
        here = Path(os.path.realpath(source))
        if final == here or here in final.parents:
            raise DestinationOverlaps(str(destination), source)
    return final


def is_free(final: Path) -> bool:
    """Whether the path is free or an empty folder; False if the system refuses to say."""
    try:
        return not os.path.lexists(final) or (final.is_dir() and not any(final.iterdir()))
    except OSError:
        return False


def _check_free(final: Path, *, is_folder: bool) -> None:
    if os.path.lexists(final):
        if not is_folder or not is_free(final):
            raise DestinationExists(str(final))
        if final.is_mount():
            raise DestinationUnusable(str(final), "a disk is mounted there, and it is made beside and then renamed")
    if not final.parent.is_dir():
        raise DestinationUnusable(str(final), f"there is no folder {final.parent}")


def _claim(final: Path, partial: Path, *, is_folder: bool) -> int:
    """Open and lock the partial, new or left by a killed process; return its descriptor, which holds the lock."""
    while True:
        descriptor = _opened(partial, is_folder=is_folder)
        try:
            if not is_folder and not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DestinationExists(str(partial))
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(descriptor, partial):
                if is_folder and not _OURS.issuperset(entry.name for entry in partial.iterdir()):
                    raise DestinationExists(str(partial))
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise DestinationInUse(str(final), str(partial)) from None
        except BaseException:
            os.close(descriptor)
            raise
        # The previous owner has renamed or removed the partial meanwhile.
        os.close(descriptor)
        _check_free(final, is_folder=is_folder)


def _opened(partial: Path, *, is_folder: bool) -> int:
    """Open the partial, created if it does not exist; return its descriptor. Raises `OSError`."""
    if not is_folder:
        return os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    is_new = not partial.exists()
    partial.mkdir(exist_ok=True)
    try:
        return os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        if is_new:
            partial.rmdir()
        raise


def _is_same(descriptor: int, partial: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), partial.lstat())
    except FileNotFoundError:
        return False


def empty_folder(partial: Path) -> None:
    """Remove everything in a folder. Raises `OSError`."""
    for entry in partial.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextmanager
def translated_errors(name: str) -> Iterator[None]:
    """Raise an `OSError` about a destination as the matching `BackupRefused`; `BrokenPipeError` passes unchanged."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise DestinationExists(name) from error
        reason = error.strerror or str(error)
        if error.errno in NO_ROOM:
            raise DestinationFull(name, reason) from error
        raise _unusable(name, reason, error) from error


def _unusable(name: str, reason: str, error: BaseException | None) -> DestinationUnusable:
    if isinstance(error, OSError) and error.errno in NOT_OF_THE_PATH:
        return DestinationUnusable(name, reason, IF_SYSTEM_REFUSES)
    return DestinationUnusable(name, reason)


@contextmanager
def _translated(final: Path, partial: Path) -> Iterator[None]:
    """Like `translated_errors`, and also for the errors of a store that is written in the partial folder."""
    try:
        with translated_errors(str(final)):
            yield
    except _WRITE_ERRORS as error:
        if not Path(error.path).is_relative_to(partial):
            raise
        cause = error.__cause__
        reason = (isinstance(cause, OSError) and cause.strerror) or str(cause or error)
        if isinstance(error, StoreFull) or any(os.strerror(code) in reason for code in NO_ROOM):
            raise DestinationFull(str(final), reason) from error
        raise _unusable(str(final), reason, cause) from error
