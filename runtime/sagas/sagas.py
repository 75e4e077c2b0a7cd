"""The sagas of one runtime: starting them, serving their supervisor, and querying their status."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

import attrs
import pykka
import trio
from msgspec import structs

from ...actors.aggregates.aggregate import Aggregate
from ...actors.aggregates.aggregate_type import AggregateType
from ...actors.aggregates.decision import CAUSED_BY
from ...actors.aggregates.request import current_cause
from ...actors.errors import DefinitionError, RuntimeClosed
from ...actors.feed import Feed
from ...actors.future import TrioFuture
from ...actors.journal.journal import Journal
from ...actors.sagas.codec import SagaCodec
from ...actors.sagas.errors import DeadlinePassed, SagaTimeout, SagaWaitsForItself, UnknownSaga, UnknownSignal
from ...actors.sagas.events import SagaStarted
from ...actors.sagas.history import SagaHistory, SagaState
from ...actors.sagas.host import AggregateCalls
from ...actors.sagas.instance import SagaInstance, SagaInstances, begun
from ...actors.sagas.orders import DecideParked, SagaOrder, SendSignal, StartSaga
from ...actors.sagas.plain_data import plain_data
from ...actors.sagas.saga import CATEGORY_PREFIX, WAIT_SECONDS_MAX, Saga, is_number, saga_id
from ...actors.sagas.supervisor import ORDER_LOST, SagaSupervisor
from ...actors.sagas.threads import SagaThreads
from ...actors.serialization.event_codecs import EventCodecs
from ...actors.serialization.serializer import Serializer
from ...storage.control.board import ControlBoard
from ...storage.errors import StoreClosed
from ...storage.event_query import EventQuery
from ...storage.limits import Limits
from ...storage.names import category_of
from ...storage.query import find_events
from ...storage.record import NS_PER_SECOND, StoredEvent
from ...storage.store import EventReader
from ..arguments import check_is_class, check_text, check_timeout
from ..errors import ArgumentInvalid, RuntimeReadOnly
from ..projections.projections import Projections
from ..projections.view import View
from ..router import Router
from ..trio_thread import check_on_trio
from .calls import SagaCalls
from .starts import SagaStarts

RESUME_ROWS: Final = 1_000
RUNS_NO_SAGAS: Final = (
    "it runs no sagas: leave out sagas=, and ask the process that writes it for them. How they stand runtime.sagas() "
    "tells here, too: open it with projections=[SagaInstances]."
)

S = TypeVar("S", bound=Saga)


@attrs.frozen
class SagaOutcome(Generic[S]):
    """How a saga ended, or was parked."""

    state: SagaState
    error: str
    """The last error; empty where there was none, or where the saga completed nevertheless."""
    saga: S
    """The saga object with its last state."""


class SagaRef(Generic[S]):
    """Refers to one saga of one runtime, whether or not it was started."""

    __slots__ = ("_sagas", "id", "was_started")

    def __init__(self, sagas: "Sagas", saga_id: str, *, was_started: bool = False) -> None:
        self._sagas = sagas
        self.id = saga_id
        self.was_started = was_started
        """Whether this call of `start_saga` started it; False where the key was known."""

    def __repr__(self) -> str:
        return f"<SagaRef {self.id}>"

    async def status(self) -> SagaInstance:
        """The saga's status, from its own stream. Raises `UnknownSaga`, `RuntimeClosed`."""
        check_on_trio("saga.status", "portal.call(saga.status)")
        await trio.lowlevel.checkpoint()
        return self._sagas.instance(self.id)

    async def wait(self, *, timeout: float | None = None) -> "SagaOutcome[S]":
        """Wait until the saga has ended or is parked.

        Raises `UnknownSaga`, `SagaWaitsForItself`, `RuntimeClosed`, and `SagaTimeout` after `timeout` seconds.
        """
        check_on_trio("saga.wait", "portal.call(saga.wait)")
        cause = current_cause.get()
        if cause is not None and cause.causation_id == self.id:
            raise SagaWaitsForItself(self.id)
        check_timeout(timeout)
        seconds = math.inf if timeout is None else timeout
        with trio.move_on_after(seconds):
            return await self._ended()
        history = self._sagas.history(self.id)
        if (history.is_ended or history.parked) and not self._sagas.supervisor.is_running(self.id):
            return self._outcome(history)
        raise SagaTimeout(self.id, history.status, history.scope, seconds)

    async def _ended(self) -> "SagaOutcome[S]":
        await trio.lowlevel.checkpoint()
        supervisor = self._sagas.supervisor
        # The records of a running saga may not be on disk yet.
        history = None if supervisor.is_running(self.id) else self._sagas.history(self.id)
        while history is None or not (history.is_ended or history.parked):
            history = await supervisor.rested(self.id)
        return self._outcome(history)

    def _outcome(self, history: SagaHistory) -> "SagaOutcome[S]":
        saga_class = self._sagas.class_named(self.id)
        return SagaOutcome(history.status, history.error, self._sagas.codec.decode_state(saga_class, history.state))  # type: ignore[arg-type]

    async def signal(self, signal: str, payload: object = None) -> bool:
        """Send the saga a signal; returns whether it is the first of its name, since only the first counts.

        Raises `UnknownSaga`, `UnknownSignal`, `SagaEnded`, `RuntimeClosed`, or `EncodingError` for a payload that is no
        plain data.
        """
        return await self._sagas.signal(self.id, signal, payload)

    async def retry(self, *, reason: str) -> None:
        """Retry the step or compensation on which the saga was parked. Raises `SagaNotParked`, `RuntimeClosed`."""
        await self._sagas.decide(self.id, "retry", reason)

    async def skip(self, *, reason: str) -> None:
        """Go on without the compensation it was parked on. Raises `SagaNotParked`, `NothingToSkip`, `RuntimeClosed`."""
        await self._sagas.decide(self.id, "skip", reason)

    async def abandon(self, *, reason: str) -> None:
        """Give the saga up as it is. Raises `SagaNotParked`, `RuntimeClosed`."""
        await self._sagas.decide(self.id, "abandon", reason)


