"""Moving events: out of a log into JSON Lines and back, or from one log into another, with all that they are.

Positions, versions, times, hashes and group commits stay as they were, and so do the idempotency keys that are alive
where the copy ends. What compaction moved to the archive comes from there. Snapshots are not moved: they are made
again.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from ..archive.archive import Archive
from ..archive.errors import ArchiveUnreachable
from ..environment.folder import path_problem
from ..errors import CorruptRecord
from ..evidence.merkle import Tree
from ..evidence.proof import root_at
from ..group import KEY, Group, GroupDamaged, MovedGroup, is_stub
from ..log import EventLog
from ..reader import LogReader
from ..records import seek_group
from .chain import Chain, ChainBroken
from .errors import ExportAltered, ExportUnreadable, HistoryDiverged, ImportGap, PointUnreachable
from .export import EXPORT_VERSION, Export, ExportWriter, Header, packed
from .partial import PARTIAL_SUFFIX, is_free, partial_file, partial_folder, translated_errors

BATCH_EVENTS: Final = 2_000
BATCH_SIZE_BYTES: Final = 4 << 20
"""Group commits are read, and stored, in one transaction each until they have so many events or bytes."""
READ_ATTEMPTS_MAX: Final = 3
"""Reads of a group: events that it says are in the archive may be back in the log before they are fetched."""
STANDARD_STREAM: Final = Path("-")
"""Names standard output for an export, standard input for an import."""

ReportPosition = Callable[[int], None]
"""Called with the position that was reached."""
Until = Callable[[int, int], bool]
"""Tells by position and time (UTC, ns) which event is the first not to be taken."""


# --- out


def export_events(store: LogReader, path: Path, *, after: int = 0, progress: ReportPosition | None = None) -> int:
    """Write the events after a position to a new file of JSON Lines, packed by gzip where its name ends in .gz.

    Returns how many. Raises `PointUnreachable` for a position that the log does not have, `DestinationExists` and the
    other errors of `partial_file`, and `CorruptRecord` or `ArchiveUnreachable` where the store is damaged; the file is
    there as a whole or not at all.
    """
    through = store.last_position
    if not 0 <= after <= through:
        raise PointUnreachable(store.path, f"position {after}", f"it goes to {through}")
    if path == STANDARD_STREAM:
        with translated_errors("standard output"):
            _export(store, sys.stdout.buffer, after, through, progress)
            sys.stdout.buffer.flush()
    else:
        with partial_file(path, source=store.path) as file, packed(file, path) as packing:
            _export(store, packing, after, through, progress)
    return through - after


def _export(store: LogReader, file: IO[bytes], after: int, through: int, progress: ReportPosition | None) -> None:
    header = Header(EXPORT_VERSION, after, root_at(store, after).hex(), through - after, through)
    writer = ExportWriter(file, header)
    for group in groups_of(store, after=after, through=through):
        writer.add(group)
        if progress is not None:
            progress(group.events[-1].position)
    writer.end(through - after, through, root_at(store, through).hex())


# --- in


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


# --- from one log to another


def copy_events(source: LogReader, log: EventLog, *, through: int, progress: ReportPosition | None = None) -> int:
    """Append the events of another log to an empty one, up to a position; return how many.

    Raises `CorruptRecord` or `ArchiveUnreachable` where the source is damaged, a `StoreError` of the log.
    """
    count = adopt_all(log, groups_of(source, after=0, through=through), progress=progress)
    if log.merkle_tree.root != root_at(source, through):
        raise CorruptRecord(source.path, through, "the Merkle tree has another root than its events give")
    return count


def adopt_all(log: EventLog, groups: Iterable[MovedGroup], *, progress: ReportPosition | None = None) -> int:
    """Store groups that follow the end of a log, some at a time; return how many events they have."""
    batch: list[MovedGroup] = []
    count = events = size_bytes = 0
    for group in groups:
        batch.append(group)
        events += len(group.events)
        size_bytes += group.size_bytes
        if events >= BATCH_EVENTS or size_bytes >= BATCH_SIZE_BYTES:
            log.adopt(batch)
            if progress is not None:
                progress(log.last_position)
            count += events
            batch, events, size_bytes = [], 0, 0
    if batch:
        log.adopt(batch)
    return count + events


def groups_of(store: LogReader, *, after: int, through: int) -> Iterator[MovedGroup]:
    """The group commits with the events after a position through another one, that the log has; parts at both ends.

    A position within a commit splits it. Raises `CorruptRecord` where a record does not follow from those before it,
    `ArchiveUnreachable`.
    """
    chain = Chain(after, lambda stream: store.head_at(stream, after))
    alive_ns = store.time_at(through) if through else 0
    position = after
    while position < through:
        for group, records in _read(store, position, through):
            first = max(position + 1, group.first_position)
            try:
                events = [chain.follow(record) for record in records]
                idempotency = group.idempotency()
            except ChainBroken as error:
                raise CorruptRecord(store.path, error.position, str(error)) from error
            except GroupDamaged as error:
                raise CorruptRecord(store.path, first, str(error)) from error
            alive = [
                entry for entry in idempotency if after < entry.position <= through and entry.expires_ns > alive_ns
            ]
            yield MovedGroup(group.first_commit_id, group.last_commit_id, records, events, alive)
            position = events[-1].position


def _read(store: LogReader, after: int, through: int) -> list[tuple[Group, list[bytes]]]:
    """The next groups, each with its records in these bounds."""

    def attempt() -> list[tuple[Group, list[bytes]]]:
        groups = _read_groups(store, after, through)
        return [(group, _records(store.archive, group, after, through)) for group in groups]

    for _ in range(READ_ATTEMPTS_MAX - 1):
        try:
            return attempt()
        except ArchiveUnreachable:
            continue
    return attempt()


def _read_groups(store: LogReader, after: int, through: int) -> list[Group]:
    found: list[Group] = []
    events = size_bytes = 0
    with store.environment.read() as transaction, transaction.cursor(store.environment.table("log")) as cursor:
        more = seek_group(cursor, after + 1)
        while more and events < BATCH_EVENTS and size_bytes < BATCH_SIZE_BYTES:
            first_position = int(KEY.unpack(cursor.key())[0])
            if first_position > through:
                break
            try:
                group = Group(first_position, cursor.value())
            except GroupDamaged as error:
                raise CorruptRecord(store.path, first_position, str(error)) from error
            if group.count and group.last_position > after:
                found.append(group)
                events += group.count
                size_bytes += len(cursor.value())
            more = cursor.next()
    if not found:
        raise CorruptRecord(store.path, after + 1, f"the log ends before it, and goes to position {through}")
    return found


def _records(archive: Archive, group: Group, after: int, through: int) -> list[bytes]:
    """The records of a group in these bounds, those that stubs stand for included. Raises `ArchiveUnreachable`."""
    first, last = max(group.first_position, after + 1), min(group.last_position, through)
    records = [group.encoded(position) for position in range(first, last + 1)]
    if not group.stubs:
        return records
    return [
        archive.encoded(position, record[2:]) if is_stub(record) else record
        for position, record in enumerate(records, first)
    ]
