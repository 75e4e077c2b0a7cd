"""Compaction: the events of a stream move to the archive, and one `compacted` event stands for them; and the way back.

Nothing is lost at any point, wherever a process is killed. First the events are packed into segments of the archive,
which are read back and compared. Then the `compacted` event is stored, which says where they are. Then, a few records
at a time, the records in the log become stubs: their place, their number and their hashes stay, so positions, versions,
the chain and the Merkle tree are as before. A compaction that was interrupted goes on with the first record that is no
stub.

Whoever compacts packs and compares in a worker thread, and has the thread that writes the log take the steps.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from .archive import SEGMENT_EVENTS_MAX, pack_segment
from .compacted import Compacted, SegmentRange, encode_compacted
from .environment import Transaction
from .errors import ArchiveUnreachable, CorruptRecord
from .group import KEY, Group, GroupDamaged, is_stub, stub_for
from .log import EventLog
from .postings import positions_of_versions
from .record import GENESIS_HASH, HASH_SIZE_BYTES
from .records import seek_group

STEP_EVENTS_MAX: Final = 256
"""Records that one step changes, at most; it ends sooner when it has taken as long as a commit does."""
STEP_SECONDS_MIN: Final = 0.0005


# --- packing: in any thread


def packed(log: EventLog, stream: str, first: int, last: int) -> Iterator[tuple[SegmentRange, bytes, int]]:
    """The versions `first` to `last` as segments that have no number yet: (range, stored bytes, bytes in the log)."""
    previous_hash = _hash_before(log, stream, first)
    for begin in range(first, last + 1, SEGMENT_EVENTS_MAX):
        end = min(begin + SEGMENT_EVENTS_MAX - 1, last)
        events = log.read_stream(stream, from_version=begin, to_version=end, limit=SEGMENT_EVENTS_MAX)
        records = [log.encoded(event.position) for event in events]
        yield (
            SegmentRange(0, begin, end),
            pack_segment(stream, begin, previous_hash, records),
            sum(len(record) for record in records),
        )
        previous_hash = records[-1][-HASH_SIZE_BYTES:]


def check_packed(log: EventLog, stream: str, segments: list[SegmentRange]) -> None:
    """Read segments back from the archive, and compare them with the log bit for bit. Raises `ArchiveUnreachable`."""
    for part in segments:
        events = log.read_stream(
            stream, from_version=part.first_version, to_version=part.last_version, limit=SEGMENT_EVENTS_MAX
        )
        if log.archive.records(part.number) != [log.encoded(event.position) for event in events]:
            reason = f"segment {part.number} is not what was put there"
            raise ArchiveUnreachable(log.archive.path, events[0].position, reason)


def _hash_before(log: EventLog, stream: str, version: int) -> bytes:
    found = log.event_hash(stream, version - 1) if version > 1 else GENESIS_HASH
    if found is None:
        raise CorruptRecord(log.path, 0, f"{stream!r} has no version {version - 1}")
    return found


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
