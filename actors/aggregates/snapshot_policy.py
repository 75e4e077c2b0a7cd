"""When an aggregate's state is stored, so that loading need not begin at the first event."""

from collections.abc import Callable
from typing import Any

import attrs

from ..callables import takes_one
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

        Raises `DefinitionError` if no bound is given, or a bound is no positive number, or events or bytes are no whole
        number.
        """
        kinds = {"events": (events, int), "size_bytes": (size_bytes, int), "seconds": (seconds, int | float)}
        for name, (bound, kind) in kinds.items():
            if bound is not None and not (isinstance(bound, kind) and bound is not True and bound > 0):
                what = "a positive number of seconds" if name == "seconds" else "a positive whole number"
                raise DefinitionError(f"Snapshots.every takes {name}= as {what}, not {bound!r}")
        if all(bound is None for bound, _ in kinds.values()):
            raise DefinitionError("Snapshots.every needs events=, size_bytes= or seconds=, each of them positive")
        return cls(events, size_bytes, seconds)

    @classmethod
    def when(cls, predicate: Callable[[Any], bool]) -> "Snapshots":
        """Take a snapshot after each commit whose state satisfies the predicate: `lambda order: order.is_shipped`.

        Raises `DefinitionError` if the predicate is no function of one argument, or is async.
        """
        if not takes_one(predicate):
            raise DefinitionError(
                f"Snapshots.when needs a plain function of the state, lambda order: order.is_shipped, and "
                f"{predicate!r:.100} is none"
            )
        return cls(predicate=predicate)

    @classmethod
    def never(cls) -> "Snapshots":
        """Take no snapshots: every load begins at the first event."""
        return cls()
