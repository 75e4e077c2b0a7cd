"""Finds events by several criteria: reads the narrowest index and compares the other criteria."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Final, TypeAlias

from .event_query import EventQuery
from .record import StoredEvent, StreamHead
from .store import POSITION_MAX, EventReader

QUERY_BATCH_EVENTS: Final = 500
"""Events that are read at a time, which takes about a millisecond."""
PROBE_EVENTS: Final = 20
"""Events of an index that are read to estimate how many it has."""

Read: TypeAlias = Callable[..., list[StoredEvent]]
Index: TypeAlias = Sequence[Read]
"""The functions that read the events of an index: one, or one for each requested type."""


def find_events(
    store: EventReader,
    query: EventQuery,
    *,
    stream: str | None = None,
    before: int | None = None,
    backwards: bool = False,
) -> Iterator[StoredEvent]:
    """Yield the events that meet the query, by position, with `query.after` < position < `before`.

    Reads a batch at a time and holds no transaction in between, so the caller may take any time for each event.
    """
    return chain.from_iterable(find_batches(store, query, stream=stream, before=before, backwards=backwards))


def find_batches(
    store: EventReader,
    query: EventQuery,
    *,
    stream: str | None = None,
    before: int | None = None,
    backwards: bool = False,
) -> Iterator[list[StoredEvent]]:
    """Like `find_events`, in bounded steps, for a caller that yields to other tasks in between.

    Each batch has the matches among the next events of an index (at most `QUERY_BATCH_EVENTS`), so it may be empty.
    """
    end = POSITION_MAX if before is None else before
    after = min(max(query.after, 0), POSITION_MAX - 1)
    if stream is not None:
        batches = _by_version(store, stream, after, backwards)
    elif not query.criteria:
        yield from _by_position(store.read, after, end, backwards, QUERY_BATCH_EVENTS)
        return
    else:
        batches = _by_index(_narrowest(store, query, after, end, backwards), after, end, backwards)
    fits = query.matches if query.criteria else lambda event: event.position > after
    for looked_at in batches:
        yield [event for event in looked_at if event.position < end and fits(event)]
        if looked_at[-1].position >= end and not backwards:
            return


def find_streams(store: EventReader, *, category: str | None = None) -> Iterator[StreamHead]:
    """Yield the head of every stream, or of every stream of a category, in the order of the names."""
    after = ""
    while heads := store.streams(category=category, after=after, limit=QUERY_BATCH_EVENTS):
        yield from heads
        after = heads[-1].stream


def position_at(store: EventReader, time_ns: int) -> int:
    """The position of the newest event at or before `time_ns` (UTC), 0 if there is none. Times never decrease."""
    low, high = 0, store.last_position
    while low < high:
        middle = (low + high + 1) // 2
        if store.time_at(middle) <= time_ns:
            low = middle
        else:
            high = middle - 1
    return low


def _narrowest(store: EventReader, query: EventQuery, after: int, before: int, backwards: bool) -> Index:
    """The index with the fewest events to read; all events if no index applies, as for metadata alone."""
    indexes: list[Index] = [[_reader(store.read_tag, tag)] for tag in query.tags or ()]
    if query.types:
        indexes.append([_reader(store.read_type, name) for name in sorted(set(query.types))])
    if query.category is not None:
        indexes.append([_reader(store.read_category, query.category)])
    if len(indexes) < 2:
        return indexes[0] if indexes else [store.read]
    end = min(before, store.last_position + 1)
    return min(indexes, key=lambda index: sum(_events_of(read, after, end, backwards) for read in index))


def _events_of(read: Read, after: int, before: int, backwards: bool) -> float:
    """The estimated number of an index's events between two positions, by the density of the first `PROBE_EVENTS`."""
    found = read(after=after, before=before, backwards=backwards, limit=PROBE_EVENTS)
    if len(found) < PROBE_EVENTS:
        return len(found)
    distance = before - found[-1].position if backwards else found[-1].position - after
    return PROBE_EVENTS * (before - after) / distance


def _reader(read: Callable[..., list[StoredEvent]], name: str) -> Read:
    return lambda **bounds: read(name, **bounds)


def _by_index(index: Index, after: int, before: int, backwards: bool) -> Iterator[list[StoredEvent]]:
    limit = max(QUERY_BATCH_EVENTS // len(index), PROBE_EVENTS)
    found = [_by_position(read, after, before, backwards, limit) for read in index]
    if len(found) == 1:
        yield from found[0]
        return
    each = map(chain.from_iterable, found)
    merged = heapq.merge(*each, key=lambda event: event.position, reverse=backwards)
    while batch := list(islice(merged, QUERY_BATCH_EVENTS)):
        yield batch


def _by_position(read: Read, after: int, before: int, backwards: bool, limit: int) -> Iterator[list[StoredEvent]]:
    while batch := read(after=after, before=before, backwards=backwards, limit=limit):
        yield batch
        if backwards:
            before = batch[-1].position
        else:
            after = batch[-1].position


def _by_version(store: EventReader, stream: str, after: int, backwards: bool) -> Iterator[list[StoredEvent]]:
    first, last = 1 if backwards else _first_version_after(store, stream, after), None
    while batch := store.read_stream(
        stream, from_version=first, to_version=last, backwards=backwards, limit=QUERY_BATCH_EVENTS
    ):
        yield batch
        if backwards:
            last = batch[-1].version - 1
            if batch[-1].position <= after:
                return
        else:
            first = batch[-1].version + 1


def _first_version_after(store: EventReader, stream: str, after: int) -> int:
    """The first version of a stream after a position, found by binary search."""
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
