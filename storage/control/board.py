"""The control board of a store: what followers of the log remember, and what is asked of a runtime from outside.

A small LMDB environment beside the log, which several processes may open: the runtime keeps the progress of its
subscriptions, their parked events and its own status there; the command line reads them and leaves requests.
"""

import os
import struct
from pathlib import Path
from typing import Any, Final, Literal, TextIO, TypeAlias

import msgspec

from ..environment.board_environment import BoardEnvironment, Transaction
from ..environment.folder import IF_SYSTEM_REFUSES, RUNTIME_FILE, drop, has_runtime, hold
from ..errors import FileWriteFailed, StoreInUse
from .errors import ControlBoardFull, ControlBoardUnreadable

REQUESTS_MAX: Final = 1_000
"""Requests that wait (`ControlBoardFull`), and answers that are kept for whoever asked."""
_POSITION: Final = struct.Struct(">Q")

SAGA_PREFIX: Final = "saga "
"""Begins the actions on sagas. Before the stored name of a class: how far the log was followed for its sagas."""
PROJECTION_PREFIX: Final = "projection "
"""Before the name of a projection: what its runtime has published about it."""

SubscriptionAction: TypeAlias = Literal["retry", "delete"]
ProjectionAction: TypeAlias = Literal["pause", "resume", "rebuild"]
MaintenanceAction: TypeAlias = Literal["compact", "uncompact"]
SagaAction: TypeAlias = Literal["saga retry", "saga skip", "saga abandon", "saga signal"]
PrivacyAction: TypeAlias = Literal["forget"]
Action: TypeAlias = Literal[SubscriptionAction, ProjectionAction, MaintenanceAction, SagaAction, PrivacyAction]
"""What may be asked of a runtime."""

_encode: Final = msgspec.msgpack.Encoder().encode


class SubscriptionProgress(msgspec.Struct, frozen=True, array_like=True):
    """How far a subscription has come: what is wanted up to `position` is done or parked, but for what is `pending`.

    Those are the positions of the first such event of each stream that is behind: a few, however many events follow.
    """

    position: int
    event_hash: bytes
    """Of the event at `position`, which tells one history from another; empty at 0."""
    pending: list[int]

    @property
    def done_through(self) -> int:
        """The position up to which nothing is pending."""
        return min(self.pending, default=self.position + 1) - 1


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
    """As it is stored, maybe by a newer version."""
    subject: str
    argument: str = ""

    @property
    def known_action(self) -> Action | None:
        """What to do; None where this version does not know it."""
        try:
            action: Action = msgspec.convert(self.action, Action)
        except msgspec.ValidationError:
            return None
        return action


