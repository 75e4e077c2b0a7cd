"""One life of a store on which everything goes on at once, until it is killed: python soak_life.py STORE LIFE.

A line is printed for what was answered, after it was.
"""

import itertools
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import trio
from soak_domain import LIMITS, Balances, Credit, Introduce, Owners, SqlBalances, Transfer, Wallet

from eventsrc import CompactionRefused, Runtime
from eventsrc.actors.views.sql import SqlViews

WALLETS = 15


@asynccontextmanager
async def everything(path: Path) -> AsyncIterator[Runtime]:
    """The runtime of a store, with all that there is."""
    Transfer.outside = path.with_suffix(".outside")
    with closing(SqlViews(f"sqlite:///{path.with_suffix('.sqlite')}")) as sql:
        async with Runtime.open(
            path,
            aggregates=[Wallet],
            projections=[Balances, SqlBalances, Owners],
            sagas=[Transfer],
            views={SqlBalances: sql},
            limits=LIMITS,
        ) as runtime:
            yield runtime


def tell(*words: object) -> None:
    # One write of one line.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Life:
    """What goes on in one process."""

    def __init__(self, runtime: Runtime, number: int) -> None:
        self._runtime = runtime
        self._number = number
        self._chance = random.Random(number)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for client in range(4):
                nursery.start_soon(self._credit, client)
                nursery.start_soon(self._transfer, client)
            nursery.start_soon(self._read_mail)
            nursery.start_soon(self._forget)
            nursery.start_soon(self._compact)
            nursery.start_soon(self._rebuild)

    def _any(self) -> str:
        return f"w{self._chance.randrange(WALLETS)}"

    async def _credit(self, client: int) -> None:
        for number in itertools.count():
            operation = f"credit/{self._number}/{client}/{number}"
            wallet = self._runtime.actor(Wallet, self._any())
            receipt = await wallet.ask(Credit(1 + number % 9, operation), idempotency_key=operation)
            tell("credited", operation, receipt.stream, receipt.version, receipt.position)

    async def _transfer(self, client: int) -> None:
        for number in itertools.count():
            operation = f"transfer/{self._number}/{client}/{number}/{self._chance.choice(['wanted', 'unwanted'])}"
            source, target = self._any(), self._any()
            saga = await self._runtime.start_saga(Transfer(source, target, 3, operation), key=operation)
            tell("started", operation)
            if number % 2:
                await saga.wait()

    async def _read_mail(self) -> None:
        async with self._runtime.consume("mail") as mail:
            async for message in mail:
                tell("read", message.event.position, message.event.stream)
                await message.ack()

    async def _forget(self) -> None:
        for number in itertools.count():
            wallet = f"owner{self._number}.{number}"
            await self._runtime.actor(Wallet, wallet).ask(Introduce(f"secret-{wallet}"), wait_for=[Owners])
            tell("introduced", wallet)
            if number % 2:
                await self._runtime.forget(wallet)
                tell("forgot", wallet)

    async def _compact(self) -> None:
        maintenance = self._runtime.maintenance
        while True:
            with suppress(CompactionRefused):
                await maintenance.compact(Wallet, self._any())
                tell("compacted")
            with suppress(CompactionRefused):
                await maintenance.uncompact(Wallet, self._any())
            await trio.sleep(0.001)

    async def _rebuild(self) -> None:
        while True:
            await self._runtime.projections.rebuild(self._chance.choice([Balances, SqlBalances, Owners]))
            await trio.sleep(0.2)


async def main() -> None:
    async with everything(Path(sys.argv[1])) as runtime:
        await Life(runtime, int(sys.argv[2])).run()


if __name__ == "__main__":
    trio.run(main)
