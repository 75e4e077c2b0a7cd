"""The request: a command on its way to its aggregate's actor; and the actor's other messages."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

import msgspec
import trio

from ...storage.commit import ExpectedVersion
from ...storage.event_query import EventQuery
from ..journal.journal import CommitSeries


class Cause(msgspec.Struct, frozen=True, gc=False):
    """The correlation that a command belongs to, and the message that caused the command."""

    correlation_id: str
    causation_id: str


current_cause: Final[ContextVar[Cause | None]] = ContextVar("eventsrc_cause", default=None)
"""Set while a handler runs, so that the commands it sends carry on its correlation."""


class Request(msgspec.Struct, gc=False):
    """One command on its way to its aggregate's actor."""

    command: object
    command_id: str
    correlation_id: str
    caused_by: str | None = None
    expected_version: ExpectedVersion | None = None
    idempotency_key: str | None = None
    metadata: Mapping[str, Any] | None = None
    unless: EventQuery | None = None
    """The command's events are stored only if no event matches this query."""
    follows: CommitSeries | None = None
    """If a commit of this series that comes before the command's events is refused, so are they."""
    has_fresh_key: bool = False
    """Whether the sender knows that the idempotency key was never used before."""
    started: bool = False
    """Whether the actor has begun the command: from here on it may take effect."""
    withdrawn: bool = False
    """Whether the sender gave up before the command was started: the command never will be."""


class Requests(msgspec.Struct, frozen=True, gc=False):
    """Several commands in one message; they are answered together, in order."""

    requests: list[Request]

    @property
    def weight(self) -> int:
        """How many messages this one counts as in a mailbox."""
        return len(self.requests)


class StateQuery(msgspec.Struct, frozen=True, gc=False):
    """Asks for a copy of the state that is on disk."""


class Hold:
    """Asks an actor to stand still for a transaction. The actor answers with itself, then waits until `over` is set."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = trio.Event()
