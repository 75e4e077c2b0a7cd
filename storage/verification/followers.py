"""Verifies the followers of the log: subscriptions, parked events, checkpoints of views.

Followers have their own environments beside the log. The pages of an environment are checked if no runtime uses it.
Entries are decoded, and compared with the log if they name a position; nothing else is available to compare them with.
The rows of views are not verified.
"""

import os
import struct
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

from ..control.board import ControlRequest, ParkedEvent, SubscriptionProgress
from ..environment.board_environment import ALREADY_OPEN
from ..environment.environment import Environment
from ..environment.folder import (
    CONTROL_FOLDER,
    DATA_FILE,
    GENERATION_FILE,
    READERS_FOLDER,
    ROWS_FOLDER,
    RUNTIME_FILE,
    VIEWS_FOLDER,
)
from ..environment.lmdb_errors import lock_problem
from ..environment.lock_file import needs_lock_file, take_room_to_read
from ..environment.locks import has_runtime
from ..environment.pages import page_problem
from ..environment.refusals import ABSENT, is_refusal
from ..environment.view_environment import was_open_when_the_machine_stopped
from ..errors import StoreFull, described
from ..record import StoredEvent
from .finding import Finding
from .log import LogWalk
from .record_lookup import RecordLookup

ENTRIES_AT_ONCE: Final = 1_024
"""The most entries of a table that one transaction reads."""
TABLES_MAX: Final = 256
_POSITION: Final = struct.Struct(">Q")
_checkpoint_of: Final = msgspec.msgpack.Decoder(tuple[int, bytes]).decode
_progress_of: Final = msgspec.msgpack.Decoder(SubscriptionProgress).decode
_parked_of: Final = msgspec.msgpack.Decoder(ParkedEvent).decode
_request_of: Final = msgspec.msgpack.Decoder(ControlRequest).decode
_any_of: Final = msgspec.msgpack.Decoder().decode
UNREADABLE: Final = (msgspec.MsgspecError, struct.error, ValueError)
REFUSALS: Final = (OSError, MemoryError, lmdb.Error, StoreFull)
"""The errors that may be refusals by the system. `lmdb.Error` is raised only for refusals, see `is_refusal`."""


class FollowersCheck:
    """Checks all followers of the log of one store: of its runtime and of its reader processes."""

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
        yield from self._beside(store, "")
        try:
            readers = _folders_in(store / READERS_FOLDER)
        except OSError as error:
            yield _not_seen(READERS_FOLDER, error)
            return
        for folder in readers:
            yield from self._beside(folder, f" of reader {folder.name}")

    def _beside(self, folder: Path, name: str) -> Iterator[Finding]:
        """Check the control board and the views of the store's runtime, or of a reader."""
        control = folder / CONTROL_FOLDER
        try:
            if not _is_begun(control):
                yield from self._board(control, name)
        except _Unreadable as error:
            yield Finding(f"control{name}", f"it cannot be read: {error}")
        except REFUSALS as error:
            yield _not_seen(f"control{name}", error)
        try:
            generations = [each for view in _folders_in(folder / VIEWS_FOLDER) for each in _folders_in(view)]
        except OSError as error:
            yield _not_seen(f"{VIEWS_FOLDER}{name}", error)
            return
        for generation in generations:
            # Generations that are being dropped have other names, and may be truncated.
            if not generation.name[0].isdigit():
                continue
            label = f"view {generation.parent.name}/{generation.name}{name}"
            try:
                # A generation without this file was not created completely; the next process creates it anew.
                rows = generation / ROWS_FOLDER
                if (generation / GENERATION_FILE).exists() and not was_open_when_the_machine_stopped(rows):
                    yield from self._view(rows, label, control)
            except _Unreadable as error:
                yield Finding(label, f"it cannot be read: {error}; delete {generation}, and it is made anew")
            except REFUSALS as error:
                yield _not_seen(label, error)

    def _board(self, folder: Path, name: str) -> Iterator[Finding]:
        for table, key, value in _entries(folder, self._tables, folder):
            check = self._tables.get(table)
            label = f"{table.decode(errors='replace')}{name}"
            if check is None:
                yield Finding(f"control{name}", f"the table {table!r} should not be there")
                continue
            try:
                problems = list(check(key, value))
            except UNREADABLE as error:
                problems = [f"it cannot be read: {error}"]
            for problem in problems:
                yield Finding(label, f"the entry {key.decode(errors='backslashreplace')!r}: {problem}")

    def _view(self, folder: Path, label: str, control: Path) -> Iterator[Finding]:
        for table, key, value in _entries(folder, (b"meta",), control):
            if table == b"meta" and key == b"checkpoint":
                try:
                    position, event_hash = _checkpoint_of(value)
                except UNREADABLE as error:
                    yield Finding(label, f"its checkpoint cannot be read: {error}")
                    continue
                for problem in self._position_problems(position, event_hash):
                    yield Finding(label, f"its checkpoint {problem}", position=position)

    # --- the entries of the control board ---

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
        """Yield the problems of a follower's position; `event_hash`, if given, must be the hash of the event there."""
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
    if request.known_action is None:
        yield f"it asks for {request.action!r}, which this version does not know"


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


