"""Reads and writes the file of an export: JSON Lines, with a header and a last line that proves that it is complete.

FORMAT.md specifies the fields. Each line is checked when it is read, but the file as a whole only at its end: a caller
that stores events before the end must undo this if a later check fails.
"""

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

import msgspec

from ..commit import IdempotencyEntry
from ..group import MovedGroup
from ..names import check_stored_name
from ..record import StoredEvent, StreamHead
from ..store import POSITION_MAX
from .chain import Chain, ChainBroken
from .errors import ExportAltered, ExportTruncated, ExportUnreadable
from .export_line import UNDECODABLE, Line, decode_line, encode_line

EXPORT_VERSION: Final = 2
GZIP_LEVEL: Final = 6
GZIP_MAGIC: Final = b"\x1f\x8b"
LINE_SIZE_BYTES_MAX: Final = 1 << 30
GROUP_SIZE_BYTES_MAX: Final = 1 << 30
"""The most bytes of records in one group commit."""
UNPACKED_BYTES: Final = 8 << 10
"""The buffer for decompressed bytes: of a truncated file, up to this many bytes before the cut cannot be read."""
_END: Final = b'{"end":'


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line: the file has the events after position `after`, where the Merkle tree had the root `root`."""

    eventsrc_export: int
    after: int
    root: str
    events: int
    last_position: int


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last line, inside `{"end": ...}`: the number of events, the last position, the root of the Merkle tree there.

    `sha256` covers every byte of the uncompressed file before this line.
    """

    events: int
    last_position: int
    root: str
    sha256: str


class _EndLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    end: End


class _Version(msgspec.Struct, frozen=True):
    eventsrc_export: int


_to_json: Final = msgspec.json.Encoder().encode
_version_of: Final = msgspec.json.Decoder(_Version).decode
_header_of: Final = msgspec.json.Decoder(Header).decode
_end_of: Final = msgspec.json.Decoder(_EndLine).decode


# --- writing


class ExportWriter:
    """Writes an export to an open file: the header on construction, then the groups, then the end."""

    def __init__(self, file: IO[bytes], header: Header) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._write(_to_json(header))

    def add(self, group: MovedGroup) -> None:
        """Write the events of a group, one per line."""
        commits: tuple[int, int] | None = (group.first_commit_id, group.last_commit_id)
        idempotency = group.idempotency
        for event, record in zip(group.events, group.records, strict=True):
            self._write(encode_line(event, record, commits, idempotency))
            commits, idempotency = None, []

    def end(self, events: int, last_position: int, root: str) -> None:
        """Write the last line."""
        self._write(_to_json(_EndLine(End(events, last_position, root, self._digest.hexdigest()))))

    def _write(self, line: bytes) -> None:
        line += b"\n"
        self._digest.update(line)
        self._file.write(line)


@contextmanager
def packed(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    """The file to write to, compressed with gzip if `path` ends in `.gz`. The same events give the same bytes."""
    if path.suffix != ".gz":
        yield file
        return
    with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=GZIP_LEVEL, mtime=0) as archive:
        yield cast("IO[bytes]", archive)


# --- reading


