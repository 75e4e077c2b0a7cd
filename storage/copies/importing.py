"""Out of JSON Lines into a log: read and checked as a whole before anything is stored."""

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
"""Tells by position and time (UTC, ns) which event is the first not to be taken."""


def import_events(
    log: EventLog,
    path: Path,
    *,
    until: Until | None = None,
    is_partial: bool = False,
    progress: ReportPosition | None = None,
) -> int:
    """Append the events of an export that a log does not have yet; return how many.

    The whole file is read and checked before anything is stored: as far as the log reaches, it must hold the same
    events. A log that `is_partial`, which is thrown away when this fails, is filled while the file is read. With
    `until` the rest is not read.

    Raises `ExportUnreadable`, `ExportTruncated`, `ExportAltered`, `ImportGap` where the file begins after the end of
    the log, `HistoryDiverged` where they hold different events; the log is as it was then. Raises a `StoreError` where
    the disk refuses: what was stored by then is whole, and the next run goes on after it.
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
    """Append an export to the store in a folder, or make one of it where there is nothing: (how many events, its end).

    Raises what `import_events` does, `StoreInUse` where the store is open, `StorePathInvalid` where something else is
    in the folder, and the errors of `partial_folder`.
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
    """What messages call it: its path without the suffix of what is not finished."""
    return log.path.removesuffix(PARTIAL_SUFFIX)


def _new_groups(log: EventLog, export: Export) -> Iterator[MovedGroup]:
    """The groups of an export after the end of the log, as it was at the beginning; what comes before is compared."""
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
    """An export that can be read twice: what comes through standard input is put on the disk meanwhile."""
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
