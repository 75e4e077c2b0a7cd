"""Builds a group commit. Each commit is checked and encoded on its own; a refused commit leaves no trace."""

from collections.abc import Callable
from typing import Final

import msgspec

from .commit import WHERE_THE_LOG_IS, Appended, Commit, IdempotencyEntry, NewEvent, StreamAppend, expectation_holds
from .errors import (
    CommitAbandoned,
    CommitAlreadyApplied,
    CommitTooLarge,
    CommitTooManyBytes,
    ConditionNotMet,
    EventSourcingError,
    EventTooLarge,
    PayloadInvalid,
    StreamFull,
    TagInvalid,
    TooManyStreams,
    TooManyTags,
    VersionConflict,
)
from .event_query import EventQuery
from .group import MovedGroup
from .indexes.tail import Placement, placements_of
from .limits import Limits
from .names import OWN_PREFIX, check_stored_name, check_stream_name
from .record import GENESIS_HASH, StoredEvent, StreamHead, seal

_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(StoredEvent)


class Draft:
    """Collects accepted commits; their events begin after `last_position`.

    `head_of` returns the stored head of a stream; heads changed by earlier commits of this draft take precedence.
    `first_match` returns the position of the first stored event that matches a query.
    """

    def __init__(
        self,
        last_position: int,
        last_commit_id: int,
        stream_count: int,
        limits: Limits,
        head_of: Callable[[str], StreamHead | None],
        first_match: Callable[[EventQuery], int | None],
    ) -> None:
        self.first_position = last_position + 1
        self.last_position = last_position
        self.first_commit_id = 0
        self.last_commit_id = last_commit_id
        self.stream_count = stream_count
        self.records: list[bytes] = []
        self.hashes: list[bytes] = []
        self.placements: list[Placement] = []
        self.heads: dict[str, StreamHead] = {}
        self.idempotency: list[IdempotencyEntry] = []
        self.clock_ns = 0
        self._limits = limits
        self._head_of = head_of
        self._first_match = first_match
        self._refused: set[int] = set()
        self._types: set[str] = set()

    @property
    def is_empty(self) -> bool:
        """Whether the draft has no commit to store."""
        return not self.first_commit_id

    def add(self, commit: Commit) -> Appended | EventSourcingError:
        """Accept the commit and return the places of its events, or refuse it and return the error."""
        try:
            return self._add(commit)
        except CommitAlreadyApplied as error:
            # The commit took effect earlier, so commits that follow it are not refused.
            return error
        except EventSourcingError as error:
            self._refused.add(commit.id)
            return error

    def adopt(self, group: MovedGroup) -> None:
        """Take over a group of another log that continues this one; the other log has checked and hashed the group."""
        placements, heads = placements_of(group.events)
        self.records += group.records
        self.hashes += [event.hash for event in group.events]
        self.placements += placements
        self.heads |= heads
        self.idempotency += group.idempotency
        self.last_position = group.events[-1].position
        self.first_commit_id = max(group.first_commit_id, self.last_commit_id + 1)
        self.last_commit_id = self.first_commit_id + group.last_commit_id - group.first_commit_id
        self.clock_ns = group.events[-1].time_ns

    def _add(self, commit: Commit) -> Appended:
        if commit.id <= self.last_commit_id:
            raise CommitAlreadyApplied(commit.id, self.last_commit_id)
        for follows in commit.follows:
            if follows in self._refused:
                raise CommitAbandoned(commit.id, follows)
        for condition in commit.conditions:
            self._check_condition(condition)
        limits = self._limits
        position = self.last_position
        new_streams = size_bytes = 0
        records: list[bytes] = []
        hashes: list[bytes] = []
        placements: list[Placement] = []
        heads: dict[str, StreamHead] = {}
        for append in commit.appends:
            stream = append.stream
            head = heads.get(stream) or self.heads.get(stream) or self._head_of(stream)
            if head is None:
                check_stream_name(stream)
                version, previous_hash = 0, GENESIS_HASH
                new_streams += bool(append.events)
            else:
                version, previous_hash = head.version, head.hash
            if not expectation_holds(append.expected_version, version):
                raise VersionConflict(stream, append.expected_version, version)
            if not append.events:
                continue
            self._check_room(append, version, self.stream_count + new_streams)
            placement = Placement(stream, version + 1, position + 1, [], {})
            for event in append.events:
                position += 1
                version += 1
                if event.type not in self._types:
                    self._check_type(stream, event.type)
                if event.tags:
                    self._check_tags(stream, event)
                    placement.tags[version - placement.first_version] = event.tags
                encoded = _encode_event(event, stream, position, version, commit.time_ns)
                if len(encoded) > limits.event_size_bytes_max:
                    raise EventTooLarge(stream, event.type, len(encoded), limits.event_size_bytes_max)
                record, previous_hash = seal(previous_hash, encoded)
                placement.types.append(event.type)
                records.append(record)
                hashes.append(previous_hash)
                size_bytes += len(record)
            placements.append(placement)
            heads[stream] = StreamHead(stream, version, position, previous_hash)
        if len(records) > limits.commit_events_max:
            raise CommitTooLarge("Events in one commit", len(records), limits.commit_events_max, "Split it.")
        if size_bytes > limits.commit_size_bytes_max:
            raise CommitTooManyBytes("Bytes in one commit", size_bytes, limits.commit_size_bytes_max, "Split it.")

        first_position = self.last_position + 1
        if not (records or commit.idempotency):
            # The commit only asks whether its expected versions and conditions hold.
            return Appended(commit.id, first_position, position, heads)
        self.idempotency += [self._settle(entry, first_position) for entry in commit.idempotency]
        self.records += records
        self.hashes += hashes
        self.placements += placements
        self.heads |= heads
        self.stream_count += new_streams
        self.last_position = position
        self.first_commit_id = self.first_commit_id or commit.id
        self.last_commit_id = commit.id
        self.clock_ns = commit.time_ns if commit.clock_ns is None else commit.clock_ns
        return Appended(commit.id, first_position, position, heads)

    def _settle(self, entry: IdempotencyEntry, first_position: int) -> IdempotencyEntry:
        """Make the entry's position absolute."""
        offset = entry.position
        position = first_position - 1 if offset == WHERE_THE_LOG_IS else first_position + offset
        return IdempotencyEntry(entry.stream, entry.key, entry.version, position, entry.event_count, entry.expires_ns)

    def _check_type(self, stream: str, name: str) -> None:
        """Raise `PayloadInvalid` for a type that cannot be an index key: flushing the index must not fail later."""
        try:
            check_stored_name(name)
        except ValueError as error:
            raise PayloadInvalid(stream, name, str(error)) from error
        self._types.add(name)

    def _check_tags(self, stream: str, event: NewEvent) -> None:
        """Raise `TooManyTags` or `TagInvalid`."""
        tags, limits = event.tags, self._limits
        given = sum(not tag.startswith(OWN_PREFIX) for tag in tags)
        if given > limits.event_tags_max:
            raise TooManyTags(
                f"Tags of event {event.type!r} for stream {stream!r}",
                given,
                limits.event_tags_max,
                "Give it fewer, or raise the limit.",
            )
        for tag in tags:
            try:
                check_stored_name(tag)
            except ValueError as error:
                raise TagInvalid(stream, event.type, tag, str(error)) from error
        if len(set(tags)) < len(tags):
            twice = next(tag for tag in tags if tags.count(tag) > 1)
            raise TagInvalid(stream, event.type, twice, "it is given twice")

    def _check_condition(self, condition: EventQuery) -> None:
        """Raise `ConditionNotMet` if a stored event, or an event of an earlier commit of this draft, matches."""
        position = self._first_match(condition)
        if position is None and self.records:
            position = self._match_in_draft(condition)
        if position is not None:
            raise ConditionNotMet(condition.criteria or "any event", position)

    def _match_in_draft(self, condition: EventQuery) -> int | None:
        for record in map(_decoder.decode, self.records):
            if condition.matches(record):
                return int(record.position)
        return None

    def _check_room(self, append: StreamAppend, version: int, stream_count: int) -> None:
        limits = self._limits
        if append.stream.startswith(OWN_PREFIX):
            # The runtime's own streams have no limits: forgetting a subject must be recorded even in a full store.
            return
        if version + len(append.events) > limits.stream_events_max:
            raise StreamFull(append.stream, version + len(append.events), limits.stream_events_max)
        if not version and stream_count > limits.streams_max:
            raise TooManyStreams("Streams in the store", stream_count, limits.streams_max, "Raise the limit.")


def _encode_event(event: NewEvent, stream: str, position: int, version: int, time_ns: int) -> bytes:
    try:
        encoded = _encode(
            (
                position,
                stream,
                version,
                event.type,
                event.schema_version,
                event.kind or ("created" if version == 1 else "updated"),
                time_ns,
                event.correlation_id,
                event.causation_id,
                event.metadata,
                event.payload,
                event.tags,
                GENESIS_HASH,
            )
        )
        # An event that cannot be decoded must not be stored: every event after it would become unreadable.
        _decoder.decode(encoded)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise PayloadInvalid(stream, event.type, str(error)) from error
    return encoded
