"""The control board of a store: the state of the log's followers, and requests to a runtime from other processes.

The board is a small LMDB environment beside the log, which several processes may open. The runtime stores the progress
of its subscriptions, their parked events and its own status; the command line reads them and leaves requests.
"""

import os
import struct
from pathlib import Path
from typing import Any, Final, Literal, TextIO, TypeAlias

import msgspec

from ..environment.board_environment import BoardEnvironment, Transaction
from ..environment.folder import IF_SYSTEM_REFUSES, RUNTIME_FILE
from ..environment.locks import has_runtime, lock, unlock
from ..errors import FileWriteFailed, StoreInUse
from .errors import ControlBoardFull, ControlBoardUnreadable

REQUESTS_MAX: Final = 1_000
"""The most requests that wait (`ControlBoardFull`), and the most answers that are kept."""
_POSITION: Final = struct.Struct(">Q")

SAGA_PREFIX: Final = "saga "
"""The prefix of the actions on sagas. With the stored name of a class: the follower that starts sagas of this class."""
PROJECTION_PREFIX: Final = "projection "
"""With the name of a projection: the subject of the status that the runtime publishes about the projection."""

SubscriptionAction: TypeAlias = Literal["retry", "delete"]
ProjectionAction: TypeAlias = Literal["pause", "resume", "rebuild"]
MaintenanceAction: TypeAlias = Literal["compact", "uncompact"]
SagaAction: TypeAlias = Literal["saga retry", "saga skip", "saga abandon", "saga signal"]
PrivacyAction: TypeAlias = Literal["forget"]
Action: TypeAlias = Literal[SubscriptionAction, ProjectionAction, MaintenanceAction, SagaAction, PrivacyAction]
"""The actions that a request may ask a runtime for."""

_encode: Final = msgspec.msgpack.Encoder().encode


class SubscriptionProgress(msgspec.Struct, frozen=True, array_like=True):
    """The progress of a subscription.

    Every event up to `position` that the subscription wants is handled or parked, except in the streams that are
    behind. `pending` has the position of the first unhandled event of each such stream.
    """

    position: int
    event_hash: bytes
    """The hash of the event at `position`, which identifies the history; empty at position 0."""
    pending: list[int]

    @property
    def done_through(self) -> int:
        """The last position before the first pending event; `position` if none is pending."""
        return min(self.pending, default=self.position + 1) - 1


class ParkedEvent(msgspec.Struct, frozen=True, array_like=True):
    """An event that a handler failed on repeatedly, or, with an empty `error`, a later event of the same stream."""

    subscription: str
    position: int
    stream: str
    error: str
    attempts: int
    time_ns: int


class ControlRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request to the runtime: an action on a subject, with an argument."""

    id: int
    action: str
    """The stored name of the action; a newer version may have stored one that this version does not know."""
    subject: str
    argument: str = ""

    @property
    def known_action(self) -> Action | None:
        """The action; None if this version does not know it."""
        try:
            action: Action = msgspec.convert(self.action, Action)
        except msgspec.ValidationError:
            return None
        return action


class ControlBoard:
    """The control board in the folder `path`, created if it does not exist.

    Methods that read or write raise `ControlBoardUnreadable`, `StoreClosed`, `StoreForked` and, when the system
    refuses, `FileWriteFailed`. After a failed write, the next call reopens the board.

    Args:
        path: the folder.
        durable: writes wait until the data are on disk. Call them in a worker thread then.

    Raises:
        FileWriteFailed: the system refuses to open or create the board.
        StoreInUse: this process has the board open already.
        StoreReadOnly: the board is on a read-only file system.
        ControlBoardUnreadable: the board is damaged.

    """

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = True) -> None:
        self.path = os.fspath(path)
        self.waits = durable
        self._pid = os.getpid()
        self._runtime_lock: TextIO | None = None
        self._environment = BoardEnvironment(self.path, durable=durable)

    # --- the runtime ---

    def take(self) -> None:
        """Claim the board for a runtime until `close`; the claim also ends with the process.

        Raises `StoreInUse` if another runtime has claimed the board, `FileWriteFailed` if the system refuses.
        """
        try:
            file = (Path(self.path) / RUNTIME_FILE).open("a", encoding="ascii")
        except OSError as error:
            raise FileWriteFailed(self.path, str(error)) from error
        try:
            lock(file)
        except BlockingIOError:
            file.close()
            raise StoreInUse(self.path, "another runtime") from None
        except OSError as error:
            file.close()
            raise FileWriteFailed(self.path, str(error)) from error
        self._runtime_lock = file

    @property
    def has_runtime(self) -> bool:
        """Whether a runtime, in this process or another, has claimed the board and handles requests.

        Raises `ControlBoardUnreadable` if the system refuses to say.
        """
        try:
            return has_runtime(Path(self.path))
        except OSError as error:
            raise ControlBoardUnreadable(
                self.path, f"its {RUNTIME_FILE} cannot be looked at ({error.strerror})", f"{IF_SYSTEM_REFUSES}."
            ) from error

    # --- subscriptions ---

    def subscriptions(self) -> dict[str, SubscriptionProgress]:
        """The progress of every subscription, by name."""
        with self._environment.read() as transaction:
            return self._subscriptions_in(transaction)

    def _subscriptions_in(self, transaction: Transaction) -> dict[str, SubscriptionProgress]:
        with transaction.cursor(self._table("subscriptions")) as cursor:
            return {key.decode(): msgspec.msgpack.decode(value, type=SubscriptionProgress) for key, value in cursor}

    def progress(self, name: str) -> SubscriptionProgress | None:
        """The progress of a subscription; None if there is no subscription with this name."""
        with self._environment.read() as transaction:
            value = transaction.get(name.encode(), db=self._table("subscriptions"))
            return None if value is None else msgspec.msgpack.decode(value, type=SubscriptionProgress)

    def save(
        self,
        name: str,
        progress: SubscriptionProgress,
        parked: list[ParkedEvent],
        unparked: list[int],
        *,
        create: bool = False,
    ) -> bool:
        """Store progress, add newly parked events and remove the parked events at `unparked`, in one transaction.

        Returns False and stores nothing if the subscription does not exist (it was deleted), unless `create` is true.
        """

        def work(transaction: Transaction) -> bool:
            if not create and transaction.get(name.encode(), db=self._table("subscriptions")) is None:
                return False
            transaction.put(name.encode(), _encode(progress), db=self._table("subscriptions"))
            for event in parked:
                transaction.put(_parked_key(name, event.position), _encode(event), db=self._table("parked"))
            for position in unparked:
                transaction.delete(_parked_key(name, position), db=self._table("parked"))
            return True

        return self._environment.write(work)

    def delete(self, name: str) -> bool:
        """Delete a subscription with its parked events; return whether it existed."""

        def work(transaction: Transaction) -> bool:
            for event in self._parked_of(transaction, name):
                transaction.delete(_parked_key(name, event.position), db=self._table("parked"))
            return bool(transaction.delete(name.encode(), db=self._table("subscriptions")))

        return self._environment.write(work)

    def is_ahead_of(self, position: int) -> bool:
        """Whether any follower is beyond `position`, the end of the log."""
        with self._environment.read() as transaction:
            return bool(
                self._subscriptions_ahead(transaction, position) or self._followers_ahead(transaction, position)
            )

    def cut(self, position: int, event_hash: bytes) -> list[str]:
        """Set the followers that are beyond `position` back to it, after an older copy of the log was restored.

        `position` is the end of the log and `event_hash` the hash of the event there. Pending positions and parked
        events of these subscriptions beyond `position` are removed. Returns the names of the followers that were ahead.
        """

        def work(transaction: Transaction) -> list[str]:
            subscriptions = self._subscriptions_ahead(transaction, position)
            for name, progress in subscriptions.items():
                pending = [each for each in progress.pending if each <= position]
                cut = _encode(SubscriptionProgress(position, event_hash, pending))
                transaction.put(name.encode(), cut, db=self._table("subscriptions"))
                for event in self._parked_of(transaction, name):
                    if event.position > position:
                        transaction.delete(_parked_key(name, event.position), db=self._table("parked"))
            followers = self._followers_ahead(transaction, position)
            for follower in followers:
                transaction.put(follower.encode(), _POSITION.pack(position), db=self._table("positions"))
            return [*subscriptions, *followers]

        return self._environment.write(work)

    def _subscriptions_ahead(self, transaction: Transaction, position: int) -> dict[str, SubscriptionProgress]:
        known = self._subscriptions_in(transaction)
        return {name: progress for name, progress in known.items() if progress.position > position}

    def _followers_ahead(self, transaction: Transaction, position: int) -> list[str]:
        with transaction.cursor(self._table("positions")) as cursor:
            return [key.decode() for key, value in cursor if _POSITION.unpack(value)[0] > position]

    def parked(self, name: str | None = None) -> list[ParkedEvent]:
        """The parked events of one subscription, by position, or of all subscriptions, by name and position."""
        with self._environment.read() as transaction:
            if name is not None:
                return self._parked_of(transaction, name)
            with transaction.cursor(self._table("parked")) as cursor:
                return [msgspec.msgpack.decode(value, type=ParkedEvent) for value in cursor.iternext(keys=False)]

    def _parked_of(self, transaction: Transaction, name: str) -> list[ParkedEvent]:
        prefix = name.encode() + b"\x00"
        found = []
        with transaction.cursor(self._table("parked")) as cursor:
            more = cursor.set_range(prefix)
            while more and cursor.key().startswith(prefix):
                found.append(msgspec.msgpack.decode(cursor.value(), type=ParkedEvent))
                more = cursor.next()
        return found

    # --- requests from other processes ---

    def request(self, action: Action, subject: str, argument: str = "") -> int:
        """Leave a request for the runtime that has the store open, or opens it next; return the id of the request.

        If an equal request waits already, its id is returned. Raises `ControlBoardFull`.
        """

        def work(transaction: Transaction) -> int:
            waiting = self._requests_in(transaction)
            for request in waiting:
                if (request.action, request.subject, request.argument) == (action, subject, argument):
                    return request.id
            if len(waiting) >= REQUESTS_MAX:
                raise ControlBoardFull(self.path, REQUESTS_MAX)
            number = 1 + max(
                _last_id(transaction, self._table("requests")), _last_id(transaction, self._table("answers"))
            )
            request = ControlRequest(number, action, subject, argument)
            transaction.put(_POSITION.pack(number), _encode(request), db=self._table("requests"))
            return number

        return self._environment.write(work)

    def requests(self) -> list[ControlRequest]:
        """The waiting requests, oldest first."""
        with self._environment.read() as transaction:
            return self._requests_in(transaction)

    def _requests_in(self, transaction: Transaction) -> list[ControlRequest]:
        with transaction.cursor(self._table("requests")) as cursor:
            return [msgspec.msgpack.decode(value, type=ControlRequest) for value in cursor.iternext(keys=False)]

    def done(self, request: ControlRequest, answer: str) -> None:
        """Remove a request and store its answer: empty, or the reason why it failed."""

        def work(transaction: Transaction) -> None:
            transaction.delete(_POSITION.pack(request.id), db=self._table("requests"))
            transaction.put(_POSITION.pack(request.id), answer.encode(errors="replace"), db=self._table("answers"))
            with transaction.cursor(self._table("answers")) as cursor:
                while cursor.first() and transaction.stat(self._table("answers"))["entries"] > REQUESTS_MAX:
                    cursor.delete()

        self._environment.write(work)

    def answer(self, request_id: int) -> str | None:
        """The answer to a request; None while the request waits, and after its answer was dropped for newer ones."""
        with self._environment.read() as transaction:
            value = transaction.get(_POSITION.pack(request_id), db=self._table("answers"))
            return None if value is None else value.decode()

    # --- paused projections ---

    def set_paused(self, projection: str, *, paused: bool) -> None:
        """Store whether a projection is paused."""

        def work(transaction: Transaction) -> None:
            if paused:
                transaction.put(projection.encode(), b"", db=self._table("paused"))
            else:
                transaction.delete(projection.encode(), db=self._table("paused"))

        self._environment.write(work)

    def paused(self) -> set[str]:
        """The names of the paused projections."""
        with self._environment.read() as transaction, transaction.cursor(self._table("paused")) as cursor:
            return {key.decode() for key in cursor.iternext(values=False)}

    def forget_projection(self, projection: str) -> None:
        """Remove the pause and the status of a projection."""

        def work(transaction: Transaction) -> None:
            transaction.delete(projection.encode(), db=self._table("paused"))
            transaction.delete(f"{PROJECTION_PREFIX}{projection}".encode(), db=self._table("status"))

        self._environment.write(work)

    # --- positions ---

    def position(self, follower: str) -> int | None:
        """The position that a follower of the log has reached; None if it never began."""
        with self._environment.read() as transaction:
            value = transaction.get(follower.encode(), db=self._table("positions"))
            return None if value is None else int(_POSITION.unpack(value)[0])

    def set_positions(self, positions: dict[str, int]) -> None:
        """Store the positions that followers of the log have reached."""

        def work(transaction: Transaction) -> None:
            for follower, position in positions.items():
                transaction.put(follower.encode(), _POSITION.pack(position), db=self._table("positions"))

        self._environment.write(work)

    # --- status ---

    def set_status(self, status: dict[str, Any]) -> None:
        """Publish the runtime's status: values by subject, which replace the earlier values of these subjects."""

        def work(transaction: Transaction) -> None:
            for subject, value in status.items():
                transaction.put(subject.encode(), _encode(value), db=self._table("status"))

        self._environment.write(work)

    def status(self) -> dict[str, Any]:
        """The published status: values by subject."""
        with self._environment.read() as transaction, transaction.cursor(self._table("status")) as cursor:
            return {key.decode(): msgspec.msgpack.decode(value) for key, value in cursor}

    def _table(self, name: str) -> Any:
        return self._environment.tables[name]

    def close(self) -> None:
        """Close the board and release its claim. Idempotent; does nothing in a forked child."""
        self._environment.close()
        if self._runtime_lock is not None and os.getpid() == self._pid:
            unlock(self._runtime_lock)
            self._runtime_lock = None


def _parked_key(name: str, position: int) -> bytes:
    return name.encode() + b"\x00" + _POSITION.pack(position)


def _last_id(transaction: Transaction, table: Any) -> int:
    with transaction.cursor(table) as cursor:
        return int(_POSITION.unpack(cursor.key())[0]) if cursor.last() else 0
