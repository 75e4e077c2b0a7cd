"""Verifies the snapshots: each must be undamaged and belong to an existing version.

Only a runtime, which has the classes, can prove that the events give the state. A missing snapshot is no fault, since
snapshots may be dropped at any time.
"""

import hashlib
from collections.abc import Iterator

from ..environment.environment import Transaction
from ..indexes.postings import split_key
from ..snapshot import Snapshot, SnapshotDamaged, decode_snapshot, encode_state
from .compacted import CompactedCheck
from .finding import Finding
from .log import LogWalk


class SnapshotCheck:
    """Checks each snapshot, and tells the walk through the log which hash the event at its version must have."""

    def __init__(self, walk: LogWalk, compacted: CompactedCheck) -> None:
        self._walk = walk
        self._compacted = compacted
        self.count = 0

    def __call__(self, _: Transaction, key: bytes, value: bytes) -> Iterator[Finding]:
        try:
            stream, version = split_key(key)
        except ValueError as error:
            yield Finding("snapshots", f"the key {key!r} cannot be read: {error}")
            return
        self.count += 1
        try:
            snapshot = decode_snapshot(value)
        except SnapshotDamaged as error:
            yield Finding("snapshots", f"it cannot be decoded: {error}", stream, version)
            return
        for problem in _problems(snapshot, stream, version):
            yield Finding("snapshots", problem, stream, version)
        differs = self._compacted.check_snapshot(snapshot)
        if differs is not None:
            yield differs
        if (snapshot.stream, snapshot.version) == (stream, version):
            self._walk.pin(stream, version, "snapshots", snapshot.event_hash)


def _problems(snapshot: Snapshot, stream: str, version: int) -> Iterator[str]:
    if (snapshot.stream, snapshot.version) != (stream, version):
        yield f"it holds a snapshot of stream {snapshot.stream!r} at version {snapshot.version}"
    if hashlib.sha256(encode_state(snapshot.state)).digest() != snapshot.state_hash:
        yield "its state does not have the hash that it says"
    if snapshot.is_proved and snapshot.quarantined:
        yield "it is proved and in quarantine at once"
