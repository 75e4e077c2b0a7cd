"""The supervisor: the actor that starts sagas, runs as many at once as the bound allows, and wakes those that wait.

A saga that waits costs no task and no state: an entry among the alarms or the waits, and its stream in the log.
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
        """A saga's class, history and correlation id, from its stream. Raises `UnknownSaga`, `DecodingError`."""

    def replaces_older(self, saga: str) -> bool:
        """Whether the class of this name does not let instances of its older versions go on."""

    def made_again(self, stream: str, cause: str) -> dict[str, Any]:
        """The state of a saga whose event could not be made into it before. Raises what the class raises."""


class SagaSupervisor(TrioActor):
    """Lives as long as the runtime; its messages are `StartSaga`, `SendSignal` and `DecideParked`, told to it."""

    def __init__(self, host: SupervisorHost, followed_position: int) -> None:
        super().__init__(mailbox_capacity=host.limits.mailbox_commands_max)
        self._host = host
        self._starter = SagaStarter(host, self._start, followed_position)
        self._position = host.store.last_position
        """Up to here events have woken the sagas that wait for them."""
        self._running: dict[str, SagaRun] = {}
        self._noting: dict[str, SagaRun] = {}
        self._ready: deque[str] = deque()
        self._starting: dict[str, list[TrioFuture[bool]]] = {}
        self._alarms = SagaAlarms(host.wall_clock)
        self._waits = EventWaits(host.codec.payload)
        self._signal_waits: set[str] = set()
        self._failures: dict[str, int] = {}
        self._outcomes: dict[str, dict[tuple[str, str], EffectDone | EffectFailed]] = {}
        """Of sagas that were interrupted: how effects ended, where that could not be stored."""
        self._watched: dict[str, TrioFuture[SagaHistory]] = {}
        self._moved = trio.lowlevel.ParkingLot()
        self._is_stopping = False
        self._has_stopped = False

    # --- what the runtime asks of it ---

    def resume(self, instances: Iterable[SagaInstance]) -> None:
        """Take up what was left when the store was closed. Call it before the actor is started."""
        for instance in instances:
            if self._host.replaces_older(instance.saga):
                # It may not be allowed to go on waiting: which version began it is in its stream.
                self._ready.append(instance.id)
            elif instance.state == "waiting" and instance.waits_for_event:
                self._wait_on(instance)
            elif instance.state == "waiting" or instance.until_ns is not None:
                self._register(instance.id, instance.wake_ns)
            else:
                self._ready.append(instance.id)

    def _wait_on(self, instance: SagaInstance) -> None:
        """Have it wait for its event as before."""
        event_type, where, after = instance.waits_for_event, instance.waits_where, instance.waits_after
        if where and not self._host.codec.is_current(event_type, instance.waits_event_version):
            # Its fields may have other names now, or other values: run again, the saga waits by those.
            self._ready.append(instance.id)
            return
        self._register(instance.id, instance.wake_ns)
        self._waits.add(instance.id, event_type, where, after)
        self._position = min(self._position, after)

    @property
    def counts(self) -> dict[str, int]:
        """How many sagas run, are ready to, and wait."""
        waiting = len(self._alarms) + len(self._signal_waits)
        return {"running": len(self._running), "ready": len(self._ready), "waiting": waiting}

    def is_running(self, stream: str) -> bool:
        """Whether steps of a saga are done now."""
        return stream in self._running

    async def rested(self, stream: str) -> SagaHistory:
        """Wait until a saga comes to rest the next time, and what it did is on disk.

        Raises `UnknownSaga`, and `RuntimeClosed` where it will not be before the runtime is opened again.
        """
        if self._has_stopped:
            raise RuntimeClosed(RESTS_LATER)
        watched: TrioFuture[SagaHistory] = self._watched.setdefault(stream, TrioFuture())
        return await watched

    async def stop_running(self, seconds: float) -> None:
        """Let the steps under way end, and begin no other; what takes longer is cut off, and run again later."""
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
        # Orders come by `tell`, so the mailbox has no answer to give to those who wait for one.
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
        # Not before what may raise: a saga that cannot be stored was not begun, and may be started again.
        self._starting[order.stream] = [order.answer]
        run.on_begun = self._on_begun
        is_room = len(self._running) < self._host.limits.sagas_running_max and not self._is_stopping
        if is_room and not order.error:
            self._launch(order.stream, run)
        else:
            run.note()

    def _on_begun(self, run: SagaRun, failure: EventSourcingError | None) -> None:
        """Answer who started it: it is on disk."""
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
        # Else whoever starts it again would find it running.
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
        # Also the answer to a second one says that the first is on disk.
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
        """Answer when the notes are on disk; a saga that was at rest is run again then, to act on them."""
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
            # Cut off with the runtime.
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
                # It goes on, or will when what was noted is on disk.
                continue
            try:
                run = self._loaded(stream)
            except StoreError as error:
                logger.warning("a saga cannot be read: %s", error, extra={"saga": stream})
                self._rest_after_failure(stream)
                continue
            except Exception as error:
                # It stays as it is in the log, for a runtime that knows its class and its records.
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
            # One whose start was refused is not there; whoever wanted it is told.
            if run.was_started:
                self._rest_after_failure(stream)
        except Exception:
            # A fault of ours: it is tried again from the log, more and more seldom.
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
        """Tell who waits for a saga to come to rest. Where its records were refused it will, when it runs again."""
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
        """It ended, is parked, or waits for something."""
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
        """Wake the sagas that wait for events, as these are stored."""
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
        # A saga that comes to rest from here on looks for itself among the events up to this one.
        self._position = batch[-1].position if len(batch) == FOLLOW_BATCH_EVENTS else until
        self._start_ready()


def _refuse(envelope: "Envelope[Any]") -> None:
    """Answer a message that the supervisor does not handle any more: an order, or that it should stop."""
    if isinstance(envelope.message, SagaOrder):
        envelope.message.answer.fail(RuntimeClosed(ORDER_LOST))
    elif envelope.reply_to is not None:
        answer_message(envelope, None)
