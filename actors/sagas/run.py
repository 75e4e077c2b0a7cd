"""One run of one saga: from the point that its history has reached, until the saga ends, waits, or is parked.

Records go to the journal in order. The run waits only for records that must be on disk before something outside is
touched: a log that lost its newest records has also lost the commands that came after them.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from itertools import product
from typing import Any, Final, NoReturn

import trio

from ...storage.commit import Appended, NewEvent, StreamAppend
from ...storage.errors import EventSourcingError, EventTooLarge
from ...storage.record import NS_PER_SECOND, StoredEvent
from ..aggregates.receipt import Receipt
from ..aggregates.request import Cause, current_cause
from ..errors import DecodingError, DefinitionError, EncodingError
from ..journal.journal import CommitSeries, Write
from .context import SagaContext
from .errors import (
    DeadlinePassed,
    StepGone,
    StepsChanged,
    StepTimeout,
    Suspended,
    UnknownSignal,
    WaitInOtherTask,
)
from .events import (
    CompensationBegun,
    CompensationDone,
    CompensationFailed,
    EffectDone,
    EffectFailed,
    SagaCompensated,
    SagaCompleted,
    SagaParked,
    Signalled,
    StepBegun,
    StepDone,
    StepFailed,
    WaitOver,
)
from .failure import ERROR_CHARACTERS_MIN, NOT_THE_STEPS_FAULT, is_final, out_of, text_of
from .history import UNDO, SagaHistory
from .host import Commands, SagaHost
from .saga import Saga, SagaDefinition, StepDefinition, StepMethod

TOO_LATE: Final = "The saga was not done by its deadline."
logger = logging.getLogger("eventsrc.saga")


class SagaRun:
    """Runs a saga; implements `StepRun`, which the contexts of its steps need."""

    def __init__(
        self, host: SagaHost, saga_class: type[Saga], stream: str, history: SagaHistory, correlation_id: str
    ) -> None:
        self.host = host
        self.stream = stream
        self.history = history
        self.took_effect = False
        self.uncertain: dict[str, Commands] = {}
        self.outcomes: dict[tuple[str, str], EffectDone | EffectFailed] = {}
        """Outcomes of effects that could not be stored; the next run gets them from this one."""
        self.looked_until = 0
        self.is_stopping = False
        """Whether the run is to come to rest after the step under way."""
        self.scope = trio.CancelScope()
        """Cancelled if the run does not come to rest in time."""
        self.on_begun: Callable[[SagaRun, EventSourcingError | None], None] | None = None
        """Called when the run's first record is on disk, or with the error that refused it."""
        self._class = saga_class
        self._definition: SagaDefinition = saga_class.__eventsrc_saga__
        self._correlation_id = correlation_id
        self._series = CommitSeries()
        self._held: list[NewEvent] = []
        self._in_flight = 0
        self._has_begun = False
        """Whether the first record is on disk, or was refused."""
        self._settled = trio.lowlevel.ParkingLot()
        self._failure: EventSourcingError | None = None
        self._is_new = not history.version
        # If an earlier run was cut off, or its records were refused: its unrecorded work is after this position.
        self._lost_after = 0 if history.is_at_rest else history.last_position
        self._loaded_position = host.store.last_position
        self._first_position = history.last_position
        self._steps = tuple(self._definition.steps.values())
        self._has_checked_steps = self._is_new
        self._is_suspended = False
        self._turned_by: EventSourcingError | None = None
        """Why the saga turns round during the step that is run."""
        self._task: trio.lowlevel.Task | None = None

    async def run(self) -> None:
        """Run until the saga rests. Raises `StoreError` or `JournalFailed` if its records cannot be stored."""
        history = self.history
        current_cause.set(Cause(self._correlation_id, self.stream))
        try:
            while not (history.is_ended or history.parked or self.is_stopping):
                if history.retry_at_ns is not None and self.now_ns < (history.wake_ns or 0):
                    break
                self._check_records()
                if self.host.journal.is_full:
                    await self.host.journal.until_room()
                move = self._next_move()
                if move is not None:
                    await move
        except Suspended:
            pass
        except (StepGone, StepsChanged, DecodingError) as error:
            # Another version of the class stored the records: an operator decides.
            self.note(SagaParked(text_of(error)))
        await self.stored()

    def _next_move(self) -> Awaitable[None] | None:
        """The next step forwards or backwards; None if none is left, which is recorded."""
        history, definition = self.history, self._definition
        is_older = history.definition_version < definition.version
        if is_older and definition.older_instances == "park":
            raise StepGone(
                f"It was begun by version {history.definition_version} of {self._class.__name__}, whose instances "
                f"version {definition.version} does not go on with (older_instances)."
            )
        if history.is_compensating:
            return self._undo_next()
        if is_older and definition.older_instances == "compensate":
            replaced = StepGone(f"Version {definition.version} of {self._class.__name__} replaces it.")
            return self._turn_round(replaced)
        # The steps that are done are the first ones.
        is_done = len(history.done) >= len(self._steps)
        if not is_done and history.deadline_ns is not None and self.now_ns >= history.deadline_ns:
            return self._turn_round(DeadlinePassed(TOO_LATE))
        if not self._has_checked_steps:
            history.check_steps(self._class, list(definition.steps))
            self._has_checked_steps = True
        if not is_done:
            return self._do(self._steps[len(history.done)])
        self.note(SagaCompleted())
        return None

    @property
    def undoing(self) -> str | None:
        """The step whose compensation is under way, or at which the saga was parked."""
        if not self.history.is_compensating:
            return None
        steps = self._definition.steps
        # A step that the class no longer has may have had a compensation.
        return next((name for name in self.history.to_undo if name not in steps or steps[name].undo is not None), None)

    # --- forwards ---

    async def _do(self, step: StepDefinition) -> None:
        history = self.history
        self.took_effect = history.took_effect and history.scope == step.name
        if not (history.is_under_way and history.attempt):
            attempt = history.attempt + 1 if history.scope == step.name else 1
            self.note(StepBegun(step.name, attempt, self._lost_after))
        if self._is_new:
            # Do nothing for a saga that might never have been started.
            await self._begun()
            self._is_new = False
        saga = self.host.codec.decode_state(self._class, history.state)
        try:
            await self._call(step.method, saga, step.name, step)
            # Not waited for: the record is stored together with the next one, and before it.
            self.hold(StepDone(step.name, self._state_after(saga)))
        except NOT_THE_STEPS_FAULT:
            raise
        except Exception as error:
            self._check_records()
            await self._step_failed(step, saga, self._turned_by or error)

    async def _step_failed(self, step: StepDefinition, saga: Saga, error: Exception) -> None:
        history = self.history
        took_effect = self.took_effect or await self._left_traces()
        retry_at_ns = None
        if history.attempt < step.retry.attempts and not is_final(error):
            retry_at_ns = self.now_ns + int(step.retry.wait_seconds(history.attempt) * NS_PER_SECOND)
        logger.warning(
            "step %s of %s failed: %s",
            step.name,
            self.stream,
            text_of(error),
            extra={"saga": self.stream, "step": step.name, "attempt": history.attempt},
        )
        states = [history.after_attempts(history.state), history.state]
        with suppress(EncodingError, DefinitionError):
            states.insert(0, history.after_attempts(self._state_after(saga)))
        self._note_failed(error, retry_at_ns, took_effect, states)

    def _note_failed(
        self, error: Exception, retry_at_ns: int | None, took_effect: bool, states: Iterable[dict[str, Any]]
    ) -> None:
        """Record a failed attempt, with the first of the states for which there is room, and the error's text."""
        history, text = self.history, text_of(error)
        for state, shown in product(states, (text, text[:ERROR_CHARACTERS_MIN])):
            try:
                self.note(StepFailed(history.scope, history.attempt, shown, retry_at_ns, took_effect, state))
                return
            except (EncodingError, EventTooLarge) as refused:
                refusal = refused
        raise refusal

    def _turn_round(self, error: EventSourcingError) -> Awaitable[None]:
        """Turn round before the next step, or out of a step that waits or was cut off."""
        step = self._definition.steps.get(self.history.scope)
        if step is None or not self.history.is_under_way:
            return self._fail_forward(error)
        return self._recall(step, error)

    async def _recall(self, step: StepDefinition, error: EventSourcingError) -> None:
        """Run a step once more up to where it was: its compensation needs what the step has put into the state."""
        self._turned_by = error
        try:
            await self._do(step)
        finally:
            self._turned_by = None

    async def _fail_forward(self, error: EventSourcingError) -> None:
        history = self.history
        step = history.scope
        took_effect = bool(step) and (history.took_effect or await self._left_traces())
        self._note_failed(error, None, took_effect, [history.failed_state or history.state, history.state])

    async def _left_traces(self) -> bool:
        """Whether the step has, or may have, done something that the present run does not know of.

        An attempt may have been cut off, with its process or by its timeout.
        """
        history = self.history
        if any(scope == history.scope for scope, _ in history.effects):
            return True
        for key, commands in self.uncertain.items():
            if await self.host.calls.took_effect(commands, key, history.begun_position or self._first_position):
                return True
        prefix = f"{self.stream}/{history.scope}/"
        if not self._lost_after:
            return False
        return await self.host.calls.has_calls(prefix, history.unknown_after, self._loaded_position)

    # --- backwards ---

    def _undo_next(self) -> Awaitable[None] | None:
        history = self.history
        for name in history.to_undo:
            step = self._definition.steps.get(name)
            if step is None:
                raise StepGone(
                    f"{self._class.__name__} has no step {name!r} any more, which is to be compensated. Put it back "
                    "and retry the saga, or undo it by hand and skip it."
                )
            if step.undo is not None:
                return self._undo(step, step.undo)
        self.note(SagaCompensated())
        return None

    async def _undo(self, step: StepDefinition, undo: StepMethod) -> None:
        history, name = self.history, step.name
        scope = UNDO + name
        if not (history.is_under_way and history.scope == scope and history.attempt):
            attempt = history.attempt + 1 if history.scope == scope else 1
            self.note(CompensationBegun(name, attempt, self._lost_after))
        saga = self.host.codec.decode_state(self._class, history.state)
        try:
            await self._call(undo, saga, scope, step)
            self.hold(CompensationDone(name, self._state_after(saga)))
        except NOT_THE_STEPS_FAULT:
            raise
        except Exception as error:
            self._check_records()
            self._compensation_failed(step, error)

    def _compensation_failed(self, step: StepDefinition, error: Exception) -> None:
        attempt, retry = self.history.attempt, step.compensation_retry
        if attempt < retry.attempts:
            retry_at_ns = self.now_ns + int(retry.wait_seconds(attempt) * NS_PER_SECOND)
            self.note(CompensationFailed(step.name, attempt, text_of(error), retry_at_ns))
            return
        facts = {"saga": self.stream, "step": step.name}
        logger.error("%s is parked at step %s: %s", self.stream, step.name, text_of(error), extra=facts)
        self.note(
            CompensationFailed(step.name, attempt, text_of(error), None),
            SagaParked(f"{step.compensation} of {step.name} failed {attempt} times: {text_of(error)}"),
        )

    async def _call(self, method: StepMethod, saga: Saga, scope: str, step: StepDefinition) -> None:
        context = SagaContext(self, scope, self.history.attempt)
        seconds = step.timeout_seconds
        if self.history.deadline_ns is not None and not (self.history.is_compensating or self._turned_by):
            seconds = min(seconds, max(self.history.deadline_ns - self.now_ns, 0) / NS_PER_SECOND)
        self.uncertain = {}
        self._is_suspended = False
        self._task = trio.lowlevel.current_task()
        try:
            with trio.move_on_after(seconds) as time:
                await method(saga, context)
        except BaseExceptionGroup as group:
            raise out_of(group) from group
        except trio.Cancelled:
            if trio.current_effective_deadline() > -math.inf:
                raise RuntimeError(f"{scope} raised the trio.Cancelled of a cancel scope that is over") from None
            raise
        if self._is_suspended:
            # The step caught `Suspended` with `except BaseException`: it is run again all the same.
            raise Suspended
        if time.cancelled_caught:
            raise DeadlinePassed(TOO_LATE) if seconds < step.timeout_seconds else StepTimeout(scope, seconds)

    def _state_after(self, saga: Saga) -> dict[str, Any]:
        """The state after a step. Raises `EncodingError`, or `DefinitionError` for an attribute that would be lost."""
        undeclared = vars(saga).keys() - self._definition.fields
        if undeclared:
            name = min(undeclared)
            raise DefinitionError(
                f"A step set self.{name}, which is no field of {self._class.__name__}, so it would be lost. Declare "
                f"it: {name}: ... = ..."
            )
        return self.host.codec.encode_state(saga)

    # --- records ---

    @property
    def now_ns(self) -> int:
        return self.host.wall_clock()

    def hold(self, record: Any, encoded: NewEvent | None = None) -> None:
        """Apply a record, which may be encoded already, and keep it to be stored along with the next."""
        self._held.append(encoded or self.host.codec.encode(record, self._correlation_id, self.stream))
        self.history.apply(record)

    def note(self, *records: Any) -> None:
        """Apply records, and queue them for the disk."""
        for record in records:
            self.hold(record)
        self._submit()

    def _submit(self) -> None:
        events, self._held = self._held, []
        if not events:
            return
        append = StreamAppend(self.stream, self.history.version - len(events), events)
        self._in_flight += 1
        write = Write((append,), (), len(events), answer_count=1, series=self._series, settle=self._on_settled)
        self.host.journal.submit(write)

    def _on_settled(self, outcome: Appended | EventSourcingError) -> None:
        self._in_flight -= 1
        if isinstance(outcome, EventSourcingError):
            self._failure = self._failure or outcome
        elif not self._has_begun:
            self._first_position = outcome.first_position
        is_first, self._has_begun = not self._has_begun, True
        if self._settled and (is_first or not self._in_flight or self._failure is not None):
            self._settled.unpark_all()
        if is_first and self.on_begun is not None:
            self.on_begun(self, self._failure)

    async def _begun(self) -> None:
        """Wait until the first record is on disk. Raises the error that refused it."""
        while not self._has_begun:
            await self._settled.park()
        self._check_records()

    async def stored(self) -> None:
        """Wait until every record is on disk. Raises the error that refused one."""
        self._submit()
        while self._in_flight and self._failure is None:
            await self._settled.park()
        self._check_records()

    @property
    def is_stored(self) -> bool:
        """Whether every record of the run is on disk."""
        return not (self._held or self._in_flight or self._failure)

    @property
    def is_unwritten(self) -> bool:
        """Whether no record of the saga is on disk or queued for it."""
        return not (self._first_position or self._has_begun or self._in_flight)

    @property
    def was_started(self) -> bool:
        """Whether the saga's first record is on disk."""
        return self._first_position > 0

    def _check_records(self) -> None:
        """Raise if a record was refused: anything done now would be unknown later."""
        if self._failure is not None:
            raise self._failure

    async def record(self, *events: Any) -> None:
        self.note(*events)
        await self.stored()

    async def record_outcome(self, outcome: EffectDone | EffectFailed) -> None:
        effect = outcome.scope, outcome.call
        self.note(outcome)
        # Keep the outcome until it is on disk: if the disk is full, nobody else knows that a payment was made.
        self.outcomes[effect] = outcome
        await self.stored()
        del self.outcomes[effect]

    def signal(self, signal: str, payload: Any) -> None:
        """Record a signal that comes while the saga runs."""
        self.note(Signalled(signal, payload))

    def check_signal(self, signal: str) -> None:
        if signal not in self._definition.signals:
            raise UnknownSignal(self._class, signal, self._definition.signals)

    # --- what else contexts need ---

    def send(self, commands: Commands, key: str, timeout: float | None) -> Awaitable[list[Receipt]]:
        self._check_records()
        is_new = not self.history.begun_position and self.history.attempt == 1
        # A log without the records of the step must not have its commands: the next run would send them anew.
        return self.host.calls.send(commands, key, timeout, is_new=is_new, follows=self._series)

    async def find_call(self, commands: Commands, key: str) -> list[Receipt] | None:
        history = self.history
        if not history.begun_position and history.attempt == 1:
            return None
        return await self.host.calls.find(commands, key, history.begun_position or self._first_position)

    async def find_event(self, event_type: str, where: Mapping[str, Any], after: int) -> StoredEvent | None:
        seen = {over.position for over in self.history.waits.values() if isinstance(over, WaitOver)}
        until = self.host.store.last_position
        self.looked_until = until
        return await self.host.calls.find_event(event_type, where, after, until, seen)

    def is_in_other_task(self) -> bool:
        return trio.lowlevel.current_task() is not self._task

    def begin_wait(self, call: str) -> None:
        if self.is_in_other_task():
            raise WaitInOtherTask(call)

    def check_turned(self) -> None:
        if self._turned_by is not None:
            raise self._turned_by

    def suspend(self) -> NoReturn:
        self.check_turned()
        self._is_suspended = True
        raise Suspended
