"""A consumer: what a program takes the events of a durable subscription from."""

import inspect
import logging
from collections.abc import Awaitable, Callable

from ...storage.record import StoredEvent
from ..errors import ConsumerLeft
from ..trio_thread import check_on_trio
from .dispatcher import Dispatcher, Message

logger = logging.getLogger("eventsrc.subscription")


class Consumer:
    """One of those that share a subscription: `async for message in consumer`, or `await consumer.run(handler)`."""

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

        Each event gets there at least once: it goes on without waiting for the disk, so that after a crash the handler
        may see an event again. Where it is cancelled, the event in hand is given back. Raises `TypeError` for a handler
        that is not async, whose events stay unacknowledged.
        """
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
                # Cut off: it is nobody's fault, and whoever comes next is to have it.
                message.release()
                raise
            else:
                if not inspect.isawaitable(handled):
                    raise TypeError(f"run() needs an async function, not {handler!r}: write async def.")
                message.ack_soon()

    def leave(self) -> None:
        """Give back what was not acknowledged, and take nothing more."""
        self._has_left = True
        for message in self._in_hand:
            message.release()
