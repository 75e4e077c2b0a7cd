"""Signed checkpoints: statements about the content of the log, to be kept outside of the store.

A checkpoint has the number of events and the root of the Merkle tree over them. With an old checkpoint one can verify
that no event up to it was changed, removed or inserted; with the checkpoint and a `Proof` one can verify a single event
without the log. Signatures are Ed25519 (RFC 8032) by the library `cryptography`, the extra `evidence`.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ..environment.folder import sync_folder
from ..reader import LogReader
from ..record import NS_PER_SECOND
from .errors import CheckpointInvalid, SigningKeyInvalid

CHECKPOINT_VERSION: Final = 2
KEY_FILE_MODE: Final = 0o600


class SignedCheckpoint(msgspec.Struct, frozen=True):
    """States that a log had `size` events with the Merkle root `root` at `time` (ISO 8601, UTC), with a signature.

    `first` is the hash of the first event, which identifies the log; empty if the log has no event.
    """

    size: int
    root: bytes
    first: bytes
    time: str
    public_key: bytes
    signature: bytes

    @property
    def text(self) -> str:
        """The checkpoint as one line of JSON, for `read_checkpoint`."""
        return msgspec.json.encode(
            _Line(
                CHECKPOINT_VERSION,
                self.size,
                self.root.hex(),
                self.first.hex(),
                self.time,
                self.public_key.hex(),
                self.signature.hex(),
            )
        ).decode()


class _Version(msgspec.Struct, frozen=True):
    eventsrc_checkpoint: int


class _Line(msgspec.Struct, frozen=True):
    eventsrc_checkpoint: int
    size: int
    root: str
    first: str
    time: str
    public_key: str
    signature: str


def make_checkpoint(store: LogReader, key: Ed25519PrivateKey, *, time_ns: int) -> SignedCheckpoint:
    """Make and sign a checkpoint of the log's present content. `time_ns` is in UTC, and is stored in whole seconds."""
    size, root = store.tree
    time = datetime.fromtimestamp(time_ns // NS_PER_SECOND, UTC).isoformat()
    first = store.hashes(1, 1)[0] if size else b""
    signature = key.sign(_statement(size, root, first, time))
    return SignedCheckpoint(size, root, first, time, key.public_key().public_bytes_raw(), signature)


def read_checkpoint(text: str | bytes, *, public_key: bytes | None = None) -> SignedCheckpoint:
    """The checkpoint in a text, with its signature checked.

    Args:
        text: the value of `SignedCheckpoint.text`.
        public_key: the public key (32 bytes) that must have signed the checkpoint; without it, the key in the text
            itself is used, which does not prove who signed.

    Raises:
        CheckpointInvalid: the text is no checkpoint, was changed, or was signed with another key.

    """
    try:
        version = msgspec.json.decode(text, type=_Version).eventsrc_checkpoint
        if version != CHECKPOINT_VERSION:
            raise CheckpointInvalid(f"The checkpoint has version {version}, and this reads {CHECKPOINT_VERSION}.")
        line = msgspec.json.decode(text, type=_Line)
        key = bytes.fromhex(line.public_key)
        root, first = bytes.fromhex(line.root), bytes.fromhex(line.first)
        found = SignedCheckpoint(line.size, root, first, line.time, key, bytes.fromhex(line.signature))
    except (msgspec.MsgspecError, ValueError) as error:
        raise CheckpointInvalid(f"This is no checkpoint of eventsrc: {error}.") from error
    if public_key not in (None, key):
        raise CheckpointInvalid(f"The checkpoint was signed with the key {key.hex()}, not {public_key.hex()}.")
    _verify(found)
    return found


def _verify(checkpoint: SignedCheckpoint) -> None:
    try:
        key = Ed25519PublicKey.from_public_bytes(checkpoint.public_key)
        key.verify(
            checkpoint.signature, _statement(checkpoint.size, checkpoint.root, checkpoint.first, checkpoint.time)
        )
    except (InvalidSignature, ValueError) as error:
        raise CheckpointInvalid(
            f"The signature of the checkpoint of {checkpoint.size} events is not right: it was changed, or made up."
        ) from error


def _statement(size: int, root: bytes, first: bytes, time: str) -> bytes:
    """The bytes that the signature covers."""
    return f"eventsrc checkpoint {CHECKPOINT_VERSION}\n{size}\n{root.hex()}\n{first.hex()}\n{time}\n".encode()


# --- the key ---


def new_signing_key(path: Path) -> Ed25519PrivateKey:
    """Generate an Ed25519 key and write it to a new file (PEM, PKCS #8, unencrypted) that only its owner may read.

    Raises `SigningKeyInvalid` if the file exists already or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, KEY_FILE_MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(path.parent)
        except BaseException:
            path.unlink()  # a partial file would prevent the next attempt
            raise
    except FileExistsError as error:
        advice = "Leave out --new-key to sign with the key in it, or name a path that is free"
        raise SigningKeyInvalid(str(path), "a new one overwrites nothing, and it is there already", advice) from error
    except OSError as error:
        advice = "Name a file that can be made"
        raise SigningKeyInvalid(str(path), error.strerror or str(error), advice) from error
    return key


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 private key in a file (PEM). Raises `SigningKeyInvalid`."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise SigningKeyInvalid(str(path), error.strerror or str(error)) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningKeyInvalid(str(path), str(error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyInvalid(str(path), f"it holds a {type(key).__name__}")
    return key
