"""Copies group commits from one log to another.

Positions, versions, times, hashes and group commits are preserved, and so are the idempotency keys that have not
expired at the end of the copy. Compacted events are read from the archive. Snapshots are not copied; the runtime makes
new ones.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from ..archive.archive import Archive
from ..archive.errors import ArchiveUnreachable
from ..errors import CorruptRecord
from ..evidence.proof import root_at
from ..group import KEY, Group, GroupDamaged, MovedGroup, is_stub
from ..log import EventLog
from ..reader import LogReader
from ..records import seek_group
from .chain import Chain, ChainBroken

BATCH_EVENTS: Final = 2_000
BATCH_SIZE_BYTES: Final = 4 << 20
"""One transaction reads, or stores, group commits until they have this many events or bytes."""
READ_ATTEMPTS_MAX: Final = 3
"""Attempts to read groups: events whose stubs were read may be back in the log before the archive is read."""

ReportPosition: TypeAlias = Callable[[int], None]
"""Called now and then with the position reached so far."""


def copy_events(source: LogReader, log: EventLog, *, through: int, progress: ReportPosition | None = None) -> int:
    """Append the events of another log, through a position, to an empty log; return how many.

    Raises `CorruptRecord` or `ArchiveUnreachable` if the source is damaged, or a `StoreError` of the log.
    """
    count = adopt_all(log, groups_of(source, after=0, through=through), progress=progress)
    if log.merkle_tree.root != root_at(source, through):
        raise CorruptRecord(source.path, through, "the Merkle tree has another root than its events give")
    return count


def adopt_all(log: EventLog, groups: Iterable[MovedGroup], *, progress: ReportPosition | None = None) -> int:
    """Append groups to a log, several in each transaction; return how many events. Raises a `StoreError`."""
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
    """Yield the group commits with the events after position `after` through position `through`.

    Groups at both ends are cut at these positions, also within a commit. The log must have the position `through`.
    Raises `CorruptRecord` if a record does not follow from the records before it, `ArchiveUnreachable`.
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
    """The next groups after position `after`, each with its records through position `through`."""

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
    """The records of a group in these bounds; stubs are replaced with archived records. Raises `ArchiveUnreachable`."""
    first, last = max(group.first_position, after + 1), min(group.last_position, through)
    records = [group.encoded(position) for position in range(first, last + 1)]
    if not group.stubs:
        return records
    return [
        archive.encoded(position, record[2:]) if is_stub(record) else record
        for position, record in enumerate(records, first)
    ]
