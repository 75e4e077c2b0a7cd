"""The `compacted` event: what stands for the events of a stream that compaction moved to the archive."""

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
    """The table of these entries, read. Raises `CorruptRecord` for one that is damaged."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def of(self, stream: str) -> Compacted | None:
        """The entry of a stream; None where there is none."""
        with self._environment.read() as transaction:
            try:
                value = transaction.get(stream.encode(), db=self._environment.table("compacted"))
            except (lmdb.BadValsizeError, UnicodeEncodeError):
                return None
            return None if value is None else self._decoded(stream, value)

    def of_all(self, after: str, limit: int) -> list[Compacted]:
        """At most so many entries, in the order of their streams' names, after the name `after`."""
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
