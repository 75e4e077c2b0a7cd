"""Reading the log from a program: which events are wanted, and iterators over them."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final

import attrs
import trio

from ..actors.messages import stored_name
from ..storage.event_query import EventQuery
from ..storage.query import find_events, position_at
from ..storage.record import StoredEvent
from ..storage.store import EventReader
from .iteration import Items

EVENTS_PER_CHECKPOINT: Final = 100
"""Other tasks get their turn after so many events or streams."""


@attrs.frozen(kw_only=True)
class Wanted:
    """What is asked of the log; the arguments of `Runtime.events`, checked."""

    query: EventQuery
    stream: str | None = None

    @classmethod
    def of(
        cls,
        *,
        stream: str | None = None,
        types: Sequence[type | str] | None = None,
        category: str | None = None,
        tag: str | Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        after: int = 0,
    ) -> "Wanted":
        """Raises `DefinitionError` for a class that is no event."""
        tags = () if tag is None else (tag,) if isinstance(tag, str) else tuple(tag)
        names = [stored_name(event_class) for event_class in types or ()]
        query = EventQuery(types=names, tags=tags, category=category, metadata=dict(metadata or {}), after=after)
        return cls(query=query, stream=stream)

    def find(self, store: EventReader, after: int, before: int, *, backwards: bool = False) -> Iterator[StoredEvent]:
        """The events between two positions, both excluded."""
        query = attrs.evolve(self.query, after=max(after, self.query.after))
        return find_events(store, query, stream=self.stream, before=before, backwards=backwards)


def read_events(
    store: EventReader,
    wanted: Wanted,
    *,
    before: int | None,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    backwards: bool,
) -> AsyncIterator[StoredEvent]:
    """Events as far as they go now, a batch at a time. Raises `ValueError` for a limit below 0, a naive time."""
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be 0 or more, not {limit}")
    end = store.last_position + 1 if before is None else min(before, store.last_position + 1)
    after = wanted.query.after
    if since is not None:
        after = max(after, position_at(store, _ns(since) - 1))
    if until is not None:
        end = min(end, position_at(store, _ns(until) - 1) + 1)
    found = islice(wanted.find(store, after, end, backwards=backwards), limit)

    async def fetch() -> list[StoredEvent]:
        await trio.lowlevel.checkpoint()
        return list(islice(found, EVENTS_PER_CHECKPOINT))

    return Items(fetch)


def resolved(query: EventQuery) -> EventQuery:
    """The query with stored names in the place of event classes. Raises `DefinitionError`."""
    return attrs.evolve(query, types=tuple(stored_name(event_class) for event_class in query.types))


def _ns(time: datetime) -> int:
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone: write datetime(..., tzinfo=UTC), or time.astimezone()")
    return round(time.timestamp() * 1_000_000) * 1_000
