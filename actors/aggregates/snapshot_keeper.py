"""Taking the snapshots of one aggregate, as its policy says."""

import logging
from collections.abc import Callable
from typing import Any, cast

import msgspec

from ...storage.commit import Appended
from ...storage.errors import EventSourcingError
from ...storage.record import NS_PER_SECOND
from ...storage.snapshot import Snapshot
from .aggregate import Aggregate
from .aggregate_type import AggregateType
from .host import AggregateHost
from .recovery import Recovered
from .snapshot_policy import Snapshots
from .turn import Turn

logger = logging.getLogger("eventsrc.aggregate")


class SnapshotKeeper:
    """Takes the snapshots of one aggregate's actor, as its policy says."""

    __slots__ = ("_host", "_policy", "_size_bytes", "_stream", "_time_ns", "_type")

    def __init__(self, host: AggregateHost, aggregate_type: AggregateType, stream: str) -> None:
        self._host = host
        self._type = aggregate_type
        self._stream = stream
        self._policy = aggregate_type.snapshots or Snapshots(host.limits.snapshot_every_events)
        self._time_ns = 0
        self._size_bytes = 0

    def loaded(self, recovered: Recovered) -> None:
        """Note that the aggregate was loaded: the time of its snapshot, and the size of the events after it."""
        self._time_ns = recovered.snapshot_time_ns
        self._size_bytes = recovered.size_bytes

    def look_at(self, turn: Turn, state: Aggregate) -> None:
        """Attach a snapshot to a departing turn if one is due; `state` is the state after the turn's events."""
        if turn.version > turn.base_version and self._is_due(turn, state) and not state.is_deleted:
            try:
                turn.snapshot_state = self._type.encode_state(state)
            except EventSourcingError as error:
                where = {"stream": self._stream, "version": turn.version}
                logger.warning("no snapshot of %s: %s", self._stream, error, extra=where)

    def save(self, turn: Turn, state: msgspec.Raw, outcome: Appended) -> None:
        """Store the snapshot of a turn that is on disk, along with later commits."""
        time_ns = self._host.wall_clock()
        event_hash = outcome.heads[self._stream].hash
        self._host.journal.save(Snapshot(self._stream, turn.version, self._type.schema, time_ns, event_hash, state))
        self._host.snapshot_taken(self._stream)

    def _is_due(self, turn: Turn, state: Aggregate) -> bool:
        policy = self._policy
        every = policy.events
        is_due = every is not None and turn.version // every > turn.base_version // every
        if policy.predicate is not None:
            is_due = self._says_so(policy.predicate, state)
        if policy.size_bytes is not None:
            self._size_bytes += sum(len(cast("msgspec.Raw", event.payload)) for event in turn.events)
            is_due = is_due or self._size_bytes >= policy.size_bytes
        if policy.seconds is not None:
            now_ns = self._host.wall_clock()
            self._time_ns = self._time_ns or now_ns
            is_due = is_due or now_ns - self._time_ns >= policy.seconds * NS_PER_SECOND
            if is_due:
                self._time_ns = now_ns
        if is_due:
            self._size_bytes = 0
        return is_due

    def _says_so(self, predicate: Callable[[Any], bool], state: Aggregate) -> bool:
        try:
            return bool(predicate(state))
        except Exception:
            logger.exception("the predicate for snapshots failed", extra={"stream": self._stream})
            return False
