"""Views on LMDB: a folder for each generation of each projection, next to the log."""

import heapq
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from ..storage.ordered_key import NotOrdered, encode_indexed
from ..storage.view_environment import Transaction, ViewEnvironment, ViewFull
from .criteria import Between, Criterion, Equal, OneOf, RowQuery, StartingWith, sort_key
from .errors import QueryTooLarge
from .row_type import RowType
from .view_store import Change, Checkpoint, Generation, ViewReading, ViewRetry, ViewWriting

SORTED_ROWS_MAX: Final = 100_000
"""Rows that one query sorts in memory; an order by an indexed field sorts none."""
CURRENT_FILE: Final = "current"
GENERATION_FILE: Final = "generation.json"
DROPPED: Final = "dropped-"
_AFTER_ALL: Final = b"\xff" * 8
_START: Final = Checkpoint(0, b"")

logger = logging.getLogger("eventsrc.views")


class LmdbViews:
    """Keeps views in `path`: `path/<projection>/<generation>/`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def generations(self, projection: str) -> list[Generation]:
        folder = self.path / projection
        if not folder.is_dir():
            return []
        current = folder / CURRENT_FILE
        number = int(current.read_text()) if current.exists() else 0
        found = []
        for file in folder.glob(f"[0-9]*/{GENERATION_FILE}"):
            try:
                found.append(msgspec.json.decode(file.read_bytes(), type=Generation))
            except msgspec.MsgspecError:
                logger.warning("a generation of a view was not made completely", extra={"path": str(file)})
        return sorted(found, key=lambda generation: (generation.number != number, -generation.number))

    def open(self, projection: str, generation: Generation, tables: Iterable[RowType[Any]]) -> "LmdbView":
        folder = self._folder(projection, generation)
        folder.mkdir(parents=True, exist_ok=True)
        environment = ViewEnvironment(folder / "rows", {table.name: table.indexes for table in tables})
        (folder / GENERATION_FILE).write_bytes(msgspec.json.encode(generation))
        return LmdbView(environment)

    def activate(self, projection: str, generation: Generation) -> None:
        current = self.path / projection / CURRENT_FILE
        new = current.with_suffix(".new")
        new.write_text(str(generation.number))
        new.replace(current)

    def drop(self, projection: str, generation: Generation) -> None:
        folder = self._folder(projection, generation)
        # Under this name it is no generation any more, whatever becomes of the rest.
        folder.rename(folder.with_name(f"{DROPPED}{folder.name}-{time.time_ns()}"))
        for dropped in folder.parent.glob(f"{DROPPED}*"):
            shutil.rmtree(dropped)

    def _folder(self, projection: str, generation: Generation) -> Path:
        return self.path / projection / str(generation.number)


class LmdbView:
    """One generation on LMDB. Its calls are memory reads and writes without a sync: they belong on the trio thread."""

    waits = False

    def __init__(self, environment: ViewEnvironment) -> None:
        self._environment = environment

    @property
    def checkpoint(self) -> Checkpoint:
        with self._environment.read() as transaction:
            stored = self._environment.meta(transaction, b"checkpoint")
        return _START if stored is None else msgspec.msgpack.decode(stored, type=Checkpoint)

    @contextmanager
    def reading(self) -> Iterator[ViewReading]:
        with self._environment.read() as transaction:
            yield _Reading(self._environment, transaction)

    @contextmanager
    def writing(self) -> Iterator[ViewWriting]:
        try:
            with self._environment.write() as transaction:
                yield _Writing(self._environment, transaction)
        except ViewFull as error:
            raise ViewRetry from error

    def close(self) -> None:
        self._environment.close()


class _Reading:
    def __init__(self, environment: ViewEnvironment, transaction: Transaction) -> None:
        self._environment = environment
        self._transaction = transaction

    def get(self, table: RowType[Any], key: tuple[Any, ...]) -> Any | None:
        value = self._transaction.get(table.key(key), db=self._environment.rows[table.name])
        return None if value is None else table.decode(value)

    def find(self, table: RowType[Any], query: RowQuery) -> list[Any]:
        rows, is_ordered = self._candidates(table, query)
        wanted = (row for row in rows if query.matches(row))
        end = None if query.limit is None else query.offset + query.limit
        if not is_ordered and query.order:
            return _sorted(table.name, wanted, query, end)[query.offset :]
        if query.last is not None:
            return list(islice(wanted, query.limit))
        return list(islice(wanted, query.offset, end))

    def count(self, table: RowType[Any], criteria: dict[str, Criterion]) -> int:
        if not criteria:
            return int(self._transaction.stat(self._environment.rows[table.name])["entries"])
        query = RowQuery(criteria)
        return sum(query.matches(row) for row in self._candidates(table, query)[0])

    def _candidates(self, table: RowType[Any], query: RowQuery) -> tuple[Iterator[Any], bool]:
        """Rows among which the wanted ones are, and whether they come in the order that is asked for."""
        criteria = query.criteria
        if all(isinstance(criteria.get(field), Equal) for field in table.key_fields):
            row = self.get(table, tuple(criteria[field].value for field in table.key_fields))  # type: ignore[attr-defined]
            return iter(() if row is None or query.last is not None else (row,)), True
        field, backwards, is_ordered = _access(table, query)
        last = query.last if is_ordered else None
        if field is None:
            if criteria:
                logger.debug(
                    "a query looks at every row",
                    extra={"table": table.name, "criteria": sorted(criteria), "indexes": table.indexes},
                )
            return self._scan_rows(table, backwards, last), is_ordered
        ranges = _ranges(criteria.get(field))
        if last is not None:
            key = table.key(table.key_values(last))
            ranges = _beyond(ranges, encode_indexed(getattr(last, field)) + key, backwards)
        return self._scan_index(table, field, ranges, backwards), is_ordered

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
                    yield decode(value)

    def _scan_index(
        self, table: RowType[Any], field: str, ranges: list[tuple[bytes, bytes]], backwards: bool
    ) -> Iterator[Any]:
        rows = self._environment.rows[table.name]
        get = self._transaction.get
        with self._transaction.cursor(self._environment.indexes[table.name, field]) as cursor:
            for low, high in reversed(ranges) if backwards else ranges:
                more = _last_below(cursor, high) if backwards else cursor.set_range(low)
                while more:
                    entry, key = cursor.item()
                    if entry < low or entry > high:
                        break
                    value = get(key, db=rows)
                    assert value is not None, f"the index {field} of {table.name} names a row that is not there"
                    yield table.decode(value)
                    more = cursor.prev() if backwards else cursor.next()


class _Writing(_Reading):
    def write(self, table: RowType[Any], changes: Sequence[Change]) -> None:
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

    def _write_index(self, table: str, field: str, number: int, changes: Sequence[Change]) -> None:
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
    """(the field whose index serves, None for the rows themselves; backwards; whether in the order asked for)."""
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
    """The parts of an index in which a criterion's values are, in order: each from the first to the last entry."""
    try:
        match criterion:
            case Equal(value):
                return [_range(value, value)]
            case OneOf(values):
                return sorted({_range(value, value) for value in values})
            case Between(low, high):
                first = b"" if low is None else encode_indexed(low)
                last = _AFTER_ALL if high is None else encode_indexed(high) + _AFTER_ALL
                return [(first, last)]
            case StartingWith(prefix):
                start = encode_indexed(prefix).removesuffix(b"\x00")
                return [(start, start + _AFTER_ALL)]
            case _:
                return [(b"", _AFTER_ALL)]
    except NotOrdered:
        # No row has such a value: it could not have been indexed.
        return []


