"""Transactions on an LMDB view: reading rows by key, by index and in order, and writing them."""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any, Final

import msgspec

from ...storage.environment.environment import Transaction
from ...storage.environment.view_environment import ViewEnvironment, ViewFull
from ...storage.ordered_key import INDEXED_SIZE_BYTES_MAX, NotOrdered, encode_indexed
from .criteria import Between, Criterion, Equal, OneOf, RowQuery, StartingWith
from .errors import QueryTooLarge, RowInvalid
from .row_order import SORTED_ROWS_MAX, RowOrder
from .row_type import RowType
from .view_store import Checkpoint, RowChange, ViewReadTooLong, ViewRetry

ROWS_BETWEEN_CHECKS: Final = 100
"""How many rows a long scan reads before it checks whether the view has to grow or to close."""
_AFTER_ALL: Final = b"\xff" * 8
_EVERYWHERE: Final = [(b"", _AFTER_ALL)]


class LmdbReading:
    """One reading transaction. After `rows_max` rows it raises `ViewReadTooLong`."""

    def __init__(self, environment: ViewEnvironment, transaction: Transaction, rows_max: int | None = None) -> None:
        self._environment = environment
        self._transaction = transaction
        self._rows_max = rows_max
        self._looked = 0

    def get(self, table: RowType[Any], key: tuple[Any, ...]) -> Any | None:
        value = self._transaction.get(table.key(key), db=self._environment.rows[table.name])
        return None if value is None else table.decode(value)

    def find(self, table: RowType[Any], query: RowQuery) -> list[Any]:
        rows, is_ordered = self._candidates(table, query)
        wanted = (row for row in rows if query.matches(row))
        if not is_ordered:
            return RowOrder(table, query.order).take(wanted, query)
        skipped = 0 if query.last is not None else query.offset
        return list(islice(wanted, skipped, None if query.limit is None else skipped + query.limit))

    def count(self, table: RowType[Any], criteria: dict[str, Criterion]) -> int:
        if not criteria:
            return int(self._transaction.stat(self._environment.rows[table.name])["entries"])
        query = RowQuery(criteria)
        return sum(query.matches(row) for row in self._candidates(table, query)[0])

    def _candidates(self, table: RowType[Any], query: RowQuery) -> tuple[Iterator[Any], bool]:
        """Returns (rows that include all wanted rows, whether they come in the query's order)."""
        criteria = query.criteria
        if all(_has_place(criteria.get(field)) for field in table.key_fields):
            row = self._row_of(table, tuple(criteria[field].value for field in table.key_fields))  # type: ignore[attr-defined]
            return iter(() if row is None or query.last is not None else (row,)), True
        field, backwards, is_ordered = _access(table, query)
        last = query.last if is_ordered else None
        ranges = _ranges(None if field is None else criteria.get(field))
        is_narrowed = any(asked in table.indexes for asked in criteria) and (
            field not in criteria or ranges != _EVERYWHERE
        )
        scanned = [] if is_narrowed else list(criteria)
        if field is None and not is_ordered:
            scanned += [each.field for each in query.order]
        if scanned:
            table.tell_of_scan(scanned)
        if field is not None:
            order = RowOrder(table, query.order) if query.order and is_ordered else None
            return self._scan_index(table, field, ranges, backwards, order, last), is_ordered
        return self._scan_rows(table, backwards, last), is_ordered

    def _row_of(self, table: RowType[Any], key: tuple[Any, ...]) -> Any | None:
        try:
            return self.get(table, key)
        except RowInvalid:
            # No row has an invalid key.
            return None

    def _look(self) -> None:
        """Count one more row; now and then check whether the view has to grow or to close."""
        self._looked += 1
        if self._rows_max is not None and self._looked > self._rows_max:
            raise ViewReadTooLong
        if not self._looked % ROWS_BETWEEN_CHECKS:
            self._environment.check_welcome()

    def _scan_rows(self, table: RowType[Any], backwards: bool, last: Any) -> Iterator[Any]:
        low, high = b"", _AFTER_ALL
        if last is not None:
            key = table.key(table.key_values(last))
            low, high = (low, key) if backwards else (key + b"\x00", high)
        with self._transaction.cursor(self._environment.rows[table.name]) as cursor:
            decode = table.decode
            if _last_below(cursor, high) if backwards else cursor.set_range(low):
                values = cursor.iterprev(keys=False) if backwards else cursor.iternext(keys=False)
                for value in values:
                    self._look()
                    yield decode(value)

    def _scan_index(
        self,
        table: RowType[Any],
        field: str,
        ranges: list[tuple[bytes, bytes]],
        backwards: bool,
        order: RowOrder | None,
        last: Any,
    ) -> Iterator[Any]:
        """The rows of the ranges after `last`. With `order`, rows are sorted by full values, not by the cut ones."""
        cut = b""
        if last is not None:
            value, key = encode_indexed(getattr(last, field)), table.key(table.key_values(last))
            if order is not None and len(value) == INDEXED_SIZE_BYTES_MAX:
                # Rows whose values begin alike are sorted as a group, so begin again at the group's first row.
                cut = value
                ranges = _beyond(ranges, value + _AFTER_ALL if backwards else value, backwards)
            else:
                ranges = _beyond(ranges, value + key, backwards)
        group: list[Any] = []
        group_value = b""
        for value, row in self._index_entries(table, field, ranges, backwards):
            if group and value != group_value:
                yield from _in_order(group, order, last if group_value == cut else None)
                group = []
            if order is not None and len(value) == INDEXED_SIZE_BYTES_MAX:
                group.append(row)
                group_value = value
                if len(group) > SORTED_ROWS_MAX:
                    raise QueryTooLarge(table.name, SORTED_ROWS_MAX)
            else:
                yield row
        if group:
            yield from _in_order(group, order, last if group_value == cut else None)

    def _index_entries(
        self, table: RowType[Any], field: str, ranges: list[tuple[bytes, bytes]], backwards: bool
    ) -> Iterator[tuple[bytes, Any]]:
        """The indexed values, cut as they are stored, with their rows."""
        rows = self._environment.rows[table.name]
        get = self._transaction.get
        with self._transaction.cursor(self._environment.indexes[table.name, field]) as cursor:
            for low, high in reversed(ranges) if backwards else ranges:
                more = _last_below(cursor, high) if backwards else cursor.set_range(low)
                while more:
                    entry, key = cursor.item()
                    if entry < low or entry > high:
                        break
                    self._look()
                    value = get(key, db=rows)
                    assert value is not None, f"the index {field} of {table.name} names a row that is not there"
                    yield entry[: -len(key)], table.decode(value)
                    more = cursor.prev() if backwards else cursor.next()


