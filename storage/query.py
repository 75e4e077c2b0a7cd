"""Finding events by several criteria: the narrowest index serves, and what it does not know is compared."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from .record import StoredEvent, StreamHead
from .store import POSITION_MAX, EventReader

QUERY_BATCH_EVENTS: Final = 500


def find_events(
    store: EventReader,
    *,
    stream: str | None = None,
    types: Sequence[str] | None = None,
    category: str | None = None,
    after: int = 0,
    before: int | None = None,
    backwards: bool = False,
) -> Iterator[StoredEvent]:
    """Events that meet every criterion given, by position, with `after` < position < `before`.

    Reads a batch at a time and holds no transaction in between, so the caller may take as long as it likes.
    """
    end = POSITION_MAX if before is None else before
    if stream is not None:
        found = _by_version(store, stream, backwards)
    elif types is not None and category is None:
        found = heapq.merge(
            *(_by_position(_reader(store.read_type, name), after, end, backwards) for name in set(types)),
            key=lambda event: event.position,
            reverse=backwards,
        )
    elif category is not None:
        found = _by_position(_reader(store.read_category, category), after, end, backwards)
    else:
        found = _by_position(store.read, after, end, backwards)
    wanted = None if types is None else frozenset(types)
    for event in found:
        if (
            after < event.position < end
            and (wanted is None or event.type in wanted)
            and (category is None or event.category == category)
        ):
            yield event


def find_streams(store: EventReader, *, category: str | None = None) -> Iterator[StreamHead]:
    """The head of every stream (of a category), in the order of the names."""
    after = ""
    while heads := store.streams(category=category, after=after, limit=QUERY_BATCH_EVENTS):
        yield from heads
        after = heads[-1].stream


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


def _by_version(store: EventReader, stream: str, backwards: bool) -> Iterator[StoredEvent]:
    first, last = 1, None
    while batch := store.read_stream(
        stream, from_version=first, to_version=last, backwards=backwards, limit=QUERY_BATCH_EVENTS
    ):
        yield from batch
        if backwards:
            last = batch[-1].version - 1
        else:
            first = batch[-1].version + 1
