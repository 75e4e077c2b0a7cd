"""Verifies the `compacted` events, which represent archived events."""

import hashlib
from collections.abc import Iterator, Mapping

import msgspec
from msgspec import structs

from ..archive.compacted import Compacted, CompactedDamaged, decode_compacted
from ..archive.segment_numbers import segment_numbers
from ..environment.environment import Environment, Transaction
from ..snapshot import Snapshot, encode_state
from .finding import Finding
from .record_lookup import RecordLookup


class CompactedCheck:
    """Collects and checks the `compacted` events.

    Events may be moved or put back while the verification runs, so an inconsistency is checked again before it is
    reported.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.by_stream: dict[str, Compacted] = {}
        """The `compacted` events without their states, which may be large."""
        self.owners: dict[int, str] = {}
        """The stream of each segment."""
        self._stubs: dict[str, int] = {}
        """The number of stubs met, by stream."""
        self._changing: set[str] = set()
        """The streams that were compacted while the verification runs."""

    def __call__(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        """Check the `compacted` event of one stream. To be called before the log is walked."""
        stream = key.decode(errors="replace")
        try:
            compacted = decode_compacted(value)
        except CompactedDamaged as error:
            return [Finding("compacted", f"it cannot be decoded: {error}", stream)]
        if compacted.stream != stream:
            return [Finding("compacted", f"it stands for events of {compacted.stream!r}", stream)]
        found = list(self._register(compacted))
        if hashlib.sha256(encode_state(compacted.state)).digest() != compacted.state_hash:
            found.append(Finding("compacted", "its state does not have the hash that it says", stream))
        return found

    def _register(self, compacted: Compacted) -> Iterator[Finding]:
        stream = compacted.stream
        self.by_stream[stream] = structs.replace(compacted, state=None)
        version = 0
        for segment in compacted.segments:
            other = self.owners.setdefault(segment.number, stream)
            if other != stream:
                problem = f"it names segment {segment.number} of the archive, which is one of {other!r}"
                yield Finding("compacted", problem, stream, segment.first_version)
            if segment.first_version != version + 1 or segment.last_version < segment.first_version:
                break
            version = segment.last_version
        if version != compacted.version:
            problem = f"its segments do not hold the versions 1 to {compacted.version}"
            yield Finding("compacted", problem, stream, version + 1)

    def check_numbers(self) -> Iterator[Finding]:
        """Check that the named segments have numbers that were assigned and are not listed as unused."""
        found = []
        with self._environment.read() as transaction:
            try:
                numbers = segment_numbers(transaction, self._environment.table("meta"))
            except msgspec.MsgspecError:
                return  # `MetaCheck` reports this row
            unused = set(numbers.unused)
            for number, stream in self.owners.items():
                if (number > numbers.last or number in unused) and self._names(transaction, stream, number):
                    what = "is to be dropped" if number in unused else f"is beyond {numbers.last}, the highest so far"
                    problem = f"segment {number} of the archive {what}, but a compacted event names it"
                    found.append(Finding("meta", problem, stream))
        yield from found

    def _names(self, transaction: Transaction, stream: str, number: int) -> bool:
        """Whether the `compacted` event of a stream names a segment, as seen by this transaction."""
        current = self._current(transaction, stream)
        return current is not None and any(segment.number == number for segment in current.segments)

    def _current(self, transaction: Transaction, stream: str) -> Compacted | None:
        value = transaction.get(stream.encode(), db=self._environment.table("compacted"))
        try:
            return None if value is None else decode_compacted(value)
        except CompactedDamaged:
            return None

    # --- for the other checks ---

    def versions_of(self, number: int) -> tuple[str, int, int] | None:
        """(stream, first version, last version) of a segment; None if no `compacted` event names it."""
        stream = self.owners.get(number)
        if stream is None:
            return None
        segment = next(each for each in self.by_stream[stream].segments if each.number == number)
        return stream, segment.first_version, segment.last_version

    def names(self, stream: str, number: int) -> bool:
        """Whether the present `compacted` event of a stream names a segment."""
        with self._environment.read() as transaction:
            return self._names(transaction, stream, number)

    def learn(self, stream: str, number: int) -> bool:
        """Read the present `compacted` event of a stream; return whether it names the segment."""
        with self._environment.read() as transaction:
            current = self._current(transaction, stream)
        if current is not None:
            self._changing.add(stream)
            for _ in self._register(current):
                pass
        return self.owners.get(number) == stream

    def is_unused(self, number: int) -> bool:
        """Whether a segment is now listed as unused."""
        with self._environment.read() as transaction:
            try:
                return number in segment_numbers(transaction, self._environment.table("meta")).unused
            except msgspec.MsgspecError:
                return False

    def count_stub(self, stream: str) -> None:
        """Count one stub of a stream."""
        self._stubs[stream] = self._stubs.get(stream, 0) + 1

    def check_snapshot(self, snapshot: Snapshot) -> Finding | None:
        """Compare a snapshot with the `compacted` event of the same version and schema: the states must be equal."""
        compacted = self.by_stream.get(snapshot.stream)
        if compacted is None or (compacted.version, compacted.schema) != (snapshot.version, snapshot.schema):
            return None
        if snapshot.quarantined or snapshot.state_hash == compacted.state_hash:
            return None
        problem = "its state is not that of the snapshot of this version"
        return Finding("compacted", problem, snapshot.stream, snapshot.version)

    # --- after the walk ---

    def finish(self, record_sizes: Mapping[int, int], stored_sizes: Mapping[int, int]) -> Iterator[Finding]:
        """Compare the `compacted` events with the log and the archive as walked.

        Args:
            record_sizes: by segment, the bytes of its records, for the segments that could be read.
            stored_sizes: by segment, the bytes that it takes in the archive.

        """
        for compacted in self.by_stream.values():
            if compacted.stream in self._changing:
                continue
            with self._environment.read() as transaction:
                current = self._current(transaction, compacted.stream)
                event_hash = RecordLookup(self._environment, transaction).hash(compacted.position)
            if current is None or structs.replace(current, state=None) != compacted:
                continue  # moved or put back meanwhile
            for problem in self._problems(compacted, event_hash, record_sizes, stored_sizes):
                yield Finding("compacted", problem, compacted.stream, compacted.version, compacted.position)

    def _problems(
        self,
        compacted: Compacted,
        event_hash: bytes | None,
        record_sizes: Mapping[int, int],
        stored_sizes: Mapping[int, int],
    ) -> Iterator[str]:
        if event_hash != compacted.event_hash:
            yield "the event at its position is not the one that it names"
        numbers = [segment.number for segment in compacted.segments]
        if not all(number in record_sizes and number in stored_sizes for number in numbers):
            return  # unreadable segments were reported
        stubs = self._stubs.get(compacted.stream, 0)
        if compacted.phase == "moved" and stubs != compacted.version:
            yield f"it stands for {compacted.version} events, and {stubs} of them are in the archive"
        size_bytes = sum(record_sizes[number] for number in numbers)
        if size_bytes != compacted.size_bytes:
            yield f"it says that the events took {compacted.size_bytes} bytes, and they take {size_bytes}"
        archived_size_bytes = sum(stored_sizes[number] for number in numbers)
        if archived_size_bytes != compacted.archived_size_bytes:
            said = compacted.archived_size_bytes
            yield f"it says that the archive takes {said} bytes for them, and it takes {archived_size_bytes}"
