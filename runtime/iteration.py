"""Asynchronous iterators that may be abandoned at any time.

An async generator that is not exhausted must be closed by its user, and warns otherwise; these iterators hold nothing.
One that has ended stays ended, as Python asks of iterators, also where `fetch` would find something by then.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from .trio_thread import check_on_trio

T = TypeVar("T")


class Batches(AsyncIterator[list[T]]):
    """Yields the lists that `fetch` returns, until it returns an empty one."""

    def __init__(self, fetch: Callable[[], Awaitable[list[T]]]) -> None:
        self._fetch = fetch
        self._has_ended = False

    async def __anext__(self) -> list[T]:
        _check_on_trio()
        batch = [] if self._has_ended else await self._fetch()
        if not batch:
            self._has_ended = True
            raise StopAsyncIteration
        return batch


class Items(AsyncIterator[T], Generic[T]):
    """Yields the items of the lists that `fetch` returns, one by one, until it returns an empty list."""

    def __init__(self, fetch: Callable[[], Awaitable[list[T]]]) -> None:
        self._fetch = fetch
        self._items = iter(list[T]())
        self._has_ended = False

    async def __anext__(self) -> T:
        for item in self._items:
            return item
        _check_on_trio()
        batch = [] if self._has_ended else await self._fetch()
        if not batch:
            self._has_ended = True
            raise StopAsyncIteration
        self._items = iter(batch)
        return next(self._items)


def _check_on_trio() -> None:
    check_on_trio("An asynchronous iteration", "portal.iterate(...)")
