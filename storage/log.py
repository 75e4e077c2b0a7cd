"""Writes the event log on LMDB: one value per group commit; the indexes follow in bulk."""

import logging
import math
import os
from collections.abc import Sequence
from functools import partial
from typing import Final

from .commit import Appended, Commit
from .draft import Draft
from .environment.environment import MAP_SIZE_BYTES, Environment, Transaction
from .environment.folder import WRITER_FILE
from .errors import (
    CorruptRecord,
    EventSourcingError,
    LimitInvalid,
    StoreError,
    StoreInUse,
    StoreOutcomeUnknown,
    StorePathInvalid,
)
from .event_query import EventQuery
from .evidence.merkle import Nodes, Tree
from .group import KEY, MovedGroup, encode_group
from .indexes import idempotency as idempotency_table
from .indexes import postings
from .indexes.flush import IndexFlush
from .indexes.tail import Tail
from .limits import Limits, checked_limits
from .query import find_events, find_streams
from .reader import LogReader
from .record import StreamHead
from .snapshot import Snapshot, encode_snapshot

TAIL_WEIGHT_MAX: Final = 32_768
"""Events and keys in memory that start a flush; opening after a crash reads at most about twice as many."""
FLUSH_CHUNK_ITEMS: Final = 256
"""Index entries written by one `flush_step`."""
HEADS_CACHED_MAX: Final = 65_536
HEADS_LOADED_MAX: Final = 16_384
"""Opening reads all heads of a store with at most this many streams; a new stream is then recognized without LMDB."""

logger = logging.getLogger("eventsrc.storage")