def _beyond(ranges: list[tuple[bytes, bytes]], entry: bytes, backwards: bool) -> list[tuple[bytes, bytes]]:
    """What of the ranges comes after an entry, in the order of a scan."""
    if backwards:
        # A scan backwards begins below the upper end.
        return [(low, min(high, entry)) for low, high in ranges if low < entry]
    return [(max(low, entry + b"\x00"), high) for low, high in ranges if high > entry]


def _range(low: Any, high: Any) -> tuple[bytes, bytes]:
    return encode_indexed(low), encode_indexed(high) + _AFTER_ALL


def _last_below(cursor: Any, high: bytes) -> bool:
    """Go to the last entry that is not above `high`."""
    return bool(cursor.prev() if cursor.set_range(high) else cursor.last())


def _sorted(table: str, rows: Iterator[Any], query: RowQuery, end: int | None) -> list[Any]:
    if end is not None and end <= SORTED_ROWS_MAX and len(query.order) == 1:
        key = sort_key(query.order[0].field)
        return (heapq.nlargest if query.order[0].descending else heapq.nsmallest)(end, rows, key=key)
    found = list(islice(rows, SORTED_ROWS_MAX + 1))
    if len(found) > SORTED_ROWS_MAX:
        raise QueryTooLarge(table, SORTED_ROWS_MAX)
    for order in reversed(query.order):
        found.sort(key=sort_key(order.field), reverse=order.descending)
    return found[:end]