class LmdbWriting(LmdbReading):
    """One writing transaction. Its reads see its own writes."""

    def write(self, table: RowType[Any], changes: Sequence[RowChange]) -> None:
        try:
            with self._environment.filling():
                self._write(table, changes)
        except ViewFull as error:
            # As the port's error, since it may pass through a projection's method.
            raise ViewRetry from error

    def _write(self, table: RowType[Any], changes: Sequence[RowChange]) -> None:
        rows = self._environment.rows[table.name]
        put = [(change.key, table.encode(change.row)) for change in changes if change.row is not None]
        put.sort()
        with self._transaction.cursor(rows) as cursor:
            cursor.putmulti(put)
            for change in changes:
                if change.row is None and cursor.set_key(change.key):
                    cursor.delete()
        for number, field in enumerate(table.indexes):
            self._write_index(table.name, field, number, changes)

    def _write_index(self, table: str, field: str, number: int, changes: Sequence[RowChange]) -> None:
        added = []
        with self._transaction.cursor(self._environment.indexes[table, field]) as cursor:
            for change in changes:
                before = None if change.before is None else change.before[number]
                after = None if change.after is None else change.after[number]
                if before == after:
                    continue
                if before is not None and cursor.set_key(before + change.key):
                    cursor.delete()
                if after is not None:
                    added.append((after + change.key, change.key))
            if added:
                added.sort()
                cursor.putmulti(added)

    def save(self, checkpoint: Checkpoint) -> None:
        self._environment.put_meta(self._transaction, b"checkpoint", msgspec.msgpack.encode(checkpoint))


