"""The history of a saga: its stored records, folded. Knows nothing of how a saga is run."""

from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

import attrs

from .errors import PUT_STEPS_BACK, StepGone, StepsChanged
from .events import (
    CompensationBegun,
    CompensationDone,
    CompensationFailed,
    CompensationSkipped,
    EffectBegun,
    EffectDone,
    EffectFailed,
    SagaAbandoned,
    SagaCompensated,
    SagaCompleted,
    SagaParked,
    SagaRemade,
    SagaResumed,
    SagaStarted,
    Signalled,
    StepBegun,
    StepDone,
    StepFailed,
    WaitBegun,
    WaitOver,
)

SagaState: TypeAlias = Literal["running", "waiting", "compensating", "parked", "completed", "compensated", "abandoned"]
SAGA_STATES: Final[tuple[SagaState, ...]] = get_args(SagaState)
UNDO: Final = "undo:"
"""The prefix of a compensation's scope."""


@attrs.define
class SagaHistory:
    """The history of one saga, folded from its stream."""

    saga: str = ""
    key: str = ""
    definition_version: int = 1
    state: dict[str, Any] = attrs.field(factory=dict)
    version: int = 0
    """The version of the saga's stream."""
    deadline_ns: int | None = None
    waits_after: int = 0
    """The saga's waits look for events after this position."""
    cause: str = ""
    """The event that started the saga, as `stream@version`."""
    done: list[str] = attrs.field(factory=list)
    """The steps that returned, in order."""
    undone: list[str] = attrs.field(factory=list)
    """The steps that were compensated, or whose compensation was skipped."""
    is_compensating: bool = False
    parked: str = ""
    """Why the saga is parked."""
    ending: str = ""
    """How the saga ended."""
    scope: str = ""
    """The step or compensation under way."""
    attempt: int = 0
    is_under_way: bool = False
    """Whether the newest attempt has neither returned nor failed."""
    begun_position: int = 0
    """The scope's work is stored after this position; 0 if the present run began the scope, which learns no
    position."""
    unknown_after: int = 0
    """After this position, the newest attempt may have sent commands that no record tells of."""
    last_position: int = 0
    """The position of the newest record of the saga's runs, as far as known."""
    took_effect: bool = False
    """Whether an attempt at the step under way that did not return may have taken effect."""
    failed_step: str = ""
    failed_state: dict[str, Any] | None = None
    """The state as failed attempts at the step under way have left it; None if none has failed."""
    retry_at_ns: int | None = None
    error: str = ""
    effects: dict[tuple[str, str], EffectBegun | EffectDone | EffectFailed] = attrs.field(factory=dict)
    waits: dict[tuple[str, str], WaitBegun | WaitOver] = attrs.field(factory=dict)
    waiting: WaitBegun | None = None
    signals: dict[str, Any] = attrs.field(factory=dict)

    @property
    def is_ended(self) -> bool:
        """Whether the saga has ended."""
        return bool(self.ending)

    @property
    def is_unmade(self) -> bool:
        """Whether the event that started the saga could not be made into a saga."""
        return bool(self.cause and self.parked and not self.state and not self.done and not self.scope)

    @property
    def is_at_rest(self) -> bool:
        """Whether the last run ended in order: everything it began is recorded."""
        return bool(self.ending or self.parked or self.waiting is not None or self.retry_at_ns is not None)

    @property
    def status(self) -> SagaState:
        """The state of the saga."""
        if self.ending:
            return self.ending  # type: ignore[return-value]
        if self.parked:
            return "parked"
        if self.waiting is not None:
            return "waiting"
        return "compensating" if self.is_compensating else "running"

    @property
    def to_undo(self) -> list[str]:
        """The steps to be compensated, the last one first: those done, and the failed one if it took effect."""
        begun = [*self.done, self.failed_step] if self.failed_step and self.took_effect else self.done
        return [name for name in reversed(begun) if name not in self.undone]

    @property
    def wake_ns(self) -> int | None:
        """When the saga goes on by itself, in UTC nanoseconds: at the end of a wait or back-off, or at its deadline."""
        if self.parked or self.ending:
            return None
        times = [self.retry_at_ns, None if self.waiting is None else self.waiting.until_ns]
        if not self.is_compensating:
            times.append(self.deadline_ns)
        return min((time for time in times if time is not None), default=None)

    def apply(self, event: Any, position: int = 0) -> None:
        """Apply the next record of the saga's stream."""
        self.version += 1
        if position and not isinstance(event, Signalled):
            self.last_position = position
        match event:
            case SagaStarted():
                self.saga, self.key, self.definition_version = event.saga, event.key, event.version
                self.state, self.deadline_ns, self.waits_after = event.state, event.deadline_ns, event.after
                self.cause = event.cause
            case StepBegun(step, attempt, after):
                self._begin(step, attempt, after or position)
            case CompensationBegun(step, attempt, after):
                self._begin(UNDO + step, attempt, after or position)
            case StepDone(step, state):
                self.done.append(step)
                self._leave(state)
            case StepFailed():
                self.took_effect = self.took_effect or event.took_effect
                self._fail(event.error, event.retry_at_ns)
                self.failed_state = event.state
                if event.retry_at_ns is None:
                    self.is_compensating, self.failed_step, self.state = True, event.step, event.state
                    self.attempt, self.scope = 0, ""
            case CompensationDone(step, state):
                self.undone.append(step)
                self._leave(state)
            case CompensationFailed():
                self._fail(event.error, event.retry_at_ns)
            case CompensationSkipped(step, _):
                self.undone.append(step)
                self._leave(self.state)
                self.parked = ""
            case EffectBegun(scope, call) | EffectDone(scope, call, _) | EffectFailed(scope, call, _):
                self.effects[scope, call] = event
            case WaitBegun(scope, call):
                self.took_effect = self.took_effect or event.took_effect
                self.waits[scope, call] = self.waiting = event
                self.unknown_after = position or self.unknown_after
            case WaitOver(scope, call):
                self.waits[scope, call] = event
                self.waiting = None
                self.unknown_after = position or self.unknown_after
            case Signalled(signal, payload):
                self.signals.setdefault(signal, payload)
            case SagaParked(error):
                self.parked = self.error = error
            case SagaResumed():
                self.parked, self.attempt, self.retry_at_ns = "", 0, None
            case SagaRemade(state):
                self.state, self.parked = state, ""
            case SagaCompleted():
                self.ending, self.error = "completed", ""
            case SagaCompensated():
                self.ending = "compensated"
            case SagaAbandoned():
                self.ending, self.parked = "abandoned", ""
            case _:
                raise TypeError(f"{type(event).__name__} is no record of a saga")

    def after_attempts(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state after an attempt, with fields that only earlier attempts have set: a compensation needs both."""
        before, earlier = self.state, self.failed_state or {}
        return {name: earlier.get(name, value) if value == before.get(name) else value for name, value in state.items()}

    def check_steps(self, saga_class: type, names: Sequence[str]) -> None:
        """Check that the saga has begun the first steps of the class: else it would go on with the wrong step.

        Raises `StepGone`, `StepsChanged`.
        """
        begun = [*self.done, self.scope] if self.scope else self.done
        for name in begun:
            if name not in names:
                raise StepGone(
                    f"{saga_class.__name__} has no step {name!r} any more, which this saga has begun. {PUT_STEPS_BACK}"
                )
        first = list(names[: len(begun)])
        if begun != first:
            raise StepsChanged(saga_class, begun, first)

    def _begin(self, scope: str, attempt: int, position: int) -> None:
        if scope != self.scope:
            self.scope, self.begun_position, self.failed_state = scope, position, None
            if not scope.startswith(UNDO):
                self.took_effect = False
        self.unknown_after = position
        self.attempt, self.is_under_way = attempt, True
        self.retry_at_ns, self.waiting = None, None

    def _leave(self, state: dict[str, Any]) -> None:
        self.state, self.is_under_way, self.waiting, self.retry_at_ns = state, False, None, None
        self.attempt = 0
        self.scope, self.failed_state = "", None

    def _fail(self, error: str, retry_at_ns: int | None) -> None:
        self.error, self.retry_at_ns = error, retry_at_ns
        self.is_under_way, self.waiting = False, None
