"""Proving snapshots: the events are replayed, and must give the states of the snapshots."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence

from msgspec import structs

from ...storage.names import aggregate_id_of
from ...storage.snapshot import Snapshot, encode_state
from ...storage.store import READ_BATCH_EVENTS, EventReader
from ..errors import DecodingError
from .aggregate import Aggregate
from .aggregate_type import AggregateType
from .recovery import Recovered, apply_event

Throttle = Callable[[int], Awaitable[None]]
"""Called with the number of events replayed since the last call; may wait as long as it likes."""


async def prove(
    store: EventReader,
    aggregate_type: AggregateType,
    snapshots: Sequence[Snapshot],
    base: Recovered,
    throttle: Throttle,
) -> list[Snapshot]:
    """Give snapshots of one stream their verdicts: `is_proved`, or `quarantined` with the reason.

    The snapshots must be in the order of their versions; one replay, beginning at `base`, proves all of them.

    Raises `ApplierFailed`, `UnknownEvent`, `DecodingError` or a `StoreError` if the events cannot be replayed.
    """
    state, version = base.state, base.version
    verdicts = []
    for snapshot in snapshots:
        while version < snapshot.version and (
            batch := store.read_stream(
                snapshot.stream, from_version=version + 1, to_version=snapshot.version, limit=READ_BATCH_EVENTS
            )
        ):
            for stored in batch:
                apply_event(aggregate_type, state, stored)
            version = batch[-1].version
            await throttle(len(batch))
        if version < snapshot.version:
            reason = f"the stream has no version {snapshot.version}"
            verdicts.append(structs.replace(snapshot, is_proved=False, quarantined=reason))
        else:
            verdicts.append(verdict(store, aggregate_type, snapshot, state))
    return verdicts


def verdict(store: EventReader, aggregate_type: AggregateType, snapshot: Snapshot, state: Aggregate) -> Snapshot:
    """Compare a snapshot with the state that the events give. Returns the snapshot with its verdict."""
    problem = _problem(store, aggregate_type, snapshot, state)
    return structs.replace(snapshot, is_proved=not problem, quarantined=problem)


def _problem(store: EventReader, aggregate_type: AggregateType, snapshot: Snapshot, state: Aggregate) -> str:
    if store.event_hash(snapshot.stream, snapshot.version) != snapshot.event_hash:
        return "it was made from another event at this version"
    stored_hash = hashlib.sha256(encode_state(snapshot.state)).digest()
    if stored_hash != snapshot.state_hash:
        return "its state is not the one that its hash is of"
    if stored_hash == hashlib.sha256(aggregate_type.encode_state(state)).digest():
        return ""
    try:
        # Equal states may be stored differently, for example dicts that were filled in another order.
        if aggregate_type.decode_state(snapshot.state, state.id) == state:
            return ""
    except DecodingError as error:
        return f"its state does not fit the class: {error}"
    data = aggregate_type.stored_data(state)
    differing = sorted(name for name in {*data, *snapshot.state} if data.get(name) != snapshot.state.get(name))
    return f"its events give another state: {', '.join(differing)} differ"


def beginning(aggregate_type: AggregateType, stream: str) -> Recovered:
    """The state before the first event of a stream, from which a proof begins that trusts no snapshot."""
    return Recovered(aggregate_type.initial_state(aggregate_id_of(stream)), 0, 0)


def proved_before(store: EventReader, aggregate_type: AggregateType, stream: str, version: int) -> Recovered:
    """The newest proved snapshot before a version, or else the state before the first event."""
    for earlier in store.snapshots(stream, to_version=version - 1):
        is_usable = earlier.is_proved and aggregate_type.can_use(earlier)
        if is_usable and store.event_hash(stream, earlier.version) == earlier.event_hash:
            return Recovered(aggregate_type.decode_state(earlier.state, aggregate_id_of(stream)), earlier.version, 0)
    return beginning(aggregate_type, stream)
