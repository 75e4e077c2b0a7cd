"""The errors of sagas."""

from collections.abc import Sequence
from typing import ClassVar, Final

import trio

from ...storage.errors import EventSourcingError

PUT_STEPS_BACK: Final = (
    "Put the steps back and retry the saga, or abandon it; a new version of the class may say older_instances=..."
)


class UnknownSaga(EventSourcingError):
    """The runtime was opened without this saga class, or no saga was started with this key."""

    code: ClassVar[str] = "unknown_saga"


class UnknownSignal(EventSourcingError):
    """The saga's class declares no signal of this name."""

    code: ClassVar[str] = "unknown_signal"

    def __init__(self, saga: type, signal: str, known: Sequence[str]) -> None:
        super().__init__(
            f"{saga.__name__} has no signal {signal!r}; it has {', '.join(known) or 'none'}. "
            f'Declare it: class {saga.__name__}(Saga, signals=["{signal}"]).'
        )
        self.signal = signal
        self.saga = saga
        self.known = known


class SagaEnded(EventSourcingError):
    """The saga has ended, so it takes no more signals or orders."""

    code: ClassVar[str] = "saga_ended"

    def __init__(self, saga_id: str, state: str) -> None:
        super().__init__(f"The saga {saga_id!r} is {state}: what was asked of it comes too late.")
        self.saga_id = saga_id
        self.state = state


class SagaNotParked(EventSourcingError):
    """Only a parked saga waits for an operator's decision, and this one is not parked."""

    code: ClassVar[str] = "saga_not_parked"

    def __init__(self, saga_id: str, state: str) -> None:
        super().__init__(f"The saga {saga_id!r} is {state}, not parked: there is nothing to decide.")
        self.saga_id = saga_id
        self.state = state


class NothingToSkip(EventSourcingError):
    """The saga is parked at a step, not at a compensation: a step that was skipped would leave the saga incomplete."""

    code: ClassVar[str] = "nothing_to_skip"

    def __init__(self, saga_id: str, error: str) -> None:
        super().__init__(
            f"The saga {saga_id!r} is parked, but not at a compensation that could be skipped: retry it when "
            f"that is repaired, or abandon it. {error}"
        )
        self.saga_id = saga_id
        self.error = error


class DeadlinePassed(EventSourcingError):
    """A saga's deadline passed before the saga was started, or before it was done; the saga is then compensated."""

    code: ClassVar[str] = "deadline_passed"


class StepTimeout(EventSourcingError):
    """A step or a compensation did not return within its `timeout_seconds`."""

    code: ClassVar[str] = "step_timeout"

    def __init__(self, step: str, timeout_seconds: float) -> None:
        super().__init__(
            f"{step} did not return in {timeout_seconds:g} seconds. Give it more, @step(timeout_seconds=...), or have "
            "it wait through ctx, which does not count."
        )
        self.step = step
        self.timeout_seconds = timeout_seconds


class WaitTimeout(EventSourcingError):
    """The event or signal that a step waited for did not come in time."""

    code: ClassVar[str] = "wait_timeout"

    def __init__(self, what: str, timeout_seconds: float) -> None:
        super().__init__(
            f"{what} did not come in {timeout_seconds:g} seconds. Where the saga has another way to go on, catch "
            "WaitTimeout in the step."
        )
        self.what = what
        self.timeout_seconds = timeout_seconds


class WaitInvalid(EventSourcingError, ValueError):
    """The time or timeout of a step's wait cannot be stored. The step waits for nothing."""

    code: ClassVar[str] = "wait_invalid"

    def __init__(self, argument: str, value: object, seconds_max: float) -> None:
        super().__init__(
            f"{argument}={value!r:.100} is no time that a step can wait: give a number, {seconds_max:g} seconds in all "
            "at most."
        )
        self.argument = argument
        self.value = value
        self.seconds_max = seconds_max


class SagaTimeout(EventSourcingError, trio.TooSlowError):
    """A saga neither ended nor was parked within the time of the caller's wait. The saga goes on."""

    code: ClassVar[str] = "saga_timeout"

    def __init__(self, saga_id: str, state: str, step: str, timeout_seconds: float) -> None:
        where = f"{state} at {step}" if step else state
        super().__init__(
            f"The saga {saga_id!r} is {where}: it has neither ended nor been parked in {timeout_seconds:g} seconds. It "
            "goes on; wait for it again, or see in status() what it waits for."
        )
        self.saga_id = saga_id
        self.state = state
        self.step = step
        self.timeout_seconds = timeout_seconds


class EffectUncertain(EventSourcingError):
    """An effect was begun, and nobody knows whether it took place: the process ended, or the step timed out.

    Find out in the step (`except EffectUncertain:`), or declare the effect idempotent, so that it is tried again.
    """

    code: ClassVar[str] = "effect_uncertain"

    def __init__(self, effect: str, idempotency_key: str) -> None:
        super().__init__(
            f"The effect {effect!r} was begun with the key {idempotency_key!r}; whether it took place is not known. "
            "Ask the outside system in the step, or declare the effect idempotent=True."
        )
        self.effect = effect
        self.idempotency_key = idempotency_key


class StepGone(EventSourcingError):
    """The saga's class no longer has a stored step or compensation."""

    code: ClassVar[str] = "step_gone"


class StepsChanged(EventSourcingError):
    """The class has its steps in another order than the saga has begun them, or has new steps among them."""

    code: ClassVar[str] = "steps_changed"

    def __init__(self, saga: type, begun: Sequence[str], first: Sequence[str]) -> None:
        super().__init__(
            f"The steps of {saga.__name__} have changed: this saga has begun {', '.join(begun)}, and the class begins "
            f"with {', '.join(first)}. {PUT_STEPS_BACK}"
        )
        self.begun = begun
        self.first = first
        self.saga = saga


class SagaWaitsForItself(EventSourcingError):
    """A step waits for the end of its own saga, which would never come."""

    code: ClassVar[str] = "saga_waits_for_itself"

    def __init__(self, saga_id: str) -> None:
        super().__init__(
            f"A step of {saga_id!r} waits for the end of that saga, which would never come. Wait outside of it."
        )
        self.saga_id = saga_id


class CallAmbiguous(EventSourcingError):
    """Tasks that a step has started make calls of the same name, which could not be told apart later."""

    code: ClassVar[str] = "call_ambiguous"

    def __init__(self, call: str) -> None:
        super().__init__(
            f"Two tasks of the step make the call {call!r}. Tasks run in any order, so when the step is run again "
            "nobody could tell which of them took place: make such calls one after the other, give each effect its own "
            "name, or send the commands by ctx.transact."
        )
        self.call = call


class WaitInOtherTask(EventSourcingError):
    """A step waits through `ctx` in a task that it has started: only the step itself can be left and run again."""

    code: ClassVar[str] = "wait_in_other_task"

    def __init__(self, call: str) -> None:
        super().__init__(
            f"The step waits ({call}) in a task that it has started in a nursery. A wait leaves the whole step, which "
            "is run again when it is over: wait in the step's own code, one after the other."
        )
        self.call = call


class Suspended(BaseException):
    """Leaves a step that waits. The step is run again, from its beginning, when the wait is over. This is no fault."""
