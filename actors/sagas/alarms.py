"""Alarms: when the sagas that wait for a time go on."""

import heapq
import math
from collections.abc import Callable
from typing import Final

import trio

from ...storage.record import NS_PER_SECOND

CLOCK_CHECK_SECONDS: Final = 30.0
"""How often the wall clock is checked while an alarm is set: the clock may be put forward meanwhile."""
CLEARED_MAX: Final = 100
"""The heap is rebuilt without cleared alarms once these outnumber the set alarms by more than this."""


class SagaAlarms:
    """At most one alarm per saga. Times are wall-clock times in UTC nanoseconds."""

    def __init__(self, wall_clock: Callable[[], int]) -> None:
        self._wall_clock = wall_clock
        self._wakes: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        """Holds cleared alarms as well: removing one from a heap would mean searching all of it."""
        self._earlier_set = trio.Event()

    def __len__(self) -> int:
        return len(self._wakes)

    @property
    def kept_count(self) -> int:
        """How many alarms are kept, including cleared ones."""
        return len(self._heap)

    def set(self, saga_id: str, wake_ns: int) -> None:
        """Set a saga's alarm to this time, replacing its earlier alarm."""
        self._wakes[saga_id] = wake_ns
        heapq.heappush(self._heap, (wake_ns, saga_id))
        if self._heap[0][1] == saga_id:
            self._earlier_set.set()
        self._drop_cleared()

    def clear(self, saga_id: str) -> None:
        """Drop a saga's alarm, if it has one: something else makes the saga go on."""
        if self._wakes.pop(saga_id, None) is not None:
            self._drop_cleared()

    async def due(self) -> list[str]:
        """Wait until the alarms of some sagas are due; clear these alarms and return the sagas' ids."""
        while True:
            now_ns = self._wall_clock()
            found: list[str] = []
            while self._heap and self._heap[0][0] <= now_ns:
                wake_ns, saga_id = heapq.heappop(self._heap)
                if self._wakes.get(saga_id) == wake_ns:
                    del self._wakes[saga_id]
                    found.append(saga_id)
            if found:
                return found
            self._earlier_set = trio.Event()
            seconds = min((self._heap[0][0] - now_ns) / NS_PER_SECOND, CLOCK_CHECK_SECONDS) if self._heap else math.inf
            with trio.move_on_after(seconds):
                await self._earlier_set.wait()

    def _drop_cleared(self) -> None:
        """Rebuild the heap without cleared alarms, seldom enough to cost no more than setting the alarms did."""
        if len(self._heap) > 2 * len(self._wakes) + CLEARED_MAX:
            self._heap = [(wake_ns, saga_id) for saga_id, wake_ns in self._wakes.items()]
            heapq.heapify(self._heap)
