"""Whether the classes of a runtime can read the events that its store holds, found out before it begins."""

import logging

from ..actors.serialization.event_codecs import EventCodecs
from ..storage.errors import StoreError
from ..storage.store import EventReader

logger = logging.getLogger("eventsrc.runtime")


def check_stored_events(store: EventReader, codecs: EventCodecs) -> None:
    """Read the first and the newest stored event of each class, whose versions are the lowest and the highest.

    Raises `EventVersionUnknown` for what newer code stored, `UpcasterFailed`, and `DecodingError` where a class was
    changed and its version was not raised. An event that the store itself cannot read is left to who asks for it.
    """
    for codec in codecs.of_class.values():
        try:
            first = store.read_type(codec.name, limit=1)
            newest = store.read_type(codec.name, limit=1, backwards=True)
        except StoreError as error:
            logger.warning("stored events not checked: %s", error, extra={"event_type": codec.name})
            continue
        for stored in (*first, *newest):
            codecs.decode_as(codec, stored)