class EventLog(LogReader):
    """The store in one folder, open for writing; fulfils `EventStore`.

    Raises a `StoreError` if the folder cannot be opened, `LimitInvalid` for what is no `Limits`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        limits: Limits | None = None,
        create: bool = True,
        map_size_bytes: int = MAP_SIZE_BYTES,
    ) -> None:
        self._limits = checked_limits(limits)
        self._is_taken = False
        if not isinstance(path, str | os.PathLike):
            raise StorePathInvalid(repr(path), f"{path!r:.100} is no path of a store: give a text or a Path.")
        if isinstance(map_size_bytes, bool) or not isinstance(map_size_bytes, int):
            raise LimitInvalid("map_size_bytes", map_size_bytes, "give a whole number")
        environment = Environment(path, create=create, map_size_bytes=map_size_bytes)
        try:
            super().__init__(environment)
        except BaseException:
            environment.close()
            raise
        self._heads: dict[str, StreamHead] = {}
        self._knows_all_heads = False
        if self._stream_count <= HEADS_LOADED_MAX:
            self._load_heads()
        self._flushing: IndexFlush | None = None
        self._flush_items_per_event = 1

    def head(self, stream: str) -> StreamHead | None:
        self._environment.check_usable()
        return self._known_head(stream)

    def take(self) -> None:
        """Take the store for the one runtime that may write it. Raises `StoreInUse` where another has taken it."""
        if self._is_taken:
            raise StoreInUse(self.path, "another runtime of this process")
        self._is_taken = True

    @property
    def merkle_tree(self) -> Tree:
        """The Merkle tree over all events, which can be extended."""
        return self._tail.tree

    @property
    def disk_seconds(self) -> float:
        return self._environment.commit_seconds if self._environment.commit_seconds < math.inf else 0.0

    def append(
        self, commits: Sequence[Commit], snapshots: Sequence[Snapshot] = ()
    ) -> list[Appended | EventSourcingError]:
        self._environment.check_usable()
        draft = Draft(
            self._last_position,
            self._last_commit_id,
            self._stream_count,
            self._limits,
            self._head_to_extend,
            self._first_match,
        )
        outcomes = [draft.add(commit) for commit in commits]
        if draft.is_empty and not snapshots:
            return outcomes
        tree, nodes = self._tail.tree.extended(draft.hashes)
        try:
            self._write([] if draft.is_empty else [(draft, tree)], snapshots)
        except StoreError as error:
            if snapshots:
                reason = {"path": self.path, "reason": str(error)}
                logger.warning("snapshots not stored: %d", len(snapshots), extra=reason)
            if not commits:
                raise
            unknown = isinstance(error, StoreOutcomeUnknown)
            if unknown or draft.is_empty or not self._holds(draft.last_commit_id, tree):
                return [error if isinstance(outcome, Appended) else outcome for outcome in outcomes]
        if not draft.is_empty:
            self._publish(draft, tree, nodes)
        return outcomes

    def drop_snapshots(self, streams: Sequence[str]) -> None:
        self._environment.check_usable()

        def work(transaction: Transaction) -> None:
            table = self._environment.table("snapshots")
            for key in [key for stream in streams for key in postings.keys_of(transaction, table, stream)]:
                transaction.delete(key, db=table)

        self._environment.write(work)

    def adopt(self, groups: Sequence[MovedGroup]) -> None:
        """Store groups of another log unchanged after the last position, durably and in one transaction.

        The caller must have checked with a `Chain` that the groups follow. `Limits` are not applied. Commit ids are
        kept unless they are not above the ids of this log. Raises a `StoreError`; close the log then: reopening it
        shows whether the groups are stored.
        """
        self._environment.check_usable()
        adopted, streams, known = [], self._stream_count, set[str]()
        position, commit_id, tree = self._last_position, self._last_commit_id, self._tail.tree
        for group in groups:
            if group.events[0].position != position + 1:
                raise AssertionError(f"position {position + 1} is missing")
            draft = Draft(position, commit_id, streams, self._limits, self._head_to_extend, self._first_match)
            draft.adopt(group)
            streams += sum(stream not in known and self.head(stream) is None for stream in draft.heads)
            draft.stream_count = streams
            known.update(draft.heads)
            tree, nodes = tree.extended(draft.hashes)
            adopted.append((draft, tree, nodes))
            position, commit_id = draft.last_position, draft.last_commit_id
        self._write([(draft, tree) for draft, tree, _ in adopted], ())
        for draft, tree, nodes in adopted:
            self._publish(draft, tree, nodes)

    def flush(self) -> None:
        while self.flush_step():
            pass

    @property
    def indexed_through(self) -> int:
        """The position through which the indexes on disk cover the log."""
        return self._tails[0].after[0]

    def flush_step(self) -> bool:
        """Flush a part of the index entries in memory; return whether there may be more. Raises a `StoreError`."""
        if self._flushing is None and self._tail.weight:
            self._begin_flush()
        flush = self._flushing
        if flush is None:
            return False
        count = self._environment.write(partial(flush.write, count=FLUSH_CHUNK_ITEMS))
        self._advance(flush, count)
        return True

    def close(self) -> None:
        try:
            self.flush()
        except StoreError as error:
            # Nothing is lost: the next opening rebuilds unflushed index entries from the log.
            logger.warning("indexes not flushed at close", extra={"path": self.path, "reason": str(error)})
        self._environment.close()  # waits for open reads, also from the archive
        self.archive.close()

    def _write(self, drafts: Sequence[tuple[Draft, Tree]], snapshots: Sequence[Snapshot]) -> None:
        groups = [
            (
                KEY.pack(draft.first_position, draft.first_commit_id),
                encode_group(draft.first_commit_id, draft.last_commit_id, tree.root, draft.records, draft.idempotency),
            )
            for draft, tree in drafts
        ]
        flush = self._flushing
        # Each commit writes enough index entries to end this flush long before the next one is due.
        share = 1 + sum(len(draft.records) for draft, _ in drafts) * self._flush_items_per_event

        def work(transaction: Transaction) -> int:
            table = self._environment.table
            if groups:
                self._check_alone(transaction)
            for key, value in groups:
                stored = transaction.put(key, value, db=table("log"), append=True)
                if not stored:  # not an `assert`: under `python -O`, commands would be answered and lost
                    raise AssertionError(f"the group at position {KEY.unpack(key)[0]} is not the newest")
            for snapshot in snapshots:
                self._put_snapshot(transaction, snapshot)
            if any(draft.idempotency for draft, _ in drafts):
                idempotency_table.drop_expired(
                    transaction, table("idempotency"), table("expiries"), drafts[-1][0].clock_ns
                )
            return flush.write(transaction, share) if flush else 0

        count = self._environment.write(work)
        if flush:
            self._advance(flush, count)

    def _check_alone(self, transaction: Transaction) -> None:
        """Raise `StoreInUse` if another process has written: it can, if the file `writer.lock` was removed."""
        with transaction.cursor(self._environment.table("log")) as cursor:
            if cursor.set_range(KEY.pack(self._last_position + 1, self._last_commit_id + 1)):
                raise StoreInUse(self.path, f"another process, too, since its {WRITER_FILE} was removed")

    def _put_snapshot(self, transaction: Transaction, snapshot: Snapshot) -> None:
        table = self._environment.table("snapshots")
        key = postings.key_of(snapshot.stream, snapshot.version)
        transaction.put(key, encode_snapshot(snapshot), db=table)
        prefix = key[:-8]
        outdated: list[bytes] = []
        with transaction.cursor(table) as cursor:
            found = 0
            newest = postings.key_of(snapshot.stream, postings.ORDINAL_MAX)
            more = cursor.prev() if cursor.set_range(newest) else cursor.last()
            while more and cursor.key().startswith(prefix):
                found += 1
                if found > self._limits.snapshots_kept:
                    outdated.append(cursor.key())
                more = cursor.prev()
        for old_key in outdated:
            transaction.delete(old_key, db=table)

    def _publish(self, draft: Draft, tree: Tree, nodes: Nodes) -> None:
        with self._lock:
            through = (draft.last_position, draft.last_commit_id)
            self._tail.add(draft.placements, draft.heads, draft.idempotency, through, tree, nodes)
        self._heads.update(draft.heads)
        if len(self._heads) > HEADS_CACHED_MAX:
            # In this order: another thread may look up a head meanwhile, and must not take a missing one for a new
            # stream.
            self._knows_all_heads = False
            self._heads.clear()
        self._stream_count = draft.stream_count
        self._last_commit_id = draft.last_commit_id
        self._last_position = draft.last_position
        if self._flushing is None and self._tail.weight >= TAIL_WEIGHT_MAX:
            self._begin_flush()

    def _begin_flush(self) -> None:
        with self._lock:
            flushing = self._tail
            self._tail = Tail(flushing.through, flushing.tree)
            self._tails = (flushing, self._tail)
        self._flushing = IndexFlush(flushing, self._environment.table)
        self._flush_items_per_event = 1 + 2 * self._flushing.remaining // TAIL_WEIGHT_MAX

    def _advance(self, flush: IndexFlush, count: int) -> None:
        if flush.advance(count):
            self._flushing = None
            with self._lock:
                self._tails = (self._tail,)

    def _holds(self, commit_id: int, tree: Tree) -> bool:
        """Whether a commit of unknown outcome is stored: the log ends with `commit_id` and the root of `tree`."""
        with self._environment.read() as transaction:
            last = self._last_group(transaction)
        return last is not None and (last.last_commit_id, last.root) == (commit_id, tree.root)

    def _load_heads(self) -> None:
        try:
            self._heads = {head.stream: head for head in find_streams(self)}
            self._knows_all_heads = True
        except CorruptRecord as error:
            # Looking up the damaged stream raises the error.
            logger.warning("not all heads can be read: %s", error, extra={"path": self.path})

    def _first_match(self, query: EventQuery) -> int | None:
        return next((event.position for event in find_events(self, query)), None)

    def _head_to_extend(self, stream: str) -> StreamHead | None:
        head = self._known_head(stream)
        if head is not None:
            self._heads[stream] = head
        return head

    def _known_head(self, stream: str) -> StreamHead | None:
        head = self._heads.get(stream)
        return head if head is not None or self._knows_all_heads else super().head(stream)
