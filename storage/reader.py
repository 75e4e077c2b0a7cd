"""The event log on LMDB, read: from any thread, in bounded batches, with a transaction for one batch at a time."""

import logging
import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import lmdb
import msgspec

from . import idempotency as idempotency_table
from . import postings
from .commit import IdempotencyEntry
from .environment import Environment, Transaction
from .errors import CorruptRecord
from .flush import decode_head, indexed_through, indexed_tree
from .group import KEY, Group, GroupDamaged
from .record import StoredEvent, StreamHead
from .snapshot import Snapshot, SnapshotDamaged, decode_snapshot
from .store import POSITION_MAX, READ_BATCH_EVENTS
from .tail import Tail, placements_of

logger = logging.getLogger("eventsrc.storage")

REFRESHED_WEIGHT_MAX: Final = 131_072
"""Events and keys that a reader of another process's log keeps before it looks what has been flushed."""
_DECODE_ALL_ABOVE: Final = 0.25
"""From this share of a group's records on it is cheaper to decode them in one go than one by one."""


class LogReader:
    """Reads the log in `environment`. What the indexes on disk lack is kept in `_tails`, oldest first.

    A reader looks at the tails first and begins its transaction then: what a flush takes out of the tails in between is
    in the indexes that the transaction sees, so nothing is missed; what is in both is taken once.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._kept_group: tuple[bytes, Group | None] = (b"", None)
        self._last_position = 0
        self._last_commit_id = 0
        self._stream_count = 0
        self._load()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "LogReader":
        """Open a store for reading only; it may be open for writing in another process.

        Raises a `StoreError` when there is no store at `path` or it cannot be read.
        """
        environment = Environment(path, read_only=True)
        try:
            return LogReader(environment)
        except BaseException:
            environment.close()
            raise

    def refresh(self) -> bool:
        """Take in what another process has written since; return whether there was anything."""
        before = self._last_commit_id
        if self._tail.weight > REFRESHED_WEIGHT_MAX:
            self._load()
        else:
            with self._environment.read() as transaction:
                self._extend(transaction)
        return self._last_commit_id > before

    def close(self) -> None:
        """Close it. Idempotent."""
        self._environment.close()

    @property
    def environment(self) -> Environment:
        """The environment that it reads, for what walks the tables themselves (`verify`)."""
        return self._environment

    @property
    def path(self) -> str:
        return self._environment.path

    @property
    def last_position(self) -> int:
        return self._last_position

    @property
    def last_commit_id(self) -> int:
        return self._last_commit_id

    @property
    def tree(self) -> tuple[int, bytes]:
        """(how many events there are, the root of the Merkle tree over them)."""
        tree = self._tail.tree
        return tree.size, tree.root

    def encoded(self, position: int) -> bytes:
        """The stored bytes of the event at a position that the log has, as its hash covers them."""
        with self._environment.read() as transaction, transaction.cursor(self._environment.table("log")) as cursor:
            if seek_group(cursor, position):
                group = self._group(cursor.key(), cursor.value())
                if group.first_position <= position <= group.last_position:
                    return group.encoded(position)
        raise CorruptRecord(self.path, position, "the log does not hold it")

    @property
    def stream_count(self) -> int:
        return self._stream_count

    def head(self, stream: str) -> StreamHead | None:
        with self._lock:
            for tail in reversed(self._tails):
                head = tail.heads.get(stream)
                if head is not None:
                    return head
        with self._environment.read() as transaction:
            return self._stored_head(transaction, stream)

    def streams(
        self, *, category: str | None = None, after: str = "", limit: int = READ_BATCH_EVENTS
    ) -> list[StreamHead]:
        prefix = "" if category is None else f"{category}-"
        # A stream may be named like its category; other names may come between it and the rest.
        namesake = self.head(category) if category and category.encode() > after.encode() else None
        start = max(after.encode(), prefix.encode())
        with self._lock:
            heads = {name: head for tail in self._tails for name, head in tail.heads.items()}
        newer = sorted(
            (name.encode(), head)
            for name, head in heads.items()
            if name.startswith(prefix) and name.encode() > after.encode()
        )[:limit]
        found = dict(newer)
        if namesake is not None:
            found[namesake.stream.encode()] = namesake
        with self._environment.read() as transaction, transaction.cursor(self._environment.table("heads")) as cursor:
            more = cursor.set_range(start)
            stored = 0
            while more and stored < limit and cursor.key().startswith(prefix.encode()):
                key = cursor.key()
                if key > after.encode() or not after:
                    stored += 1
                    found.setdefault(key, decode_head(key.decode(), cursor.value()))
                more = cursor.next()
        return [found[key] for key in sorted(found)[:limit]]

    def read_stream(
        self,
        stream: str,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        head = self.head(stream)
        if head is None:
            return []
        first, last = max(from_version, 1), head.version if to_version is None else min(to_version, head.version)
        if backwards:
            first = max(first, last - limit + 1)
        else:
            last = min(last, first + limit - 1)
        if first > last:
            return []
        newer: list[int] = []
        newer_from = last + 1
        with self._lock:
            for tail in self._tails:
                part = tail.streams.get(stream)
                if part is None or part.first_version > last:
                    continue
                skip = max(first - part.first_version, 0)
                newer_from = min(newer_from, part.first_version + skip)
                newer += part.positions[skip : last - part.first_version + 1]
        with self._environment.read() as transaction:
            positions: list[int] = []
            if first < newer_from:
                table = self._environment.table("streams")
                with self._index_errors("streams", stream):
                    positions = postings.positions_of_versions(transaction, table, stream, first, newer_from - 1)
            return self._fetch(transaction, positions + newer, backwards=backwards)

    def read(
        self, *, after: int = 0, before: int | None = None, backwards: bool = False, limit: int = READ_BATCH_EVENTS
    ) -> list[StoredEvent]:
        end = min(self._last_position + 1 if before is None else before, self._last_position + 1)
        first, last = max(after, 0) + 1, end - 1
        if backwards:
            first = max(first, last - limit + 1)
        else:
            last = min(last, first + limit - 1)
        found: list[StoredEvent] = []
        with self._environment.read() as transaction, transaction.cursor(self._environment.table("log")) as cursor:
            more = seek_group(cursor, first)
            while more and first <= last:
                group = self._group_at(cursor)
                if group.first_position > first:
                    raise CorruptRecord(self.path, first, f"the log goes on at position {group.first_position}")
                if group.count and group.last_position >= first:
                    end = min(last, group.last_position)
                    found += self._records_between(group, first, end)
                    first = end + 1
                more = cursor.next()
        return found[::-1] if backwards else found

    def read_type(
        self,
        event_type: str,
        *,
        after: int = 0,
        before: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        return self._read_postings(
            "types", lambda tail: tail.types.get(event_type, ()), event_type, after, before, backwards, limit
        )

    def read_category(
        self,
        category: str,
        *,
        after: int = 0,
        before: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        return self._read_postings(
            "categories", lambda tail: tail.categories.get(category, ()), category, after, before, backwards, limit
        )

    def read_tag(
        self,
        tag: str,
        *,
        after: int = 0,
        before: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        return self._read_postings("tags", lambda tail: tail.tags.get(tag, ()), tag, after, before, backwards, limit)

    def idempotency(self, stream: str, keys: Sequence[str], *, now_ns: int) -> dict[str, IdempotencyEntry]:
        found: dict[str, IdempotencyEntry] = {}
        with self._lock:
            for tail in self._tails:
                for key in keys:
                    entry = tail.idempotency.get((stream, key))
                    if entry is not None:
                        found[key] = entry
        missing = [key for key in keys if key not in found]
        live = {key: entry for key, entry in found.items() if entry.expires_ns > now_ns}
        if missing:
            with self._environment.read() as transaction:
                table = self._environment.table("idempotency")
                live |= idempotency_table.find_keys(transaction, table, stream, missing, now_ns)
        return live

    def snapshots(self, stream: str, *, limit: int = READ_BATCH_EVENTS) -> list[Snapshot]:
        prefix = stream.encode() + b"\0"
        found: list[Snapshot] = []
        with (
            self._environment.read() as transaction,
            transaction.cursor(self._environment.table("snapshots")) as cursor,
        ):
            key = postings.key_of(stream, postings.ORDINAL_MAX)
            more = cursor.prev() if cursor.set_range(key) else cursor.last()
            while more and len(found) < limit and cursor.key().startswith(prefix):
                try:
                    found.append(decode_snapshot(cursor.value()))
                except SnapshotDamaged as error:
                    logger.warning(
                        "damaged snapshot passed over",
                        extra={"stream": stream, "version": postings.ordinal_of(cursor.key()), "reason": str(error)},
                    )
                more = cursor.prev()
        return found

    def _read_postings(
        self,
        table: str,
        newer_of: Callable[[Tail], Sequence[int]],
        name: str,
        after: int,
        before: int | None,
        backwards: bool,
        limit: int,
    ) -> list[StoredEvent]:
        after, end = max(after, 0), POSITION_MAX if before is None else max(before, 0)
        with self._lock:
            newer: list[int] = []
            for tail in self._tails:
                positions = newer_of(tail)
                first, last = bisect_right(positions, after), bisect_left(positions, end)
                newer += (
                    positions[max(first, last - limit) : last]
                    if backwards
                    else positions[first : min(last, first + limit)]
                )
        with self._environment.read() as transaction:
            index = self._environment.table(table)
            with self._index_errors(table, name):
                if backwards:
                    stored = postings.positions_before(transaction, index, name, newer[0] if newer else end, limit)
                else:
                    stored = postings.positions_after(transaction, index, name, after, limit)
            if backwards:
                stored = [position for position in reversed(stored) if position > after]
                wanted = (stored + newer)[-limit:]
            else:
                last_stored = stored[-1] if stored else 0
                stored = stored[: bisect_left(stored, end)]
                wanted = (stored + [position for position in newer if position > last_stored])[:limit]
            return self._fetch(transaction, wanted, backwards=backwards)

    def _fetch(self, transaction: Transaction, positions: list[int], *, backwards: bool) -> list[StoredEvent]:
        """The records at ascending `positions`, decoding each group once."""
        found: list[StoredEvent] = []
        at = 0
        with transaction.cursor(self._environment.table("log")) as cursor:
            while at < len(positions):
                position = positions[at]
                if not seek_group(cursor, position):
                    raise CorruptRecord(self.path, position, "the indexes name it, but the log does not hold it")
                group = self._group(cursor.key(), cursor.value())
                end = bisect_right(positions, group.last_position, at)
                if end == at:
                    raise CorruptRecord(self.path, position, "the indexes name it, but the log does not hold it")
                wanted = positions[at:end]
                if len(wanted) > group.count * _DECODE_ALL_ABOVE:
                    records = self._records(group)
                    found += [records[position - group.first_position] for position in wanted]
                else:
                    found += [self._record(group, position) for position in wanted]
                at = end
        return found[::-1] if backwards else found

    def _group(self, key: bytes, value: bytes) -> Group:
        first_position, _ = KEY.unpack(key)
        try:
            return Group(first_position, value)
        except GroupDamaged as error:
            raise CorruptRecord(self.path, first_position, str(error)) from error

    def _group_at(self, cursor: "lmdb.Cursor[bytes]") -> Group:
        """The group under the cursor. Whoever reads on in small steps meets the same one again: it is kept."""
        key = cursor.key()
        kept_key, group = self._kept_group
        if group is None or key != kept_key:
            group = self._group(key, cursor.value())
            self._kept_group = (key, group)
        return group

    def _records_between(self, group: Group, first: int, last: int) -> list[StoredEvent]:
        try:
            return group.records_between(first, last)
        except GroupDamaged as error:
            raise CorruptRecord(self.path, first, str(error)) from error

    def _records(self, group: Group) -> list[StoredEvent]:
        try:
            return group.records()
        except GroupDamaged as error:
            raise CorruptRecord(self.path, group.first_position, str(error)) from error

    def _record(self, group: Group, position: int) -> StoredEvent:
        try:
            return group.record(position)
        except GroupDamaged as error:
            raise CorruptRecord(self.path, position, str(error)) from error

    def _idempotency(self, group: Group) -> list[IdempotencyEntry]:
        try:
            return group.idempotency()
        except GroupDamaged as error:
            raise CorruptRecord(self.path, group.first_position, str(error)) from error

    def _stored_head(self, transaction: Transaction, stream: str) -> StreamHead | None:
        try:
            value = transaction.get(stream.encode(), db=self._environment.table("heads"))
        except (lmdb.BadValsizeError, UnicodeEncodeError):
            return None
        if value is None:
            return None
        with self._index_errors("heads", stream):
            return decode_head(stream, value)

    @contextmanager
    def _index_errors(self, table: str, name: str) -> Iterator[None]:
        try:
            yield
        except (postings.PostingsDamaged, msgspec.MsgspecError) as error:
            raise CorruptRecord(self.path, 0, f"the entry of {name!r} in the index {table!r}: {error}") from error

    def _last_group(self, transaction: Transaction) -> Group | None:
        with transaction.cursor(self._environment.table("log")) as cursor:
            return self._group(cursor.key(), cursor.value()) if cursor.last() else None

    def _load(self) -> None:
        """Begin with the indexes on disk, and read the part of the log that they do not cover yet."""
        table = self._environment.table
        with self._environment.read() as transaction:
            meta = table("meta")
            tail = Tail(indexed_through(transaction, meta), indexed_tree(transaction, meta))
            self._stream_count = transaction.stat(table("heads"))["entries"]
            with self._lock:
                self._tail = tail
                self._tails: tuple[Tail, ...] = (tail,)
            self._extend(transaction)

    def _extend(self, transaction: Transaction) -> None:
        """Take in the groups that follow the tail."""
        tail = self._tail
        position, commit_id = tail.through
        with transaction.cursor(self._environment.table("log")) as cursor:
            more = cursor.set_range(KEY.pack(position + 1, commit_id + 1))
            while more:
                group = self._group(cursor.key(), cursor.value())
                records = self._records(group)
                placements, heads = placements_of(records)
                for stream in heads:
                    is_new = stream not in tail.heads and self._stored_head(transaction, stream) is None
                    self._stream_count += is_new
                entries = self._idempotency(group)
                tree, nodes = tail.tree.extended([record.hash for record in records])
                with self._lock:
                    through = (group.last_position, group.last_commit_id)
                    tail.add(placements, heads, entries, through, tree, nodes)
                more = cursor.next()
        self._last_position, self._last_commit_id = tail.through


def seek_group(cursor: "lmdb.Cursor[bytes]", position: int) -> bool:
    """Stand on the group that holds `position`, if any does."""
    return cursor.prev() if cursor.set_range(KEY.pack(position + 1, 0)) else cursor.last()
