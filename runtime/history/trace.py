"""The trace of a correlation: its events in causal order.

Each event names the command or the saga that made it (`causation_id`). Where a handler or a saga's step sent the
command, the metadata of its events name the sender (`caused_by`). A saga that an event started names that event.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from ...actors.aggregates.decision import CAUSED_BY
from ...actors.aggregates.receipt import Receipt
from ...actors.messages import stored_name
from ...actors.sagas.events import SagaStarted
from ...storage.record import StoredEvent
from ...storage.store import EventReader
from ..errors import ArgumentInvalid, NotInHistory
from .history import position_of

TRACE_EVENTS_MAX: Final = 10_000
SAGA_STARTED: Final = stored_name(SagaStarted)


@attrs.frozen
class TracedEvent:
    """An event, and its causal distance from the beginning of its correlation."""

    event: StoredEvent
    depth: int
    """0 for events of the first command or saga; each causal step adds one."""
    caused_by: str | None
    """The command, or the stream of the saga, that caused the event's own command or saga; None where unknown."""


def correlation_of(store: EventReader, of: Receipt | int | str) -> str:
    """The correlation id of a receipt, of the event at a position, or the given id itself.

    Raises `NotInHistory`, `ArgumentInvalid`.
    """
    if isinstance(of, str):
        return of
    if isinstance(of, Receipt):
        if not of.events:
            # The receipt's position is that of an earlier event, of another command.
            raise NotInHistory(
                f"The command to {of.stream!r} made no event. Give its correlation id to trace the others."
            )
        of = of.position
    if not isinstance(of, int):
        raise ArgumentInvalid("of", of, "give a receipt, the position of an event, or a correlation id")
    if not position_of(store, position=of):
        raise NotInHistory(f"Before the first event of {store.path} there is none that something led to.")
    return store.read(after=of - 1, limit=1)[0].correlation_id


def traced(events: Sequence[StoredEvent]) -> list[TracedEvent]:
    """Sort the events of one correlation, given by position: an event's effects come below it, before later events."""
    causes = _Causes(events)
    return [line for root in causes.roots() for line in causes.told_from(root)]


class _Causes:
    """The causal relations among these events; each event is listed once."""

    def __init__(self, events: Sequence[StoredEvent]) -> None:
        self._made: dict[str, list[StoredEvent]] = {}
        """The events of each command and saga, by its id, in the order of their first events."""
        for event in events:
            self._made.setdefault(event.causation_id, []).append(event)
        self._parents = self._known_parents()
        self._caused: dict[str, list[str]] = {}
        for each, parent in self._parents.items():
            if parent is not None:
                self._caused.setdefault(parent, []).append(each)
        self._told: set[str] = set()

    def roots(self) -> Iterator[str]:
        """The commands and sagas without a known cause among these events, one after the other."""
        yield from (each for each, parent in self._parents.items() if parent not in self._made)
        # Metadata are the user's: entries that name each other as causes have no root, and come last.
        yield from (each for each in self._made if each not in self._told)

    def told_from(self, root: str) -> Iterator[TracedEvent]:
        """The events of a command or saga and of all its effects. Not recursive, since a causal chain may be long."""
        self._told.add(root)
        under_way = [self._in_turn(root)]
        while under_way:
            found = next(under_way[-1], None)
            if found is None:
                under_way.pop()
            elif isinstance(found, StoredEvent):
                yield TracedEvent(found, len(under_way) - 1, self._parents[found.causation_id])
            elif found not in self._told:
                self._told.add(found)
                under_way.append(self._in_turn(found))

    def _known_parents(self) -> dict[str, str | None]:
        """The known cause of each command or saga."""
        makers = {f"{event.stream}@{event.version}": each for each, events in self._made.items() for event in events}
        parents: dict[str, str | None] = {}
        for each, (first, *_) in self._made.items():
            sender = first.metadata.get(CAUSED_BY)
            if isinstance(sender, str):
                parents[each] = sender
            else:
                parents[each] = makers.get(first.payload["cause"]) if first.type == SAGA_STARTED else None
        return parents

    def _in_turn(self, each: str) -> Iterator[StoredEvent | str]:
        """The events of a command or saga, and the ids of its effects: its first event, then by position.

        What a handler awaits is stored before the handler's own events.
        """
        first, *others = self._made[each]
        parts: list[tuple[int, StoredEvent | str]] = [(event.position, event) for event in others]
        parts += [(self._made[child][0].position, child) for child in self._caused.get(each, ())]
        yield first
        yield from (part for _, part in sorted(parts, key=lambda part: part[0]))