class _Unreadable(Exception):
    """The file of an environment is damaged and cannot be read to its end."""


def _not_seen(table: str, error: Exception) -> Finding:
    return Finding(table, f"it cannot be looked at: {str(error) or described(error)}", is_damage=False)


def _folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; none if it does not exist. Raises `OSError`, which `glob` would ignore."""
    try:
        return sorted(each for each in folder.iterdir() if each.is_dir())
    except ABSENT:
        return []


def _is_begun(control: Path) -> bool:
    """Whether a control board is only the empty file of a process that was killed while creating the board.

    Such a board is created anew. If a runtime has used the board, its lock file is beside it, and an empty file is
    damage.
    """
    try:
        return not (control / DATA_FILE).stat().st_size and not (control / RUNTIME_FILE).exists()
    except FileNotFoundError:
        return False


def _entries(folder: Path, tables: Container[bytes], control: Path) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield (table, key, value) for every entry in `tables` of an environment, and (table, "", "") for other tables.

    The environment may be in use by the runtime that owns the board in `control`. Yields nothing if the environment
    does not exist, or if this process has it open itself. Raises `_Unreadable` if it is damaged, and one of `REFUSALS`
    if the system refuses to read it.
    """
    if not (folder / DATA_FILE).exists():
        return
    try:
        problem = _page_problem(folder, control)
        if problem:
            raise _Unreadable(f"its pages are damaged: {problem}")
        yield from _walked(folder, tables)
    except ABSENT:
        return  # the environment was dropped meanwhile
    except lmdb.Error as error:
        if ALREADY_OPEN in str(error) or not (folder / DATA_FILE).exists():
            return
        if is_refusal(error):
            raise
        raise (lock_problem(str(folder), error) or _Unreadable(str(error))) from error


def _page_problem(folder: Path, control: Path) -> str:
    """The first fault of the pages; empty if they are valid, or if a runtime may be changing them.

    The command line may change them without a runtime; it has finished by the second check.
    """
    problem = "" if has_runtime(control) else page_problem(folder)
    return problem and ("" if has_runtime(control) else page_problem(folder))


def _walked(folder: Path, tables: Container[bytes]) -> Iterator[tuple[bytes, bytes, bytes]]:
    lock = needs_lock_file(folder)
    if lock:
        take_room_to_read(folder)
    with lmdb.open(os.fsencode(folder), readonly=True, create=False, max_dbs=TABLES_MAX, lock=lock) as environment:
        with environment.begin() as transaction, transaction.cursor() as cursor:
            names = list(cursor.iternext(keys=True, values=False))
        for name in names:
            if name not in tables:
                yield name, b"", b""
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
