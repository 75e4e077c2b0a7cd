"""The view of all sagas: one row per saga, for listing sagas and finding them again when a runtime is opened."""

from collections.abc import Mapping
from typing import Any, Final

import attrs
import msgspec

from ...storage.record import StoredEvent
from ..messages import stored_name
from ..projections.projection import EventMeta, Projection, Table, on
from .events import (
    CompensationBegun,
    CompensationFailed,
    CompensationSkipped,
    SagaAbandoned,
    SagaCompensated,
    SagaCompleted,
    SagaParked,
    SagaRemade,
    SagaResumed,
    SagaStarted,
    Signalled,
    StepBegun,
    StepFailed,
    WaitBegun,
    WaitOver,
)
from .history import UNDO, SagaState

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode
CHANGES: Final = (
    StepFailed,
    CompensationFailed,
    CompensationSkipped,
    WaitBegun,
    WaitOver,
    Signalled,
    SagaParked,
    SagaRemade,
    SagaResumed,
    SagaCompleted,
    SagaCompensated,
    SagaAbandoned,
)
"""The records that change a saga's row. Other records stay in the saga's stream."""
ENDINGS: Final[Mapping[type, SagaState]] = {
    SagaCompleted: "completed",
    SagaCompensated: "compensated",
    SagaAbandoned: "abandoned",
}
ENDING_TYPES: Final = frozenset(map(stored_name, ENDINGS))
"""The stored names of the endings: one of them is the newest record of every saga that has ended."""


@attrs.frozen
class SagaInstance:
    """The current state of one saga. Times are UTC in nanoseconds."""

    id: str
    """The saga's id, which is also the name of its stream."""
    saga: str
    key: str
    state: SagaState = "running"
    step: str = ""
    """The step that waits, failed or was begun last; for a compensation, `undo:` and the step's name."""
    attempt: int = 0
    error: str = ""
    """The last error; empty once the saga is completed."""
    started_ns: int = 0
    updated_ns: int = 0
    until_ns: int | None = None
    """When the saga's wait, or the back-off after a failure, is over."""
    deadline_ns: int | None = None
    is_compensating: bool = False
    waits_for_event: str = ""
    waits_where_data: bytes = b""
    """The field values of the awaited event, as MessagePack; empty if any event of the type will do."""
    waits_event_version: int = 1
    """The schema version of the event that these values are for."""
    waits_after: int = 0
    waits_for_signal: str = ""

    @property
    def waits_where(self) -> dict[str, Any]:
        """The field values of the awaited event, by field."""
        where: dict[str, Any] = _decode(self.waits_where_data) if self.waits_where_data else {}
        return where

    @property
    def wake_ns(self) -> int | None:
        """When the saga goes on by itself."""
        deadline_ns = None if self.is_compensating else self.deadline_ns
        return min((time for time in (self.until_ns, deadline_ns) if time is not None), default=None)

    def after(self, event: Any, meta: StoredEvent) -> "SagaInstance":
        """The row after the next record of the saga's stream."""
        changes: dict[str, Any] = {"updated_ns": meta.time_ns}
        going: SagaState = "compensating" if self.is_compensating else "running"
        still: dict[str, Any] = {
            "until_ns": None,
            "waits_for_event": "",
            "waits_where_data": b"",
            "waits_for_signal": "",
        }
        match event:
            case StepBegun(step, attempt):
                changes |= {"state": going, "step": step, "attempt": attempt, **still}
            case CompensationBegun(step, attempt):
                changes |= {"state": going, "step": UNDO + step, "attempt": attempt, **still}
            case StepFailed():
                turned = event.retry_at_ns is None
                changes |= {**still, "step": event.step, "attempt": event.attempt, "error": event.error}
                changes |= {"until_ns": event.retry_at_ns, "is_compensating": turned}
                changes["state"] = "compensating" if turned else "running"
            case CompensationFailed():
                changes |= {**still, "step": UNDO + event.step, "attempt": event.attempt, "error": event.error}
                changes |= {"state": going, "until_ns": event.retry_at_ns}
            case WaitBegun():
                changes |= {
                    "state": "waiting",
                    "step": event.scope,
                    "until_ns": event.until_ns,
                    "waits_for_event": event.event_type,
                    "waits_where_data": _encode(event.where) if event.where else b"",
                    "waits_event_version": event.event_version,
                    "waits_after": event.after,
                    "waits_for_signal": event.signal,
                }
            case Signalled(signal) if self.state == "waiting" and signal == self.waits_for_signal:
                # The saga goes on, even if the process ends before the end of the wait is recorded.
                changes |= {"state": going, **still}
            case CompensationSkipped() | WaitOver() | SagaResumed() | SagaRemade():
                changes |= {"state": going, **still}
            case SagaParked(error):
                changes |= {**still, "state": "parked", "error": error}
            case SagaCompleted() | SagaCompensated() | SagaAbandoned():
                # A completed saga has overcome its errors.
                error = "" if isinstance(event, SagaCompleted) else self.error
                changes |= {**still, "state": ENDINGS[type(event)], "error": error}
        return attrs.evolve(self, **changes)


def begun(event: SagaStarted, meta: StoredEvent) -> SagaInstance:
    """The row of a saga that was just started."""
    return SagaInstance(
        meta.stream,
        event.saga,
        event.key,
        started_ns=meta.time_ns,
        updated_ns=meta.time_ns,
        deadline_ns=event.deadline_ns,
    )


class SagaInstances(Projection, name="sagas"):
    """All sagas, by state and by class."""

    version = 4

    instances = Table(SagaInstance, key="id", indexes=["state", "saga"])

    @on(SagaStarted)
    def started(self, event: SagaStarted, meta: EventMeta) -> None:
        self.instances.put(begun(event, meta))

    @on(*CHANGES)
    def went_on(self, event: Any, meta: EventMeta) -> None:
        row = self.instances.get(meta.stream)
        assert row is not None, f"{meta.stream} begins without saga.started"
        self.instances.put(row.after(event, meta))
