"""The pipeline of one aggregate: its turns on their way to the disk, in order, and the answers that wait for them.

Commands are decided one after the other without waiting for the disk. An answer leaves when the commit with its events
and all earlier commits are stored.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from ...storage.commit import Appended, StreamAppend
from ...storage.errors import EventSourcingError
from ..journal.journal import CommitSeries, Write
from .aggregate import Aggregate
from .aggregate_type import AggregateType
from .host import AggregateHost
from .idempotency import IdempotencyKeys
from .snapshot_keeper import SnapshotKeeper
from .turn import Reply, Turn

if TYPE_CHECKING:
    from .decision import Decision
    from .recovery import Recovered


class Pipeline:
    """One open turn, and the turns in flight.

    The journal calls `on_settled` with the outcome of each turn, in order; `on_settled` must pass it to `settle`.
    """

    __slots__ = (
        "_host",
        "_in_flight",
        "_on_settled",
        "_settled",
        "_snapshots",
        "_stream",
        "keys",
        "series",
        "stored_position",
        "turn",
    )

    def __init__(
        self,
        host: AggregateHost,
        aggregate_type: AggregateType,
        stream: str,
        on_settled: Callable[[Appended | EventSourcingError], None],
    ) -> None:
        self._host = host
        self._stream = stream
        self._on_settled = on_settled
        self._in_flight: deque[Turn] | None = None
        self._settled: trio.Event | None = None
        self._snapshots = SnapshotKeeper(host, aggregate_type, stream)
        self.keys = IdempotencyKeys(host, aggregate_type, stream)
        self.series = CommitSeries()
        """The commits decided on one state: they are stored in order, or all fail from one commit on."""
        self.turn: Turn | None = None
        """The open turn: what was decided and not yet submitted."""
        self.stored_position = 0

    @property
    def is_busy(self) -> bool:
        """Whether any turn is on its way to the disk."""
        return bool(self._in_flight)

    def loaded(self, recovered: "Recovered") -> None:
        """Note that the aggregate was loaded: later decisions do not depend on what failed before."""
        self.stored_position = recovered.position
        self.series = CommitSeries()
        self._snapshots.loaded(recovered)

    # --- the open turn ---

    def turn_at(self, version: int) -> Turn:
        """The open turn; if there is none, a new one for a stream at this version."""
        if self.turn is None:
            self.turn = Turn(version)
        return self.turn

    def turn_with_room_for(self, decision: "Decision", state: Aggregate, version: int) -> Turn:
        """The open turn; if the decision does not fit into its commit, submit that turn and open a new one."""
        limits, turn = self._host.limits, self.turn
        if turn is not None and (
            len(turn.events) + len(decision.events) > limits.commit_events_max
            or turn.size_bytes + decision.size_bytes > limits.commit_size_bytes_max
        ):
            self.submit(state)
        return self.turn_at(version)

    def fail_turn(self, error: EventSourcingError) -> None:
        """Drop the open turn: answer its commands and state queries with the error."""
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.settle_failed(error, self.keys)
            for future, _ in turn.states:
                future.fail(error)

    def put_in_line(self, reply: Reply, version: int) -> None:
        """Queue an answer without events: it leaves once everything that it was decided on is stored."""
        reply.version = version
        self.turn_at(version).replies.append(reply)

    def is_duplicate(self, key: str, reply: Reply, version: int) -> bool:
        """Whether the key is known. If so, the answer is the stored receipt, or that of the command in flight."""
        reply.original = self.keys.in_flight(key)
        if reply.original is not None:
            self.put_in_line(reply, version)
            return True
        receipt = self.keys.receipt(key)
        if receipt is None:
            return False
        reply.settle(receipt)
        return True

    # --- the disk ---

    def submit(self, state: Aggregate | None) -> None:
        """Hand the turn to the journal; a turn with nothing to write is answered together with the last turn in flight.

        `state` is the state after the turn's events, for a snapshot; None if that state is not known.
        """
        turn, self.turn = self.turn, None
        if turn is None:
            return
        if not turn.has_content:
            if self._in_flight:
                last = self._in_flight[-1]
                last.replies += turn.replies
                last.states += turn.states
            else:
                turn.settle_stored(self._stream, 0, self.stored_position, self.keys)
            return
        self.depart(turn, state)
        append = StreamAppend(self._stream, turn.base_version, turn.events)
        write = Write(
            (append,),
            turn.idempotency,
            len(turn.events),
            len(turn.replies),
            self.series,
            self._on_settled,
            turn.conditions,
            turn.follows,
        )
        self._host.journal.submit(write)

    def depart(self, turn: Turn, state: Aggregate | None) -> None:
        """Note that the turn is on its way to the disk, in its own or another commit."""
        if state is not None:
            self._snapshots.look_at(turn, state)
        if self._in_flight is None:
            self._in_flight = deque()
        self._in_flight.append(turn)

    def drop_snapshots(self) -> None:
        """Store no snapshot of the turns in flight."""
        for turn in self._in_flight or ():
            turn.snapshot_state = None

    def settle(self, outcome: Appended | EventSourcingError) -> Turn | None:
        """Take in the journal's outcome for the oldest turn in flight; return the turn if it was not stored."""
        assert self._in_flight, f"{self._stream} has nothing in flight"
        turn = self._in_flight.popleft()
        failed = None
        if isinstance(outcome, Appended):
            turn.settle_stored(self._stream, outcome.first_position, self.stored_position, self.keys)
            if turn.events:
                self.stored_position = outcome.last_position
            if turn.snapshot_state is not None:
                self._snapshots.save(turn, turn.snapshot_state, outcome)
            self._host.recovered(self._stream)
        else:
            turn.settle_failed(outcome, self.keys)
            failed = turn
        if not self._in_flight and self._settled is not None:
            self._settled.set()
        return failed

    async def until_settled(self) -> None:
        """Wait until no turn is in flight."""
        while self._in_flight:
            self._settled = trio.Event()
            await self._settled.wait()
