"""The log on LMDB against the store in memory: after any sequence of operations they say the same."""

import shutil
import tempfile
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from msgspec import structs

from eventsrc import ANY, NO_STREAM, STREAM_EXISTS, EventLog, Limits, MemoryLog
from eventsrc.storage import log as log_module
from eventsrc.storage.archive import compaction
from eventsrc.storage.archive.archive import pack_segment
from eventsrc.storage.archive.compacted import Compacted, SegmentRange
from eventsrc.storage.archive.compaction import (
    move_step,
    remove_compacted,
    remove_unused,
    reserve_segments,
    restore_step,
    store_compacted,
    unused_segments,
)
from eventsrc.storage.commit import Appended, Commit, IdempotencyEntry, NewEvent, StreamAppend
from eventsrc.storage.contract import TIME_NS, Outcome
from eventsrc.storage.event_query import EventQuery
from eventsrc.storage.indexes import idempotency, postings
from eventsrc.storage.reader import LogReader
from eventsrc.storage.record import GENESIS_HASH
from eventsrc.storage.snapshot import Snapshot, encode_state
from eventsrc.storage.store import EventReader
from eventsrc.storage.verification.verify import verify

STREAMS = ("a", "a-1", "a-2", "a-10", "b-1", "b-ä")
TYPES = ("opened", "changed", "closed")
KEYS = tuple(f"key-{number}" for number in range(6))
LIMITS = Limits(stream_events_max=40, streams_max=5, commit_events_max=8, snapshots_kept=2)

TAGS = ("red", "round", "rare")
new_events = st.builds(
    NewEvent,
    st.sampled_from(TYPES),
    st.dictionaries(st.text(max_size=3), st.integers(0, 9)),
    tags=st.lists(st.sampled_from(TAGS), max_size=3, unique=True).map(tuple),
)
queries = st.builds(
    EventQuery,
    types=st.none() | st.lists(st.sampled_from(TYPES), min_size=1, max_size=2),
    tags=st.none() | st.lists(st.sampled_from(TAGS), min_size=1, max_size=2),
    category=st.one_of(st.none(), st.sampled_from("ab")),
    after=st.integers(0, 80),
)
appends = st.builds(
    StreamAppend,
    st.sampled_from(STREAMS),
    st.one_of(st.just(ANY), st.sampled_from([NO_STREAM, STREAM_EXISTS]), st.integers(0, 5)),
    st.lists(new_events, max_size=5),
)
entries = st.builds(
    IdempotencyEntry,
    st.sampled_from(STREAMS),
    st.sampled_from(KEYS),
    st.just(0),
    st.just(-1),
    st.just(0),
    st.integers(1, 30),
)
batches = st.lists(
    st.tuples(
        st.lists(appends, max_size=3),
        st.lists(entries, max_size=3),
        st.booleans(),
        st.one_of(st.just([]), st.lists(queries, max_size=1)),
    ),
    min_size=1,
    max_size=6,
)
bound = st.one_of(st.none(), st.integers(-1, 80))
reading = {
    "after": st.integers(-1, 80),
    "before": bound,
    "backwards": st.booleans(),
    "limit": st.integers(1, 30),
}


