"""Idempotency keys on disk: chunks of fixed-size rows for each stream, sorted by the digest of the idempotency key.

The LMDB key of a chunk is the stream, a zero byte and the chunk's number; only the newest chunk of a stream grows. The
table of expiries lists chunks by the latest expiry of their rows, so that expired chunks are found without a search.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Final, TypeAlias

from ..commit import IdempotencyEntry
from ..environment.environment import Table, Transaction
from .postings import key_of, ordinal_of

CHUNK_ROWS_MAX: Final = 1_024
EXPIRED_PER_COMMIT_MAX: Final = 16
"""The most chunks dropped with one commit."""
DIGEST_SIZE_BYTES: Final = 16
Row: TypeAlias = tuple[bytes, int, int, int, int]
_ROW: Final = struct.Struct("<16sQQIQ")
"""Digest of the key, version, position, number of events, expiry (UTC ns)."""
_WHOLE_ROW: Final = struct.Struct(f"{_ROW.size}s")
_EXPIRY: Final = struct.Struct(">Q")
"""At the front of a chunk: the latest expiry of its rows (UTC ns)."""


def encode_rows(entries: Iterable[IdempotencyEntry]) -> bytes:
    """The rows of entries of one stream, which may be in any order, for `merge_rows`."""
    return b"".join(map(encode_row, entries))


def merge_rows(transaction: Transaction, table: Table, expiries: Table, stream: str, rows: bytes) -> None:
    """Add rows to the newest chunk of the stream, and to new chunks when it is full.

    Adding the same rows again, as after a crash, changes nothing.
    """
    number, newest = _newest_chunk(transaction, table, stream)
    merged = dict(_keyed_rows(newest[_EXPIRY.size :] if newest else b""))
    before = len(merged)
    merged.update(_keyed_rows(rows))
    if newest is not None and before < len(merged) and before >= CHUNK_ROWS_MAX:
        number, newest = number + 1, None
        merged = dict(_keyed_rows(rows))
    left = iter(merged.values())
    while part := sorted(islice(left, CHUNK_ROWS_MAX)):
        latest = max(_ROW.unpack(row)[4] for row in part)
        key = key_of(stream, number)
        if newest is not None:
            transaction.delete(newest[: _EXPIRY.size] + key, db=expiries)
        transaction.put(key, _EXPIRY.pack(latest) + b"".join(part), db=table)
        transaction.put(_EXPIRY.pack(latest) + key, b"", db=expiries)
        number, newest = number + 1, None


def find_keys(
    transaction: Transaction, table: Table, stream: str, keys: Sequence[str], now_ns: int
) -> dict[str, IdempotencyEntry]:
    """The entries of those `keys` that are stored and have not expired at `now_ns` (UTC)."""
    prefix = stream.encode() + b"\0"
    missing = {key: _digest(key) for key in keys}
    found: dict[str, IdempotencyEntry] = {}
    with transaction.cursor(table) as cursor:
        more = cursor.prev() if cursor.set_range(prefix + b"\xff" * 8) else cursor.last()
        while more and missing and cursor.key().startswith(prefix):
            chunk = cursor.value()
            for key, digest in list(missing.items()):
                row = _find_row(chunk, digest)
                if row is None:
                    continue
                del missing[key]
                _, version, position, event_count, expires_ns = row
                if expires_ns > now_ns:
                    found[key] = IdempotencyEntry(stream, key, version, position, event_count, expires_ns)
            more = cursor.prev()
    return found


def drop_expired(transaction: Transaction, table: Table, expiries: Table, now_ns: int) -> None:
    """Drop a bounded number of chunks in which every row has expired."""
    with transaction.cursor(expiries) as cursor:
        for _ in range(EXPIRED_PER_COMMIT_MAX):
            if not cursor.first() or _EXPIRY.unpack_from(cursor.key())[0] > now_ns:
                return
            transaction.delete(cursor.key()[_EXPIRY.size :], db=table)
            cursor.delete()


def decode_chunk(chunk: bytes) -> tuple[int, list[Row]]:
    """(expiry, rows) of a chunk. A row is digest of the key, version, position, number of events, expiry.

    Raises `ValueError` if the bytes are no chunk.
    """
    try:
        return int(_EXPIRY.unpack_from(chunk)[0]), list(_ROW.iter_unpack(memoryview(chunk)[_EXPIRY.size :]))
    except struct.error as error:
        raise ValueError(f"{len(chunk)} bytes are no chunk of rows") from error


def encode_row(entry: IdempotencyEntry) -> bytes:
    """The stored bytes of the row of one entry."""
    return _ROW.pack(*decoded_row(entry))


def decoded_row(entry: IdempotencyEntry) -> Row:
    """The row of an entry, in the form that `decode_chunk` returns."""
    return (_digest(entry.key), entry.version, entry.position, entry.event_count, entry.expires_ns)


def chunks_of(transaction: Transaction, table: Table, stream: str) -> Iterator[bytes]:
    """The chunks of a stream, oldest first; values of an impossible length are skipped."""
    prefix = stream.encode() + b"\0"
    with transaction.cursor(table) as cursor:
        more = cursor.set_range(prefix)
        while more and cursor.key().startswith(prefix):
            chunk = cursor.value()
            if len(chunk) % _ROW.size == _EXPIRY.size:
                yield chunk
            more = cursor.next()


def rows_of(chunk: bytes) -> set[bytes]:
    """The stored bytes of the rows of a chunk."""
    return {row for (row,) in _WHOLE_ROW.iter_unpack(memoryview(chunk)[_EXPIRY.size :])}


def count_rows(chunk: bytes) -> int:
    """The number of rows in a chunk."""
    return (len(chunk) - _EXPIRY.size) // _ROW.size


def find_row(chunk: bytes, row: bytes) -> bytes | None:
    """The stored row with the same key digest as `row`; None if the chunk has none."""
    found = _find_row(chunk, row[:DIGEST_SIZE_BYTES])
    return None if found is None else _ROW.pack(*found)


def expiry_key(expires_ns: int, chunk_key: bytes) -> bytes:
    """The key of a chunk in the table of expiries."""
    return _EXPIRY.pack(expires_ns) + chunk_key


def split_expiry_key(key: bytes) -> tuple[int, bytes]:
    """(expiry, key of the chunk) in a key of the table of expiries. Raises `ValueError` if the key is too short."""
    if len(key) <= _EXPIRY.size:
        raise ValueError(f"{len(key)} bytes are no expiry and key")
    return int(_EXPIRY.unpack_from(key)[0]), key[_EXPIRY.size :]


def _newest_chunk(transaction: Transaction, table: Table, stream: str) -> tuple[int, bytes | None]:
    """(number, value) of the stream's newest chunk; (0, None) if the stream has no chunk."""
    prefix = stream.encode() + b"\0"
    with transaction.cursor(table) as cursor:
        more = cursor.prev() if cursor.set_range(prefix + b"\xff" * 8) else cursor.last()
        if more and cursor.key().startswith(prefix):
            return ordinal_of(cursor.key()), cursor.value()
    return 0, None


def _keyed_rows(rows: bytes) -> Iterable[tuple[bytes, bytes]]:
    for start in range(0, len(rows), _ROW.size):
        row = rows[start : start + _ROW.size]
        yield row[:DIGEST_SIZE_BYTES], row


def _find_row(chunk: bytes, digest: bytes) -> Row | None:
    count = (len(chunk) - _EXPIRY.size) // _ROW.size

    def digest_at(index: int) -> bytes:
        start = _EXPIRY.size + index * _ROW.size
        return chunk[start : start + DIGEST_SIZE_BYTES]

    index = bisect_left(range(count), digest, key=digest_at)
    if index == count or digest_at(index) != digest:
        return None
    row: Row = _ROW.unpack_from(chunk, _EXPIRY.size + index * _ROW.size)
    return row


def _digest(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=DIGEST_SIZE_BYTES).digest()
