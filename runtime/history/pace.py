"""The pace of a replay: when each event is due, by trio's clock."""

import math
from typing import Final, Literal, TypeAlias

from ...storage.record import NS_PER_SECOND, StoredEvent
from ..errors import ArgumentInvalid
from .errors import ReplaySpeedInvalid

Speed: TypeAlias = float | Literal["flat"] | None
"""Times the original pace; None and "flat" are as fast as possible."""
SPEED_MIN: Final = 0.1
"""The lowest speed, times the original pace; the highest is `Limits.replay_speed_max`."""


class Pace:
    """Tells when an event is due, from the time between the event before it and itself.

    The pace is a schedule: shorter waits make up for time lost in a slow handler or on a busy machine, so that the
    whole replay takes as long as it should. An event whose time is before that of an earlier event is due at once.
    """

    def __init__(self, speed: Speed, speed_max: float, wait_seconds_max: float) -> None:
        self.speed = checked_speed(speed, speed_max)
        is_number = isinstance(wait_seconds_max, int | float) and not isinstance(wait_seconds_max, bool)
        if not is_number or math.isnan(wait_seconds_max) or wait_seconds_max < 0:
            raise ArgumentInvalid("wait_seconds_max", wait_seconds_max, "give it in seconds, 0 or more")
        self._wait_seconds_max = wait_seconds_max
        self._newest_time_ns: int | None = None
        self._newest_due = -math.inf

    def due(self, event: StoredEvent) -> float:
        """When the event is due, by trio's clock; minus infinity where there is nothing to wait for."""
        if self.speed is None or self._newest_time_ns is None:
            return -math.inf
        seconds = max(event.time_ns - self._newest_time_ns, 0) / NS_PER_SECOND / self.speed
        return self._newest_due + min(seconds, self._wait_seconds_max)

    def take(self, event: StoredEvent, due: float) -> None:
        """Continue the schedule from this event, which was due at `due`."""
        self._newest_time_ns = max(event.time_ns, self._newest_time_ns or event.time_ns)
        self._newest_due = due

    def shift(self, seconds: float) -> None:
        """Delay all later events by these seconds, in which the replay stood still."""
        self._newest_due += seconds

    def seconds_left(self, last_time_ns: int, now: float) -> float | None:
        """The most seconds until an event of this time is due; None before the first event, and without a pace."""
        if self.speed is None or self._newest_time_ns is None:
            return None
        seconds = max(last_time_ns - self._newest_time_ns, 0) / NS_PER_SECOND / self.speed
        return max(self._newest_due + seconds - now, 0.0)


def checked_speed(speed: Speed, speed_max: float) -> float | None:
    """The speed as a number, or None for as fast as possible. Raises `ReplaySpeedInvalid`."""
    if speed is None or speed == "flat":
        return None
    # NaN is in no range.
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not SPEED_MIN <= speed <= speed_max:
        raise ReplaySpeedInvalid(speed, SPEED_MIN, speed_max)
    return float(speed)
