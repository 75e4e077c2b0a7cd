"""A replay into the state of one aggregate."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, cast

from ...actors.aggregates.aggregate import Aggregate
from ...actors.aggregates.aggregate_type import AggregateType
from ...actors.aggregates.recovery import apply_event, newest_snapshot
from ...storage.record import StoredEvent
from ...storage.store import EventReader
from .replay import Replay
from .selection import Selection

A = TypeVar("A", bound=Aggregate)


class AggregateReplay(Replay, Generic[A]):
    """A replay into the state of one aggregate, and optionally into a function that may look at the state.

    In the mode "from_snapshot" the replay begins with the newest snapshot that is not in quarantine, is of this history
    and fits the class, or with the first event where there is none; `snapshot_version` names the snapshot.
    """

    _has_own = _takes_batches = True

    def __init__(
        self, store: EventReader, aggregate_type: AggregateType, aggregate_id: str, selection: Selection, **options: Any
    ) -> None:
        self.state = cast(A, aggregate_type.initial_state(aggregate_id))
        """The state after the events replayed so far."""
        self._type = aggregate_type
        super().__init__(store, selection, **options)

    @property
    def data(self) -> dict[str, Any]:
        """The state as plain data. Raises `EncodingError`."""
        return self._type.data(self.state)

    def _find_snapshot(self) -> int:
        stream = self._type.stream(self.state.id)
        found = newest_snapshot(self._store, self._type, stream, self.state.id)
        if found is None:
            return 0
        self.state = cast(A, found.state)
        return found.version

    def _take(self, events: Sequence[StoredEvent]) -> None:
        done = 0
        try:
            for event in events:
                apply_event(self._type, self.state, event)
                done += 1
        except BaseException:
            self._passed(events[:done])
            raise
