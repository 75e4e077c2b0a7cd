"""What an iterator on trio has given, on its way to another thread."""

from collections import deque
from collections.abc import AsyncIterator, MutableMapping
from typing import Any, Final, TypeAlias

END: Final = object()
"""Stands for the end of the items."""
NOTHING_YET: Final = object()
"""Is taken where nothing has arrived."""
Kept: TypeAlias = MutableMapping[AsyncIterator[Any], deque[Any]]
"""What iterators have given that was not taken, for as long as there are these: a `WeakKeyDictionary`."""


class ItemArrivals:
    """Keeps an item until it is taken: whoever waited for it may be cut off when it was fetched already.

    Whoever iterates over the same once more finds it, too.
    """

    def __init__(self, items: AsyncIterator[Any], kept: Kept) -> None:
        self._items = items
        try:
            self._arrived = kept.setdefault(items, deque())
        except TypeError:  # it cannot be a key, or there are no weak references to it
            self._arrived = deque()

    async def fetch(self) -> None:
        """Wait for the next item, or the `END`. On the trio thread."""
        self._arrived.append(await anext(self._items, END))

    def take(self) -> Any:
        """The oldest that was not taken, from any thread; others may have taken what this one has fetched."""
        try:
            return self._arrived.popleft()
        except IndexError:
            return NOTHING_YET
