"""The port: what every event store offers. `contract/` is its meaning: tests that any store must pass."""

from collections.abc import Sequence
from typing import Final, Literal, Protocol

from .commit import Appended, Commit, IdempotencyEntry
from .errors import EventSourcingError
from .record import StoredEvent, StreamHead
from .snapshot import Snapshot

READ_BATCH_EVENTS: Final = 100
"""What one call of a reading method returns at most, unless asked otherwise."""
POSITION_MAX: Final = (1 << 63) - 1


class EventReader(Protocol):
    """An append-only log with its indexes, snapshots and idempotency keys, as it is read. Any thread may call it.

    Each read returns a bounded list, so no caller holds a transaction; to go on, ask again from the last version or
    position. Reads raise `CorruptRecord` when a stored value does not pass its check.
    """

    @property
    def path(self) -> str:
        """Where it lives, for messages."""

    @property
    def last_position(self) -> int:
        """The position of the newest event; 0 in an empty log."""

    @property
    def last_commit_id(self) -> int:
        """The id of the newest commit; 0 in an empty log."""

    @property
    def stream_count(self) -> int:
        """How many streams there are."""

    def head(self, stream: str) -> StreamHead | None:
        """The newest event's version, position and hash; None where there is no such stream."""

    def head_at(self, stream: str, position: int) -> StreamHead | None:
        """The same as of a position: of the events of the stream that are not beyond it, the newest."""

    def time_at(self, position: int) -> int:
        """The time (UTC, ns) of the event at a position that the log has."""

    def event_hash(self, stream: str, version: int) -> bytes | None:
        """The hash of the event that made this version of a stream; None where there is no such version."""

    def streams(
        self, *, category: str | None = None, after: str = "", limit: int = READ_BATCH_EVENTS
    ) -> list[StreamHead]:
        """Heads in the order of the streams' names (as UTF-8 bytes), after the name `after`."""

    def read_stream(
        self,
        stream: str,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        """Events of one stream with `from_version` <= version <= `to_version`, backwards from the highest if asked."""

    def read(
        self, *, after: int = 0, before: int | None = None, backwards: bool = False, limit: int = READ_BATCH_EVENTS
    ) -> list[StoredEvent]:
        """Events with `after` < position < `before`, backwards from the highest if asked."""

    def read_type(
        self,
        event_type: str,
        *,
        after: int = 0,
        before: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        """The same for the events of one stored type."""

    def read_category(
        self,
        category: str,
        *,
        after: int = 0,
        before: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        """The same for the events of all streams of one category."""

    def read_tag(
        self,
        tag: str,
        *,
        after: int = 0,
        before: int | None = None,
        backwards: bool = False,
        limit: int = READ_BATCH_EVENTS,
    ) -> list[StoredEvent]:
        """The same for the events that carry one tag."""

    def names_in(self, index: Literal["types", "tags"], prefix: str = "") -> list[str]:
        """The stored types, or the tags, of all events, sorted: those that begin with a prefix."""

    def idempotency(self, stream: str, keys: Sequence[str], *, now_ns: int) -> dict[str, IdempotencyEntry]:
        """What the commands with these keys did: those that are known and whose window is open at `now_ns` (UTC)."""

    def snapshots(
        self,
        stream: str,
        *,
        to_version: int | None = None,
        limit: int = READ_BATCH_EVENTS,
        quarantined: bool = False,
    ) -> list[Snapshot]:
        """The stream's snapshots that pass their check, newest first, from `to_version` down.

        Without those in quarantine; those instead, if asked.
        """


class EventStore(EventReader, Protocol):
    """The same with writing. One thread calls `append`, `flush` and `close`."""

    @property
    def disk_seconds(self) -> float:
        """How long `append` waits for the disk, estimated; a writer chooses the size of its batches by it."""

    def append(
        self, commits: Sequence[Commit], snapshots: Sequence[Snapshot] = ()
    ) -> list[Appended | EventSourcingError]:
        """Store the commits in order, durably and in one transaction; the answers come in the same order.

        A refused commit (`VersionConflict`, one of the `LimitExceeded`, ...) leaves no trace and does not touch the
        others. When the disk refuses, every commit gets the `StoreError` and none is stored. Snapshots are written
        along with them; where there are snapshots alone, the `StoreError` is raised.
        """

    def drop_snapshots(self, streams: Sequence[str]) -> None:
        """Remove every snapshot of these streams, durably. Raises a `StoreError`."""

    def flush(self) -> None:
        """Bring the indexes on disk up to the log, so that the next opening has less to do."""

    def close(self) -> None:
        """Flush and close. Idempotent."""
