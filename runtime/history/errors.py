"""The errors of replays."""

from typing import ClassVar

from ...storage.errors import EventSourcingError, described


class ReplaySpeedInvalid(EventSourcingError):
    """A speed of replay is out of range, or is no speed."""

    code: ClassVar[str] = "replay_speed_invalid"

    def __init__(self, speed: object, lowest: float, highest: float) -> None:
        super().__init__(
            f"A replay goes at {lowest:g} to {highest:g} times the original pace (Limits.replay_speed_max), not at "
            f'{speed!r}; without a speed, or with "flat", it goes as fast as it can.'
        )
        self.speed = speed
        self.lowest = lowest
        self.highest = highest


class ReplayStarted(EventSourcingError):
    """A replay was run a second time: its state, or the effects of its function, include the events already."""

    code: ClassVar[str] = "replay_started"

    def __init__(self) -> None:
        super().__init__("This replay was run before, and runs once. Make another one: runtime.replay(...).")


class ReplayNotEntered(EventSourcingError):
    """A replay into a projection has its view only inside of its block."""

    code: ClassVar[str] = "replay_not_entered"

    def __init__(self, projection: type) -> None:
        super().__init__(
            f"The view of this replay of {projection.__name__} is there only inside of its block: "
            f"async with runtime.replay(..., projection={projection.__name__}) as replay: await replay.run()."
        )
        self.projection = projection


class ReplayPositionPassed(EventSourcingError):
    """A replay cannot run to a position that it has passed, or after which it began."""

    code: ClassVar[str] = "replay_position_passed"

    def __init__(self, position: int, at_position: int) -> None:
        super().__init__(
            f"The replay is at position {at_position}, beyond {position}, and does not go backwards. Make another one "
            "to see what came before."
        )
        self.position = position
        self.at_position = at_position


class ReplayHandlerFailed(EventSourcingError):
    """The target of a replay raised an error, which is the cause, on an event. The replay ended before that event."""

    code: ClassVar[str] = "replay_handler_failed"

    def __init__(self, stream: str, version: int, position: int, event_type: str, error: Exception) -> None:
        super().__init__(
            f"The replay ended at event {event_type!r} of {stream!r} (version {version}, position {position}), on "
            f"which what it is replayed into raised {described(error)}. Mend it and make another replay."
        )
        self.stream = stream
        self.version = version
        self.position = position
        self.event_type = event_type
        self.error = error


class UnknownCorrelation(EventSourcingError):
    """No event of a store has this correlation id."""

    code: ClassVar[str] = "unknown_correlation"

    def __init__(self, path: str, correlation_id: str) -> None:
        super().__init__(
            f"No event in {path} has the correlation id {correlation_id!r}. Give one as it is stored with an event, or "
            "the position of an event."
        )
        self.path = path
        self.correlation_id = correlation_id
