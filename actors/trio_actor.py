"""The actor kind of this package: Pykka's model, with a trio task as the loop."""

import functools
import itertools
import logging
import sys
import uuid
from collections.abc import Awaitable
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import pykka
import trio
from pykka.messages import _ActorStop

from .future import TrioFuture
from .mailbox import Mailbox, answer, answer_error

if TYPE_CHECKING:
    from pykka._envelope import Envelope

logger = logging.getLogger("eventsrc.actor")

# Gives each actor a unique name, at a tenth of the cost of a uuid4.
_URN_PREFIX: Final = f"urn:eventsrc:{uuid.uuid4().hex[:12]}"
_URN_NUMBERS: Final = itertools.count(1)


class TrioActor(pykka.Actor):
    """A Pykka actor whose loop is a trio task: `ref = SomeActor.start(nursery, *args)`.

    Pykka's documentation applies, with these additions. `on_receive`, `on_start`, `on_stop`, `on_failure` and methods
    called through a proxy may be `async def`; the next message waits until they return. `tell` and `ask` work from
    every thread: on trio write `await ref.ask(message, block=False)`, in another thread `ref.ask(message)`. (Assigning
    to a proxy's attribute blocks, so do it only in other threads.) `mailbox_capacity` bounds the mailbox; a full
    mailbox refuses a message with `MailboxFull`. Cancelling the task (its nursery's cancel scope) ends the actor
    without `on_stop`: the message in hand and all waiting messages are answered with `pykka.ActorDeadError`.
    """

    mailbox_capacity: ClassVar[int] = 1_000
    """How many messages may wait before the mailbox refuses more with `MailboxFull`."""

    actor_inbox: Mailbox
    _nursery: trio.Nursery

    @classmethod
    def start(cls, nursery: trio.Nursery, *args: Any, **kwargs: Any) -> pykka.ActorRef[Self]:
        """Make the actor from `args` and `kwargs` and start its task in `nursery`. Call it on the trio thread.

        The actor is not entered in `pykka.ActorRegistry`, a list for the whole process that two runtimes must not share
        and whose removals take time in proportion to its length. Keep the reference.

        Raises:
            RuntimeError: outside of trio, or if the nursery is closed.

        """
        return cls(*args, **kwargs).start_in(nursery)

    def start_in(self, nursery: trio.Nursery) -> pykka.ActorRef[Self]:
        """Start the task of an actor that was made already; `start` makes the actor and starts its task."""
        assert hasattr(self, "_actor_ref"), "call super().__init__() in your override of __init__()"
        self._nursery = nursery
        self._start_actor_loop()
        return self.actor_ref

    # Pykka's __init__ is not called: its uuid4 and threading.Event are a large part of the price of an actor.
    def __init__(self, *_args: Any, mailbox_capacity: int | None = None, **_kwargs: Any) -> None:
        self.actor_urn = self._create_actor_urn()
        self.actor_inbox = self._create_actor_inbox() if mailbox_capacity is None else Mailbox(mailbox_capacity)
        self.actor_stopped = StoppedFlag()  # type: ignore[assignment]
        self._actor_ref = pykka.ActorRef(self)

    def on_start(self) -> Awaitable[None] | None:  # type: ignore[override]
        """Set up before the first message. An exception is logged and stops the actor. May be `async def`."""

    def on_stop(self) -> Awaitable[None] | None:  # type: ignore[override]
        """Clean up after the last message. Not called after a failure or a cancellation. May be `async def`."""

    def on_failure(  # type: ignore[override]
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[None] | None:
        """Clean up after an exception that no caller waits for. May be `async def`."""

    def _create_actor_urn(self) -> str:
        return f"{_URN_PREFIX}:{next(_URN_NUMBERS)}"

    @classmethod
    def _create_actor_inbox(cls) -> Mailbox:
        return Mailbox(cls.mailbox_capacity)

    @staticmethod
    def _create_future() -> TrioFuture[Any]:
        return TrioFuture()

    def _start_actor_loop(self) -> None:
        self._nursery.start_soon(self._actor_loop, name=self.actor_urn)

    # Ctrl-C is for the program's main task, which then closes the runtime in order.
    @trio.lowlevel.enable_ki_protection
    async def _actor_loop(self) -> None:  # type: ignore[override]
        try:
            await self._actor_loop_setup()
            await self._actor_loop_running()
        finally:
            self._actor_loop_teardown()

    async def _actor_loop_setup(self) -> None:  # type: ignore[override]
        try:
            await _finish(self.on_start())
        except Exception:
            self._handle_failure(*sys.exc_info())

    async def _actor_loop_running(self) -> None:  # type: ignore[override]
        while not self.actor_stopped.is_set():
            await self._receive_one(await self.actor_inbox.receive())

    async def _receive_one(self, envelope: "Envelope[Any]") -> None:
        """Handle one envelope and answer it in every case. Raises only what is not an `Exception`."""
        try:
            response = self._handle_receive(envelope.message)
            if isinstance(response, CoroutineType):
                response = await response
            answer(envelope, response)
        except Exception as error:
            if envelope.reply_to is None:
                await self._fail(error)
            else:
                logger.info("Exception returned from %s to caller:", self, exc_info=True)
                answer_error(envelope, error)
        except BaseException:  # trio.Cancelled, or the program is to end
            self.actor_stopped.set()
            _refuse(str(self), "while", envelope)
            raise

    async def _fail(self, error: Exception) -> None:
        """Stop the actor after an exception that no caller waits for, and call `on_failure`."""
        self._handle_failure(type(error), error, error.__traceback__)
        try:
            await _finish(self.on_failure(type(error), error, error.__traceback__))
        except Exception:
            self._handle_failure(*sys.exc_info())

    async def _stop(self) -> None:  # type: ignore[override]
        self.actor_stopped.set()
        try:
            await _finish(self.on_stop())
        except Exception:
            self._handle_failure(*sys.exc_info())

    def _handle_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        logger.error("Unhandled exception in %s:", self, exc_info=exception_value)
        self.actor_stopped.set()

    def _actor_loop_teardown(self) -> None:
        self.actor_stopped.set()
        self.actor_inbox.close(functools.partial(_refuse, str(self), "before"))  # a method would keep the actor alive


class StoppedFlag:
    """The part of `threading.Event` that actors and their references use, without the lock."""

    __slots__ = ("_is_set",)

    def __init__(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        """Tell whether the actor has stopped or is stopping."""
        return self._is_set

    def set(self) -> None:
        """Mark the actor as stopped."""
        self._is_set = True


async def _finish(result: object) -> None:
    if isinstance(result, CoroutineType):
        await result


def _refuse(actor_name: str, when: str, envelope: "Envelope[Any]") -> None:
    """Answer an envelope whose actor stopped before or while handling it."""
    if isinstance(envelope.message, _ActorStop):
        answer(envelope, None)
    elif envelope.reply_to is None:
        logger.warning("%s stopped %s handling a message it was told: %r", actor_name, when, envelope.message)
    else:
        answer_error(envelope, pykka.ActorDeadError(f"{actor_name} stopped {when} handling the message"))
