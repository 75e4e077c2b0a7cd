"""What the supervisor of sagas is told to do. Each order is answered when what it asks for is on disk."""

from typing import Any, TypeAlias

import msgspec

from ...storage.commit import NewEvent
from ..future import TrioFuture
from .events import SagaStarted
from .saga import Saga


class StartSaga(msgspec.Struct):
    """Start a saga unless there is one with its id; answered with whether it was."""

    stream: str
    saga_class: type[Saga]
    started: SagaStarted
    encoded: NewEvent
    """The same as the log takes it."""
    correlation_id: str
    answer: TrioFuture[bool]
    error: str = ""
    """Why it cannot be begun: the event that starts it could not be made into a saga."""


class SendSignal(msgspec.Struct):
    """Give a saga a signal; answered with whether it is the first of its name."""

    stream: str
    signal: str
    payload: Any
    answer: TrioFuture[bool]


class DecideParked(msgspec.Struct):
    """An operator's decision on a parked saga: "retry", "skip" (the compensation that fails) or "abandon"."""

    stream: str
    action: str
    reason: str
    answer: TrioFuture[bool]


SagaOrder: TypeAlias = StartSaga | SendSignal | DecideParked
