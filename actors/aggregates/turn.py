"""A turn: the commands that an aggregate's actor decides in one go, which are written as one commit."""

from typing import TYPE_CHECKING, Any

from msgspec import Raw, structs

from ...storage.commit import IdempotencyEntry, NewEvent
from ...storage.errors import EventSourcingError
from ...storage.event_query import EventQuery
from ..future import TrioFuture
from ..journal.journal import CommitSeries
from .aggregate import Aggregate
from .receipt import Receipt
from .request import Request

if TYPE_CHECKING:
    from .idempotency import IdempotencyKeys


class Answers:
    """Collects the answers to the commands of one message, and returns them in order."""

    __slots__ = ("_answers", "_future", "_missing")

    def __init__(self, future: TrioFuture[list[Any]], count: int) -> None:
        self._future = future
        self._answers: list[Any] = [None] * count
        self._missing = count

    def put(self, index: int, answer: Receipt | EventSourcingError) -> None:
        """Add one answer; the last one settles the future."""
        self._answers[index] = answer
        self._missing -= 1
        if not self._missing:
            self._future.settle(self._answers)


class Reply:
    """The answer to one command: it goes to a future, or to its index among the `Answers`.

    `version` is the stream's version after the command, `events` are the command's events, `error` is set if the
    command failed. A command whose idempotency key is still on its way to the disk gets the answer of `original`.
    """

    __slots__ = ("answer", "error", "events", "index", "key", "original", "to", "version")

    def __init__(self, to: "TrioFuture[Any] | Answers | None", index: int = 0) -> None:
        self.to = to
        self.index = index
        self.version = 0
        self.events: tuple[Any, ...] = ()
        self.error: EventSourcingError | None = None
        self.key: str | None = None
        self.original: Reply | None = None
        self.answer: Receipt | EventSourcingError | None = None

    def settle_stored(self, stream: str, position: int) -> None:
        """Give the answer: the commit that it depends on is stored."""
        if self.error is not None:
            self.settle(self.error)
        elif self.original is not None:
            first = self.original.answer
            assert first is not None, "answers leave in order, so the original's left before"
            self.settle(structs.replace(first, duplicate=True) if isinstance(first, Receipt) else first)
        else:
            self.settle(Receipt(stream, self.version, position, self.events))

    def settle(self, answer: Receipt | EventSourcingError) -> None:
        """Send the answer to the future or `Answers`; a command that was told has neither."""
        self.answer = answer
        to = self.to
        if to is None:
            return
        if isinstance(to, Answers):
            to.put(self.index, answer)
        elif isinstance(answer, Receipt):
            to.settle(answer)
        else:
            to.fail(answer)


class Turn:
    """The content of one commit, and the replies that wait for it. `base_version` is the stream's version before it."""

    __slots__ = (
        "base_version",
        "conditions",
        "events",
        "follows",
        "idempotency",
        "replies",
        "size_bytes",
        "snapshot_state",
        "states",
        "version",
    )

    def __init__(self, base_version: int) -> None:
        self.base_version = base_version
        self.version = base_version
        self.events: list[NewEvent] = []
        self.idempotency: list[IdempotencyEntry] = []
        self.replies: list[Reply] = []
        self.states: list[tuple[TrioFuture[Any], Aggregate | EventSourcingError]] = []
        self.size_bytes = 0
        self.snapshot_state: Raw | None = None
        self.conditions: tuple[EventQuery, ...] = ()
        self.follows: tuple[CommitSeries, ...] = ()

    @property
    def has_content(self) -> bool:
        """Whether the journal has anything to write or to check for this turn."""
        return bool(self.events or self.idempotency or self.conditions)

    def depend_as(self, request: Request) -> None:
        """Make the commit depend on what the request's events depend on."""
        if request.unless is not None:
            self.conditions = (request.unless,)
        if request.follows is not None:
            self.follows += (request.follows,)

    def settle_stored(self, stream: str, first_position: int, position_before: int, keys: "IdempotencyKeys") -> None:
        """Give every answer: the turn's commit is stored, or the turn depends on nothing that is not stored.

        A reply without events before it in the turn gets `position_before`, the stream's position before the turn.
        """
        for reply in self.replies:
            ahead = reply.version - self.base_version
            reply.settle_stored(stream, first_position + ahead - 1 if ahead > 0 else position_before)
            if reply.key is not None:
                keys.settled(reply.key)
        for future, state in self.states:
            if isinstance(state, EventSourcingError):
                future.fail(state)
            else:
                future.settle(state)

    def settle_failed(self, error: EventSourcingError, keys: "IdempotencyKeys") -> None:
        """Answer every command with the error: the turn's commit failed."""
        for reply in self.replies:
            reply.settle(error)
            if reply.key is not None:
                keys.settled(reply.key)
