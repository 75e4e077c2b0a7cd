"""Why events cannot be moved to the archive, or reached there."""

from typing import Final

from ..errors import EventSourcingError, StoreError

IF_LOST: Final = "Put it back from a backup."
IF_REFUSED: Final = "It is used again once the system lets it be."


class ArchiveUnreachable(StoreError):
    """An event was moved to the archive by compaction, and the archive is missing or damaged."""

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
    """A stream cannot be compacted, or uncompacted, as it is now. Nothing was changed."""

    code = "compaction_refused"

    def __init__(self, stream: str, reason: str, what: str = "compacted") -> None:
        super().__init__(f"{stream!r} cannot be {what}: {reason}.")
        self.stream = stream
        self.reason = reason


class CompactionTooSmall(CompactionRefused):
    """The stream has not more than `Limits.compaction_events_min` events, and was not ended long ago."""

    code = "compaction_too_small"
