"""Chooses the streams to compact: those that have grown long, and those that ended long ago."""

from collections.abc import Callable, Iterator
from typing import Final

import attrs

from ...actors.messages import SAGA_STEP
from ...actors.subjects import SUBJECT_FORGOTTEN
from ...storage.archive.compacted import Compacted
from ...storage.limits import Limits
from ...storage.query import find_streams
from ...storage.reader import LogReader
from ...storage.record import NS_PER_SECOND, StreamHead

NS_PER_DAY: Final = 24 * 3_600 * NS_PER_SECOND


@attrs.frozen
class CompactionCandidate:
    """A stream that the policy would compact, and why."""

    stream: str
    events: int
    """Events that are not in the archive yet."""
    reason: str


@attrs.frozen
class RetentionPolicy:
    """The policy of `Limits.compaction_events_min` and `Limits.retention_days` at a time (UTC, ns)."""

    limits: Limits
    wall_clock: Callable[[], int]

    def candidates(self, log: LogReader) -> Iterator[CompactionCandidate]:
        """The streams that the policy names now. Reads much: call it in a worker thread."""
        for head in find_streams(log):
            compacted = log.compacted(head.stream)
            reason = self.reason(log, head, compacted)
            if reason is not None:
                yield CompactionCandidate(head.stream, head.version - (compacted.version if compacted else 0), reason)

    def reason(self, log: LogReader, head: StreamHead, compacted: Compacted | None) -> str | None:
        """Why a stream should be compacted; None where it should stay as it is."""
        moved = compacted.version if compacted is not None else 0
        if moved == head.version:
            return None
        (newest,) = log.read_stream(head.stream, from_version=head.version, limit=1)
        if newest.kind == SAGA_STEP or newest.type == SUBJECT_FORGOTTEN:
            return None
        if head.version - moved > self.limits.compaction_events_min:
            return f"it has more than {self.limits.compaction_events_min:,} events"
        days = (self.wall_clock() - newest.time_ns) / NS_PER_DAY
        if newest.kind == "deleted" and days >= self.limits.retention_days and head.version - 1 > moved:
            return f"it was ended {int(days)} days ago"
        return None