class Sagas:
    """Made by `Runtime.open(sagas=[...])`. Used on the trio thread; fulfils `SupervisorHost`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        classes: Sequence[type[Saga]],
        *,
        type_of: Callable[[type[Aggregate]], AggregateType],
        router: Router,
        store: EventReader,
        feed: Feed,
        serializer: Serializer,
        codecs: EventCodecs,
    ) -> None:
        if router.is_reader:
            raise RuntimeReadOnly(store.path, RUNS_NO_SAGAS)
        self.journal: Journal = router.journal
        self.wall_clock = router.wall_clock
        self.store = store
        self.feed = feed
        self.limits: Limits = router.limits
        self.threads = SagaThreads(self.limits.saga_threads_max)
        self.supervisor: SagaSupervisor
        self._nursery = nursery
        self._router = router
        self._classes = {saga_class.__eventsrc_saga__.name: saga_class for saga_class in classes}
        for saga_class in classes:
            definition = saga_class.__eventsrc_saga__
            other = self._classes[definition.name]
            if other is not saga_class:
                raise DefinitionError(
                    f"{saga_class.__name__} and {other.__name__} are both stored as {definition.name!r}. Give one of "
                    f'them another name: class {saga_class.__name__}(Saga, name="...").'
                )
            serializer.prepare(saga_class)
        self.codec = SagaCodec(serializer, codecs, self.limits)
        self.calls: AggregateCalls = SagaCalls(router, store, type_of, self.codec.payload)
        self.starts = SagaStarts(self._classes, store, codecs, self.order)

    async def open(self, projections: Projections, board: ControlBoard) -> None:
        """Resume every saga that has not ended, and follow the events that start others."""
        position = await self.starts.open(board)
        self.supervisor = SagaSupervisor(self, position)
        await self._resume(projections)
        self.supervisor.start_in(self._nursery)

    async def _resume(self, projections: Projections) -> None:
        running = projections.get(SagaInstances)
        view: View[SagaInstance] = View(projections, running, SagaInstances.instances)
        await projections.wait_for(running, self.store.last_position)
        for state in ("running", "compensating", "waiting"):
            async for page in view.where(state=state).pages(RESUME_ROWS):
                self.supervisor.resume(page)

    async def close(self, seconds: float) -> None:
        """Let the steps under way end, for `seconds` at most."""
        await self.supervisor.stop_running(seconds)
        await self.starts.close()

    # --- what programs ask ---

    async def start(self, saga: S, key: str, deadline_seconds: float | None) -> SagaRef[S]:
        """Start a saga unless one with this key was started before."""
        self._check_open("the saga was not started")
        if isinstance(saga, type):
            raise ArgumentInvalid("saga", saga, "give an object of the class, with the state that it begins with")
        if not isinstance(saga, Saga):
            raise ArgumentInvalid("saga", saga, "give an object of a saga's class; its key is given by key=")
        self.class_of(type(saga))
        stream = saga_id(type(saga), key)
        cause = current_cause.get()
        after = self.store.last_position
        order = self.order(saga, key, deadline_seconds, after, "", stream if cause is None else cause.correlation_id)
        if cause is not None:
            order.encoded = structs.replace(order.encoded, metadata={CAUSED_BY: cause.causation_id})
        return SagaRef(self, stream, was_started=await self._answer_to(order))

    def order(
        self,
        saga: Saga | type[Saga],
        key: str,
        deadline_seconds: float | None,
        after: int,
        cause: str,
        correlation_id: str,
        error: str = "",
    ) -> StartSaga:
        """The order to start a saga; given only the class where `error` kept the saga from being made.

        Raises `EncodingError`, `EventTooLarge`, `StreamNameInvalid`, `DeadlinePassed`.
        """
        saga_class = saga if isinstance(saga, type) else type(saga)
        definition = saga_class.__eventsrc_saga__
        stream = saga_id(saga_class, key)
        seconds = definition.deadline_seconds if deadline_seconds is None else deadline_seconds
        if seconds is not None and not (is_number(seconds) and seconds <= WAIT_SECONDS_MAX):
            raise ArgumentInvalid("deadline_seconds", seconds, f"give it in seconds; {WAIT_SECONDS_MAX:g} is the most")
        if seconds is not None and seconds <= 0:
            raise DeadlinePassed(
                f"The deadline of {stream!r} is {-seconds:g} seconds ago. Nothing was started: give a positive one."
            )
        deadline_ns = None if seconds is None else self.wall_clock() + int(seconds * NS_PER_SECOND)
        state = {} if isinstance(saga, type) else self.codec.encode_state(saga)
        started = SagaStarted(definition.name, key, definition.version, state, deadline_ns, cause, after)
        encoded = self.codec.encode(started, correlation_id, stream)
        return StartSaga(stream, saga_class, started, encoded, correlation_id, TrioFuture(), error)

    def class_of(self, saga_class: type[Saga]) -> type[Saga]:
        """Return the class. Raises `UnknownSaga` where the runtime was opened without it."""
        if saga_class not in self._classes.values():
            check_is_class("saga_class", saga_class, self._classes.values())
            name = getattr(saga_class, "__name__", repr(saga_class))
            known = ", ".join(known.__name__ for known in self._classes.values()) or "none"
            raise UnknownSaga(
                f"The runtime was not opened with {name}; it has {known}. Give it to Runtime.open(sagas=[...])."
            )
        return saga_class

    async def signal(self, saga_id: str, signal: str, payload: Any) -> bool:
        """Send a saga a signal."""
        check_on_trio("saga.signal")
        self._check_open("the signal was not sent")
        saga_class = self.class_named(saga_id)
        if signal not in saga_class.__eventsrc_saga__.signals:
            raise UnknownSignal(saga_class, signal, saga_class.__eventsrc_saga__.signals)
        # A step gets the same plain data before and after a restart.
        plain = plain_data(payload, f"The payload of the signal {signal!r}")
        order = SendSignal(saga_id, signal, plain, TrioFuture())
        return await self._answer_to(order)

    async def decide(self, saga_id: str, action: str, reason: str) -> None:
        """Carry out an operator's decision on a parked saga."""
        check_on_trio(f"saga.{action}")
        self._check_open(f"the saga stays as it is: {action} took no effect")
        self.class_named(saga_id)
        check_text("reason", reason)
        if not reason.strip():
            raise ArgumentInvalid("reason", reason, "say why; it is recorded")
        order = DecideParked(saga_id, action, reason, TrioFuture())
        await self._answer_to(order)

    def _check_open(self, outcome: str) -> None:
        # While closing, the steps and commands under way may still use sagas.
        if self._router.is_closing and current_cause.get() is None:
            raise RuntimeClosed(f"The runtime is closed or closes; {outcome}.")

    async def _answer_to(self, order: SagaOrder) -> bool:
        # An order that the supervisor was told is carried out, even if the caller is cancelled.
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self.supervisor.actor_ref.tell(order)
            return await order.answer
        except pykka.ActorDeadError:
            # Either the supervisor is dead, or the journal that it writes to.
            raise RuntimeClosed(ORDER_LOST) from None

    def instance(self, saga_id: str) -> SagaInstance:
        """The saga's status. Raises `UnknownSaga`, `RuntimeClosed`."""
        found: SagaInstance | None = None
        with _closed_store_told(saga_id):
            for stored in self._stream(saga_id):
                event = self.codec.decode(stored)
                found = begun(event, stored) if found is None else found.after(event, stored)
        if found is None:
            raise UnknownSaga(f"No saga {saga_id!r} was started. Look at its key, or start it with runtime.start_saga.")
        return found

    def history(self, saga_id: str) -> SagaHistory:
        """The saga's history so far. Raises `UnknownSaga`, `RuntimeClosed`."""
        with _closed_store_told(saga_id):
            return self.load(saga_id)[1]

    def class_named(self, saga_id: str) -> type[Saga]:
        """The class of a saga, by its id. Raises `UnknownSaga`."""
        category = category_of(saga_id)
        saga_class = self._classes.get(category.removeprefix(CATEGORY_PREFIX))
        if saga_class is None or not category.startswith(CATEGORY_PREFIX):
            raise UnknownSaga(f"The runtime was not opened with the class of the saga {saga_id!r}.")
        return saga_class

    # --- what the supervisor and its runs need ---

    def load(self, stream: str) -> tuple[type[Saga], SagaHistory, str]:
        saga_class = self.class_named(stream)
        history = SagaHistory()
        correlation_id = ""
        for stored in self._stream(stream):
            history.apply(self.codec.decode(stored), stored.position)
            correlation_id = correlation_id or stored.correlation_id
        if not history.version:
            raise UnknownSaga(f"No saga {stream!r} was started. Look at its key, or start it with runtime.start_saga.")
        return saga_class, history, correlation_id

    def made_again(self, stream: str, cause: str) -> dict[str, Any]:
        return self.codec.encode_state(self.starts.made_again(self.class_named(stream), stream, cause))

    def replaces_older(self, saga: str) -> bool:
        saga_class = self._classes.get(saga)
        return saga_class is not None and saga_class.__eventsrc_saga__.replaces_older

    def _stream(self, stream: str) -> Iterable[StoredEvent]:
        return find_events(self.store, EventQuery(), stream=stream)


@contextmanager
def _closed_store_told(saga_id: str) -> Iterator[None]:
    """Raise `RuntimeClosed` in place of `StoreClosed`, as all other calls do."""
    try:
        yield
    except StoreClosed as error:
        raise RuntimeClosed(f"The runtime was closed; how {saga_id!r} stands shows when it is opened again.") from error
