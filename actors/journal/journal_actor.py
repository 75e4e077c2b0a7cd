"""The journal's actor: the one thread that writes. It stores the commits that wait in one transaction.

An LMDB write transaction belongs to the thread that began it, so the storage needs a thread actor. The actor drains its
inbox into one group commit, syncs once, then settles every answer with one hop back to trio.
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
"""The maximum of events, and of answers, in one group commit; a single write may have more of either."""
GROUP_ANSWERS_MIN: Final = 16
"""The lower bound of `group_answers_max`: up to this many answers share a group commit even on the fastest disk."""
DISK_SHARE_SECONDS: Final = 20e-6
"""The disk time per answer that a group is sized for, in seconds. The interpreter needs as much time per answer, so a
larger group would only delay its first answers."""

logger = logging.getLogger("eventsrc.journal")


class JournalActor(pykka.ThreadingActor):
    """Writes the batches of its inbox; calls `settle` on this thread with the outcomes of each batch."""

    # A program that must stop at once does not wait for this thread. In an orderly end `ThreadJournal.close` waits.
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
        assert isinstance(message, Batch | Work), f"the journal was sent {message!r}"
        try:
            if isinstance(message, Work):
                self._work(message)
            else:
                self._write(message)
        except Exception as error:
            # A handler or filter of the program's logging, say: who waits is told, and the journal stays alive.
            self._fail(message, JournalFailed(self._order.path, error))

    def _write(self, batch: "Batch") -> None:
        settled = self._order.write(batch.messages)
        worthwhile = int(self._order.disk_seconds / DISK_SHARE_SECONDS)
        self.actor_inbox.group_answers_max = min(max(worthwhile, GROUP_ANSWERS_MIN), GROUP_EVENTS_MAX)
        self._settle(settled)

    def _work(self, work: Work) -> None:
        try:
            outcome = work.run()
        except EventSourcingError as error:
            outcome = error
        except Exception as error:
            logger.exception("the journal failed at work")
            outcome = JournalFailed(self._order.path, error)
        work.settle(outcome)

    def _fail(self, message: "Batch | Work", failure: JournalFailed) -> None:
        if isinstance(message, Work):
            message.settle(failure)
        else:
            self._settle(self._order.fail(message.messages, failure))


class JournalInbox:
    """An inbox that hands out all waiting writes as one batch, which the actor commits as one group."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Envelope[Any]] = queue.SimpleQueue()
        self._held: deque[Envelope[Any]] = deque()
        self.group_answers_max = GROUP_ANSWERS_MIN

    def put(self, envelope: "Envelope[Any]", /) -> None:
        self._queue.put(envelope)

    def empty(self) -> bool:
        return not self._held and self._queue.empty()

    def get(self) -> "Envelope[Any]":
        """Wait for a message and batch the writes behind it, up to the bounds; keep the first one that does not fit."""
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
    """The writes and snapshots that one group commit takes from the inbox.

    A snapshot takes no room: it is stored with the group and is no reason for its own sync. A single write may exceed
    the group's bounds.
    """

    __slots__ = ("_answers", "_answers_max", "_events", "messages")

    def __init__(self, answers_max: int) -> None:
        self.messages: list[Write | Snapshot] = []
        self._answers_max = answers_max
        self._answers = self._events = 0

    @property
    def is_full(self) -> bool:
        """Whether the batch takes no more messages."""
        return self._answers >= self._answers_max or max(self._events, len(self.messages)) >= GROUP_EVENTS_MAX

    def put(self, message: Write | Snapshot) -> bool:
        """Add a message if there is room for it. Returns whether it was added."""
        if isinstance(message, Write):
            answers, events = self._answers + max(message.answer_count, 1), self._events + message.event_count
            if self._answers and (answers > self._answers_max or events > GROUP_EVENTS_MAX):
                return False
            self._answers, self._events = answers, events
        self.messages.append(message)
        return True