def _access(table: RowType[Any], query: RowQuery) -> tuple[str | None, bool, bool]:
    """Returns (the field whose index to use, or None for the rows themselves; backwards; in the query's order)."""
    order = query.order
    indexed = [field for field in query.criteria if field in table.indexes]
    for kind in (Equal, OneOf):
        for field in indexed:
            if isinstance(query.criteria[field], kind):
                return field, False, not order
    if indexed and query.limit is None and not (len(order) == 1 and order[0].field in indexed):
        return indexed[0], False, not order
    if len(order) == 1 and order[0].field in table.indexes:
        return order[0].field, order[0].descending, True
    if len(order) == 1 and (order[0].field,) == table.key_fields:
        return None, order[0].descending, True
    for field in indexed:
        return field, False, not order
    return None, False, not order


def _ranges(criterion: Criterion | None) -> list[tuple[bytes, bytes]]:
    """The ranges of an index that contain a criterion's values, in order, each from its first to its last entry."""
    try:
        match criterion:
            case Equal(value):
                return _ranges_of((value,))
            case OneOf(values):
                return _ranges_of(values)
            case Between(low, high):
                first = b"" if low is None else _place(low)
                last = _AFTER_ALL if high is None else _place(high)
                if first is None or last is None:
                    return []
                return [(first, last if high is None else last + _AFTER_ALL)]
            case StartingWith(prefix):
                start = encode_indexed(prefix).removesuffix(b"\x00")
                return [(start, start + _AFTER_ALL)]
    except NotOrdered:
        # A value without an order may equal a stored one: in Python, `Fraction(2) == 2`.
        pass
    return _EVERYWHERE


def _ranges_of(values: Iterable[Any]) -> list[tuple[bytes, bytes]]:
    """The ranges of these values, in order and without overlap. Raises `NotOrdered`."""
    found = {place for place in map(_place, values) if place is not None}
    ranges: list[tuple[bytes, bytes]] = []
    for entry in sorted(found):
        low, high = entry, entry + _AFTER_ALL
        if ranges and low <= ranges[-1][1]:
            # The range of a text or bytes includes those that continue it with NUL.
            low, before = ranges.pop()
            high = max(before, high)
        ranges.append((low, high))
    return ranges


def _place(value: Any) -> bytes | None:
    """An index's entry for a value; None for NaN, which no row has. Raises `NotOrdered`."""
    try:
        return encode_indexed(value)
    except NotOrdered:
        if isinstance(value, float | Decimal):
            return None
        raise


def _has_place(criterion: Criterion | None) -> bool:
    """Whether the criterion asks for a single value that a key may have."""
    if not isinstance(criterion, Equal):
        return False
    try:
        _place(criterion.value)
    except NotOrdered:
        return False
    return True


def _beyond(ranges: list[tuple[bytes, bytes]], entry: bytes, backwards: bool) -> list[tuple[bytes, bytes]]:
    """The parts of the ranges after an entry, in the direction of the scan."""
    if backwards:
        # A backward scan begins below the upper end.
        return [(low, min(high, entry)) for low, high in ranges if low < entry]
    return [(max(low, entry + b"\x00"), high) for low, high in ranges if high > entry]


def _last_below(cursor: Any, high: bytes) -> bool:
    """Move to the last entry that is not above `high`."""
    return bool(cursor.prev() if cursor.set_range(high) else cursor.last())


def _in_order(group: list[Any], order: RowOrder | None, last: Any) -> list[Any]:
    """Sort rows whose indexed values begin alike by the full values; keep those after `last`."""
    assert order is not None, "only rows that are to be in an order are grouped"
    ordered = order.sorted(group)
    if last is None:
        return ordered
    after = order.key(last)
    return [row for row in ordered if order.key(row) > after]
