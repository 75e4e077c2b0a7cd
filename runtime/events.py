"""Reads the log for a program: filters of events, and iterators over the events."""

import heapq
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, Final

import attrs
import trio

from ..actors.messages import stored_name
from ..actors.serialization.sealing import key_tag
from ..storage.errors import EventQueryInvalid
from ..storage.event_query import EventQuery
from ..storage.keys.subject_keys import SubjectKeys
from ..storage.query import find_batches, position_at
from ..storage.record import StoredEvent
from ..storage.store import EventReader
from .arguments import check_count, check_metadata, check_subject, checked_time_ns
from .errors import ArgumentInvalid
from .iteration import Items

STREAMS_PER_CHECKPOINT: Final = 100
"""Other tasks get their turn after this many streams."""


@attrs.frozen(kw_only=True)
class EventFilter:
    """The checked filters of `Runtime.events`. Two objects with the same filters are equal."""

    query: EventQuery
    stream: str | None = None

    @classmethod
    def of(
        cls,
        *,
        stream: str | None = None,
        types: Sequence[type | str] | type | str | None = None,
        category: str | None = None,
        tag: str | Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        after: int = 0,
    ) -> "EventFilter":
        """Check the filters. Raises `DefinitionError` for a class that is no event, otherwise `ArgumentInvalid`."""
        if stream is not None and not isinstance(stream, str):
            raise ArgumentInvalid("stream", stream, "give the name of one, such as 'account-ann'")
        check_category(category)
        if metadata is not None:
            check_metadata(metadata)
            _check("metadata", metadata, lambda: EventQuery(metadata=metadata))
        check_count("after", after, least=0)
        _check("types", types, lambda: EventQuery(types=types))
        _check("tag", tag, lambda: EventQuery(tags=tag))
        _check("correlation_id", correlation_id, lambda: EventQuery(correlation_id=correlation_id))
        query = EventQuery(
            types=types,
            tags=tag,
            category=category,
            metadata=metadata or {},
            correlation_id=correlation_id,
            after=after,
        )
        names = sorted(set(resolved(query).types or ())) or None
        tags = sorted(set(query.tags or ())) or None
        return cls(query=attrs.evolve(query, types=names, tags=tags), stream=stream)

    def find(self, store: EventReader, after: int, before: int, *, backwards: bool = False) -> Iterator[StoredEvent]:
        """The matching events between two positions, both excluded."""
        return chain.from_iterable(self.batches(store, after, before, backwards=backwards))

    def batches(
        self, store: EventReader, after: int, before: int, *, backwards: bool = False
    ) -> Iterator[list[StoredEvent]]:
        """The matching events between two positions in bounded batches, see `find_batches`."""
        query = attrs.evolve(self.query, after=max(after, self.query.after))
        return find_batches(store, query, stream=self.stream, before=before, backwards=backwards)


def check_category(category: str | None) -> None:
    """Raise `ArgumentInvalid` for what is no name of one; None is for all."""
    if category is not None and not (isinstance(category, str) and category):
        raise ArgumentInvalid("category", category, "give the name of one, such as 'account'")


def _check(argument: str, value: object, query: Callable[[], EventQuery]) -> None:
    try:
        query()
    except EventQueryInvalid as error:
        raise ArgumentInvalid(argument, value, str(error).rstrip(".")) from error


def read_events(
    store: EventReader,
    wanted: Sequence[EventFilter],
    *,
    before: int | None,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    backwards: bool,
) -> AsyncIterator[StoredEvent]:
    """The events up to now that match any of `wanted`, read a batch at a time.

    All of `wanted` begin after the same position. Raises `ArgumentInvalid` for a negative limit or position, or a time
    that is no datetime with a zone.
    """
    if limit is not None:
        check_count("limit", limit, least=0)
    if before is not None:
        check_count("before", before, least=0)
    end = store.last_position + 1 if before is None else min(before, store.last_position + 1)
    after = max((each.query.after for each in wanted), default=0)
    if since is not None:
        after = max(after, position_at(store, checked_time_ns("since", since) - 1))
    if until is not None:
        end = min(end, position_at(store, checked_time_ns("until", until) - 1) + 1)
    batches = _in_order([each.batches(store, after, end, backwards=backwards) for each in wanted], backwards=backwards)
    left = end if limit is None else limit

    async def fetch() -> list[StoredEvent]:
        nonlocal left
        await trio.lowlevel.checkpoint()
        for batch in batches if left else ():
            if batch:
                found = batch[:left]
                left -= len(found)
                return found
            await trio.lowlevel.checkpoint()
        return []

    return Items(fetch)


def _in_order(found: Sequence[Iterator[list[StoredEvent]]], *, backwards: bool) -> Iterator[list[StoredEvent]]:
    """The batches of one search as they are; events of several searches one by one, see `merged`."""
    if len(found) == 1:
        return found[0]
    return ([event] for event in merged(map(chain.from_iterable, found), backwards=backwards))


def merged(found: Iterable[Iterator[StoredEvent]], *, backwards: bool = False) -> Iterator[StoredEvent]:
    """The events of several searches in the order of positions, each event once."""
    position = attrgetter("position")
    for _, same in groupby(heapq.merge(*found, key=position, reverse=backwards), key=position):
        yield next(same)


def with_subject(
    tag: str | Sequence[str] | None, subject: str | None, keys: SubjectKeys | None
) -> list[str | Sequence[str] | None]:
    """The tags to search for: one list for each key of the subject, each with the given tags and the key's tag.

    Without a subject it is the given tags alone. Raises `ArgumentInvalid` for an invalid subject,
    `SubjectKeysUnusable`.
    """
    if subject is None:
        return [tag]
    check_subject(subject)
    given = [] if tag is None else [tag] if isinstance(tag, str) else list(tag)
    return [] if keys is None else [[*given, key_tag(key_id)] for key_id in keys.ids_of(subject)]


def resolved(query: EventQuery) -> EventQuery:
    """The query with event classes replaced by their stored names. Raises `DefinitionError`, `ArgumentInvalid`."""
    if not isinstance(query, EventQuery):
        raise ArgumentInvalid("unless", query, 'give an EventQuery: EventQuery(tags=["name:ann"])')
    if query.types is None:
        return query
    return attrs.evolve(query, types=tuple(stored_name(event_class) for event_class in query.types))


async def narrowed(store: EventReader, condition: EventQuery) -> EventQuery:
    """An equivalent append condition that leaves the journal next to nothing to search.

    This function searches the events stored so far, and lets other tasks run in between. The condition that it returns
    begins just before the first matching event or, where none matches, after the newest event.
    """
    last_position = store.last_position
    for batch in find_batches(store, condition, before=last_position + 1):
        if batch:
            return attrs.evolve(condition, after=batch[0].position - 1)
        await trio.lowlevel.checkpoint()
    return attrs.evolve(condition, after=max(condition.after, last_position))
