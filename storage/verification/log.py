"""Verifies every group and every record of the log, in bounded windows."""

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import count
from typing import Final, cast

import attrs

from ..commit import IdempotencyEntry
from ..environment.environment import Environment, Transaction
from ..group import KEY, Group, GroupDamaged, Record, is_stub
from ..names import category_of
from ..record import GENESIS_HASH, HASH_SIZE_BYTES, StoredEvent, content_hash
from .archive import ArchiveWalk
from .counts import Counts
from .finding import Finding
from .tree import TreeWalk

WINDOW_EVENTS: Final = 32_768
"""Events per read transaction, about."""
WINDOW_KEYS: Final = 65_536
"""Idempotency keys per read transaction, about."""
WINDOW_GROUPS: Final = 16_384


@attrs.define
class StreamState:
    """The state of one stream during the walk."""

    version: int = 0
    position: int = 0
    hash: bytes = GENESIS_HASH
    indexed: tuple[int, int, bytes] | None = None
    """(version, position, hash) of the newest event that the indexes on disk must have."""
    has_head: bool = False
    pinned: dict[int, list[tuple[str, bytes]]] | None = None
    """By version that was not met yet: (table, hash) of each entry of another table that names this event's hash."""
    run: "Run | None" = None
    """The versions of the stream in the window that is being read."""


@attrs.define
class Run:
    """The events of one stream in a window; `is_regular` says whether their versions are consecutive."""

    first_version: int
    positions: list[int]
    is_regular: bool = True


@attrs.define
class Window:
    """The content of one read transaction: the positions `first` through `last`, by stream, type, category and tag."""

    first: int
    last: int = 0
    streams: dict[str, Run] = attrs.Factory(dict)
    types: dict[str, list[int]] = attrs.Factory(dict)
    categories: dict[str, list[int]] = attrs.Factory(dict)
    tags: dict[str, list[int]] = attrs.Factory(dict)
    keys: list[IdempotencyEntry] = attrs.Factory(list)
    """The idempotency keys; the first `flushed_keys` of them must be in their table."""
    flushed_keys: int = 0
    findings: list[Finding] = attrs.Factory(list)


