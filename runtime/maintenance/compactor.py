"""Compacts streams of a running store, and uncompacts them: the order of the steps, and the proof between them."""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

import attrs
import trio
from msgspec import structs

from ...actors.aggregates.aggregate import Aggregate
from ...actors.aggregates.aggregate_type import AggregateType
from ...actors.aggregates.recovery import apply_event, recover
from ...actors.aggregates.snapshot_proof import verdict
from ...actors.background import in_thread, in_thread_or_here
from ...actors.errors import RuntimeClosed
from ...actors.journal.thread_journal import ThreadJournal
from ...actors.messages import SAGA_STEP
from ...actors.sagas.context import CALL_KEY
from ...actors.sagas.instance import ENDING_TYPES
from ...actors.subjects import SUBJECT_FORGOTTEN
from ...storage.archive.archive import SEGMENT_EVENTS_MAX, pack_segment
from ...storage.archive.compacted import Compacted, SegmentRange
from ...storage.archive.compaction import (
    check_archive,
    move_step,
    remove_compacted,
    remove_unused,
    reserve_segments,
    restore_step,
    store_compacted,
    unused_segments,
)
from ...storage.archive.errors import ArchiveUnreachable, CompactionRefused, CompactionTooSmall
from ...storage.errors import ThreadRefused
from ...storage.group import STUB
from ...storage.limits import Limits
from ...storage.log import EventLog
from ...storage.names import aggregate_id_of, category_of
from ...storage.record import GENESIS_HASH, HASH_SIZE_BYTES, StoredEvent, StreamHead, decode_record
from ...storage.snapshot import Snapshot
from ..history.history import position_of_version
from .retention import CompactionCandidate, RetentionPolicy

REST_SECONDS_PER_SECOND: Final = 2.0
"""Seconds of rest for each second of work, so that commands to other aggregates are hardly slowed down."""
LOWEST_PRIORITY: Final = 19
SLICE_EVENTS: Final = 32
"""Events that are read, or replayed, before other tasks get their turn."""
T = TypeVar("T")

logger = logging.getLogger("eventsrc.compaction")


@attrs.frozen
class Compaction:
    """The result of a compaction: versions 1 to `version` of the stream are in the archive."""

    stream: str
    version: int
    events: int
    """Moved by this compaction."""
    given_back_bytes: int
    """Freed in the log for other events; a copy made by `backup` is smaller by this many bytes."""
    archived_bytes: int


