"""A group commit as one LMDB value, which the journal writes with a single LMDB call.

In a busy interpreter every LMDB call waits for the GIL, so a batch of records stored as separate values would wait once
for each. One value per group commit needs one wait; the offsets at its front keep single records cheap to read.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from .commit import IdempotencyEntry
from .record import HASH_SIZE_BYTES, StoredEvent

KEY: Final = struct.Struct(">QQ")
"""First position, first commit id. The commit id makes the keys of groups without events unique."""
_HEADER: Final = struct.Struct("<IIIQQ32s")
"""CRC-32 of all that follows, number of records, number of stubs among them, first and last commit id, root of the
Merkle tree through the last record."""
_CRC_SIZE_BYTES: Final = 4
_ARRAY: Final = struct.Struct(">BI")
_ARRAY_CODE: Final = 0xDD
"""MessagePack's array with a 32-bit length. This header before the records makes them one array to decode at once."""

_UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError)

STUB: Final = struct.Struct(">BBQQ32s")
"""The stub of an archived record: MessagePack's header for 48 bytes, the segment, the event's time and its hash."""
_STUB_HEADER: Final = (0xC4, 48)
_SEGMENT_AND_TIME: Final = struct.Struct(">QQ")

Record: TypeAlias = StoredEvent | bytes
"""An event, or the content of its stub without MessagePack's header."""

_records_decoder = msgspec.msgpack.Decoder(list[StoredEvent])
_record_decoder = msgspec.msgpack.Decoder(StoredEvent)
_fields = msgspec.structs.fields(StoredEvent)
_through_time = _fields[: [field.name for field in _fields].index("time_ns") + 1]
_RecordTime = msgspec.defstruct(
    "_RecordTime", [(field.name, field.type) for field in _through_time], array_like=True, gc=False
)
_time_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(_RecordTime)
"""Decodes a record up to its time; the later fields are skipped."""
_mixed_decoder = msgspec.msgpack.Decoder(list[StoredEvent | bytes])
_idempotency_decoder = msgspec.msgpack.Decoder(list[IdempotencyEntry])
_encoder = msgspec.msgpack.Encoder()


class GroupDamaged(ValueError):
    """The bytes of a group are damaged. The log raises this as `CorruptRecord`."""


class Group:
    """A stored group commit. Construction checks the CRC; construction and decoding raise `GroupDamaged`."""

    __slots__ = (
        "_body",
        "_ends",
        "_value",
        "count",
        "first_commit_id",
        "first_position",
        "last_commit_id",
        "root",
        "stubs",
    )

    first_position: int
    count: int
    stubs: int
    """How many of the records are stubs of archived records."""
    first_commit_id: int
    last_commit_id: int
    root: bytes
    """The root of the Merkle tree over all events through the last of this group."""

    def __init__(self, first_position: int, value: bytes) -> None:
        try:
            (crc, self.count, self.stubs, self.first_commit_id, self.last_commit_id, self.root) = _HEADER.unpack_from(
                value
            )
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
        """The position of the last record; `first_position - 1` if the group has none."""
        return self.first_position + self.count - 1

    def records(self) -> Sequence[Record]:
        """All records, decoded at once."""
        if not self.count:
            return []
        decoder = _mixed_decoder if self.stubs else _records_decoder
        try:
            return decoder.decode(memoryview(self._value)[self._body : self._records_end])
        except _UNDECODABLE as error:
            raise GroupDamaged(str(error)) from error

    def records_between(self, first: int, last: int) -> Sequence[Record]:
        """The records from position `first` through `last`, decoded at once. The group must have both positions."""
        start = self._ends[first - self.first_position - 1] if first > self.first_position else _ARRAY.size
        content = memoryview(self._value)[self._body + start : self._body + self._ends[last - self.first_position]]
        try:
            decoder = _mixed_decoder if self.stubs else _records_decoder
            return decoder.decode(b"".join((_ARRAY.pack(_ARRAY_CODE, last - first + 1), content)))
        except _UNDECODABLE as error:
            raise GroupDamaged(str(error)) from error

    def record(self, position: int) -> Record:
        """One record, decoded alone, or the content of its stub."""
        encoded = self.encoded(position)
        if is_stub(encoded):
            return encoded[2:]
        try:
            return _record_decoder.decode(encoded)
        except _UNDECODABLE as error:
            raise GroupDamaged(str(error)) from error

    def encoded(self, position: int) -> bytes:
        """The stored bytes of one record: its encoding, which ends with its hash, or its stub."""
        index = position - self.first_position
        start = self._ends[index - 1] if index else _ARRAY.size
        return self._value[self._body + start : self._body + self._ends[index]]

    def time_ns(self, position: int) -> int:
        """The time of one event, archived or not."""
        record = self.record(position)
        return record.time_ns if isinstance(record, StoredEvent) else _SEGMENT_AND_TIME.unpack_from(record)[1]

    def encoded_records(self) -> list[bytes]:
        """The stored bytes of every record, or of its stub."""
        body, value = self._body, self._value
        starts = (_ARRAY.size, *self._ends[:-1])
        return [value[body + start : body + end] for start, end in zip(starts, self._ends, strict=False)]

    def idempotency(self) -> list[IdempotencyEntry]:
        """The idempotency entries of the commits in the group."""
        tail = memoryview(self._value)[self._records_end :]
        try:
            return _idempotency_decoder.decode(tail) if tail else []
        except _UNDECODABLE as error:
            raise GroupDamaged(str(error)) from error

    def with_records(self, changed: Mapping[int, bytes]) -> bytes:
        """The value of this group with the records at the given positions replaced."""
        records = self.encoded_records()
        for position, encoded in changed.items():
            records[position - self.first_position] = encoded
        return _pack(self.first_commit_id, self.last_commit_id, self.root, records, self._value[self._records_end :])

    @property
    def _records_end(self) -> int:
        return self._body + (self._ends[-1] if self._ends else 0)


