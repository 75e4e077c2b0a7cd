"""The worker threads of effects that are plain functions.

They are not trio's own few: a function that hangs, and was cut off, keeps its thread, and views, the control board and
the closing of the runtime would wait for it.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from ..background import in_thread

T = TypeVar("T")


class SagaThreads:
    """Calls as many functions at once as the bound allows."""

    def __init__(self, threads_max: int) -> None:
        self._limiter = trio.CapacityLimiter(threads_max)

    @asynccontextmanager
    async def place(self) -> "AsyncIterator[ThreadPlace]":
        """Wait until a thread is free, and have it for the block; longer where what it calls does not return."""
        place = ThreadPlace(self._limiter)
        await self._limiter.acquire_on_behalf_of(place)
        try:
            yield place
        finally:
            place.leave()


class ThreadPlace:
    """One thread. It was waited for already, so it is itself the limiter that trio asks before it starts it."""

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter
        self._is_in_thread = False

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function, once."""
        return await in_thread(function, abandon_on_cancel=True, limiter=self)  # type: ignore[arg-type]

    def leave(self) -> None:
        """Let others have the thread, unless it still works."""
        if not self._is_in_thread:
            self._limiter.release_on_behalf_of(self)

    async def acquire_on_behalf_of(self, _borrower: object) -> None:
        """Called right before the thread is started."""
        self._is_in_thread = True

    def release_on_behalf_of(self, _borrower: object) -> None:
        """Called when its function has returned, on the trio thread."""
        self._limiter.release_on_behalf_of(self)
