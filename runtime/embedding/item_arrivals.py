"""Items of an iterator on trio, on their way to another thread."""

from collections import deque
from collections.abc import AsyncIterator, MutableMapping
from typing import Any, Final, TypeAlias

END: Final = object()
"""Stands for the end of the items."""
NOTHING_YET: Final = object()
"""Returned where no item has arrived."""
Kept: TypeAlias = MutableMapping[AsyncIterator[Any], deque[Any]]
"""The items that iterators gave and that nobody took yet, for as long as the iterators live: a `WeakKeyDictionary`."""


class ItemArrivals:
    """Keeps an item until it is taken: a caller may be cancelled after the item was fetched.

    A second iteration over the same iterator finds the item as well.
    """

    def __init__(self, items: AsyncIterator[Any], kept: Kept) -> None:
        self._items = items
        try:
            self._arrived = kept.setdefault(items, deque())
        except TypeError:  # it cannot be a key, or there are no weak references to it
            self._arrived = deque()

    async def fetch(self) -> None:
        """Wait for the next item, or the `END`. Called on the trio thread."""
        self._arrived.append(await anext(self._items, END))

    def take(self) -> Any:
        """Take the oldest item, from any thread. Another caller may have taken the item that this caller fetched."""
        try:
            return self._arrived.popleft()
        except IndexError:
            return NOTHING_YET
