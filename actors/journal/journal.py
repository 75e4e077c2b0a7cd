"""The journal's interface: what actors hand to the journal, and what they may ask of it.

`ThreadJournal` writes to disk in its own thread; `InlineJournal` is for stores that wait for no disk.
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
    """What an aggregate's actor needs of the journal. Call every method on the trio thread."""

    def submit(self, write: "Write") -> None:
        """Queue a write for the disk."""

    def save_with_next_commit(self, snapshot: Snapshot) -> None:
        """Store a snapshot together with the next writes. A failure is logged: a snapshot can be made again."""

    async def until_saved(self) -> None:
        """Wait until no snapshot that was handed in so far is on its way any more."""

    async def save_now(self, snapshots: Sequence[Snapshot]) -> None:
        """Store snapshots in a commit of their own. Raises a `StoreError`, or `RuntimeClosed`."""

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` between two commits, in the thread that writes; return its result.

        Earlier writes are settled by then, except those that wait for admission. Cancelling the caller does not
        withdraw the work. Raises what `work` raises, or `RuntimeClosed`.
        """

    @property
    def is_full(self) -> bool:
        """Whether the number of queued writes has reached the bound."""

    async def until_room(self) -> None:
        """Wait until the number of queued writes is below the bound."""

    async def close(self) -> None:
        """Write what is queued, and end."""

    @property
    def admission(self) -> Admission:
        """Where writes wait while a view is too far behind."""


class Write(msgspec.Struct, frozen=True):
    """A write that an actor hands to the journal. `settle` is called with the outcome, on the trio thread, in order.

    The garbage collector must see it, and `Work` as well: the traceback of an error that settles it refers to frames
    that hold it.
    """

    appends: Sequence[StreamAppend]
    idempotency: Sequence[IdempotencyEntry]
    event_count: int
    answer_count: int
    """How many answers are sent when the write is stored."""
    series: "CommitSeries"
    settle: Callable[[Appended | EventSourcingError], None]
    conditions: Sequence[EventQuery] = ()
    follows: "Sequence[CommitSeries]" = ()
    """Series of others: if one of their commits before this write is refused, so is this write."""

    @property
    def refusal(self) -> EventSourcingError | None:
        """The error of an earlier write that this one was decided on."""
        if self.series.error is None and self.follows:
            return next((series.error for series in self.follows if series.error is not None), None)
        return self.series.error


class CommitSeries:
    """Commits of one actor in which each decision builds on the state that the commits before it lead to.

    When one commit fails, all later ones in the series fail with it: they were decided on a state that never existed.
    """

    __slots__ = ("error", "last_commit_id")

    def __init__(self) -> None:
        self.last_commit_id = 0
        self.error: EventSourcingError | None = None


class Work(msgspec.Struct, frozen=True):
    """Other work that only the writing thread may do, between two group commits: a step of a compaction, say."""

    run: Callable[[], Any]
    settle: Callable[[Any], None]
    """Called on the journal's thread with the result of `run`, or the error that `run` raised."""
