"""A consumer: hands a program the events of a durable subscription."""

import inspect
import logging
from collections.abc import Awaitable, Callable

from ...storage.record import StoredEvent
from ..errors import ArgumentInvalid, ConsumerLeft
from ..trio_thread import check_on_trio
from .dispatcher import Dispatcher
from .message import Message

logger = logging.getLogger("eventsrc.subscription")


class Consumer:
    """One consumer of a subscription: `async for message in consumer`, or `await consumer.run(handler)`."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._in_hand: list[Message] = []
        self._has_left = False

    def __aiter__(self) -> "Consumer":
        return self

    async def __anext__(self) -> Message:
        """The next event. Ends when the runtime closes.

        Raises `SubscriptionDeleted`, `SubscriptionFull`, `ConsumerLeft` outside of its block.
        """
        check_on_trio("A consumer", "portal.iterate(consumer) or portal.call(consumer.run, handler)")
        message = None if self._has_left else await self._dispatcher.next_message()
        if self._has_left:
            if message is not None:
                message.release()
            raise ConsumerLeft(self._dispatcher.name)
        if message is None:
            raise StopAsyncIteration
        self._in_hand = [each for each in self._in_hand if each.is_in_hand]
        self._in_hand.append(message)
        return message

    async def run(self, handler: Callable[[StoredEvent], Awaitable[None]]) -> None:
        """Feed a sink: call `handler` with each event; acknowledged when it returns, failed when it raises.

        The handler gets each event at least once: the consumer goes on without waiting for the disk, so the handler may
        get an event again after a crash. A cancelled consumer gives back the event in hand.

        Raises `ArgumentInvalid` for what is no function of one argument, or not async; an event that was handed to it
        stays unacknowledged.
        """
        _check_handler(handler)
        async for message in self:
            try:
                handled = handler(message.event)
                if inspect.isawaitable(handled):
                    await handled
            except Exception as error:
                position = message.event.position
                logger.warning("a handler failed at position %d: %r", position, error, extra={"position": position})
                message.fail(error)
            except BaseException:
                # Cancelled: no handler failed, and the next consumer gets the event.
                message.release()
                raise
            else:
                if not inspect.isawaitable(handled):
                    raise ArgumentInvalid("handler", handler, "run() needs an async function: write async def")
                message.ack_soon()

    def leave(self) -> None:
        """Give back the messages that were not acknowledged, and take no more."""
        self._has_left = True
        for message in self._in_hand:
            message.release()


def _check_handler(handler: object) -> None:
    """Raise `ArgumentInvalid` for what cannot be called with an event: it would fail with each, and park them all."""
    advice = "give an async function of one argument, the stored event: async def index(event)"
    if not callable(handler):
        raise ArgumentInvalid("handler", handler, advice)
    try:
        inspect.signature(handler).bind(None)
    except TypeError as error:
        raise ArgumentInvalid("handler", handler, f"{advice} ({error})") from error
    except ValueError:
        # Some C functions have no signature.
        return
