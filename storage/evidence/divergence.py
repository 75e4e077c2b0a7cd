"""Compares a store with its fork: where their histories diverge, and which streams differ since."""

from collections.abc import Iterator

import msgspec

from ..reader import LogReader
from ..store import READ_BATCH_EVENTS
from .proof import root_at


class StreamDivergence(msgspec.Struct, frozen=True):
    """A stream that differs between two logs: its last shared version, and its version in each log (0: no stream)."""

    stream: str
    shared_version: int
    version: int
    other_version: int


class Divergence(msgspec.Struct, frozen=True):
    """Both logs have the same events up to `shared_position`; `streams` have events after it in either log."""

    shared_position: int
    streams: list[StreamDivergence]


def divergence(log: LogReader, other: LogReader) -> Divergence:
    """Compare two logs. The point of divergence is found by Merkle roots, without reading the shared events.

    Raises `CorruptRecord`, `ArchiveUnreachable`.
    """
    low, high = 0, min(log.last_position, other.last_position)
    while low < high:
        middle = (low + high + 1) // 2
        if root_at(log, middle) == root_at(other, middle):
            low = middle
        else:
            high = middle - 1
    begins = {**_first_versions(other, low), **_first_versions(log, low)}
    streams = [
        StreamDivergence(stream, begins[stream] - 1, _version(log, stream), _version(other, stream))
        for stream in sorted(begins)
    ]
    return Divergence(low, streams)


def _first_versions(log: LogReader, after: int) -> dict[str, int]:
    """The first version of each stream after a position."""
    found: dict[str, int] = {}
    for stream, version in _placed(log, after):
        found.setdefault(stream, version)
    return found


def _placed(log: LogReader, after: int) -> Iterator[tuple[str, int]]:
    while batch := log.read(after=after, limit=READ_BATCH_EVENTS):
        yield from ((event.stream, event.version) for event in batch)
        after = batch[-1].position


def _version(log: LogReader, stream: str) -> int:
    head = log.head(stream)
    return 0 if head is None else head.version
