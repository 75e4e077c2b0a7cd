"""Callers that are cancelled at each of their steps: what they asked for is done once or not at all; others go on."""

import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import pytest
import trio
from bank_domain import Account, Deposit, Deposited, Noted
from bank_views import Balances
from cancelled_at_step import Moment, cancelled_at_step
from compaction_cases import LIMITS, fill, sound
from consumer_cases import take_positions

from eventsrc import (
    Aggregate,
    CompactionRefused,
    EventQuery,
    Runtime,
    Saga,
    SagaContext,
    SagaEnded,
    applies,
    command,
    event,
    handles,
    step,
)

Ask: TypeAlias = Callable[[Runtime, str], Awaitable[Any]]
"""Has something done once, however often it is called with the same id of an account."""
MOMENTS = pytest.mark.parametrize(("moment", "stride"), [("before", 2), ("after", 1), ("meanwhile", 4)])


@command
class Forward:
    account: str


@event("teller.forwarded")
class Forwarded:
    account: str


class Teller(Aggregate):
    """Asks another aggregate while it decides."""

    runtime: ClassVar[Runtime]

    @handles
    async def forward(self, command: Forward) -> Forwarded:
        account = Teller.runtime.actor(Account, command.account)
        await account.ask(Deposit(1), idempotency_key=command.account)
        return Forwarded(command.account)

    @applies
    def forwarded(self, event: Forwarded) -> None:
        pass


class DepositTwice(Saga, signals=["go"]):
    account: str

    @step
    async def first(self, ctx: SagaContext) -> None:
        await ctx.ask(Account, self.account, Deposit(1))

    @step
    async def second(self, ctx: SagaContext) -> None:
        await ctx.approval("go")
        await ctx.ask(Account, self.account, Deposit(2))


async def ask(runtime: Runtime, account: str) -> None:
    await runtime.actor(Account, account).ask(Deposit(1), idempotency_key=account, wait_for=[Balances])


async def ask_unless(runtime: Runtime, account: str) -> None:
    nowhere = EventQuery(types=[Noted])
    await runtime.actor(Account, account).ask(Deposit(1), idempotency_key=account, unless=nowhere)


async def ask_many(runtime: Runtime, account: str) -> None:
    keys = [f"{account}-{number}" for number in range(250)]
    await runtime.actor(Account, account).ask_many([Deposit(1)] * 250, idempotency_keys=keys)


async def delete(runtime: Runtime, account: str) -> None:
    await runtime.actor(Account, account).ask(Deposit(1), idempotency_key=account)
    await runtime.actor(Account, account).delete("asked for", idempotency_key=f"{account}-end")


async def transact(runtime: Runtime, account: str) -> None:
    commands = [(Account, account, Deposit(1)), (Account, "bob", Deposit(1)), (Account, account, Deposit(2))]
    await runtime.transact(commands, unchanged=[(Account, "joe", 0)], idempotency_key=account, wait_for=[Balances])


async def ask_who_asks(runtime: Runtime, account: str) -> None:
    await runtime.actor(Teller, "1").ask(Forward(account), idempotency_key=account)


async def run_saga(runtime: Runtime, account: str) -> None:
    saga = await runtime.start_saga(DepositTwice(account), key=account)
    with suppress(SagaEnded):
        await saga.signal("go")
    assert (await saga.wait()).state == "completed"


@MOMENTS
@pytest.mark.parametrize(
    ("asking", "amounts"),
    [
        (ask, [1]),
        (ask_unless, [1]),
        (ask_many, [1] * 250),
        (delete, [1]),
        (transact, [1, 2]),
        (ask_who_asks, [1]),
        (run_saga, [1, 2]),
    ],
)
async def test_it_takes_effect_once(
    tmp_path: Path, asking: Ask, amounts: list[int], moment: Moment, stride: int
) -> None:
    classes: dict[str, Any] = {"aggregates": [Account, Teller], "projections": [Balances], "sagas": [DepositTwice]}
    async with Runtime.open(tmp_path / "store", **classes) as runtime:
        Teller.runtime = runtime
        bob = runtime.actor(Account, "bob")
        for number in itertools.count(step=stride):
            account = f"ann-{number}"
            attempt = await cancelled_at_step(number, partial(asking, runtime, account), moment=moment)
            assert attempt.error is None
            with trio.fail_after(60):
                await bob.ask(Deposit(1), wait_for=[Balances])
                await asking(runtime, account)
            deposits = runtime.events(stream=f"account-{account}", types=Deposited)
            assert [deposited.payload["amount"] async for deposited in deposits] == amounts
            if asking is not delete:
                assert (await runtime.actor(Account, account).state()).balance == sum(amounts)
            if attempt.is_over:
                break
        bobs = [deposited.payload["amount"] async for deposited in runtime.events(stream="account-bob")]
        assert (await bob.state()).balance == sum(bobs) == len(bobs)
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
    assert sound(tmp_path / "store")


