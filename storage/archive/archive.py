"""The archive of a store: events that compaction moved out of the log, packed by stream.

A segment holds consecutive versions of one stream without their hashes. The hashes are computed from the records, and
the stubs in the log still have them, so every lookup in a segment is checked. A segment is never changed. The log, not
the archive, records which segment numbers are taken and which segments are to be dropped, so a lost archive is not
mistaken for an empty one.
"""

import bz2
import shutil
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import lmdb
import msgspec

from ..environment.environment import Environment, Table, Transaction
from ..environment.errors import StoreUnreadable
from ..environment.folder import ARCHIVE_FOLDER, sync_folder
from ..environment.refusals import is_refusal
from ..errors import FileWriteFailed, StoreClosed, StoreError
from ..group import segment_of
from ..record import HASH_SIZE_BYTES, StoredEvent, content_hash, decode_record
from .errors import IF_LOST, IF_REFUSED, ArchiveUnreachable
from .segment_cache import SegmentCache
from .segment_numbers import segment_numbers

BEGUN_FOLDER: Final = "archive.new"
"""The name of the folder until the archive is complete; the next process removes one that a killed process left."""
ARCHIVE_TABLES: Final = ("meta", "segments")
SEGMENT_EVENTS_MAX: Final = 256
COMPRESSION_LEVEL: Final = 1
"""The bzip2 level with blocks of 100,000 bytes. Most segments are smaller; larger blocks only take longer to set up."""
KEY_SIZE_BYTES: Final = 8

UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError)

