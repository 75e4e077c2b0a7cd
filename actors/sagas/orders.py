"""The orders to the supervisor of sagas. Each order is answered when its result is on disk."""

from typing import Any, TypeAlias

import msgspec

from ...storage.commit import NewEvent
from ..future import TrioFuture
from .events import SagaStarted
from .saga import Saga


class StartSaga(msgspec.Struct):
    """Start a saga unless one has its id. The answer tells whether it was started."""

    stream: str
    saga_class: type[Saga]
    started: SagaStarted
    encoded: NewEvent
    """`started` as the log stores it."""
    correlation_id: str
    answer: TrioFuture[bool]
    error: str = ""
    """Why the saga cannot begin: the event that starts it could not be made into a saga."""


class SendSignal(msgspec.Struct):
    """Send a saga a signal. The answer tells whether it is the first signal of its name."""

    stream: str
    signal: str
    payload: Any
    answer: TrioFuture[bool]


class DecideParked(msgspec.Struct):
    """An operator's decision on a parked saga: "retry", "skip" (the failing compensation) or "abandon"."""

    stream: str
    action: str
    reason: str
    answer: TrioFuture[bool]


SagaOrder: TypeAlias = StartSaga | SendSignal | DecideParked
