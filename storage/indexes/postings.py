"""Postings: the positions that belong to a name, in chunks of one LMDB value each.

The key of a chunk is the name, a zero byte and the ordinal of the chunk's first entry. In the index of streams the
ordinal is the version; versions have no gaps, so an entry is found by counting. In the indexes of types, categories and
tags the ordinal is the position itself.
"""

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ..environment.environment import Table, Transaction


class PostingsDamaged(ValueError):
    """The bytes of a chunk are not a list of positions. Readers raise this as `CorruptRecord`."""


CHUNK_POSITIONS_MAX: Final = 1_024
_ORDINAL: Final = struct.Struct(">Q")
ORDINAL_MAX: Final = (1 << 64) - 1


def key_of(name: str, ordinal: int) -> bytes:
    """The key of a chunk or of a snapshot: name, zero byte, big-endian ordinal (the version of a snapshot)."""
    return prefix_of(name) + _ORDINAL.pack(ordinal)


def prefix_of(name: str) -> bytes:
    """The prefix of all keys of a name. A name that is not valid Unicode is never stored, but may be looked up."""
    return name.encode(errors="surrogatepass") + b"\0"


def keys_of(transaction: Transaction, table: Table, name: str) -> list[bytes]:
    """The keys of all chunks of a name, or of all snapshots of a stream."""
    found: list[bytes] = []
    prefix = prefix_of(name)
    with transaction.cursor(table) as cursor:
        more = cursor.set_range(prefix)
        while more and cursor.key().startswith(prefix):
            found.append(cursor.key())
            more = cursor.next()
    return found


def ordinal_of(key: bytes) -> int:
    """The ordinal at the end of a key."""
    return int(_ORDINAL.unpack_from(key, len(key) - _ORDINAL.size)[0])


def name_of(key: bytes) -> str:
    """The name at the front of a key."""
    return key[: -_ORDINAL.size - 1].decode()


def split_key(key: bytes) -> tuple[str, int]:
    """(name, ordinal) in a key. Raises `ValueError` if the bytes are no such key."""
    # The name is empty for the category of a stream whose name begins with a dash.
    if len(key) <= _ORDINAL.size or key[-_ORDINAL.size - 1] != 0:
        raise ValueError("it is no name and number")
    return name_of(key), ordinal_of(key)


def names(transaction: Transaction, table: Table, others: Iterable[str] = (), *, prefix: str = "") -> list[str]:
    """The names of an index that begin with `prefix`, and all `others`, sorted. Reads one key for each name."""
    found = set(others)
    begin = prefix.encode()
    with transaction.cursor(table) as cursor:
        more = cursor.set_range(begin) if begin else cursor.first()
        while more and cursor.key().startswith(begin):
            found.add(name := name_of(cursor.key()))
            more = cursor.set_range(name.encode() + b"\1")
    return sorted(found)


def chunks(name: str, positions: Sequence[int], first_version: int | None = None) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of each chunk of `positions`; the ordinals are versions from `first_version` on, or positions."""
    for start in range(0, len(positions), CHUNK_POSITIONS_MAX):
        part = positions[start : start + CHUNK_POSITIONS_MAX]
        ordinal = part[0] if first_version is None else first_version + start
        yield key_of(name, ordinal), struct.pack(f"<{len(part)}Q", *part)


def positions_of_versions(
    transaction: Transaction, table: Table, name: str, first_version: int, last_version: int
) -> list[int]:
    """The positions of the versions `first_version` through `last_version`, as far as the index has them."""
    found: list[int] = []
    for ordinal, positions in chunks_from(transaction, table, name, first_version):
        if ordinal > last_version:
            break
        found += positions[max(first_version - ordinal, 0) : last_version - ordinal + 1]
    return found


def version_at(transaction: Transaction, table: Table, name: str, position: int) -> tuple[int, int] | None:
    """(version, position) of the newest entry of a stream up to a position; None if there is none."""
    prefix = prefix_of(name)
    with transaction.cursor(table) as cursor:
        more = cursor.prev() if cursor.set_range(key_of(name, ORDINAL_MAX)) else cursor.last()
        while more and _is_chunk_of(cursor.key(), prefix):
            value = cursor.value()
            if decode_positions(value[:8])[0] <= position:
                positions = decode_positions(value)
                index = bisect_right(positions, position) - 1
                return ordinal_of(cursor.key()) + index, positions[index]
            more = cursor.prev()
    return None


def positions_after(transaction: Transaction, table: Table, name: str, after: int, limit: int) -> list[int]:
    """At most `limit` positions greater than `after`, ascending."""
    found: list[int] = []
    for _, positions in chunks_from(transaction, table, name, after + 1):
        found += positions[bisect_right(positions, after) :]
        if len(found) >= limit:
            break
    return found[:limit]


def positions_before(transaction: Transaction, table: Table, name: str, before: int, limit: int) -> list[int]:
    """At most `limit` positions smaller than `before`, descending."""
    prefix = prefix_of(name)
    found: list[int] = []
    with transaction.cursor(table) as cursor:
        more = cursor.prev() if cursor.set_range(key_of(name, before)) else cursor.last()
        while more and len(found) < limit and _is_chunk_of(cursor.key(), prefix):
            positions = decode_positions(cursor.value())
            found += reversed(positions[: bisect_left(positions, before)])
            more = cursor.prev()
    return found[:limit]


def chunks_from(
    transaction: Transaction, table: Table, name: str, ordinal: int
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield (ordinal, positions) of the chunks in order, beginning with the one that may contain `ordinal`."""
    prefix = prefix_of(name)
    key = key_of(name, ordinal)
    with transaction.cursor(table) as cursor:
        more = cursor.set_range(key)
        if not more:
            more = cursor.last()
        elif cursor.key() != key and not (cursor.prev() and _is_chunk_of(cursor.key(), prefix)):
            more = cursor.set_range(key)
        while more:
            if not _is_chunk_of(cursor.key(), prefix):
                return
            yield ordinal_of(cursor.key()), decode_positions(cursor.value())
            more = cursor.next()


def _is_chunk_of(key: bytes, prefix: bytes) -> bool:
    return len(key) == len(prefix) + _ORDINAL.size and key.startswith(prefix)


def decode_positions(value: bytes) -> tuple[int, ...]:
    """The positions in a stored chunk. Raises `PostingsDamaged`."""
    try:
        return struct.unpack(f"<{len(value) // 8}Q", value)
    except struct.error as error:
        raise PostingsDamaged(f"a chunk of {len(value)} bytes is no list of positions") from error
