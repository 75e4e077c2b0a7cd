"""Snapshots: the state of an aggregate at a version, and its encoding."""

import hashlib
from typing import Any, Final

import msgspec

_encode: Final = msgspec.msgpack.Encoder().encode


class SnapshotDamaged(ValueError):
    """A stored snapshot does not match its own hash; readers fall back to an older one or to the events."""


class Snapshot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The state of `stream` after `version`.

    `state` is plain data; for writing it may also be encoded already (`msgspec.Raw`). `schema` identifies the shape of
    the state's class at the time of writing. `event_hash` is the hash of the event at `version`; it reveals a snapshot
    that belongs to another history. `state_hash` is SHA-256 of the encoded state; the store computes it.
    """

    stream: str
    version: int
    schema: str
    time_ns: int
    event_hash: bytes
    state: Any
    state_hash: bytes = b""
    is_proved: bool = False
    """The events were replayed and gave this state."""
    quarantined: str = ""
    """If not empty, the replayed events gave another state, which this describes; the snapshot is never loaded."""

    def with_state_hash(self) -> "Snapshot":
        """A copy of this snapshot with its `state_hash` computed."""
        digest = hashlib.sha256(encode_state(self.state)).digest()
        return msgspec.structs.replace(self, state_hash=digest)


_decoder: Final = msgspec.msgpack.Decoder(Snapshot)


def encode_state(state: Any) -> bytes:
    """The encoded state, which `state_hash` covers."""
    return bytes(state) if isinstance(state, msgspec.Raw) else _encode(state)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The stored bytes: SHA-256 of the encoded snapshot, then the encoded snapshot.

    Raises `TypeError` or `ValueError` if the state is not plain data.
    """
    state = msgspec.Raw(encode_state(snapshot.state))
    encoded = _encode(msgspec.structs.replace(snapshot, state=state).with_state_hash())
    return hashlib.sha256(encoded).digest() + encoded


def decode_snapshot(value: bytes) -> Snapshot:
    """The snapshot in stored bytes. Raises `SnapshotDamaged`."""
    digest, encoded = value[:32], value[32:]
    if hashlib.sha256(encoded).digest() != digest:
        raise SnapshotDamaged("its hash does not match")
    try:
        return _decoder.decode(encoded)
    except msgspec.MsgspecError as error:
        raise SnapshotDamaged(str(error)) from error
