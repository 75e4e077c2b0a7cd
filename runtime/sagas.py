"""The sagas of one runtime: starting them, what their supervisor needs of it, and asking how they stand."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeVar

import attrs
import msgspec
import trio

from ..actors.aggregate import Aggregate
from ..actors.aggregate_type import AggregateType
from ..actors.errors import DefinitionError, EncodingError, RuntimeClosed
from ..actors.event_codecs import EventCodecs
from ..actors.feed import Feed
from ..actors.future import TrioFuture
from ..actors.journal import Journal
from ..actors.receipt import Receipt, current_cause
from ..actors.saga import CATEGORY_PREFIX, Saga
from ..actors.saga_context import CALL_KEY
from ..actors.saga_errors import DeadlinePassed, SagaWaitsForItself, UnknownSaga, UnknownSignal
from ..actors.saga_events import SAGA_EVENTS, SagaStarted
from ..actors.saga_history import SagaHistory, SagaState
from ..actors.saga_instance import SagaInstance, SagaInstances, begun
from ..actors.saga_supervisor import DecideParked, SagaSupervisor, SendSignal, StartSaga
from ..actors.serializer import Serializer
from ..storage.commit import NewEvent
from ..storage.control import ControlBoard
from ..storage.errors import EventTooLarge
from ..storage.event_query import EventQuery
from ..storage.limits import Limits
from ..storage.names import check_stream_name
from ..storage.query import find_events
from ..storage.record import StoredEvent
from ..storage.store import EventReader
from .dispatcher import on_board
from .projections import Projections
from .reference import AggregateRef
from .router import Router
from .transaction import Part, Transaction
from .view import View

RECORD_OVERHEAD_BYTES: Final = 400
READ_BATCH_EVENTS: Final = 100
RESUME_ROWS: Final = 1_000
FOLLOWED: Final = "saga "
"""With a saga's name: the position, on the control board, up to which events have started sagas of that class."""
SAVE_SECONDS: Final = 1.0
"""That position is stored so often."""

S = TypeVar("S", bound=Saga)
_encode: Final = msgspec.msgpack.Encoder().encode
logger = logging.getLogger("eventsrc.saga")


@attrs.frozen
class SagaOutcome(Generic[S]):
    """How a saga came to rest."""

    state: SagaState
    error: str
    """What went wrong last; empty when nothing did."""
    saga: S
    """Its state."""


class SagaRef(Generic[S]):
    """Refers to one saga of one runtime, whether or not it was started."""

    __slots__ = ("_sagas", "id", "was_started")

    def __init__(self, sagas: "Sagas", saga_id: str, *, was_started: bool = False) -> None:
        self._sagas = sagas
        self.id = saga_id
        self.was_started = was_started
        """Whether this very call of `start_saga` started it; False where the key was known."""

    def __repr__(self) -> str:
        return f"<SagaRef {self.id}>"

    async def status(self) -> SagaInstance:
        """How it stands, from its own stream. Raises `UnknownSaga`."""
        await trio.lowlevel.checkpoint()
        return self._sagas.instance(self.id)

    async def wait(self, *, timeout: float | None = None) -> "SagaOutcome[S]":
        """Wait until it has ended or is parked.

        Raises `UnknownSaga`, `SagaWaitsForItself`, and `trio.TooSlowError` after `timeout` seconds.
        """
        cause = current_cause.get()
        if cause is not None and cause.causation_id == self.id:
            raise SagaWaitsForItself(self.id)
        with trio.fail_after(math.inf if timeout is None else timeout):
            await trio.lowlevel.checkpoint()
            supervisor = self._sagas.supervisor
            saga_class, history = self._sagas.history(self.id)
            # What a run has in memory may not be on disk yet.
            while supervisor.run_of(self.id) is not None or not (history.is_ended or history.parked):
                await supervisor.rested(self.id)
                saga_class, history = self._sagas.history(self.id)
            return SagaOutcome(history.status, history.error, self._sagas.saga_from(saga_class, history.state))  # type: ignore[arg-type]

    async def signal(self, signal: str, payload: Any = None) -> bool:
        """Send it a signal; whether it is the first of its name, which alone counts.

        Raises `UnknownSaga`, `UnknownSignal`, `SagaEnded`, or `EncodingError` for a payload that is no plain data.
        """
        return await self._sagas.signal(self.id, signal, payload)

    async def retry(self, *, reason: str) -> None:
        """Have it try again what it was parked on. Raises `SagaNotParked`."""
        await self._sagas.decide(self.id, "retry", reason)

    async def skip(self, *, reason: str) -> None:
        """Go on without the compensation that it was parked on. Raises `SagaNotParked`."""
        await self._sagas.decide(self.id, "skip", reason)

    async def abandon(self, *, reason: str) -> None:
        """Give it up as it is. Raises `SagaNotParked`."""
        await self._sagas.decide(self.id, "abandon", reason)


