"""The projector: the actor that follows the log for one view, batch by batch, first to catch up and then live."""

import logging
import time
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec
import trio
from pykka.messages import _ActorStop

from ...storage.errors import EventSourcingError, FileWriteFailed, described
from ...storage.limits import Limits
from ...storage.record import StoredEvent
from ...storage.store import EventReader
from ..background import in_background, in_thread
from ..error_text import kept_text
from ..feed import Feed
from ..future import TrioFuture
from ..trio_actor import TrioActor
from ..views.errors import CheckpointMoved, ViewRemoved
from ..views.session import EventFailed, ViewSession
from ..views.view_store import Checkpoint, ViewRetry
from .workshare import Workshare

ATTEMPTS_MAX: Final = 5
"""How often an event is tried before the projection's state becomes "failed", until someone resumes it."""
BATCHES_PER_COMMIT: Final = 5
"""Up to this many waiting batches become one transaction, which costs less than one each."""
TURN_SECONDS: Final = 0.003
"""The time that a transaction is sized for, though not below one batch: the trio thread or another writer waits for
it."""
UNSAVED_EVENTS_MAX: Final = 10_000
"""After so many events without effect on the view, the checkpoint is stored all the same."""
WAITING_ROWS_MAX: Final = 1_000
"""How many changed rows may wait, while the view is far behind, for events that change them again; the rows of one turn
come on top. Storing these rows takes a turn."""
WAITING_EVENTS_MAX: Final = 100_000
"""For how many events changed rows may wait."""
WAITING_SECONDS_MAX: Final = 0.5
"""How long changed rows may wait; meanwhile the view stays as it is."""

ProjectionState: TypeAlias = Literal["catching_up", "live", "paused", "retrying", "failed"]
logger = logging.getLogger("eventsrc.projection")


class Advance(msgspec.Struct, frozen=True):
    """The log may have grown, or there is more to read."""


class Pause(msgspec.Struct, frozen=True):
    """Stop projecting until `Resume`."""


class Resume(msgspec.Struct, frozen=True):
    """Go on projecting, even after a failure."""


class GiveUp(msgspec.Struct, frozen=True):
    """Stop projecting in the state "failed", for this reason, until `Resume`."""

    reason: str


class ProjectorHost(Protocol):
    """What a projector needs of its runtime."""

    store: EventReader
    feed: Feed
    limits: Limits
    workshare: Workshare
    threads: trio.CapacityLimiter
    """For calls that wait for a view: a hanging database must not take threads from anything else."""

    def advanced(self, projector: "Projector") -> None:
        """Note that the projector's position or state has changed."""

    def removed(self, projector: "Projector") -> None:
        """Note that another process has removed the projector's view. It retries until it is ended or gets an order."""


