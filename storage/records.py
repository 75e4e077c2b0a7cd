"""Reads records from the log: finds them by position, decodes them, and fetches archived ones from the archive."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, cast

import lmdb

from .archive.archive import Archive
from .commit import IdempotencyEntry
from .environment.environment import Environment, Transaction
from .errors import CorruptRecord
from .group import KEY, Group, GroupDamaged, Record, is_stub
from .record import HASH_SIZE_BYTES, StoredEvent

_DECODE_ALL_ABOVE: Final = 0.25
"""Above this share of a group's records, decoding a whole range is faster than decoding single records."""


class Records:
    """Reads the table `log`. Methods raise `CorruptRecord`, and `ArchiveUnreachable` if they read archived events."""

    def __init__(self, environment: Environment, archive: Archive) -> None:
        self._environment = environment
        self._archive = archive
        self._kept: tuple[bytes, Group | None] = (b"", None)

    def between(self, transaction: Transaction, first: int, last: int) -> list[StoredEvent]:
        """The events from position `first` through `last`, ascending, as far as the log reaches."""
        found: list[StoredEvent] = []
        with transaction.cursor(self._environment.table("log")) as cursor:
            more = seek_group(cursor, first)
            while more and first <= last:
                group = self._group_at(cursor)
                if group.first_position > first:
                    raise self._corrupt(first, f"the log goes on at position {group.first_position}")
                if group.count and group.last_position >= first:
                    end = min(last, group.last_position)
                    found += self._events(group, first, end)
                    first = end + 1
                more = cursor.next()
        return found

    def at(self, transaction: Transaction, positions: Sequence[int]) -> list[StoredEvent]:
        """The events at the given ascending positions; each group is checked once."""
        found: list[StoredEvent] = []
        at = 0
        with transaction.cursor(self._environment.table("log")) as cursor:
            while at < len(positions):
                group = self._group_of(cursor, positions[at])
                end = bisect_right(positions, group.last_position, at)
                wanted = positions[at:end]
                if len(wanted) > group.count * _DECODE_ALL_ABOVE:
                    first = wanted[0]
                    records = self._decoded(group, first, wanted[-1])
                    found += [self._event(position, records[position - first]) for position in wanted]
                else:
                    found += [self._one(group, position) for position in wanted]
                at = end
        return found

    def encoded(self, transaction: Transaction, position: int) -> bytes:
        """The bytes of one record, which end with its hash, from the log or the archive."""
        return self.all_encoded(transaction, [position])[0]

    def all_encoded(self, transaction: Transaction, positions: Sequence[int]) -> list[bytes]:
        """The bytes of the records at the given ascending positions, from the log or the archive."""
        found: list[bytes] = []
        at = 0
        with transaction.cursor(self._environment.table("log")) as cursor:
            while at < len(positions):
                group = self._group_of(cursor, positions[at])
                end = bisect_right(positions, group.last_position, at)
                found += [self._unstubbed(position, group.encoded(position)) for position in positions[at:end]]
                at = end
        return found

    def _unstubbed(self, position: int, encoded: bytes) -> bytes:
        return self._archive.encoded(position, encoded[2:]) if is_stub(encoded) else encoded

    def hash(self, transaction: Transaction, position: int) -> bytes:
        """The hash of one event; for an archived event, from its stub."""
        with transaction.cursor(self._environment.table("log")) as cursor:
            return self._group_of(cursor, position).encoded(position)[-HASH_SIZE_BYTES:]

    def hashes(self, transaction: Transaction, first: int, last: int) -> list[bytes]:
        """The hashes of the events from position `first` through `last`."""
        found: list[bytes] = []
        with transaction.cursor(self._environment.table("log")) as cursor:
            while first <= last:
                group = self._group_of(cursor, first)
                end = min(last, group.last_position)
                found += [group.encoded(position)[-HASH_SIZE_BYTES:] for position in range(first, end + 1)]
                first = end + 1
        return found

    def time_ns(self, transaction: Transaction, position: int) -> int:
        """The time (UTC, ns) of one event; for an archived event, from its stub."""
        with transaction.cursor(self._environment.table("log")) as cursor:
            group = self._group_of(cursor, position)
        try:
            return group.time_ns(position)
        except GroupDamaged as error:
            raise self._corrupt(position, str(error)) from error

    def group(self, key: bytes, value: bytes) -> Group:
        """The group in a stored key and value."""
        first_position, _ = KEY.unpack(key)
        try:
            return Group(first_position, value)
        except GroupDamaged as error:
            raise self._corrupt(first_position, str(error)) from error

    def of_group(self, group: Group) -> list[StoredEvent]:
        """All events of a group."""
        return self._events(group, group.first_position, group.last_position) if group.count else []

    def idempotency(self, group: Group) -> list[IdempotencyEntry]:
        """The idempotency entries of a group."""
        try:
            return group.idempotency()
        except GroupDamaged as error:
            raise self._corrupt(group.first_position, str(error)) from error

    def _group_of(self, cursor: "lmdb.Cursor[bytes]", position: int) -> Group:
        if seek_group(cursor, position):
            group = self.group(cursor.key(), cursor.value())
            if group.first_position <= position <= group.last_position:
                return group
        raise self._corrupt(position, "the indexes name it, but the log does not hold it")

    def _group_at(self, cursor: "lmdb.Cursor[bytes]") -> Group:
        """The group under the cursor, cached for a caller that reads the same group in small steps."""
        key = cursor.key()
        kept_key, group = self._kept
        if group is None or key != kept_key:
            group = self.group(key, cursor.value())
            # A group with stubs is not cached: its archived events may be back in the log at the next read.
            self._kept = (b"", None) if group.stubs else (key, group)
        return group

    def _events(self, group: Group, first: int, last: int) -> list[StoredEvent]:
        records = self._decoded(group, first, last)
        if not group.stubs:
            return cast("list[StoredEvent]", records)
        return [self._event(position, record) for position, record in enumerate(records, first)]

    def _decoded(self, group: Group, first: int, last: int) -> Sequence[Record]:
        try:
            return group.records_between(first, last)
        except GroupDamaged as error:
            raise self._corrupt(first, str(error)) from error

    def _one(self, group: Group, position: int) -> StoredEvent:
        try:
            return self._event(position, group.record(position))
        except GroupDamaged as error:
            raise self._corrupt(position, str(error)) from error

    def _event(self, position: int, record: Record) -> StoredEvent:
        return record if isinstance(record, StoredEvent) else self._archive.event(position, record)

    def _corrupt(self, position: int, reason: str) -> CorruptRecord:
        return CorruptRecord(self._environment.path, position, reason)


def seek_group(cursor: "lmdb.Cursor[bytes]", position: int) -> bool:
    """Move to the last group that begins at or before `position`; return False if there is none."""
    return cursor.prev() if cursor.set_range(KEY.pack(position + 1, 0)) else cursor.last()
