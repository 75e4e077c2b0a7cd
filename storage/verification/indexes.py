"""Verifies the indexes against the log, in both directions."""

import operator
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

import lmdb
import msgspec

from ..environment.environment import Environment, Transaction
from ..indexes.flush import decode_head
from ..indexes.postings import (
    PostingsDamaged,
    chunks_from,
    decode_positions,
    positions_after,
    positions_of_versions,
    split_key,
)
from ..names import category_of
from ..record import StoredEvent
from .archive import ArchiveWalk
from .counts import Counts, Surplus
from .finding import Finding
from .log import LogWalk, Run, Window
from .record_lookup import RecordLookup
from .tables import walk_table

UNREADABLE_ENTRY: Final = (PostingsDamaged, UnicodeDecodeError, lmdb.BadValsizeError)


def check_window(environment: Environment, transaction: Transaction, walk: LogWalk, window: Window) -> list[Finding]:
    """Check that the indexes have the entries of all events in this window."""
    found: list[Finding] = []
    table = environment.table("streams")
    for stream, run in window.streams.items():
        last_version = run.first_version + len(run.positions) - 1
        try:
            indexed = positions_of_versions(transaction, table, stream, run.first_version, last_version)
            if run.is_regular and indexed != run.positions:
                found += _check_versions(walk, stream, run, dict(_versions(transaction, table, stream, run)))
                continue
        except UNREADABLE_ENTRY as error:
            found.append(Finding("streams", str(error), stream, run.first_version))
        _count(walk, "streams", stream, run.positions)
    for name, postings in (("types", window.types), ("categories", window.categories), ("tags", window.tags)):
        table = environment.table(name)
        for key, positions in postings.items():
            try:
                limit = len(positions) + 1
                indexed = positions_after(transaction, table, key, window.first - 1, limit)
                indexed = indexed[: bisect_right(indexed, window.last)]
                if indexed != positions:
                    present = set(_positions(transaction, table, key, window))
                    missing = [at for at in positions if at <= walk.indexed_through and at not in present]
                    found += _missing(name, key, missing)
                    _count(walk, name, key, [at for at in positions if at in present])
                    continue
            except UNREADABLE_ENTRY as error:
                found.append(Finding(name, f"{key!r}: {error}", position=positions[0]))
            _count(walk, name, key, positions)
    return found


def _count(walk: LogWalk, table: str, name: str, positions: list[int]) -> None:
    walk.found[table].add(name, bisect_right(positions, walk.indexed_through))


def _check_versions(walk: LogWalk, stream: str, run: Run, indexed: dict[int, int]) -> Iterator[Finding]:
    missing: list[int] = []
    right: list[int] = []
    for version, position in enumerate(run.positions, run.first_version):
        entry = indexed.get(version)
        if entry == position:
            right.append(position)
        elif entry is not None:
            problem = f"the index says position {entry}, the log {position}"
            yield Finding("streams", problem, stream, version, position)
        elif position <= walk.indexed_through:
            missing.append(version)
    for first, last in _ranges(missing):
        position = run.positions[first - run.first_version]
        yield Finding("streams", f"versions {first} to {last} are not in the index", stream, first, position)
    _count(walk, "streams", stream, right)


def _versions(transaction: Transaction, table: object, stream: str, run: Run) -> Iterator[tuple[int, int]]:
    last_version = run.first_version + len(run.positions) - 1
    for ordinal, positions in chunks_from(transaction, table, stream, run.first_version):
        if ordinal > last_version:
            return
        yield from enumerate(positions, ordinal)


def _positions(transaction: Transaction, table: object, name: str, window: Window) -> Iterator[int]:
    for ordinal, positions in chunks_from(transaction, table, name, window.first):
        if ordinal > window.last:
            return
        yield from positions


