"""Three generations of one program, which stores its events in another schema each time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from eventsrc import Aggregate, EventMeta, Projection, Runtime, Table, applies, command, event, handles, on


@command
class Pay:
    cents: int


@event("till.paid")
class PaidCents:
    cents: int


class FirstTill(Aggregate, category="till"):
    cents: int = 0

    @handles
    def pay(self, command: Pay) -> PaidCents:
        return PaidCents(command.cents)

    @applies
    def paid(self, event: PaidCents) -> None:
        self.cents += event.cents


def in_euros(payload: dict[str, Any]) -> dict[str, Any]:
    payload["euros"] = payload.pop("cents") / 100
    return payload


@event("till.paid", version=2, upcasters={1: in_euros})
class PaidEuros:
    euros: float


class SecondTill(Aggregate, category="till"):
    euros: float = 0.0

    @handles
    def pay(self, command: Pay) -> PaidEuros:
        return PaidEuros(command.cents / 100)

    @applies
    def paid(self, event: PaidEuros) -> None:
        self.euros += event.euros


def with_currency(payload: dict[str, Any]) -> Mapping[str, Any]:
    return {"amount": round(payload["euros"] * 100), "currency": "EUR"}


@event("till.paid", version=3, upcasters={1: in_euros, 2: with_currency})
class Paid:
    amount: int
    currency: str


class Till(Aggregate):
    amount: int = 0

    @handles
    def pay(self, command: Pay) -> Paid:
        return Paid(command.cents, "EUR")

    @applies
    def paid(self, event: Paid) -> None:
        self.amount += event.amount


GENERATIONS = (FirstTill, SecondTill, Till)


@attrs.frozen
class Total:
    currency: str
    amount: int


class Totals(Projection):
    rows = Table(Total, key="currency")

    @on(Paid)
    def paid(self, event: Paid, meta: EventMeta) -> None:
        row = self.rows.get(event.currency) or Total(event.currency, 0)
        self.rows.put(attrs.evolve(row, amount=row.amount + event.amount))


async def pay(path: Path, till: type[Aggregate], *cents: int, aggregate_id: str = "a") -> None:
    async with Runtime.open(path, aggregates=[till]) as runtime:
        await runtime.actor(till, aggregate_id).ask_many([Pay(each) for each in cents])
