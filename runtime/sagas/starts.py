"""The sagas that events start, and how far the log has been followed for them."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final, Protocol

from ...actors.sagas.errors import UnknownSaga
from ...actors.sagas.failure import text_of
from ...actors.sagas.orders import StartSaga
from ...actors.sagas.saga import Saga, digest_of, saga_id
from ...actors.serialization.event_codecs import EventCodecs
from ...storage.control.board import SAGA_PREFIX, ControlBoard
from ...storage.errors import StreamNameInvalid
from ...storage.record import StoredEvent
from ...storage.store import EventReader
from ..on_board import on_board

SAVE_SECONDS: Final = 1.0
"""The shortest interval between two stores of the position."""

logger = logging.getLogger("eventsrc.saga")


class MakeOrder(Protocol):
    """Makes the order to start a saga; see `Sagas.order`."""

    def __call__(
        self,
        saga: Saga | type[Saga],
        key: str,
        deadline_seconds: float | None,
        after: int,
        cause: str,
        correlation_id: str,
        error: str = "",
    ) -> StartSaga: ...


class SagaStarts:
    """Knows which events start sagas of which of these classes; fulfils `EventStarts`."""

    def __init__(
        self, classes: Mapping[str, type[Saga]], store: EventReader, codecs: EventCodecs, order: MakeOrder
    ) -> None:
        self._classes = {
            name: saga_class for name, saga_class in classes.items() if saga_class.__eventsrc_saga__.starts_on
        }
        self._store = store
        self._codecs = codecs
        self._order = order
        self._board: ControlBoard | None = None
        self._begins: dict[str, int] = {}
        self._followed = 0
        self._saved_at = 0.0
        starting = {of for saga_class in self._classes.values() for of in saga_class.__eventsrc_saga__.starts_on}
        self.event_types = tuple(name for name, codec in codecs.of_name.items() if codec.event_class in starting)
        """The stored names of the events that start sagas."""

    async def open(self, board: ControlBoard) -> int:
        """The position through which events have started their sagas; for a new class, the end of the log."""
        self._board = board
        for name in self._classes:
            known = board.position(SAGA_PREFIX + name)
            self._begins[name] = self._store.last_position if known is None else known
        self._followed = min(self._begins.values(), default=self._store.last_position)
        await self._save()
        return self._followed

    async def close(self) -> None:
        """Store the position."""
        await self._save()

    async def followed(self, position: int) -> None:
        """Take note that the events through a position have started their sagas."""
        self._followed = position
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            await self._save()

    async def _save(self) -> None:
        """Store the position. Not needed after each event: one that is followed again starts no second saga."""
        self._saved_at = time.monotonic()
        if self._board is not None and self._begins:
            positions = {SAGA_PREFIX + name: max(begin, self._followed) for name, begin in self._begins.items()}
            await on_board(self._board, partial(self._board.set_positions, positions))

    def of(self, event: StoredEvent) -> Iterator[StartSaga]:
        """The orders to start the sagas of an event."""
        for name, saga_class in self._classes.items():
            make = self._maker(saga_class, event)
            if make is None or event.position <= self._begins[name]:
                continue
            cause = f"{event.stream}@{event.version}"
            order = partial(
                self._order,
                key=_key(saga_class, cause),
                deadline_seconds=None,
                after=event.position,
                cause=cause,
                correlation_id=event.correlation_id,
            )
            try:
                saga = make()
                if saga is not None:
                    yield order(saga)
            except Exception as failure:
                logger.exception("an event cannot start its saga", extra={"saga": name, "position": event.position})
                yield order(saga_class, error=f"{cause} cannot be made into a saga: {text_of(failure)}")

    def _maker(self, saga_class: type[Saga], event: StoredEvent) -> Callable[[], Saga | None] | None:
        """A function that makes an event's saga (or None, where it starts none); None for events of other classes."""
        codec = self._codecs.of_name.get(event.type)
        make = None if codec is None else saga_class.__eventsrc_saga__.starts_on.get(codec.event_class)
        return None if make is None else lambda: make(saga_class, self._codecs.decode(event), event)

    def made_again(self, saga_class: type[Saga], stream: str, cause: str) -> Saga:
        """Make the saga of an event again, after a first attempt failed. Raises the errors of the class."""
        cause_stream, _, version = cause.rpartition("@")
        (event,) = self._store.read_stream(cause_stream, from_version=int(version), limit=1)
        make = self._maker(saga_class, event)
        saga = None if make is None else make()
        if saga is None:
            raise UnknownSaga(f"{saga_class.__name__} makes no saga of {cause} any more: abandon {stream!r}.")
        return saga


def _key(saga_class: type[Saga], cause: str) -> str:
    """The key of the saga that an event starts: the event's stream and version, or a digest where that is too long."""
    try:
        saga_id(saga_class, cause)
    except StreamNameInvalid:
        return digest_of(cause)
    return cause
