"""The `compacted` event, which represents the events of a stream that compaction moved to the archive."""

import hashlib
from typing import Any, Final, Literal

import lmdb
import msgspec

from ..environment.environment import Environment
from ..errors import CorruptRecord
from ..record import StoredEvent
from ..snapshot import Snapshot

COMPACTED_TYPE: Final = "eventsrc.compacted"
DIGEST_SIZE_BYTES: Final = 32

Phase = Literal["moving", "moved", "restoring"]


class SegmentRange(msgspec.Struct, frozen=True, array_like=True):
    """The range of versions that a segment of the archive holds."""

    number: int
    first_version: int
    last_version: int


class Compacted(msgspec.Struct, frozen=True, array_like=True):
    """Represents the versions 1 to `version` of a stream: their segments, and the state after them."""

    stream: str
    version: int
    position: int
    event_hash: bytes
    time_ns: int
    phase: Phase
    segments: list[SegmentRange]
    size_bytes: int
    """Bytes of the records as the log held them."""
    archived_size_bytes: int
    schema: str
    state: Any
    state_hash: bytes

    @property
    def snapshot(self) -> Snapshot:
        """The state after the compacted events as a snapshot; it was proved before the events were moved."""
        facts = (self.stream, self.version, self.schema, self.time_ns, self.event_hash, self.state, self.state_hash)
        return Snapshot(*facts, is_proved=True)

    @property
    def event(self) -> StoredEvent:
        """This entry as an event of type `eventsrc.compacted`, for displaying the stream."""
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
            position=self.position,
            stream=self.stream,
            version=self.version,
            type=COMPACTED_TYPE,
            schema_version=1,
            kind="compacted",
            time_ns=self.time_ns,
            correlation_id="",
            causation_id="",
            metadata={},
            payload=payload,
            tags=(),
            hash=self.event_hash,
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


class CompactedStreams:
    """Reads the table of `compacted` events. Raises `CorruptRecord` for a damaged entry."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def of(self, stream: str) -> Compacted | None:
        """The entry of a stream; None if the stream has none."""
        with self._environment.read() as transaction:
            try:
                value = transaction.get(stream.encode(), db=self._environment.table("compacted"))
            except (lmdb.BadValsizeError, UnicodeEncodeError):
                return None
            return None if value is None else self._decoded(stream, value)

    def of_all(self, after: str, limit: int) -> list[Compacted]:
        """At most `limit` entries after the stream name `after`, ordered by stream name."""
        found: list[Compacted] = []
        table = self._environment.table("compacted")
        with self._environment.read() as transaction, transaction.cursor(table) as cursor:
            more = cursor.set_range(after.encode() + b"\0")
            while more and len(found) < limit:
                found.append(self._decoded(cursor.key().decode(), cursor.value()))
                more = cursor.next()
        return found

    def _decoded(self, stream: str, value: bytes) -> Compacted:
        try:
            return decode_compacted(value)
        except CompactedDamaged as error:
            what = f"what stands for the compacted events of {stream!r}: {error}"
            raise CorruptRecord(self._environment.path, 0, what) from error
