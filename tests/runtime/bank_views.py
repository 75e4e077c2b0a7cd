"""The projections that the tests of the query side use, on the events of `bank_domain`."""

from attrs import evolve, frozen
from bank_domain import Deposited, Noted, Withdrawn

from eventsrc import EventMeta, Projection, Table, on


@frozen
class Balance:
    account: str
    amount: int
    changes: int


class Balances(Projection):
    rows = Table(Balance, key="account", indexes=["amount"])

    @on(Deposited)
    def deposited(self, event: Deposited, meta: EventMeta) -> None:
        self.add(meta.aggregate_id, event.amount)

    @on(Withdrawn)
    def withdrawn(self, event: Withdrawn, meta: EventMeta) -> None:
        self.add(meta.aggregate_id, -event.amount)

    def add(self, account: str, amount: int) -> None:
        row = self.rows.get(account) or Balance(account, 0, 0)
        self.rows.put(evolve(row, amount=row.amount + amount, changes=row.changes + 1))


@frozen
class Entry:
    account: str
    version: int
    text: str


class Notes(Projection):
    """Several tables, a key of two fields, rows that go away."""

    entries = Table(Entry, key=("account", "version"), indexes=["text"])
    newest = Table(Entry, key="account")

    @on(Noted)
    def noted(self, event: Noted, meta: EventMeta) -> None:
        entry = Entry(meta.aggregate_id, meta.version, event.text)
        self.newest.put(entry)
        self.entries.put(entry)
        for row in self.entries.where(account=meta.aggregate_id):
            if row.version <= meta.version - 3:
                self.entries.delete(row.account, row.version)
