"""Reads the event log on LMDB: from any thread, in bounded batches, with one transaction per batch."""

import logging
import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal

import lmdb
import msgspec

from .archive.archive import Archive
from .archive.compacted import Compacted, CompactedStreams
from .commit import IdempotencyEntry
from .environment.environment import Environment, Transaction
from .errors import CorruptRecord
from .group import KEY, Group
from .indexes import idempotency as idempotency_table
from .indexes import postings
from .indexes.flush import decode_head, indexed_through, indexed_tree
from .indexes.tail import Tail, placements_of
from .record import StoredEvent, StreamHead
from .records import Records
from .snapshot import Snapshot, SnapshotDamaged, decode_snapshot
from .store import POSITION_MAX, READ_BATCH_EVENTS

logger = logging.getLogger("eventsrc.storage")

REFRESHED_WEIGHT_MAX: Final = 131_072
"""Events and keys in the tail of a reading process; beyond this, it begins again with the flushed indexes."""


class LogReader:
    """Reads the log in `environment`. `_tails` has the entries that the indexes on disk lack, oldest first.

    A read looks at the tails before it begins its transaction. Entries that a flush moves from the tails to disk in
    between are in the indexes that the transaction sees, so none is missed; an entry found in both counts once.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.archive = Archive(environment.path, read_only=environment.is_read_only)
        """The archive of compacted events; reads fetch archived events from it."""
        self._lock = threading.Lock()
        self._records = Records(environment, self.archive)
        self._compacted = CompactedStreams(environment)
        self._last_position = 0
        self._last_commit_id = 0
        self._stream_count = 0
        self._load()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "LogReader":
        """Open a store for reading only; another process may have it open for writing.

        Raises a `StoreError` if there is no store at `path` or it cannot be read.
        """
        environment = Environment(path, read_only=True)
        try:
            return LogReader(environment)
        except BaseException:
            environment.close()
            raise

    def refresh(self) -> bool:
        """Read what another process has committed since; return whether there was anything. Raises `StoreReplaced`."""
        self._environment.check_in_place()
        before = self._last_commit_id
        if self._tail.weight > REFRESHED_WEIGHT_MAX:
            self._load()
        else:
            with self._environment.read() as transaction:
                self._extend(transaction)
        return self._last_commit_id > before

    def close(self) -> None:
        """Close the store. Idempotent."""
        self._environment.close()  # waits for open reads, also from the archive
        self.archive.close()

    @property
    def environment(self) -> Environment:
        """The LMDB environment of the log, for code that walks its tables (`verify`)."""
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
        """(number of events, root of the Merkle tree over them)."""
        tree = self._tail.tree
        return tree.size, tree.root

    def head_at(self, stream: str, position: int) -> StreamHead | None:
        head = self.head(stream)
        if head is None or head.position <= position:
            return head
        found = self._newer_version_at(stream, position)
        with self._environment.read() as transaction:
            if found is None:
                with self._index_errors("streams", stream):
                    found = postings.version_at(transaction, self._environment.table("streams"), stream, position)
            return None if found is None else StreamHead(stream, *found, self._records.hash(transaction, found[1]))

    def time_at(self, position: int) -> int:
        with self._environment.read() as transaction:
            return self._records.time_ns(transaction, position)

    def hashes(self, first: int, last: int) -> list[bytes]:
        """The hashes of the events from position `first` through `last`, which the log must have."""
        with self._environment.read() as transaction:
            return self._records.hashes(transaction, first, last)

    def event_hash(self, stream: str, version: int) -> bytes | None:
        newer = self._newer_positions(stream, version, version)
        with self._environment.read() as transaction:
            positions = newer or self._stored_positions(transaction, stream, version, version)
            return self._records.hash(transaction, positions[0]) if positions else None

    def encoded_stream(self, stream: str, first: int, last: int) -> list[bytes]:
        """The record bytes of the versions `first` through `last` of a stream, which must exist; archived or not."""
        newer = self._newer_positions(stream, first, last)
        with self._environment.read() as transaction:
            positions = self._stored_positions(transaction, stream, first, last - len(newer)) + newer
            return self._records.all_encoded(transaction, positions)

    def encoded(self, position: int) -> bytes:
        """The record bytes, which end with the hash, of the event at a position, which must exist; archived or not."""
        with self._environment.read() as transaction:
            return self._records.encoded(transaction, position)

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
        # A name that is not valid Unicode is never stored, but may be looked up.
        begin, last = prefix.encode(errors="surrogatepass"), after.encode()
        # A stream may have the name of its category; other names may sort between it and the other streams.
        namesake = self.head(category) if category else None
        with self._lock:
            heads = {name.encode(): head for tail in self._tails for name, head in tail.heads.items()}
        found = dict(sorted(entry for entry in heads.items() if entry[0].startswith(begin) and entry[0] > last)[:limit])
        if namesake is not None and namesake.stream.encode() > last:
            found[namesake.stream.encode()] = namesake
        with self._environment.read() as transaction, transaction.cursor(self._environment.table("heads")) as cursor:
            more = cursor.set_range(max(begin, last))
            stored = 0
            while more and stored < limit and cursor.key().startswith(begin):
                key = cursor.key()
                if key > last or not last:
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
        newer = self._newer_positions(stream, first, last)
        with self._environment.read() as transaction:
            positions = self._stored_positions(transaction, stream, first, last - len(newer)) + newer
            return self._fetch(transaction, positions, backwards=backwards)

    def read(
        self, *, after: int = 0, before: int | None = None, backwards: bool = False, limit: int = READ_BATCH_EVENTS
    ) -> list[StoredEvent]:
        end = min(self._last_position + 1 if before is None else before, self._last_position + 1)
        first, last = max(after, 0) + 1, end - 1
        if backwards:
            first = max(first, last - limit + 1)
        else:
            last = min(last, first + limit - 1)
        with self._environment.read() as transaction:
            found = self._records.between(transaction, first, last)
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

    def names_in(self, index: Literal["types", "tags"], prefix: str = "") -> list[str]:
        with self._lock:
            newer = [name for tail in self._tails for name in getattr(tail, index) if name.startswith(prefix)]
        # Not within the lock: a read that waits for the lock stays open, and the map grows only when no read is open.
        with self._environment.read() as transaction:
            return postings.names(transaction, self._environment.table(index), newer, prefix=prefix)

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

    def snapshots(
        self,
        stream: str,
        *,
        to_version: int | None = None,
        limit: int = READ_BATCH_EVENTS,
        quarantined: bool = False,
    ) -> list[Snapshot]:
        prefix = stream.encode() + b"\0"
        found: list[Snapshot] = []
        with (
            self._environment.read() as transaction,
            transaction.cursor(self._environment.table("snapshots")) as cursor,
        ):
            key = postings.key_of(stream, postings.ORDINAL_MAX if to_version is None else to_version + 1)
            more = cursor.prev() if cursor.set_range(key) else cursor.last()
            while more and len(found) < limit and cursor.key().startswith(prefix):
                try:
                    snapshot = decode_snapshot(cursor.value())
                    if bool(snapshot.quarantined) == quarantined:
                        found.append(snapshot)
                except SnapshotDamaged as error:
                    logger.warning(
                        "damaged snapshot passed over",
                        extra={"stream": stream, "version": postings.ordinal_of(cursor.key()), "reason": str(error)},
                    )
                more = cursor.prev()
        if quarantined or len(found) >= limit:
            return found
        return self._with_compacted(stream, found, to_version)

    def _with_compacted(self, stream: str, found: list[Snapshot], to_version: int | None) -> list[Snapshot]:
        """Add the state of the `compacted` event, unless there is a snapshot of its version, newest first."""
        compacted = self.compacted(stream)
        if compacted is None or (to_version is not None and compacted.version > to_version):
            return found
        if any(snapshot.version == compacted.version for snapshot in found):
            return found
        newer = [snapshot for snapshot in found if snapshot.version > compacted.version]
        older = found[len(newer) :]
        return [*newer, compacted.snapshot, *older]

    def _newer_positions(self, stream: str, first: int, last: int) -> list[int]:
        """The positions of the newest of the versions `first` through `last`, those that are in the tails."""
        found: list[int] = []
        with self._lock:
            for tail in self._tails:
                part = tail.streams.get(stream)
                if part is not None and part.first_version <= last:
                    found += part.positions[max(first - part.first_version, 0) : last - part.first_version + 1]
        return found

    def _newer_version_at(self, stream: str, position: int) -> tuple[int, int] | None:
        """(version, position) of the newest event of a stream up to a position, if the tails have it; else None."""
        with self._lock:
            for tail in reversed(self._tails):
                part = tail.streams.get(stream)
                if part is not None and part.positions[0] <= position:
                    index = bisect_right(part.positions, position) - 1
                    return part.first_version + index, part.positions[index]
        return None

    def _stored_positions(self, transaction: Transaction, stream: str, first: int, last: int) -> list[int]:
        if first > last:
            return []
        with self._index_errors("streams", stream):
            table = self._environment.table("streams")
            return postings.positions_of_versions(transaction, table, stream, first, last)

    def compacted(self, stream: str) -> Compacted | None:
        """The `compacted` event of a stream; None if no event of the stream was compacted. Raises `CorruptRecord`."""
        return self._compacted.of(stream)

    def compacted_streams(self, *, after: str = "", limit: int = READ_BATCH_EVENTS) -> list[Compacted]:
        """At most `limit` `compacted` events after the stream name `after`, by name. Raises `CorruptRecord`."""
        return self._compacted.of_all(after, limit)

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
        found = self._records.at(transaction, positions)
        return found[::-1] if backwards else found

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
            return self._records.group(cursor.key(), cursor.value()) if cursor.last() else None

    def _load(self) -> None:
        """Start from the indexes on disk, and read the part of the log that they do not cover."""
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
        """Add the groups after the tail to the tail."""
        tail = self._tail
        position, commit_id = tail.through
        with transaction.cursor(self._environment.table("log")) as cursor:
            more = cursor.set_range(KEY.pack(position + 1, commit_id + 1))
            while more:
                group = self._records.group(cursor.key(), cursor.value())
                records = self._records.of_group(group)
                placements, heads = placements_of(records)
                for stream in heads:
                    is_new = stream not in tail.heads and self._stored_head(transaction, stream) is None
                    self._stream_count += is_new
                entries = self._records.idempotency(group)
                tree, nodes = tail.tree.extended([record.hash for record in records])
                with self._lock:
                    through = (group.last_position, group.last_commit_id)
                    tail.add(placements, heads, entries, through, tree, nodes)
                more = cursor.next()
        self._last_position, self._last_commit_id = tail.through
