"""The numbers of the segments in a store's archive: the numbers assigned so far, and those to be dropped."""

import zlib
from collections.abc import Collection
from typing import Final

import msgspec

from ..environment.environment import Table, Transaction

SEGMENTS_KEY: Final = b"segments"


class SegmentNumbers(msgspec.Struct, frozen=True, array_like=True):
    """The segment numbers that the log keeps: the highest number so far, and the numbers of segments to be dropped.

    Before a segment is written, its number is reserved and listed in `unused`; it leaves the list when a `compacted`
    event names it. A segment is dropped only if it is listed, never because the row that names it is missing.
    """

    last: int = 0
    unused: tuple[int, ...] = ()

    def without(self, numbers: Collection[int]) -> "SegmentNumbers":
        """A copy without `numbers` in `unused`."""
        return SegmentNumbers(self.last, tuple(number for number in self.unused if number not in numbers))


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    last: int
    unused: tuple[int, ...]
    checksum: int
    """CRC-32 of the other two fields, since a damaged number looks like any other number."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Stored).decode


def segment_numbers(transaction: Transaction, meta: Table) -> SegmentNumbers:
    """The stored numbers. Raises `msgspec.MsgspecError` if the row cannot be decoded or its checksum does not match."""
    value = transaction.get(SEGMENTS_KEY, db=meta)
    if value is None:
        return SegmentNumbers()
    stored = _decode(value)
    numbers = SegmentNumbers(stored.last, stored.unused)
    if stored.checksum != _checksum(numbers):
        raise msgspec.DecodeError("its checksum does not match")
    return numbers


def put_segment_numbers(transaction: Transaction, meta: Table, numbers: SegmentNumbers) -> None:
    """Store the numbers with their checksum."""
    transaction.put(SEGMENTS_KEY, _encode(_Stored(numbers.last, numbers.unused, _checksum(numbers))), db=meta)


def _checksum(numbers: SegmentNumbers) -> int:
    return zlib.crc32(_encode(numbers))
