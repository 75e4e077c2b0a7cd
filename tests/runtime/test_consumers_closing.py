"""Durable subscriptions while others come and go, and while the runtime closes."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import trio
import trio.testing
from bank_domain import Account, Deposit
from consumer_cases import QUICK, expect_nothing, take
from waiting import until_while_the_clock_stands

from eventsrc import ConsumerLeft, Message, Runtime, RuntimeClosed
from eventsrc.storage.control.board import ControlBoard


async def test_what_is_parked_is_listed_while_others_begin_to_consume(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Account], limits=QUICK) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))

        async def begin() -> None:
            for number in range(20):
                async with runtime.consume(f"other-{number}") as consumer:
                    (message,) = await take(consumer, 1)
                    message.ack_soon()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(begin)
            for _ in range(20):
                assert await runtime.subscriptions.parked() == []


async def test_what_is_acknowledged_after_the_end_of_its_runtime_is_not_kept(tmp_path: Path) -> None:
    # The consumer ends after the runtime: it is not told to leave.
    opened = Runtime.open(tmp_path / "store", aggregates=[Account], limits=QUICK)
    runtime = await opened.__aenter__()
    for name in ("ann", "bob"):
        await runtime.actor(Account, name).ask(Deposit(1))
    consuming = runtime.consume("mailer")
    consumer = await consuming.__aenter__()
    first, second = await take(consumer, 2)
    await first.ack()
    await opened.__aexit__(None, None, None)
    with trio.fail_after(10), pytest.raises(RuntimeClosed):
        await second.ack()
    await consuming.__aexit__(None, None, None)
    async with (
        Runtime.open(tmp_path / "store", aggregates=[Account], limits=QUICK) as again,
        again.consume("mailer") as consumer,
    ):
        assert [message.event for message in await take(consumer, 1)] == [second.event]


async def test_what_is_acknowledged_while_the_runtime_closes_is_kept(tmp_path: Path) -> None:
    async def acknowledge(message: Message, begun: trio.Event) -> None:
        begun.set()
        await message.ack()

    async with (
        trio.open_nursery() as nursery,
        Runtime.open(tmp_path / "store", aggregates=[Account], limits=QUICK) as runtime,
    ):
        await runtime.actor(Account, "ann").ask(Deposit(1))
        async with runtime.consume("mailer") as consumer:
            (message,) = await take(consumer, 1)
            begun = trio.Event()
            nursery.start_soon(acknowledge, message, begun)
            await begun.wait()
    async with (
        Runtime.open(tmp_path / "store", aggregates=[Account], limits=QUICK) as again,
        again.consume("mailer") as consumer,
    ):
        await expect_nothing(consumer)


async def test_progress_that_cannot_be_stored_for_any_reason_is_stored_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Account], limits=QUICK) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
        async with runtime.consume("mailer") as consumer:
            (message,) = await take(consumer, 1)
            with monkeypatch.context() as patched:
                patched.setattr(ControlBoard, "save", fail := Mock(side_effect=RuntimeError("can't start new thread")))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(message.ack)
                    await until_while_the_clock_stands(lambda: fail.call_count > 1)
                    nursery.cancel_scope.cancel()
    async with (
        Runtime.open(tmp_path / "store", aggregates=[Account], limits=QUICK) as again,
        again.consume("mailer") as consumer,
    ):
        await expect_nothing(consumer)


async def test_a_consumer_that_has_left_is_handed_nothing(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Account], limits=QUICK) as runtime:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(ConsumerLeft, match="'mailer' has left"):
                    await anext(waiting)

            async with runtime.consume("mailer") as waiting:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
            await runtime.actor(Account, "ann").ask(Deposit(1))
        with pytest.raises(ConsumerLeft):
            await anext(waiting)
        async with runtime.consume("mailer") as consumer:
            assert [message.event.position for message in await take(consumer, 1)] == [1]