class StoresAgree(RuleBasedStateMachine):
    """Both get the same commits; the log is closed, killed and flushed in between."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="eventsrc-model-"))
        self.copies = 0
        self.memory = MemoryLog(limits=LIMITS)
        self.log = EventLog(self.folder / "store", limits=LIMITS)
        self.now_ns = TIME_NS
        self.next_id = 1

    def teardown(self) -> None:
        path = self.log.path
        self.log.close()
        with closing(EventLog(path)) as log:
            assert list(verify(log, now_ns=lambda: self.now_ns)) == []
        shutil.rmtree(self.folder)

    @rule(batch=batches)
    def append(self, batch: list[tuple[list[StreamAppend], list[IdempotencyEntry], bool, list[EventQuery]]]) -> None:
        commits = []
        for commit_appends, keys, follows, conditions in batch:
            self.now_ns += 1
            expiring = [
                IdempotencyEntry(entry.stream, entry.key, 0, -1, 0, self.now_ns + entry.expires_ns) for entry in keys
            ]
            before = [self.next_id - 1] if follows else []
            commits.append(Commit(self.next_id, self.now_ns, commit_appends, expiring, before, conditions))
            self.next_id += 1
        assert plain(self.log.append(commits)) == plain(self.memory.append(commits))

    @rule(stream=st.sampled_from(STREAMS), back=st.integers(0, 3))
    def snapshot(self, stream: str, back: int) -> None:
        head = self.memory.head(stream)
        if head is None:
            return
        (event,) = self.memory.read_stream(stream, from_version=max(head.version - back, 1), limit=1)
        snapshot = Snapshot(stream, event.version, "schema", self.now_ns, event.hash, {"at": event.position})
        assert self.log.append([], [snapshot]) == self.memory.append([], [snapshot]) == []

    @rule()
    def flush(self) -> None:
        self.log.flush()

    @rule(stream=st.sampled_from(STREAMS), back=st.integers(0, 3), steps=st.integers(0, 4))
    def compact(self, stream: str, back: int, steps: int) -> None:
        """All of a stream but its newest events; with few steps it is left in the middle of it."""
        compact_by_hand(self.log, stream, back, steps)

    @rule(stream=st.sampled_from(STREAMS), steps=st.integers(0, 4))
    def uncompact(self, stream: str, steps: int) -> None:
        compacted = self.log.compacted(stream)
        if compacted is not None:
            restore_by_hand(self.log, compacted, steps)

    @rule()
    def close_and_open(self) -> None:
        self.log.close()
        self.log = EventLog(self.log.path, limits=LIMITS)

    @rule()
    def kill_and_open(self) -> None:
        """What the file holds at this moment is what a killed process leaves behind."""
        self.copies += 1
        copy = self.folder / f"copy-{self.copies}"
        shutil.copytree(self.log.path, copy, ignore=shutil.ignore_patterns("lock.mdb"))
        self.log.close()
        self.log = EventLog(copy, limits=LIMITS)

    @rule(arguments=st.fixed_dictionaries(reading))
    def read(self, arguments: dict[str, Any]) -> None:
        self.compare(lambda store: store.read(**arguments))

    @rule(event_type=st.sampled_from(TYPES), arguments=st.fixed_dictionaries(reading))
    def read_type(self, event_type: str, arguments: dict[str, Any]) -> None:
        self.compare(lambda store: store.read_type(event_type, **arguments))

    @rule(tag=st.sampled_from(TAGS), arguments=st.fixed_dictionaries(reading))
    def read_tag(self, tag: str, arguments: dict[str, Any]) -> None:
        self.compare(lambda store: store.read_tag(tag, **arguments))

    @rule(category=st.sampled_from("abc"), arguments=st.fixed_dictionaries(reading))
    def read_category(self, category: str, arguments: dict[str, Any]) -> None:
        self.compare(lambda store: store.read_category(category, **arguments))

    @rule(
        stream=st.sampled_from(STREAMS),
        first=st.integers(-1, 20),
        last=bound,
        backwards=st.booleans(),
        limit=st.integers(1, 30),
    )
    def read_stream(self, stream: str, first: int, last: int | None, backwards: bool, limit: int) -> None:
        self.compare(
            lambda store: store.read_stream(
                stream, from_version=first, to_version=last, backwards=backwards, limit=limit
            )
        )

    @rule(
        category=st.one_of(st.none(), st.sampled_from("abc")),
        after=st.one_of(st.just(""), st.sampled_from(STREAMS)),
        limit=st.integers(1, 8),
    )
    def streams(self, category: str | None, after: str, limit: int) -> None:
        self.compare(lambda store: store.streams(category=category, after=after, limit=limit))

    @rule(stream=st.sampled_from(STREAMS), position=st.integers(0, 100))
    def head_at(self, stream: str, position: int) -> None:
        self.compare(lambda store: store.head_at(stream, position))

    @rule(position=st.integers(1, 100))
    def time_at(self, position: int) -> None:
        if position <= self.memory.last_position:
            self.compare(lambda store: store.time_at(position))

    @rule(stream=st.sampled_from(STREAMS), limit=st.integers(1, 3))
    def snapshots(self, stream: str, limit: int) -> None:
        # What a compacted event carries is the only proved one here.
        self.compare(lambda store: [each for each in store.snapshots(stream, limit=limit) if not each.is_proved])

    @rule(stream=st.sampled_from(STREAMS), later_ns=st.integers(0, 30))
    def idempotency(self, stream: str, later_ns: int) -> None:
        self.compare(lambda store: store.idempotency(stream, KEYS, now_ns=self.now_ns + later_ns))

    @invariant()
    def agree(self) -> None:
        self.compare(lambda store: (store.last_position, store.last_commit_id, store.stream_count))
        self.compare(lambda store: [store.head(stream) for stream in STREAMS])

    def compare(self, ask: Any) -> None:
        assert ask(self.log) == ask(self.memory)


def compact_by_hand(log: EventLog, stream: str, back: int, steps: int) -> None:
    """What the runtime does, without the proof of the state."""
    head, before = log.head(stream), log.compacted(stream)
    if head is None or (before is not None and before.phase == "restoring"):
        return
    begin, end = 1 if before is None else before.version + 1, head.version - back
    log.flush()
    if before is None or before.phase == "moved":
        if end < begin:
            return
        unused = unused_segments(log)
        log.archive.drop(unused)
        remove_unused(log, unused)
        firsts = range(begin, end + 1, 3)
        numbers = reserve_segments(log, len(firsts))
        segments = before.segments if before is not None else []
        segments = segments + [
            pack(log, stream, number, first, min(first + 2, end)) for number, first in zip(numbers, firsts, strict=True)
        ]
        (event,) = log.read_stream(stream, from_version=end, limit=1)
        size_bytes = sum(map(len, log.encoded_stream(stream, 1, end)))
        archived_bytes = log.archive.size_bytes([segment.number for segment in segments])
        state_hash = sha256(encode_state({})).digest()
        facts = (stream, end, event.position, event.hash, 0, "moving", segments, size_bytes, archived_bytes)
        before = Compacted(*facts, "", {}, state_hash)
        store_compacted(log, before)
    done = 0
    for _ in range(steps):
        if done < before.version:
            done = move_step(log, before, done)
    if done == before.version:
        store_compacted(log, structs.replace(before, phase="moved"))


def pack(log: EventLog, stream: str, number: int, first: int, last: int) -> SegmentRange:
    records = log.encoded_stream(stream, first, last)
    previous_hash = log.event_hash(stream, first - 1) or GENESIS_HASH
    log.archive.add(number, pack_segment(stream, first, previous_hash, records))
    assert log.archive.records(number) == records
    return SegmentRange(number, first, last)


def restore_by_hand(log: EventLog, compacted: Compacted, steps: int) -> None:
    restoring = structs.replace(compacted, phase="restoring")
    store_compacted(log, restoring)
    records = {
        version: record
        for segment in compacted.segments
        for version, record in enumerate(log.archive.records(segment.number), segment.first_version)
    }
    done = 0
    for _ in range(steps):
        if done < compacted.version:
            done = restore_step(log, restoring, done, records)
    if done == compacted.version:
        remove_compacted(log, compacted)


def plain(outcomes: list[Outcome]) -> list[object]:
    return [outcome if isinstance(outcome, Appended) else (type(outcome), str(outcome)) for outcome in outcomes]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "TAIL_WEIGHT_MAX", 5)
    monkeypatch.setattr(log_module, "FLUSH_CHUNK_ITEMS", 2)
    monkeypatch.setattr(log_module, "HEADS_CACHED_MAX", 2)
    monkeypatch.setattr(log_module, "HEADS_LOADED_MAX", 3)
    monkeypatch.setattr(postings, "CHUNK_POSITIONS_MAX", 3)
    monkeypatch.setattr(idempotency, "CHUNK_ROWS_MAX", 2)
    monkeypatch.setattr(compaction, "STEP_EVENTS_MAX", 2)


PROFILE = settings(
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.too_slow]
)


@pytest.mark.usefixtures("tiny")
def test_the_log_and_the_store_in_memory_agree() -> None:
    run_state_machine_as_test(StoresAgree, settings=settings(PROFILE, max_examples=25, stateful_step_count=30))


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_the_log_and_the_store_in_memory_agree_at_length() -> None:
    run_state_machine_as_test(StoresAgree, settings=settings(PROFILE, max_examples=300, stateful_step_count=60))


@pytest.mark.usefixtures("tiny")
def test_a_reader_that_follows_from_outside_sees_the_same(tmp_path: Path) -> None:
    """A copy of the file at any moment is what a reader in another process sees."""
    memory = MemoryLog()
    with closing(EventLog(tmp_path / "store")) as log:
        for number in range(1, 40):
            batch = [
                Commit(
                    number,
                    TIME_NS,
                    [StreamAppend(stream, ANY, [NewEvent(TYPES[number % 3], {})]) for stream in STREAMS[: number % 5]],
                )
            ]
            assert plain(log.append(batch)) == plain(memory.append(batch))
            copy = tmp_path / f"copy-{number}"
            shutil.copytree(log.path, copy)
            with closing(LogReader.open(copy)) as reader:
                stores: list[EventReader] = [reader, memory]
                views = [
                    (
                        store.read(limit=1_000),
                        store.streams(),
                        [store.read_type(name) for name in TYPES],
                        [store.read_stream(stream) for stream in STREAMS],
                        (store.last_position, store.last_commit_id, store.stream_count),
                    )
                    for store in stores
                ]
                assert views[0] == views[1]