class Projector(TrioActor):
    """Keeps one generation of one view up to date, beginning at the given checkpoint.

    An event whose method raises is tried again after a back-off; the effects of the events before it are stored. After
    `ATTEMPTS_MAX` attempts the state is "failed". If the view's store refuses (an unreachable server, a full disk), the
    projector retries for as long as it takes.
    """

    def __init__(self, host: ProjectorHost, name: str, session: ViewSession, checkpoint: Checkpoint) -> None:
        super().__init__(mailbox_capacity=host.limits.mailbox_commands_max)
        self.name = name
        self.state: ProjectionState = "catching_up"
        self.error = ""
        self._host = host
        self._session = session
        self._saved_position = checkpoint.position
        self._shown = checkpoint
        self._handled = checkpoint
        """May be ahead of what the view shows: rows that will be changed again are not stored each time."""
        self._shown_seconds = time.perf_counter()
        """When the view last showed everything that was handled."""
        self._attempts = 0
        self._failed_position = 0
        self._failures = 0
        self._step_events = host.limits.catch_up_batch_events
        self._is_told = False
        self._is_resting = False
        self._is_displaced = False
        self._is_ending = False

    @property
    def position(self) -> int:
        """The position up to which the view shows the effects of all events, and of no later ones."""
        return self._shown.position

    def on_start(self) -> None:
        self._host.feed.listen(self, self.wake)
        self.wake()

    async def on_stop(self) -> None:  # type: ignore[override]
        if self._handled.position > self._saved_position and self.state not in ("retrying", "failed"):
            await self._store_handled()

    def wake(self) -> None:
        """Have the projector look at the log, now or when it has finished its current work."""
        if not self._is_told and not self._is_ending:
            self._is_told = True
            self.actor_ref.tell(Advance())

    async def end(self) -> None:
        """Stop the projector and wait until it has stopped."""
        self._is_ending = True
        self._host.feed.stop_listening(self)
        if not self.actor_stopped.is_set():
            await self.order(_ActorStop())

    async def order(self, message: Pause | Resume | GiveUp | _ActorStop) -> None:
        """Send a message and wait until the projector has obeyed it."""
        await self.send(message)

    def send(self, message: Pause | Resume | GiveUp | _ActorStop) -> TrioFuture[Any]:
        """Send a message. The returned future is settled when the projector has obeyed it."""
        obeyed: TrioFuture[Any] = self.actor_ref.ask(message, block=False)  # type: ignore[assignment]
        return obeyed

    async def on_receive(self, message: Any) -> None:
        match message:
            case Advance():
                self._is_told = False
                if self.state not in ("paused", "failed") and not self._is_resting:
                    await self._advance()
            case Pause():
                if self._is_ahead:
                    await self._store_handled()
                self._become("paused")
            case GiveUp(reason):
                self.error = reason
                self._become("failed")
            case Resume():
                self._attempts = self._failures = 0
                self._become("catching_up")
                self.wake()
            case _:
                raise TypeError(f"a projector was sent {message!r}")

    async def _advance(self) -> None:
        """Take one batch, and wake again if there is more."""
        try:
            more = await self._take_batch()
        except EventFailed as failure:
            event = failure.event
            what = kept_text(described(failure.error)).removesuffix(".")
            self.error = f"{what} on {event.type!r} at position {event.position}"
            if event.position != self._failed_position:
                # The projector has come further since the last failure.
                self._failed_position, self._failures, self._attempts = event.position, 0, 0
            self._failures += 1
            self._attempts += 1
            if self._failures >= ATTEMPTS_MAX:
                what, facts = f"{self.name}: {self.error}", self._facts(event)
                logger.error("projection failed: %s", what, exc_info=failure.error, extra=facts)
                self._become("failed")
                return
            logger.warning("projection will try again: %s: %s", self.name, self.error, extra=self._facts(event))
            self._rest()
        except EventSourcingError as error:
            self._attempts += 1
            self.error = kept_text(str(error))
            logger.warning("projection will try again: %s: %s", self.name, error, extra=self._facts())
            self._rest()
            if isinstance(error, ViewRemoved):
                self._host.removed(self)
        except Exception as error:
            # A bug in eventsrc or in the view's store: the other projections and the commands go on.
            self._attempts += 1
            self.error = kept_text(described(error))
            logger.exception("projection will try again", extra=self._facts())
            self._rest()
        else:
            self._attempts = 0
            self.error = ""
            self._become("catching_up" if more else "live")
            if more:
                self.wake()

    async def _take_batch(self) -> bool:
        """Project the next events. Returns whether there are more."""
        host = self._host
        if self._is_displaced:
            await self._go_on_from_stored()
        if self._session.view.waits:
            await self._take_next()
        else:
            await host.workshare.turn(self._take_next)
        return self.position < host.store.last_position

    async def _take_next(self) -> None:
        if self._is_ahead and not self._may_wait:
            await self._apply([], self._handled)
            return
        events = self._host.store.read(after=self._handled.position, limit=self._step_events)
        started = time.perf_counter()
        if not self._is_ahead:
            self._shown_seconds = started
        await self._take(events, may_wait=self._may_wait)
        if events:
            self._step_events = self._worthwhile((time.perf_counter() - started) / len(events))

    def _worthwhile(self, seconds_per_event: float) -> int:
        """How many events to take next time."""
        batch = self._host.limits.catch_up_batch_events
        most = batch * BATCHES_PER_COMMIT
        if seconds_per_event * most <= TURN_SECONDS:
            return most
        return max(int(TURN_SECONDS / seconds_per_event), batch)

    async def _go_on_from_stored(self) -> None:
        view = self._session.view
        if view.waits:
            checkpoint = await in_thread(lambda: view.checkpoint, limiter=self._host.threads)
        else:
            checkpoint = view.checkpoint
        self._shown = self._handled = checkpoint
        self._saved_position = checkpoint.position
        self._is_displaced = False

    @property
    def _is_ahead(self) -> bool:
        """Whether more events were handled than the view shows."""
        return self._handled.position > self.position

    @property
    def _may_wait(self) -> bool:
        """Whether changed rows may wait to be stored: only while more events are to come than they have waited for."""
        waited = self._handled.position - self.position
        return (
            self._session.may_wait
            and self._host.store.last_position - self._handled.position >= max(waited, self._step_events)
            and waited < WAITING_EVENTS_MAX
            and self._session.waiting_rows <= WAITING_ROWS_MAX
            and time.perf_counter() - self._shown_seconds < WAITING_SECONDS_MAX
        )

    async def _take(self, events: list[StoredEvent], *, may_wait: bool) -> None:
        if not events:
            return
        handled_types = self._session.handled_types
        wanted = [event for event in events if event.type in handled_types]
        last = Checkpoint(events[-1].position, events[-1].hash)
        if wanted or self._is_ahead or last.position - self._saved_position >= UNSAVED_EVENTS_MAX:
            try:
                await self._apply(wanted, last, may_wait=may_wait)
            except EventFailed as failure:
                await self._take_before(failure.event)
                raise
        else:
            self._shown = self._handled = last

    async def _take_before(self, failed: StoredEvent) -> None:
        """Store the effects of the events before the one that failed."""
        while self.position < failed.position - 1:
            events = self._host.store.read(after=self.position, limit=self._step_events)
            await self._take([event for event in events if event.position < failed.position], may_wait=False)
            await trio.lowlevel.checkpoint()

    async def _apply(self, events: list[StoredEvent], checkpoint: Checkpoint, *, may_wait: bool = False) -> None:
        session = self._session
        try:
            if session.view.waits:
                is_stored = await in_thread(session.apply, events, checkpoint, limiter=self._host.threads)
            else:
                is_stored = session.apply(events, checkpoint, may_wait=may_wait)
        except ViewRetry:
            self._handled = self._shown
            return
        except BaseException as error:
            # Another process was faster, or a commit took effect, or may have, although its answer was lost.
            self._is_displaced |= isinstance(error, CheckpointMoved | FileWriteFailed)
            self._handled = self._shown
            raise
        self._handled = checkpoint
        if is_stored:
            self._shown = checkpoint
            self._saved_position = checkpoint.position

    async def _store_handled(self) -> None:
        """Have the view show everything that was handled. If that fails, the events are handled again later."""
        try:
            await self._apply([], self._handled)
        except (EventFailed, EventSourcingError) as error:
            logger.warning("how far a projection has come could not be stored: %s", error, extra=self._facts())

    def _rest(self) -> None:
        """Retry after a back-off that grows with each attempt."""
        seconds = self._host.limits.restart_backoff(self._attempts - 1)
        self._is_resting = True
        self._become("retrying")
        self._nursery.start_soon(in_background, self._end_rest, seconds, name=f"{self.name}: back-off")

    async def _end_rest(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self._is_resting = False
        self.wake()

    def _become(self, state: ProjectionState) -> None:
        self.state = state
        self._host.advanced(self)

    def _facts(self, event: StoredEvent | None = None) -> dict[str, object]:
        facts: dict[str, object] = {"projection": self.name, "attempt": self._attempts}
        if event is not None:
            facts |= {"stream": event.stream, "position": event.position}
        return facts
