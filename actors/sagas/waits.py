"""The sagas that wait for events."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ...storage.record import StoredEvent
from ..errors import DecodingError

Fields: TypeAlias = tuple[str, ...]
Values: TypeAlias = tuple[Any, ...]


class EventWaits:
    """Finds the sagas that wait for an event, in a time that does not depend on how many sagas wait."""

    def __init__(self, payload_of: Callable[[StoredEvent], Mapping[str, Any] | None]) -> None:
        self._payload_of = payload_of
        self._waiting: dict[str, dict[Fields, defaultdict[Values, set[str]]]] = {}
        self._place: dict[str, tuple[str, Fields, Values, int]] = {}

    def __len__(self) -> int:
        return len(self._place)

    @property
    def event_types(self) -> Sequence[str]:
        """The types of the events that sagas wait for."""
        return tuple(self._waiting)

    def add(self, saga_id: str, event_type: str, where: Mapping[str, Any], after: int) -> None:
        """Have a saga wait for an event after a position, of a type and with these values in its payload."""
        self.remove(saga_id)
        fields = tuple(sorted(where))
        values = tuple(_hashable(where[field]) for field in fields)
        by_values = self._waiting.setdefault(event_type, {}).setdefault(fields, defaultdict(set))
        by_values[values].add(saga_id)
        self._place[saga_id] = (event_type, fields, values, after)

    def remove(self, saga_id: str) -> None:
        """End a saga's wait, if it has one."""
        place = self._place.pop(saga_id, None)
        if place is None:
            return
        event_type, fields, values, _ = place
        by_values = self._waiting[event_type][fields]
        by_values[values].discard(saga_id)
        if not by_values[values]:
            del by_values[values]
        if not by_values:
            del self._waiting[event_type][fields]
        if not self._waiting[event_type]:
            del self._waiting[event_type]

    def concerned(self, event: StoredEvent) -> list[str]:
        """The sagas that wait for this event."""
        waiting = self._waiting.get(event.type)
        if waiting is None:
            return []
        try:
            payload = self._payload_of(event)
        except DecodingError:
            payload = None
        found: list[str] = []
        for fields, by_values in waiting.items():
            if payload is None:
                # The event may be the awaited one: the sagas look themselves, and report what they cannot read.
                found += (saga for sagas in by_values.values() for saga in sagas)
            else:
                found += by_values.get(tuple(_hashable(payload.get(field)) for field in fields), ())
        return [each for each in found if event.position > self._place[each][3]]


def _hashable(value: Any) -> Any:
    """A hashable value; the results for equal plain data are equal."""
    if isinstance(value, list):
        return (list, *map(_hashable, value))
    if isinstance(value, dict):
        return (dict, frozenset((name, _hashable(each)) for name, each in value.items()))
    return value
