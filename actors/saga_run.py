"""One run of one saga: from where its history says it is, until it ends, waits, or is parked.

Records go to the journal in order. Only what must be known before something outside is touched is waited for: a log
that lost the newest records has lost the commands that came after them, too.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import trio

from ..storage.commit import Appended, NewEvent, StreamAppend
from ..storage.errors import EventSourcingError, EventTooLarge, StoreError
from ..storage.record import StoredEvent
from .aggregate import Aggregate
from .errors import (
    AggregateUnavailable,
    DecodingError,
    DefinitionError,
    EncodingError,
    JournalFailed,
    MailboxFull,
    Rejected,
    ResidencyFull,
    RuntimeClosed,
)
from .journal import Journal, Lane, Write
from .receipt import Cause, Receipt, current_cause
from .saga import Saga, SagaDefinition, StepDefinition, StepMethod
from .saga_context import SagaContext, Suspended
from .saga_errors import DeadlinePassed, StepGone, StepTimeout, UnknownSignal
from .saga_events import (
    CompensationBegun,
    CompensationDone,
    CompensationFailed,
    SagaCompensated,
    SagaCompleted,
    SagaParked,
    Signalled,
    StepBegun,
    StepDone,
    StepFailed,
)
from .saga_history import UNDO, SagaHistory

NOT_THE_STEPS_FAULT: Final = (
    StoreError,
    JournalFailed,
    MailboxFull,
    ResidencyFull,
    AggregateUnavailable,
    RuntimeClosed,
)
"""The step is run again later, and that is no attempt."""
ERROR_CHARACTERS_MAX: Final = 2_000
"""How much of an error's text is stored."""

logger = logging.getLogger("eventsrc.saga")


class SagaHost(Protocol):
    """What a run needs of the runtime that it lives in."""

    journal: Journal
    wall_clock: Callable[[], int]

    def encode(self, record: Any, correlation_id: str, causation_id: str) -> NewEvent:
        """A record of a saga as the log takes it. Raises `EncodingError`, `EventTooLarge`."""

    def state_data(self, saga: Saga) -> dict[str, Any]:
        """The state of a saga as plain data. Raises `EncodingError`."""

    def saga_from(self, saga_class: type[Saga], state: Mapping[str, Any]) -> Saga:
        """A saga with this state. Raises `DecodingError`."""

    async def send(
        self, commands: Sequence[tuple[type[Aggregate], str, object]], key: str, timeout: float | None, *, is_new: bool
    ) -> list[Receipt]:
        """Send commands, as a transaction if there are several; `is_new` tells that the key was never used."""

    async def state_of(self, aggregate_class: type[Any], aggregate_id: str) -> Any:
        """An aggregate's state."""

    def find_call(self, aggregate_class: type[Aggregate], aggregate_id: str, key: str, after: int) -> Receipt | None:
        """What a saga's command with this key did, after a position."""

    def has_calls(self, prefix: str, after: int) -> bool:
        """Whether any saga's command whose key begins like this did something, after a position."""

    def find_event(self, event_type: str, where: Mapping[str, Any], after: int) -> StoredEvent | None:
        """The first event of a type with these values in its payload, after a position."""

    def decode(self, stored: StoredEvent) -> Any:
        """A stored event as an object of its class."""

    def position(self) -> int:
        """Where the log is."""


