"""The pipeline of one aggregate: its turns on their way to the disk, in order, and the answers that wait for them.

Commands are decided one after the other without waiting for the disk; an answer leaves when the commit that holds its
events is stored, and so are all before it.
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
    """One turn that is open, and those in flight.

    `on_settled` is called with the journal's answer to each, in order; hand that to `settle`.
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
        """What is decided on one state is stored wholly in order, or fails from one point on."""
        self.turn: Turn | None = None
        """What was decided and is not on its way yet."""
        self.stored_position = 0

    @property
    def is_busy(self) -> bool:
        """Whether anything is on its way to the disk."""
        return bool(self._in_flight)

    def loaded(self, recovered: "Recovered") -> None:
        """The aggregate was loaded; what it decides from now on does not depend on what failed before."""
        self.stored_position = recovered.position
        self.series = CommitSeries()
        self._snapshots.loaded(recovered)

    # --- the open turn ---

    def turn_at(self, version: int) -> Turn:
        """The open turn; a new one, of a stream at this version, where there is none."""
        if self.turn is None:
            self.turn = Turn(version)
        return self.turn

    def turn_with_room_for(self, decision: "Decision", state: Aggregate, version: int) -> Turn:
        """The same, begun anew where the decision would not fit into its commit."""
        limits, turn = self._host.limits, self.turn
        if turn is not None and (
            len(turn.events) + len(decision.events) > limits.commit_events_max
            or turn.size_bytes + decision.size_bytes > limits.commit_size_bytes_max
        ):
            self.submit(state)
        return self.turn_at(version)

    def fail_turn(self, error: EventSourcingError) -> None:
        """Nothing of the open turn will be stored."""
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.settle_failed(error, self.keys)
            for future, _ in turn.states:
                future.fail(error)

    def put_in_line(self, reply: Reply, version: int) -> None:
        """An answer without events: it leaves after everything that it was decided on is stored."""
        reply.version = version
        self.turn_at(version).replies.append(reply)

    def is_duplicate(self, key: str, reply: Reply, version: int) -> bool:
        """Answer with the stored receipt if the key is known, or wait for the command that is on its way with it."""
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
        """Hand the turn to the journal; one with nothing to write is answered with what is on its way before it.

        `state` is what its events lead to, for a snapshot; None where that is not known.
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
        )
        self._host.journal.submit(write)

    def depart(self, turn: Turn, state: Aggregate | None) -> None:
        """The turn is on its way to the disk, in this or in another commit."""
        if state is not None:
            self._snapshots.look_at(turn, state)
        if self._in_flight is None:
            self._in_flight = deque()
        self._in_flight.append(turn)

    def drop_snapshots(self) -> None:
        """No snapshot is stored of what is on its way."""
        for turn in self._in_flight or ():
            turn.snapshot_state = None

    def settle(self, outcome: Appended | EventSourcingError) -> Turn | None:
        """The journal's answer for the oldest turn in flight; returns that where it was not stored."""
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
        """Wait until nothing is on its way."""
        while self._in_flight:
            self._settled = trio.Event()
            await self._settled.wait()
