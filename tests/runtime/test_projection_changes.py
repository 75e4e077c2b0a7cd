"""Definitions of projections, and what happens when one changes."""

import shutil
from pathlib import Path

import pytest
from attrs import define, evolve, frozen
from bank_domain import Account, Deposit, Deposited, Withdrawn
from bank_views import Balance, Balances
from projection_cases import settle, tidied

from eventsrc import (
    DefinitionError,
    EventMeta,
    Limits,
    MemoryLog,
    Projection,
    ProjectionUnavailable,
    Runtime,
    Saga,
    SagaContext,
    Table,
    TooManyProjections,
    UnknownProjection,
    between,
    on,
    step,
)
from eventsrc.storage.store import EventStore

# -- definitions


@pytest.mark.filterwarnings("ignore")
async def test_a_projection_remembers_nothing_but_rows() -> None:
    class Total(Projection):
        total = 0
        rows = Table(Balance, key="account")

        @on(Deposited)
        def deposited(self, event: Deposited, meta: EventMeta) -> None:
            self.total += event.amount

    limits = Limits(restart_backoff_seconds=0.001)
    async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[Total], limits=limits) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
        with pytest.raises(ProjectionUnavailable, match=r"Total\.total was set, and is stored nowhere.*in a row"):
            await runtime.view(Total).get("ann", at_least=1)


def test_definitions_that_cannot_work() -> None:
    @frozen
    class Row:
        key: str

    with pytest.raises(DefinitionError, match="Row has no field 'other'; it has key"):
        Table(Row, key="other")
    with pytest.raises(DefinitionError, match="of an attrs class"):
        Table(str, key="x")
    with pytest.raises(DefinitionError, match=r"@on takes @event classes, and <class 'int'> is none"):
        on(int)
    with pytest.raises(DefinitionError, match="needs the event classes"):
        on()
    with pytest.raises(DefinitionError, match="NoTable has no table"):

        class NoTable(Projection):
            @on(Deposited)
            def deposited(self, event: Deposited, meta: EventMeta) -> None: ...

    with pytest.raises(DefinitionError, match="NoMethod has no method with @on"):

        class NoMethod(Projection):
            rows = Table(Row, key="key")

    with pytest.raises(DefinitionError, match=r"Twice.one and Twice.two both have @on for Deposited"):

        class Twice(Projection):
            rows = Table(Row, key="key")

            @on(Deposited)
            def one(self, event: Deposited, meta: EventMeta) -> None: ...

            @on(Deposited)
            def two(self, event: Deposited, meta: EventMeta) -> None: ...

    with pytest.raises(DefinitionError, match="def one\\(self, event, meta\\)"):

        class WrongParameters(Projection):
            rows = Table(Row, key="key")

            @on(Deposited)
            def one(self, event: Deposited) -> None: ...

    with pytest.raises(DefinitionError, match="must be a plain def"):

        class Async(Projection):
            rows = Table(Row, key="key")

            @on(Deposited)  # pyright: ignore[reportArgumentType]
            async def one(self, event: Deposited, meta: EventMeta) -> None: ...  # type: ignore[misc]

    with pytest.raises(DefinitionError, match="version must be a whole number"):

        class BadVersion(Balances):
            version = 0


async def test_a_field_of_what_has_no_order_is_neither_a_key_nor_an_index() -> None:
    @frozen
    class Tagged:
        key: str
        tags: list[str] | None
        place: Balance | None
        either: list[str] | int

    def projection(key: str, *indexes: str) -> type[Projection]:
        class Odd(Projection):
            rows = Table(Tagged, key=key, indexes=indexes)

            @on(Deposited)
            def deposited(self, event: Deposited, meta: EventMeta) -> None: ...

        return Odd

    words = r"(tags|place) of rows can be neither a key nor an index: .* no order"
    for odd in (projection("tags"), projection("key", "either", "tags"), projection("key", "place")):
        with pytest.raises(DefinitionError, match=words):
            async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[odd]):
                pass
    async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[projection("key", "either")]):
        pass


def test_a_method_whose_annotations_admit_no_such_event() -> None:
    with pytest.raises(DefinitionError, match=r"WrongEvent.one is given a Deposited and says that .* is a .*Withdrawn"):

        class WrongEvent(Projection):
            rows = Table(Balance, key="account")

            @on(Withdrawn, Deposited)
            def one(self, event: Withdrawn, meta: EventMeta) -> None: ...

    with pytest.raises(DefinitionError, match="'meta' is a int"):

        class WrongMeta(Projection):
            rows = Table(Balance, key="account")

            @on(Deposited)
            def one(self, event: Deposited | Withdrawn, meta: int) -> None: ...


class Nothing(Saga):
    @step()
    async def nothing(self, ctx: SagaContext) -> None: ...


async def test_two_projections_of_one_name_and_too_many() -> None:
    class Other(Balances, name="balances"): ...

    with pytest.raises(DefinitionError, match="Other and Balances are both stored as 'balances'"):
        async with Runtime.open(MemoryLog(), projections=[Balances, Other]):
            pass
    with pytest.raises(DefinitionError, match="is no projection: give subclasses of Projection"):
        async with Runtime.open(MemoryLog(), projections=[Account]):  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
            pass
    many = [type(f"Number{number}", (Balances,), {}) for number in range(65)]
    with pytest.raises(TooManyProjections, match="64"):
        async with Runtime.open(MemoryLog(), projections=many):
            pass
    async with Runtime.open(MemoryLog(), aggregates=[Account], projections=many[:64]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=many[:64])
        assert await runtime.view(many[63]).get("ann") == Balance("ann", 1, 1)
    # The runtime's own view of its sagas is not one of the user's.
    async with Runtime.open(MemoryLog(), projections=many[:64], sagas=[Nothing]):
        pass