class SagaRun:
    """Runs a saga on; implements what its steps' contexts need."""

    def __init__(
        self, host: SagaHost, saga_class: type[Saga], stream: str, history: SagaHistory, correlation_id: str
    ) -> None:
        self.stream = stream
        self.history = history
        self.took_effect = False
        self.is_stopping = False
        """Told to come to rest after the step under way."""
        self._was_cut_off = history.is_under_way and history.waiting is None
        self.scope = trio.CancelScope()
        """Cut off where it does not."""
        self._host = host
        self._class = saga_class
        self._definition: SagaDefinition = saga_class.__eventsrc_saga__
        self._correlation_id = correlation_id
        self._lane = Lane()
        self._held: list[NewEvent] = []
        self._in_flight = 0
        self.first_settled = trio.Event()
        self._settled = trio.lowlevel.ParkingLot()
        self._failure: EventSourcingError | None = None

    async def run(self) -> None:
        """Go on until it rests. Raises `StoreError` or `JournalFailed` when its records cannot be stored."""
        history = self.history
        current_cause.set(Cause(self._correlation_id, self.stream))
        try:
            while not (history.is_ended or history.parked or self.is_stopping):
                if history.retry_at_ns is not None and self.now_ns < history.retry_at_ns:
                    break
                await self._go_on()
        except Suspended:
            pass
        except (StepGone, DecodingError) as error:
            # Stored by another version of the class: an operator decides.
            self.note(SagaParked(_text(error)))
        await self.stored()

    async def _go_on(self) -> None:
        """The next step forwards or backwards."""
        history, definition = self.history, self._definition
        await self._host.journal.room()
        is_older = history.definition_version < definition.version
        if is_older and definition.older_instances == "park":
            raise StepGone(
                f"It was begun by version {history.definition_version} of {self._class.__name__}, whose instances "
                f"version {definition.version} does not go on with (older_instances)."
            )
        if history.is_compensating:
            await self._undo_next()
            return
        if is_older and definition.older_instances == "compensate":
            self._fail_forward(StepGone(f"Version {definition.version} of {self._class.__name__} replaces it."))
            return
        if history.deadline_ns is not None and self.now_ns >= history.deadline_ns:
            self._fail_forward(DeadlinePassed("The saga was not done by its deadline."))
            return
        for name in (*history.done, history.scope):
            if name and name not in definition.steps:
                raise StepGone(f"{self._class.__name__} has no step {name!r} any more, which this saga has begun.")
        step = next((each for name, each in definition.steps.items() if name not in history.done), None)
        if step is None:
            self.note(SagaCompleted())
        else:
            await self._do(step)

    # --- forwards ---

    async def _do(self, step: StepDefinition) -> None:
        history = self.history
        self.took_effect = history.took_effect and history.scope == step.name
        if not history.is_under_way:
            attempt = history.attempt + 1 if history.scope == step.name else 1
            self.note(StepBegun(step.name, attempt))
        saga = self._host.saga_from(self._class, history.state)
        try:
            await self._call(step.method, saga, step.name, step)
            # Its place on the disk is before whatever comes next, which takes it along.
            self.hold(StepDone(step.name, self._state_after(saga)))
        except NOT_THE_STEPS_FAULT:
            raise
        except Exception as error:
            self._step_failed(step, saga, error)

    def _step_failed(self, step: StepDefinition, saga: Saga, error: Exception) -> None:
        history = self.history
        took_effect = self.took_effect or bool(getattr(error, "may_take_effect", False)) or self._left_traces()
        is_final = isinstance(error, Rejected | EncodingError | EventTooLarge | DefinitionError)
        retry_at_ns = None
        if history.attempt < step.retry.attempts and not is_final:
            retry_at_ns = self.now_ns + int(step.retry.wait_seconds(history.attempt) * 1e9)
        logger.warning(
            "a step failed: %s",
            _text(error),
            extra={"saga": self.stream, "step": step.name, "attempt": history.attempt},
        )
        failed = partial(StepFailed, step.name, history.attempt, _text(error), retry_at_ns, took_effect)
        try:
            self.note(failed(self._state_after(saga)))
        except (EncodingError, EventTooLarge, DefinitionError):
            self.note(failed(history.state))

    def _fail_forward(self, error: EventSourcingError) -> None:
        """Turn round before the next step, or out of one that waits."""
        history = self.history
        step = history.scope
        took_effect = bool(step) and (history.took_effect or self._left_traces())
        self.note(StepFailed(step, history.attempt, _text(error), None, took_effect, history.state))

    def _left_traces(self) -> bool:
        """Whether an attempt at this step that was cut off, with its process, had done something."""
        history = self.history
        if any(scope == history.scope for scope, _ in history.effects):
            return True
        return self._was_cut_off and self._host.has_calls(f"{self.stream}/{history.scope}/", history.begun_position)

    # --- backwards ---

    async def _undo_next(self) -> None:
        history = self.history
        for name in history.to_undo:
            step = self._definition.steps.get(name)
            if step is None:
                raise StepGone(f"{self._class.__name__} has no step {name!r} any more, which is to be compensated.")
            if step.undo is not None:
                await self._undo(step, step.undo)
                return
        self.note(SagaCompensated())

    async def _undo(self, step: StepDefinition, undo: StepMethod) -> None:
        history, name = self.history, step.name
        scope = UNDO + name
        if not (history.is_under_way and history.scope == scope):
            self.note(CompensationBegun(name, history.attempt + 1 if history.scope == scope else 1))
        saga = self._host.saga_from(self._class, history.state)
        try:
            await self._call(undo, saga, scope, step)
            self.hold(CompensationDone(name, self._state_after(saga)))
        except NOT_THE_STEPS_FAULT:
            raise
        except Exception as error:
            self._compensation_failed(step, error)

    def _compensation_failed(self, step: StepDefinition, error: Exception) -> None:
        attempt, retry = self.history.attempt, step.compensation_retry
        if attempt < retry.attempts:
            retry_at_ns = self.now_ns + int(retry.wait_seconds(attempt) * 1e9)
            self.note(CompensationFailed(step.name, attempt, _text(error), retry_at_ns))
            return
        logger.error("a compensation is parked: %s", _text(error), extra={"saga": self.stream, "step": step.name})
        self.note(
            CompensationFailed(step.name, attempt, _text(error), None),
            SagaParked(f"{step.compensation} of {step.name} failed {attempt} times: {_text(error)}"),
        )

    async def _call(self, method: StepMethod, saga: Saga, scope: str, step: StepDefinition) -> None:
        context = SagaContext(self, scope, self.history.attempt)
        seconds = step.timeout_seconds
        if self.history.deadline_ns is not None and not self.history.is_compensating:
            seconds = min(seconds, max(self.history.deadline_ns - self.now_ns, 0) / 1e9)
        with trio.move_on_after(seconds) as time:
            await method(saga, context)
            return
        if time.cancelled_caught:
            raise StepTimeout(scope, seconds)

    def _state_after(self, saga: Saga) -> dict[str, Any]:
        """Raises `EncodingError`, or `DefinitionError` for an attribute that would be lost."""
        undeclared = vars(saga).keys() - self._definition.fields
        if undeclared:
            name = min(undeclared)
            raise DefinitionError(
                f"A step set self.{name}, which is no field of {self._class.__name__}, so it would be lost. Declare "
                f"it: {name}: ... = ..."
            )
        return self._host.state_data(saga)

    # --- records ---

    @property
    def now_ns(self) -> int:
        return self._host.wall_clock()

    @property
    def looks_back(self) -> bool:
        return self.history.begun_position > 0

    def hold(self, record: Any) -> None:
        """Take in a record that goes to the disk along with the next."""
        self._held.append(self._host.encode(record, self._correlation_id, self.stream))
        self.history.apply(record)

    def note(self, *records: Any) -> None:
        """Take in records, and put them in line for the disk."""
        for record in records:
            self.hold(record)
        self._submit()

    def _submit(self) -> None:
        events, self._held = self._held, []
        if not events:
            return
        append = StreamAppend(self.stream, self.history.version - len(events), events)
        self._in_flight += 1
        self._host.journal.submit(Write((append,), (), len(events), self._lane, self._on_settled))

    def _on_settled(self, outcome: Appended | EventSourcingError) -> None:
        self._in_flight -= 1
        if isinstance(outcome, EventSourcingError):
            self._failure = self._failure or outcome
        self.first_settled.set()
        if not self._in_flight or self._failure is not None:
            self._settled.unpark_all()

    async def begun(self) -> None:
        """Wait until its first record is on disk. Raises what kept it from there."""
        await self.first_settled.wait()
        if self._failure is not None:
            raise self._failure

    async def stored(self) -> None:
        """Wait until everything is on disk. Raises what kept it from there."""
        self._submit()
        while self._in_flight and self._failure is None:
            await self._settled.park()
        if self._failure is not None:
            raise self._failure

    async def record(self, *events: Any) -> None:
        self.note(*events)
        await self.stored()

    def signal(self, signal: str, payload: Any) -> None:
        """Take in a signal while it runs."""
        self.note(Signalled(signal, payload))

    def check_signal(self, signal: str) -> None:
        if signal not in self._definition.signals:
            raise UnknownSignal(self._class, signal, self._definition.signals)

    # --- what contexts need besides ---

    async def send(
        self, commands: Sequence[tuple[type[Aggregate], str, object]], key: str, timeout: float | None
    ) -> list[Receipt]:
        return await self._host.send(commands, key, timeout, is_new=not self.looks_back and self.history.attempt == 1)

    async def state_of(self, aggregate_class: type[Any], aggregate_id: str) -> Any:
        return await self._host.state_of(aggregate_class, aggregate_id)

    def find_call(self, aggregate_class: type[Aggregate], aggregate_id: str, key: str) -> Receipt | None:
        return self._host.find_call(aggregate_class, aggregate_id, key, self.history.begun_position)

    def find_event(self, event_type: str, where: Mapping[str, Any], after: int) -> StoredEvent | None:
        return self._host.find_event(event_type, where, after)

    def decode(self, stored: StoredEvent) -> Any:
        return self._host.decode(stored)

    def position(self) -> int:
        return self._host.position()


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS_MAX]
