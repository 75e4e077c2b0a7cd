"""Backups: a consistent copy of a store while it is written, and a store made again from copies and exports."""

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from .errors import BackupRefused
from .folder import sync_folder
from .log import EventLog
from .past import PastLog
from .query import position_at
from .reader import LogReader
from .transfer import LIMITS, Progress, copy_events, events_of, import_events
from .verify import Summary, verify

FINDINGS_MAX = 10
"""Faults of a copy that its error tells."""


def backup(store: LogReader, destination: str | os.PathLike[str]) -> Summary:
    """Copy a store into a folder that is new or empty, without the pages that it has freed, and verify the copy.

    Commands go on meanwhile. Raises `BackupRefused` where something is there already or the copy is not sound.
    """
    folder = _new_folder(destination)
    _copy(store, folder)
    sync_folder(folder)
    copy = LogReader.open(folder)
    try:
        verification = verify(copy)
        findings = list(islice(verification, FINDINGS_MAX))
    finally:
        copy.close()
    if findings:
        raise BackupRefused(f"The copy in {folder} is damaged: {'; '.join(map(str, findings))}")
    return verification.summary


def restore(
    source: LogReader,
    destination: str | os.PathLike[str],
    *,
    increments: Sequence[Path] = (),
    to_position: int | None = None,
    to_time_ns: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Make a store of a backup and the exports since, up to a position or a time; return its last position.

    Raises `BackupRefused`, `ImportRefused`.
    """
    folder = _new_folder(destination)
    if to_position is None and to_time_ns is None:
        _copy(source, folder)
        base_end = source.last_position
    else:
        base_end = source.last_position if to_time_ns is None else position_at(source, to_time_ns)
        base_end = base_end if to_position is None else min(base_end, to_position)

    def until(position: int, time_ns: int) -> bool:
        too_far = to_position is not None and position > to_position
        return too_far or (to_time_ns is not None and time_ns > to_time_ns)

    log = EventLog(folder, limits=LIMITS)
    try:
        if log.last_position < base_end:
            copy_events(log, events_of(PastLog(source, base_end)), progress=progress)
        if base_end == source.last_position:
            for increment in increments:
                import_events(log, increment, until=until, progress=progress)
        return log.last_position
    finally:
        log.close()


def _copy(store: LogReader, folder: Path) -> None:
    store.environment.copy(folder)
    # After the log: it has every segment that the copy of the log refers to.
    store.archive.copy(folder)


def _new_folder(destination: str | os.PathLike[str]) -> Path:
    folder = Path(destination)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BackupRefused(f"{folder} is there already. Name a folder that is new or empty.")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackupRefused(f"{folder} cannot be written: {error}") from error
    return folder
