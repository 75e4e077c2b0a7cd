"""The second half of a verification: every index against the log, in both directions."""

import operator
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import Final

import lmdb
import msgspec

from .environment import Environment, Transaction
from .finding import Finding
from .flush import decode_head
from .group import KEY, Group, GroupDamaged, Record
from .idempotency import decode_chunk, expiry_key, split_expiry_key
from .names import category_of
from .postings import (
    PostingsDamaged,
    chunks_from,
    decode_positions,
    name_of,
    ordinal_of,
    positions_after,
    positions_of_versions,
)
from .record import StoredEvent
from .records import seek_group
from .verify_log import LogWalk, Run, Window

VERSIONS_AT_ONCE_MAX: Final = 16_384
UNREADABLE_ENTRY: Final = (PostingsDamaged, UnicodeDecodeError, lmdb.BadValsizeError)


def check_window(environment: Environment, transaction: Transaction, walk: LogWalk, window: Window) -> list[Finding]:
    """Whether the indexes hold what the log does in this window."""
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
    counted = walk.found[table]
    counted[name] = counted.get(name, 0) + bisect_right(positions, walk.indexed_through)


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
    """Runs of consecutive numbers, as (first, last)."""
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        values = [number for _, number in run]
        yield values[0], values[-1]


class PostingsCheck:
    """Whether the log accounts for every entry of the index `table`: streams, types or categories."""

    def __init__(self, environment: Environment, walk: LogWalk, table: str) -> None:
        self._environment = environment
        self._walk = walk
        self._table = table
        self._name: str | None = None
        self._count = 0
        self._last_position = 0
        self._surplus: list[str] = []

    def __call__(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        try:
            name, ordinal = name_of(key), ordinal_of(key)
            positions = decode_positions(value)
        except ValueError as error:
            return [Finding(self._table, f"the entry {key!r} cannot be read: {error}")]
        if name != self._name:
            self._end_name()
            self._name, self._count, self._last_position = name, 0, 0
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
        self._count += known
        return found

    def finish(self) -> Iterator[Finding]:
        """Name the entries that do not belong where they are, for every name that has more than were found."""
        self._end_name()
        for name in self._surplus:
            after: int | None = 0
            while after is not None:
                with self._environment.read() as transaction:
                    found, after = self._strangers(transaction, name, after)
                yield from found

    def _end_name(self) -> None:
        if self._name is not None and self._count > self._walk.found[self._table].get(self._name, 0):
            self._surplus.append(self._name)

    def _strangers(self, transaction: Transaction, name: str, after: int) -> tuple[list[Finding], int | None]:
        """Look at one chunk's events; return the ordinal after which to go on."""
        table = self._environment.table(self._table)
        found: list[Finding] = []
        chunks = (pair for pair in chunks_from(transaction, table, name, after) if pair[0] > after)
        for ordinal, positions in islice(chunks, 1):
            for version, position in enumerate(positions, ordinal):
                if position > self._walk.indexed_through or self._walk.is_unreadable(position):
                    continue
                record = record_at(self._environment, transaction, position)
                if isinstance(record, bytes):
                    continue  # in the archive
                if record is None or not self._belongs(name, version, record):
                    found.append(self._stranger(name, version, position, record))
            return found, ordinal
        return found, None

    def _belongs(self, name: str, version: int, record: StoredEvent) -> bool:
        if self._table == "streams":
            return record.stream == name and record.version == version
        return (record.type if self._table == "types" else category_of(record.stream)) == name

    def _stranger(self, name: str, version: int, position: int, record: StoredEvent | None) -> Finding:
        is_there = "no event" if record is None else f"{record.type!r} of {record.stream!r}, version {record.version}"
        problem = f"{name!r}: an entry too many; at this position there is {is_there}"
        by_version = self._table == "streams"
        return Finding(self._table, problem, name if by_version else None, version if by_version else None, position)


class HeadCheck:
    """Whether the heads are those that the log ends with."""

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
            # Flushed while the walk went on, or by a flush that was interrupted.
            record = record_at(self._environment, transaction, head.position)
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
        """Streams without a head, once the table was walked."""
        for stream, state in self._walk.streams.items():
            if state.indexed is not None and not state.has_head:
                yield Finding("heads", "the stream has no head", stream, state.indexed[0], state.indexed[1])


class IdempotencyCheck:
    """Whether chunks of idempotency keys can be read, are in order, and name versions where they are."""

    def __init__(self, environment: Environment, walk: LogWalk) -> None:
        self._environment = environment
        self._walk = walk
        self.rows = 0

    def __call__(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        try:
            stream, number = name_of(key), ordinal_of(key)
            expires_ns, rows = decode_chunk(value)
        except ValueError as error:
            return [Finding("idempotency", f"the entry {key!r} cannot be read: {error}")]
        self.rows += len(rows)
        found: list[Finding] = []
        digests = [row[0] for row in rows]
        if not all(map(operator.lt, digests, digests[1:])):
            found.append(Finding("idempotency", f"the keys of chunk {number} are not in order", stream))
        if not rows or max(row[4] for row in rows) != expires_ns:
            found.append(Finding("idempotency", f"chunk {number} does not expire with its last key", stream))
        if transaction.get(expiry_key(expires_ns, key), db=self._environment.table("expiries")) is None:
            found.append(Finding("idempotency", f"chunk {number} is not listed among the expiries", stream))
        versions = {row[1]: row[2] for row in rows if row[3] and row[2] <= self._walk.indexed_through}
        if versions:
            found += self._check_versions(transaction, stream, versions)
        return found

    def _check_versions(self, transaction: Transaction, stream: str, versions: dict[int, int]) -> Iterator[Finding]:
        table = self._environment.table("streams")
        indexed: dict[int, int] = {}
        try:
            first, last = min(versions), max(versions)
            if last - first < VERSIONS_AT_ONCE_MAX:
                indexed.update(enumerate(positions_of_versions(transaction, table, stream, first, last), first))
            else:
                for version in versions:
                    indexed.update(
                        (version, at) for at in positions_of_versions(transaction, table, stream, version, version)
                    )
        except UNREADABLE_ENTRY:
            return
        for version, position in versions.items():
            if indexed.get(version) != position and not self._walk.is_unreadable(position):
                yield Finding("idempotency", "a key names an event that is not there", stream, version, position)


class ExpiryCheck:
    """Whether every expiry is that of a chunk of idempotency keys."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def __call__(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        try:
            expires_ns, chunk_key = split_expiry_key(key)
            stream, number = name_of(chunk_key), ordinal_of(chunk_key)
            chunk = transaction.get(chunk_key, db=self._environment.table("idempotency"))
            actual_ns = None if chunk is None else decode_chunk(chunk)[0]
        except ValueError as error:
            return [Finding("expiries", f"the entry {key!r} cannot be read: {error}")]
        if actual_ns is None:
            return [Finding("expiries", f"there is no chunk {number} of keys", stream)]
        if actual_ns != expires_ns:
            return [Finding("expiries", f"chunk {number} expires at {actual_ns}, not at {expires_ns}", stream)]
        return []


def record_at(environment: Environment, transaction: Transaction, position: int) -> Record | None:
    """The record at a position, maybe a stub; None where there is none that can be read."""
    with transaction.cursor(environment.table("log")) as cursor:
        if not seek_group(cursor, position) or len(cursor.key()) != KEY.size:
            return None
        try:
            group = Group(KEY.unpack(cursor.key())[0], cursor.value())
            is_inside = group.first_position <= position <= group.last_position
            return group.record(position) if is_inside else None
        except GroupDamaged:
            return None
