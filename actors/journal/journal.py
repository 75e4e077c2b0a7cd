"""The journal as actors see it: what they hand to it, and what they may ask of it.

`ThreadJournal` writes to disk, in a thread of its own; `InlineJournal` is for stores that wait for no disk.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from ...storage.commit import Appended, IdempotencyEntry, StreamAppend
from ...storage.errors import EventSourcingError
from ...storage.event_query import EventQuery
from ...storage.snapshot import Snapshot
from .admission import Admission

T = TypeVar("T")


class Journal(Protocol):
    """What an aggregate's actor needs of the journal. Every method is called on the trio thread."""

    def submit(self, write: "Write") -> None:
        """Put a write in line for the disk."""

    def save(self, snapshot: Snapshot) -> None:
        """Store a snapshot along with the next writes. A failure is logged: a snapshot can be made again."""

    async def until_saved(self) -> None:
        """Wait until none of the snapshots that were handed in so far is on its way any more."""

    async def store(self, snapshots: Sequence[Snapshot]) -> None:
        """Store snapshots in a commit of their own. Raises a `StoreError`, or `RuntimeClosed`."""

    async def run(self, work: Callable[[], T]) -> T:
        """Do something between two commits, in the thread that writes. Raises what that raises, or `RuntimeClosed`.

        What was submitted before, and does not wait to be admitted, is settled by then. Cancelling the caller does not
        withdraw the work.
        """

    @property
    def is_full(self) -> bool:
        """Whether as many writes are in line as the bound allows."""

    async def room(self) -> None:
        """Wait until fewer writes than the bound are in line."""

    async def close(self) -> None:
        """Write what is in line, and end."""

    @property
    def admission(self) -> Admission:
        """Where writes wait while a view is too far behind."""


class Write(msgspec.Struct, frozen=True):
    """What an actor hands to the journal; `settle` is called on the trio thread with the outcome, in order.

    The garbage collector has to see it: an error that it is settled with refers, by its traceback, to frames that hold
    it. So it is with `Work`.
    """

    appends: Sequence[StreamAppend]
    idempotency: Sequence[IdempotencyEntry]
    event_count: int
    answer_count: int
    """How many answers leave with it."""
    series: "CommitSeries"
    settle: Callable[[Appended | EventSourcingError], None]
    conditions: Sequence[EventQuery] = ()


class CommitSeries:
    """The commits of one actor that were decided on each other's outcome.

    Once one of them fails, all that follow in the series fail with it, since their decisions were made on a state that
    never came to be.
    """

    __slots__ = ("error", "last_commit_id")

    def __init__(self) -> None:
        self.last_commit_id = 0
        self.error: EventSourcingError | None = None


class Work(msgspec.Struct, frozen=True):
    """Something else that only the thread that writes may do, between two group commits: a step of a compaction."""

    run: Callable[[], Any]
    settle: Callable[[Any], None]
    """Called on the journal's thread with what `run` returned, or with the error that it raised."""
