"""The port of event stores. The tests in `contract/` specify its behaviour; every store must pass them."""

from collections.abc import Sequence
from typing import Final, Literal, Protocol

from .commit import Appended, Commit, IdempotencyEntry
from .errors import EventSourcingError
from .record import StoredEvent, StreamHead
from .snapshot import Snapshot

READ_BATCH_EVENTS: Final = 100
"""The default limit on the results of one call of a reading method."""
POSITION_MAX: Final = (1 << 63) - 1


class EventReader(Protocol):
    """The reading methods of an append-only log with its indexes, snapshots and idempotency keys. For any thread.

    Each read returns a bounded list and holds no transaction; continue from the last version or position. Reads raise
    `CorruptRecord` if a stored value is damaged, `ArchiveUnreachable` if an archived event cannot be read, and
    `StoreClosed`.
    """

    @property
    def path(self) -> str:
        """The place of the store, for messages."""

    @property
    def last_position(self) -> int:
        """The position of the newest event; 0 in an empty log."""

    @property
    def last_commit_id(self) -> int:
        """The id of the newest commit; 0 in an empty log."""

    @property
    def stream_count(self) -> int:
        """The number of streams."""

    def head(self, stream: str) -> StreamHead | None:
        """The version, position and hash of a stream's newest event; None if there is no such stream."""

    def head_at(self, stream: str, position: int) -> StreamHead | None:
        """The head of a stream as of a position: its newest event at or before it; None if there is none."""

    def time_at(self, position: int) -> int:
        """The time (UTC, ns) of the event at a position, which must exist."""

    def event_hash(self, stream: str, version: int) -> bytes | None:
        """The hash of the event at a version of a stream; None if there is no such version."""

    def streams(
        self, *, category: str | None = None, after: str = "", limit: int = READ_BATCH_EVENTS
    ) -> list[StreamHead]:
        """The heads of all streams, or of those of a category, after the name `after`, by name (as UTF-8 bytes)."""

    def read_stream(
        self,
        stream: str,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        """The events of a stream with `from_version` <= version <= `to_version`, with `backwards` the highest first."""

    def read(
        self, *, after: int = 0, before: int | None = None, backwards: bool = False, limit: int = READ_BATCH_EVENTS
    ) -> list[StoredEvent]:
        """The events with `after` < position < `before`, with `backwards` the highest position first."""

    def read_type(
        self,
        event_type: str,
        *,
        after: int = 0,
        before: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        """The events of one stored type, with the arguments of `read`."""

    def read_category(
        self,
        category: str,
        *,
        after: int = 0,
        before: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        """The events of all streams of one category, with the arguments of `read`."""

    def read_tag(
        self,
        tag: str,
        *,
        after: int = 0,
        before: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        """The events with one tag, with the arguments of `read`."""

    def names_in(self, index: Literal["types", "tags"], prefix: str = "") -> list[str]:
        """The stored types, or the tags, of all events that begin with `prefix`, sorted."""

    def idempotency(self, stream: str, keys: Sequence[str], *, now_ns: int) -> dict[str, IdempotencyEntry]:
        """The entries, by key, of those `keys` of a stream that are stored and have not expired at `now_ns` (UTC)."""

    def snapshots(
        self,
        stream: str,
        *,
        to_version: int | None = None,
        limit: int = READ_BATCH_EVENTS,
        quarantined: bool = False,
    ) -> list[Snapshot]:
        """The undamaged snapshots of a stream from `to_version` down, newest first.

        Returns only snapshots that are not in quarantine, or with `quarantined` only those that are.
        """


class EventStore(EventReader, Protocol):
    """An `EventReader` with the writing methods. One thread calls `append`, `drop_snapshots`, `flush` and `close`."""

    @property
    def disk_seconds(self) -> float:
        """The estimated seconds that `append` waits for the disk; the writer chooses its batch size by this."""

    def append(
        self, commits: Sequence[Commit], snapshots: Sequence[Snapshot] = ()
    ) -> list[Appended | EventSourcingError]:
        """Store the commits in order, durably and in one transaction; return their outcomes in the same order.

        A refused commit (`VersionConflict`, a `LimitExceeded`, ...) leaves no trace and does not affect the others. If
        the disk refuses, the outcome of every accepted commit is the `StoreError`, and none is stored, unless the error
        is `StoreOutcomeUnknown`. Snapshots are written in the same transaction. Without commits, a `StoreError` is
        raised.
        """

    def drop_snapshots(self, streams: Sequence[str]) -> None:
        """Remove every snapshot of these streams, durably. Raises a `StoreError`."""

    def flush(self) -> None:
        """Bring the indexes on disk up to date, so that the next opening has less to read. Raises a `StoreError`."""

    def close(self) -> None:
        """Flush and close the store. Idempotent."""
