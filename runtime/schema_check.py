"""Checks on opening whether the classes of a runtime can read the stored events."""

import logging
from collections.abc import Iterable, Iterator

from ..actors.aggregates.aggregate_type import AggregateType
from ..actors.errors import UnknownEvent
from ..actors.serialization.event_codecs import EventCodecs
from ..storage.errors import StoreError
from ..storage.record import StoredEvent
from ..storage.store import EventReader

logger = logging.getLogger("eventsrc.runtime")


def check_stored_events(store: EventReader, codecs: EventCodecs, aggregate_types: Iterable[AggregateType]) -> None:
    """Read the first and the newest stored event of each class: they have the lowest and the highest version.

    Raises `EventVersionUnknown` for an event of newer code, `UpcasterFailed`, and `DecodingError` where a class was
    changed without raising its version. Three findings only log a warning, and raise no error before the events are
    used: an event that the store itself cannot read, an event with a field that may have been renamed, and events whose
    class an aggregate no longer has. Aggregates without such events work.
    """
    for codec in codecs.of_class.values():
        is_told = False
        for stored in _first_and_newest(store, codec.name):
            codecs.decode_as(codec, stored)
            passed_over, missing = codecs.exchanged_fields(codec, stored)
            if missing and not is_told:
                logger.warning(
                    "of the event %r at position %d the class %s passes over what was stored as %s, and %s take their "
                    "defaults: where a field was renamed, raise the version and give an upcaster",
                    *(stored.type, stored.position, codec.event_class.__name__),
                    *(", ".join(passed_over), ", ".join(missing)),
                    extra={"event_type": stored.type},
                )
                is_told = True
    of_category = {aggregate_type.category: aggregate_type for aggregate_type in aggregate_types}
    for name in store.names_in("types"):
        for stored in _first_and_newest(store, name):
            aggregate_type = of_category.get(stored.category)
            if aggregate_type is not None and not aggregate_type.knows(name):
                unknown = UnknownEvent(aggregate_type.aggregate_class, stored.stream, name, stored.position)
                logger.warning("aggregates cannot be loaded: %s", unknown, extra={"event_type": name})
                break


def _first_and_newest(store: EventReader, event_type: str) -> Iterator[StoredEvent]:
    try:
        yield from store.read_type(event_type, limit=1)
        yield from store.read_type(event_type, limit=1, backwards=True)
    except StoreError as error:
        logger.warning("stored events not checked: %s", error, extra={"event_type": event_type})
