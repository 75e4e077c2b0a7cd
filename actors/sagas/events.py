"""What a saga's own stream holds: what it did, when, and how it went. The kind of each is `saga_step`.

`scope` is the name of a step, or `undo:` and the name of the step that is compensated; `call` names one effect or wait
within it.
"""

from typing import Any, Final

import attrs

from ..messages import saga_record


@saga_record("saga.started")
class SagaStarted:
    """A saga begins with this state. `cause` is the event that started it, as `stream@version`.

    Its waits look for events after the position `after`: that event's, or the end of the log when it was started.
    """

    saga: str
    key: str
    version: int
    state: dict[str, Any]
    deadline_ns: int | None = None
    cause: str = ""
    after: int = 0


@saga_record("saga.step_begun")
class StepBegun:
    """An attempt at a step, counted from 1.

    Where an earlier run may have begun it, and no record tells of that, what it did is after the position `after`.
    """

    step: str
    attempt: int
    after: int = 0


@saga_record("saga.step_done")
class StepDone:
    """A step returned; the state after it."""

    step: str
    state: dict[str, Any]


@saga_record("saga.step_failed")
class StepFailed:
    """An attempt failed: it is tried again at `retry_at_ns`, or, without that, everything done is compensated.

    `took_effect` tells whether one of its calls did or may have taken effect.
    """

    step: str
    attempt: int
    error: str
    retry_at_ns: int | None
    took_effect: bool
    state: dict[str, Any]


@saga_record("saga.effect_begun")
class EffectBegun:
    """An effect outside is about to be tried."""

    scope: str
    call: str


@saga_record("saga.effect_done")
class EffectDone:
    """It took place, with this result."""

    scope: str
    call: str
    result: Any


@saga_record("saga.effect_failed")
class EffectFailed:
    """It raised."""

    scope: str
    call: str
    error: str


@saga_record("saga.wait_begun")
class WaitBegun:
    """A step waits: for a time, for an event after the position `after`, or for a signal.

    `took_effect` tells whether one of the step's calls before it did, `event_version` for which version of the event's
    schema the values in `where` are.
    """

    scope: str
    call: str
    until_ns: int | None = None
    event_type: str = ""
    where: dict[str, Any] = attrs.field(factory=dict)
    after: int = 0
    signal: str = ""
    took_effect: bool = False
    event_version: int = 1


@saga_record("saga.wait_over")
class WaitOver:
    """The time has come, the event or the signal is there, or it was waited for too long."""

    scope: str
    call: str
    position: int = 0
    is_timeout: bool = False


@saga_record("saga.signalled")
class Signalled:
    """Somebody sent a signal."""

    signal: str
    payload: Any = None


@saga_record("saga.compensation_begun")
class CompensationBegun:
    """An attempt at undoing a step, counted from 1; `after` as in `StepBegun`."""

    step: str
    attempt: int
    after: int = 0


@saga_record("saga.compensation_done")
class CompensationDone:
    """A step is undone; the state after it."""

    step: str
    state: dict[str, Any]


@saga_record("saga.compensation_failed")
class CompensationFailed:
    """An attempt at undoing failed; it is tried again at `retry_at_ns`, or, without that, parked."""

    step: str
    attempt: int
    error: str
    retry_at_ns: int | None


@saga_record("saga.compensation_skipped")
class CompensationSkipped:
    """An operator decided that a step need not be undone."""

    step: str
    reason: str


@saga_record("saga.parked")
class SagaParked:
    """It stands still until an operator decides: retry, skip or abandon."""

    error: str


@saga_record("saga.resumed")
class SagaResumed:
    """An operator had it try again."""

    reason: str


@saga_record("saga.remade")
class SagaRemade:
    """An event that could not be made into a saga before was made into this one, in this state."""

    state: dict[str, Any]


@saga_record("saga.completed")
class SagaCompleted:
    """Every step is done."""


@saga_record("saga.compensated")
class SagaCompensated:
    """Everything that was done is undone."""


@saga_record("saga.abandoned")
class SagaAbandoned:
    """An operator gave it up."""

    reason: str


SAGA_EVENTS: Final = (
    SagaStarted,
    StepBegun,
    StepDone,
    StepFailed,
    EffectBegun,
    EffectDone,
    EffectFailed,
    WaitBegun,
    WaitOver,
    Signalled,
    CompensationBegun,
    CompensationDone,
    CompensationFailed,
    CompensationSkipped,
    SagaParked,
    SagaResumed,
    SagaRemade,
    SagaCompleted,
    SagaCompensated,
    SagaAbandoned,
)
