"""Recovery: an aggregate gets its state in two phases, the newest usable snapshot and the events since."""

import logging
from collections.abc import Iterator
from typing import Final, NamedTuple

import trio

from ..storage.record import StoredEvent
from ..storage.snapshot import Snapshot
from ..storage.store import EventReader
from .aggregate import Aggregate
from .aggregate_type import AggregateType
from .errors import ApplierFailed, DecodingError

RECOVERY_BATCH_EVENTS: Final = 512
"""Events applied before other tasks get their turn."""

logger = logging.getLogger("eventsrc.recovery")


class Recovered(NamedTuple):
    """An aggregate's state as the log gives it; `version` and `position` are those of its newest event, or 0."""

    state: Aggregate
    version: int
    position: int


async def recover(store: EventReader, aggregate_type: AggregateType, stream: str, aggregate_id: str) -> Recovered:
    """Load an aggregate.

    Raises `ApplierFailed`, `UnknownEvent` or `DecodingError` with the event that is to blame, or a `StoreError`.
    """
    head = store.head(stream)
    if head is None:
        return Recovered(aggregate_type.initial_state(aggregate_id), 0, 0)
    state, version = _from_snapshot(store, aggregate_type, stream, aggregate_id, head.version)
    position = head.position
    while version < head.version:
        for stored in store.read_stream(
            stream, from_version=version + 1, to_version=head.version, limit=RECOVERY_BATCH_EVENTS
        ):
            apply_event(aggregate_type, state, stored)
            version = stored.version
        if version < head.version:
            await trio.lowlevel.checkpoint()
    return Recovered(state, version, position)


def apply_event(aggregate_type: AggregateType, state: Aggregate, stored: StoredEvent) -> None:
    """Have a state take in a stored event. Raises `ApplierFailed`, `UnknownEvent` or `DecodingError`."""
    event = aggregate_type.decode_event(stored)
    try:
        aggregate_type.appliers[type(event)](state, event)
    except Exception as error:
        raise ApplierFailed(stored.stream, stored.version, stored.position, stored.type, error) from error


def newest_snapshot(
    store: EventReader, aggregate_type: AggregateType, stream: str, aggregate_id: str
) -> tuple[Aggregate, int] | None:
    """The state and version of the newest usable snapshot; None where there is none."""
    head = store.head(stream)
    if head is None:
        return None
    state, version = _from_snapshot(store, aggregate_type, stream, aggregate_id, head.version)
    return (state, version) if version else None


def _from_snapshot(
    store: EventReader, aggregate_type: AggregateType, stream: str, aggregate_id: str, head_version: int
) -> tuple[Aggregate, int]:
    """The state and version of the newest snapshot that fits the class and the history; else the beginning."""
    for snapshot in _newest_first(store, stream):
        if snapshot.schema != aggregate_type.schema or snapshot.version > head_version:
            continue
        event = store.read_stream(stream, from_version=snapshot.version, limit=1)
        if not event or event[0].hash != snapshot.event_hash:
            logger.warning(
                "snapshot of another history passed over", extra={"stream": stream, "version": snapshot.version}
            )
            continue
        try:
            return aggregate_type.decode_state(snapshot.state, aggregate_id), snapshot.version
        except DecodingError as error:
            logger.warning(
                "snapshot passed over",
                extra={"stream": stream, "version": snapshot.version, "reason": str(error)},
            )
    return aggregate_type.initial_state(aggregate_id), 0


def _newest_first(store: EventReader, stream: str) -> Iterator[Snapshot]:
    newest = store.snapshots(stream, limit=1)
    yield from newest
    if newest:
        yield from store.snapshots(stream)[1:]
