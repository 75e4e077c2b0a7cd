"""Whether the classes of a runtime can read the events that its store holds, found out before it begins."""

import logging

from ..actors.serialization.event_codecs import EventCodecs
from ..storage.errors import StoreError
from ..storage.record import StoredEvent
from ..storage.store import EventReader

logger = logging.getLogger("eventsrc.runtime")


def check_stored_events(store: EventReader, codecs: EventCodecs) -> None:
    """Read the first and the newest stored event of each class, whose versions are the lowest and the highest.

    Raises `EventVersionUnknown` for what newer code stored, `UpcasterFailed`, and `DecodingError` where a class was
    changed and its version was not raised. An event that the store itself cannot read is left to who asks for it.
    """
    found: dict[str, list[StoredEvent]] = {}
    for event_type in codecs.of_name:
        try:
            first = store.read_type(event_type, limit=1)
            found[event_type] = first + store.read_type(event_type, limit=1, backwards=True)
        except StoreError as error:
            logger.warning("stored events not checked: %s", error, extra={"event_type": event_type})
    for of_class in codecs.apart():
        for event_type in of_class.of_name:
            for stored in found.get(event_type, ()):
                of_class.decode(stored)
