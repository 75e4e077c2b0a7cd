"""Backups, restores and forks: consistent copies of a store in use, and stores made from copies and exports."""

import os
from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final

from ..archive.compaction import check_archive
from ..archive.errors import ArchiveUnreachable
from ..environment.folder import ARCHIVE_FOLDER
from ..environment.lock_file import take_room
from ..environment.refusals import is_refusal
from ..errors import CorruptRecord, StoreFormatUnknown, StoreTruncated
from ..log import EventLog
from ..query import position_at
from ..reader import LogReader
from ..record import utc_time
from ..verification.verify import VerificationSummary, verify
from .errors import CopyInterrupted, CopyUnsound, CopyUnverified, PointUnreachable
from .importing import import_events
from .partial import empty_folder, partial_folder
from .transfer import ReportPosition, copy_events

FINDINGS_MAX: Final = 10
"""The most findings about a copy that its error lists."""
COPY_ATTEMPTS_MAX: Final = 5
"""Attempts to copy log and archive consistently: a stream may be uncompacted, or the map resized, meanwhile."""


def backup(
    store: LogReader, destination: str | os.PathLike[str], *, progress: ReportPosition | None = None
) -> VerificationSummary:
    """Copy a store into a new or empty folder, without freed pages, and verify the copy.

    The store may be written meanwhile. The copy has the events, archive, snapshots and idempotency keys as of the
    moment when copying began. Views and the progress of subscriptions are not copied: views are rebuilt, subscriptions
    begin anew. The copy appears at the destination as a whole or not at all.

    Raises `CopyUnsound` if the copy is damaged, `CopyUnverified` if the system refused to let it be verified,
    `CopyInterrupted` if the store had to be mapped anew during every attempt, `ArchiveUnreachable` if the store lacks
    archived events, `StoreReplaced` if the store was moved away meanwhile, and the errors of `partial_folder`.
    """
    with partial_folder(destination, source=store.path) as folder:
        return _copy(store, folder, progress)


def restore(
    source: LogReader,
    destination: str | os.PathLike[str],
    *,
    increments: Sequence[Path] = (),
    to_position: int | None = None,
    to_time_ns: int | None = None,
    progress: ReportPosition | None = None,
) -> int:
    """Make a store from a backup and later increments, up to a position or a time (UTC, ns); return its last position.

    Each increment must continue the history before it; this is checked. Events after the requested point are not read.

    Raises `PointUnreachable` if the backup and the increments do not reach the position, or the time is before the
    first event; `ImportGap` if an increment is missing, `HistoryDiverged` if an increment is of another store, and the
    other errors of `import_events`, `backup` and `partial_folder`. Nothing is left at the destination after an error.
    """
    if to_position is not None and to_position < 1:
        raise PointUnreachable(source.path, f"position {to_position}", "positions begin at 1")
    with partial_folder(destination, source=source.path) as folder:
        end = _base_end(source, to_position, to_time_ns)
        goes_on = end == source.last_position
        if to_position is None and to_time_ns is None:
            _copy(source, folder, progress)

        with closing(EventLog(folder)) as log:
            if log.last_position < end:
                copy_events(source, log, through=end, progress=progress)
            if goes_on:
                _add_increments(log, increments, to_position, to_time_ns, progress)
            _check_reached(source, log, to_position, to_time_ns)
            return log.last_position


def fork(
    source: LogReader, at_position: int, destination: str | os.PathLike[str], *, progress: ReportPosition | None = None
) -> int:
    """Make an independent store in a new folder that shares the history up to a position; return that position.

    A position within a commit splits the commit: the fork has its events up to the position. Raises `PointUnreachable`
    if the store does not have the position, and the errors of `copy_events` and `partial_folder`.
    """
    if not 1 <= at_position <= source.last_position:
        reaches = f"it goes from 1 to {source.last_position}" if source.last_position else "it is empty"
        raise PointUnreachable(source.path, f"position {at_position}", reaches)
    with partial_folder(destination, source=source.path) as folder, closing(EventLog(folder)) as log:
        return copy_events(source, log, through=at_position, progress=progress)


