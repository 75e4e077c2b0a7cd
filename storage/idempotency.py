"""Idempotency keys on disk: one LMDB value per stream and flush, searched by the digest of the key."""

import hashlib
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

from .commit import IdempotencyEntry
from .environment import Table, Transaction
from .postings import key_of

_DIGEST_SIZE_BYTES: Final = 16
_ROW: Final = struct.Struct("<16sQQIQ")
"""Digest of the key, version, position, number of events, expiry (UTC ns)."""
_EXPIRY: Final = struct.Struct(">Q")
EXPIRED_PER_COMMIT_MAX: Final = 16


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=_DIGEST_SIZE_BYTES).digest()


def encode_chunk(entries: Iterable[IdempotencyEntry]) -> tuple[int, bytes]:
    """(latest expiry, value) for entries of one stream; the value begins with that expiry."""
    rows = sorted(
        _ROW.pack(_digest(entry.key), entry.version, entry.position, entry.event_count, entry.expires_ns)
        for entry in entries
    )
    latest = max(_ROW.unpack(row)[4] for row in rows)
    return latest, _EXPIRY.pack(latest) + b"".join(rows)


def expiry_key(expires_ns: int, chunk_key: bytes) -> bytes:
    """The key in the table of expiries, in the order in which chunks may be dropped."""
    return _EXPIRY.pack(expires_ns)[-8:] + chunk_key


def find(transaction: Transaction, table: Table, stream: str, key: str, now_ns: int) -> IdempotencyEntry | None:
    """The live entry for the key, from the newest chunk that holds it."""
    prefix = stream.encode() + b"\0"
    digest = _digest(key)
    with transaction.cursor(table) as cursor:
        more = cursor.prev() if cursor.set_range(prefix + b"\xff" * 8) else cursor.last()
        while more and cursor.key().startswith(prefix):
            for row in _rows_of(cursor.value(), digest):
                _, version, position, event_count, expires_ns = row
                if expires_ns > now_ns:
                    return IdempotencyEntry(stream, key, version, position, event_count, expires_ns)
            more = cursor.prev()
    return None


def drop_expired(transaction: Transaction, table: Table, expiries: Table, now_ns: int) -> None:
    """Drop a bounded number of chunks in which every key has expired."""
    with transaction.cursor(expiries) as cursor:
        for _ in range(EXPIRED_PER_COMMIT_MAX):
            if not cursor.first() or _EXPIRY.unpack_from(cursor.key())[0] > now_ns:
                return
            chunk_key = cursor.key()[_EXPIRY.size :]
            chunk = transaction.get(chunk_key, db=table)
            # A flush that was repeated after a crash may have given the chunk a later expiry.
            if chunk is not None and _EXPIRY.unpack_from(chunk)[0] <= now_ns:
                transaction.delete(chunk_key, db=table)
            cursor.delete()


def chunk_key(stream: str, generation: int) -> bytes:
    """The key of the chunk that one flush writes for one stream."""
    return key_of(stream, generation)


def _rows_of(value: bytes, digest: bytes) -> Iterator[tuple[bytes, int, int, int, int]]:
    count = (len(value) - _EXPIRY.size) // _ROW.size

    def digest_at(index: int) -> bytes:
        start = _EXPIRY.size + index * _ROW.size
        return value[start : start + _DIGEST_SIZE_BYTES]

    index = bisect_left(range(count), digest, key=digest_at)
    while index < count and digest_at(index) == digest:
        yield _ROW.unpack_from(value, _EXPIRY.size + index * _ROW.size)
        index += 1
