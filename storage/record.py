"""Records: one for each event, encoded with msgspec and chained by hash to the previous record of its stream."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["created", "updated", "deleted", "snapshot", "compacted", "saga_step"]

HASH_SIZE_BYTES: Final = 32
GENESIS_HASH: Final = bytes(HASH_SIZE_BYTES)
"""Takes the place of the previous hash for the first event of a stream."""


NS_PER_SECOND: Final = 1_000_000_000
UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class StoredEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One event as the log stores it.

    `position` counts from 1 over the whole log, `version` from 1 within the stream, both without a gap. `time_ns` is
    UTC. `hash` is SHA-256 over the hash of the stream's previous event and all bytes of this record before the hash.
    """

    position: int
    stream: str
    version: int
    type: str
    schema_version: int
    kind: Kind
    time_ns: int
    correlation_id: str
    causation_id: str
    metadata: dict[str, Any]
    payload: dict[str, Any]
    tags: tuple[str, ...]
    hash: bytes

    @property
    def category(self) -> str:
        """The part of the stream's name before its first dash."""
        return self.stream.partition("-")[0]

    @property
    def aggregate_id(self) -> str:
        """The part of the stream's name after its first dash."""
        return self.stream.partition("-")[2]

    @property
    def time(self) -> datetime:
        """`time_ns` as a UTC time, rounded down to the microsecond, so that a query since this time finds the event."""
        return utc_time(self.time_ns)


decode_record: Final = msgspec.msgpack.Decoder(StoredEvent).decode
"""The event in the stored bytes of a record. Raises `msgspec.MsgspecError` or `UnicodeDecodeError`."""


class StreamHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The newest event of a stream: its version, position and hash."""

    stream: str
    version: int
    position: int
    hash: bytes


def utc_time(time_ns: int) -> datetime:
    """`time_ns` as a UTC time, rounded down to the microsecond, so that a query since this time finds the event."""
    return UNIX_EPOCH + timedelta(microseconds=time_ns // 1_000)


def content_hash(previous_hash: bytes, encoded: bytes) -> bytes:
    """The hash of an encoded record: SHA-256 over the previous hash and the record without its own trailing hash."""
    return hashlib.sha256(previous_hash + encoded[:-HASH_SIZE_BYTES]).digest()


def seal(previous_hash: bytes, encoded: bytes) -> tuple[bytes, bytes]:
    """Replace the placeholder `GENESIS_HASH` at the end of an encoded record with its hash; return (record, hash)."""
    body = encoded[:-HASH_SIZE_BYTES]
    digest = hashlib.sha256(previous_hash + body).digest()
    return body + digest, digest
