"""Imports JSON Lines into a log. A file is read and checked as a whole before any of its events is stored."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeAlias

from ..environment.folder import path_problem
from ..evidence.merkle import Tree
from ..evidence.proof import root_at
from ..group import MovedGroup
from ..log import EventLog
from .errors import ExportAltered, ExportUnreadable, HistoryDiverged, ImportGap
from .export import Export
from .exporting import STANDARD_STREAM
from .partial import PARTIAL_SUFFIX, is_free, partial_folder
from .transfer import ReportPosition, adopt_all

Until: TypeAlias = Callable[[int, int], bool]
"""Called with the position and time (UTC, ns) of each event; the import ends before the first that gives true."""


def import_events(
    log: EventLog,
    path: Path,
    *,
    until: Until | None = None,
    is_partial: bool = False,
    progress: ReportPosition | None = None,
) -> int:
    """Append the events of an export that the log does not have yet; return how many.

    The whole file is read and checked before anything is stored. Up to the end of the log, the file must have the same
    events as the log. With `is_partial`, events are stored while the file is read: the caller discards the log if this
    fails. With `until`, the file is read only up to the first event for which `until` is true.

    Raises `ExportUnreadable`, `ExportTruncated`, `ExportAltered`, `ImportGap` if the file begins after the end of the
    log, `HistoryDiverged` if file and log have different events; the log is unchanged then, unless `is_partial` or
    `until` is given. Raises a `StoreError` if the disk refuses: the events stored by then are valid, and the next run
    continues after them.
    """
    with _opened(path) as file:
        export = Export(file, str(path))
        _check_continues(log, export)
        if until is None and not is_partial:
            for _ in _new_groups(log, export):
                pass
        groups = _new_groups(log, export)
        return adopt_all(log, groups if until is None else _cut(groups, until), progress=progress)


def import_store(folder: str, path: Path, *, progress: ReportPosition | None = None) -> tuple[int, int]:
    """Append an export to the store in a folder, or create the store; return (events appended, the last position).

    Raises the errors of `import_events` and `partial_folder`, `StoreInUse` if the store is open for writing,
    `StorePathInvalid` if the folder has other content.
    """
    if not path_problem(folder) and not is_free(Path(folder)):
        log = EventLog(folder, create=False)
        try:
            return import_events(log, path, progress=progress), log.last_position
        finally:
            log.close()
    with partial_folder(folder) as partial:
        log = EventLog(partial)
        try:
            return import_events(log, path, is_partial=True, progress=progress), log.last_position
        finally:
            log.close()


def _check_continues(log: EventLog, export: Export) -> None:
    header = export.header
    if header.after > log.last_position:
        raise ImportGap(export.path, header.after, _name(log), log.last_position)
    if header.root != root_at(log, header.after).hex():
        raise HistoryDiverged(export.path, _name(log), header.after, is_exact=False)


def _name(log: EventLog) -> str:
    """The name of the log in messages: its path without the suffix of a partial folder."""
    return log.path.removesuffix(PARTIAL_SUFFIX)


def _new_groups(log: EventLog, export: Export) -> Iterator[MovedGroup]:
    """Yield the groups after the present end of the log; compare the events before it with the log."""
    after, log_end, tree = export.header.after, log.last_position, log.merkle_tree
    for group in export.groups(lambda stream: log.head_at(stream, after)):
        _compare(log, export, group, log_end)
        new = group.between(log_end, group.events[-1].position)
        if new is not None:
            tree = tree.extended([event.hash for event in new.events])[0]
            if export.end is not None:
                _check_root(log, export, tree)
            yield new
    if export.end is not None:
        _check_root(log, export, tree)


def _compare(log: EventLog, export: Export, group: MovedGroup, log_end: int) -> None:
    first, last = group.events[0].position, min(group.events[-1].position, log_end)
    if first > last:
        return
    for event, known in zip(group.events, log.hashes(first, last), strict=False):
        if event.hash != known:
            raise HistoryDiverged(export.path, _name(log), event.position, is_exact=True)


def _check_root(log: EventLog, export: Export, tree: Tree) -> None:
    end = export.end
    assert end is not None
    root = tree.root if end.last_position >= tree.size else root_at(log, end.last_position)
    if end.root != root.hex():
        raise ExportAltered(export.path, end.events + 2, "the root of the Merkle tree is another one")


def _cut(groups: Iterable[MovedGroup], until: Until) -> Iterator[MovedGroup]:
    for group in groups:
        for event in group.events:
            if until(event.position, event.time_ns):
                part = group.between(0, event.position - 1)
                if part is not None:
                    yield part
                return
        yield group


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open an export so that it can be read twice: standard input is first copied to a temporary file."""
    if path == STANDARD_STREAM:
        with tempfile.TemporaryFile() as spool:
            try:
                shutil.copyfileobj(sys.stdin.buffer, spool)
            except OSError as error:
                raise ExportUnreadable("standard input", error.strerror or str(error)) from error
            yield spool
        return
    problem = path_problem(path)
    if problem:
        raise ExportUnreadable(repr(str(path)), problem)
    try:
        file = path.open("rb")
    except OSError as error:
        raise ExportUnreadable(str(path), error.strerror or str(error)) from error
    with file:
        yield file
