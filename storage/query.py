"""Finding events by several criteria: the narrowest index serves, and what it does not know is compared."""

import heapq
from collections.abc import Callable, Iterator
from typing import Final

from .event_query import EventQuery
from .record import StoredEvent, StreamHead
from .store import POSITION_MAX, EventReader

QUERY_BATCH_EVENTS: Final = 500


def find_events(
    store: EventReader,
    query: EventQuery,
    *,
    stream: str | None = None,
    before: int | None = None,
    backwards: bool = False,
) -> Iterator[StoredEvent]:
    """Events that meet the query, by position, with `query.after` < position < `before`.

    Reads a batch at a time and holds no transaction in between, so the caller may take as long as it likes.
    """
    end = POSITION_MAX if before is None else before
    after = max(query.after, 0)
    if stream is not None:
        found = _by_version(store, stream, after, backwards)
    elif query.tags:
        found = _by_position(_reader(store.read_tag, query.tags[0]), after, end, backwards)
    elif query.types and query.category is None:
        found = heapq.merge(
            *(_by_position(_reader(store.read_type, name), after, end, backwards) for name in set(query.types)),
            key=lambda event: event.position,
            reverse=backwards,
        )
    elif query.category is not None:
        found = _by_position(_reader(store.read_category, query.category), after, end, backwards)
    else:
        found = _by_position(store.read, after, end, backwards)
        if not query.metadata:
            return found
    return (event for event in found if event.position < end and query.matches(event))


def find_streams(store: EventReader, *, category: str | None = None) -> Iterator[StreamHead]:
    """The head of every stream (of a category), in the order of the names."""
    after = ""
    while heads := store.streams(category=category, after=after, limit=QUERY_BATCH_EVENTS):
        yield from heads
        after = heads[-1].stream


def position_at(store: EventReader, time_ns: int) -> int:
    """The position of the newest event of `time_ns` or before, 0 where there is none: times never run backwards."""
    low, high = 0, store.last_position
    while low < high:
        middle = (low + high + 1) // 2
        if store.time_at(middle) <= time_ns:
            low = middle
        else:
            high = middle - 1
    return low


def _reader(read: Callable[..., list[StoredEvent]], name: str) -> Callable[..., list[StoredEvent]]:
    return lambda **bounds: read(name, **bounds)


def _by_position(
    read: Callable[..., list[StoredEvent]], after: int, before: int, backwards: bool
) -> Iterator[StoredEvent]:
    while batch := read(after=after, before=before, backwards=backwards, limit=QUERY_BATCH_EVENTS):
        yield from batch
        if backwards:
            before = batch[-1].position
        else:
            after = batch[-1].position


def _by_version(store: EventReader, stream: str, after: int, backwards: bool) -> Iterator[StoredEvent]:
    first, last = 1 if backwards else _first_version_after(store, stream, after), None
    while batch := store.read_stream(
        stream, from_version=first, to_version=last, backwards=backwards, limit=QUERY_BATCH_EVENTS
    ):
        yield from batch
        if backwards:
            last = batch[-1].version - 1
            if batch[-1].position <= after:
                return
        else:
            first = batch[-1].version + 1


def _first_version_after(store: EventReader, stream: str, after: int) -> int:
    """The first version of a stream beyond a position, found by halving."""
    head = store.head(stream)
    low, high = 1, 1 if head is None else head.version + 1
    while after and low < high:
        middle = (low + high) // 2
        (event,) = store.read_stream(stream, from_version=middle, limit=1)
        if event.position > after:
            high = middle
        else:
            low = middle + 1
    return low
