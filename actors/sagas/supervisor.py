"""The supervisor: the actor that starts sagas, runs as many at once as the bound allows, and wakes waiting sagas.

A waiting saga uses no task and keeps no state in memory: only an alarm or a wait entry, and its stream in the log.
"""

import logging
from collections import deque
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from ...storage.errors import EventSourcingError, StoreError
from ...storage.record import NS_PER_SECOND
from ..background import in_background
from ..errors import RuntimeClosed
from ..future import TrioFuture
from ..mailbox import answer as answer_message
from ..trio_actor import TrioActor
from .alarms import SagaAlarms
from .errors import NothingToSkip, SagaEnded, SagaNotParked, UnknownSaga
from .events import CompensationSkipped, EffectDone, EffectFailed, SagaAbandoned, SagaParked, SagaRemade, SagaResumed
from .history import SagaHistory
from .host import SagaHost
from .instance import SagaInstance
from .orders import DecideParked, SagaOrder, SendSignal, StartSaga
from .run import SagaRun
from .saga import Saga
from .starter import FOLLOW_BATCH_EVENTS, SagaStarter, StarterHost, next_events
from .waits import EventWaits

ORDER_LOST: Final = "The runtime was closed before this was answered. Whether it is stored shows when it is opened."
RESTS_LATER: Final = "The runtime closed before the saga came to rest. It goes on when opened."

logger = logging.getLogger("eventsrc.saga")


if TYPE_CHECKING:
    from pykka._envelope import Envelope


class SupervisorHost(SagaHost, StarterHost, Protocol):
    """What the supervisor needs of the runtime besides what runs and the starter need."""

    def load(self, stream: str) -> tuple[type[Saga], SagaHistory, str]:
        """Load a saga's class, history and correlation id from its stream. Raises `UnknownSaga`, `DecodingError`."""

    def replaces_older(self, saga: str) -> bool:
        """Whether the saga class of this name does not let instances of its older versions go on."""

    def made_again(self, stream: str, cause: str) -> dict[str, Any]:
        """Make a saga's state from its event, after an earlier attempt failed.

        Raises `UnknownSaga` if the class no longer makes a saga of the event, and what the class raises.
        """


