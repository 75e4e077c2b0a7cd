"""The bounded inbox of a trio actor."""

import logging
import queue
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pykka
import trio
from pykka.messages import _ActorStop

from .errors import MailboxFull
from .future import TrioFuture

if TYPE_CHECKING:
    from pykka._envelope import Envelope

logger = logging.getLogger("eventsrc.actor")


class Mailbox:
    """Holds messages for one actor task, up to a capacity. A request to stop always fits.

    Anyone may `put`; only the actor's task may `receive`. A mailbox belongs to the trio run in which it was made.

    Args:
        capacity: messages that may wait, at least 1. A message with a `weight` counts as that many messages. An empty
            mailbox takes any message.

    """

    # An idle mailbox holds no deque: an empty one takes 624 bytes.
    __slots__ = ("_capacity", "_envelopes", "_refuse", "_token", "_waiter", "_weight")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"A mailbox holds at least one message: capacity={capacity}")
        self._capacity = capacity
        self._envelopes: deque[Envelope[Any]] | None = None
        self._weight = 0
        self._waiter: trio.lowlevel.Task | None = None
        self._refuse: Callable[[Envelope[Any]], None] | None = None
        self._token = trio.lowlevel.current_trio_token()

    def __len__(self) -> int:
        return len(self._envelopes) if self._envelopes is not None else 0

    def empty(self) -> bool:
        """Tell whether the mailbox is empty."""
        return not self._envelopes

    @property
    def capacity(self) -> int:
        """How many messages may wait."""
        return self._capacity

    def put(self, envelope: "Envelope[Any]", /) -> None:
        """Add an envelope, from any thread.

        From a thread other than trio's, the envelope arrives a moment later. If the mailbox is full by then, the answer
        is `MailboxFull`; without a `reply_to`, the refusal is logged as an error.

        Raises:
            MailboxFull: on the trio thread, if the message does not fit beside those that wait.
            pykka.ActorDeadError: if the trio run is over and there is no `reply_to` to answer with this error.

        """
        if trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is self._token:
            self._put_here(envelope)
            return
        try:
            self._token.run_sync_soon(self._put_from_thread, envelope)
        except trio.RunFinishedError:
            error = pykka.ActorDeadError("The trio run that the actor lived in is over")
            if envelope.reply_to is None:
                raise error from None
            answer_error(envelope, error)

    def get(self) -> "Envelope[Any]":
        """Take the oldest envelope without waiting.

        Raises:
            queue.Empty: if there is none.

        """
        if not self._envelopes:
            raise queue.Empty
        return self._taken(self._envelopes.popleft())

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> "Envelope[Any]":
        """Take the oldest envelope; wait if there is none. A checkpoint. A cancelled `receive` takes nothing."""
        if self._envelopes:
            await trio.lowlevel.checkpoint()
        while not self._envelopes:
            assert self._waiter is None, "only the actor's own task may receive"
            self._envelopes = None
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        return self._taken(self._envelopes.popleft())

    def close(self, refuse: Callable[["Envelope[Any]"], None]) -> None:
        """Pass every waiting envelope, and every later one, to `refuse`, which must not raise."""
        self._refuse = refuse
        while self._envelopes:
            refuse(self._envelopes.popleft())
        self._envelopes, self._weight = None, 0

    @trio.lowlevel.enable_ki_protection
    def _put_here(self, envelope: "Envelope[Any]") -> None:
        if self._refuse is not None:
            self._refuse(envelope)
            return
        weight = getattr(envelope.message, "weight", 1)
        if self._envelopes is None:
            self._envelopes = deque()
        elif (
            self._envelopes and self._weight + weight > self._capacity and not isinstance(envelope.message, _ActorStop)
        ):
            raise MailboxFull(self._capacity)
        self._envelopes.append(envelope)
        self._weight += weight
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            trio.lowlevel.reschedule(waiter)

    def _taken(self, envelope: "Envelope[Any]") -> "Envelope[Any]":
        self._weight -= getattr(envelope.message, "weight", 1)
        return envelope

    def _put_from_thread(self, envelope: "Envelope[Any]") -> None:
        try:
            self._put_here(envelope)
        except MailboxFull as error:
            if envelope.reply_to is None:
                logger.error("A message told from another thread was lost: %r: %s", envelope.message, error)
            else:
                answer_error(envelope, error)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._waiter = None
        return trio.lowlevel.Abort.SUCCEEDED


def answer(envelope: "Envelope[Any]", value: object) -> bool:
    """Answer an envelope. Return whether anyone was waiting: False for a tell, or after a timeout."""
    future = envelope.reply_to
    if future is None:
        return False
    if isinstance(future, TrioFuture):
        return future.settle(value)
    try:
        future.set(value)
    except queue.Full:
        return False
    return True


def answer_error(envelope: "Envelope[Any]", error: BaseException) -> bool:
    """Answer an envelope with an error. Return whether anyone was waiting: False for a tell, or after a timeout."""
    future = envelope.reply_to
    if future is None:
        return False
    if isinstance(future, TrioFuture):
        return future.fail(error)
    try:
        future.set_exception((type(error), error, error.__traceback__))
    except queue.Full:
        return False
    return True
