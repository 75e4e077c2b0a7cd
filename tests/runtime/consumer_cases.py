"""What the tests of durable subscriptions share."""

import trio
import trio.testing

from eventsrc import Consumer, Limits, Message

QUICK = Limits(restart_backoff_seconds=0.001, restart_backoff_seconds_max=0.002)


async def take(consumer: Consumer, count: int) -> list[Message]:
    """The next messages, all of them in hand."""
    with trio.fail_after(60):
        return [await anext(consumer) for _ in range(count)]


async def take_positions(consumer: Consumer, count: int) -> list[int]:
    """The positions of the next events, each acknowledged."""
    found = []
    for _ in range(count):
        (message,) = await take(consumer, 1)
        found.append(message.event.position)
        await message.ack()
    return found


async def expect_nothing(consumer: Consumer) -> None:
    """See that nothing is handed out by the time at which nobody has anything to do, however long that takes.

    Not for a reader, which looks at the log all the time.
    """
    found: list[Message] = []

    async def wait() -> None:
        found.append(await anext(consumer))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked(0.05)  # what is done in threads may still bring something
        nursery.cancel_scope.cancel()
    assert found == []