@pytest.mark.parametrize("asking", [ask, ask_unless, ask_many, delete, transact, ask_who_asks, run_saga])
@pytest.mark.parametrize("is_idle", [True, False])
async def test_a_caller_that_is_cancelled_already_asks_for_nothing(tmp_path: Path, asking: Ask, is_idle: bool) -> None:
    classes: dict[str, Any] = {"aggregates": [Account, Teller], "projections": [Balances], "sagas": [DepositTwice]}
    async with Runtime.open(tmp_path / "store", **classes) as runtime:
        Teller.runtime = runtime
        bob = runtime.actor(Account, "bob")
        if is_idle:
            await runtime.actor(Account, "ann").ask(Deposit(5))
            await runtime.actor(Teller, "1").ask(Forward("ann"))
        await bob.ask(Deposit(1))
        position = runtime.last_position
        with trio.CancelScope() as scope:
            scope.cancel()
            await asking(runtime, "ann")
        assert scope.cancelled_caught
        await bob.ask(Deposit(1), wait_for=[Balances])
        assert runtime.last_position == position + 1


@pytest.mark.parametrize("first_step", range(3))
async def test_a_store_whose_opening_or_closing_is_cancelled_is_opened_at_once(tmp_path: Path, first_step: int) -> None:
    classes: dict[str, Any] = {"aggregates": [Account], "projections": [Balances], "sagas": [DepositTwice]}

    async def use(account: str) -> None:
        async with Runtime.open(tmp_path / "store", **classes) as runtime:
            await ask(runtime, account)

    done: list[str] = []
    for number in itertools.count(first_step, 7):
        account = f"ann-{number}"
        attempt = await cancelled_at_step(number, partial(use, account), moment="after")
        assert attempt.error is None
        with trio.fail_after(60):
            await use(account)
        done.append(f"account-{account}")
        if attempt.is_over:
            break
    async with Runtime.open(tmp_path / "store", **classes) as runtime:
        heads = [(head.stream, head.version) async for head in runtime.streams()]
    assert heads == [(stream, 1) for stream in sorted(done)]
    assert sound(tmp_path / "store")


@MOMENTS
async def test_a_consumer_hands_on_what_it_did_not_acknowledge(tmp_path: Path, moment: Moment, stride: int) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 4)
        for number in itertools.count(step=stride):
            acknowledged: list[int] = []

            async def consume(name: str, acknowledged: list[int] = acknowledged) -> None:
                async with runtime.consume(name) as consumer:
                    for _ in range(2):
                        message = await anext(consumer)
                        acknowledged.append(message.event.position)
                        await message.ack()

            attempt = await cancelled_at_step(number, partial(consume, f"mailer-{number}"), moment=moment)
            assert attempt.error is None
            async with runtime.consume(f"mailer-{number}") as consumer:
                rest = await take_positions(consumer, 4 - len(acknowledged))
            assert acknowledged + rest == [1, 2, 3, 4]
            if attempt.is_over:
                break


@pytest.mark.parametrize("asked", ["compact", "uncompact"])
async def test_what_is_compacted_is_all_there(tmp_path: Path, asked: str) -> None:
    async def put_back(runtime: Runtime) -> None:
        with suppress(CompactionRefused):
            await runtime.maintenance.uncompact(Account, "ann")

    async with Runtime.open(tmp_path / "store", aggregates=[Account], limits=LIMITS) as runtime:
        await fill(runtime)
        before = [stored async for stored in runtime.events()]
        for number in itertools.count(step=6):
            if asked == "uncompact":
                await runtime.maintenance.compact(Account, "ann")
            work = partial(getattr(runtime.maintenance, asked), Account, "ann")
            attempt = await cancelled_at_step(number, work, moment="after")
            assert attempt.error is None
            assert [stored async for stored in runtime.events()] == before
            with trio.fail_after(60):
                await put_back(runtime)
            if attempt.is_over:
                break
    assert sound(tmp_path / "store")
