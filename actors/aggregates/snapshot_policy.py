"""When an aggregate's state is stored, so that loading it need not begin at its first event."""

from collections.abc import Callable
from typing import Any

import attrs

from ..errors import DefinitionError


@attrs.frozen
class Snapshots:
    """The policy of an aggregate class: `class Account(Aggregate, snapshots=Snapshots.every(events=50))`.

    Without one, a snapshot is taken every `Limits.snapshot_every_events` events. A snapshot stands for the state after
    a commit; several commands may share one.
    """

    events: int | None = None
    size_bytes: int | None = None
    seconds: float | None = None
    predicate: Callable[[Any], bool] | None = None

    @classmethod
    def every(
        cls, *, events: int | None = None, size_bytes: int | None = None, seconds: float | None = None
    ) -> "Snapshots":
        """Take one after so many events, so many bytes of their payloads, or so many seconds: whichever comes first.

        Time is looked at when events are stored, so an aggregate that does nothing gets no snapshots.

        Raises `DefinitionError` for a bound that is no positive number, or none at all.
        """
        bounds = [bound for bound in (events, size_bytes, seconds) if bound is not None]
        if not bounds or not all(isinstance(bound, int | float) and bound > 0 for bound in bounds):
            raise DefinitionError("Snapshots.every needs events=, size_bytes= or seconds=, each of them positive")
        return cls(events, size_bytes, seconds)

    @classmethod
    def when(cls, predicate: Callable[[Any], bool]) -> "Snapshots":
        """Take one after a commit that leaves the aggregate as the predicate says: `lambda order: order.is_shipped`.

        Raises `DefinitionError` for what is no function.
        """
        if not callable(predicate):
            raise DefinitionError(f"Snapshots.when needs a function of the state, and {predicate!r} is none")
        return cls(predicate=predicate)

    @classmethod
    def never(cls) -> "Snapshots":
        """Take none: every loading begins at the first event."""
        return cls()