class ControlBoard:
    """The board in the folder `path`, made when it is not there.

    What reads or writes raises `ControlBoardUnreadable`, `StoreClosed`, `StoreForked` and, where the system refuses,
    `FileWriteFailed`; it is opened anew after that.

    Args:
        path: the folder.
        durable: whether what is written is on the disk when the call returns. Call it in a worker thread then.

    Raises:
        FileWriteFailed: the system refuses.
        StoreInUse: this process has it open already.
        ControlBoardUnreadable: it is damaged.

    """

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = True) -> None:
        self.path = os.fspath(path)
        self.waits = durable
        self._pid = os.getpid()
        self._runtime_lock: TextIO | None = None
        self._environment = BoardEnvironment(self.path, durable=durable)

    # --- who is there ---

    def take(self) -> None:
        """Claim the board for a runtime until it is closed; the system drops the claim with the process.

        Raises `StoreInUse` when another runtime has it, `FileWriteFailed`.
        """
        try:
            file = (Path(self.path) / RUNTIME_FILE).open("a", encoding="ascii")
        except OSError as error:
            raise FileWriteFailed(self.path, str(error)) from error
        try:
            hold(file)
        except BlockingIOError:
            file.close()
            raise StoreInUse(self.path, "another runtime") from None
        except OSError as error:
            file.close()
            raise FileWriteFailed(self.path, str(error)) from error
        self._runtime_lock = file

    @property
    def has_runtime(self) -> bool:
        """Whether a runtime is there, in this process or in another, that does what is asked.

        Raises `ControlBoardUnreadable` where the system does not tell.
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
        """How far a subscription has come; None when there is none of this name."""
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
        """Store progress, newly parked events and those that are parked no longer, at once.

        Returns False, and stores nothing, when the subscription was deleted and `create` is not asked for.
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
        """Forget a subscription and what is parked of it; whether there was one."""

        def work(transaction: Transaction) -> bool:
            for event in self._parked_of(transaction, name):
                transaction.delete(_parked_key(name, event.position), db=self._table("parked"))
            return bool(transaction.delete(name.encode(), db=self._table("subscriptions")))

        return self._environment.write(work)

    def is_ahead_of(self, position: int) -> bool:
        """Whether some follower has come further than `position`, where the log ends."""
        with self._environment.read() as transaction:
            return bool(
                self._subscriptions_ahead(transaction, position) or self._followers_ahead(transaction, position)
            )

    def cut(self, position: int, event_hash: bytes) -> list[str]:
        """Forget what followers of the log know beyond `position`, its end, where an older copy of it was restored.

        Subscriptions and other followers are then at that end, whose hash is given; what is parked beyond it is parked
        no longer. Returns the names of those that were ahead.
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
        """What is parked, of one subscription or of all, in the order of positions."""
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

    # --- requests from outside ---

    def request(self, action: Action, subject: str, argument: str = "") -> int:
        """Leave a request for the runtime that has the store open, or will have; return its id.

        The same request made again before it was done counts as one. Raises `ControlBoardFull`.
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
        """The requests that nobody has done yet, oldest first."""
        with self._environment.read() as transaction:
            return self._requests_in(transaction)

    def _requests_in(self, transaction: Transaction) -> list[ControlRequest]:
        with transaction.cursor(self._table("requests")) as cursor:
            return [msgspec.msgpack.decode(value, type=ControlRequest) for value in cursor.iternext(keys=False)]

    def done(self, request: ControlRequest, answer: str) -> None:
        """Take a request off the board, and leave the answer: empty, or what was wrong with it."""

        def work(transaction: Transaction) -> None:
            transaction.delete(_POSITION.pack(request.id), db=self._table("requests"))
            transaction.put(_POSITION.pack(request.id), answer.encode(errors="replace"), db=self._table("answers"))
            with transaction.cursor(self._table("answers")) as cursor:
                while cursor.first() and transaction.stat(self._table("answers"))["entries"] > REQUESTS_MAX:
                    cursor.delete()

        self._environment.write(work)

    def answer(self, request_id: int) -> str | None:
        """What became of a request; None as long as it waits."""
        with self._environment.read() as transaction:
            value = transaction.get(_POSITION.pack(request_id), db=self._table("answers"))
            return None if value is None else value.decode()

    # --- projections that stand still ---

    def set_paused(self, projection: str, *, paused: bool) -> None:
        """Remember that a projection is paused, or that it is not."""

        def work(transaction: Transaction) -> None:
            if paused:
                transaction.put(projection.encode(), b"", db=self._table("paused"))
            else:
                transaction.delete(projection.encode(), db=self._table("paused"))

        self._environment.write(work)

    def paused(self) -> set[str]:
        """The names of those that are."""
        with self._environment.read() as transaction, transaction.cursor(self._table("paused")) as cursor:
            return {key.decode() for key in cursor.iternext(values=False)}

    def forget_projection(self, projection: str) -> None:
        """Remember nothing of a projection any more."""

        def work(transaction: Transaction) -> None:
            transaction.delete(projection.encode(), db=self._table("paused"))
            transaction.delete(f"{PROJECTION_PREFIX}{projection}".encode(), db=self._table("status"))

        self._environment.write(work)

    # --- positions ---

    def position(self, follower: str) -> int | None:
        """How far a follower of the log has come; None when it never began."""
        with self._environment.read() as transaction:
            value = transaction.get(follower.encode(), db=self._table("positions"))
            return None if value is None else int(_POSITION.unpack(value)[0])

    def set_positions(self, positions: dict[str, int]) -> None:
        """Remember how far some followers have come."""

        def work(transaction: Transaction) -> None:
            for follower, position in positions.items():
                transaction.put(follower.encode(), _POSITION.pack(position), db=self._table("positions"))

        self._environment.write(work)

    # --- status ---

    def set_status(self, status: dict[str, Any]) -> None:
        """Publish what the runtime looks like now: values by subject, in place of what was published of them."""

        def work(transaction: Transaction) -> None:
            for subject, value in status.items():
                transaction.put(subject.encode(), _encode(value), db=self._table("status"))

        self._environment.write(work)

    def status(self) -> dict[str, Any]:
        """What was published last."""
        with self._environment.read() as transaction, transaction.cursor(self._table("status")) as cursor:
            return {key.decode(): msgspec.msgpack.decode(value) for key, value in cursor}

    def _table(self, name: str) -> Any:
        return self._environment.tables[name]

    def close(self) -> None:
        """Close it. Idempotent; does nothing in a forked child."""
        self._environment.close()
        if self._runtime_lock is not None and os.getpid() == self._pid:
            drop(self._runtime_lock)
            self._runtime_lock = None


def _parked_key(name: str, position: int) -> bytes:
    return name.encode() + b"\x00" + _POSITION.pack(position)


def _last_id(transaction: Transaction, table: Any) -> int:
    with transaction.cursor(table) as cursor:
        return int(_POSITION.unpack(cursor.key())[0]) if cursor.last() else 0
