"""A commit, the unit of writing: it is stored as a whole or not at all."""

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
    """Whether a stream at `version` (0: no stream) meets the expectation of a commit."""
    if expected is Expected.ANY:
        return True
    if expected is Expected.NO_STREAM:
        return version == 0
    if expected is Expected.STREAM_EXISTS:
        return version > 0
    return expected == version


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that has no position yet.

    `type` is the stored name. `payload` and `metadata` are plain data that MessagePack can encode; the payload may also
    be encoded already (`msgspec.Raw`). A `kind` of None becomes "created" for the first event of a stream and "updated"
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
    """The events that one commit appends to one stream, and the version that it expects the stream to have."""

    stream: str
    expected_version: ExpectedVersion
    events: Sequence[NewEvent]


WHERE_THE_LOG_IS: Final = -1
"""A placeholder in `IdempotencyEntry.position` for the position of the newest event before the commit."""


class IdempotencyEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Records that a command with the idempotency key `key` took effect on `stream`.

    The command's events are the `event_count` versions that end at `version`; the last of them is at the global
    `position`. In a commit that is not stored yet, `version` is absolute and `position` is relative: 0 for the first
    event of the commit, or `WHERE_THE_LOG_IS`.
    """

    stream: str
    key: str
    version: int
    position: int
    event_count: int
    expires_ns: int


class Commit(msgspec.Struct, frozen=True, gc=False):
    """A unit of writing: events for one or more streams, and the idempotency keys of the commands that made them.

    `id` must be larger than every earlier id: commits are ordered by id. `time_ns` is UTC. `follows` has the ids
    of the commits whose outcomes this commit was decided on; if one of them is refused, so is this one. This commit is
    also refused if an event matches one of its `conditions`.
    """

    id: int
    time_ns: int
    appends: Sequence[StreamAppend]
    idempotency: Sequence[IdempotencyEntry] = ()
    follows: Sequence[int] = ()
    conditions: Sequence[EventQuery] = ()
    clock_ns: int | None = None
    """The clock's time (UTC) if the clock was set back: `time_ns` never decreases. Idempotency keys expire by it."""

    @property
    def event_count(self) -> int:
        """The number of events that the commit appends to all its streams."""
        return sum(len(append.events) for append in self.appends)


class Appended(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a stored commit: the positions of its first and last event, and the new heads of its streams."""

    commit_id: int
    first_position: int
    last_position: int
    heads: dict[str, StreamHead]
