"""A log as of a position in the past."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from .commit import IdempotencyEntry
from .errors import StoreError
from .record import StoredEvent, StreamHead
from .snapshot import Snapshot
from .store import POSITION_MAX, READ_BATCH_EVENTS, EventReader

HEADS_MAX: Final = 10_000
"""The most stream heads that are cached."""


class PastLog:
    """Reads `store` as if nothing had been stored after `position`. Caches at most `HEADS_MAX` heads."""

    def __init__(self, store: EventReader, position: int) -> None:
        self._store = store
        self._heads: dict[str, StreamHead | None] = {}
        self._lock = threading.Lock()
        self.last_position = position

    @property
    def path(self) -> str:
        return f"{self._store.path} as of position {self.last_position}"

    @property
    def last_commit_id(self) -> int:
        return self._store.last_commit_id

    @property
    def stream_count(self) -> int:
        count, after = 0, ""
        while heads := self.streams(after=after):
            count += len(heads)
            after = heads[-1].stream
        return count

    def head(self, stream: str) -> StreamHead | None:
        # The past does not change, so a cached head stays valid.
        try:
            return self._heads[stream]
        except KeyError:
            head = self._store.head_at(stream, self.last_position)
        with self._lock:
            if len(self._heads) >= HEADS_MAX:
                self._heads.clear()
            self._heads[stream] = head
        return head

    def head_at(self, stream: str, position: int) -> StreamHead | None:
        return self._store.head_at(stream, min(position, self.last_position))

    def time_at(self, position: int) -> int:
        return self._store.time_at(position)

    def event_hash(self, stream: str, version: int) -> bytes | None:
        head = self.head(stream)
        return None if head is None or version > head.version else self._store.event_hash(stream, version)

    def streams(
        self, *, category: str | None = None, after: str = "", limit: int = READ_BATCH_EVENTS
    ) -> list[StreamHead]:
        found: list[StreamHead] = []
        while len(found) < limit and (heads := self._store.streams(category=category, after=after, limit=limit)):
            found += [head for head in (self.head(each.stream) for each in heads) if head is not None]
            after = heads[-1].stream
        return found[:limit]

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
        last = head.version if to_version is None else min(to_version, head.version)
        return self._store.read_stream(
            stream, from_version=from_version, to_version=last, backwards=backwards, limit=limit
        )

    def read(
        self, *, after: int = 0, before: int | None = None, backwards: bool = False, limit: int = READ_BATCH_EVENTS
    ) -> list[StoredEvent]:
        return self._until(self._store.read, after=after, before=before, backwards=backwards, limit=limit)

    def read_type(self, event_type: str, **bounds: Any) -> list[StoredEvent]:
        return self._until(self._store.read_type, event_type, **bounds)

    def read_category(self, category: str, **bounds: Any) -> list[StoredEvent]:
        return self._until(self._store.read_category, category, **bounds)

    def read_tag(self, tag: str, **bounds: Any) -> list[StoredEvent]:
        return self._until(self._store.read_tag, tag, **bounds)

    def names_in(self, index: Literal["types", "tags"], prefix: str = "") -> list[str]:
        read = self.read_type if index == "types" else self.read_tag

        def has(name: str) -> bool:
            try:
                return bool(read(name, limit=1))
            except StoreError:
                # The name exists; reading its events raises the error.
                return True

        return [name for name in self._store.names_in(index, prefix) if has(name)]

    def _until(
        self, read: Callable[..., list[StoredEvent]], *names: str, before: int | None = None, **bounds: Any
    ) -> list[StoredEvent]:
        end = min(POSITION_MAX if before is None else before, self.last_position + 1)
        return read(*names, before=end, **bounds)

    def idempotency(self, stream: str, keys: Sequence[str], *, now_ns: int) -> dict[str, IdempotencyEntry]:
        """Always empty: no command is sent to the past, so none is sent twice."""
        return {}

    def snapshots(
        self,
        stream: str,
        *,
        to_version: int | None = None,
        limit: int = READ_BATCH_EVENTS,
        quarantined: bool = False,
    ) -> list[Snapshot]:
        head = self.head(stream)
        if head is None:
            return []
        last = head.version if to_version is None else min(to_version, head.version)
        return self._store.snapshots(stream, to_version=last, limit=limit, quarantined=quarantined)

    def close(self) -> None:
        """Do nothing: the underlying log stays open."""
