"""The order of commits: each commit gets its id and time on arrival, and the store applies the commits."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ...storage.commit import Appended, Commit
from ...storage.errors import EventSourcingError
from ...storage.snapshot import Snapshot
from ...storage.store import EventStore
from ..errors import JournalFailed
from .journal import Write

Settled: TypeAlias = tuple[Write, Appended | EventSourcingError]

logger = logging.getLogger("eventsrc.journal")


class CommitOrder:
    """Gives commits their ids and times in order of arrival, and has the store apply them."""

    def __init__(
        self, store: EventStore, wall_clock: Callable[[], int], before_commit: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._before_commit = before_commit
        self._wall_clock = wall_clock
        self._last_commit_id = store.last_commit_id
        self._last_time_ns = store.time_at(store.last_position) if store.last_position else 0

    @property
    def path(self) -> str:
        """The path of the store."""
        return self._store.path

    @property
    def disk_seconds(self) -> float:
        """How long the store last waited for its disk, in seconds."""
        return self._store.disk_seconds

    def write(self, messages: Sequence[Write | Snapshot]) -> list[Settled]:
        """Store a batch as one group commit. Returns each write with its outcome, in the order of each series."""
        writes = [message for message in messages if isinstance(message, Write)]
        snapshots = [message for message in messages if isinstance(message, Snapshot)]
        settled: list[Settled] = []
        going: list[Write] = []
        for write in writes:
            error = write.series.error = write.refusal
            if error is None:
                going.append(write)
            else:
                settled.append((write, error))
        for write, outcome in zip(going, self._append(going, snapshots), strict=True):
            if isinstance(outcome, EventSourcingError) and write.series.error is None:
                write.series.error = outcome
            settled.append((write, write.series.error or outcome))
        return settled

    @staticmethod
    def fail(messages: Sequence[Write | Snapshot], failure: EventSourcingError) -> list[Settled]:
        """Give up a batch: each write fails, and with it the later ones of its series."""
        settled: list[Settled] = []
        for write in messages:
            if isinstance(write, Write):
                write.series.error = write.series.error or failure
                settled.append((write, write.series.error))
        return settled

    def store(self, snapshots: Sequence[Snapshot]) -> None:
        """Store snapshots in a commit of their own. Raises a `StoreError`."""
        self._before_commit()
        self._store.append([], snapshots)

    def _commit(self, write: Write, clock_ns: int) -> Commit:
        self._last_commit_id = max(self._last_commit_id, self._store.last_commit_id) + 1
        series = write.series
        commit = Commit(
            self._last_commit_id,
            self._last_time_ns,
            write.appends,
            write.idempotency,
            (series.last_commit_id, *[other.last_commit_id for other in write.follows]),
            write.conditions,
            clock_ns,
        )
        series.last_commit_id = commit.id
        return commit

    def _append(self, writes: list[Write], snapshots: list[Snapshot]) -> list[Appended | EventSourcingError]:
        try:
            self._before_commit()
            # Times in the log never run backwards, whatever the clock of the machine does.
            clock_ns = self._wall_clock()
            self._last_time_ns = max(clock_ns, self._last_time_ns)
            return self._store.append([self._commit(write, clock_ns) for write in writes], snapshots)
        except EventSourcingError as error:
            return [error] * len(writes)
        except Exception as error:
            # A bug in eventsrc, the store or the clock: every waiting sender gets the error; the journal stays alive.
            logger.exception("the journal failed to write a batch", extra={"commits": len(writes)})
            return [JournalFailed(self._store.path, error)] * len(writes)