class SagaSupervisor(TrioActor):
    """Lives as long as the runtime. `StartSaga`, `SendSignal` and `DecideParked` are told to it, never asked."""

    def __init__(self, host: SupervisorHost, followed_position: int) -> None:
        super().__init__(mailbox_capacity=host.limits.mailbox_commands_max)
        self._host = host
        self._starter = SagaStarter(host, self._start, followed_position)
        self._position = host.store.last_position
        """Events up to this position have woken the sagas that wait for them."""
        self._running: dict[str, SagaRun] = {}
        self._noting: dict[str, SagaRun] = {}
        self._ready: deque[str] = deque()
        self._starting: dict[str, list[TrioFuture[bool]]] = {}
        self._alarms = SagaAlarms(host.wall_clock)
        self._waits = EventWaits(host.codec.payload)
        self._signal_waits: set[str] = set()
        self._failures: dict[str, int] = {}
        self._outcomes: dict[str, dict[tuple[str, str], EffectDone | EffectFailed]] = {}
        """By interrupted saga: the outcomes of its effects that could not be stored."""
        self._watched: dict[str, TrioFuture[SagaHistory]] = {}
        self._moved = trio.lowlevel.ParkingLot()
        self._is_stopping = False
        self._has_stopped = False

    # --- what the runtime calls ---

    def resume(self, instances: Iterable[SagaInstance]) -> None:
        """Take up the sagas that were left when the store was closed. Call this before the actor is started."""
        for instance in instances:
            if self._host.replaces_older(instance.saga):
                # The saga may not be allowed to go on waiting: its stream tells which version began it.
                self._ready.append(instance.id)
            elif instance.state == "waiting" and instance.waits_for_event:
                self._wait_on(instance)
            elif instance.state == "waiting" or instance.until_ns is not None:
                self._register(instance.id, instance.wake_ns)
            else:
                self._ready.append(instance.id)

    def _wait_on(self, instance: SagaInstance) -> None:
        """Have a saga wait for its event as before."""
        event_type, where, after = instance.waits_for_event, instance.waits_where, instance.waits_after
        if where and not self._host.codec.is_current(event_type, instance.waits_event_version):
            # The event's fields may have new names or values: run the saga again, so that it waits by those.
            self._ready.append(instance.id)
            return
        self._register(instance.id, instance.wake_ns)
        self._waits.add(instance.id, event_type, where, after)
        self._position = min(self._position, after)

    @property
    def counts(self) -> dict[str, int]:
        """How many sagas are running, ready to run, and waiting."""
        waiting = len(self._alarms) + len(self._signal_waits)
        return {"running": len(self._running), "ready": len(self._ready), "waiting": waiting}

    def is_running(self, stream: str) -> bool:
        """Whether the saga is being run now."""
        return stream in self._running

    async def rested(self, stream: str) -> SagaHistory:
        """Wait until the saga next comes to rest with all its records on disk; return its history.

        Raises `UnknownSaga`, and `RuntimeClosed` if the runtime closes first.
        """
        if self._has_stopped:
            raise RuntimeClosed(RESTS_LATER)
        watched: TrioFuture[SagaHistory] = self._watched.setdefault(stream, TrioFuture())
        return await watched

    async def stop_running(self, seconds: float) -> None:
        """Let the steps under way end within `seconds`, and begin no others; cancel the rest, to be run again later."""
        self._is_stopping = self._starter.is_stopping = True
        for run in self._running.values():
            run.is_stopping = True
        with trio.move_on_after(seconds):
            while self._running:
                await self._moved.park()
        for run in self._running.values():
            run.scope.cancel()
        while self._running:
            await self._moved.park()
        self._has_stopped = True
        for watched in self._watched.values():
            watched.fail(RuntimeClosed(RESTS_LATER))

    # --- the actor ---

    async def on_start(self) -> None:  # type: ignore[override]
        self._nursery.start_soon(in_background, self._keep_time, name="eventsrc saga alarms")
        self._nursery.start_soon(in_background, self._follow, name="eventsrc saga events")
        if self._host.starts.event_types:
            self._nursery.start_soon(in_background, self._starter.run, name="eventsrc saga starts")
        self._start_ready()

    def _actor_loop_teardown(self) -> None:
        # Orders come by `tell`, so the mailbox cannot answer their senders.
        self.actor_stopped.set()
        self.actor_inbox.close(_refuse)
        self._has_stopped = True
        for answer in chain.from_iterable(self._starting.values()):
            answer.fail(RuntimeClosed(ORDER_LOST))
        for watched in self._watched.values():
            watched.fail(RuntimeClosed(RESTS_LATER))

    def on_receive(self, message: SagaOrder) -> None:
        try:
            match message:
                case StartSaga():
                    self._start(message)
                case SendSignal():
                    self._signal(message)
                case DecideParked():
                    self._decide(message)
        except Exception as error:
            message.answer.fail(error)

    def _start(self, order: StartSaga) -> None:
        starting = self._starting.get(order.stream)
        if starting is not None:
            starting.append(order.answer)
            return
        if order.stream in self._running or self._host.store.head(order.stream) is not None:
            order.answer.settle(False)
            return
        run = SagaRun(self._host, order.saga_class, order.stream, SagaHistory(), order.correlation_id)
        run.hold(order.started, order.encoded)
        if order.error:
            run.hold(SagaParked(order.error))
        # Only after what may raise: a saga that cannot be stored was not begun, and may be started again.
        self._starting[order.stream] = [order.answer]
        run.on_begun = self._on_begun
        is_room = len(self._running) < self._host.limits.sagas_running_max and not self._is_stopping
        if is_room and not order.error:
            self._launch(order.stream, run)
        else:
            run.note()

    def _on_begun(self, run: SagaRun, failure: EventSourcingError | None) -> None:
        """Answer the start orders: the saga's first record is on disk, or was refused."""
        if failure is not None:
            self._nursery.start_soon(in_background, self._refuse_start, run, failure)
            return
        first, *others = self._starting.pop(run.stream)
        first.settle(True)
        for other in others:
            other.settle(False)
        if run.stream not in self._running and run.history.version == 1:
            self._ready.append(run.stream)
            self._start_ready()

    async def _refuse_start(self, run: SagaRun, failure: EventSourcingError) -> None:
        # Else a new start order would find the saga running.
        while self._running.get(run.stream) is run:
            await self._moved.park()
        for answer in self._starting.pop(run.stream):
            answer.fail(failure)

    def _signal(self, order: SendSignal) -> None:
        run = self._running.get(order.stream) or self._noting.get(order.stream) or self._loaded(order.stream)
        history = run.history
        if history.is_ended:
            raise SagaEnded(order.stream, history.status)
        is_first = order.signal not in history.signals
        if is_first:
            run.signal(order.signal, order.payload)
        # The answer to a repeated signal says as well that the first one is on disk.
        self._note_at_rest(run, order.answer, answer_with=is_first)

    def _decide(self, order: DecideParked) -> None:
        run = self._noting.get(order.stream) or self._loaded(order.stream)
        history = run.history
        if order.stream in self._running or not history.parked:
            raise SagaNotParked(order.stream, history.status)
        match order.action:
            case "retry" if history.is_unmade:
                run.note(SagaResumed(order.reason), SagaRemade(self._host.made_again(order.stream, history.cause)))
            case "retry":
                run.note(SagaResumed(order.reason))
            case "skip" if (step := run.undoing) is not None:
                run.note(CompensationSkipped(step, order.reason))
            case "abandon":
                run.note(SagaAbandoned(order.reason))
            case _:
                raise NothingToSkip(order.stream, history.parked)
        self._note_at_rest(run, order.answer)

    def _note_at_rest(self, run: SagaRun, answer: TrioFuture[bool], *, answer_with: bool = True) -> None:
        """Answer when the notes are on disk; a saga at rest is then run again, to act on them."""
        if run.stream not in self._running:
            self._noting[run.stream] = run
        self._nursery.start_soon(in_background, self._answer_stored, run, answer, answer_with)

    async def _answer_stored(self, run: SagaRun, answer: TrioFuture[bool], answer_with: bool) -> None:
        try:
            await run.stored()
            answer.settle(answer_with)
        except EventSourcingError as error:
            answer.fail(error)
        except BaseException:
            # The runtime ended.
            answer.fail(RuntimeClosed(ORDER_LOST))
            raise
        if self._noting.pop(run.stream, None) is not None:
            self._make_ready(run.stream)
            self._tell_watchers(run)

    def _loaded(self, stream: str) -> SagaRun:
        saga_class, history, correlation_id = self._host.load(stream)
        return SagaRun(self._host, saga_class, stream, history, correlation_id)

    # --- running ---

    def _make_ready(self, stream: str) -> None:
        self._stop_waiting(stream)
        self._ready.append(stream)
        self._start_ready()

    def _start_ready(self) -> None:
        bound = self._host.limits.sagas_running_max
        while self._ready and len(self._running) < bound and not self._is_stopping:
            stream = self._ready.popleft()
            if stream in self._running or stream in self._noting:
                # The saga is running, or will be run when its notes are on disk.
                continue
            try:
                run = self._loaded(stream)
            except StoreError as error:
                logger.warning("a saga cannot be read: %s", error, extra={"saga": stream})
                self._rest_after_failure(stream)
                continue
            except Exception as error:
                # The saga stays as it is in the log, for a runtime that knows its class and records.
                logger.error("a saga cannot be resumed: %s", error, extra={"saga": stream})
                continue
            run.outcomes = self._outcomes.pop(stream, {})
            self._launch(stream, run)

    def _launch(self, stream: str, run: SagaRun) -> None:
        self._stop_waiting(stream)
        self._running[stream] = run
        self._nursery.start_soon(in_background, self._run, stream, run, name=stream)

    async def _run(self, stream: str, run: SagaRun) -> None:
        try:
            with run.scope:
                await run.run()
                self._failures.pop(stream, None)
                self._rest(run)
        except EventSourcingError as error:
            logger.warning("a saga is interrupted: %s", error, extra={"saga": stream})
            # A saga whose start was refused does not exist; the sender of the order gets the error.
            if run.was_started:
                self._rest_after_failure(stream)
        except Exception:
            # A bug in eventsrc: retry from the log, at growing intervals.
            logger.exception("a saga is interrupted", extra={"saga": stream})
            self._rest_after_failure(stream)
        finally:
            del self._running[stream]
            if run.outcomes and not run.history.is_ended:
                self._outcomes[stream] = run.outcomes
            self._moved.unpark_all()
            self._tell_watchers(run)
            if run.is_unwritten:
                ended = UnknownSaga(f"The saga {stream!r} was not started: its run ended before anything was written.")
                for answer in self._starting.pop(stream, ()):
                    answer.fail(ended)
        self._start_ready()

    def _tell_watchers(self, run: SagaRun) -> None:
        """Tell those who wait for a saga to rest. A saga whose records were refused rests only after it runs again."""
        if run.stream not in self._watched:
            return
        if run.is_stored:
            self._watched.pop(run.stream).settle(run.history)
        elif not run.was_started:
            refused = UnknownSaga(f"The saga {run.stream!r} was not started: its first record was refused.")
            self._watched.pop(run.stream).fail(refused)

    def _rest_after_failure(self, stream: str) -> None:
        count = self._failures[stream] = self._failures.get(stream, 0) + 1
        seconds = self._host.limits.restart_backoff(count - 1)
        self._register(stream, self._host.wall_clock() + int(seconds * NS_PER_SECOND))

    def _rest(self, run: SagaRun) -> None:
        """Register a saga that waits for its alarm, event or signal, or make it ready if that has come already."""
        stream, history = run.stream, run.history
        if history.is_ended or history.parked or self._is_stopping:
            return
        waiting = history.waiting
        if waiting is not None and waiting.signal in history.signals:
            self._ready.append(stream)
            return
        if waiting is not None and waiting.event_type:
            after, until = max(waiting.after, run.looked_until), self._position
            if until > after and self._host.calls.came(waiting.event_type, waiting.where, after, until):
                self._ready.append(stream)
                return
            self._waits.add(stream, waiting.event_type, waiting.where, waiting.after)
        if waiting is None and history.wake_ns is None:
            self._ready.append(stream)
            return
        self._register(stream, history.wake_ns)

    # --- waking ---

    def _register(self, stream: str, wake_ns: int | None) -> None:
        if wake_ns is None:
            self._signal_waits.add(stream)
        else:
            self._alarms.set(stream, wake_ns)

    def _stop_waiting(self, stream: str) -> None:
        self._alarms.clear(stream)
        self._signal_waits.discard(stream)
        self._waits.remove(stream)

    async def _keep_time(self) -> None:
        while True:
            for stream in await self._alarms.due():
                self._stop_waiting(stream)
                self._ready.append(stream)
            self._start_ready()

    async def _follow(self) -> None:
        """Wake the sagas that wait for events as the events are stored."""
        failures = 0
        while await self._host.feed.wait_beyond(self._position):
            try:
                self._wake_by_events()
                failures = 0
            except EventSourcingError as error:
                logger.error("sagas cannot be woken by events yet: %s", error, extra={"after": self._position})
                await trio.sleep(self._host.limits.restart_backoff(failures))
                failures += 1

    def _wake_by_events(self) -> None:
        types, until = self._waits.event_types, self._host.store.last_position
        batch = next_events(self._host.store, types, self._position, until) if types else []
        for event in batch:
            for stream in self._waits.concerned(event):
                self._stop_waiting(stream)
                self._ready.append(stream)
        # A saga that comes to rest from here on checks the events up to this one itself.
        self._position = batch[-1].position if len(batch) == FOLLOW_BATCH_EVENTS else until
        self._start_ready()


def _refuse(envelope: "Envelope[Any]") -> None:
    """Answer a message that the supervisor no longer handles: an order, or a request to stop."""
    if isinstance(envelope.message, SagaOrder):
        envelope.message.answer.fail(RuntimeClosed(ORDER_LOST))
    elif envelope.reply_to is not None:
        answer_message(envelope, None)
