"""The part of a verification that is about compaction: the archive, and the events that stand for what is in it."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from .archive import Archive
from .compacted import Compacted, CompactedDamaged, decode_compacted
from .environment import Transaction
from .errors import ArchiveUnreachable
from .finding import Finding
from .group import STUB, is_stub, segment_of
from .record import HASH_SIZE_BYTES, StoredEvent

if TYPE_CHECKING:
    from .verify_log import LogWalk, Window

SEGMENTS_KEPT: Final = 64
_event_of: Final = msgspec.msgpack.Decoder(StoredEvent).decode


class ArchiveWalk:
    """Fetches what the stubs in the log stand for. What cannot be had is told once for each segment."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._streams: dict[int, tuple[str, int]] = {}
        """The stream and first version of each segment, as the `compacted` events say."""
        self._kept: OrderedDict[int, dict[int, bytes]] = OrderedDict()
        self._lost: set[int] = set()

    def check_compacted(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        """Look at what stands for the events of one stream. To be called before the log is walked."""
        try:
            compacted = decode_compacted(value)
        except CompactedDamaged as error:
            return [Finding("compacted", f"it cannot be decoded: {error}", key.decode(errors="replace"))]
        stream = key.decode(errors="replace")
        if compacted.stream != stream:
            return [Finding("compacted", f"it stands for events of {compacted.stream!r}", stream)]
        for segment in compacted.segments:
            self._streams[segment.number] = stream, segment.first_version
        return _gaps(compacted)

    def resolved(
        self, walk: "LogWalk", window: "Window", first_position: int, encoded: list[bytes]
    ) -> Iterator[tuple[int, StoredEvent, bytes]]:
        """The records of a group that has stubs, with their positions; what cannot be had is noted and passed over."""
        for position, content in enumerate(encoded, first_position):
            if not is_stub(content):
                yield position, _event_of(content), content
                continue
            number, digest = segment_of(content[2:])
            record = self._record(window, number, position)
            if record is not None and record[-HASH_SIZE_BYTES:] == digest:
                yield position, _event_of(record), record
                continue
            if record is not None:
                problem = f"segment {number} holds another event than the one that was moved there"
                window.findings.append(Finding("archive", problem, position=position))
            self._pass_over(walk, window, number, position, digest)

    def _record(self, window: "Window", number: int, position: int) -> bytes | None:
        if number in self._lost:
            return None
        records = self._kept.get(number)
        if records is None:
            try:
                records = {_event_of(record).position: record for record in self._archive.records(number)}
            except (ArchiveUnreachable, msgspec.MsgspecError) as error:
                self._lost.add(number)
                stream, version = self._streams.get(number, (None, None))
                window.findings.append(Finding("archive", str(error), stream, version, position))
                return None
            self._kept[number] = records
            if len(self._kept) > SEGMENTS_KEPT:
                self._kept.popitem(last=False)
        return records.get(position, bytes(STUB.size))

    def _pass_over(self, walk: "LogWalk", window: "Window", number: int, position: int, digest: bytes) -> None:
        """The next version of its stream is here, of which only the hash is known."""
        walk.mark_unreadable(position)
        if number in self._streams:
            walk.pass_over(window, self._streams[number][0], position, digest)


def _gaps(compacted: Compacted) -> list[Finding]:
    version = 0
    for segment in compacted.segments:
        if segment.first_version != version + 1 or segment.last_version < segment.first_version:
            break
        version = segment.last_version
    if version == compacted.version:
        return []
    problem = f"its segments do not hold the versions 1 to {compacted.version}"
    return [Finding("compacted", problem, compacted.stream, version + 1)]
