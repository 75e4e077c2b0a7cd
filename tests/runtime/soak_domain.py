"""Everything at once: wallets with owners, transfers between them as sagas, views of two kinds. See `test_soak.py`."""

from pathlib import Path
from typing import Annotated, ClassVar

import attrs

from eventsrc import (
    Aggregate,
    EventMeta,
    Limits,
    Personal,
    Projection,
    Rejected,
    Saga,
    SagaContext,
    Snapshots,
    Table,
    applies,
    command,
    event,
    handles,
    on,
    step,
)

LIMITS = Limits(
    snapshot_every_events=9,
    compaction_events_min=12,
    passivate_after_seconds=0.2,
    resident_actors_max=12,
    catch_up_batch_events=40,
    idempotency_window_seconds=1e6,
)
FORGOTTEN = "somebody"


@command
class Credit:
    cents: int
    operation: str


@command
class Debit:
    cents: int
    operation: str


@command
class Introduce:
    name: str


@event("wallet.credited")
class Credited:
    cents: int
    operation: str


@event("wallet.debited")
class Debited:
    cents: int
    operation: str


@event("wallet.introduced")
class Introduced:
    wallet: str
    name: Annotated[str, Personal("wallet", forgotten=FORGOTTEN)]


class Wallet(Aggregate, snapshots=Snapshots.every(events=9)):
    cents: int = 0
    name: Annotated[str, Personal("id", forgotten=FORGOTTEN)] = ""

    @handles
    def credit(self, command: Credit) -> Credited:
        if command.operation.endswith("unwanted"):
            raise Rejected("it does not take that")
        return Credited(command.cents, command.operation)

    @handles
    def debit(self, command: Debit) -> Debited:
        if command.cents > self.cents:
            raise Rejected("there is not enough")
        return Debited(command.cents, command.operation)

    @handles
    def introduce(self, command: Introduce) -> Introduced:
        return Introduced(self.id, command.name)

    @applies
    def credited(self, event: Credited) -> None:
        self.cents += event.cents

    @applies
    def debited(self, event: Debited) -> None:
        self.cents -= event.cents

    @applies
    def introduced(self, event: Introduced) -> None:
        self.name = event.name


class Transfer(Saga):
    """Takes, tells the world outside, and gives; what is not wanted goes back."""

    outside: ClassVar[Path]

    source: str
    target: str
    cents: int
    operation: str

    @step(compensation="take_back")
    async def take(self, ctx: SagaContext) -> None:
        await ctx.ask(Wallet, self.source, Debit(self.cents, f"{self.operation}/take"))

    @step(compensation="call_off")
    async def announce(self, ctx: SagaContext) -> None:
        await ctx.effect("announce", self.tell, f"announced {self.operation}", idempotent=True)

    @step
    async def give(self, ctx: SagaContext) -> None:
        await ctx.sleep(seconds=0.001)
        await ctx.ask(Wallet, self.target, Credit(self.cents, self.operation))

    async def call_off(self, ctx: SagaContext) -> None:
        await ctx.effect("call_off", self.tell, f"called-off {self.operation}", idempotent=True)

    async def take_back(self, ctx: SagaContext) -> None:
        await ctx.ask(Wallet, self.source, Credit(self.cents, f"{self.operation}/back"))

    def tell(self, line: str, *, idempotency_key: str) -> None:
        """The world outside knows keys: the same line twice is one."""
        with self.outside.open("a") as file:
            file.write(f"{line} {idempotency_key}\n")


@attrs.frozen
class Balance:
    wallet: str
    cents: int
    changes: int


class Balances(Projection):
    rows = Table(Balance, key="wallet", indexes=["cents"])

    @on(Credited)
    def credited(self, event: Credited, meta: EventMeta) -> None:
        self.add(meta.aggregate_id, event.cents)

    @on(Debited)
    def debited(self, event: Debited, meta: EventMeta) -> None:
        self.add(meta.aggregate_id, -event.cents)

    def add(self, wallet: str, cents: int) -> None:
        row = self.rows.get(wallet) or Balance(wallet, 0, 0)
        self.rows.put(Balance(wallet, row.cents + cents, row.changes + 1))


class SqlBalances(Balances):
    """The same on SQLite."""

    rows = Table(Balance, key="wallet", indexes=["cents"])


@attrs.frozen
class Owner:
    wallet: str
    name: str


class Owners(Projection):
    rows = Table(Owner, key="wallet")

    @on(Introduced)
    def introduced(self, event: Introduced, meta: EventMeta) -> None:
        self.rows.put(Owner(event.wallet, event.name))
