"""Compaction moves the events of a stream to the archive, and one `compacted` event represents them; it can be undone.

A process may be killed at any point without losing an event. First, the events are packed into segments of the archive,
which are read back and compared. Then, the `compacted` event is stored, which names the segments. Then, a few at a
time, the records in the log become stubs. Stubs keep the places and hashes of the records, so positions, versions, the
hash chain and the Merkle tree do not change. An interrupted compaction continues with the first record that is no stub.

The thread that writes the log calls the functions in this module, one step at a time.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec

from ..environment.environment import Transaction
from ..errors import CorruptRecord
from ..group import KEY, Group, GroupDamaged, is_stub, stub_for
from ..indexes.postings import positions_of_versions
from ..log import EventLog
from ..reader import LogReader
from ..records import seek_group
from .compacted import Compacted, encode_compacted
from .segment_numbers import SegmentNumbers, put_segment_numbers, segment_numbers

STEP_EVENTS_MAX: Final = 256
"""The most records that one step changes. A step ends sooner after half of the time that the disk takes to commit."""
STEP_SECONDS_MIN: Final = 0.0001


# --- steps: in the thread that writes the log


def reserve_segments(log: EventLog, count: int) -> range:
    """Reserve `count` segment numbers, listed as unused until a `compacted` event names them. Raises `StoreError`."""

    def work(transaction: Transaction) -> range:
        numbers = _numbers(log, transaction)
        reserved = range(numbers.last + 1, numbers.last + 1 + count)
        _put_numbers(log, transaction, SegmentNumbers(reserved[-1], (*numbers.unused, *reserved)))
        return reserved

    return log.environment.write(work)


def store_compacted(log: EventLog, compacted: Compacted) -> None:
    """Store a `compacted` event; its segments are no longer listed as unused. Raises `StoreError`."""
    value = encode_compacted(compacted)
    used = {segment.number for segment in compacted.segments}

    def work(transaction: Transaction) -> None:
        transaction.put(compacted.stream.encode(), value, db=log.environment.table("compacted"))
        numbers = _numbers(log, transaction)
        if not used.isdisjoint(numbers.unused):
            _put_numbers(log, transaction, numbers.without(used))

    log.environment.write(work)


def move_step(log: EventLog, compacted: Compacted, after: int) -> int:
    """Replace some records after version `after` with stubs; return the last version done. Raises `StoreError`."""
    first_versions = [segment.first_version for segment in compacted.segments]

    def stub(version: int, encoded: bytes) -> bytes:
        if is_stub(encoded):
            return encoded
        return stub_for(compacted.segments[bisect_right(first_versions, version) - 1].number, encoded)

    return _change(log, compacted, after, stub)


def restore_step(log: EventLog, compacted: Compacted, after: int, records: Mapping[int, bytes]) -> int:
    """Put back some records after version `after`, taken from `records`; return the last version done.

    Raises `StoreError`.
    """
    return _change(log, compacted, after, records.get)


def remove_compacted(log: EventLog, compacted: Compacted) -> None:
    """Delete a `compacted` event whose records are restored; its segments become unused. Raises `StoreError`."""

    def work(transaction: Transaction) -> None:
        transaction.delete(compacted.stream.encode(), db=log.environment.table("compacted"))
        numbers = _numbers(log, transaction)
        unused = (*numbers.unused, *(segment.number for segment in compacted.segments))
        _put_numbers(log, transaction, SegmentNumbers(numbers.last, unused))

    log.environment.write(work)


def remove_unused(log: EventLog, dropped: Collection[int]) -> None:
    """Remove segments that were dropped from the archive from the list of unused ones. Raises `StoreError`."""
    log.environment.write(
        lambda transaction: _put_numbers(log, transaction, _numbers(log, transaction).without(dropped))
    )


# --- reading: in any thread


def unused_segments(log: EventLog) -> tuple[int, ...]:
    """The numbers of the segments that are to be dropped. Raises `CorruptRecord`."""
    with log.environment.read() as transaction:
        return _numbers(log, transaction).unused


def check_archive(log: LogReader) -> None:
    """Raise `ArchiveUnreachable` unless the archive has every segment that a `compacted` event names."""
    after = ""
    while batch := log.compacted_streams(after=after):
        log.archive.check_has([segment.number for compacted in batch for segment in compacted.segments])
        after = batch[-1].stream


def _numbers(log: EventLog, transaction: Transaction) -> SegmentNumbers:
    try:
        return segment_numbers(transaction, log.environment.table("meta"))
    except msgspec.MsgspecError as error:
        raise CorruptRecord(log.path, 0, f"the numbers of the archive's segments: {error}") from error


def _put_numbers(log: EventLog, transaction: Transaction, numbers: SegmentNumbers) -> None:
    put_segment_numbers(transaction, log.environment.table("meta"), numbers)


def _change(log: EventLog, compacted: Compacted, after: int, change: Callable[[int, bytes], bytes]) -> int:
    """Rewrite records group by group, for half of the time that the disk takes to commit; at least one group.

    `change` returns the new bytes of a record for its version and its bytes. Returns the last version done.
    """
    environment = log.environment
    first, last = after + 1, min(after + STEP_EVENTS_MAX, compacted.version)

    def work(transaction: Transaction) -> int:
        until = time.perf_counter() + max(log.disk_seconds / 2, STEP_SECONDS_MIN)
        positions = positions_of_versions(transaction, environment.table("streams"), compacted.stream, first, last)
        if len(positions) != last - first + 1:
            raise CorruptRecord(log.path, 0, f"the index lacks versions of {compacted.stream!r} before {last + 1}")
        done = 0
        with transaction.cursor(environment.table("log")) as cursor:
            while done < len(positions) and (not done or time.perf_counter() < until):
                if not seek_group(cursor, positions[done]):
                    raise CorruptRecord(log.path, positions[done], "the log does not hold it")
                key = cursor.key()
                try:
                    group = Group(KEY.unpack(key)[0], cursor.value())
                except GroupDamaged as error:
                    raise CorruptRecord(log.path, positions[done], str(error)) from error
                end = bisect_right(positions, group.last_position, done)
                before = {position: group.encoded(position) for position in positions[done:end]}
                changed = {
                    position: change(first + done + number, encoded)
                    for number, (position, encoded) in enumerate(before.items())
                }
                if changed != before:
                    transaction.put(key, group.with_records(changed), db=environment.table("log"))
                done = end
        return first + done - 1

    return environment.write(work)
