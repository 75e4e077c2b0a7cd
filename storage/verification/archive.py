"""Verifies the archive: every segment, and every stub in the log.

A segment is opened during the walk through the log when a stub names it; the other segments are opened after the walk.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ..archive.archive import KEY_SIZE_BYTES, UNDECODABLE, Archive
from ..archive.errors import ArchiveUnreachable
from ..archive.segment_cache import SegmentCache
from ..environment.environment import Environment, Transaction
from ..environment.refusals import is_refusal
from ..environment.store_format import FORMAT_NAME, FORMAT_VERSION
from ..group import is_stub, split_stub
from ..record import HASH_SIZE_BYTES, StoredEvent, decode_record
from .compacted import CompactedCheck
from .finding import Finding
from .record_lookup import RecordLookup
from .tables import unknown_tables, walk_table

if TYPE_CHECKING:
    from .log import LogWalk, Window

META_OF_ARCHIVE: Final = {b"format": FORMAT_NAME, b"version": str(FORMAT_VERSION).encode()}


class ArchiveWalk:
    """Fetches and checks the events that stubs stand for. A segment that cannot be read is reported once.

    `pages` is a finding about the archive's pages; with it, the archive is not read at all.
    """

    def __init__(
        self, environment: Environment, archive: Archive, compacted: CompactedCheck, pages: Finding | None = None
    ) -> None:
        self._environment = environment
        self._archive = archive
        self._compacted = compacted
        self._pages = pages
        # Not the cache of `archive`: a segment in that cache may have been damaged on disk since.
        self._cache = SegmentCache()
        self._lost: set[int] = set()
        self._unowned: set[int] = set()
        self._is_out_of_reach = False
        self.record_sizes: dict[int, int] = {}
        """By segment: the bytes of its records, for the segments that were opened."""
        self.stored_sizes: dict[int, int] = {}
        """By segment: the bytes that it takes in the archive."""

    def begin(self) -> Iterator[Finding]:
        """Check that the archive can be opened. To be called once the `compacted` events are known."""
        needed = len(self._compacted.owners)
        problem = self._pages
        if problem is None and needed:
            try:
                _ = self._archive.environment
            except ArchiveUnreachable as error:
                problem = _unreachable(error)
        self._is_out_of_reach = problem is not None
        if problem is not None and needed:
            what = f"what {needed} segments should hold is out of reach: {problem.problem}"
            yield Finding("archive", what, is_damage=problem.is_damage)

    # --- during the walk through the log ---

    def resolved(
        self, walk: "LogWalk", window: "Window", first_position: int, encoded: list[bytes]
    ) -> Iterator[tuple[int, StoredEvent, bytes]]:
        """Yield (position, event, record bytes) for a group with stubs; note and skip events that cannot be read."""
        for position, content in enumerate(encoded, first_position):
            if not is_stub(content):
                yield position, decode_record(content), content
                continue
            number, time_ns, digest = split_stub(content[2:])
            record = self._record(window.findings, number, position, digest)
            event = decode_record(record) if record else None
            if record and event is not None and event.position == position:
                self._check_stub(window.findings, number, time_ns, event, position)
                yield position, event, record
                continue
            if record is not None:
                problem = f"segment {number} holds another event than the one that was moved there"
                window.findings.append(Finding("archive", problem, position=position))
            # The event is the next version of its stream; only its hash is known.
            walk.mark_unreadable(position)
            stream = self._compacted.owners.get(number)
            if stream is not None:
                walk.pass_over(window, stream, position, digest)

    def event(self, stub: bytes, position: int) -> StoredEvent | None:
        """The event for the content of a stub; None if it cannot be read."""
        number, _, digest = split_stub(stub)
        record = self._record([], number, position, digest)
        return decode_record(record) if record else None

    def _check_stub(self, found: list[Finding], number: int, time_ns: int, event: StoredEvent, position: int) -> None:
        if event.time_ns != time_ns:
            problem = f"its stub says that its time is {time_ns}, and the archive {event.time_ns}"
            found.append(Finding("log", problem, event.stream, event.version, position))
        owner = self._compacted.owners.get(number)
        is_known = owner is not None or number in self._unowned or self._compacted.learn(event.stream, number)
        if not is_known and self._is_needed(number, position):
            self._unowned.add(number)
            problem = f"events of the stream are in segment {number} of the archive, and no compacted event says so"
            found.append(Finding("compacted", problem, event.stream, event.version, position))
        self._compacted.count_stub(event.stream)

    def _record(self, found: list[Finding], number: int, position: int, digest: bytes) -> bytes | None:
        """The record with this hash; empty if the segment does not have it, None if the segment cannot be read."""
        if self._is_out_of_reach or number in self._lost:
            return None
        records = self._cache.get(number)
        if records is None:
            opened = self._opened(found, number, position)
            if opened is None:
                self._lost.add(number)
                return None
            records = self._cache.put(number, opened)
        return records.get(digest, b"")

    def _opened(self, found: list[Finding], number: int, position: int | None) -> list[bytes] | None:
        """Open a segment, check its content, and return its records; None if it cannot be read."""
        where = self._compacted.versions_of(number)
        stream, first, last = where or (None, 1, 0)
        try:
            segment, records = self._archive.unpacked(number, position)
            events = [decode_record(record) for record in records]
        except (ArchiveUnreachable, *UNDECODABLE) as error:
            if is_refusal(error) or self._is_needed(number, position):
                found.append(_unreachable(error, stream, first if where else None, position))
            return None
        if number in self.record_sizes:
            return records  # the segment was checked before, and was evicted from the cache since
        self.record_sizes[number] = sum(map(len, records))
        held = (segment.stream, segment.first_version, segment.last_version)
        if where is not None and held != where:
            wanted = f"versions {first} to {last} of {stream!r}"
            problem = f"segment {number} should hold {wanted}, and holds {held[1]} to {held[2]} of {held[0]!r}"
            found.append(Finding("archive", problem, stream, first))
        for version, event in enumerate(events, segment.first_version):
            if (event.stream, event.version) != (segment.stream, version):
                problem = f"segment {number} holds version {event.version} of {event.stream!r} in this place"
                found.append(Finding("archive", problem, segment.stream, version, event.position))
                break
        return records

    def _is_needed(self, number: int, position: int | None) -> bool:
        """Whether a segment is still needed; its stream may have been uncompacted, and the segment dropped, meanwhile.

        With a position, the stub there must still name the segment; without, the segment must still exist.
        """
        if position is None:
            return not self._is_gone(number)
        with self._environment.read() as transaction:
            record = RecordLookup(self._environment, transaction).at(position)
        return isinstance(record, bytes) and split_stub(record)[0] == number

    # --- after the walk ---

    def finish(self) -> Iterator[Finding]:
        """Check every segment that no stub has named, and report missing segments and unknown tables."""
        if self._is_out_of_reach:
            return
        try:
            environment = self._archive.environment if self._archive.exists else None
        except ArchiveUnreachable as error:
            yield _unreachable(error)
            return
        if environment is not None:
            yield from unknown_tables(environment, "archive")
            yield from walk_table(environment, "meta", _check_meta)
            yield from walk_table(environment, "segments", self._check_segment)
        for number, stream in self._compacted.owners.items():
            if number not in self.stored_sizes and number not in self._lost and self._compacted.names(stream, number):
                _, first, _ = self._compacted.versions_of(number) or (stream, None, None)
                yield Finding("archive", f"segment {number} is missing", stream, first)

    def _check_segment(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        if len(key) != KEY_SIZE_BYTES:
            return [Finding("archive", f"the entry {key!r} is no segment")]
        number = int.from_bytes(key, "big")
        self.stored_sizes[number] = len(value)
        found: list[Finding] = []
        if number not in self.record_sizes and number not in self._lost:
            records = self._opened(found, number, None)
            if records is None:
                self._lost.add(number)
            else:
                found += self._against_log(number, records)
        if number not in self._compacted.owners and not self._is_accounted_for(number):
            problem = f"segment {number} belongs to no compacted stream, and is none that is to be dropped"
            found.append(Finding("archive", problem))
        return found

    def _against_log(self, number: int, records: Sequence[bytes]) -> Iterator[Finding]:
        """Compare a segment that no stub has named with the log, which must have the hashes of its events."""
        with self._environment.read() as transaction:
            lookup = RecordLookup(self._environment, transaction)
            for record in records:
                position = decode_record(record).position
                if lookup.hash(position) != record[-HASH_SIZE_BYTES:]:
                    yield Finding("archive", f"segment {number} holds another event than the log", position=position)
                    return

    def _is_accounted_for(self, number: int) -> bool:
        """Whether the segment is listed as unused, or its stream was compacted or uncompacted meanwhile."""
        if self._compacted.is_unused(number):
            return True
        try:
            stream = self._archive.segment(number).stream
        except ArchiveUnreachable:
            return self._is_gone(number)
        return self._compacted.learn(stream, number) or self._compacted.is_unused(number)

    def _is_gone(self, number: int) -> bool:
        try:
            self._archive.check_has([number])
        except ArchiveUnreachable:
            return True
        return False


def _unreachable(
    error: Exception, stream: str | None = None, version: int | None = None, position: int | None = None
) -> Finding:
    return Finding("archive", str(error), stream, version, position, is_damage=not is_refusal(error))


def _check_meta(_: Transaction, key: bytes, value: bytes) -> list[Finding]:
    if META_OF_ARCHIVE.get(key) == value:
        return []
    return [Finding("archive", f"its table meta has the row {key!r} with {value!r}, which should not be there")]
