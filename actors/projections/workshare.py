"""The share of work: all followers of the log together leave the commands more than half of the time."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ..feed import Feed

DEBT_SECONDS_MAX: Final = 0.001
"""After so much work while commands are stored, the followers rest."""
REST_SECONDS_PER_SECOND: Final = 1.5
"""Seconds of rest per second of work."""


class Workshare:
    """Gives followers their turns, one at a time, in order of arrival."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._turns = trio.Lock()
        self._debt_seconds = 0.0
        self._notifications = 0

    async def turn(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do one batch of work on the trio thread."""
        async with self._turns:
            started = time.perf_counter()
            try:
                await work()
            finally:
                self._debt_seconds += time.perf_counter() - started
            if self._debt_seconds > DEBT_SECONDS_MAX:
                debt_seconds, self._debt_seconds = self._debt_seconds, 0.0
                if self._feed.notifications != self._notifications:
                    self._notifications = self._feed.notifications
                    await trio.sleep(REST_SECONDS_PER_SECOND * debt_seconds)