def _base_end(source: LogReader, to_position: int | None, to_time_ns: int | None) -> int:
    """The last position to be taken from `source`. Raises `PointUnreachable` for a time before its first event."""
    end = source.last_position
    if to_time_ns is not None:
        end = position_at(source, to_time_ns)
        if not end and source.last_position:
            raise _too_early(source, to_time_ns)
    return end if to_position is None else min(end, to_position)


def _add_increments(
    log: EventLog,
    increments: Sequence[Path],
    to_position: int | None,
    to_time_ns: int | None,
    progress: ReportPosition | None,
) -> None:
    if to_position is None and to_time_ns is None:
        for increment in increments:
            import_events(log, increment, is_partial=True, progress=progress)
        return
    is_reached = False

    def until(position: int, time_ns: int) -> bool:
        nonlocal is_reached
        too_far = to_position is not None and position > to_position
        is_reached = too_far or (to_time_ns is not None and time_ns > to_time_ns)
        return is_reached

    for increment in increments:
        if not is_reached:
            import_events(log, increment, until=until, is_partial=True, progress=progress)


def _check_reached(source: LogReader, log: EventLog, to_position: int | None, to_time_ns: int | None) -> None:
    end = log.last_position
    if to_time_ns is not None and not end:
        raise _too_early(source, to_time_ns)
    if to_position is not None and end < to_position and to_time_ns is None:
        raise PointUnreachable(
            source.path, f"position {to_position}", f"with the increments that were given it goes to {end}"
        )


def _too_early(source: LogReader, time_ns: int) -> PointUnreachable:
    begins = "it is empty" if not source.last_position else f"it begins at {utc_time(source.time_at(1)).isoformat()}"
    return PointUnreachable(source.path, utc_time(time_ns).isoformat(), begins)


def _copy(store: LogReader, folder: Path, progress: ReportPosition | None) -> VerificationSummary:
    """Copy log and archive consistently, and verify the copy."""
    for attempt in range(1, COPY_ATTEMPTS_MAX + 1):
        empty_folder(folder)
        take_room(folder)
        try:
            store.environment.copy(folder)
            # The archive comes after the log: events that compaction moves from now on are still in the copied log.
            store.archive.copy(folder)
        except CopyInterrupted:
            if attempt == COPY_ATTEMPTS_MAX:
                raise
            continue
        # If the store was moved away, its archive is missing, or that of another store was copied.
        store.environment.check_in_place()
        if (folder / ARCHIVE_FOLDER).exists():
            take_room(folder / ARCHIVE_FOLDER)
        try:
            return _verified(store, folder, progress)
        except ArchiveUnreachable as error:
            if is_refusal(error):
                raise CopyUnverified(store.path, [str(error).rstrip(".")]) from error
            # The segments of a stream that was uncompacted meanwhile are dropped; the next copy has the stream in its
            # log. This check raises the error if the store itself lacks a segment.
            check_archive(store)
    raise CopyUnsound(store.path, ["what its log needs was dropped from its archive each time that both were copied"])


def _verified(store: LogReader, folder: Path, progress: ReportPosition | None) -> VerificationSummary:
    """Verify the copy. Raises `CopyUnsound`, `CopyUnverified` or, if it lacks archived events, `ArchiveUnreachable`."""
    try:
        copy = LogReader.open(folder)
    except (CorruptRecord, StoreFormatUnknown, StoreTruncated) as error:
        raise CopyUnsound(store.path, [str(error)]) from error
    with closing(copy):
        check_archive(copy)
        verification = verify(copy, progress=None if progress is None else lambda done, _: progress(done))
        findings = list(islice(verification, FINDINGS_MAX))
    if findings:
        is_damaged = any(finding.is_damage for finding in findings)
        raise (CopyUnsound if is_damaged else CopyUnverified)(store.path, [str(finding) for finding in findings])
    return verification.summary
