"""The errors of the runtime itself."""

from collections.abc import Sequence
from typing import ClassVar

from ..storage.errors import EventSourcingError


class UnknownAggregate(EventSourcingError):
    """The runtime was not opened with this aggregate class."""

    code: ClassVar[str] = "unknown_aggregate"

    def __init__(self, aggregate: object, known: Sequence[str]) -> None:
        name = getattr(aggregate, "__name__", repr(aggregate))
        super().__init__(
            f"The runtime was not opened with {name}. Add it to Runtime.open(..., aggregates=[...]); it knows "
            f"{', '.join(known) or 'none'}."
        )
        self.aggregate = aggregate


class WrongThread(EventSourcingError):
    """A method that must run on the trio thread was called on another one."""

    code: ClassVar[str] = "wrong_thread"

    def __init__(self, method: str) -> None:
        super().__init__(
            f"{method} was called outside of the trio thread that the runtime lives on. From another thread use "
            "ask_from_thread() or tell(), or trio.from_thread.run()."
        )
        self.method = method


class ShutdownTimeout(EventSourcingError):
    """Closing waited `Limits.shutdown_seconds` for the mailboxes and some were not empty; those commands were dropped.

    What was answered is on disk. `streams` names the aggregates that were still at work.
    """

    code: ClassVar[str] = "shutdown_timeout"

    def __init__(self, seconds: float, streams: Sequence[str]) -> None:
        shown = ", ".join(streams[:5])
        super().__init__(
            f"After {seconds:g} seconds {len(streams)} aggregates were still at work ({shown}); their waiting commands "
            "were not begun and take no effect. Everything that was answered is on disk."
        )
        self.streams = tuple(streams)
