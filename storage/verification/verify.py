"""Verifies a whole store: walks every entry of every table, and reports each fault with its place.

The log is walked in windows: a bounded number of events is read, checked, and compared with the index entries for the
same positions. Then each table is walked for entries that do not come from the log. Memory is bounded by the number of
streams. No transaction lasts longer than a window, so a store may be verified while it is written. Nothing is changed.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from ..archive.archive import Archive
from ..environment.environment import Environment
from ..environment.folder import ARCHIVE_FOLDER, DATA_FILE
from ..environment.locks import is_open_for_writing
from ..environment.pages import page_problem
from ..errors import described
from ..reader import LogReader
from .archive import ArchiveWalk
from .compacted import CompactedCheck
from .finding import Finding
from .followers import FollowersCheck
from .idempotency import ExpiryCheck, IdempotencyCheck
from .indexes import HeadCheck, PostingsCheck, check_window
from .log import LogWalk
from .meta import MetaCheck, begin, missing
from .snapshots import SnapshotCheck
from .tables import unknown_tables, walk_table
from .tree import Statement, TreeWalk

STORE_PAGES: Final = "pages"
ARCHIVE_PAGES: Final = "archive pages"
"""The `table` of findings about the pages of the store (`STORE_PAGES`), and of its archive."""

ReportEvents: TypeAlias = Callable[[int, int], None]
"""Called with the number of events done and the number of all events."""


class VerificationSummary(msgspec.Struct, frozen=True):
    """The numbers of things that a verification has checked."""

    events: int
    streams: int
    snapshots: int
    idempotency_keys: int
    size_bytes: int
    """The size of the data file."""
    findings: int


def verify(
    store: LogReader | Environment,
    *,
    statements: Sequence[Statement] = (),
    progress: ReportEvents | None = None,
    archive_pages: Finding | None = None,
    now_ns: Callable[[], int] = time.time_ns,
    looking_at: Callable[[str], None] = lambda _: None,
) -> "Verification":
    """Check a whole store; iterate over the result to get a `Finding` for each fault, in the order of the walk.

    Args:
        store: an open log, or its environment alone, which can be opened even if the end of the log is damaged.
        statements: checkpoints kept elsewhere; it is checked that their history was only appended to.
        progress: called now and then with the number of events done and the number of all events.
        archive_pages: a finding about the pages of the archive; with it, the archive is not read.
        now_ns: returns the time (UTC); idempotency keys that have expired by then may have been dropped.
        looking_at: called with the name of the next part to be checked.

    Raises:
        StoreError: while iterating, if the store is closed or its file cannot be read at all.

    """
    archive = store.archive if isinstance(store, LogReader) else None
    environment = store.environment if isinstance(store, LogReader) else store
    return Verification(environment, archive, statements, progress, archive_pages, now_ns, looking_at)


def verify_pages(path: str | os.PathLike[str]) -> list[Finding]:
    """Check the pages of a store and of its archive; skip an environment that a process has open for writing.

    Call this before opening a store that may be damaged: LMDB may abort the whole process on a damaged page. Raises
    `OSError` and `MemoryError` if the pages of the store cannot be read; for the archive, this is a finding.
    """
    store = Path(path)
    problems = [Finding(STORE_PAGES, _problem_of_pages(store))]
    try:
        problems.append(Finding(ARCHIVE_PAGES, _problem_of_pages(store / ARCHIVE_FOLDER)))
    except (OSError, MemoryError) as error:
        problems.append(
            Finding(ARCHIVE_PAGES, f"they cannot be read: {str(error) or described(error)}", is_damage=False)
        )
    return [finding for finding in problems if finding.problem]


def _problem_of_pages(folder: Path) -> str:
    if not (folder / DATA_FILE).exists() or is_open_for_writing(folder):
        return ""
    return page_problem(folder)


class Verification:
    """One verification of a store. Iterating runs it and yields the findings; `summary` has the numbers so far."""

    def __init__(
        self,
        environment: Environment,
        archive: Archive | None,
        statements: Sequence[Statement],
        progress: ReportEvents | None,
        archive_pages: Finding | None,
        now_ns: Callable[[], int],
        looking_at: Callable[[str], None],
    ) -> None:
        self._environment = environment
        self._archive_given = archive
        self._statements = statements
        self._progress = progress
        self._archive_pages = archive_pages
        self._now_ns = now_ns
        self._looking_at = looking_at
        self._begin()

    def _begin(self) -> None:
        """Reset the state of all checks."""
        environment = self._environment
        self._findings = 0
        self._archive = self._archive_given or Archive(
            environment.path, read_only=True, leaves_no_trace=environment.leaves_no_trace
        )
        self._tree = TreeWalk(environment, self._statements)
        self._compacted = CompactedCheck(environment)
        self._archived = ArchiveWalk(environment, self._archive, self._compacted, self._archive_pages)
        self._walk = LogWalk(environment, self._tree, self._archived)
        self._snapshots = SnapshotCheck(self._walk, self._compacted)
        self._keys = IdempotencyCheck(environment, self._walk, self._now_ns)

    def __iter__(self) -> Iterator[Finding]:
        self._begin()
        try:
            for finding in self._run():
                self._findings += 1
                yield finding
        finally:
            if self._archive_given is None:
                self._archive.close()

    @property
    def summary(self) -> VerificationSummary:
        """The numbers of things checked so far; complete once the iteration has ended."""
        return VerificationSummary(
            events=self._walk.events,
            streams=sum(state.version > 0 for state in self._walk.streams.values()),
            snapshots=self._snapshots.count,
            idempotency_keys=self._keys.keys,
            size_bytes=self._environment.sizes()[0],
            findings=self._findings,
        )

    def _run(self) -> Iterator[Finding]:
        for what, findings in self._checks():
            self._looking_at(what)
            yield from findings

    def _checks(self) -> Iterator[tuple[str, Iterable[Finding]]]:
        """Yield (what is checked, findings) for every check, in order."""
        environment, walk, tree, keys = self._environment, self._walk, self._tree, self._keys
        compacted, archived = self._compacted, self._archived

        yield "the names of the tables", unknown_tables(environment, "tables")
        yield "the table meta", walk_table(environment, "meta", MetaCheck(environment))
        yield "the table meta", missing(environment)
        # Tables that name events come first, so that these events are before the end of the log, which is read later.
        yield "the table compacted", walk_table(environment, "compacted", compacted)
        yield "the table compacted", compacted.check_numbers()
        yield "the archive", archived.begin()
        yield "the table snapshots", walk_table(environment, "snapshots", self._snapshots)

        yield "the log", self._walk_log()

        heads = HeadCheck(environment, walk)
        yield "the table heads", walk_table(environment, "heads", heads)
        yield "the table heads", heads.missing()
        for table in ("streams", "types", "categories", "tags"):
            postings = PostingsCheck(environment, walk, archived, table)
            yield f"the table {table}", walk_table(environment, table, postings)
            yield f"the table {table}", postings.strangers()
        yield "the table tree", walk_table(environment, "tree", tree.check_node)
        yield "the table tree", tree.missing(walk.indexed_through)
        yield "the table idempotency", walk_table(environment, "idempotency", keys)
        yield "the table idempotency", keys.strangers()
        yield "the table expiries", walk_table(environment, "expiries", ExpiryCheck(environment))
        yield "the archive", archived.finish()
        yield "the table compacted", compacted.finish(archived.record_sizes, archived.stored_sizes)
        yield "what follows the log", FollowersCheck(environment, walk)

    def _walk_log(self) -> Iterator[Finding]:
        """Check every group of the log with its records, against the indexes."""
        environment, walk = self._environment, self._walk
        for stream, compacted in self._compacted.by_stream.items():
            walk.pin(stream, compacted.version, "compacted", compacted.event_hash)
        with environment.read() as transaction:
            found = [*begin(environment, transaction, walk), *self._tree.begin(transaction)]
        yield from found
        while window := walk.next_window():
            yield from window.findings
            with environment.read() as transaction:
                found = check_window(environment, transaction, walk, window)
                found += self._keys.check_window(transaction, window)
            yield from found
            if self._progress:
                self._progress(walk.events, walk.last_position)
        yield from walk.finish()
        yield from self._tree.finish(walk.events)
