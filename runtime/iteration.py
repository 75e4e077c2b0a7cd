"""Asynchronous iterators that may be left at any time.

An async generator that is not exhausted has to be closed by whoever uses it, and warns otherwise; these hold nothing.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from .trio_thread import check_on_trio

T = TypeVar("T")


class Batches(AsyncIterator[list[T]]):
    """Lists that `fetch` gives, until it gives an empty one."""

    def __init__(self, fetch: Callable[[], Awaitable[list[T]]]) -> None:
        self._fetch = fetch

    async def __anext__(self) -> list[T]:
        _check_on_trio()
        batch = await self._fetch()
        if not batch:
            raise StopAsyncIteration
        return batch


class Items(AsyncIterator[T], Generic[T]):
    """What is in such lists, one by one."""

    def __init__(self, fetch: Callable[[], Awaitable[list[T]]]) -> None:
        self._fetch = fetch
        self._items = iter(list[T]())

    async def __anext__(self) -> T:
        for item in self._items:
            return item
        _check_on_trio()
        batch = await self._fetch()
        if not batch:
            raise StopAsyncIteration
        self._items = iter(batch)
        return next(self._items)


def _check_on_trio() -> None:
    check_on_trio("An asynchronous iteration", "portal.iterate(...)")
