"""What is written: a commit, the unit that is stored wholly or not at all."""

import enum
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec

from .event_query import EventQuery
from .record import Kind, StreamHead


class Expected(enum.Enum):
    """What a commit may expect of a stream besides a version number."""

    ANY = "any version"
    NO_STREAM = "no stream"
    STREAM_EXISTS = "an existing stream"

    def __str__(self) -> str:
        return self.value


ANY = Expected.ANY
NO_STREAM = Expected.NO_STREAM
STREAM_EXISTS = Expected.STREAM_EXISTS

ExpectedVersion: TypeAlias = int | Expected


def expectation_holds(expected: ExpectedVersion, version: int) -> bool:
    """Whether a stream at this version (0 where there is none) is as a commit expects it."""
    if expected is Expected.ANY:
        return True
    if expected is Expected.NO_STREAM:
        return version == 0
    if expected is Expected.STREAM_EXISTS:
        return version > 0
    return expected == version


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that has no position yet.

    `type` is the stored name, `payload` and `metadata` are plain data (what MessagePack can hold); a payload may come
    encoded already, as `msgspec.Raw`. A `kind` of None becomes "created" for the first event of a stream and "updated"
    for every other.
    """

    type: str
    payload: dict[str, Any] | msgspec.Raw
    schema_version: int = 1
    kind: Kind | None = None
    correlation_id: str = ""
    causation_id: str = ""
    metadata: dict[str, Any] = {}
    tags: tuple[str, ...] = ()


class StreamAppend(msgspec.Struct, frozen=True, gc=False):
    """The events that one commit adds to one stream, and the version it expects to find there."""

    stream: str
    expected_version: ExpectedVersion
    events: Sequence[NewEvent]


WHERE_THE_LOG_IS: Final = -1
"""In the place of a position: that of the newest event before the commit."""


class IdempotencyEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """That a command with this key took effect on `stream`.

    Its events are the `event_count` versions that end at `version`, the last of them at the global `position`. Within a
    commit that is not stored yet `version` is absolute and `position` counts from the first event of the commit, with
    `WHERE_THE_LOG_IS` for that of the newest event before the commit.
    """

    stream: str
    key: str
    version: int
    position: int
    event_count: int
    expires_ns: int


class Commit(msgspec.Struct, frozen=True, gc=False):
    """All that is to be written at once: events for one or more streams, and the idempotency keys they answer.

    `id` is larger than every id before it (the order of commits is the order of ids); `time_ns` is UTC. A commit that
    was decided on the outcome of another names that one's id in `follows`, and is refused when that one was refused. It
    is refused, too, when an event matches one of its `conditions`.
    """

    id: int
    time_ns: int
    appends: Sequence[StreamAppend]
    idempotency: Sequence[IdempotencyEntry] = ()
    follows: int = 0
    conditions: Sequence[EventQuery] = ()
    clock_ns: int | None = None
    """What the clock says (UTC) where it was set back: `time_ns` never decreases. Idempotency keys expire by it."""

    @property
    def event_count(self) -> int:
        """How many events it adds to all its streams together."""
        return sum(len(append.events) for append in self.appends)


class Appended(msgspec.Struct, frozen=True, gc=False):
    """Where a commit's events went: the positions of its first and last event, and the new heads of its streams."""

    commit_id: int
    first_position: int
    last_position: int
    heads: dict[str, StreamHead]