class Sagas:
    """Made by `Runtime.open(sagas=[...])`. Used on the trio thread; the `SupervisorHost` of the supervisor."""

    def __init__(
        self,
        nursery: trio.Nursery,
        classes: Sequence[type[Saga]],
        type_of: Callable[[type[Aggregate]], AggregateType],
        router: Router,
        store: EventReader,
        feed: Feed,
        serializer: Serializer,
        codecs: EventCodecs,
    ) -> None:
        self.journal: Journal = router.journal
        self.wall_clock = router.wall_clock
        self.feed = feed
        self.limits: Limits = router.limits
        self.supervisor: SagaSupervisor
        self._nursery = nursery
        self._type_of = type_of
        self._router = router
        self._store = store
        self._serializer = serializer
        self._codecs = codecs
        self._records = EventCodecs(SAGA_EVENTS, serializer)
        self._classes = {saga_class.__eventsrc_saga__.name: saga_class for saga_class in classes}
        self.has_starts = any(saga_class.__eventsrc_saga__.starts_on for saga_class in classes)
        for saga_class in classes:
            definition = saga_class.__eventsrc_saga__
            other = self._classes[definition.name]
            if other is not saga_class:
                raise DefinitionError(
                    f"{saga_class.__name__} and {other.__name__} are both stored as {definition.name!r}. Give one of "
                    f'them another name: class {saga_class.__name__}(Saga, name="...").'
                )
            serializer.prepare(saga_class)
        self._board: ControlBoard | None = None
        self._begins: dict[str, int] = {}
        self._followed = 0
        self._saved_at = 0.0

    async def open(self, projections: Projections, board: ControlBoard) -> None:
        """Take up every saga that has not ended, and follow the events that start others."""
        self._board = board
        for name, saga_class in self._classes.items():
            if saga_class.__eventsrc_saga__.starts_on:
                known = board.position(FOLLOWED + name)
                self._begins[name] = self._store.last_position if known is None else known
        self._followed = min(self._begins.values(), default=self._store.last_position)
        self.supervisor = SagaSupervisor(self, self._followed)
        if self._begins:
            await on_board(
                board, partial(board.set_positions, {FOLLOWED + each: at for each, at in self._begins.items()})
            )
        await self._resume(projections)
        self.supervisor.start_in(self._nursery)

    async def _resume(self, projections: Projections) -> None:
        running = projections.get(SagaInstances)
        view: View[SagaInstance] = View(projections, running, SagaInstances.instances)
        await projections.wait_for(running, self._store.last_position)
        for state in ("running", "compensating", "waiting"):
            async for page in view.where(state=state).pages(RESUME_ROWS):
                self.supervisor.resume(page)

    async def close(self, seconds: float) -> None:
        """Let the steps under way end."""
        await self.supervisor.stop_running(seconds)
        await self._save_followed()

    # --- what programs ask ---

    async def start(self, saga: S, key: str, deadline_seconds: float | None) -> SagaRef[S]:
        """Start a saga unless there is one with this key."""
        if self._router.is_closing and current_cause.get() is None:
            raise RuntimeClosed("The runtime is closed or closes; the saga was not started.")
        definition = self.class_of(type(saga)).__eventsrc_saga__
        stream = definition.stream(key)
        check_stream_name(stream if key else "")
        seconds = definition.deadline_seconds if deadline_seconds is None else deadline_seconds
        if seconds is not None and seconds <= 0:
            raise DeadlinePassed(f"The deadline of {stream!r} is {-seconds:g} seconds ago. Nothing was started.")
        deadline_ns = None if seconds is None else self.wall_clock() + int(seconds * 1e9)
        cause = current_cause.get()
        order = self._order(saga, key, deadline_ns, "", stream if cause is None else cause.correlation_id)
        self.supervisor.actor_ref.tell(order)
        return SagaRef(self, stream, was_started=await order.answer)

    def _order(self, saga: Saga, key: str, deadline_ns: int | None, cause: str, correlation_id: str) -> StartSaga:
        definition = type(saga).__eventsrc_saga__
        started = SagaStarted(definition.name, key, definition.version, self.state_data(saga), deadline_ns, cause)
        self.encode(started, "", "")
        return StartSaga(definition.stream(key), type(saga), started, correlation_id, TrioFuture())

    def class_of(self, saga_class: type[Saga]) -> type[Saga]:
        """The class itself. Raises `UnknownSaga` where the runtime was opened without it."""
        if self._classes.get(saga_class.__eventsrc_saga__.name) is not saga_class:
            known = ", ".join(known.__name__ for known in self._classes.values()) or "none"
            raise UnknownSaga(
                f"The runtime was not opened with {saga_class.__name__}; it has {known}. Give it to "
                "Runtime.open(sagas=[...])."
            )
        return saga_class

    async def signal(self, saga_id: str, signal: str, payload: Any) -> bool:
        """Send a saga a signal."""
        saga_class = self._class_named(saga_id)
        if signal not in saga_class.__eventsrc_saga__.signals:
            raise UnknownSignal(saga_class, signal, saga_class.__eventsrc_saga__.signals)
        try:
            _encode(payload)
        except (TypeError, ValueError, OverflowError) as error:
            raise EncodingError(f"The payload of the signal {signal!r} is no plain data: {error}") from error
        order = SendSignal(saga_id, signal, payload, TrioFuture())
        self.supervisor.actor_ref.tell(order)
        return await order.answer

    async def decide(self, saga_id: str, action: str, reason: str) -> None:
        """An operator's decision on a parked saga."""
        self._class_named(saga_id)
        order = DecideParked(saga_id, action, reason, TrioFuture())
        self.supervisor.actor_ref.tell(order)
        await order.answer

    def instance(self, saga_id: str) -> SagaInstance:
        """How a saga stands. Raises `UnknownSaga`."""
        found: SagaInstance | None = None
        for stored in self._stream(saga_id):
            event = self._record(stored)
            found = begun(event, stored) if found is None else found.after(event, stored)
        if found is None:
            raise UnknownSaga(f"No saga {saga_id!r} was started.")
        return found

    def history(self, saga_id: str) -> tuple[type[Saga], SagaHistory]:
        """What a saga has done, from memory where it runs."""
        run = self.supervisor.run_of(saga_id)
        if run is not None:
            return self._class_named(saga_id), run.history
        saga_class, history, _ = self.load(saga_id)
        return saga_class, history

    def _class_named(self, saga_id: str) -> type[Saga]:
        category = saga_id.partition("-")[0]
        saga_class = self._classes.get(category.removeprefix(CATEGORY_PREFIX))
        if saga_class is None or not category.startswith(CATEGORY_PREFIX):
            raise UnknownSaga(f"The runtime was not opened with the class of the saga {saga_id!r}.")
        return saga_class

    # --- what the supervisor and its runs need ---

    def load(self, stream: str) -> tuple[type[Saga], SagaHistory, str]:
        saga_class = self._class_named(stream)
        history = SagaHistory()
        correlation_id = ""
        for stored in self._stream(stream):
            history.apply(self._record(stored), stored.position)
            correlation_id = correlation_id or stored.correlation_id
        if not history.version:
            raise UnknownSaga(f"No saga {stream!r} was started.")
        return saga_class, history, correlation_id

    def exists(self, stream: str) -> bool:
        return self._store.head(stream) is not None

    def read(self, after: int, limit: int) -> Sequence[StoredEvent]:
        return self._store.read(after=after, limit=limit)

    def starts(self, event: StoredEvent) -> Iterable[StartSaga]:
        for name, saga_class in self._classes.items():
            definition = saga_class.__eventsrc_saga__
            make = self._maker(saga_class, event)
            if make is None or event.position <= self._begins.get(name, 0):
                continue
            seconds = definition.deadline_seconds
            deadline_ns = None if seconds is None else self.wall_clock() + int(seconds * 1e9)
            cause = f"{event.stream}@{event.version}"
            started = partial(SagaStarted, name, cause, definition.version, deadline_ns=deadline_ns, cause=cause)
            state: dict[str, Any] | None = {}
            error = ""
            try:
                state = make()
                self.encode(started(state or {}), "", "")
            except Exception as failure:
                logger.exception("an event cannot start its saga", extra={"saga": name, "position": event.position})
                error, state = f"{cause} cannot be made into a saga: {type(failure).__name__}: {failure}", {}
            if state is not None:
                stream, answer = definition.stream(cause), TrioFuture[bool]()
                yield StartSaga(stream, saga_class, started(state), event.correlation_id, answer, error[:1_000])

    def _maker(self, saga_class: type[Saga], event: StoredEvent) -> Callable[[], dict[str, Any] | None] | None:
        """What makes the state of a saga of an event, or None of one that starts none; None for other events."""
        codec = self._codecs.of_name.get(event.type)
        make = None if codec is None else saga_class.__eventsrc_saga__.starts_on.get(codec.event_class)
        if make is None:
            return None

        def made() -> dict[str, Any] | None:
            saga = make(saga_class, self._codecs.decode(event), event)
            return None if saga is None else self.state_data(saga)

        return made

    def made_again(self, stream: str, cause: str) -> dict[str, Any]:
        saga_class = self._class_named(stream)
        cause_stream, _, version = cause.rpartition("@")
        (event,) = self._store.read_stream(cause_stream, from_version=int(version), limit=1)
        make = self._maker(saga_class, event)
        state = None if make is None else make()
        if state is None:
            raise UnknownSaga(f"{saga_class.__name__} makes no saga of {cause} any more: abandon {stream!r}.")
        return state

    async def followed(self, position: int) -> None:
        self._followed = position
        if self._begins and time.monotonic() - self._saved_at > SAVE_SECONDS:
            await self._save_followed()

    async def _save_followed(self) -> None:
        """Events that are followed once more start nothing twice, so this need not be after each."""
        self._saved_at = time.monotonic()
        if self._board is not None and self._begins:
            positions = {FOLLOWED + name: max(begin, self._followed) for name, begin in self._begins.items()}
            await on_board(self._board, partial(self._board.set_positions, positions))

    def encode(self, record: Any, correlation_id: str, causation_id: str) -> NewEvent:
        codec = self._records.of_class[type(record)]
        try:
            payload = _encode(codec.unstructure(record))
        except Exception as error:
            raise EncodingError(f"{type(record).__name__} cannot be stored: {error}") from error
        bound = self.limits.event_size_bytes_max
        if len(payload) + RECORD_OVERHEAD_BYTES > bound:
            advice = "Keep large data elsewhere and its reference in the saga's state."
            raise EventTooLarge(f"Bytes of {codec.name!r}", len(payload) + RECORD_OVERHEAD_BYTES, bound, advice)
        return NewEvent(codec.name, msgspec.Raw(payload), 1, codec.kind, correlation_id, causation_id)

    def state_data(self, saga: Saga) -> dict[str, Any]:
        data: dict[str, Any] = self._serializer.unstructure(saga)
        return data

    def saga_from(self, saga_class: type[Saga], state: Mapping[str, Any]) -> Saga:
        return self._serializer.structure(state, saga_class)

    async def send(
        self, commands: Sequence[tuple[type[Aggregate], str, object]], key: str, timeout: float | None, *, is_new: bool
    ) -> list[Receipt]:
        metadata = {CALL_KEY: key}
        seconds = self.limits.command_timeout_seconds if timeout is None else timeout
        if len(commands) == 1:
            ((aggregate_class, aggregate_id, command),) = commands
            ref: AggregateRef[Any] = AggregateRef(self._router, self._type_of(aggregate_class), aggregate_id)
            request = self._router.request(command, None, key, None, metadata)
            request.has_fresh_key = is_new
            return [await ref.ask_request(request, seconds)]
        parts = [Part(self._type_of(of), aggregate_id, command) for of, aggregate_id, command in commands]
        return await Transaction(self._router, parts, (), key, None, metadata, None).run(seconds)

    async def state_of(self, aggregate_class: type[Any], aggregate_id: str) -> Any:
        return await AggregateRef(self._router, self._type_of(aggregate_class), aggregate_id).state()

    def find_call(self, aggregate_class: type[Aggregate], aggregate_id: str, key: str, after: int) -> Receipt | None:
        aggregate_type = self._type_of(aggregate_class)
        stream = aggregate_type.stream(aggregate_id)
        found = [
            event
            for event in find_events(self._store, EventQuery(after=after), stream=stream)
            if event.metadata.get(CALL_KEY) == key
        ]
        if not found:
            return None
        events = tuple(aggregate_type.decode_event(event) for event in found)
        return Receipt(stream, found[-1].version, found[-1].position, events, True)

    def has_calls(self, prefix: str, after: int) -> bool:
        found = find_events(self._store, EventQuery(after=after))
        return any(str(event.metadata.get(CALL_KEY, "")).startswith(prefix) for event in found)

    def find_event(self, event_type: str, where: Mapping[str, Any], after: int) -> StoredEvent | None:
        for event in find_events(self._store, EventQuery(types=[event_type], after=after)):
            if all(event.payload.get(field) == value for field, value in where.items()):
                return event
        return None

    def decode(self, stored: StoredEvent) -> Any:
        return self._codecs.decode(stored)

    def position(self) -> int:
        return self._store.last_position

    def _stream(self, stream: str) -> Iterable[StoredEvent]:
        return find_events(self._store, EventQuery(), stream=stream)

    def _record(self, stored: StoredEvent) -> Any:
        return self._records.decode(stored)
