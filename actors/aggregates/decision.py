"""A decision: what a handler returned, checked and encoded for the log.

Every fault in it (no event, too large, not encodable) is found here, before anything is applied, so that the fault
fails this one command and no other in the same commit.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from ...storage.commit import NewEvent
from ...storage.errors import (
    CommitTooLarge,
    CommitTooManyBytes,
    EventTooLarge,
    StreamFull,
    TagInvalid,
    TooManyTags,
    described,
)
from ...storage.keys.subject_keys import KEY_TAG_PREFIX
from ...storage.limits import Limits
from ...storage.names import check_stored_name
from ..errors import EncodingError, NotAnEvent
from ..serialization.event_codecs import EventCodec
from .aggregate_type import AggregateType
from .request import Request

RECORD_OVERHEAD_BYTES: Final = 400
"""The most bytes that a record takes besides its payload, metadata, tags, correlation id and stream name."""
TAG_OVERHEAD_BYTES: Final = 3
"""The bytes in front of a tag that hold its length."""
CAUSED_BY: Final = "caused_by"
"""Key in an event's metadata: the command or saga that sent the command which led to the event."""
NO_METADATA: Final[dict[str, Any]] = {}
_encode: Final = msgspec.msgpack.Encoder().encode


class Decision(msgspec.Struct, frozen=True, gc=False):
    """A command's events: as they come back from the log, and as the log stores them."""

    events: tuple[Any, ...]
    new_events: list[NewEvent]
    size_bytes: int


def encode_decision(
    aggregate_type: AggregateType, stream: str, version: int, request: Request, returned: Any, limits: Limits
) -> Decision:
    """Turn what the handler returned for `request` at `version` into events for the log.

    Raises `NotAnEvent`, `EncodingError`, `CommitTooLarge`, `CommitTooManyBytes`, `EventTooLarge`, `StreamFull`,
    `TooManyTags`, `TagInvalid` or `SubjectKeysUnusable`.
    """
    events = _events_in(aggregate_type, stream, request, returned)
    if not events:
        return Decision((), [], 0)
    if len(events) > limits.commit_events_max:
        raise CommitTooLarge("Events of one command", len(events), limits.commit_events_max, "Split it.")
    if version + len(events) > limits.stream_events_max:
        raise StreamFull(stream, version + len(events), limits.stream_events_max)
    metadata, overhead = _metadata_of(request)
    overhead += RECORD_OVERHEAD_BYTES + len(stream.encode()) + len(request.correlation_id.encode())
    size_bytes = 0
    stored_events = []
    new_events = []
    for event in events:
        codec = aggregate_type.codecs[type(event)]
        payload, as_stored = aggregate_type.encode_event(codec, event)
        tags = () if codec.tags is None else _tags_of(stream, codec, codec.tags, event, limits)
        if codec.has_personal_data:
            tags += codec.key_tags(payload)
        size = overhead + len(payload)
        if tags:
            size += sum(len(tag.encode()) + TAG_OVERHEAD_BYTES for tag in tags)
        if size > limits.event_size_bytes_max:
            raise EventTooLarge(stream, codec.name, size, limits.event_size_bytes_max)
        size_bytes += size
        stored_events.append(as_stored)
        new_events.append(
            NewEvent(
                codec.name,
                msgspec.Raw(payload),
                codec.version,
                codec.kind,
                request.correlation_id,
                request.command_id,
                metadata,
                tags,
            )
        )
    if size_bytes > limits.commit_size_bytes_max:
        raise CommitTooManyBytes("Bytes of one command", size_bytes, limits.commit_size_bytes_max, "Split it.")
    return Decision(tuple(stored_events), new_events, size_bytes)


def _events_in(aggregate_type: AggregateType, stream: str, request: Request, returned: Any) -> tuple[Any, ...]:
    codecs = aggregate_type.codecs
    if type(returned) in codecs:
        return (returned,)
    if returned is None:
        return ()
    if isinstance(returned, Iterable):
        events = tuple(returned)
        if all(type(event) in codecs for event in events):
            return events
        raise NotAnEvent(stream, request.command, returned, next(each for each in events if type(each) not in codecs))
    raise NotAnEvent(stream, request.command, returned)


def _tags_of(
    stream: str, codec: EventCodec, tags_of: Callable[[Any], Iterable[str]], event: object, limits: Limits
) -> tuple[str, ...]:
    try:
        given = tags_of(event)
        tags = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    except Exception as error:
        raise EncodingError(f"The tags of {codec.event_class.__name__} cannot be had: {described(error)}") from error
    if not all(isinstance(tag, str) for tag in tags):
        raise EncodingError(f"The tags of {codec.event_class.__name__} must be texts, not {tags!r}")
    if len(tags) > limits.event_tags_max:
        raise TooManyTags(f"Tags of event {codec.name!r}", len(tags), limits.event_tags_max, "Give it fewer.")
    for tag in tags:
        try:
            check_stored_name(tag)
        except ValueError as error:
            raise TagInvalid(stream, codec.name, tag, str(error)) from error
        if tag.startswith(KEY_TAG_PREFIX):
            raise TagInvalid(stream, codec.name, tag, f"those that begin with {KEY_TAG_PREFIX} are the runtime's own")
    return tags


def _metadata_of(request: Request) -> tuple[dict[str, Any], int]:
    """Returns (metadata, its size in bytes)."""
    if request.metadata is None and request.caused_by is None:
        return NO_METADATA, 0
    metadata = dict(request.metadata or ())
    if request.caused_by is not None:
        metadata.setdefault(CAUSED_BY, request.caused_by)
    try:
        return metadata, len(_encode(metadata))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EncodingError(f"The metadata of {type(request.command).__name__} cannot be stored: {error}") from error
