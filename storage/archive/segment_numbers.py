"""The numbers of the segments in a store's archive: which were given out, and which are to be dropped."""

import zlib
from collections.abc import Collection
from typing import Final

import msgspec

from ..environment.environment import Table, Transaction

SEGMENTS_KEY: Final = b"segments"


class SegmentNumbers(msgspec.Struct, frozen=True, array_like=True):
    """What the log knows of the segments in its archive: the highest number so far, and those that are to be dropped.

    Before a segment is written, its number is reserved and listed as one to be dropped; it leaves that list when a
    `compacted` event names it. So a segment is dropped only if it is listed, never because the row that names it is
    missing.
    """

    last: int = 0
    unused: tuple[int, ...] = ()

    def without(self, numbers: Collection[int]) -> "SegmentNumbers":
        """The same when these are not to be dropped, or were."""
        return SegmentNumbers(self.last, tuple(number for number in self.unused if number not in numbers))


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    last: int
    unused: tuple[int, ...]
    checksum: int
    """CRC-32 of the other two fields: a number that was damaged would look like any other."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Stored).decode


def segment_numbers(transaction: Transaction, meta: Table) -> SegmentNumbers:
    """What is stored. Raises `msgspec.MsgspecError` where it cannot be read, or is not what was stored."""
    value = transaction.get(SEGMENTS_KEY, db=meta)
    if value is None:
        return SegmentNumbers()
    stored = _decode(value)
    numbers = SegmentNumbers(stored.last, stored.unused)
    if stored.checksum != _checksum(numbers):
        raise msgspec.DecodeError("its checksum does not match")
    return numbers


def put_segment_numbers(transaction: Transaction, meta: Table, numbers: SegmentNumbers) -> None:
    """Store them."""
    transaction.put(SEGMENTS_KEY, _encode(_Stored(numbers.last, numbers.unused, _checksum(numbers))), db=meta)


def _checksum(numbers: SegmentNumbers) -> int:
    return zlib.crc32(_encode(numbers))
