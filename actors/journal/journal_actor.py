"""The journal's actor: the one thread that writes. It stores as many commits as wait in one transaction.

An LMDB write transaction belongs to the thread that began it, so the storage asks for exactly this: a thread actor. It
drains its inbox into one group commit, syncs once, then settles every answer with one hop back to trio.
"""

import logging
import queue
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import pykka

from ...storage.errors import EventSourcingError, ThreadRefused
from ...storage.snapshot import Snapshot
from ..errors import JournalFailed
from .commit_order import CommitOrder, Settled
from .journal import Work, Write

if TYPE_CHECKING:
    from pykka._envelope import Envelope

GROUP_EVENTS_MAX: Final = 1_000
"""Events in one group commit, and answers that leave with it, at most; a single write may have more of either."""
GROUP_ANSWERS_MIN: Final = 16
"""So many answers leave with one group commit where they wait, however fast the disk is."""
DISK_SHARE_SECONDS: Final = 20e-6
"""A group is as large as it takes to bring the disk's share of each answer down to this. The interpreter takes as much
at the same time, so a larger one would only make its first answers wait."""

logger = logging.getLogger("eventsrc.journal")


class JournalActor(pykka.ThreadingActor):
    """Writes what its inbox hands out; `settle` is called on this thread with the outcomes of each batch."""

    # A program that is told to stop at once must not wait for it; `ThreadJournal.close` waits in an orderly end.
    use_daemon_thread = True

    actor_inbox: "JournalInbox"

    def __init__(self, order: CommitOrder, settle: Callable[[list[Settled]], None]) -> None:
        super().__init__()
        self._order = order
        self._settle = settle

    @staticmethod
    def _create_actor_inbox() -> "JournalInbox":
        return JournalInbox()

    def _start_actor_loop(self) -> None:
        try:
            super()._start_actor_loop()
        except RuntimeError as error:
            # Whoever stops all actors would wait for one that never ran.
            pykka.ActorRegistry.unregister(self.actor_ref)
            raise ThreadRefused(str(error)) from error

    def on_receive(self, message: Any) -> None:
        if isinstance(message, Work):
            self._work(message)
            return
        assert isinstance(message, Batch), f"the journal was sent {message!r}"
        self._settle(self._order.write(message.messages))
        worthwhile = int(self._order.disk_seconds / DISK_SHARE_SECONDS)
        self.actor_inbox.group_answers_max = min(max(worthwhile, GROUP_ANSWERS_MIN), GROUP_EVENTS_MAX)

    def _work(self, work: Work) -> None:
        try:
            outcome = work.run()
        except EventSourcingError as error:
            outcome = error
        except Exception as error:
            logger.exception("the journal failed at work")
            outcome = JournalFailed(self._order.path, error)
        work.settle(outcome)


class JournalInbox:
    """An inbox that hands out all that waits as one batch, so that the actor commits it as one group."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Envelope[Any]] = queue.SimpleQueue()
        self._held: deque[Envelope[Any]] = deque()
        self.group_answers_max = GROUP_ANSWERS_MIN

    def put(self, envelope: "Envelope[Any]", /) -> None:
        self._queue.put(envelope)

    def empty(self) -> bool:
        return not self._held and self._queue.empty()

    def get(self) -> "Envelope[Any]":
        """Wait for a message, take those behind it up to the bounds, and leave anything else for the next call."""
        first = self._held.popleft() if self._held else self._queue.get()
        if not isinstance(first.message, Write | Snapshot):
            return first
        batch = Batch(self.group_answers_max)
        batch.put(first.message)
        while not batch.is_full:
            try:
                envelope = self._queue.get_nowait()
            except queue.Empty:
                break
            if not (isinstance(envelope.message, Write | Snapshot) and batch.put(envelope.message)):
                self._held.append(envelope)
                break
        first.message = batch
        return first


class Batch:
    """Everything that one group commit takes from the inbox.

    A snapshot needs no room: it rides along, and is no reason for a sync of its own. A single write may be larger than
    a group is to be.
    """

    __slots__ = ("_answers", "_answers_max", "_events", "messages")

    def __init__(self, answers_max: int) -> None:
        self.messages: list[Write | Snapshot] = []
        self._answers_max = answers_max
        self._answers = self._events = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be put in."""
        return self._answers >= self._answers_max or max(self._events, len(self.messages)) >= GROUP_EVENTS_MAX

    def put(self, message: Write | Snapshot) -> bool:
        """Put in a message, if there is room for it; returns whether there was."""
        if isinstance(message, Write):
            answers, events = self._answers + max(message.answer_count, 1), self._events + message.event_count
            if self._answers and (answers > self._answers_max or events > GROUP_EVENTS_MAX):
                return False
            self._answers, self._events = answers, events
        self.messages.append(message)
        return True
