"""A store with everything in it that a store may hold, for the tests that damage it."""

from pathlib import Path

import attrs
import trio

from eventsrc import (
    Aggregate,
    EventMeta,
    Limits,
    Projection,
    Runtime,
    Saga,
    SagaContext,
    Table,
    applies,
    command,
    event,
    handles,
    on,
    step,
)
from eventsrc.storage.evidence.merkle import NODE_LEAVES

WINDOW_SECONDS = 10 * 365 * 86_400.0
LIMITS = Limits(snapshot_every_events=10, compaction_events_min=20, idempotency_window_seconds=WINDOW_SECONDS)


@command
class Deposit:
    amount: int


@command
class Look:
    """Makes no event."""


@event("account.deposited", tags=lambda event: [f"branch:{event.amount % 3}"])
class Deposited:
    amount: int


class Account(Aggregate):
    balance: int = 0

    @handles
    def deposit(self, command: Deposit) -> Deposited:
        return Deposited(command.amount)

    @handles
    def look(self, command: Look) -> None:
        return None

    @applies
    def deposited(self, event: Deposited) -> None:
        self.balance += event.amount


class Pay(Saga):
    amount: int

    @step()
    async def pay(self, ctx: SagaContext) -> None:
        await ctx.ask(Account, "cat", Deposit(self.amount))


@attrs.frozen
class Balance:
    account: str
    amount: int


class Balances(Projection):
    rows = Table(Balance, key="account")

    @on(Deposited)
    def deposited(self, event: Deposited, meta: EventMeta) -> None:
        row = self.rows.get(meta.aggregate_id) or Balance(meta.aggregate_id, 0)
        self.rows.put(attrs.evolve(row, amount=row.amount + event.amount))


def make_store(path: Path) -> None:
    """Accounts with tags, metadata, keys and snapshots; one compacted, one deleted; a saga; a subscription; a view."""
    trio.run(_make, path)


async def _make(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account], sagas=[Pay], projections=[Balances], limits=LIMITS) as runtime:
        for number in range(45):
            for name in ("ann", "bob"):
                key = f"{name}-{number}" if number % 3 == 0 else None
                metadata = {"principal": f"agent-{number}"}
                await runtime.actor(Account, name).ask(Deposit(number), idempotency_key=key, metadata=metadata)
        await runtime.actor(Account, "bob").ask(Look(), idempotency_key="look")
        await runtime.transact([(Account, "ann", Deposit(1)), (Account, "cat", Deposit(2))], idempotency_key="both")
        await (await runtime.start_saga(Pay(5), key="pay-1")).wait()
        await runtime.actor(Account, "dan").ask(Deposit(7))
        await runtime.actor(Account, "dan").delete("asked for")
        async with runtime.consume("mailer") as consumer:
            async for message in consumer:
                await message.ack()
                if message.event.position >= 60:
                    break
        # So many that a node of the Merkle tree is stored.
        await runtime.actor(Account, "eve").ask_many([Deposit(number) for number in range(NODE_LEAVES)])
        await runtime.maintenance.compact(Account, "ann")
