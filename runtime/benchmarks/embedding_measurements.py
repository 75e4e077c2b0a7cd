"""Measurements of a runtime embedded in a program on asyncio: the cost of sending commands from asyncio."""

import asyncio
import time
from pathlib import Path
from typing import Final

import msgspec
import trio

from ..embedding.asyncio_portal import AsyncioPortal
from ..runtime import Runtime
from .measurements import LIMITS, Account, Deposit

CLIENTS: Final = 100
ROUNDS: Final = 4
"""How often each of the two is measured, in turns: the disk's speed changes within seconds."""


class Rates(msgspec.Struct, frozen=True):
    """Durable commands a second of equally many clients, on trio or on asyncio."""

    on_trio: float
    on_asyncio: float


def concurrent_asks(store: Path, *, commands: int) -> Rates:
    """Each client sends to an aggregate of its own, the next command when the last one is answered."""
    return asyncio.run(_concurrent_asks(store, commands // CLIENTS // ROUNDS))


async def _concurrent_asks(store: Path, commands_of_each: int) -> Rates:
    async with AsyncioPortal(Runtime.open(store, aggregates=[Account], limits=LIMITS)) as portal:
        accounts = [portal.runtime.actor(Account, f"client-{number}") for number in range(CLIENTS)]

        async def on_trio(count: int) -> None:
            async def client(number: int) -> None:
                for _ in range(count):
                    await accounts[number].ask(Deposit(1))

            async with trio.open_nursery() as nursery:
                for number in range(CLIENTS):
                    nursery.start_soon(client, number)

        async def on_asyncio(count: int) -> None:
            async def client(number: int) -> None:
                for _ in range(count):
                    await portal.call(accounts[number].ask, Deposit(1))

            await asyncio.gather(*map(client, range(CLIENTS)))

        await portal.call(on_trio, 1)
        on_trio_seconds = on_asyncio_seconds = 0.0
        for _ in range(ROUNDS):
            started = time.perf_counter()
            await portal.call(on_trio, commands_of_each)
            between = time.perf_counter()
            await on_asyncio(commands_of_each)
            on_trio_seconds += between - started
            on_asyncio_seconds += time.perf_counter() - between
        count = CLIENTS * ROUNDS * commands_of_each
        return Rates(count / on_trio_seconds, count / on_asyncio_seconds)
