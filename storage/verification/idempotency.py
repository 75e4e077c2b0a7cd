"""Verifies the idempotency keys: their rows and expiries against the groups of the log.

The groups have every key that was ever used; the table has the keys that have not expired, and some that have. So each
row must come from an entry in a group, and each unexpired entry must have a row. Rows are counted during the walk
through the log; if a stream has more rows in the table than were found, each of its rows is looked up.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Final

import lmdb

from ..commit import IdempotencyEntry
from ..environment.environment import Environment, Transaction
from ..group import KEY, Group, GroupDamaged
from ..indexes.idempotency import (
    Row,
    chunks_of,
    count_rows,
    decode_chunk,
    decoded_row,
    encode_row,
    expiry_key,
    find_row,
    rows_of,
    split_expiry_key,
)
from ..indexes.postings import split_key
from ..records import seek_group
from .counts import Counts, Surplus
from .finding import Finding
from .log import LogWalk, Window
from .tables import walk_table

ROWS_READ_PER_KEY: Final = 25
"""Up to this many rows in a chunk per wanted key, reading all rows is faster than searching for each key."""
_stream_of: Final = operator.attrgetter("stream")


class IdempotencyCheck:
    """Checks that the rows of idempotency keys match the log, and that the chunks of rows are well formed.

    `now_ns` returns the present time (UTC): keys that have expired by then may have been dropped.
    """

    def __init__(self, environment: Environment, walk: LogWalk, now_ns: Callable[[], int]) -> None:
        self._environment = environment
        self._walk = walk
        self._now_ns = now_ns
        self._found = Counts()
        self._stored = Counts()
        self.keys = 0
        """The number of keys in the table, and of unexpired keys that are not flushed yet."""

    def check_window(self, transaction: Transaction, window: Window) -> Iterator[Finding]:
        """Check that the table has the rows of the keys in a window of the log."""
        table = self._environment.table("idempotency")
        # The time is taken after the transaction has begun: a key that the transaction does not see and that has not
        # expired by this time is missing.
        live_after_ns = max(self._now_ns(), self._walk.time_ns)
        flushed = set(map(id, window.keys[: window.flushed_keys]))
        waiting = [entry for entry in window.keys[window.flushed_keys :] if entry.expires_ns > live_after_ns]
        self.keys += len({(entry.stream, entry.key) for entry in waiting})
        for stream, entries in groupby(sorted(window.keys, key=_stream_of), key=_stream_of):
            wanted = {encode_row(entry): entry for entry in entries}
            missing = dict(wanted)
            for chunk in chunks_of(transaction, table, stream):
                present = _present(chunk, wanted)
                self._found.add(stream, len(present))
                for row in present:
                    missing.pop(row, None)
            # If a key was used several times, only its last use must have a row.
            last = {entry.key: entry for entry in wanted.values()}
            for row, entry in missing.items():
                if entry.expires_ns <= live_after_ns or id(entry) not in flushed or last[entry.key] is not entry:
                    continue
                # Another row of the key is that of a later use, or it was changed; `strangers` finds changed rows.
                if not any(find_row(chunk, row) for chunk in chunks_of(transaction, table, stream)):
                    problem = f"the key {entry.key!r} is missing, and has not expired"
                    yield Finding("idempotency", problem, stream, entry.version, entry.position)

    def __call__(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        """Check one chunk of rows."""
        try:
            stream, number = split_key(key)
            expires_ns, rows = decode_chunk(value)
        except ValueError as error:
            return [Finding("idempotency", f"the entry {key!r} cannot be read: {error}")]
        self.keys += len(rows)
        self._stored.add(stream, len(rows))
        found: list[Finding] = []
        digests = [row[0] for row in rows]
        if not all(map(operator.lt, digests, digests[1:])):
            found.append(Finding("idempotency", f"the keys of chunk {number} are not in order", stream))
        if not rows or max(row[4] for row in rows) != expires_ns:
            found.append(Finding("idempotency", f"chunk {number} does not expire with its last key", stream))
        if transaction.get(expiry_key(expires_ns, key), db=self._environment.table("expiries")) is None:
            found.append(Finding("idempotency", f"chunk {number} is not listed among the expiries", stream))
        return found

    def strangers(self) -> Iterator[Finding]:
        """Yield findings for rows that do not come from the log. To be called once all rows were counted."""
        surplus = self._stored.beyond(self._found)
        if surplus:
            check = RowCheck(self._environment, self._walk, surplus)
            yield from walk_table(self._environment, "idempotency", check, batch_entries=1)


def _present(chunk: bytes, wanted: Mapping[bytes, IdempotencyEntry]) -> set[bytes]:
    """The wanted rows that a chunk has."""
    if count_rows(chunk) <= ROWS_READ_PER_KEY * len(wanted):
        return wanted.keys() & rows_of(chunk)
    return {row for row in wanted if find_row(chunk, row) == row}


class RowCheck:
    """Looks up each row of some streams in the groups of the log that it may come from."""

    def __init__(self, environment: Environment, walk: LogWalk, streams: Surplus) -> None:
        self._environment = environment
        self._walk = walk
        self._streams = streams
        self._group: tuple[bytes, list[IdempotencyEntry] | None] = (b"", None)

    def __call__(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        try:
            stream, _ = split_key(key)
            _, rows = decode_chunk(value)
        except ValueError:
            return []
        if stream not in self._streams:
            return []
        found = []
        with transaction.cursor(self._environment.table("log")) as cursor:
            for position, of_position in groupby(sorted(rows, key=operator.itemgetter(2)), key=operator.itemgetter(2)):
                known = None if self._walk.is_unreadable(position) else self._known_at(cursor, stream, position)
                for row in of_position:
                    if known is not None and row not in known:
                        problem = f"no command in the log has left this row, of the key with the digest {row[0].hex()}"
                        found.append(Finding("idempotency", problem, stream, row[1], position))
        return found

    def _known_at(self, cursor: "lmdb.Cursor[bytes]", stream: str, position: int) -> set[Row] | None:
        """The rows of a stream from the groups that may have a row with this position; None if one cannot be read."""
        rows: set[Row] = set()
        more = seek_group(cursor, position) or cursor.first()
        while more and len(cursor.key()) == KEY.size and KEY.unpack(cursor.key())[0] <= position + 1:
            entries = self._entries(cursor)
            if entries is None:
                return None
            rows.update(decoded_row(entry) for entry in entries if entry.stream == stream)
            more = cursor.next()
        return rows

    def _entries(self, cursor: "lmdb.Cursor[bytes]") -> list[IdempotencyEntry] | None:
        key = cursor.key()
        if self._group[0] != key:
            try:
                self._group = (key, Group(KEY.unpack(key)[0], cursor.value()).idempotency())
            except GroupDamaged:
                self._group = (key, None)
        return self._group[1]


class ExpiryCheck:
    """Checks that every expiry belongs to a chunk of idempotency keys."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def __call__(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        try:
            expires_ns, chunk_key = split_expiry_key(key)
            stream, number = split_key(chunk_key)
            chunk = transaction.get(chunk_key, db=self._environment.table("idempotency"))
            actual_ns = None if chunk is None else decode_chunk(chunk)[0]
        except (ValueError, lmdb.BadValsizeError) as error:
            return [Finding("expiries", f"the entry {key!r} cannot be read: {error}")]
        if actual_ns is None:
            return [Finding("expiries", f"there is no chunk {number} of keys", stream)]
        if actual_ns != expires_ns:
            return [Finding("expiries", f"chunk {number} expires at {actual_ns}, not at {expires_ns}", stream)]
        if value:
            return [Finding("expiries", f"the entry of chunk {number} has a value, and should be empty", stream)]
        return []