class Compactor:
    """Compacts one stream at a time, in steps half as long as a commit takes on the disk, with rests between them."""

    def __init__(
        self,
        log: EventLog,
        journal: ThreadJournal,
        types: Mapping[str, AggregateType],
        limits: Limits,
        wall_clock: Callable[[], int],
    ) -> None:
        self._log = log
        self._journal = journal
        self._types = types
        self._limits = limits
        self._policy = RetentionPolicy(limits, wall_clock)
        self._wall_clock = wall_clock
        self.one_at_a_time = trio.Lock()
        """Held while anything is compacted or uncompacted."""
        self._is_closed = False
        self._background = ThreadPoolExecutor(1, "eventsrc compaction", initializer=_lower_priority)

    # --- compacting ---

    async def compact(self, stream: str, *, by_policy: bool = False) -> Compaction:
        """Compact a stream; finish an interrupted compaction of the stream first.

        With `by_policy`, an unfinished saga hinders the compaction only where its events would be moved: a busy stream
        always has an unfinished saga. Otherwise any unfinished saga that has sent commands to the stream hinders it.

        Raises `CompactionTooSmall`, `CompactionRefused`, `ArchiveUnreachable` or a `StoreError`.
        """
        async with self.one_at_a_time:
            await self._finish(stream)
            head, aggregate_type = self._log.head(stream), self._types.get(category_of(stream))
            before = self._log.compacted(stream)
            self._check(stream, head, aggregate_type, before)
            assert head is not None, "a stream that there is not was refused"
            assert aggregate_type is not None, "a stream without a class was refused"
            begin = 1 if before is None else before.version + 1
            snapshot = await self._snapshot_for(aggregate_type, head, begin)
            if not by_policy:
                await self._records(stream, snapshot.version + 1, head.version, set())  # raises for an unfinished saga
            await self._until_indexed(stream, snapshot.version)
            await self._in_background(check_archive, self._log)
            await self._drop_unused()
            segments, size_bytes, archived_bytes = await self._pack(stream, begin, snapshot.version)
            await self._prove(aggregate_type, snapshot, before, segments)
            compacted = Compacted(
                stream,
                snapshot.version,
                position_of_version(self._log, stream, snapshot.version),
                snapshot.event_hash,
                self._wall_clock(),
                "moving",
                [*(before.segments if before else ()), *segments],
                size_bytes + (before.size_bytes if before else 0),
                archived_bytes + (before.archived_size_bytes if before else 0),
                snapshot.schema,
                snapshot.state,
                snapshot.state_hash,
            )
            await self._journal.run(partial(store_compacted, self._log, compacted))
            await self._move(compacted, begin - 1)
        events = snapshot.version - begin + 1
        done = Compaction(stream, snapshot.version, events, size_bytes - events * STUB.size, archived_bytes)
        logger.info("compacted", extra=attrs.asdict(done))
        return done

    async def candidates(self) -> list[CompactionCandidate]:
        """The streams that the policy would compact now."""
        return await in_thread(lambda: list(self._policy.candidates(self._log)))

    async def finish(self, stream: str) -> None:
        """Finish an interrupted compaction or uncompaction of a stream, if there is one."""
        async with self.one_at_a_time:
            await self._finish(stream)

    async def _finish(self, stream: str) -> None:
        compacted = self._log.compacted(stream)
        if compacted is None or compacted.phase == "moved":
            return
        logger.info("finishing what was interrupted", extra={"stream": stream, "phase": compacted.phase})
        if compacted.phase == "moving":
            await self._move(compacted, 0)
        else:
            await self._restore(compacted)

    def _check(
        self, stream: str, head: StreamHead | None, aggregate_type: AggregateType | None, before: Compacted | None
    ) -> None:
        if head is None:
            raise CompactionRefused(stream, "there is no such stream")
        (newest,) = self._log.read_stream(stream, from_version=head.version, limit=1)
        if newest.kind == SAGA_STEP:
            ending = "" if newest.type in ENDING_TYPES else ", which has not ended"
            raise CompactionRefused(stream, f"it is the stream of a saga{ending}")
        if newest.type == SUBJECT_FORGOTTEN:
            raise CompactionRefused(stream, "it records who was forgotten, and no state follows from it")
        if aggregate_type is None:
            raise CompactionRefused(
                stream,
                f"no class of the category {category_of(stream)!r} is there to prove it by: give it to Runtime.open, "
                "or name its module: eventsrc compact --import MODULE",
            )
        if self._policy.reason(self._log, head, before) is None:
            raise CompactionTooSmall(
                stream,
                f"{head.version - (before.version if before else 0):,} of its events are not in the archive; it takes "
                f"more than {self._limits.compaction_events_min:,}, or {self._limits.retention_days} days since it "
                "was ended",
            )

    async def _snapshot_for(self, aggregate_type: AggregateType, head: StreamHead, begin: int) -> Snapshot:
        """The snapshot that will replace all events up to its version: the newest one, or a new one."""
        stream = head.stream
        (newest,) = self._log.read_stream(stream, from_version=head.version, limit=1)
        version = head.version
        if newest.kind == "deleted":
            version -= 1
        else:
            for snapshot in self._log.snapshots(stream):
                is_usable = snapshot.version >= begin and aggregate_type.can_use(snapshot)
                if is_usable and self._log.event_hash(stream, snapshot.version) == snapshot.event_hash:
                    return snapshot
        recovered = await recover(self._log, aggregate_type, stream, newest.aggregate_id, to_version=version)
        state = aggregate_type.stored_data(recovered.state)
        event_hash = self._log.event_hash(stream, version)
        assert event_hash is not None, "a stream has a first version"
        schema, now_ns = aggregate_type.schema, self._wall_clock()
        return Snapshot(stream, version, schema, now_ns, event_hash, state).with_state_hash()

    def _saga_of(self, key: str) -> str | None:
        """The saga that sent the command with this key: the key begins with the saga's stream and a slash."""
        parts = key.split("/")
        names = ("/".join(parts[:count]) for count in range(1, len(parts)))
        return next((name for name in names if self._log.head(name) is not None), None)

    async def _until_indexed(self, stream: str, version: int) -> None:
        """Wait until the indexes on disk include a version: otherwise opening the store would need the archive."""
        position = position_of_version(self._log, stream, version)
        while self._log.indexed_through < position:
            await self._journal.run(self._log.flush_step)

    async def _pack(self, stream: str, begin: int, end: int) -> tuple[list[SegmentRange], int, int]:
        """Store the events in the archive, and compare them: (segments, bytes in the log, bytes in the archive)."""
        segments: list[SegmentRange] = []
        size_bytes = archived_bytes = 0
        sagas: set[str] = set()
        firsts = range(begin, end + 1, SEGMENT_EVENTS_MAX)
        numbers = await self._journal.run(partial(reserve_segments, self._log, len(firsts)))
        previous_hash = self._log.event_hash(stream, begin - 1) or GENESIS_HASH
        for number, first in zip(numbers, firsts, strict=True):
            last = min(first + SEGMENT_EVENTS_MAX - 1, end)
            records = await self._records(stream, first, last, sagas)
            content = await self._rested(pack_segment, stream, first, previous_hash, records)
            await self._rested(self._log.archive.add, number, content)
            if await self._rested(self._log.archive.records, number) != records:
                raise ArchiveUnreachable(self._log.archive.path, None, f"does not give back segment {number}")
            segments.append(SegmentRange(number, first, last))
            size_bytes += sum(map(len, records))
            archived_bytes += len(content)
            previous_hash = records[-1][-HASH_SIZE_BYTES:]
        return segments, size_bytes, archived_bytes

    async def _drop_unused(self) -> None:
        """Remove from the archive the segments that an interrupted or undone compaction has left there."""
        unused = unused_segments(self._log)
        if unused:
            await self._in_background(self._log.archive.drop, unused)
            await self._journal.run(partial(remove_unused, self._log, frozenset(unused)))

    async def _records(self, stream: str, first: int, last: int, sagas: set[str]) -> list[bytes]:
        """The records of a stream, as the log holds them. `sagas` collects sagas that are known to have ended."""
        found: list[bytes] = []
        for begin in range(first, last + 1, SLICE_EVENTS):
            begun = time.perf_counter()
            records = self._log.encoded_stream(stream, begin, min(begin + SLICE_EVENTS - 1, last))
            for record in records:
                self._check_saga(stream, decode_record(record), sagas)
            found += records
            await _rest_since(begun)
        return found

    def _check_saga(self, stream: str, event: StoredEvent, ended: set[str]) -> None:
        key = event.metadata.get(CALL_KEY)
        saga = None if key is None else self._saga_of(str(key))
        if saga is None or saga in ended:
            return
        (newest,) = self._log.read_stream(saga, backwards=True, limit=1)
        if newest.type not in ENDING_TYPES:
            raise CompactionRefused(stream, f"the saga {saga!r}, which has sent it commands, has not ended")
        ended.add(saga)

    async def _prove(
        self,
        aggregate_type: AggregateType,
        snapshot: Snapshot,
        before: Compacted | None,
        segments: list[SegmentRange],
    ) -> None:
        """Replay the archived events: they must give the snapshot's state. So far nothing was removed from the log."""
        aggregate_id = aggregate_id_of(snapshot.stream)
        state: Aggregate = aggregate_type.initial_state(aggregate_id)
        if before is not None and aggregate_type.can_use(before):
            state = aggregate_type.decode_state(before.state, aggregate_id)
        elif before is not None:
            segments = [*before.segments, *segments]
        for segment in segments:
            records = await self._in_background(self._log.archive.records, segment.number)
            for begin in range(0, len(records), SLICE_EVENTS):
                begun = time.perf_counter()
                for record in records[begin : begin + SLICE_EVENTS]:
                    apply_event(aggregate_type, state, decode_record(record))
                await _rest_since(begun)
        found = verdict(self._log, aggregate_type, snapshot, state)
        await self._journal.save_now([found])
        if found.quarantined:
            reason = f"its snapshot at version {snapshot.version} is not what its events give: {found.quarantined}"
            raise CompactionRefused(snapshot.stream, reason)

    async def _move(self, compacted: Compacted, after: int) -> None:
        while after < compacted.version:
            after = await self._step(partial(move_step, self._log, compacted, after))
        done = structs.replace(compacted, phase="moved")
        await self._journal.run(partial(store_compacted, self._log, done))

    async def _in_background(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function on a thread of the lowest priority."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_closed:
            raise RuntimeClosed("The runtime closed in the middle of a compaction. It goes on when opened again.")
        # Submitted on this thread, on which the executor is closed: submitting from another one might come after the
        # close.
        try:
            work = self._background.submit(function, *arguments)
        except RuntimeError as error:
            # The work is done before the next compaction, which finds in the archive what nobody uses.
            raise ThreadRefused(str(error)) from error
        done, token = trio.Event(), trio.lowlevel.current_trio_token()
        work.add_done_callback(lambda _: token.run_sync_soon(done.set))
        with trio.CancelScope(shield=True):
            await done.wait()
        return work.result()

    async def _rested(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function as `_in_background` does, and rest after it."""
        begun = time.perf_counter()
        done = await self._in_background(function, *arguments)
        await _rest_since(begun)
        return done

    async def close(self) -> None:
        """Compact no more. Work of a caller on the archive ends first, so that the archive may be closed afterwards."""
        self._is_closed = True
        with trio.CancelScope(shield=True):
            await in_thread_or_here(self._background.shutdown)

    async def _step(self, step: Callable[[], int]) -> int:
        begun = time.perf_counter()
        after = await self._journal.run(step)
        await _rest_since(begun)
        return after

    # --- the way back ---

    async def uncompact(self, stream: str) -> int:
        """Put the events of a stream back from the archive, bit for bit; returns how many there were.

        Raises `CompactionRefused`, `ArchiveUnreachable` or a `StoreError`.
        """
        async with self.one_at_a_time:
            return await self.put_back(stream)

    async def put_back(self, stream: str) -> int:
        """`uncompact` for a caller that holds `one_at_a_time`."""
        compacted = self._log.compacted(stream)
        if compacted is None:
            raise CompactionRefused(stream, "nothing of it is in the archive", "put back")
        for segment in compacted.segments:
            await self._in_background(self._log.archive.records, segment.number)
        await self._restore(compacted)
        logger.info("uncompacted", extra={"stream": stream, "events": compacted.version})
        return compacted.version

    async def _restore(self, compacted: Compacted) -> None:
        restoring = structs.replace(compacted, phase="restoring")
        await self._journal.run(partial(store_compacted, self._log, restoring))
        for segment in compacted.segments:
            records = await self._in_background(self._log.archive.records, segment.number)
            by_version = dict(enumerate(records, segment.first_version))
            after = segment.first_version - 1
            while after < segment.last_version:
                after = await self._step(partial(restore_step, self._log, restoring, after, by_version))
        await self._journal.run(partial(remove_compacted, self._log, compacted))


async def _rest_since(begun: float) -> None:
    """Leave most of the time to other work."""
    await trio.sleep(REST_SECONDS_PER_SECOND * (time.perf_counter() - begun))


def _lower_priority() -> None:
    """Lower the priority of only the calling thread, as Linux can: packing takes milliseconds, a command takes one."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
