"""An older copy of the log in the store's place: what follows the log goes on with what is new, or says why not."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from bank_domain import Account, Deposit, Deposited
from consumer_cases import QUICK, expect_nothing, take, take_positions

from eventsrc import EventMeta, Runtime, Saga, SagaContext, SubscriptionDiverged, starts_on, step
from eventsrc.storage.environment.folder import DATA_FILE


@asynccontextmanager
async def opened(path: Path, deposits: int) -> AsyncIterator[Runtime]:
    """The store, with so many events more."""
    async with Runtime.open(path, aggregates=[Account], limits=QUICK) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * deposits)
        yield runtime


def restore(store: Path, backup: Path) -> None:
    """Put the copy in the place of the store's log, and leave everything beside it as it is."""
    shutil.copy(backup / DATA_FILE, store / DATA_FILE)


async def test_a_subscription_goes_on_where_the_restored_log_ends(tmp_path: Path) -> None:
    store, backup = tmp_path / "store", tmp_path / "backup"
    async with opened(store, 3) as runtime:
        await runtime.backup(backup)
    async with opened(store, 5) as runtime, runtime.consume("mailer") as consumer:
        assert await take_positions(consumer, 6) == [1, 2, 3, 4, 5, 6]
    restore(store, backup)
    async with opened(store, 4) as runtime, runtime.consume("mailer") as consumer:
        assert await take_positions(consumer, 4) == [4, 5, 6, 7], "these are other events than those of before"
        await expect_nothing(consumer)


async def test_what_is_pending_in_the_restored_log_is_handed_out_and_what_was_parked_beyond_it_is_not(
    tmp_path: Path,
) -> None:
    store, backup = tmp_path / "store", tmp_path / "backup"
    async with opened(store, 3) as runtime:
        await runtime.backup(backup)
        async with runtime.consume("mailer") as consumer:
            assert await take_positions(consumer, 2) == [1, 2]
    async with opened(store, 2) as runtime:
        await runtime.actor(Account, "bob").ask(Deposit(1))
        async with runtime.consume("mailer") as consumer:
            for _ in range(5):
                first, second = await take(consumer, 2)
                for message in (first, second):
                    message.fail("no luck") if message.event.stream == "account-bob" else message.release()
        assert [event.position for event in await runtime.subscriptions.parked("mailer")] == [6]
    restore(store, backup)
    async with opened(store, 1) as runtime:
        assert await runtime.subscriptions.parked("mailer") == []
        async with runtime.consume("mailer") as consumer:
            assert await take_positions(consumer, 2) == [3, 4]
            await expect_nothing(consumer)


async def test_a_subscription_whose_history_has_gone_another_way_stops(tmp_path: Path) -> None:
    store, backup = tmp_path / "store", tmp_path / "backup"
    async with opened(store, 3) as runtime:
        await runtime.backup(backup)
    async with opened(store, 2):
        pass
    async with (
        Runtime.open(store, role="reader", views=tmp_path / "reader") as reader,
        reader.consume("mailer") as consumer,
    ):
        assert await take_positions(consumer, 5) == [1, 2, 3, 4, 5]
    restore(store, backup)
    async with opened(store, 4):
        pass
    async with Runtime.open(store, role="reader", views=tmp_path / "reader") as reader:
        with pytest.raises(SubscriptionDiverged, match="has come to position 5 of another history"):
            async with reader.consume("mailer"):
                pass
        await reader.subscriptions.delete("mailer")
        async with reader.consume("mailer", after=3) as consumer:
            assert await take_positions(consumer, 4) == [4, 5, 6, 7]


greeted: list[int] = []


class Greet(Saga):
    """Started by each deposit."""

    version: int

    @classmethod
    @starts_on(Deposited)
    def begin(cls, event: Deposited, meta: EventMeta) -> "Greet":
        return cls(meta.version)

    @step()
    async def hello(self, ctx: SagaContext) -> None:
        greeted.append(self.version)


async def test_sagas_are_started_by_what_comes_after_the_restored_log(tmp_path: Path) -> None:
    store, backup = tmp_path / "store", tmp_path / "backup"

    async def run(deposits: int) -> list[int]:
        greeted.clear()
        async with Runtime.open(store, aggregates=[Account], sagas=[Greet]) as runtime:
            await runtime.actor(Account, "ann").ask_many([Deposit(1)] * deposits)
            with trio.fail_after(10):
                while len(greeted) < deposits:
                    await trio.sleep(0.01)
        return sorted(greeted)

    assert await run(2) == [1, 2]
    async with opened(store, 0) as runtime:
        await runtime.backup(backup)
    assert await run(4) == [3, 4, 5, 6]
    restore(store, backup)
    assert await run(2) == [3, 4]
