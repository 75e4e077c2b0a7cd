"""Flushes a tail of the indexes to LMDB: sorted, in bulk, and in slices that are written together with commits.

A tail that is being flushed stays readable until its last slice is stored; only then does `indexed_through` move. After
a crash the flush is repeated with the same keys and values.
"""

import struct
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Final

import msgspec

from ..environment.environment import Table, Transaction
from ..evidence.merkle import Tree
from ..record import StreamHead
from .idempotency import encode_rows, merge_rows
from .postings import chunks
from .tail import Tail

INDEXED_THROUGH_KEY: Final = b"indexed_through"
TREE_KEY: Final = b"tree"
NODE_KEY: Final = struct.Struct(">Q")
_encode: Final = msgspec.msgpack.Encoder().encode
_tree_decoder: Final = msgspec.msgpack.Decoder(Tree)
_through_decoder: Final = msgspec.msgpack.Decoder(tuple[int, int])
_head_decoder: Final = msgspec.msgpack.Decoder(tuple[int, int, bytes])

Item = tuple[str, bytes, bytes]


class IndexFlush:
    """The flush of one tail. `table` returns the handle of a table for its name."""

    def __init__(self, tail: Tail, table: Callable[[str], Table]) -> None:
        self.tail = tail
        self._table = table
        self._items = list(_items_of(tail))
        self._done = 0

    @property
    def remaining(self) -> int:
        """The number of items that are not stored yet."""
        return len(self._items) - self._done

    def write(self, transaction: Transaction, count: int) -> int:
        """Put up to `count` of the next items; return how many. Call `advance` once the transaction is stored."""
        part = self._items[self._done : self._done + count]
        for name, run in groupby(part, key=lambda item: item[0]):
            pairs = [(key, value) for _, key, value in run]
            if name == "idempotency":
                for stream, rows in pairs:
                    merge_rows(transaction, self._table(name), self._table("expiries"), stream.decode(), rows)
                continue
            with transaction.cursor(self._table(name)) as cursor:
                consumed, _ = cursor.putmulti(pairs)
            if consumed != len(pairs):
                raise AssertionError(f"LMDB took {consumed} of {len(pairs)} index entries")
        if self._done + len(part) == len(self._items):
            transaction.put(INDEXED_THROUGH_KEY, _encode(self.tail.through), db=self._table("meta"))
            transaction.put(TREE_KEY, _encode(self.tail.tree), db=self._table("meta"))
        return len(part)

    def advance(self, count: int) -> bool:
        """Count items of a stored transaction as done; return whether they were the last."""
        self._done += count
        return self._done == len(self._items)


def _items_of(tail: Tail) -> Iterator[Item]:
    for stream in sorted(tail.streams):
        part = tail.streams[stream]
        for key, value in chunks(stream, part.positions, part.first_version):
            yield "streams", key, value
    for table, postings in (("types", tail.types), ("categories", tail.categories), ("tags", tail.tags)):
        for name in sorted(postings):
            for key, value in chunks(name, postings[name]):
                yield table, key, value
    for index, root in tail.nodes:
        yield "tree", NODE_KEY.pack(index), root
    for stream in sorted(tail.heads):
        yield "heads", stream.encode(), encode_head(tail.heads[stream])
    entries = sorted(tail.idempotency.values(), key=lambda entry: entry.stream)
    for stream, run in groupby(entries, key=lambda entry: entry.stream):
        yield "idempotency", stream.encode(), encode_rows(run)


def encode_head(head: StreamHead) -> bytes:
    """The stored value of a head; the key is the stream's name."""
    return _encode((head.version, head.position, head.hash))


def decode_head(stream: str, value: bytes) -> StreamHead:
    """The head in a stored value. Raises `msgspec.MsgspecError`."""
    return StreamHead(stream, *_head_decoder.decode(value))


def indexed_through(transaction: Transaction, meta: Table) -> tuple[int, int]:
    """(last position, last commit id) that the indexes on disk cover."""
    value = transaction.get(INDEXED_THROUGH_KEY, db=meta)
    return (0, 0) if value is None else _through_decoder.decode(value)


def indexed_tree(transaction: Transaction, meta: Table) -> Tree:
    """The Merkle tree over the events that the indexes on disk cover."""
    value = transaction.get(TREE_KEY, db=meta)
    return Tree() if value is None else _tree_decoder.decode(value)
