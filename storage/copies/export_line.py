"""One event as a line of JSON from which its stored bytes can be reproduced, bit for bit."""

from base64 import b64decode, b64encode
from typing import Any, Final

import msgspec

from ..commit import IdempotencyEntry
from ..record import GENESIS_HASH, HASH_SIZE_BYTES, StoredEvent, decode_record


class Line(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One event of an export. Data that JSON cannot represent exactly (bytes, for example) are MessagePack in Base64.

    `record` is set if the stored bytes cannot be reproduced from the other fields; it has the stored bytes without the
    hash at their end. The first event of each group commit has the group's first and last commit id, and the
    idempotency keys that had not expired at the end of the export.
    """

    position: int
    stream: str
    version: int
    type: str
    schema_version: int
    kind: str
    time_ns: int
    correlation_id: str
    causation_id: str
    hash: str
    payload: Any = None
    metadata: Any = msgspec.field(default_factory=dict)
    tags: list[str] = []
    payload_msgpack: str = ""
    metadata_msgpack: str = ""
    record: str = ""
    commits: tuple[int, int] | None = None
    idempotency: list[IdempotencyEntry] = []


_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder().decode
_to_json: Final = msgspec.json.Encoder().encode
_line_of: Final = msgspec.json.Decoder(Line).decode
_from_json: Final = msgspec.json.Decoder().decode

UNDECODABLE: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
"""The errors that decoding an invalid line raises."""


def encode_line(
    event: StoredEvent, record: bytes, commits: tuple[int, int] | None, idempotency: list[IdempotencyEntry]
) -> bytes:
    """The line of an event, in the most readable form from which `record`, its stored bytes, can be reproduced."""
    for line in (_plain(event), _packed(event)):
        whole = msgspec.structs.replace(line, commits=commits, idempotency=idempotency)
        try:
            encoded = _to_json(whole)
            if _record_of(_line_of(encoded)) == record:
                return encoded
        except UNDECODABLE:
            continue
    body = b64encode(record[:-HASH_SIZE_BYTES]).decode()
    return _to_json(msgspec.structs.replace(_packed(event), record=body, commits=commits, idempotency=idempotency))


def decode_line(text: bytes) -> tuple[Line, bytes]:
    """(the line, the stored bytes of its event). Raises one of `UNDECODABLE`."""
    line = _line_of(text)
    if not line.record:
        return line, _record_of(line)
    record = b64decode(line.record, validate=True) + bytes.fromhex(line.hash)
    plain = msgspec.structs.replace(line, record="", commits=None, idempotency=[])
    if plain != _packed(decode_record(record)):
        raise ValueError("its fields are not those of its record")
    return line, record


def _plain(event: StoredEvent) -> Line:
    return Line(
        position=event.position,
        stream=event.stream,
        version=event.version,
        type=event.type,
        schema_version=event.schema_version,
        kind=event.kind,
        time_ns=event.time_ns,
        correlation_id=event.correlation_id,
        causation_id=event.causation_id,
        hash=event.hash.hex(),
        payload=event.payload,
        metadata=event.metadata,
        tags=list(event.tags),
    )


def _packed(event: StoredEvent) -> Line:
    """The line of an event, with payload and metadata in MessagePack where JSON does not preserve them."""
    payload, payload_msgpack = _as_json(event.payload)
    metadata, metadata_msgpack = _as_json(event.metadata)
    return msgspec.structs.replace(
        _plain(event),
        payload=payload,
        metadata=metadata,
        payload_msgpack=payload_msgpack,
        metadata_msgpack=metadata_msgpack,
    )


def _as_json(data: Any) -> tuple[Any, str]:
    """(data, "") if JSON preserves the data; otherwise (None, MessagePack of the data in Base64)."""
    packed = _pack(data)
    try:
        is_lossless = _pack(_from_json(_to_json(data))) == packed
    except UNDECODABLE:
        is_lossless = False
    return (data, "") if is_lossless else (None, b64encode(packed).decode())


def _record_of(line: Line) -> bytes:
    payload = _unpack(b64decode(line.payload_msgpack, validate=True)) if line.payload_msgpack else line.payload
    metadata = _unpack(b64decode(line.metadata_msgpack, validate=True)) if line.metadata_msgpack else line.metadata
    digest = bytes.fromhex(line.hash)
    if len(digest) != HASH_SIZE_BYTES:
        raise ValueError(f"its hash has {len(digest)} bytes and not {HASH_SIZE_BYTES}")
    encoded = _pack(
        (
            line.position,
            line.stream,
            line.version,
            line.type,
            line.schema_version,
            line.kind,
            line.time_ns,
            line.correlation_id,
            line.causation_id,
            metadata,
            payload,
            line.tags,
            GENESIS_HASH,
        )
    )
    return encoded[:-HASH_SIZE_BYTES] + digest
