"""Errors of compaction and of the archive."""

from typing import Final

from ..errors import EventSourcingError, StoreError

IF_LOST: Final = "Put it back from a backup."
IF_REFUSED: Final = "It is used again once the system lets it be."


class ArchiveUnreachable(StoreError):
    """Compacted events cannot be read: the archive is missing or damaged, or the system refuses to open it."""

    code = "archive_unreachable"

    def __init__(self, path: str, position: int | None, reason: str, *, advice: str = IF_LOST) -> None:
        what = "Compacted events" if position is None else f"The compacted event at position {position}"
        super().__init__(
            path,
            f"{what} cannot be reached: the archive {path} {reason}. {advice} What was not compacted can be used "
            "meanwhile.",
        )
        self.position = position
        self.reason = reason


class CompactionRefused(EventSourcingError):
    """A stream cannot be compacted, or uncompacted, in its current state. Nothing was changed."""

    code = "compaction_refused"

    def __init__(self, stream: str, reason: str, what: str = "compacted") -> None:
        super().__init__(f"{stream!r} cannot be {what}: {reason}.")
        self.stream = stream
        self.reason = reason


class CompactionTooSmall(CompactionRefused):
    """The stream has at most `Limits.compaction_events_min` events in the log, and was not ended long ago."""

    code = "compaction_too_small"
