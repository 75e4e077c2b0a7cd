"""When the sagas that wait for a time go on."""

import heapq
import math
from collections.abc import Callable
from typing import Final

import trio

from ...storage.record import NS_PER_SECOND

CLOCK_CHECK_SECONDS: Final = 30.0
"""How often the wall clock is looked at while there is an alarm: the clock may be put forward meanwhile."""
CLEARED_MAX: Final = 100
"""So many cleared alarms may be in the heap, besides as many as are set, before it is made anew without them."""


class SagaAlarms:
    """Each saga has one alarm at most. Times are those of the wall clock, in UTC nanoseconds."""

    def __init__(self, wall_clock: Callable[[], int]) -> None:
        self._wall_clock = wall_clock
        self._wakes: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        """Also of alarms that were cleared: taking one out of a heap would cost a look at all of it."""
        self._earlier_set = trio.Event()

    def __len__(self) -> int:
        return len(self._wakes)

    @property
    def kept_count(self) -> int:
        """How many are kept, those included that were cleared."""
        return len(self._heap)

    def set(self, saga_id: str, wake_ns: int) -> None:
        """Have a saga go on at this time, and at no other that was set before."""
        self._wakes[saga_id] = wake_ns
        heapq.heappush(self._heap, (wake_ns, saga_id))
        if self._heap[0][1] == saga_id:
            self._earlier_set.set()
        self._drop_cleared()

    def clear(self, saga_id: str) -> None:
        """Drop the alarm of a saga, if it has one: something else has it go on."""
        if self._wakes.pop(saga_id, None) is not None:
            self._drop_cleared()

    async def due(self) -> list[str]:
        """Wait until there are sagas whose time has come; their alarms are cleared."""
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
        """Seldom enough that it costs no more than to set them: more are dropped each time than stay."""
        if len(self._heap) > 2 * len(self._wakes) + CLEARED_MAX:
            self._heap = [(wake_ns, saga_id) for saga_id, wake_ns in self._wakes.items()]
            heapq.heapify(self._heap)
