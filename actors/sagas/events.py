"""The records of a saga's own stream: what the saga did, when, and how it went. The kind of each is `saga_step`.

`scope` is the name of a step, or `undo:` and the name of the step that is compensated; `call` names one effect or wait
within the scope.
"""

from typing import Any, Final

import attrs

from ..messages import saga_record


@saga_record("saga.started")
class SagaStarted:
    """A saga begins with this state. `cause` is the event that started the saga, as `stream@version`.

    The saga's waits look for events after the position `after`: the position of that event, or the log's end at the
    start.
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

    If an earlier run may have begun the attempt without a record of it, what that run did is after the position
    `after`.
    """

    step: str
    attempt: int
    after: int = 0


@saga_record("saga.step_done")
class StepDone:
    """A step returned; `state` is the state after it."""

    step: str
    state: dict[str, Any]


@saga_record("saga.step_failed")
class StepFailed:
    """An attempt failed: it is retried at `retry_at_ns`, or, if that is None, everything done is compensated.

    `took_effect` tells whether one of the attempt's calls took effect or may have.
    """

    step: str
    attempt: int
    error: str
    retry_at_ns: int | None
    took_effect: bool
    state: dict[str, Any]


@saga_record("saga.effect_begun")
class EffectBegun:
    """An outside effect is about to be tried."""

    scope: str
    call: str


@saga_record("saga.effect_done")
class EffectDone:
    """The effect took place, with this result."""

    scope: str
    call: str
    result: Any


@saga_record("saga.effect_failed")
class EffectFailed:
    """The effect's function raised."""

    scope: str
    call: str
    error: str


@saga_record("saga.wait_begun")
class WaitBegun:
    """A step waits: for a time, for an event after the position `after`, or for a signal.

    `took_effect` tells whether one of the step's earlier calls took effect. `event_version` is the schema version of
    the event that the values in `where` are for.
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
    """The wait is over: its time has come, its event or signal is there, or it timed out."""

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
    """An attempt at compensating a step, counted from 1; `after` as in `StepBegun`."""

    step: str
    attempt: int
    after: int = 0


@saga_record("saga.compensation_done")
class CompensationDone:
    """A step is compensated; `state` is the state after it."""

    step: str
    state: dict[str, Any]


@saga_record("saga.compensation_failed")
class CompensationFailed:
    """An attempt at a compensation failed: it is retried at `retry_at_ns`, or, if that is None, the saga is parked."""

    step: str
    attempt: int
    error: str
    retry_at_ns: int | None


@saga_record("saga.compensation_skipped")
class CompensationSkipped:
    """An operator decided that a step need not be compensated."""

    step: str
    reason: str


@saga_record("saga.parked")
class SagaParked:
    """The saga stands still until an operator decides: retry, skip or abandon."""

    error: str


@saga_record("saga.resumed")
class SagaResumed:
    """An operator ordered a retry."""

    reason: str


@saga_record("saga.remade")
class SagaRemade:
    """A retry made the starting event into a saga with this state, after an earlier attempt had failed."""

    state: dict[str, Any]


@saga_record("saga.completed")
class SagaCompleted:
    """Every step is done."""


@saga_record("saga.compensated")
class SagaCompensated:
    """Every step that was done is compensated."""


@saga_record("saga.abandoned")
class SagaAbandoned:
    """An operator gave the saga up."""

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
