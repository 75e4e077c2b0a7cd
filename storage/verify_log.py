"""The first half of a verification: every group and every record of the log, in bounded windows."""

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Final, TypeAlias, cast

import attrs

from .commit import IdempotencyEntry
from .environment import Environment, Transaction
from .finding import Finding
from .group import KEY, Group, GroupDamaged
from .names import category_of
from .record import GENESIS_HASH, HASH_SIZE_BYTES, StoredEvent, content_hash
from .verify_archive import ArchiveWalk
from .verify_tree import TreeWalk

WINDOW_EVENTS: Final = 32_768
"""Events per read transaction."""
WINDOW_GROUPS: Final = 16_384
TABLE_BATCH_ENTRIES: Final = 2_048
"""Index entries per read transaction."""


@attrs.define
class StreamState:
    """What the walk knows of one stream."""

    version: int = 0
    position: int = 0
    hash: bytes = GENESIS_HASH
    indexed: tuple[int, int, bytes] | None = None
    """Version, position and hash of its newest event that the indexes must know."""
    has_head: bool = False
    snapshots: dict[int, bytes] | None = None
    """The event hash of each snapshot whose version was not met yet."""


@attrs.define
class Run:
    """Consecutive versions of one stream in a window; `is_regular` says whether they are consecutive indeed."""

    first_version: int
    positions: list[int]
    is_regular: bool = True


@attrs.define
class Window:
    """What was read in one transaction: the positions from `first` through `last`, by stream, type and category."""

    first: int
    last: int = 0
    streams: dict[str, Run] = attrs.Factory(dict)
    types: dict[str, list[int]] = attrs.Factory(dict)
    categories: dict[str, list[int]] = attrs.Factory(dict)
    tags: dict[str, list[int]] = attrs.Factory(dict)
    findings: list[Finding] = attrs.Factory(list)


