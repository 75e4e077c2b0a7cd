"""Is everything in a store as it should be? Walks every record and every index entry, and says what is wrong where.

The log is walked in windows: a bounded number of events is read, checked, and compared with what each index says of the
same positions. Then each index is walked for entries that the log does not account for. Memory is bounded by the number
of streams; no transaction lasts longer than a window, so a store may be verified while it is written.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from .archive import ARCHIVE_FOLDER, Archive
from .environment import Environment, Transaction, page_problem
from .finding import Finding
from .flush import indexed_through
from .folder import DATA_FILE, is_open_for_writing
from .group import KEY
from .postings import name_of, ordinal_of
from .reader import LogReader
from .snapshot import SnapshotDamaged, decode_snapshot
from .verify_archive import ArchiveWalk
from .verify_indexes import ExpiryCheck, HeadCheck, IdempotencyCheck, PostingsCheck, check_window
from .verify_log import LogWalk, StreamState, walk_table
from .verify_tree import Statement, TreeWalk

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of events done and the number of all."""


class Summary(msgspec.Struct, frozen=True):
    """What a verification went through."""

    events: int
    streams: int
    snapshots: int
    idempotency_keys: int
    size_bytes: int
    """Of the data file."""
    findings: int


def verify(
    store: LogReader | Environment, *, statements: Sequence[Statement] = (), progress: Progress | None = None
) -> "Verification":
    """Check a whole store; iterate over the result to get a `Finding` for each fault, in the order of the walk.

    Args:
        store: an open log, or its environment alone: that opens where a log with a damaged end does not.
        statements: checkpoints kept elsewhere; that history was only added to since is checked, too.
        progress: told now and then how many events are done, of how many.

    Raises:
        StoreError: while iterating, when the store is closed or its file cannot be read at all.

    """
    if isinstance(store, LogReader):
        return Verification(store.environment, store.archive, statements, progress)
    return Verification(store, None, statements, progress)


def verify_pages(path: str | os.PathLike[str]) -> list[Finding]:
    """Check the pages of a store, and of its archive, that no process has open for writing; else nothing is found.

    To be done before a store is opened that may be damaged: LMDB may end the whole process on a damaged page.
    """
    found = []
    for table, folder in (("pages", Path(path)), ("archive pages", Path(path) / ARCHIVE_FOLDER)):
        if (folder / DATA_FILE).exists() and not is_open_for_writing(folder):
            problem = page_problem(folder)
            if problem:
                found.append(Finding(table, problem))
    return found


class Verification:
    """One walk over a store. Iterating runs it; `summary` tells how far it came."""

    def __init__(
        self,
        environment: Environment,
        archive: Archive | None,
        statements: Sequence[Statement],
        progress: Progress | None,
    ) -> None:
        self._environment = environment
        self._archive = archive or Archive(environment.path, read_only=True)
        self._is_archive_ours = archive is None
        self._statements = statements
        self._progress = progress
        self._walk = LogWalk(environment, TreeWalk(environment), ArchiveWalk(self._archive))
        self._snapshots = 0
        self._idempotency_keys = 0
        self._findings = 0

    def __iter__(self) -> Iterator[Finding]:
        try:
            for finding in self._run():
                self._findings += 1
                yield finding
        finally:
            if self._is_archive_ours:
                self._archive.close()

    @property
    def summary(self) -> Summary:
        """What was walked so far, all of it once the iteration has ended."""
        return Summary(
            events=self._walk.events,
            streams=sum(state.version > 0 for state in self._walk.streams.values()),
            snapshots=self._snapshots,
            idempotency_keys=self._idempotency_keys,
            size_bytes=self._environment.sizes()[0],
            findings=self._findings,
        )

    def _run(self) -> Iterator[Finding]:
        tree = TreeWalk(self._environment, self._statements)
        archive = ArchiveWalk(self._archive)
        walk = self._walk = LogWalk(self._environment, tree, archive)
        self._snapshots = self._idempotency_keys = self._findings = 0
        yield from walk_table(self._environment, "compacted", archive.check_compacted)
        # Snapshots first: every event that one of them stands on is in the log by now.
        yield from self._read_snapshots()
        yield from self._begin_walk(tree)
        while window := walk.next_window():
            yield from window.findings
            with self._environment.read() as transaction:
                found = check_window(self._environment, transaction, walk, window)
            yield from found
            if self._progress:
                self._progress(walk.events, walk.last_position)
        walk.finish()
        yield from _snapshots_without_events(walk)
        yield from tree.finish(walk.events)

        heads = HeadCheck(self._environment, walk)
        yield from walk_table(self._environment, "heads", heads)
        yield from heads.missing()
        for table in ("streams", "types", "categories", "tags"):
            postings = PostingsCheck(self._environment, walk, table)
            yield from walk_table(self._environment, table, postings)
            yield from postings.finish()
        yield from walk_table(self._environment, "tree", tree.check_node)
        yield from tree.missing(walk.indexed_through)
        keys = IdempotencyCheck(self._environment, walk)
        yield from walk_table(self._environment, "idempotency", keys)
        yield from walk_table(self._environment, "expiries", ExpiryCheck(self._environment))
        self._idempotency_keys = keys.rows

    def _begin_walk(self, tree: TreeWalk) -> Iterator[Finding]:
        walk = self._walk
        with self._environment.read() as transaction:
            problem = _begin(self._environment, transaction, walk)
            found = tree.begin(transaction)
        yield from found
        if problem:
            yield Finding("meta", problem)

    def _read_snapshots(self) -> Iterator[Finding]:
        return walk_table(self._environment, "snapshots", self._check_snapshot)

    def _check_snapshot(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        try:
            stream, version = name_of(key), ordinal_of(key)
        except ValueError as error:
            return [Finding("snapshots", f"the key {key.hex()} cannot be read: {error}")]
        self._snapshots += 1
        try:
            snapshot = decode_snapshot(value)
        except SnapshotDamaged as error:
            return [Finding("snapshots", f"it cannot be decoded: {error}", stream, version)]
        if (snapshot.stream, snapshot.version) != (stream, version):
            where = f"stream {snapshot.stream!r} at version {snapshot.version}"
            return [Finding("snapshots", f"it holds a snapshot of {where}", stream, version)]
        state = self._walk.streams.setdefault(stream, StreamState())
        state.snapshots = {**(state.snapshots or {}), version: snapshot.event_hash}
        return []


def _begin(environment: Environment, transaction: Transaction, walk: LogWalk) -> str:
    """Fix how far the log and its indexes reach at this moment; return what is wrong with that."""
    with transaction.cursor(environment.table("log")) as cursor:
        if cursor.last() and len(cursor.key()) == KEY.size:
            walk.last_key = cursor.key()
    last_position = walk.position_of_last(transaction)
    try:
        through = indexed_through(transaction, environment.table("meta"))[0]
    except (msgspec.MsgspecError, ValueError) as error:
        return f"how far the indexes reach cannot be read: {error}"
    walk.indexed_through = through
    walk.last_position = max(through, int(KEY.unpack(walk.last_key)[0])) if last_position is None else last_position
    if through > walk.last_position:
        walk.indexed_through = walk.last_position
        return f"the indexes reach to position {through}, but the log ends at position {walk.last_position}"
    return ""


def _snapshots_without_events(walk: LogWalk) -> Iterator[Finding]:
    for stream, state in walk.streams.items():
        for version in state.snapshots or ():
            yield Finding("snapshots", f"the stream has no version {version}", stream, version)
