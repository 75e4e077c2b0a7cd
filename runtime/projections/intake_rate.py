"""Measures how fast a view takes in events, to tell whether it keeps up."""

import trio

from .arrivals import Arrivals


class IntakeRate:
    """How many events a second a view takes in, while there are any."""

    def __init__(self, position: int) -> None:
        self.events_per_second: float | None = None
        """None before the first events."""
        self._position = position
        self._advanced = float("-inf")

    def advance(self, position: int, arrivals: Arrivals) -> None:
        """Take note that the view has reached a position."""
        now = trio.current_time()
        if position > self._position:
            seconds = now - max(self._advanced, arrivals.time_of(self._position + 1))
            newest = (position - self._position) / seconds if seconds > 0 else float("inf")
            known = self.events_per_second
            # A slower rate counts at once, a faster one step by step.
            is_slower = known is None or newest < known
            self.events_per_second = newest if is_slower or known is None else min(2 * known, newest)
        self._position, self._advanced = position, now
