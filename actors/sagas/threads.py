"""The worker threads for effects that are plain functions.

They are not trio's own threads, which are few: a hanging function that was cancelled keeps its thread, and views, the
control board and the closing of the runtime would have to wait for it.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from ..background import in_thread

T = TypeVar("T")


class SagaThreads:
    """Runs up to `threads_max` functions at once."""

    def __init__(self, threads_max: int) -> None:
        self._limiter = trio.CapacityLimiter(threads_max)

    @asynccontextmanager
    async def place(self) -> "AsyncIterator[ThreadPlace]":
        """Wait for a free thread and hold it for the block, or until the called function returns if that is later."""
        place = ThreadPlace(self._limiter)
        await self._limiter.acquire_on_behalf_of(place)
        try:
            yield place
        finally:
            place.leave()


class ThreadPlace:
    """One thread, already acquired. The place acts as the limiter that trio asks before it starts the thread."""

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter
        self._is_in_thread = False

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function in the thread. Use a place for one call only."""
        return await in_thread(function, abandon_on_cancel=True, limiter=self)  # type: ignore[arg-type]

    def leave(self) -> None:
        """Release the thread, unless the function still runs."""
        if not self._is_in_thread:
            self._limiter.release_on_behalf_of(self)

    async def acquire_on_behalf_of(self, _borrower: object) -> None:
        """Called by trio right before it starts the thread."""
        self._is_in_thread = True

    def release_on_behalf_of(self, _borrower: object) -> None:
        """Called by trio, on the trio thread, when the function has returned."""
        self._limiter.release_on_behalf_of(self)