_encode: Final = msgspec.msgpack.Encoder().encode


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive versions of a stream, from `first_version` on.

    `content` is a bzip2 stream of the records without their hashes, one after the other; `ends` are the end offsets of
    the records in the unpacked content. `previous_hash` is the hash of the event before the first.
    """

    stream: str
    first_version: int
    previous_hash: bytes
    ends: list[int]
    content: bytes
    checksum: int
    """CRC-32 of `content`: the checksums of bzip2 do not cover every bit of the stream."""

    @property
    def last_version(self) -> int:
        """The version of the last event in the segment."""
        return self.first_version + len(self.ends) - 1

    def records(self) -> list[bytes]:
        """The records as the log held them, bit for bit. Raises `ValueError` if the segment is damaged."""
        if self.checksum != zlib.crc32(self.content):
            raise ValueError("its checksum does not match")
        unpacking = bz2.BZ2Decompressor()
        try:
            content = unpacking.decompress(self.content)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"it cannot be unpacked: {error}") from error
        if not unpacking.eof or unpacking.unused_data or len(content) != (self.ends[-1] if self.ends else 0):
            raise ValueError("it does not end where it should")
        found = []
        start, previous = 0, self.previous_hash
        for end in self.ends:
            body = content[start:end]
            previous = content_hash(previous, body + bytes(HASH_SIZE_BYTES))
            found.append(body + previous)
            start = end
        return found


_segment_of: Final = msgspec.msgpack.Decoder(Segment).decode


def pack_segment(stream: str, first_version: int, previous_hash: bytes, records: Sequence[bytes]) -> bytes:
    """The stored bytes of a segment with these records. Compression takes time: call this in a worker thread."""
    bodies = [record[:-HASH_SIZE_BYTES] for record in records]
    ends, end = [], 0
    for body in bodies:
        end += len(body)
        ends.append(end)
    content = bz2.compress(b"".join(bodies), COMPRESSION_LEVEL)
    return _encode(Segment(stream, first_version, previous_hash, ends, content, zlib.crc32(content)))


class Archive:
    """The archive of the store in a folder, opened at its first use. Any thread may read; one at a time may write.

    If the archive could not be reopened after a failed write, the next use tries again. A method that needs the
    archive's environment raises `StoreClosed` after `close`.
    """

    def __init__(self, store_path: str, *, read_only: bool, leaves_no_trace: bool = False) -> None:
        self.path = str(Path(store_path) / ARCHIVE_FOLDER)
        self._read_only = read_only
        self._leaves_no_trace = leaves_no_trace
        self._environment: Environment | None = None
        self._closed = False
        self._cache = SegmentCache()
        self._opening = threading.Lock()

    @property
    def exists(self) -> bool:
        """Whether the archive exists. Raises `ArchiveUnreachable` if the system refuses to say."""
        try:
            return Path(self.path).exists()
        except OSError as error:
            raise self._unreachable(None, "looked at", error) from error

    def event(self, position: int, stub: bytes) -> StoredEvent:
        """The event that the stub at this position stands for. Raises `ArchiveUnreachable`."""
        return self._found(position, stub)[0]

    def encoded(self, position: int, stub: bytes) -> bytes:
        """The stored bytes of the event that the stub at this position stands for. Raises `ArchiveUnreachable`."""
        return self._found(position, stub)[1]

    def _found(self, position: int, stub: bytes) -> tuple[StoredEvent, bytes]:
        number, digest = segment_of(stub)
        records = self._cache.get(number)
        if records is None:
            records = self._cache.put(number, self.records(number, position))
        record = records.get(digest)
        try:
            event = None if record is None else decode_record(record)
        except UNDECODABLE as error:
            raise ArchiveUnreachable(self.path, position, f"is damaged in segment {number}: {error}") from error
        if record is None or event is None or event.position != position:
            raise ArchiveUnreachable(self.path, position, f"does not hold it in segment {number}")
        return event, record

    def segment(self, number: int, position: int | None = None) -> Segment:
        """The stored segment with this number, not unpacked. Raises `ArchiveUnreachable`."""
        with self._reading(position) as (transaction, table):
            value = transaction.get(_key(number), db=table)
        if value is None:
            raise ArchiveUnreachable(self.path, position, f"has no segment {number}")
        try:
            return _segment_of(value)
        except UNDECODABLE as error:
            raise ArchiveUnreachable(self.path, position, f"is damaged in segment {number}: {error}") from error

    def records(self, number: int, position: int | None = None) -> list[bytes]:
        """The records of a segment as the log held them, read from disk. Raises `ArchiveUnreachable`."""
        return self.unpacked(number, position)[1]

    def unpacked(self, number: int, position: int | None = None) -> tuple[Segment, list[bytes]]:
        """(the segment, its records as the log held them), read from disk. Raises `ArchiveUnreachable`."""
        segment = self.segment(number, position)
        try:
            return segment, segment.records()
        except ValueError as error:
            raise ArchiveUnreachable(self.path, position, f"is damaged in segment {number}: {error}") from error

    @property
    def environment(self) -> Environment:
        """The archive's LMDB environment, for code that walks its tables (`verify`). Raises `ArchiveUnreachable`."""
        return self._opened(create=False)

    def add(self, number: int, segment: bytes) -> None:
        """Store a segment durably under a number that was never used. Raises `StoreError`."""
        environment = self._opened(create=True)
        environment.write(lambda transaction: transaction.put(_key(number), segment, db=environment.table("segments")))

    def drop(self, numbers: Sequence[int]) -> None:
        """Drop the segments with these numbers; numbers without a segment are ignored. Raises `StoreError`."""
        if not self.exists:
            return
        environment = self._opened(create=False)

        def work(transaction: Transaction) -> None:
            for number in numbers:
                transaction.delete(_key(number), db=environment.table("segments"))

        environment.write(work)
        for number in numbers:
            self._cache.drop(number)

    def check_has(self, numbers: Sequence[int]) -> None:
        """Raise `ArchiveUnreachable` unless the archive has all of these segments."""
        if not numbers:
            return
        with self._reading() as (transaction, table), transaction.cursor(table) as cursor:
            for number in numbers:
                if not cursor.set_key(_key(number)):
                    raise ArchiveUnreachable(self.path, None, f"has no segment {number}")

    def copy(self, store_folder: Path) -> None:
        """Copy the archive into the copy of its store, without segments newer than that copy. Raises `StoreError`."""
        if not self.exists:
            return
        folder = store_folder / ARCHIVE_FOLDER
        folder.mkdir()
        self._opened(create=False).copy(folder)
        with (
            closing(Environment(store_folder, read_only=True, leaves_no_trace=True)) as store,
            store.read() as transaction,
        ):
            try:
                last = segment_numbers(transaction, store.table("meta")).last
            except msgspec.MsgspecError:
                # A verification of the copy reports the damaged row.
                return
        _drop_beyond(folder, last)

    def size_bytes(self, numbers: Sequence[int]) -> int:
        """The bytes that these segments take in the archive. Raises `ArchiveUnreachable`."""
        return sum(len(_encode(self.segment(number))) for number in numbers)

    def close(self) -> None:
        """Close the archive. Idempotent."""
        with self._opening:
            self._closed = True
            environment, self._environment = self._environment, None
        if environment is not None:
            environment.close()
        self._cache.clear()

    @contextmanager
    def _reading(self, position: int | None = None) -> Iterator[tuple[Transaction, Table]]:
        """A read transaction and the table of segments. Raises `ArchiveUnreachable`."""
        environment = self._opened(create=False, position=position)
        try:
            with environment.read() as transaction:
                yield transaction, environment.table("segments")
        except StoreClosed as error:
            if self._closed:
                raise
            # A write of another thread has failed meanwhile, and the environment could not be reopened.
            reason = "could not be opened again after a write"
            raise ArchiveUnreachable(self.path, position, reason, advice=IF_REFUSED) from error
        except (lmdb.Error, StoreUnreadable) as error:
            raise self._unreachable(position, "read", error) from error

    def _unreachable(self, position: int | None, what: str, error: Exception) -> ArchiveUnreachable:
        """The error for an archive that cannot be opened or read; `what` is the participle for the message."""
        said = (isinstance(error, OSError) and error.strerror) or str(error).rstrip(".")
        reason = f"cannot be {what}: {said}"
        return ArchiveUnreachable(self.path, position, reason, advice=IF_REFUSED if is_refusal(error) else IF_LOST)

    def _opened(self, *, create: bool, position: int | None = None) -> Environment:
        with self._opening:
            if self._closed:
                raise StoreClosed(str(Path(self.path).parent))
            if self._environment is None or self._environment.is_closed:
                self._environment = None
                if not self.exists:
                    if not create:
                        raise ArchiveUnreachable(self.path, position, "is not there")
                    self._begin()
                try:
                    self._environment = Environment(
                        self.path,
                        create=create,
                        read_only=self._read_only,
                        leaves_no_trace=self._leaves_no_trace,
                        tables=ARCHIVE_TABLES,
                    )
                except StoreError as error:
                    if create:
                        raise
                    raise self._unreachable(position, "opened", error) from error
            return self._environment

    def _begin(self) -> None:
        """Create the archive under another name and rename it, so that no process ever sees a partial archive."""
        place = Path(self.path)
        begun = place.with_name(BEGUN_FOLDER)
        try:
            if begun.exists():
                shutil.rmtree(begun)
            Environment(begun, tables=ARCHIVE_TABLES).close()
            begun.rename(place)
            sync_folder(place.parent)
        except OSError as error:
            raise FileWriteFailed(self.path, str(error)) from error


def _drop_beyond(folder: Path, last: int) -> None:
    """Drop the segments numbered above `last`, which the copied log does not know."""
    with (
        closing(Environment(folder, read_only=True, leaves_no_trace=True, tables=ARCHIVE_TABLES)) as environment,
        environment.read() as transaction,
        transaction.cursor(environment.table("segments")) as cursor,
    ):
        keys = list(cursor.iternext(values=False)) if cursor.set_range(_key(last + 1)) else []
    if not keys:
        return
    with closing(Environment(folder, tables=ARCHIVE_TABLES)) as environment:
        table = environment.table("segments")
        environment.write(lambda transaction: [transaction.delete(key, db=table) for key in keys])


def _key(number: int) -> bytes:
    return number.to_bytes(KEY_SIZE_BYTES, "big")
