"""The part of a verification that is about what follows the log: subscriptions, parked events, checkpoints of views.

Their own environments lie beside that of the log. What they hold is made from the log, or is nobody's but theirs: it is
decoded, and compared with the log where it names a position of it.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

from .control import ControlRequest, ParkedEvent, Progress
from .environment import Environment
from .finding import Finding
from .folder import CONTROL_FOLDER, DATA_FILE, READERS_FOLDER, ROWS_FOLDER, VIEWS_FOLDER, needs_lock_file
from .record import StoredEvent
from .record_lookup import RecordLookup
from .verify_log import LogWalk

ENTRIES_AT_ONCE: Final = 1_024
"""Entries of one table that are looked at in one transaction."""
TABLES_MAX: Final = 256
_POSITION: Final = struct.Struct(">Q")
_checkpoint_of: Final = msgspec.msgpack.Decoder(tuple[int, bytes]).decode
_progress_of: Final = msgspec.msgpack.Decoder(Progress).decode
_parked_of: Final = msgspec.msgpack.Decoder(ParkedEvent).decode
_request_of: Final = msgspec.msgpack.Decoder(ControlRequest).decode
_any_of: Final = msgspec.msgpack.Decoder().decode
UNREADABLE: Final = (msgspec.MsgspecError, struct.error, ValueError)


class FollowersCheck:
    """Everything beside the log of one store that follows it."""

    def __init__(self, environment: Environment, walk: LogWalk) -> None:
        self._environment = environment
        self._walk = walk
        self._tables: dict[bytes, Callable[[bytes, bytes], Iterator[str]]] = {
            b"subscriptions": self._subscription,
            b"parked": self._parked,
            b"requests": _request,
            b"answers": _answer,
            b"paused": _paused,
            b"positions": self._follower,
            b"status": _status,
        }

    def __iter__(self) -> Iterator[Finding]:
        store = Path(self._environment.path)
        for folder in (store, *sorted((store / READERS_FOLDER).glob("*"))):
            name = "" if folder == store else f" of reader {folder.name}"
            yield from self._board(folder / CONTROL_FOLDER, name)
            for rows in sorted((folder / VIEWS_FOLDER).glob(f"*/*/{ROWS_FOLDER}")):
                generation = rows.parent
                yield from self._view(rows, f"view {generation.parent.name}/{generation.name}{name}")

    def _board(self, folder: Path, name: str) -> Iterator[Finding]:
        for table, key, value in _entries(folder):
            check = self._tables.get(table)
            label = f"{table.decode(errors='replace')}{name}"
            if check is None:
                yield Finding("control", f"the table {table!r} should not be there")
                continue
            try:
                problems = list(check(key, value))
            except UNREADABLE as error:
                problems = [f"it cannot be read: {error}"]
            for problem in problems:
                yield Finding(label, f"the entry {key.decode(errors='backslashreplace')!r}: {problem}")

    def _view(self, folder: Path, label: str) -> Iterator[Finding]:
        for table, key, value in _entries(folder, (b"meta",)):
            if table == b"meta" and key == b"checkpoint":
                try:
                    position, event_hash = _checkpoint_of(value)
                except UNREADABLE as error:
                    yield Finding(label, f"its checkpoint cannot be read: {error}")
                    continue
                for problem in self._position_problems(position, event_hash):
                    yield Finding(label, f"its checkpoint {problem}", position=position)

    # --- what entries say ---

    def _subscription(self, key: bytes, value: bytes) -> Iterator[str]:
        key.decode()
        progress = _progress_of(value)
        yield from self._position_problems(progress.position, progress.event_hash)
        pending = progress.pending
        if pending != sorted(set(pending)) or not all(0 < each <= progress.position for each in pending):
            yield f"what is pending does not ascend to its position: {pending}"

    def _parked(self, key: bytes, value: bytes) -> Iterator[str]:
        event = _parked_of(value)
        if key != event.subscription.encode() + b"\x00" + _POSITION.pack(event.position):
            yield f"it holds what {event.subscription!r} has parked at position {event.position}"
        with self._environment.read() as transaction:
            record = RecordLookup(self._environment, transaction).at(event.position)
        if record is None and not self._walk.is_unreadable(event.position):
            yield f"the log has no position {event.position}"
        elif isinstance(record, StoredEvent) and record.stream != event.stream:
            yield f"the event at position {event.position} is one of {record.stream!r}, not of {event.stream!r}"

    def _follower(self, key: bytes, value: bytes) -> Iterator[str]:
        key.decode()
        (position,) = _POSITION.unpack(value)
        yield from self._position_problems(position, None)

    def _position_problems(self, position: int, event_hash: bytes | None) -> Iterator[str]:
        """What is wrong with how far somebody has come; the hash, where there is one, is that of the event there."""
        if position == 0:
            return
        with self._environment.read() as transaction:
            actual = RecordLookup(self._environment, transaction).hash(position)
            end = self._walk.position_of_last(transaction)
        if end is not None and position > end:
            yield f"is at position {position}, and the log ends at position {end}"
        elif event_hash and actual is not None and actual != event_hash:
            yield f"is at position {position}, where another event is than the one that it names"


def _request(key: bytes, value: bytes) -> Iterator[str]:
    request = _request_of(value)
    if key != _POSITION.pack(request.id):
        yield f"it holds the request {request.id}"


def _answer(key: bytes, value: bytes) -> Iterator[str]:
    _POSITION.unpack(key)
    value.decode()
    yield from ()


def _paused(key: bytes, value: bytes) -> Iterator[str]:
    key.decode()
    if value:
        yield "it has a value, and should be empty"


def _status(key: bytes, value: bytes) -> Iterator[str]:
    key.decode()
    _any_of(value)
    yield from ()


def _entries(folder: Path, only: tuple[bytes, ...] = ()) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(table, key, value) of every entry of an environment that may be in use; nothing where there is none."""
    if not (folder / DATA_FILE).exists():
        return
    try:
        lock = needs_lock_file(folder)
        environment = lmdb.open(str(folder), readonly=True, create=False, max_dbs=TABLES_MAX, lock=lock)
    except lmdb.Error:
        return  # this process has it open itself
    with environment:
        with environment.begin() as transaction, transaction.cursor() as cursor:
            names = list(cursor.iternext(keys=True, values=False))
        for name in names:
            if only and name not in only:
                continue
            table: Any = environment.open_db(name, create=False)
            after = b""
            while batch := _batch(environment, table, after):
                for key, value in batch:
                    yield name, key, value
                after = batch[-1][0]


def _batch(environment: lmdb.Environment, table: Any, after: bytes) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    with environment.begin(db=table) as transaction, transaction.cursor() as cursor:
        more = cursor.set_range(after + b"\0") if after else cursor.first()
        while more and len(found) < ENTRIES_AT_ONCE:
            found.append((cursor.key(), cursor.value()))
            more = cursor.next()
    return found