class MovedGroup(msgspec.Struct, frozen=True):
    """A group commit on its way from one log to another: its stored records, and the same records decoded."""

    first_commit_id: int
    last_commit_id: int
    records: list[bytes]
    events: list[StoredEvent]
    """The decoded `records`; at least one."""
    idempotency: list[IdempotencyEntry]

    @property
    def size_bytes(self) -> int:
        """The bytes of the records."""
        return sum(map(len, self.records))

    def between(self, after: int, through: int) -> "MovedGroup | None":
        """The part after position `after` through position `through`; None if it has no event."""
        first = self.events[0].position
        if after < first and self.events[-1].position <= through:
            return self
        part = slice(max(after + 1 - first, 0), max(through + 1 - first, 0))
        keys = [entry for entry in self.idempotency if after < entry.position <= through]
        records, events = self.records[part], self.events[part]
        return MovedGroup(self.first_commit_id, self.last_commit_id, records, events, keys) if events else None


def encode_group(
    first_commit_id: int,
    last_commit_id: int,
    root: bytes,
    records: Sequence[bytes],
    idempotency: Sequence[IdempotencyEntry],
) -> bytes:
    """The stored value of a group: header, end offsets of the records, records, idempotency entries."""
    tail = _encoder.encode(idempotency) if idempotency else b""
    return _pack(first_commit_id, last_commit_id, root, records, tail)


def stub_for(segment: int, encoded: bytes) -> bytes:
    """The stub of a record that was moved to a segment of the archive."""
    return STUB.pack(*_STUB_HEADER, segment, _time_decoder.decode(encoded).time_ns, encoded[-HASH_SIZE_BYTES:])


def is_stub(encoded: bytes) -> bool:
    """Whether the stored bytes of a record are a stub."""
    return encoded[0] == _STUB_HEADER[0]


def segment_of(stub: bytes) -> tuple[int, bytes]:
    """(segment number, hash of the event) in the content of a stub."""
    return _SEGMENT_AND_TIME.unpack_from(stub)[0], stub[-HASH_SIZE_BYTES:]


def split_stub(stub: bytes) -> tuple[int, int, bytes]:
    """(segment number, time of the event, hash of the event) in the content of a stub."""
    return (*_SEGMENT_AND_TIME.unpack_from(stub), stub[-HASH_SIZE_BYTES:])


def _pack(first_commit_id: int, last_commit_id: int, root: bytes, records: Sequence[bytes], tail: bytes) -> bytes:
    ends = []
    end = _ARRAY.size
    stubs = 0
    for record in records:
        end += len(record)
        ends.append(end)
        stubs += record[0] == _STUB_HEADER[0]
    content = b"".join(
        (
            _HEADER.pack(0, len(records), stubs, first_commit_id, last_commit_id, root)[_CRC_SIZE_BYTES:],
            struct.pack(f"<{len(ends)}I", *ends),
            _ARRAY.pack(_ARRAY_CODE, len(records)) if records else b"",
            *records,
            tail,
        )
    )
    return zlib.crc32(content).to_bytes(_CRC_SIZE_BYTES, "little") + content
