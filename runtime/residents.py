"""The aggregates in memory: activation on first use, passivation, and back-off after failures."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context

import attrs
import trio

from ..actors.aggregates.aggregate_actor import AggregateActor
from ..actors.aggregates.aggregate_type import AggregateType
from ..actors.errors import AggregateUnavailable, ResidencyFull, SnapshotQuarantined
from ..actors.journal.journal import Journal
from ..storage.errors import EventSourcingError
from ..storage.limits import Limits
from ..storage.store import EventStore

SWEEPS_PER_IDLE_TIME = 4
FAILURES_REMEMBERED_MAX = 10_000

logger = logging.getLogger("eventsrc.residents")


@attrs.define
class Failure:
    """An aggregate whose actor failed `count` times in a row and rests until `retry_at` (trio's clock)."""

    count: int
    retry_at: float
    error: EventSourcingError


class Residents:
    """The actors in memory, the least recently used first. Lives on the trio thread."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        store: EventStore,
        journal: Journal,
        limits: Limits,
        wall_clock: Callable[[], int],
        snapshot_taken: Callable[[str], None],
    ) -> None:
        self.store = store
        self.journal = journal
        self.limits = limits
        self.wall_clock = wall_clock
        self.snapshot_taken = snapshot_taken
        self.is_forgetting = False
        self._nursery = nursery
        self._context = copy_context()
        self._actors: dict[str, AggregateActor] = {}
        self._by_task: dict[trio.lowlevel.Task, AggregateActor] = {}
        self._failures: dict[str, Failure] = {}
        self._empty: trio.Event | None = None

    def __len__(self) -> int:
        return len(self._actors)

    def get(self, aggregate_type: AggregateType, stream: str, aggregate_id: str) -> AggregateActor:
        """The aggregate's actor, activated if need be.

        Raises `AggregateUnavailable` while the aggregate rests after a failure, `ResidencyFull` when all others are
        busy.
        """
        actor = self._actors.pop(stream, None)
        if actor is None:
            actor = self._activate(aggregate_type, stream, aggregate_id)
        self._actors[stream] = actor
        actor.last_used = trio.current_time()
        return actor

    def _activate(self, aggregate_type: AggregateType, stream: str, aggregate_id: str) -> AggregateActor:
        failure = self._failures.get(stream)
        if failure is not None:
            rest_seconds = failure.retry_at - trio.current_time()
            if rest_seconds > 0:
                raise AggregateUnavailable(stream, rest_seconds, failure.error) from failure.error
        if len(self._actors) >= self.limits.resident_actors_max:
            self._make_room()
        actor = AggregateActor(self, aggregate_type, stream, aggregate_id)
        # In the runtime's context: the actor inherits no context variables from the first caller.
        self._context.run(actor.start_in, self._nursery)
        if self._empty is not None:
            # While all actors are being stopped, a command under way has sent another one: this actor ends after that
            # command.
            actor.stop()
        return actor

    def _make_room(self) -> None:
        for actor in self._actors.values():
            if actor.is_idle:
                self._passivate(actor)
                return
        raise ResidencyFull(
            "Aggregates in memory, all of them busy",
            len(self._actors) + 1,
            self.limits.resident_actors_max,
            "Await some answers before sending to more aggregates, or raise the limit.",
        )

    def _passivate(self, actor: AggregateActor) -> None:
        # From here on a message for this aggregate finds no actor and starts another one, so no message is lost.
        del self._actors[actor.stream]
        actor.stop()

    @trio.lowlevel.enable_ki_protection
    async def passivate_idle(self) -> None:
        """Remove aggregates that were not used for a while from memory, until cancelled."""
        idle_seconds = self.limits.passivate_after_seconds
        while True:
            await trio.sleep(idle_seconds / SWEEPS_PER_IDLE_TIME)
            used_since = trio.current_time() - idle_seconds
            old = [actor for actor in self._actors.values() if actor.last_used <= used_since and actor.is_idle]
            for actor in old:
                self._passivate(actor)
            if old:
                logger.debug("passivated", extra={"actors": len(old), "resident": len(self._actors)})

    async def stop(self) -> None:
        """Have every actor handle the commands in its mailbox, store the events, and end."""
        while self._actors:
            self._empty = trio.Event()
            for actor in list(self._actors.values()):
                actor.stop()
            await self._empty.wait()

    def load_again(self, stream: str) -> None:
        """Have the stream's aggregate load its state again: a snapshot of the stream does not match its events."""
        actor = self._actors.get(stream)
        if actor is not None:
            actor.distrust(SnapshotQuarantined(stream))

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """While the block runs, no snapshot that may hold personal data is loaded: the subject's may be in it."""
        self.is_forgetting = True
        try:
            yield
        finally:
            self.is_forgetting = False

    def distrust_personal(self) -> None:
        """Have the aggregates that may hold personal data load their states again before they are used."""
        for actor in self._actors.values():
            if actor.has_personal_data:
                actor.distrust(EventSourcingError("A subject was forgotten."))

    async def personal_loaded_again(self, asking: AggregateActor | None) -> None:
        """Wait until every handler that began before has ended, except a handler of the actor `asking`."""
        for actor in list(self._actors.values()):
            if actor is not asking and actor.has_personal_data:
                await actor.until_reloaded()

    @property
    def in_hand_of_this_task(self) -> AggregateActor | None:
        """The actor whose handler runs in this task; None outside of handlers."""
        actor = self._by_task.get(trio.lowlevel.current_task())
        return actor if actor is not None and actor.is_in_hand_of_this_task else None

    @property
    def streams(self) -> list[str]:
        """The streams of the aggregates in memory."""
        return list(self._actors)

    # --- what the actors report ---

    def failed(self, stream: str, error: EventSourcingError) -> float:
        before = self._failures.pop(stream, None)
        count = before.count + 1 if before is not None else 1
        delay_seconds = self.limits.restart_backoff(count - 2) if count > 1 else 0.0
        self._failures[stream] = Failure(count, trio.current_time() + delay_seconds, error)
        if len(self._failures) > FAILURES_REMEMBERED_MAX:
            del self._failures[next(iter(self._failures))]
        return delay_seconds

    def recovered(self, stream: str) -> None:
        if self._failures:
            self._failures.pop(stream, None)

    def began(self, actor: AggregateActor) -> None:
        self._by_task[trio.lowlevel.current_task()] = actor

    def ended(self, actor: AggregateActor) -> None:
        del self._by_task[trio.lowlevel.current_task()]
        if self._actors.get(actor.stream) is actor:
            del self._actors[actor.stream]
        if not self._actors and self._empty is not None:
            self._empty.set()
