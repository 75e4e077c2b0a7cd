"""Calls with what cannot be used are told at once, by an error that says what to give instead."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from bank_domain import Account, Deposit
from bank_views import Balances

from eventsrc import (
    ArgumentInvalid,
    AsyncioPortal,
    BlockingPortal,
    MemoryLog,
    NotInAsyncio,
    Runtime,
    RuntimeClosed,
    StoredEvent,
    on_asyncio,
)
from eventsrc.runtime.telemetry import telemetry


@asynccontextmanager
async def bank() -> AsyncIterator[Runtime]:
    async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(5), wait_for=[Balances])
        yield runtime


async def of_two(event: StoredEvent, meta: object) -> None: ...


async def of_none() -> None: ...


@pytest.mark.parametrize("handler", [None, "index", of_two, of_none])
async def test_a_sink_that_would_fail_with_each_event_and_have_all_of_them_parked(handler: Any) -> None:
    async with bank() as runtime, runtime.consume("mailer") as consumer:
        with (
            trio.fail_after(3),
            pytest.raises(ArgumentInvalid, match=r"handler=.*give an async function of one argument"),
        ):
            await consumer.run(handler)


async def test_a_message_is_no_stored_event() -> None:
    async with bank() as runtime, runtime.consume("mailer") as consumer:
        message: Any = await anext(consumer)
        with pytest.raises(ArgumentInvalid, match=r"give a stored event, such as message\.event"):
            runtime.decode(message)
        assert runtime.decode(message.event).amount == 5


@pytest.mark.parametrize("keys", ["ab", (key for key in "ab"), 5])
async def test_idempotency_keys_that_are_no_list(keys: Any) -> None:
    async with bank() as runtime:
        with pytest.raises(ArgumentInvalid, match=r"idempotency_keys=.*give a list with one for each command"):
            await runtime.actor(Account, "ann").ask_many([Deposit(1), Deposit(2)], idempotency_keys=keys)
        assert runtime.last_position == 1


async def test_what_a_transaction_cannot_be_made_of() -> None:
    async with bank() as runtime:
        nothing: Any = None
        with pytest.raises(ArgumentInvalid, match="commands=None cannot be used: give a list of tuples"):
            await runtime.transact(nothing)
        version: Any = 1.0
        with pytest.raises(ArgumentInvalid, match=r"unchanged=1\.0 cannot be used: give a number"):
            await runtime.transact([(Account, "bob", Deposit(1))], unchanged=[(Account, "ann", version)])


async def test_a_replay_with_an_option_that_there_is_not() -> None:
    async with bank() as runtime:
        options: Any = {"until": 5}
        with pytest.raises(ArgumentInvalid, match=r"until=5 .*no such option; further ones are .*to_position, to_time"):
            runtime.replay("full", into=print, **options)


async def test_telemetry_of_what_is_no_runtime() -> None:
    for other in (None, Runtime, Runtime.open(MemoryLog())):
        wrong: Any = other
        with pytest.raises(ArgumentInvalid, match=r"runtime=.*that of a portal is portal\.runtime"), telemetry(wrong):
            pass


# --- after closing


@pytest.mark.parametrize(
    "change",
    [
        lambda runtime: runtime.projections.pause(Balances),
        lambda runtime: runtime.projections.resume(Balances),
        lambda runtime: runtime.projections.rebuild(Balances),
        lambda runtime: runtime.forget("ann"),
    ],
)
async def test_a_change_that_comes_after_closing(change: Callable[[Runtime], Awaitable[object]]) -> None:
    async with bank() as runtime:
        pass
    with pytest.raises(RuntimeClosed, match=r"runtime (was )?closed"):
        await change(runtime)


# --- portals


@pytest.mark.parametrize("portal", [AsyncioPortal, BlockingPortal])
@pytest.mark.parametrize("opening", ["bank.db", None, MemoryLog(), Runtime, Runtime.open])
def test_a_portal_for_what_opens_no_runtime(portal: Callable[[Any], object], opening: Any) -> None:
    with pytest.raises(ArgumentInvalid, match=r"opening=.*give Runtime\.open\(\.\.\.\), which is not entered yet"):
        portal(opening)


def test_what_a_portal_can_neither_iterate_nor_enter() -> None:
    with BlockingPortal(Runtime.open(MemoryLog(), aggregates=[Account])) as portal:
        for given in (portal.runtime.events, [1], None):
            wrong: Any = given
            with pytest.raises(ArgumentInvalid, match=r"items=.*portal\.iterate\(runtime\.events\(\)\)"):
                portal.iterate(wrong)
        for given in (portal.runtime.consume, None):
            wrong = given
            with pytest.raises(ArgumentInvalid, match=r"manager=.*give an asynchronous one"), portal.enter(wrong):
                pass


def test_what_an_asyncio_portal_can_neither_iterate_nor_enter() -> None:
    async def main() -> None:
        async with AsyncioPortal(Runtime.open(MemoryLog(), aggregates=[Account])) as portal:
            wrong: Any = portal.runtime.events
            with pytest.raises(ArgumentInvalid, match="items="):
                portal.iterate(wrong)
            with pytest.raises(ArgumentInvalid, match="manager="):
                async with portal.enter(wrong):
                    pass

    asyncio.run(main())


async def test_an_asyncio_portal_on_trio() -> None:
    with pytest.raises(NotInAsyncio, match=r"On trio open the runtime itself: `async with Runtime\.open\(\.\.\.\)`"):
        async with AsyncioPortal(Runtime.open(MemoryLog())):
            pass


def test_a_function_of_asyncio_that_was_called_already() -> None:
    wrong: Any = None
    with pytest.raises(ArgumentInvalid, match=r"without calling it: on_asyncio\(client\.complete\)"):
        on_asyncio(wrong)
