"""Whoever is cancelled, at whichever of its steps: nothing is lost or done twice, and nobody else is harmed."""

import itertools
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from bank_domain import Account, Deposit
from bank_views import Balance, Balances
from cancelled_at_step import Moment, cancelled_at_step
from consumer_cases import take, take_positions

from eventsrc import MemoryLog, Runtime, SubscriptionDeleted
from eventsrc.runtime.projections.generations import RunningProjection
from eventsrc.runtime.projections.projections import Projections
from eventsrc.storage.record import StoredEvent

MOMENTS = pytest.mark.parametrize("moment", ["before", "after"])


def progress_kept(runtime: Runtime) -> set[str]:
    """The subscriptions that go on when the store is opened again."""
    return set(runtime._durable._board.subscriptions())


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
        with trio.fail_after(10):
            async with runtime.consume("search") as consumer:
                for _ in range(2):
                    with trio.CancelScope() as running:
                        await consumer.run(index)
    assert seen == [1, 2, 2, 3]


async def test_a_view_that_is_there_when_the_time_is_over_is_not_too_old(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for = Projections.wait_for

    async def too_long(projections: Projections, running: RunningProjection, position: int) -> None:
        await projections.resume(running.projection_class)
        await wait_for(projections, running, position)
        await trio.sleep_forever()

    monkeypatch.setattr(Projections, "wait_for", too_long)
    async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.projections.pause(Balances)
        receipt = await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        assert await runtime.view(Balances).get("ann", at_least=receipt) == Balance("ann", 1, 1)


@MOMENTS
async def test_a_subscription_is_deleted_or_those_who_consume_it_go_on(tmp_path: Path, moment: Moment) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 3)
        for step in itertools.count():
            name = f"mailer-{step}"
            async with runtime.consume(name) as consumer:
                (message,) = await take(consumer, 1)
                delete = partial(runtime.subscriptions.delete, name)
                attempt = await cancelled_at_step(step, delete, moment=moment)
                if name not in progress_kept(runtime):
                    with pytest.raises(SubscriptionDeleted):
                        await anext(consumer)
                else:
                    await message.ack()
                    assert await take_positions(consumer, 2) == [2, 3]
            if attempt.is_over:
                assert step
                break
