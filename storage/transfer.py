"""Moving events: out of a log into JSON Lines and back, or from one log into another, with all that they are.

Positions, versions, times and hashes stay as they were; the hashes are compared after writing, so what arrives is what
was sent. Snapshots and idempotency keys are not moved: the first are made again, the second belong to a running system.
"""

import gzip
import io
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Final, cast

import msgspec

from .commit import Appended, Commit, NewEvent, StreamAppend
from .errors import ImportRefused
from .limits import Limits
from .log import EventLog
from .record import StoredEvent
from .store import EventReader

EXPORT_VERSION: Final = 1
BATCH_EVENTS: Final = 500
"""Events that are written in one transaction."""
GZIP_LEVEL: Final = 6
UNBOUNDED: Final = 1 << 60
LIMITS: Final = Limits(streams_max=UNBOUNDED, stream_events_max=UNBOUNDED, event_size_bytes_max=1 << 30)
"""What was stored once is stored again, whatever the limits are by now."""

Progress = Callable[[int], None]
"""Called with the position that was reached."""
_pack: Final = msgspec.msgpack.Encoder().encode


class Header(msgspec.Struct, frozen=True):
    """The first line of an export: the events after the position `after`, whose event has the hash `after_hash`."""

    eventsrc_export: int
    after: int
    after_hash: str


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event of an export. What JSON cannot hold as it is (bytes, say) comes as MessagePack in Base64."""

    position: int
    stream: str
    version: int
    type: str
    schema_version: int
    kind: str
    time_ns: int
    correlation_id: str
    causation_id: str
    hash: str
    payload: Any = None
    metadata: dict[str, Any] = {}
    tags: list[str] = []
    payload_msgpack: str = ""
    metadata_msgpack: str = ""


_to_json: Final = msgspec.json.Encoder().encode
_line_of: Final = msgspec.json.Decoder(Line).decode
_header_of: Final = msgspec.json.Decoder(Header).decode


def events_of(store: EventReader, after: int = 0) -> Iterator[StoredEvent]:
    """All events after a position, a batch at a time."""
    while batch := store.read(after=after, limit=BATCH_EVENTS):
        yield from batch
        after = batch[-1].position


# --- out ---


def export_events(store: EventReader, path: Path, *, after: int = 0, progress: Progress | None = None) -> int:
    """Write the events after a position to a file of JSON Lines, packed by gzip where its name ends in .gz.

    Returns how many. Raises `ImportRefused` for a position that the log does not have, `OSError` as the system does.
    """
    before = store.read(after=after - 1, limit=1) if after else []
    if after and not before:
        raise ImportRefused(f"{store.path} has no position {after}: it goes to {store.last_position}.")
    header = Header(EXPORT_VERSION, after, before[0].hash.hex() if before else "")
    count = 0
    with _opened(path, "w") as file:
        file.write(_to_json(header) + b"\n")
        for event in events_of(store, after):
            file.write(_to_json(_line(event)) + b"\n")
            count += 1
            if progress is not None and count % BATCH_EVENTS == 0:
                progress(event.position)
    return count


def _line(event: StoredEvent) -> Line:
    payload, payload_msgpack = _as_json(event.payload)
    metadata, metadata_msgpack = _as_json(event.metadata)
    return Line(
        event.position,
        event.stream,
        event.version,
        event.type,
        event.schema_version,
        event.kind,
        event.time_ns,
        event.correlation_id,
        event.causation_id,
        event.hash.hex(),
        payload,
        metadata or {},
        list(event.tags),
        payload_msgpack,
        metadata_msgpack,
    )


def _as_json(data: Any) -> tuple[Any, str]:
    """(the data, nothing) where JSON gives it back as it is; else (None, its MessagePack in Base64)."""
    packed = _pack(data)
    try:
        is_lossless = _pack(msgspec.json.decode(_to_json(data))) == packed
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        is_lossless = False
    return (data, "") if is_lossless else (None, b64encode(packed).decode())


# --- in ---


def import_events(
    log: EventLog, path: Path, *, until: Callable[[int, int], bool] | None = None, progress: Progress | None = None
) -> int:
    """Append the events of an export to a log that ends where the export begins; return how many.

    `until(position, time_ns)` tells which event is the first not to be taken.

    Raises `ImportRefused` when the file is no export, begins elsewhere, or holds what does not fit its hashes; what
    comes before is stored then.
    """
    with _opened(path, "r") as file:
        try:
            header = _header_of(next(iter(file), b""))
        except msgspec.MsgspecError as error:
            raise ImportRefused(f"{path} is no export of eventsrc: {error}") from error
        if header.eventsrc_export != EXPORT_VERSION:
            raise ImportRefused(f"{path} is of version {header.eventsrc_export}, and this reads {EXPORT_VERSION}.")
        _check_continues(log, path, header)
        return copy_events(log, _events_in(file, path), until=until, progress=progress)


def _check_continues(log: EventLog, path: Path, header: Header) -> None:
    newest = log.read(backwards=True, limit=1)
    ends = (newest[0].position, newest[0].hash.hex()) if newest else (0, "")
    if ends[0] != header.after:
        raise ImportRefused(f"{path} begins after position {header.after}, and {log.path} ends at {ends[0]}.")
    if ends[1] != header.after_hash:
        raise ImportRefused(
            f"{path} goes on from another history: the event at {header.after} is not that of {log.path}."
        )


def _events_in(file: Iterable[bytes], path: Path) -> Iterator[StoredEvent]:
    for number, text in enumerate(file, 2):
        try:
            line = _line_of(text)
            payload = msgspec.msgpack.decode(b64decode(line.payload_msgpack)) if line.payload_msgpack else line.payload
            packed = line.metadata_msgpack
            metadata = msgspec.msgpack.decode(b64decode(packed)) if packed else line.metadata
            yield StoredEvent(
                line.position,
                line.stream,
                line.version,
                line.type,
                line.schema_version,
                line.kind,  # type: ignore[arg-type]
                line.time_ns,
                line.correlation_id,
                line.causation_id,
                metadata,
                payload,
                tuple(line.tags),
                bytes.fromhex(line.hash),
            )
        except (msgspec.MsgspecError, ValueError) as error:
            raise ImportRefused(f"{path}, line {number}: {error}") from error


def copy_events(
    log: EventLog,
    events: Iterable[StoredEvent],
    *,
    until: Callable[[int, int], bool] | None = None,
    progress: Progress | None = None,
) -> int:
    """Append stored events, as they are, to a log that ends where they begin; return how many.

    Raises `ImportRefused` when they do not fit together.
    """
    count = 0
    batch: list[StoredEvent] = []
    for event in events:
        if until is not None and until(event.position, event.time_ns):
            break
        batch.append(event)
        if len(batch) == BATCH_EVENTS:
            count += _append(log, batch)
            if progress is not None:
                progress(event.position)
            batch = []
    return count + (_append(log, batch) if batch else 0)


def _append(log: EventLog, events: list[StoredEvent]) -> int:
    commit_id = log.last_commit_id
    commits = []
    for time_ns, of_one_time in groupby(events, key=lambda event: event.time_ns):
        commit_id += 1
        appends = []
        for stream, group in groupby(of_one_time, key=lambda event: event.stream):
            of_one_stream = list(group)
            appends.append(StreamAppend(stream, of_one_stream[0].version - 1, [_new(each) for each in of_one_stream]))
        commits.append(Commit(commit_id, time_ns, appends))
    heads: dict[str, bytes] = {}
    for outcome in log.append(commits):
        if not isinstance(outcome, Appended):
            raise ImportRefused(f"The events from position {events[0].position} on do not fit: {outcome}") from outcome
        heads |= {stream: head.hash for stream, head in outcome.heads.items()}
    wanted = {event.stream: event.hash for event in events}
    for stream, found in heads.items():
        if wanted[stream] != found:
            raise ImportRefused(
                f"The events of {stream!r} up to position {events[-1].position} do not give the hash that they came "
                "with: something in them was changed on the way."
            )
    return len(events)


def _new(event: StoredEvent) -> NewEvent:
    return NewEvent(
        event.type,
        event.payload,
        event.schema_version,
        event.kind,
        event.correlation_id,
        event.causation_id,
        event.metadata,
        event.tags,
    )


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[IO[bytes]]:
    opened: IO[bytes] = path.open(mode + "b")
    with opened:
        if path.suffix != ".gz":
            yield opened
            return
        with gzip.GzipFile(fileobj=opened, mode=mode + "b", compresslevel=GZIP_LEVEL, mtime=0) as packed:
            try:
                yield cast("IO[bytes]", io.BufferedReader(packed) if mode == "r" else packed)
            except (EOFError, gzip.BadGzipFile) as error:
                raise ImportRefused(f"{path} is damaged: {error}") from error