def _missing(table: str, name: str, positions: list[int]) -> Iterator[Finding]:
    for position in positions:
        yield Finding(table, f"{name!r}: this position is not in the index", position=position)


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of each run of consecutive numbers."""
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        values = [number for _, number in run]
        yield values[0], values[-1]


class PostingsCheck:
    """Checks that every entry of the index `table` (streams, types, categories or tags) comes from the log."""

    def __init__(self, environment: Environment, walk: LogWalk, archived: ArchiveWalk, table: str) -> None:
        self._environment = environment
        self._walk = walk
        self._archived = archived
        self._table = table
        self._name: str | None = None
        self._last_position = 0
        self._stored = Counts()

    def __call__(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        try:
            name, ordinal = split_key(key)
            positions = decode_positions(value)
        except ValueError as error:
            return [Finding(self._table, f"the entry {key!r} cannot be read: {error}")]
        if name != self._name:
            self._name, self._last_position = name, 0
        by_version = self._table == "streams"
        stream, version = (name, ordinal) if by_version else (None, None)
        if not positions or (not by_version and ordinal != positions[0]):
            return [Finding(self._table, f"{name!r}: the chunk {ordinal} does not begin there", stream, version)]
        found: list[Finding] = []
        if positions[0] <= self._last_position or not all(map(operator.lt, positions, positions[1:])):
            problem = f"{name!r}: positions do not ascend in the chunk {ordinal}"
            found.append(Finding(self._table, problem, stream, version, positions[0]))
        self._last_position = positions[-1]
        if positions[-1] > self._walk.last_position:
            end = self._walk.position_of_last(transaction)
            if end is not None and positions[-1] > end:
                problem = f"{name!r}: the log ends at position {end}"
                found.append(Finding(self._table, problem, stream, None, positions[-1]))
        known = bisect_right(positions, self._walk.indexed_through)
        if self._walk.unreadable:
            known = sum(not self._walk.is_unreadable(position) for position in positions[:known])
        self._stored.add(name, known)
        return found

    def strangers(self) -> Iterator[Finding]:
        """Yield findings for entries that do not come from the log. To be called once all entries were counted."""
        surplus = self._stored.beyond(self._walk.found[self._table])
        if surplus:
            check = EntryLookup(self._environment, self._walk, self._archived, self._table, surplus)
            yield from walk_table(self._environment, self._table, check, batch_entries=1)


class EntryLookup:
    """Looks up the event of each index entry of some names."""

    def __init__(
        self, environment: Environment, walk: LogWalk, archived: ArchiveWalk, table: str, names: Surplus
    ) -> None:
        self._environment = environment
        self._walk = walk
        self._archived = archived
        self._table = table
        self._names = names

    def __call__(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        found: list[Finding] = []
        try:
            name, ordinal = split_key(key)
            positions = decode_positions(value)
        except ValueError:
            return found
        if name not in self._names:
            return found
        records = RecordLookup(self._environment, transaction)
        for version, position in enumerate(positions, ordinal):
            if position > self._walk.indexed_through or self._walk.is_unreadable(position):
                continue
            record = records.at(position)
            if isinstance(record, bytes):
                record = self._archived.event(record, position)
                if record is None:
                    continue  # unreadable segments were reported
            if record is None or not self._belongs(name, version, record):
                found.append(self._stranger(name, version, position, record))
        return found

    def _belongs(self, name: str, version: int, record: StoredEvent) -> bool:
        if self._table == "streams":
            return record.stream == name and record.version == version
        if self._table == "tags":
            return name in record.tags
        return (record.type if self._table == "types" else category_of(record.stream)) == name

    def _stranger(self, name: str, version: int, position: int, record: StoredEvent | None) -> Finding:
        is_there = "no event" if record is None else f"{record.type!r} of {record.stream!r}, version {record.version}"
        problem = f"{name!r}: an entry too many; at this position there is {is_there}"
        by_version = self._table == "streams"
        return Finding(self._table, problem, name if by_version else None, version if by_version else None, position)


class HeadCheck:
    """Checks that each head is that of its stream's newest event in the log."""

    def __init__(self, environment: Environment, walk: LogWalk) -> None:
        self._environment = environment
        self._walk = walk

    def __call__(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        walk = self._walk
        try:
            stream = key.decode()
            head = decode_head(stream, value)
        except (msgspec.MsgspecError, ValueError) as error:
            return [Finding("heads", f"the entry {key!r} cannot be read: {error}")]
        state = walk.streams.get(stream)
        actual = (head.version, head.position, head.hash)
        if state is not None:
            state.has_head = True
            if actual in (state.indexed, (state.version, state.position, state.hash)):
                return []
        where = (stream, head.version, head.position)
        if walk.is_unreadable(head.position):
            return [Finding("heads", "the newest event of the stream is missing or cannot be read", *where)]
        if head.position > walk.indexed_through:
            # The head was flushed during the walk, or by a flush that was interrupted.
            record = RecordLookup(self._environment, transaction).at(head.position)
            if isinstance(record, StoredEvent) and (record.stream, record.version, record.hash) == (
                stream,
                head.version,
                head.hash,
            ):
                return []
        if state is None or state.indexed is None:
            return [Finding("heads", "the log holds no event of this stream", *where)]
        version, position, digest = state.indexed
        if (head.version, head.position) != (version, position):
            return [Finding("heads", f"the log says version {version} at position {position}", *where)]
        assert head.hash != digest
        return [Finding("heads", "its hash is not that of the event", *where)]

    def missing(self) -> Iterator[Finding]:
        """Yield findings for streams without a head. To be called once the table was walked."""
        for stream, state in self._walk.streams.items():
            if state.indexed is not None and not state.has_head:
                yield Finding("heads", "the stream has no head", stream, state.indexed[0], state.indexed[1])
