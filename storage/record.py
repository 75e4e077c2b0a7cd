"""What is stored: one record per event, encoded by msgspec and chained by its hash to the one before it."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["created", "updated", "deleted", "snapshot", "compacted", "saga_step"]

HASH_SIZE_BYTES: Final = 32
GENESIS_HASH: Final = bytes(HASH_SIZE_BYTES)
"""What stands for the previous hash of a stream's first event."""


NS_PER_SECOND: Final = 1_000_000_000
UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class StoredEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One event as the log holds it.

    `position` counts from 1 over the whole log, `version` from 1 within the stream, both without a gap. `time_ns` is
    UTC. `hash` is SHA-256 over the previous event's hash of that stream and every stored byte of this one before it.
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
        """`time_ns` as a time in UTC, rounded down to the microsecond: the event is among those `since` then."""
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
    """A time in UTC, rounded down to the microsecond, so that the event is among those since that time."""
    return UNIX_EPOCH + timedelta(microseconds=time_ns // 1_000)


def content_hash(previous_hash: bytes, encoded: bytes) -> bytes:
    """The hash of an encoded record: over its predecessor's hash and all its bytes but its own trailing hash."""
    return hashlib.sha256(previous_hash + encoded[:-HASH_SIZE_BYTES]).digest()


def seal(previous_hash: bytes, encoded: bytes) -> tuple[bytes, bytes]:
    """Put the hash into a record that was encoded with `GENESIS_HASH` in its place: (sealed record, hash)."""
    body = encoded[:-HASH_SIZE_BYTES]
    digest = hashlib.sha256(previous_hash + body).digest()
    return body + digest, digest