class LogWalk:
    """Goes through the log from its beginning to where it ended when the walk began."""

    def __init__(self, environment: Environment, tree: TreeWalk, archived: ArchiveWalk) -> None:
        self._environment = environment
        self._tree = tree
        self._archived = archived
        self.events = 0
        self.last_key = b""
        self.last_position = 0
        self.indexed_through = 0
        self.time_ns = 0
        """Of the newest event."""
        self.streams: dict[str, StreamState] = {}
        self.found: dict[str, dict[str, int]] = {"streams": {}, "types": {}, "categories": {}, "tags": {}}
        """How many of the entries that each index must have for a name were found in it."""
        self.unreadable: list[range] = []
        """Positions whose records are missing or cannot be decoded; what indexes say of them is passed over."""
        self._next_position: int | None = 1
        """Where the next group should begin; None after one whose end is unknown."""
        self._unknown_from = 0
        self._last_commit_id = 0
        self._after_key = b""

    def position_of_last(self, transaction: Transaction) -> int | None:
        """The position of the log's last record; None where its group is damaged."""
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
                if self.events - events_before >= WINDOW_EVENTS or groups >= WINDOW_GROUPS:
                    break
                more = cursor.next()
            else:
                self._after_key = self.last_key
        window.last = (self._next_position or self._unknown_from) - 1
        for stream, run in window.streams.items():
            window.categories.setdefault(category_of(stream), []).extend(run.positions)
        for positions in window.categories.values():
            positions.sort()
        return window

    def finish(self) -> None:
        """The last window was the last: what follows a damaged end is unknown."""
        if self._next_position is None:
            self.mark_unreadable(self._unknown_from, 1 << 63)

    def is_unreadable(self, position: int) -> bool:
        """Whether the record at this position was found missing or damaged."""
        index = bisect_right(self.unreadable, position, key=lambda part: part.start) - 1
        return index >= 0 and position in self.unreadable[index]

    def mark_unreadable(self, first: int, end: int | None = None) -> None:
        """Positions from `first` to before `end` (that one alone where it is not given), which ascend."""
        end = first + 1 if end is None else end
        if self.unreadable and self.unreadable[-1].stop == first:
            first = self.unreadable.pop().start
        self.unreadable.append(range(first, end))

    def pass_over(self, window: Window, stream: str, position: int, digest: bytes) -> None:
        """The next version of a stream is at this position; of the event only the hash is known."""
        state = self.streams.get(stream)
        if state is None:
            state = self.streams[stream] = StreamState()
        state.version, state.position, state.hash = state.version + 1, position, digest
        run = window.streams.get(stream)
        if run is None:
            window.streams[stream] = Run(state.version, [position])
        else:
            run.positions.append(position)
        if position <= self.indexed_through:
            state.indexed = (state.version, position, digest)
        if state.snapshots is not None and state.version in state.snapshots:
            _check_snapshot(window, state, stream)

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
            if len(records) != group.count:
                raise GroupDamaged(f"it holds {len(records)} records and announces {group.count}")
        except GroupDamaged as error:
            problem = f"the group that begins here cannot be read: {error}"
            found.append(Finding("log", problem, position=first_position))
            self._next_position, self._unknown_from = None, first_position
            self._tree.lose()
            self._last_commit_id = max(self._last_commit_id, first_commit_id)
            return
        if group.first_commit_id != first_commit_id:
            problem = f"its key says commit {first_commit_id} and its header {group.first_commit_id}"
            found.append(Finding("log", problem, position=first_position))
        if first_commit_id <= self._last_commit_id or group.last_commit_id < group.first_commit_id:
            ids = f"commits {first_commit_id} to {group.last_commit_id} follow commit {self._last_commit_id}"
            found.append(Finding("log", f"{ids}: their ids must ascend", position=first_position))
        self._last_commit_id = max(self._last_commit_id, group.last_commit_id)
        self._next_position = first_position + group.count
        if group.stubs:
            placed = self._archived.resolved(self, window, first_position, encoded)
        else:
            placed = zip(count(first_position), cast("list[StoredEvent]", records), encoded, strict=False)
        self._check_records(window, placed)
        self._check_idempotency(window, group)
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

    def _check_records(self, window: Window, placed: Iterable[tuple[int, StoredEvent, bytes]]) -> None:
        """Each record with the position that it should have, and its bytes."""
        streams, types, indexed_through = self.streams, window.types, self.indexed_through
        record: StoredEvent | None = None
        for position, record, content in placed:
            stream = record.stream
            state = streams.get(stream)
            if state is None:
                state = streams[stream] = StreamState()
            version = record.version
            is_next = version == state.version + 1
            if not is_next or record.position != position or content_hash(state.hash, content) != record.hash:
                window.findings.append(_fault(record, position, state, content))
            run = window.streams.get(stream)
            if run is None:
                window.streams[stream] = Run(version, [position])
            else:
                run.positions.append(position)
                if not is_next:
                    run.is_regular = False
            of_type = types.get(record.type)
            if of_type is None:
                types[record.type] = [position]
            else:
                of_type.append(position)
            for tag in record.tags:
                window.tags.setdefault(tag, []).append(position)
            state.version = version
            state.position = position
            state.hash = record.hash
            if position <= indexed_through:
                state.indexed = (version, position, record.hash)
            if state.snapshots is not None and version in state.snapshots:
                _check_snapshot(window, state, stream)
        if record is not None:
            self.time_ns = max(self.time_ns, record.time_ns)

    def _check_idempotency(self, window: Window, group: Group) -> None:
        try:
            entries = group.idempotency()
        except GroupDamaged as error:
            problem = f"the idempotency keys of this group cannot be read: {error}"
            window.findings.append(Finding("log", problem, position=group.first_position))
            return
        for entry in entries:
            if entry.event_count and not _is_there(window, entry):
                problem = f"the idempotency key {entry.key!r} names an event that is not there"
                window.findings.append(Finding("log", problem, entry.stream, entry.version, entry.position))


def _is_there(window: Window, entry: IdempotencyEntry) -> bool:
    """Whether the event that an idempotency key names was met in this window."""
    run = window.streams.get(entry.stream)
    if run is None:
        return False
    index = bisect_left(run.positions, entry.position)
    if index == len(run.positions) or run.positions[index] != entry.position:
        return False
    return not run.is_regular or run.first_version + index == entry.version


def _fault(record: StoredEvent, position: int, state: StreamState, content: bytes) -> Finding:
    """Say what is wrong with a record that failed one of the three checks."""
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


def _check_snapshot(window: Window, state: StreamState, stream: str) -> None:
    assert state.snapshots is not None
    if state.snapshots.pop(state.version) != state.hash:
        problem = "it was made from another event at this version: their hashes differ"
        window.findings.append(Finding("snapshots", problem, stream, state.version, state.position))
    if not state.snapshots:
        state.snapshots = None


EntryCheck: TypeAlias = Callable[[Transaction, bytes, bytes], list[Finding]]


def walk_table(environment: Environment, table: str, check: EntryCheck) -> Iterator[Finding]:
    """Show every entry of a table to `check`, with a transaction for each batch, and yield what it finds."""
    after: bytes | None = None
    more = True
    while more:
        found: list[Finding] = []
        with environment.read() as transaction, transaction.cursor(environment.table(table)) as cursor:
            more = (
                cursor.first() if after is None else cursor.set_range(after) and (cursor.key() > after or cursor.next())
            )
            for _ in range(TABLE_BATCH_ENTRIES):
                if not more:
                    break
                after = cursor.key()
                found += check(transaction, after, cursor.value())
                more = cursor.next()
        yield from found
