"""When an aggregate's state is stored, so that loading need not begin at the first event."""

from collections.abc import Callable
from typing import Any

import attrs

from ..errors import DefinitionError


@attrs.frozen
class Snapshots:
    """The policy of an aggregate class: `class Account(Aggregate, snapshots=Snapshots.every(events=50))`.

    Without a policy, a snapshot is taken every `Limits.snapshot_every_events` events. A snapshot holds the state after
    a commit; several commands may share one commit.
    """

    events: int | None = None
    size_bytes: int | None = None
    seconds: float | None = None
    predicate: Callable[[Any], bool] | None = None

    @classmethod
    def every(
        cls, *, events: int | None = None, size_bytes: int | None = None, seconds: float | None = None
    ) -> "Snapshots":
        """Take a snapshot after so many events, payload bytes or seconds, whichever comes first.

        Time is checked when events are stored, so an aggregate that does nothing gets no snapshots.

        Raises `DefinitionError` if no bound is given, or a bound is no positive number.
        """
        bounds = [bound for bound in (events, size_bytes, seconds) if bound is not None]
        if not bounds or not all(isinstance(bound, int | float) and bound > 0 for bound in bounds):
            raise DefinitionError("Snapshots.every needs events=, size_bytes= or seconds=, each of them positive")
        return cls(events, size_bytes, seconds)

    @classmethod
    def when(cls, predicate: Callable[[Any], bool]) -> "Snapshots":
        """Take a snapshot after each commit whose state satisfies the predicate: `lambda order: order.is_shipped`.

        Raises `DefinitionError` if the predicate is no function.
        """
        if not callable(predicate):
            raise DefinitionError(f"Snapshots.when needs a function of the state, and {predicate!r} is none")
        return cls(predicate=predicate)

    @classmethod
    def never(cls) -> "Snapshots":
        """Take no snapshots: every load begins at the first event."""
        return cls()
