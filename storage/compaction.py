"""Compaction: the events of a stream move to the archive, and one `compacted` event stands for them; and the way back.

Nothing is lost at any point, wherever a process is killed. First the events are packed into segments of the archive,
which are read back and compared. Then the `compacted` event is stored, which says where they are. Then, a few records
at a time, the records in the log become stubs: their place, their number and their hashes stay, so positions, versions,
the chain and the Merkle tree are as before. A compaction that was interrupted goes on with the first record that is no
stub.

The functions here are the steps that the thread that writes the log takes, one at a time.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Final

from .compacted import Compacted, SegmentRange, encode_compacted
from .environment import Transaction
from .errors import CorruptRecord
from .group import KEY, Group, GroupDamaged, is_stub, stub_for
from .log import EventLog
from .postings import positions_of_versions
from .records import seek_group

STEP_EVENTS_MAX: Final = 256
"""Records that one step changes, at most; it ends sooner when it has taken as long as a commit does."""
STEP_SECONDS_MIN: Final = 0.0005


# --- steps: in the thread that writes the log


def store_compacted(log: EventLog, compacted: Compacted) -> None:
    """Put the event that stands for the others in its place. Raises `StoreError`."""
    value = encode_compacted(compacted)
    log.environment.write(
        lambda transaction: transaction.put(compacted.stream.encode(), value, db=log.environment.table("compacted"))
    )


def move_step(log: EventLog, compacted: Compacted, after: int) -> int:
    """Make stubs of some of the records after a version; return the last version that was done. Raises `StoreError`."""

    def stub(version: int, encoded: bytes) -> bytes:
        return encoded if is_stub(encoded) else stub_for(_segment_with(compacted, version).number, encoded)

    return _change(log, compacted, after, stub)


def restore_step(log: EventLog, compacted: Compacted, after: int, records: Mapping[int, bytes]) -> int:
    """Put some of the records after a version, which `records` has, back; return the last version that was done.

    Raises `StoreError`.
    """
    return _change(log, compacted, after, records.get)


def forget_compacted(log: EventLog, stream: str) -> None:
    """The stream is whole again: nothing stands for its events. Raises `StoreError`."""
    log.environment.write(
        lambda transaction: transaction.delete(stream.encode(), db=log.environment.table("compacted"))
    )


def drop_unused_segments(log: EventLog) -> int:
    """Drop the segments of the archive that no stream refers to; return how many there were. Raises `StoreError`."""
    used: set[int] = set()
    after = ""
    while batch := log.compacted_streams(after=after):
        used.update(segment.number for compacted in batch for segment in compacted.segments)
        after = batch[-1].stream
    return log.archive.drop_all_but(used)


def _segment_with(compacted: Compacted, version: int) -> SegmentRange:
    return compacted.segments[bisect_right(compacted.segments, version, key=lambda segment: segment.first_version) - 1]


def _change(log: EventLog, compacted: Compacted, after: int, change: Callable[[int, bytes], bytes]) -> int:
    """Give records other bytes, for as many versions as a commit's time allows."""
    environment = log.environment
    first, last = after + 1, min(after + STEP_EVENTS_MAX, compacted.version)

    def work(transaction: Transaction) -> int:
        until = time.perf_counter() + max(log.disk_seconds, STEP_SECONDS_MIN)
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
