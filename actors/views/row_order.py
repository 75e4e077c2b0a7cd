"""The order of a query, in memory: by its fields and then by the key, so that no two rows are equal."""

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from ...storage.ordered_key import NotOrdered, sorting_key
from .criteria import Order, RowQuery
from .errors import QueryInvalid, QueryTooLarge
from .row_type import RowType

SORTED_ROWS_MAX: Final = 100_000
"""How many rows one query may sort in memory. An order by an indexed field sorts none."""
_INVERTED: Final = bytes(range(255, -1, -1))
_AFTER_ALL: Final = b"\xff"
_key_of: Final = itemgetter(0)


class RowOrder:
    """Sorts by these fields, then by the key, in the direction of the last field."""

    def __init__(self, table: RowType[Any], order: tuple[Order, ...]) -> None:
        self._table = table
        self._order = order
        self._is_key_descending = bool(order) and order[-1].descending

    def key(self, row: Any) -> bytes:
        """Bytes that compare as the rows are ordered. Raises `QueryInvalid` for a value that cannot be ordered."""
        table, parts = self._table, []
        for order in self._order:
            try:
                part = sorting_key(getattr(row, order.field))
            except NotOrdered as error:
                raise QueryInvalid(f"{table.name} cannot be ordered by {order.field}: {error}.") from error
            parts.append(_inverted(part) if order.descending else part)
        key = table.key(table.key_values(row))
        parts.append(_inverted(key) if self._is_key_descending else key)
        return b"".join(parts)

    def take(self, rows: Iterable[Any], query: RowQuery) -> list[Any]:
        """The rows that the query's bounds select, in order. Raises `QueryTooLarge`, `QueryInvalid`."""
        skipped, keyed = query.offset, self._keyed(rows)
        if query.last is not None:
            skipped, last = 0, self.key(query.last)
            keyed = (each for each in keyed if each[0] > last)
        end = None if query.limit is None else skipped + query.limit
        if end is not None and end <= SORTED_ROWS_MAX:
            return [row for _, row in heapq.nsmallest(end, keyed, key=_key_of)[skipped:]]
        return self._sorted(keyed)[skipped:end]

    def sorted(self, rows: Iterable[Any]) -> list[Any]:
        """All the rows, in order. Raises `QueryTooLarge`, `QueryInvalid`."""
        return self._sorted(self._keyed(rows))

    def _keyed(self, rows: Iterable[Any]) -> Iterator[tuple[bytes, Any]]:
        return ((self.key(row), row) for row in rows)

    def _sorted(self, keyed: Iterator[tuple[bytes, Any]]) -> list[Any]:
        held = list(islice(keyed, SORTED_ROWS_MAX + 1))
        if len(held) > SORTED_ROWS_MAX:
            raise QueryTooLarge(self._table.name, SORTED_ROWS_MAX)
        held.sort(key=_key_of)
        return [row for _, row in held]


def _inverted(part: bytes) -> bytes:
    """Bytes that sort in the opposite order. The appended byte sorts a text after the longer texts that it begins."""
    return part.translate(_INVERTED) + _AFTER_ALL
