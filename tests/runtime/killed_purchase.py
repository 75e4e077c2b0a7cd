"""A saga that an event starts, run by a process that kills itself: at the append to the log that it is told.

python killed_purchase.py STORE TOTAL NUMBER before|after
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import trio
from shop_domain import Create, Created, Order, PutBack, Stock, Take

from eventsrc import EffectUncertain, EventMeta, Runtime, Saga, SagaContext, starts_on, step
from eventsrc.storage.commit import Appended, Commit
from eventsrc.storage.errors import EventSourcingError
from eventsrc.storage.log import EventLog
from eventsrc.storage.snapshot import Snapshot


class Ledger:
    """Stands outside: what took place is a line of a file, which a killed process leaves as it is."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[str]:
        return self._path.read_text().splitlines() if self._path.exists() else []

    def write(self, kind: str, idempotency_key: str) -> str:
        with self._path.open("a") as file:
            file.write(f"{kind} {idempotency_key}\n")
        return idempotency_key


class Purchase(Saga, signals=["go"]):
    """Takes one, charges, waits for a time and for a signal, and takes the rest; over 100 are out of stock."""

    ledger: ClassVar[Ledger]

    total: int
    payment: str = ""

    @starts_on(Created)
    @classmethod
    def on_created(cls, event: Created, meta: EventMeta) -> "Purchase":
        return cls(event.total)

    @step(compensation="put_back")
    async def reserve(self, ctx: SagaContext) -> None:
        await ctx.ask(Stock, "all", Take(1))

    @step(compensation="refund")
    async def charge(self, ctx: SagaContext) -> None:
        self.payment = await self.once(ctx, "charge")

    @step()
    async def rest(self, ctx: SagaContext) -> None:
        await ctx.sleep(seconds=0.001)
        await ctx.approval("go")
        await ctx.ask(Stock, "all", Take(self.total))

    async def refund(self, ctx: SagaContext) -> None:
        await self.once(ctx, "refund")

    async def put_back(self, ctx: SagaContext) -> None:
        await ctx.ask(Stock, "all", PutBack(1))

    async def once(self, ctx: SagaContext, kind: str) -> str:
        """The ledger does not know keys, so it is looked into where nobody knows whether it was written."""
        try:
            return str(await ctx.effect(kind, self.ledger.write, kind))
        except EffectUncertain as uncertain:
            key = uncertain.idempotency_key
            if f"{kind} {key}" not in self.ledger.lines():
                await ctx.effect("again", self.ledger.write, kind, idempotency_key=key, idempotent=True)
            return key


async def to_its_end(store: Path, total: int) -> tuple[str, list[int], list[str]]:
    """Have it started, and go on with it: its state, what became of the stock, and the ledger's kinds of lines."""
    Purchase.ledger = Ledger(store.with_suffix(".ledger"))
    async with Runtime.open(store, aggregates=[Order, Stock], sagas=[Purchase]) as runtime:
        await runtime.actor(Order, "o").ask(Create(total), idempotency_key="o")
        with trio.fail_after(60):
            while not (sagas := await runtime.sagas().rows()) or sagas[0].state not in ("completed", "compensated"):
                if sagas and sagas[0].waits_for_signal:
                    await runtime.signal(Purchase, sagas[0].key, "go")
                await trio.lowlevel.checkpoint()
        assert len(sagas) == 1
        stock = await runtime.actor(Stock, "all").state()
    return sagas[0].state, [stock.count, stock.changes], [line.split()[0] for line in Purchase.ledger.lines()]


class KilledAt:
    """In place of `EventLog.append`: ends the process before or after the n-th."""

    def __init__(self, number: int, when: str) -> None:
        self.left = number
        self.when = when

    def append(
        self, log: EventLog, commits: Sequence[Commit], snapshots: Sequence[Snapshot] = ()
    ) -> list[Appended | EventSourcingError]:
        self.left -= bool(commits)
        if not self.left and self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        outcome = append(log, commits, snapshots)
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome


append = EventLog.append

if __name__ == "__main__":
    killed = KilledAt(int(sys.argv[3]), sys.argv[4])

    def append_or_die(log: EventLog, *args: Any) -> list[Appended | EventSourcingError]:
        return killed.append(log, *args)

    EventLog.append = append_or_die  # type: ignore[method-assign,assignment]
    trio.run(to_its_end, Path(sys.argv[1]), int(sys.argv[2]))
