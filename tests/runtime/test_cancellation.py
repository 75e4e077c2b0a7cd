"""Whoever is cancelled, at whichever of its steps: nothing is lost or done twice, and nobody else is harmed."""

import trio
from bank_domain import Account, Deposit

from eventsrc import MemoryLog, Runtime
from eventsrc.storage.record import StoredEvent


async def test_a_sink_that_is_cancelled_gives_the_event_in_hand_back() -> None:
    seen: list[int] = []

    async def index(event: StoredEvent) -> None:
        seen.append(event.position)
        if len(seen) == 2:
            running.cancel()
            await trio.lowlevel.checkpoint()
        if event.position == 3:
            running.cancel()

    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 3)
        with trio.fail_after(60):
            async with runtime.consume("search") as consumer:
                for _ in range(2):
                    with trio.CancelScope() as running:
                        await consumer.run(index)
    assert seen == [1, 2, 2, 3]
