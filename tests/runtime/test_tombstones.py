"""Deleting an aggregate: its history stays, nobody sends it commands any more, and its id is reused only when asked."""

from pathlib import Path

import pytest
from attrs import frozen
from bank_domain import Account, Deposit, Deposited
from bank_views import Balances

from eventsrc import (
    Aggregate,
    AggregateDeleted,
    Delete,
    Deleted,
    EventMeta,
    Limits,
    Projection,
    Recreate,
    Recreated,
    Rejected,
    Runtime,
    Table,
    VersionConflict,
    applies,
    command,
    event,
    handles,
    on,
)
from eventsrc.runtime.testing import scenario
from eventsrc.storage.store import EventStore


async def test_a_deleted_aggregate_takes_no_commands_and_has_no_state(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(5))
        receipt = await ann.delete("asked for by the customer")
        assert receipt.events == (Deleted("asked for by the customer"),)
        for refused in (Deposit(1), Delete()):
            with pytest.raises(AggregateDeleted, match="'account-ann' was deleted"):
                await ann.ask(refused)
        with pytest.raises(AggregateDeleted):
            await ann.state()
        assert isinstance((await ann.ask_many([Deposit(1)]))[0], AggregateDeleted)
        with pytest.raises(AggregateDeleted):
            await runtime.transact([(Account, "ann", Deposit(1)), (Account, "bob", Deposit(1))])
        assert await runtime.actor(Account, "bob").version() == 0
        assert await ann.version() == 2


async def test_its_history_stays(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(5))
        await ann.delete()
        events = [event async for event in runtime.events(stream="account-ann")]
        assert [(event.type, event.kind) for event in events] == [
            ("account.deposited", "created"),
            ("eventsrc.deleted", "deleted"),
        ]
        assert (await ann.state(at_version=1)).balance == 5
        with pytest.raises(AggregateDeleted):
            await ann.state(at_version=2)
        async with runtime.as_of(position=2) as past:
            with pytest.raises(AggregateDeleted):
                await past.actor(Account, "ann").state()
        assert (await runtime.diff(Account, "ann", 1, 2)).changes == {"balance": (5, 0)}


async def test_the_id_is_used_again_when_asked_for(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(5))
        await ann.delete()
        receipt = await ann.ask(Recreate("came back"))
        assert (receipt.version, receipt.events) == (3, (Recreated("came back"),))
        await ann.ask(Deposit(2))
        state = await ann.state()
        assert (state.balance, state.is_deleted, await ann.version()) == (2, False, 4)
        await ann.delete()
        receipts = await ann.ask_many([Recreate(), Deposit(7)])
        assert [type(receipt).__name__ for receipt in receipts] == ["Receipt", "Receipt"]
        assert (await ann.state()).balance == 7


async def test_deleted_stays_deleted_over_a_restart_also_where_a_snapshot_was_due(tmp_path: Path) -> None:
    limits = Limits(snapshot_every_events=2)
    async with Runtime.open(tmp_path, aggregates=[Account], limits=limits) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(5))
        await ann.delete()
    async with Runtime.open(tmp_path, aggregates=[Account], limits=limits) as runtime:
        ann = runtime.actor(Account, "ann")
        with pytest.raises(AggregateDeleted):
            await ann.ask(Deposit(1))
        await ann.ask(Recreate())
        await ann.ask(Deposit(3))
        assert (await ann.state()).balance == 3
        await ann.delete()
    async with Runtime.open(tmp_path, aggregates=[Account], role="reader") as reader:
        with pytest.raises(AggregateDeleted):
            await reader.actor(Account, "ann").state()


async def test_what_there_is_not_cannot_be_deleted_or_recreated(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        with pytest.raises(Rejected, match="nothing to delete: 'account-ann' has no events"):
            await ann.delete()
        with pytest.raises(Rejected, match="nothing to recreate"):
            await ann.ask(Recreate())
        assert await ann.version() == 0
        await ann.ask(Deposit(1))
        with pytest.raises(Rejected, match="it was not deleted"):
            await ann.ask(Recreate())


async def test_a_deletion_is_a_command_like_others(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], projections=[Balances]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(1))
        with pytest.raises(VersionConflict):
            await ann.delete(expected_version=7)
        first = await ann.delete(
            idempotency_key="once", correlation_id="closing", metadata={"by": "eve"}, wait_for=[Balances]
        )
        (deleted,) = [event async for event in runtime.events(correlation_id="closing")]
        assert (deleted.position, deleted.metadata["by"]) == (first.position, "eve")
        again = await ann.delete(idempotency_key="once")
        assert (again.version, again.duplicate) == (first.version, True)
        await runtime.actor(Account, "bob").ask(Deposit(1))
        await runtime.transact([(Account, "bob", Delete()), (Account, "ann", Recreate())])
        with pytest.raises(AggregateDeleted):
            await runtime.actor(Account, "bob").state()
        assert (await ann.state()).balance == 0


@command
class Open:
    pass


@event("safe.opened")
class Opened:
    pass


class Safe(Aggregate):
    is_open: bool = False

    @handles
    def open(self, command: Open) -> Opened:
        return Opened()

    @handles
    def decide_deletion(self, command: Delete) -> Deleted:
        if self.is_open:
            raise Rejected("close it first")
        return Deleted(command.reason)

    @applies
    def opened(self, event: Opened) -> None:
        self.is_open = True


async def test_a_domain_may_refuse(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Safe]) as runtime:
        safe = runtime.actor(Safe, "1")
        await safe.ask(Open())
        with pytest.raises(Rejected, match="close it first"):
            await safe.delete()
        assert (await safe.state()).is_open


def test_a_domain_can_be_tested_for_it() -> None:
    scenario(Safe).given(Opened()).when(Delete()).then_rejected("close it first")
    scenario(Account).given(Deposited(3)).when(Delete("why")).then(Deleted("why"))
    with pytest.raises(AggregateDeleted):
        scenario(Account).given(Deposited(3), Deleted("")).when(Deposit(1))
    scenario(Account).given(Deposited(3), Deleted("")).when(Recreate()).then(Recreated(""))


@frozen
class Name:
    account: str


class Existing(Projection):
    rows = Table(Name, key="account")

    @on(Deposited)
    def deposited(self, event: Deposited, meta: EventMeta) -> None:
        self.rows.put(Name(meta.aggregate_id))

    @on(Deleted)
    def deleted(self, event: Deleted, meta: EventMeta) -> None:
        self.rows.delete(meta.aggregate_id)


async def test_a_view_hears_of_it(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], projections=[Existing]) as runtime:
        for name in ("ann", "bob"):
            await runtime.actor(Account, name).ask(Deposit(1))
        receipt = await runtime.actor(Account, "ann").delete()
        assert await runtime.view(Existing).get("ann", at_least=receipt) is None
        assert await runtime.view(Existing).get("bob") == Name("bob")