class LogWalk:
    """Walks through the log from its beginning to its end as of the start of the walk."""

    def __init__(self, environment: Environment, tree: TreeWalk, archived: ArchiveWalk) -> None:
        self._environment = environment
        self._tree = tree
        self._archived = archived
        self.events = 0
        self.last_key = b""
        self.last_position = 0
        self.indexed_through = 0
        self.indexed_commit_id = 0
        """The last commit that the indexes on disk cover."""
        self.time_ns = 0
        """The time of the newest event met."""
        self.streams: dict[str, StreamState] = {}
        self.found = {"streams": Counts(), "types": Counts(), "categories": Counts(), "tags": Counts()}
        """By index: the number of required entries that were found, by name."""
        self.unreadable: list[range] = []
        """Positions whose records are missing or cannot be decoded; index entries for them are not checked."""
        self._is_beyond_indexes = False
        self._has_met_indexed = False
        self._next_position: int | None = 1
        """The expected first position of the next group; None after a group whose end is unknown."""
        self._unknown_from = 0
        self._last_commit_id = 0
        self._after_key = b""

    def pin(self, stream: str, version: int, table: str, event_hash: bytes) -> None:
        """Require that an event has the hash that an entry of `table` names. To be called before the walk begins."""
        state = self.streams.setdefault(stream, StreamState())
        state.pinned = state.pinned or {}
        state.pinned.setdefault(version, []).append((table, event_hash))

    def position_of_last(self, transaction: Transaction) -> int | None:
        """The position of the log's last record, 0 in an empty log; None if the last group is damaged."""
        with transaction.cursor(self._environment.table("log")) as cursor:
            if not cursor.last():
                return 0
            try:
                return Group(KEY.unpack(cursor.key())[0], cursor.value()).last_position
            except (GroupDamaged, struct.error):
                return None

    def next_window(self) -> Window | None:
        """Read and check the next groups; None at the end."""
        if self._after_key >= self.last_key:
            return None
        window = Window(self._next_position or self._unknown_from)
        events_before, groups = self.events, 0
        with (
            self._environment.read() as transaction,
            transaction.cursor(self._environment.table("log")) as cursor,
        ):
            more = cursor.set_range(self._after_key + b"\0") if self._after_key else cursor.first()
            while more and cursor.key() <= self.last_key:
                self._after_key = cursor.key()
                self._check_group(window, self._after_key, cursor.value())
                groups += 1
                events = self.events - events_before
                if events >= WINDOW_EVENTS or len(window.keys) >= WINDOW_KEYS or groups >= WINDOW_GROUPS:
                    break
                more = cursor.next()
            else:
                self._after_key = self.last_key
        window.last = (self._next_position or self._unknown_from) - 1
        for stream, run in window.streams.items():
            self.streams[stream].run = None
            window.categories.setdefault(category_of(stream), []).extend(run.positions)
        for positions in window.categories.values():
            positions.sort()
        return window

    def finish(self) -> Iterator[Finding]:
        """Yield the findings at the end of the walk, after the last window."""
        if self._next_position is None:
            self.mark_unreadable(self._unknown_from, 1 << 63)
        if not self._is_beyond_indexes:
            self._leave_indexes()
        if self.indexed_commit_id and not self._has_met_indexed and not self.unreadable:
            problem = f"the indexes reach to commit {self.indexed_commit_id}, with which no group ends"
            yield Finding("meta", problem, position=self.indexed_through)
        for stream, state in self.streams.items():
            for version, pins in (state.pinned or {}).items():
                for table, _ in pins:
                    is_lost = version <= state.version and self.unreadable
                    problem = "the event is missing or cannot be read" if is_lost else "the stream has no such version"
                    yield Finding(table, problem, stream, version)

    def is_unreadable(self, position: int) -> bool:
        """Whether the record at this position was found missing or damaged."""
        index = bisect_right(self.unreadable, position, key=lambda part: part.start) - 1
        return index >= 0 and position in self.unreadable[index]

    def mark_unreadable(self, first: int, end: int | None = None) -> None:
        """Mark the positions from `first` to before `end`, or `first` alone. Call with ascending positions."""
        end = first + 1 if end is None else end
        if self.unreadable and self.unreadable[-1].stop == first:
            first = self.unreadable.pop().start
        self.unreadable.append(range(first, end))

    def pass_over(self, window: Window, stream: str, position: int, digest: bytes) -> None:
        """Count an unreadable archived event as the next version of its stream; only its hash is known."""
        state = self.streams.get(stream)
        if state is None:
            state = self.streams[stream] = StreamState()
        state.version, state.position, state.hash = state.version + 1, position, digest
        run = state.run
        if run is None:
            state.run = window.streams[stream] = Run(state.version, [position])
        else:
            run.positions.append(position)
        if state.pinned is not None and state.version in state.pinned:
            _check_pins(window, state, stream)

    def _check_group(self, window: Window, key: bytes, value: bytes) -> None:
        if len(key) != KEY.size:
            window.findings.append(Finding("log", f"the key {key.hex()} is no position and commit id"))
            return
        first_position, first_commit_id = KEY.unpack(key)
        found = window.findings
        self._check_begin(window, first_position)
        try:
            group = Group(first_position, value)
            records, encoded = group.records(), group.encoded_records()
            # In a group that announces no stubs, decoding a stub has failed already.
            if len(records) != group.count or (group.stubs and sum(map(is_stub, encoded)) != group.stubs):
                announced = f"{group.count} and {group.stubs} stubs"
                raise GroupDamaged(f"it does not hold as many records as it announces, {announced}")
        except (GroupDamaged, IndexError) as error:
            problem = f"the group that begins here cannot be read: {error}"
            found.append(Finding("log", problem, position=first_position))
            self._next_position, self._unknown_from = None, first_position
            self._tree.lose()
            self._last_commit_id = max(self._last_commit_id, first_commit_id)
            return
        self._check_commit_ids(window, group, first_commit_id)
        self._next_position = first_position + group.count
        if not self._is_beyond_indexes and group.last_commit_id > self.indexed_commit_id:
            self._leave_indexes()
        if group.stubs:
            placed = self._archived.resolved(self, window, first_position, encoded)
        else:
            placed = zip(count(first_position), cast("list[StoredEvent]", records), encoded, strict=False)
        self._check_records(window, placed)
        self._check_keys(window, group, records)
        found += self._tree.add(first_position, [content[-HASH_SIZE_BYTES:] for content in encoded], group.root)
        self.events += group.count

    def _check_begin(self, window: Window, first_position: int) -> None:
        expected = self._next_position
        if expected is None:
            self.mark_unreadable(self._unknown_from, first_position)
        elif first_position > expected:
            self.mark_unreadable(expected, first_position)
            problem = f"positions {expected} to {first_position - 1} are missing"
            window.findings.append(Finding("log", problem, position=expected))
        elif first_position < expected:
            problem = f"a group begins here, but the one before it ends at position {expected - 1}"
            window.findings.append(Finding("log", problem, position=first_position))

    def _check_commit_ids(self, window: Window, group: Group, first_commit_id: int) -> None:
        position = group.first_position
        if group.first_commit_id != first_commit_id:
            problem = f"its key says commit {first_commit_id} and its header {group.first_commit_id}"
            window.findings.append(Finding("log", problem, position=position))
        if first_commit_id <= self._last_commit_id or group.last_commit_id < group.first_commit_id:
            ids = f"commits {first_commit_id} to {group.last_commit_id} follow commit {self._last_commit_id}"
            window.findings.append(Finding("log", f"{ids}: their ids must ascend", position=position))
        self._last_commit_id = max(self._last_commit_id, group.last_commit_id)
        if group.last_commit_id == self.indexed_commit_id:
            self._has_met_indexed = True
            if group.last_position != self.indexed_through:
                reach = f"the indexes reach to position {self.indexed_through} and commit {self.indexed_commit_id}"
                problem = f"{reach}, which ends at position {group.last_position}"
                window.findings.append(Finding("meta", problem, position=group.last_position))

    def _leave_indexes(self) -> None:
        """Note that the indexes on disk need not have the following events."""
        self._is_beyond_indexes = True
        for state in self.streams.values():
            if state.version:
                state.indexed = (state.version, state.position, state.hash)

    def _check_records(self, window: Window, placed: Iterable[tuple[int, StoredEvent, bytes]]) -> None:
        """Check records; each comes with the position that it should have. The inner loop of a verification."""
        streams, types, tags = self.streams, window.types, window.tags
        record: StoredEvent | None = None
        last_type: str | None = None
        of_type: list[int] = []
        for position, record, content in placed:
            stream = record.stream
            state = streams.get(stream)
            if state is None:
                state = streams[stream] = StreamState()
            version, digest = record.version, record.hash
            is_next = version == state.version + 1
            # `content_hash`, inlined.
            actual = sha256(state.hash + content[:-HASH_SIZE_BYTES]).digest()
            if not is_next or record.position != position or actual != digest:
                window.findings.append(_fault(record, position, state, content))
            run = state.run
            if run is None:
                state.run = window.streams[stream] = Run(version, [position])
            else:
                run.positions.append(position)
                if not is_next:
                    run.is_regular = False
            event_type = record.type
            if event_type != last_type:
                last_type = event_type
                of_type = types.setdefault(event_type, [])
            of_type.append(position)
            for tag in record.tags:
                tags.setdefault(tag, []).append(position)
            state.version = version
            state.position = position
            state.hash = digest
            if state.pinned is not None and version in state.pinned:
                _check_pins(window, state, stream)
        if record is not None:
            self.time_ns = max(self.time_ns, record.time_ns)

    def _check_keys(self, window: Window, group: Group, records: Sequence[Record]) -> None:
        try:
            entries = group.idempotency()
        except GroupDamaged as error:
            problem = f"the idempotency keys of this group cannot be read: {error}"
            window.findings.append(Finding("log", problem, position=group.first_position))
            return
        first = group.first_position
        for entry in entries:
            index = entry.position - first
            record = records[index] if 0 <= index < group.count else None
            if entry.event_count:
                if isinstance(record, StoredEvent):
                    is_right = record.version == entry.version and record.stream == entry.stream
                else:
                    is_right = record is not None and _is_there(window, entry)
                is_right = is_right and entry.event_count <= entry.version
            else:
                # A command without events: its entry has the position of the log and the version of the stream then.
                state = self.streams.get(entry.stream)
                is_reached = entry.version <= (0 if state is None else state.version) or bool(self.unreadable)
                is_right = -1 <= index < group.count and is_reached
            if not is_right and not self.is_unreadable(entry.position):
                problem = f"the idempotency key {entry.key!r} names an event that is not there"
                window.findings.append(Finding("log", problem, entry.stream, entry.version, entry.position))
        window.keys += entries
        if not self._is_beyond_indexes:
            window.flushed_keys = len(window.keys)


