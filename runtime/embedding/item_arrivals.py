"""What an iterator on trio has given, on its way to another thread."""

from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

END: Final = object()
"""Stands for the end of the items."""


class ItemArrivals:
    """Keeps an item until it is taken: whoever waited for it may be cut off when it was fetched already."""

    def __init__(self, items: AsyncIterator[Any]) -> None:
        self._items = items
        self._arrived: deque[Any] = deque()

    def __bool__(self) -> bool:
        return bool(self._arrived)

    async def fetch(self) -> None:
        """Wait for the next item, or the `END`. On the trio thread."""
        self._arrived.append(await anext(self._items, END))

    def take(self) -> Any:
        """The oldest that was not taken, from any thread; ask first whether there is one."""
        return self._arrived.popleft()
