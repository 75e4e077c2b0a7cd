"""The `compacted` event: what stands for the events of a stream that compaction moved to the archive."""

import hashlib
from typing import Any, Final, Literal

import msgspec

from .record import StoredEvent
from .snapshot import Snapshot

COMPACTED_TYPE: Final = "eventsrc.compacted"
DIGEST_SIZE_BYTES: Final = 32

Phase = Literal["moving", "moved", "restoring"]


class SegmentRange(msgspec.Struct, frozen=True, array_like=True):
    """Which versions a segment of the archive holds."""

    number: int
    first_version: int
    last_version: int


class Compacted(msgspec.Struct, frozen=True, array_like=True):
    """What stands for the versions 1 to `version` of a stream: where they are, and the state that they lead to."""

    stream: str
    version: int
    position: int
    event_hash: bytes
    time_ns: int
    phase: Phase
    segments: list[SegmentRange]
    size_bytes: int
    """Of the records, as the log held them."""
    archived_size_bytes: int
    schema: str
    state: Any
    state_hash: bytes

    @property
    def snapshot(self) -> Snapshot:
        """The state that the events lead to, which was proved before they were moved."""
        facts = (self.stream, self.version, self.schema, self.time_ns, self.event_hash, self.state, self.state_hash)
        return Snapshot(*facts, is_proved=True)

    @property
    def event(self) -> StoredEvent:
        """The same as an event, for whoever looks at the stream."""
        payload = {
            "versions": self.version,
            "phase": self.phase,
            "segments": [segment.number for segment in self.segments],
            "size_bytes": self.size_bytes,
            "archived_size_bytes": self.archived_size_bytes,
            "schema": self.schema,
            "state": self.state,
            "state_hash": self.state_hash.hex(),
        }
        return StoredEvent(
            self.position,
            self.stream,
            self.version,
            COMPACTED_TYPE,
            1,
            "compacted",
            self.time_ns,
            "",
            "",
            {},
            payload,
            (),
            self.event_hash,
        )


class CompactedDamaged(ValueError):
    """A stored entry does not match its own hash."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Compacted).decode


def encode_compacted(compacted: Compacted) -> bytes:
    """The stored bytes: SHA-256 of the encoded entry, then the encoded entry."""
    encoded = _encode(compacted)
    return hashlib.sha256(encoded).digest() + encoded


def decode_compacted(value: bytes) -> Compacted:
    """The entry in stored bytes. Raises `CompactedDamaged`."""
    digest, encoded = value[:DIGEST_SIZE_BYTES], value[DIGEST_SIZE_BYTES:]
    if hashlib.sha256(encoded).digest() != digest:
        raise CompactedDamaged("its hash does not match")
    try:
        return _decode(encoded)
    except msgspec.MsgspecError as error:
        raise CompactedDamaged(str(error)) from error
