"""An upgrade: what a first release of a program stored is read by a second one; the first one, put back, is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from eventsrc import (
    Aggregate,
    DecodingError,
    EventMeta,
    EventVersionUnknown,
    Projection,
    Runtime,
    Table,
    applies,
    command,
    event,
    handles,
    on,
)

from .story import tell


@command
class Spend:
    tool: str
    cents: int


# --- the first release: what an agent spends on tools, in cents ---


@event("agent.spent")
class SpentCents:
    tool: str
    cents: int


class FirstAgent(Aggregate, category="agent"):
    cents: int = 0

    @handles
    def spend(self, command: Spend) -> SpentCents:
        return SpentCents(command.tool, command.cents)

    @applies
    def spent(self, event: SpentCents) -> None:
        self.cents += event.cents


# --- the second release: prices have a currency, and are added up by currency ---


def with_currency(payload: dict[str, Any]) -> dict[str, Any]:
    """The upcaster from version 1 to version 2: all prices of version 1 were in dollars."""
    return {"tool": payload["tool"], "price": {"amount": payload["cents"] / 100, "currency": "USD"}}


@attrs.frozen
class Price:
    amount: float
    currency: str


@event("agent.spent", version=2, upcasters={1: with_currency})
class Spent:
    tool: str
    price: Price


class Agent(Aggregate):
    spent: dict[str, float] = attrs.field(factory=dict)

    @handles
    def spend(self, command: Spend) -> Spent:
        return Spent(command.tool, Price(command.cents / 100, "EUR"))

    @applies
    def paid(self, event: Spent) -> None:
        price = event.price
        self.spent[price.currency] = self.spent.get(price.currency, 0.0) + price.amount


@attrs.frozen
class ToolCost:
    tool: str
    currency: str
    amount: float


class ToolCosts(Projection):
    """What each tool has cost, from the first event on, including events older than the view."""

    rows = Table(ToolCost, key=["tool", "currency"], indexes=["currency"])

    @on(Spent)
    def spent(self, event: Spent, meta: EventMeta) -> None:
        price = event.price
        row = self.rows.get(event.tool, price.currency) or ToolCost(event.tool, price.currency, 0.0)
        self.rows.put(attrs.evolve(row, amount=row.amount + price.amount))


# --- a careless release: the event class was changed without raising its version ---


@event("agent.spent")
class SpentCarelessly:
    tool: str
    dollars: float


class CarelessAgent(Aggregate, category="agent"):
    @applies
    def spent(self, event: SpentCarelessly) -> None:
        pass


async def main(store: Path) -> dict[str, Any]:
    """Run the demo on the store in this folder; returns the store's final contents."""
    async with Runtime.open(store, aggregates=[Agent]) as runtime:
        is_new = not runtime.last_position
    if is_new:
        async with Runtime.open(store, aggregates=[FirstAgent]) as runtime:
            receipts = await runtime.actor(FirstAgent, "ada").ask_many([Spend("search", 40), Spend("browser", 125)])
            print(f"the first release stored {len(receipts)} events")
        try:
            async with Runtime.open(store, aggregates=[CarelessAgent]):
                print("a careless one was let in")
        except DecodingError as error:
            print(f"\na careless one is refused: {error}")

    async with Runtime.open(store, aggregates=[Agent], projections=[ToolCosts]) as runtime:
        ada = runtime.actor(Agent, "ada")
        await ada.ask(Spend("search", 60), idempotency_key="upgraded", wait_for=[ToolCosts])
        print("\nthe second release reads what both stored:")
        events = [stored async for stored in runtime.events(stream="agent-ada")]
        for stored in events:
            print(f"  version {stored.schema_version}, stored as {stored.payload}")
            print(f"    read as {runtime.decode(stored)}")
        spent = (await ada.state()).spent
        print(f"ada spent {', '.join(f'{amount:.2f} {currency}' for currency, amount in spent.items())}")
        dollars = await runtime.view(ToolCosts.rows).where(currency="USD").order_by("-amount").rows()
        print(f"of dollars: {', '.join(f'{row.tool} {row.amount:.2f}' for row in dollars)}")

    try:
        async with Runtime.open(store, aggregates=[FirstAgent]):
            print("the first release was let in again")
    except EventVersionUnknown as error:
        print(f"\nput back, the first one is refused: {error}")
    return {"spent": spent, "events": [(stored.schema_version, stored.payload) for stored in events]}


def run(argv: Sequence[str]) -> int:
    """Run the demo with these arguments and return the exit code."""
    return tell("upgrade", __doc__, main, argv)
