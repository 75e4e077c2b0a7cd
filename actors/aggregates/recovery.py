"""Recovery: an aggregate's state is loaded in two phases, from the newest usable snapshot and the events after it."""

import logging
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec
import trio

from ...storage.record import StoredEvent
from ...storage.snapshot import Snapshot
from ...storage.store import EventReader
from ..errors import ApplierFailed, DecodingError
from .aggregate import Aggregate
from .aggregate_type import AggregateType

_encode: Final = msgspec.msgpack.Encoder().encode
RECOVERY_BATCH_EVENTS: Final = 512
"""How many events are applied before other tasks get their turn."""

logger = logging.getLogger("eventsrc.recovery")


class Recovered(NamedTuple):
    """An aggregate's state, loaded from the log; `version` and `position` are those of its newest event, or 0."""

    state: Aggregate
    version: int
    position: int
    snapshot_time_ns: int = 0
    """When the snapshot was taken that the state was made from, or else the time of the first event; 0 if there is
    neither."""
    size_bytes: int = 0
    """The payload bytes of the events after the snapshot; counted only for a policy that needs them."""


async def recover(
    store: EventReader,
    aggregate_type: AggregateType,
    stream: str,
    aggregate_id: str,
    *,
    to_version: int | None = None,
    with_snapshots: bool = True,
) -> Recovered:
    """Load an aggregate, as it is or as it was at `to_version`; without snapshots, from its first event on.

    Raises `ApplierFailed`, `UnknownEvent` or `DecodingError` for the event at fault, or a `StoreError`.
    """
    head = store.head(stream)
    if head is None or to_version == 0:
        return Recovered(aggregate_type.initial_state(aggregate_id), 0, 0)
    last = head.version if to_version is None else min(to_version, head.version)
    base = _from_snapshot(store, aggregate_type, stream, aggregate_id, last if with_snapshots else 0)
    state, version, time_ns = base.state, base.version, base.snapshot_time_ns
    position = head.position if last == head.version else 0
    policy = aggregate_type.snapshots
    is_size_wanted = policy is not None and policy.size_bytes is not None
    size_bytes = 0
    while version < last:
        batch = store.read_stream(stream, from_version=version + 1, to_version=last, limit=RECOVERY_BATCH_EVENTS)
        time_ns = time_ns or batch[0].time_ns
        for stored in batch:
            apply_event(aggregate_type, state, stored)
        if is_size_wanted:
            size_bytes += sum(len(_encode(stored.payload)) for stored in batch)
        version, position = batch[-1].version, batch[-1].position
        if version < last:
            await trio.lowlevel.checkpoint()
    # The state comes from a snapshot alone, which does not record the position of its event.
    position = position or store.read_stream(stream, from_version=last, limit=1)[0].position
    return Recovered(state, version, position, time_ns, size_bytes)


def apply_event(aggregate_type: AggregateType, state: Aggregate, stored: StoredEvent) -> None:
    """Apply a stored event to a state. Raises `ApplierFailed`, `UnknownEvent`, `DecodingError` or a `StoreError`."""
    event = aggregate_type.decode_event(stored)
    try:
        aggregate_type.appliers[type(event)](state, event)
    except Exception as error:
        raise ApplierFailed(stored.stream, stored.version, stored.position, stored.type, error) from error


def newest_snapshot(
    store: EventReader, aggregate_type: AggregateType, stream: str, aggregate_id: str
) -> Recovered | None:
    """The state and version of the newest usable snapshot; None if there is none."""
    head = store.head(stream)
    if head is None:
        return None
    found = _from_snapshot(store, aggregate_type, stream, aggregate_id, head.version)
    return found if found.version else None


def _from_snapshot(
    store: EventReader, aggregate_type: AggregateType, stream: str, aggregate_id: str, last_version: int
) -> Recovered:
    """The newest snapshot up to a version that fits the class and the history; else the initial state."""
    for snapshot in _newest_first(store, stream, last_version):
        if not aggregate_type.can_use(snapshot):
            # Expected after a change of the class's fields, or after a forgetting, until there are newer snapshots.
            is_older = snapshot.schema != aggregate_type.schema
            logger.info(
                "snapshot of %s passed over: %s at version %d",
                "another shape of the class" if is_older else "a forgotten subject",
                stream,
                snapshot.version,
                extra={"stream": stream, "version": snapshot.version},
            )
            continue
        if store.event_hash(stream, snapshot.version) != snapshot.event_hash:
            logger.warning(
                "snapshot of another history passed over", extra={"stream": stream, "version": snapshot.version}
            )
            continue
        try:
            state = aggregate_type.decode_state(snapshot.state, aggregate_id)
            return Recovered(state, snapshot.version, 0, snapshot.time_ns)
        except DecodingError as error:
            logger.warning(
                "snapshot passed over: %s at version %d: %s",
                stream,
                snapshot.version,
                error,
                extra={"stream": stream, "version": snapshot.version, "reason": str(error)},
            )
    return Recovered(aggregate_type.initial_state(aggregate_id), 0, 0)


def _newest_first(store: EventReader, stream: str, last_version: int) -> Iterator[Snapshot]:
    newest = store.snapshots(stream, to_version=last_version, limit=1)
    yield from newest
    if newest:
        yield from store.snapshots(stream, to_version=newest[0].version - 1)
