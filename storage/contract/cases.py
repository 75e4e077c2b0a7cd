"""Helpers of the contract tests: opening and filling stores, building commits, checking outcomes."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from ..commit import ANY, Appended, Commit, ExpectedVersion, IdempotencyEntry, NewEvent, StreamAppend
from ..errors import EventSourcingError
from ..event_query import EventQuery
from ..limits import Limits
from ..record import GENESIS_HASH, StoredEvent, content_hash
from ..store import EventStore

E = TypeVar("E", bound=BaseException)
Outcome: TypeAlias = Appended | EventSourcingError
TIME_NS: Final = 1_767_225_600_000_000_000


def new_event(number: int = 0, *, type: str = "thing.happened", **fields: Any) -> NewEvent:  # noqa: A002
    """A new event with the payload `{"number": number}`."""
    return NewEvent(type, {"number": number}, **fields)


def append_to(
    stream: str,
    count: int = 1,
    *,
    expected: ExpectedVersion = ANY,
    type: str = "thing.happened",  # noqa: A002
) -> StreamAppend:
    """An append of `count` new events to one stream."""
    return StreamAppend(stream, expected, [new_event(number, type=type) for number in range(count)])


def commit(
    commit_id: int,
    *appends: StreamAppend,
    keys: Sequence[IdempotencyEntry] = (),
    follows: Sequence[int] = (),
    time_ns: int = TIME_NS,
    conditions: Sequence[EventQuery] = (),
) -> Commit:
    """A commit with these appends."""
    return Commit(commit_id, time_ns, appends, keys, follows, conditions)


def key_entry(
    stream: str, key: str, *, version: int = 1, position: int = 0, event_count: int = 1, expires_ns: int = TIME_NS + 100
) -> IdempotencyEntry:
    """The entry that a command with an idempotency key leaves."""
    return IdempotencyEntry(stream, key, version, position, event_count, expires_ns)


def appended(outcome: Outcome) -> Appended:
    """The outcome, checked to be that of a stored commit."""
    assert isinstance(outcome, Appended), repr(outcome)
    return outcome


def refused(outcome: Outcome, error: type[E]) -> E:
    """The outcome, checked to be an error of this class."""
    assert isinstance(outcome, error), repr(outcome)
    return outcome


def raised(error: type[E], call: Callable[[], object]) -> E:
    """The error that a call raises, which must be of this class."""
    try:
        result = call()
    except error as caught:
        return caught
    raise AssertionError(f"{error.__name__} was expected, and it returned {result!r}")


def where(events: Sequence[StoredEvent]) -> list[tuple[int, str, int]]:
    """Position, stream and version of each event."""
    return [(event.position, event.stream, event.version) for event in events]


def positions(events: Sequence[StoredEvent]) -> list[int]:
    """The position of each event."""
    return [event.position for event in events]


def check_chains(events: Sequence[StoredEvent]) -> None:
    """Recompute every hash from the stored record and the hash of the preceding event of its stream."""
    last: dict[str, bytes] = {}
    encode = msgspec.msgpack.Encoder().encode
    for event in events:
        before = last.get(event.stream, GENESIS_HASH)
        assert event.hash == content_hash(before, encode(event)), where([event])
        last[event.stream] = event.hash


class StoreCases:
    """The stores that the tests open. A subclass defines `open_store` and, for a persistent store, `reopen`."""

    def open_store(self, limits: Limits | None = None) -> EventStore:
        """An empty store."""
        raise NotImplementedError

    def reopen(self, store: EventStore) -> EventStore:
        """The store as a later process would see it. A store that is not persistent returns itself."""
        return store

    def filled(self, *, reopen: bool = True) -> EventStore:
        """A store of twelve events: three streams in turn, two categories and two types."""
        store = self.open_store()
        for number in range(4):
            streams = ("account-ann", "order-1", "account-bob")
            for offset, stream in enumerate(streams):
                event_type = "thing.opened" if number == 0 else "thing.changed"
                (outcome,) = store.append([commit(number * 3 + offset + 1, append_to(stream, type=event_type))])
                appended(outcome)
        return self.reopen(store) if reopen else store
