"""A domain with something of everything, in two generations of its code. See `test_whole.py`."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import attrs

from eventsrc import (
    Aggregate,
    Deleted,
    EventMeta,
    Personal,
    Projection,
    Rejected,
    Retry,
    Saga,
    SagaContext,
    SubjectForgotten,
    Table,
    applies,
    command,
    event,
    handles,
    on,
    starts_on,
    step,
)

UNKNOWN = "somebody"
ONCE = Retry(attempts=1)
DAY_SECONDS = 86_400


@command
class Pay:
    amount: int
    note: str = "cash"


@command
class Introduce:
    name: str


@command
class Note:
    text: str
    labels: Sequence[str] = ()


@command
class Idle:
    pass


@command
class Visit:
    guest: str
    words: str


@event("account.paid")
class PaidCents:
    cents: int
    note: str


def in_amount(payload: dict[str, Any]) -> dict[str, Any]:
    return {"amount": payload["cents"], "notes": [payload["note"]]}


@event("account.paid", version=2, upcasters={1: in_amount})
class Paid:
    amount: int
    notes: list[str]


@event("account.introduced")
class Introduced:
    person: str
    name: Annotated[str, Personal("person", forgotten=UNKNOWN)]


@event("account.noted", tags=lambda noted: [f"label:{label}" for label in noted.labels])
class Noted:
    text: str
    labels: list[str]


@event("room.visited", tags=lambda visited: [f"guest:{visited.guest}"])
class Visited:
    guest: str
    words: Annotated[str, Personal("guest", forgotten="...")]


class AnyAccount(Aggregate, category="account"):
    """What the accounts of both generations have; each has a class of its own for what was paid."""

    balance: int = 0
    paid: dict[str, int] = attrs.Factory(dict)
    texts: list[str] = attrs.Factory(list)
    name: Annotated[str, Personal("id", forgotten=UNKNOWN)] = ""

    @handles
    def introduce(self, command: Introduce) -> Introduced:
        return Introduced(self.id, command.name)

    @handles
    def note(self, command: Note) -> list[Noted]:
        return [Noted(text, list(command.labels)) for text in command.text.split("+")]

    @handles
    def idle(self, command: Idle) -> None:
        return None

    @applies
    def introduced(self, event: Introduced) -> None:
        self.name = event.name

    @applies
    def noted(self, event: Noted) -> None:
        self.texts = [*self.texts, event.text]

    def check(self, command: Pay) -> None:
        if self.balance + command.amount < 0 or command.note == "forged":
            raise Rejected("it is not paid")

    def add(self, amount: int, note: str) -> None:
        self.balance += amount
        self.paid = {**self.paid, note: self.paid.get(note, 0) + amount}


class AccountOfOld(AnyAccount, category="account"):
    @handles
    def pay(self, command: Pay) -> PaidCents:
        self.check(command)
        return PaidCents(command.amount, command.note)

    @applies
    def was_paid(self, event: PaidCents) -> None:
        self.add(event.cents, event.note)


class Account(AnyAccount, category="account"):
    payments: int = 0

    @handles
    def pay(self, command: Pay) -> Paid:
        self.check(command)
        return Paid(command.amount, [command.note])

    @applies
    def was_paid(self, event: Paid) -> None:
        self.add(event.amount, event.notes[0])
        self.payments += 1


class Room(Aggregate):
    visits: list[Visited] = attrs.Factory(list)
    guests: set[str] = attrs.Factory(set)

    @handles
    async def visit(self, command: Visit) -> Visited:
        return Visited(command.guest, command.words)

    @applies
    def visited(self, event: Visited) -> None:
        self.visits = [*self.visits, event]
        self.guests = {*self.guests, event.guest}


@attrs.frozen
class Balance:
    account: str
    amount: int
    payments: int
    last: str | None = None


class AnyBalances(Projection, name="any_balances"):
    rows = Table(Balance, key="account", indexes=["amount", "last"])

    @on(Deleted)
    def deleted(self, event: Deleted, meta: EventMeta) -> None:
        if meta.category == "account":
            self.rows.delete(meta.aggregate_id)

    def add(self, account: str, amount: int, note: str) -> None:
        row = self.rows.get(account) or Balance(account, 0, 0)
        self.rows.put(Balance(account, row.amount + amount, row.payments + 1, note))


class BalancesOfOld(AnyBalances, name="balances"):
    rows = Table(Balance, key="account", indexes=["amount", "last"])

    @on(PaidCents)
    def paid(self, event: PaidCents, meta: EventMeta) -> None:
        self.add(meta.aggregate_id, event.cents, event.note)


class Balances(AnyBalances, name="balances"):
    version = 2
    rows = Table(Balance, key="account", indexes=["amount", "last"])

    @on(Paid)
    def paid(self, event: Paid, meta: EventMeta) -> None:
        self.add(meta.aggregate_id, event.amount, event.notes[0])


class SqlBalancesOfOld(BalancesOfOld, name="sql_balances"):
    rows = Table(Balance, key="account", indexes=["amount", "last"])


class SqlBalances(Balances, name="sql_balances"):
    rows = Table(Balance, key="account", indexes=["amount", "last"])


@attrs.frozen
class Name:
    person: str
    name: str
    position: int


class Names(Projection):
    """Is built anew when somebody is forgotten."""

    rows = Table(Name, key="person", indexes=["name"])

    @on(Introduced)
    def introduced(self, event: Introduced, meta: EventMeta) -> None:
        self.rows.put(Name(event.person, event.name, meta.position))


class Guests(Projection):
    """Removes who is forgotten itself."""

    rows = Table(Name, key=["person", "position"], indexes=["position"])

    @on(Visited)
    def visited(self, event: Visited, meta: EventMeta) -> None:
        self.rows.put(Name(event.guest, event.words, meta.position))

    @on(SubjectForgotten)
    def forgotten(self, event: SubjectForgotten, meta: EventMeta) -> None:
        for row in self.rows.where(person=event.subject):
            self.rows.delete(row.person, row.position)


class Transfer(Saga, signals=["go"]):
    """Takes, waits in one of the ways there are, and then gives and says so in a room, or gives back."""

    account: ClassVar[type[AnyAccount]] = Account

    source: str
    target: str
    amount: int
    waits_for: str
    note: str

    @step(compensation="give_back", compensation_retry=ONCE)
    async def take(self, ctx: SagaContext) -> None:
        await ctx.ask(self.account, self.source, Pay(-self.amount, "taken"))

    @step
    async def wait(self, ctx: SagaContext) -> None:
        if self.waits_for == "time":
            await ctx.sleep(days=1)
        elif self.waits_for == "signal":
            await ctx.approval("go", timeout_seconds=2 * DAY_SECONDS)
        elif self.waits_for == "event":
            await ctx.wait_for(Noted, where={"text": "release"}, timeout_seconds=2 * DAY_SECONDS)

    @step
    async def give(self, ctx: SagaContext) -> None:
        told = (Room, "hall", Visit(self.source, "gave"))
        await ctx.transact([(self.account, self.target, Pay(self.amount, self.note)), told])

    async def give_back(self, ctx: SagaContext) -> None:
        await ctx.ask(self.account, self.source, Pay(self.amount, "back"))


class TransferOfOld(Transfer, name="transfer", signals=["go"]):
    account = AccountOfOld


class Greet(Saga):
    """Is started by a note."""

    person: str

    @classmethod
    @starts_on(Noted)
    def of(cls, event: Noted, meta: EventMeta) -> "Greet | None":
        return cls(meta.aggregate_id) if event.text == "greet" else None

    @step
    async def greet(self, ctx: SagaContext) -> None:
        await ctx.ask(Room, "lobby", Visit(self.person, "was greeted"))


class Generation(NamedTuple):
    """The classes that a program has before, and after, it was changed."""

    is_new: bool
    account: type[AnyAccount]
    balances: type[AnyBalances]
    sql_balances: type[AnyBalances]
    transfer: type[Transfer]

    @property
    def projections(self) -> list[type[Projection]]:
        return [self.balances, self.sql_balances, Names, Guests]


OLD = Generation(False, AccountOfOld, BalancesOfOld, SqlBalancesOfOld, TransferOfOld)
NEW = Generation(True, Account, Balances, SqlBalances, Transfer)
