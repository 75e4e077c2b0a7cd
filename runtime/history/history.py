"""Queries of the past: which position a moment stands for, and what changed between two versions, and by whom."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import attrs
import msgspec
import trio

from ...actors.aggregates.aggregate_type import AggregateType
from ...actors.aggregates.recovery import Recovered, apply_event, recover
from ...storage.past import PastLog
from ...storage.query import position_at
from ...storage.record import StoredEvent, utc_time
from ...storage.snapshot import Snapshot
from ...storage.store import EventReader
from ..arguments import checked_time_ns, checked_whole
from ..errors import ArgumentInvalid, NotInHistory
from .changes import Change, changed_values

_encode: Final = msgspec.msgpack.Encoder().encode
BATCH_EVENTS: Final = 100
"""How many events are applied before other tasks get their turn."""
PRINCIPAL: Final = "principal"
"""The metadata entry that names who sent a command."""


@attrs.frozen
class Difference:
    """The changes of an aggregate between two versions."""

    events: list[StoredEvent]
    """The events after the first version, up to and including the second."""
    changes: dict[str, tuple[Any, Any]]
    """The fields of the state that differ, each with its value before and after, as plain data."""
    values: list[Change]
    """The innermost values that differ: an element of a set, an item of a mapping, a field of a field."""


@attrs.frozen
class Blame:
    """The last change of a field of an aggregate's state.

    Where no event has changed the field, `is_set` is False, the value is the class's own, and everything else is 0,
    empty or None.
    """

    value: Any
    """The field's value as plain data."""
    version: int = 0
    position: int = 0
    event_type: str = ""
    time_ns: int = 0
    command_id: str = ""
    correlation_id: str = ""
    principal: str | None = None
    """The `principal` in the command's metadata."""

    @property
    def is_set(self) -> bool:
        """Whether an event has changed the field."""
        return self.version > 0


def position_of(store: EventReader, *, position: int | None = None, time: datetime | None = None) -> int:
    """The position that a moment stands for. Raises `NotInHistory` for a moment that the log does not reach.

    A time stands for the last event at or before it. Raises `ArgumentInvalid` for a time without a zone, and unless
    exactly one of the two is given.
    """
    if (position is None) == (time is None):
        raise ArgumentInvalid("position", position, "say when: either a position or a time")
    if position is not None:
        checked_whole("position", position)
        if not 0 <= position <= store.last_position:
            raise NotInHistory(
                f"There is no position {position} in {store.path}: it goes from 0 to {store.last_position}."
            )
        return position
    found = position_at(store, checked_time_ns("time", time) + 999)
    if not found:
        first = store.read(limit=1)
        begins = f"begins at {utc_time(first[0].time_ns)}" if first else "is empty"
        raise NotInHistory(f"At {time} nothing was stored yet: {store.path} {begins}.")
    return found


async def state_at(
    store: EventReader,
    aggregate_type: AggregateType,
    aggregate_id: str,
    *,
    version: int | None = None,
    position: int | None = None,
    time: datetime | None = None,
) -> Recovered:
    """An aggregate at a version, position or time. Raises `NotInHistory`, `ArgumentInvalid` for several of these."""
    stream = aggregate_type.stream(aggregate_id)
    if version is None:
        past = PastLog(store, position_of(store, position=position, time=time))
        return await recover(past, aggregate_type, stream, aggregate_id)
    if position is not None or time is not None:
        raise ArgumentInvalid("at_version", version, "say when by one of at_version, at_position and at_time")
    check_version(store, stream, version)
    return await recover(store, aggregate_type, stream, aggregate_id, to_version=version)


def position_of_version(store: EventReader, stream: str, version: int) -> int:
    """The position of a version of a stream; 0 for version 0. Raises `NotInHistory`."""
    check_version(store, stream, version)
    return store.read_stream(stream, from_version=version, limit=1)[0].position if version else 0


def find_snapshot(store: EventReader, stream: str, to_version: int | None = None) -> Snapshot | None:
    """The newest snapshot, up to a version, that is of this history and not in quarantine; None where there is none.

    The snapshot may not fit the class: this is not checked.
    """
    for snapshot in store.snapshots(stream, to_version=to_version):
        if store.event_hash(stream, snapshot.version) == snapshot.event_hash:
            return snapshot
    return None


def check_version(store: EventReader, stream: str, version: int) -> None:
    """Raise `NotInHistory` for a version that a stream does not have; 0 is before its first event."""
    checked_whole("version", version)
    head = store.head(stream)
    newest = 0 if head is None else head.version
    if not 0 <= version <= newest:
        raise NotInHistory(f"{stream!r} has no version {version}: it goes from 0 to {newest}.")


async def difference(
    store: EventReader, aggregate_type: AggregateType, aggregate_id: str, first: int, second: int
) -> Difference:
    """The changes between two versions; with `second` lower than `first` the difference has no events."""
    stream = aggregate_type.stream(aggregate_id)
    changes, values = await changes_of_state(store, aggregate_type, aggregate_id, first, second)
    events: list[StoredEvent] = []
    while len(events) < second - first:
        begin = first + len(events) + 1
        events += store.read_stream(stream, from_version=begin, to_version=second, limit=BATCH_EVENTS)
        await trio.lowlevel.checkpoint()
    return Difference(events, changes, values)


async def changes_of_state(
    store: EventReader, aggregate_type: AggregateType, aggregate_id: str, first: int, second: int
) -> tuple[dict[str, tuple[Any, Any]], list[Change]]:
    """The fields that differ between two versions, and the innermost values. Raises `NotInHistory`."""
    before, after = [
        (await state_at(store, aggregate_type, aggregate_id, version=version)).state for version in (first, second)
    ]
    values = list(changed_values(before, after, aggregate_type.plain))
    return changes_between(aggregate_type.data(before), aggregate_type.data(after)), values


def changes_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, with both values; encoded values are compared as well, since NaN is unequal to itself."""
    return {
        name: (before.get(name), after.get(name))
        for name in {**before, **after}
        if before.get(name) != after.get(name) and _encode(before.get(name)) != _encode(after.get(name))
    }


async def blame(store: EventReader, aggregate_type: AggregateType, aggregate_id: str) -> dict[str, Blame]:
    """For each field: the event that changed it last, or that none did.

    Replays the whole stream, and turns the state into data after each event.
    """
    stream = aggregate_type.stream(aggregate_id)
    state = aggregate_type.initial_state(aggregate_id)
    data = aggregate_type.data(state)
    found = {name: Blame(value) for name, value in data.items()}
    for number, stored in enumerate(_events_of(store, stream)):
        if number % BATCH_EVENTS == 0:
            await trio.lowlevel.checkpoint()
        apply_event(aggregate_type, state, stored)
        before, data = data, aggregate_type.data(state)
        for name, (_, value) in changes_between(before, data).items():
            principal = stored.metadata.get(PRINCIPAL)
            found[name] = Blame(
                value,
                stored.version,
                stored.position,
                stored.type,
                stored.time_ns,
                stored.causation_id,
                stored.correlation_id,
                None if principal is None else str(principal),
            )
    return found


def _events_of(store: EventReader, stream: str) -> Iterator[StoredEvent]:
    version = 0
    while batch := store.read_stream(stream, from_version=version + 1, limit=BATCH_EVENTS):
        yield from batch
        version = batch[-1].version