class Export:
    """An export in an open, seekable file, compressed or not. `path` is for messages.

    Raises `ExportUnreadable` if the file does not begin with the header of an export.
    """

    def __init__(self, file: IO[bytes], path: str) -> None:
        self._file = file
        self.path = path
        self.end: End | None = None
        """The last line, set before the last group is yielded, when the file is known to be complete."""
        try:
            _, first = next(self._lines(), (1, b""))
        except EOFError as error:
            raise ExportUnreadable(path, str(error)) from error
        self.header = self._read_header(first)

    def groups(self, head_of: Callable[[str], StreamHead | None]) -> Iterator[MovedGroup]:
        """Yield the events by group commit, from the beginning, and check their hash chains.

        `head_of` returns the head of a stream as of `header.after`. Raises `ExportUnreadable`, `ExportTruncated` and
        `ExportAltered`; the last two may only be raised at the end of the file, before the last group is yielded.
        """
        self.end = end = None
        chain = Chain(self.header.after, head_of)
        digest = hashlib.sha256()
        building: _Building | None = None
        try:
            for number, text in self._lines():
                if number == 1:
                    digest.update(text)
                    continue
                if end is not None:
                    raise ExportAltered(self.path, number, "something follows the end")
                if text.startswith(_END):
                    end = self._read_end(number, text, chain.position, digest.hexdigest())
                    continue
                if not text.endswith(b"\n"):
                    break
                digest.update(text)
                line, record = self._read_line(number, text)
                if line.commits is not None:
                    if building is not None:
                        yield building.group
                    building = _Building(line.commits, line.idempotency)
                if building is None:
                    raise ExportAltered(self.path, number, "the first event does not name its commits")
                building.add(self._follow(number, chain, record), record)
                if building.size_bytes > GROUP_SIZE_BYTES_MAX:
                    raise ExportAltered(self.path, number, f"a group commit goes over {GROUP_SIZE_BYTES_MAX:,} bytes")
        except EOFError as error:
            raise ExportTruncated(self.path, chain.position, self.header.last_position) from error
        if end is None:
            raise ExportTruncated(self.path, chain.position, self.header.last_position)
        self.end = end
        if building is not None:
            yield building.group

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """(number, line) for each line, with its line feed. Raises `EOFError` if compressed data are truncated."""
        try:
            self._file.seek(0)
            is_packed = self._file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            self._file.seek(0)
            file: Any = self._file
            if is_packed:
                file = io.BufferedReader(gzip.GzipFile(fileobj=self._file, mode="rb"), UNPACKED_BYTES)
            number = 0
            while text := file.readline(LINE_SIZE_BYTES_MAX):
                number += 1
                yield number, text
        except (OSError, zlib.error) as error:
            raise ExportUnreadable(self.path, str(error)) from error

    def _read_header(self, text: bytes) -> Header:
        try:
            version = _version_of(text).eventsrc_export
            if version == EXPORT_VERSION:
                header = _header_of(text)
                if not 0 <= header.after <= header.last_position < POSITION_MAX:
                    raise ValueError(f"it goes from {header.after} to {header.last_position}")
                return header
        except UNDECODABLE as error:
            raise ExportUnreadable(self.path, f"its first line is none of an export ({error})", 1) from error
        raise ExportUnreadable(self.path, f"it is of version {version}, and this reads version {EXPORT_VERSION}", 1)

    def _read_line(self, number: int, text: bytes) -> tuple[Line, bytes]:
        try:
            line, record = decode_line(text)
            if line.commits is not None and not 0 < line.commits[0] <= line.commits[1] < POSITION_MAX:
                raise ValueError(f"its commits are {line.commits}")
            for entry in line.idempotency:
                self._check_entry(entry)
            return line, record
        except UNDECODABLE as error:
            raise ExportAltered(self.path, number, f"is no event ({error})") from error

    def _check_entry(self, entry: IdempotencyEntry) -> None:
        """Raise `ValueError` for an entry that a store cannot hold: only the hash at the end of the file covers it."""
        check_stored_name(entry.stream)
        numbers = (entry.version, entry.position, entry.expires_ns)
        if not all(0 <= number <= POSITION_MAX for number in numbers) or not 0 <= entry.event_count < 1 << 32:
            raise ValueError(f"its idempotency entry is {entry}")

    def _follow(self, number: int, chain: Chain, record: bytes) -> StoredEvent:
        try:
            return chain.follow(record)
        except ChainBroken as error:
            raise ExportAltered(self.path, number, str(error)) from error

    def _read_end(self, number: int, text: bytes, position: int, sha256: str) -> End:
        try:
            end = _end_of(text).end
        except UNDECODABLE as error:
            if not text.endswith(b"\n"):
                raise ExportTruncated(self.path, position, self.header.last_position) from error
            raise ExportAltered(self.path, number, f"is no end ({error})") from error
        header = self.header
        if not end.last_position == header.last_position == position:
            raise ExportAltered(
                self.path,
                number,
                f"the end is said to be {end.last_position}, at first {header.last_position}, and it is {position}",
            )
        if not end.events == header.events == position - header.after:
            raise ExportAltered(self.path, number, f"there are {position - header.after} events, not {end.events}")
        if end.sha256 != sha256:
            raise ExportAltered(self.path, number, "the hash of all before it is another one")
        return end


class _Building:
    """A group commit whose lines are being read."""

    def __init__(self, commits: tuple[int, int], idempotency: list[IdempotencyEntry]) -> None:
        self.group = MovedGroup(*commits, [], [], idempotency)
        self.size_bytes = 0

    def add(self, event: StoredEvent, record: bytes) -> None:
        self.group.events.append(event)
        self.group.records.append(record)
        self.size_bytes += len(record)
