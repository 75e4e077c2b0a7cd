"""A group commit as one value: what the journal writes with a single LMDB call.

Under a busy interpreter every LMDB call waits its turn for the GIL, so a batch of records costs as many waits as it has
values. One value per group commit makes that one wait; the offsets at its front keep single records cheap to read.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import Final

import msgspec

from .commit import IdempotencyEntry
from .record import StoredEvent

KEY: Final = struct.Struct(">QQ")
"""First position and first commit id: the second tells groups apart that hold no event."""
_HEADER: Final = struct.Struct("<IIQQ32s")
"""CRC-32 of all that follows, number of records, first and last commit id, root of the Merkle tree after them."""
_CRC_SIZE_BYTES: Final = 4
_ARRAY: Final = struct.Struct(">BI")
_ARRAY_CODE: Final = 0xDD
"""MessagePack's array with a 32-bit length: in front of the records it makes them one array to decode in one go."""

_UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError)

_records_decoder = msgspec.msgpack.Decoder(list[StoredEvent])
_record_decoder = msgspec.msgpack.Decoder(StoredEvent)
_idempotency_decoder = msgspec.msgpack.Decoder(list[IdempotencyEntry])
_encoder = msgspec.msgpack.Encoder()


class GroupDamaged(ValueError):
    """The bytes of a group do not pass its own check; the log turns it into `CorruptRecord`."""


class Group:
    """A stored group commit, checked and ready to be read."""

    __slots__ = ("_body", "_ends", "_value", "count", "first_commit_id", "first_position", "last_commit_id", "root")

    first_position: int
    count: int
    first_commit_id: int
    last_commit_id: int
    root: bytes
    """Of the Merkle tree over all events through this group's last."""

    def __init__(self, first_position: int, value: bytes) -> None:
        try:
            crc, self.count, self.first_commit_id, self.last_commit_id, self.root = _HEADER.unpack_from(value)
            if zlib.crc32(memoryview(value)[_CRC_SIZE_BYTES:]) != crc:
                raise GroupDamaged("its checksum does not match")
            self._ends: tuple[int, ...] = struct.unpack_from(f"<{self.count}I", value, _HEADER.size)
        except struct.error as error:
            raise GroupDamaged(f"it is cut off ({error})") from error
        self._value = value
        self.first_position = first_position
        self._body = _HEADER.size + 4 * self.count

    @property
    def last_position(self) -> int:
        """The position of its last record; one before `first_position` where it has none."""
        return self.first_position + self.count - 1

    def records(self) -> list[StoredEvent]:
        """Every record, decoded in one go."""
        if not self.count:
            return []
        try:
            return _records_decoder.decode(memoryview(self._value)[self._body : self._records_end])
        except _UNDECODABLE as error:
            raise GroupDamaged(str(error)) from error

    def records_between(self, first: int, last: int) -> list[StoredEvent]:
        """The records from one position through another, decoded in one go."""
        start = self._ends[first - self.first_position - 1] if first > self.first_position else _ARRAY.size
        content = self._value[self._body + start : self._body + self._ends[last - self.first_position]]
        try:
            return _records_decoder.decode(_ARRAY.pack(_ARRAY_CODE, last - first + 1) + content)
        except _UNDECODABLE as error:
            raise GroupDamaged(str(error)) from error

    def record(self, position: int) -> StoredEvent:
        """One record, decoded alone."""
        try:
            return _record_decoder.decode(self.encoded(position))
        except _UNDECODABLE as error:
            raise GroupDamaged(str(error)) from error

    def encoded(self, position: int) -> bytes:
        """The stored bytes of one record, as its hash covers them."""
        index = position - self.first_position
        start = self._ends[index - 1] if index else _ARRAY.size
        return self._value[self._body + start : self._body + self._ends[index]]

    def encoded_records(self) -> list[bytes]:
        """The stored bytes of every record."""
        body, value = self._body, self._value
        starts = (_ARRAY.size, *self._ends[:-1])
        return [value[body + start : body + end] for start, end in zip(starts, self._ends, strict=False)]

    def idempotency(self) -> list[IdempotencyEntry]:
        """The idempotency keys that its commits answered."""
        tail = memoryview(self._value)[self._records_end :]
        try:
            return _idempotency_decoder.decode(tail) if tail else []
        except _UNDECODABLE as error:
            raise GroupDamaged(str(error)) from error

    @property
    def _records_end(self) -> int:
        return self._body + (self._ends[-1] if self._ends else 0)


def encode_group(
    first_commit_id: int,
    last_commit_id: int,
    root: bytes,
    records: Sequence[bytes],
    idempotency: Sequence[IdempotencyEntry],
) -> bytes:
    """The value that stands for a group: header, where each record ends, the records, the idempotency keys."""
    ends = []
    end = _ARRAY.size
    for record in records:
        end += len(record)
        ends.append(end)
    content = b"".join(
        (
            _HEADER.pack(0, len(records), first_commit_id, last_commit_id, root)[_CRC_SIZE_BYTES:],
            struct.pack(f"<{len(ends)}I", *ends),
            _ARRAY.pack(_ARRAY_CODE, len(records)) if records else b"",
            *records,
            _encoder.encode(idempotency) if idempotency else b"",
        )
    )
    return zlib.crc32(content).to_bytes(_CRC_SIZE_BYTES, "little") + content
