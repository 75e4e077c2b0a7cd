"""An event store in memory with the contract of the log on LMDB, for tests and programs that need no persistence."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final, Literal, Self

import msgspec

from .commit import Appended, Commit, IdempotencyEntry
from .draft import Draft
from .errors import EventSourcingError, StoreClosed, StoreInUse
from .event_query import EventQuery
from .evidence.merkle import Tree
from .indexes.tail import Tail
from .keys.key_table import KeysInMemory
from .limits import Limits, checked_limits
from .names import category_of
from .query import find_events
from .record import StoredEvent, StreamHead
from .snapshot import Snapshot, decode_snapshot, encode_snapshot
from .store import POSITION_MAX, READ_BATCH_EVENTS

_decoder: Final = msgspec.msgpack.Decoder(StoredEvent)


class MemoryLog:
    """Stores encoded records in memory, with the same bytes as the log on LMDB; fulfils `EventStore`."""

    path = ":memory:"
    disk_seconds = 0.0

    def __init__(self, *, limits: Limits | None = None) -> None:
        self._limits = checked_limits(limits)
        self._is_taken = False
        self._records: list[bytes] = []
        self._index = Tail((0, 0), Tree())
        self._snapshots: dict[str, dict[int, bytes]] = {}
        self.keys = KeysInMemory()
        """The keys of the subjects whose personal data the log has."""
        self._closed = False

    @property
    def last_position(self) -> int:
        return len(self._records)

    @property
    def last_commit_id(self) -> int:
        return self._index.through[1]

    @property
    def stream_count(self) -> int:
        return len(self._index.heads)

    def append(
        self, commits: Sequence[Commit], snapshots: Sequence[Snapshot] = ()
    ) -> list[Appended | EventSourcingError]:
        self._check_open()
        index = self._index
        draft = Draft(
            self.last_position, self.last_commit_id, self.stream_count, self._limits, index.heads.get, self._first_match
        )
        outcomes = [draft.add(commit) for commit in commits]
        if not draft.is_empty:
            through = (draft.last_position, draft.last_commit_id)
            self._records += draft.records
            index.add(draft.placements, draft.heads, draft.idempotency, through, *index.tree.extended(draft.hashes))
        for snapshot in snapshots:
            kept = self._snapshots.setdefault(snapshot.stream, {})
            kept[snapshot.version] = encode_snapshot(snapshot)
            for version in sorted(kept)[: -self._limits.snapshots_kept]:
                del kept[version]
        return outcomes

    def head(self, stream: str) -> StreamHead | None:
        self._check_open()
        return self._index.heads.get(stream)

    def head_at(self, stream: str, position: int) -> StreamHead | None:
        self._check_open()
        part = self._index.streams.get(stream)
        version = 0 if part is None else bisect_right(part.positions, position)
        found = self.read_stream(stream, from_version=version, to_version=version) if version else []
        return StreamHead(stream, version, found[0].position, found[0].hash) if found else None

    def time_at(self, position: int) -> int:
        return self.read(after=position - 1, limit=1)[0].time_ns

    def event_hash(self, stream: str, version: int) -> bytes | None:
        found = self.read_stream(stream, from_version=version, to_version=version)
        return found[0].hash if found else None

    def streams(
        self, *, category: str | None = None, after: str = "", limit: int = READ_BATCH_EVENTS
    ) -> list[StreamHead]:
        self._check_open()
        names = sorted(
            (
                name
                for name in self._index.heads
                if category in (None, category_of(name)) and name.encode() > after.encode()
            ),
            key=str.encode,
        )
        return [self._index.heads[name] for name in names[:limit]]

    def read_stream(
        self,
        stream: str,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        self._check_open()
        part = self._index.streams.get(stream)
        if part is None:
            return []
        end = len(part.positions) if to_version is None else max(to_version, 0)
        return self._fetch(part.positions[max(from_version - 1, 0) : end], backwards, limit)

    def read(
        self, *, after: int = 0, before: int | None = None, backwards: bool = False, limit: int = READ_BATCH_EVENTS
    ) -> list[StoredEvent]:
        self._check_open()
        end = self.last_position + 1 if before is None else min(before, self.last_position + 1)
        return self._fetch(range(max(after, 0) + 1, end), backwards, limit)

    def read_type(
        self,
        event_type: str,
        *,
        after: int = 0,
        before: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        self._check_open()
        return self._fetch(_between(self._index.types.get(event_type, ()), after, before), backwards, limit)

    def read_category(
        self,
        category: str,
        *,
        after: int = 0,
        before: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        self._check_open()
        return self._fetch(_between(self._index.categories.get(category, ()), after, before), backwards, limit)

    def read_tag(
        self,
        tag: str,
        *,
        after: int = 0,
        before: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        self._check_open()
        return self._fetch(_between(self._index.tags.get(tag, ()), after, before), backwards, limit)

    def names_in(self, index: Literal["types", "tags"], prefix: str = "") -> list[str]:
        self._check_open()
        return sorted(name for name in getattr(self._index, index) if name.startswith(prefix))

    def idempotency(self, stream: str, keys: Sequence[str], *, now_ns: int) -> dict[str, IdempotencyEntry]:
        self._check_open()
        entries = ((key, self._index.idempotency.get((stream, key))) for key in keys)
        return {key: entry for key, entry in entries if entry is not None and entry.expires_ns > now_ns}

    def drop_snapshots(self, streams: Sequence[str]) -> None:
        self._check_open()
        for stream in streams:
            self._snapshots.pop(stream, None)

    def snapshots(
        self,
        stream: str,
        *,
        to_version: int | None = None,
        limit: int = READ_BATCH_EVENTS,
        quarantined: bool = False,
    ) -> list[Snapshot]:
        self._check_open()
        kept = self._snapshots.get(stream, {})
        last = POSITION_MAX if to_version is None else to_version
        newest_first = (decode_snapshot(kept[version]) for version in sorted(kept, reverse=True) if version <= last)
        return [snapshot for snapshot in newest_first if bool(snapshot.quarantined) == quarantined][:limit]

    def flush(self) -> None:
        """Nothing to do: the indexes are always complete."""

    def close(self) -> None:
        self._closed = True

    def reopen(self) -> Self:
        """Open the log again with its content, in place of a restart of the program in tests."""
        self._closed = self._is_taken = False
        return self

    def _fetch(self, positions: Sequence[int], backwards: bool, limit: int) -> list[StoredEvent]:
        chosen = positions[::-1][:limit] if backwards else positions[:limit]
        return [_decoder.decode(self._records[position - 1]) for position in chosen]

    def _first_match(self, query: EventQuery) -> int | None:
        return next((event.position for event in find_events(self, query)), None)

    def take(self) -> None:
        """Take the store for the one runtime that may write it. Raises `StoreInUse` where another has taken it."""
        if self._is_taken:
            raise StoreInUse(self.path, "another runtime of this process")
        self._is_taken = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed(self.path, "To go on with what it holds, open log.reopen().")


def _between(positions: Sequence[int], after: int, before: int | None) -> Sequence[int]:
    end = POSITION_MAX if before is None else before
    return positions[bisect_right(positions, after) : bisect_left(positions, end)]
