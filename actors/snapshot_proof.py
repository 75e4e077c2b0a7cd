"""Proving a snapshot: its events are replayed, and must give its state."""

import hashlib
from collections.abc import Awaitable, Callable

from msgspec import structs

from ..storage.snapshot import Snapshot
from ..storage.store import READ_BATCH_EVENTS, EventReader
from .aggregate import Aggregate
from .aggregate_type import AggregateType
from .errors import DecodingError
from .recovery import Recovered, apply_event

Pace = Callable[[int], Awaitable[None]]
"""Called with the number of events that were replayed just now; waits as long as it likes."""


async def prove(store: EventReader, aggregate_type: AggregateType, snapshot: Snapshot, pace: Pace) -> Snapshot:
    """The snapshot with the verdict: `is_proved`, or `quarantined` with what its events gave instead.

    The replay begins at the newest proved snapshot before it, or else at the first event.

    Raises `ApplierFailed`, `UnknownEvent`, `DecodingError` or a `StoreError` where the events cannot be replayed.
    """
    base = _proved_before(store, aggregate_type, snapshot)
    state, version = base.state, base.version
    while version < snapshot.version:
        batch = store.read_stream(
            snapshot.stream, from_version=version + 1, to_version=snapshot.version, limit=READ_BATCH_EVENTS
        )
        if not batch:
            return structs.replace(snapshot, quarantined=f"the stream has no version {snapshot.version}")
        for stored in batch:
            apply_event(aggregate_type, state, stored)
        version = batch[-1].version
        await pace(len(batch))
    return verdict(store, aggregate_type, snapshot, state)


def verdict(store: EventReader, aggregate_type: AggregateType, snapshot: Snapshot, state: Aggregate) -> Snapshot:
    """Compare a snapshot with the state that its events give."""
    if store.event_hash(snapshot.stream, snapshot.version) != snapshot.event_hash:
        return structs.replace(snapshot, quarantined="it was made from another event at this version")
    if hashlib.sha256(aggregate_type.encode_state(state)).digest() == snapshot.state_hash:
        return structs.replace(snapshot, is_proved=True)
    try:
        # Equal states may be stored differently, as dicts that were filled in another order are.
        if aggregate_type.decode_state(snapshot.state, state.id) == state:
            return structs.replace(snapshot, is_proved=True)
    except DecodingError as error:
        return structs.replace(snapshot, quarantined=f"its state does not fit the class: {error}")
    data = aggregate_type.data(state)
    differing = sorted(name for name in {*data, *snapshot.state} if data.get(name) != snapshot.state.get(name))
    return structs.replace(snapshot, quarantined=f"its events give another state: {', '.join(differing)} differ")


def _proved_before(store: EventReader, aggregate_type: AggregateType, snapshot: Snapshot) -> Recovered:
    aggregate_id = snapshot.stream.partition("-")[2]
    for earlier in store.snapshots(snapshot.stream, to_version=snapshot.version - 1):
        is_usable = earlier.is_proved and earlier.schema == aggregate_type.schema
        if is_usable and store.event_hash(earlier.stream, earlier.version) == earlier.event_hash:
            return Recovered(aggregate_type.decode_state(earlier.state, aggregate_id), earlier.version, 0)
    return Recovered(aggregate_type.initial_state(aggregate_id), 0, 0)