def _is_there(window: Window, entry: IdempotencyEntry) -> bool:
    """Whether this window has the archived event that an idempotency key names."""
    run = window.streams.get(entry.stream)
    if run is None:
        return False
    index = bisect_left(run.positions, entry.position)
    if index == len(run.positions) or run.positions[index] != entry.position:
        return False
    return not run.is_regular or run.first_version + index == entry.version


def _fault(record: StoredEvent, position: int, state: StreamState, content: bytes) -> Finding:
    """The finding for a record that failed one of the three checks."""
    problems = []
    if record.position != position:
        problems.append(f"it says that its position is {record.position}")
    if record.version > state.version + 1:
        problems.append(f"versions {state.version + 1} to {record.version - 1} of the stream are missing before it")
    elif record.version <= state.version:
        problems.append(f"it follows version {state.version} of the stream, at position {state.position}")
    if content_hash(state.hash, content) != record.hash:
        problems.append("its hash does not match its content and the event before it in the stream")
    return Finding("log", "; ".join(problems), record.stream, record.version, position)


def _check_pins(window: Window, state: StreamState, stream: str) -> None:
    """Check the entries of other tables that name this version's hash."""
    assert state.pinned is not None
    for table, event_hash in state.pinned.pop(state.version):
        if event_hash != state.hash:
            problem = "it was made from another event at this version: their hashes differ"
            window.findings.append(Finding(table, problem, stream, state.version, state.position))
    if not state.pinned:
        state.pinned = None