async def test_projections_of_one_base_share_no_rows(tmp_path: Path) -> None:
    class Doubled(Balances):
        def deposited(self, event: Deposited, meta: EventMeta) -> None:
            self.add(meta.aggregate_id, 2 * event.amount)

    class Renamed(Balances):
        rows = None  # type: ignore[assignment]
        first = second = Table(Balance, key="account")

        def add(self, account: str, amount: int) -> None:
            self.first.put(Balance(account, amount, 1))
            self.second.put(Balance(account, -amount, 1))

    assert list(Renamed.__eventsrc_projection__.tables) == ["first", "second"]
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances, Doubled, Renamed]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(5), wait_for=[Balances, Doubled, Renamed])
        assert await runtime.view(Balances.rows).get("ann") == Balance("ann", 5, 1)
        assert await runtime.view(Doubled.rows).get("ann") == Balance("ann", 10, 1), "without an @on of its own"
        assert await runtime.view(Renamed.first).get("ann") == Balance("ann", 5, 1)
        assert await runtime.view(Renamed.second).get("ann") == Balance("ann", -5, 1)
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Doubled]) as runtime:
        with pytest.raises(UnknownProjection):
            runtime.view(Balances.rows)
        assert await runtime.view(Doubled.rows).get("ann", at_least=1) == Balance("ann", 10, 1)


# -- rebuilding


def second_version() -> type[Projection]:
    class Newer(Balances, name="balances"):
        version = 2

        def add(self, account: str, amount: int) -> None:
            row = self.rows.get(account) or Balance(account, 1000, 0)
            self.rows.put(evolve(row, amount=row.amount + amount, changes=row.changes + 1))

    return Newer


async def test_a_raised_version_is_built_beside_the_old_view_which_keeps_answering(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 500)
        await settle(runtime)
    newer = second_version()
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[newer]) as runtime:
        view = runtime.view(newer)
        assert runtime.lag()["balances"].rebuilding
        assert await view.get("ann") == Balance("ann", 500, 500), "the old view answers"
        receipt = await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[newer])
        assert await view.get("ann", at_least=receipt) == Balance("ann", 1501, 501)
        assert not runtime.lag()["balances"].rebuilding
        await tidied(runtime, newer)
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[newer]) as runtime:
        assert not runtime.lag()["balances"].rebuilding
        assert await runtime.view(newer).get("ann") == Balance("ann", 1501, 501)
    assert sorted(path.name for path in (tmp_path / "views" / "balances").iterdir()) == ["2", "current"]


async def test_a_changed_row_is_noticed(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(7), wait_for=[Balances])

    @define
    class Wider:
        account: str
        amount: int
        changes: int = 0
        average: float = 0.0

    class Changed(Projection, name="balances"):
        rows = Table(Wider, key="account", indexes=["average"])

        @on(Deposited)
        def deposited(self, event: Deposited, meta: EventMeta) -> None:
            row = self.rows.get(meta.aggregate_id) or Wider(meta.aggregate_id, 0)
            row.amount += event.amount
            row.changes += 1
            row.average = row.amount / row.changes
            self.rows.put(row)

    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Changed]) as runtime:
        view = runtime.view(Changed)
        assert (await view.where(average=between(0, 1)).rows())[0].amount == 7, "the old rows, without the index"
        await settle(runtime, Changed, building=True)
        await runtime.actor(Account, "ann").ask(Deposit(8), wait_for=[Changed])
        assert await view.where(average=7.5).rows() == [Wider("ann", 15, 2, 7.5)]


async def test_a_view_is_rebuilt_on_request_while_it_follows(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], projections=[Balances]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask_many([Deposit(1)] * 300)
        await runtime.projections.rebuild(Balances)
        assert runtime.lag()["balances"].rebuilding
        for number in range(50):
            await ann.ask(Deposit(1), wait_for=[Balances])
            assert await runtime.view(Balances).get("ann") == Balance("ann", 301 + number, 301 + number)
        await settle(runtime, building=True)
        await ann.ask(Deposit(1), wait_for=[Balances])
        assert await runtime.view(Balances).get("ann") == Balance("ann", 351, 351)


async def test_rebuilding_an_empty_log_finishes(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.projections.rebuild(Balances)
        await settle(runtime, building=True)
        assert await runtime.view(Balances).all().rows() == []


async def test_a_restored_backup_is_noticed_and_the_view_built_anew(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with Runtime.open(path, aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
    backup = {name: (path / name).read_bytes() for name in ("data.mdb",)}
    async with Runtime.open(path, aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 9)
        await settle(runtime)
    for name, content in backup.items():
        (path / name).write_bytes(content)
    (path / "lock.mdb").unlink()
    async with Runtime.open(path, aggregates=[Account], projections=[Balances]) as runtime:
        assert await runtime.view(Balances).get("ann", at_least=1) == Balance("ann", 1, 1)
        await runtime.actor(Account, "ann").ask(Deposit(5), wait_for=[Balances])
        assert await runtime.view(Balances).get("ann") == Balance("ann", 6, 2)


async def test_a_lost_view_is_made_again(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
    shutil.rmtree(tmp_path / "views")
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
        assert await runtime.view(Balances).get("ann", at_least=1) == Balance("ann", 1, 1)
