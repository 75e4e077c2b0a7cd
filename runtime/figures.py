"""A runtime's figures about itself."""

from typing import Any

from ..actors.journal.inline_journal import InlineJournal
from ..actors.journal.thread_journal import ThreadJournal
from .opening import Opened
from .residents import Residents


class Figures:
    """The part of `Runtime` that telemetry measures."""

    _store: Opened
    _journal: ThreadJournal | InlineJournal | None
    _residents: Residents | None

    @property
    def last_position(self) -> int:
        """The position of the newest event on disk."""
        return self._store.last_position

    @property
    def resident_actors(self) -> int:
        """How many aggregates are in memory."""
        return 0 if self._residents is None else len(self._residents)

    @property
    def resident_streams(self) -> list[str]:
        """The streams of the aggregates in memory, the least recently used first."""
        return [] if self._residents is None else self._residents.streams

    @property
    def disk_seconds(self) -> float:
        """How long a recent group commit takes on the disk."""
        return getattr(self._store, "disk_seconds", 0.0)

    @property
    def journal_counts(self) -> tuple[int, int]:
        """(group commits, commits in them) since the runtime was opened."""
        return (0, 0) if self._journal is None else (self._journal.group_count, self._journal.commit_count)

    def _numbers(self) -> dict[str, Any]:
        groups, commits = self.journal_counts
        return {
            "position": self.last_position,
            "resident_actors": self.resident_actors,
            "group_commits": groups,
            "commits": commits,
            "commit_seconds": self.disk_seconds,
        }
