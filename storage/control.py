"""The control board of a store: what followers of the log remember, and what is asked of a runtime from outside.

A small LMDB environment beside the log, which several processes may open: the runtime keeps the progress of its
subscriptions, their parked events and its own status there; the command line reads them and leaves requests.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import lmdb
import msgspec

from .environment import ENGINE
from .errors import StoreClosed, StoreWriteFailed
from .folder import reserve_lock_file

CONTROL_FOLDER: Final = "control"
MAP_SIZE_BYTES: Final = 1 << 30
"""Reserved address space, and the bound of all that is kept here."""
_POSITION: Final = struct.Struct(">Q")

Transaction: TypeAlias = "lmdb.Transaction[bytes]"
T = TypeVar("T")
_encode: Final = msgspec.msgpack.Encoder().encode


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """How far a subscription has come: every position up to `floor` is done, and those in `done` beyond it."""

    floor: int
    done: list[int]


class ParkedEvent(msgspec.Struct, frozen=True, array_like=True):
    """An event that a handler kept failing on, or, with `error` empty, one of the same stream that came after it."""

    subscription: str
    position: int
    stream: str
    error: str
    attempts: int
    time_ns: int


class ControlRequest(msgspec.Struct, frozen=True, array_like=True):
    """What somebody asks of the runtime: an action on a subject, with an argument."""

    id: int
    action: str
    subject: str
    argument: str = ""


class ControlBoard:
    """The board in the folder `path`, made when it is not there.

    Args:
        path: the folder.
        durable: whether what is written is on the disk when the call returns. Call it in a worker thread then.

    Raises:
        StoreWriteFailed: the system refuses.

    """

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = True) -> None:
        self.path = os.fspath(path)
        self.waits = durable
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
            reserve_lock_file(Path(path))
            self._environment = lmdb.open(
                self.path, max_dbs=8, map_size=MAP_SIZE_BYTES, lib_version=ENGINE, sync=durable
            )
            self._environment.reader_check()
            self._subscriptions = self._environment.open_db(b"subscriptions")
            self._parked = self._environment.open_db(b"parked")
            self._requests = self._environment.open_db(b"requests")
            self._status = self._environment.open_db(b"status")
        except (lmdb.Error, OSError) as error:
            raise StoreWriteFailed(self.path, str(error)) from error

    # --- subscriptions ---

    def subscriptions(self) -> dict[str, Progress]:
        """The progress of every subscription, by name."""
        with self._read() as transaction, transaction.cursor(self._subscriptions) as cursor:
            return {key.decode(): msgspec.msgpack.decode(value, type=Progress) for key, value in cursor}

    def progress(self, name: str) -> Progress | None:
        """How far a subscription has come; None when there is none of this name."""
        with self._read() as transaction:
            value = transaction.get(name.encode(), db=self._subscriptions)
        return None if value is None else msgspec.msgpack.decode(value, type=Progress)

    def save(
        self, name: str, progress: Progress, parked: list[ParkedEvent], unparked: list[int], *, create: bool = False
    ) -> bool:
        """Store progress, newly parked events and those that are parked no longer, at once.

        Returns False, and stores nothing, when the subscription was deleted and `create` is not asked for.
        """

        def work(transaction: Transaction) -> bool:
            if not create and transaction.get(name.encode(), db=self._subscriptions) is None:
                return False
            transaction.put(name.encode(), _encode(progress), db=self._subscriptions)
            for event in parked:
                transaction.put(_parked_key(name, event.position), _encode(event), db=self._parked)
            for position in unparked:
                transaction.delete(_parked_key(name, position), db=self._parked)
            return True

        return self._write(work)

    def delete(self, name: str) -> bool:
        """Forget a subscription and what is parked of it; whether there was one."""

        def work(transaction: Transaction) -> bool:
            for event in self._parked_of(transaction, name):
                transaction.delete(_parked_key(name, event.position), db=self._parked)
            return bool(transaction.delete(name.encode(), db=self._subscriptions))

        return self._write(work)

    def parked(self, name: str | None = None) -> list[ParkedEvent]:
        """What is parked, of one subscription or of all, in the order of positions."""
        with self._read() as transaction:
            if name is not None:
                return self._parked_of(transaction, name)
            with transaction.cursor(self._parked) as cursor:
                return [msgspec.msgpack.decode(value, type=ParkedEvent) for value in cursor.iternext(keys=False)]

    def _parked_of(self, transaction: Transaction, name: str) -> list[ParkedEvent]:
        prefix = name.encode() + b"\x00"
        found = []
        with transaction.cursor(self._parked) as cursor:
            more = cursor.set_range(prefix)
            while more and cursor.key().startswith(prefix):
                found.append(msgspec.msgpack.decode(cursor.value(), type=ParkedEvent))
                more = cursor.next()
        return found

    # --- requests from outside ---

    def request(self, action: str, subject: str, argument: str = "") -> None:
        """Leave a request for the runtime that has the store open, or will have."""

        def work(transaction: Transaction) -> None:
            with transaction.cursor(self._requests) as cursor:
                number = _POSITION.unpack(cursor.key())[0] + 1 if cursor.last() else 1
                cursor.put(_POSITION.pack(number), _encode(ControlRequest(number, action, subject, argument)))

        self._write(work)

    def requests(self) -> list[ControlRequest]:
        """The requests that nobody has done yet, oldest first."""
        with self._read() as transaction, transaction.cursor(self._requests) as cursor:
            return [msgspec.msgpack.decode(value, type=ControlRequest) for value in cursor.iternext(keys=False)]

    def done(self, request: ControlRequest) -> None:
        """Take a request off the board."""
        self._write(lambda transaction: transaction.delete(_POSITION.pack(request.id), db=self._requests))

    # --- status ---

    def set_status(self, status: dict[str, Any]) -> None:
        """Publish what the runtime looks like now: values by subject; it replaces all that was published before."""

        def work(transaction: Transaction) -> None:
            transaction.drop(self._status, delete=False)
            for subject, value in status.items():
                transaction.put(subject.encode(), _encode(value), db=self._status)

        self._write(work)

    def status(self) -> dict[str, Any]:
        """What was published last."""
        with self._read() as transaction, transaction.cursor(self._status) as cursor:
            return {key.decode(): msgspec.msgpack.decode(value) for key, value in cursor}

    def close(self) -> None:
        """Close it. Idempotent."""
        self._environment.close()

    def _read(self) -> Transaction:
        try:
            return self._environment.begin()
        except lmdb.Error as error:
            raise StoreClosed(self.path) from error

    def _write(self, work: Callable[[Transaction], T]) -> T:
        try:
            with self._environment.begin(write=True) as transaction:
                return work(transaction)
        except lmdb.Error as error:
            raise StoreWriteFailed(self.path, str(error)) from error


def _parked_key(name: str, position: int) -> bytes:
    return name.encode() + b"\x00" + _POSITION.pack(position)
