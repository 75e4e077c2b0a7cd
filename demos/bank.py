"""A bank: deposits, a refused withdrawal, a retry that counts once, a view of all accounts, and reopening the store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from eventsrc import (
    Aggregate,
    EventMeta,
    Projection,
    Rejected,
    Runtime,
    Table,
    applies,
    between,
    command,
    event,
    handles,
    on,
)

from .story import tell


@command
class Deposit:
    amount: int


@command
class Withdraw:
    amount: int


@event("account.deposited")
class Deposited:
    amount: int


@event("account.withdrawn")
class Withdrawn:
    amount: int


class Account(Aggregate):
    """An account that cannot be overdrawn."""

    balance: int = 0

    @handles
    def deposit(self, command: Deposit) -> Deposited:
        if command.amount <= 0:
            raise Rejected("a deposit must be positive")
        return Deposited(command.amount)

    @handles
    def withdraw(self, command: Withdraw) -> Withdrawn:
        if command.amount > self.balance:
            raise Rejected(f"the balance is {self.balance}, which is less than {command.amount}")
        return Withdrawn(command.amount)

    @applies
    def deposited(self, event: Deposited) -> None:
        self.balance += event.amount

    @applies
    def withdrawn(self, event: Withdrawn) -> None:
        self.balance -= event.amount


@attrs.frozen
class Balance:
    account: str
    amount: int


class Balances(Projection):
    """All accounts, to be found by their balances."""

    rows = Table(Balance, key="account", indexes=["amount"])

    @on(Deposited)
    def deposited(self, event: Deposited, meta: EventMeta) -> None:
        self.add(meta.aggregate_id, event.amount)

    @on(Withdrawn)
    def withdrawn(self, event: Withdrawn, meta: EventMeta) -> None:
        self.add(meta.aggregate_id, -event.amount)

    def add(self, account: str, amount: int) -> None:
        row = self.rows.get(account) or Balance(account, 0)
        self.rows.put(Balance(account, row.amount + amount))


async def main(store: Path) -> dict[str, Any]:
    """Run the demo on the store in this folder; returns the store's final contents."""
    async with Runtime.open(store, aggregates=[Account], projections=[Balances]) as runtime:
        ann = runtime.actor(Account, "ann")

        receipt = await ann.ask(Deposit(100))  # returns once the event is on disk
        print(f"deposited 100            version {receipt.version}, position {receipt.position}")

        receipt = await ann.ask(Withdraw(30), idempotency_key="rent-march")
        print(f"withdrew 30              version {receipt.version}, duplicate: {receipt.duplicate}")

        # The answer may have got lost, so the client sends the same command again: it takes effect once.
        receipt = await ann.ask(Withdraw(30), idempotency_key="rent-march")
        print(f"the same withdrawal      version {receipt.version}, duplicate: {receipt.duplicate}")

        try:
            await ann.ask(Withdraw(1_000))
        except Rejected as error:
            print(f"withdraw 1000, refused   {error}")

        # A view follows the log. A query includes one's own write if it waits for the receipt, or if `ask` waited for
        # the view.
        receipt = await runtime.actor(Account, "bob").ask(Deposit(50))
        view = runtime.view(Balances.rows)
        print(f"\nbob, at least as of his deposit: {await view.get('bob', at_least=receipt)}")
        await runtime.actor(Account, "cleo").ask(Deposit(500), wait_for=[Balances])
        rich = await view.where(amount=between(60, 1_000)).order_by("-amount").rows()
        print(f"who has 60 or more: {', '.join(f'{row.account} {row.amount}' for row in rich)}")

    # Everything above is on disk. Open it again, as after a restart: the state comes from the events.
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        state = await runtime.actor(Account, "ann").state()
        print(f"\nreopened, the balance is {state.balance}; how it came about:")
        events = [stored async for stored in runtime.events(stream="account-ann")]
        for stored in events:
            print(f"  {stored.version}  {stored.type:<18} {stored.payload}")
    return {"balance": state.balance, "events": [(stored.type, stored.payload) for stored in events]}


def run(argv: Sequence[str]) -> int:
    """Run the demo with these arguments and return the exit code."""
    return tell("bank", __doc__, main, argv)
