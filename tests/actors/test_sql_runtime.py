"""A runtime with views in SQL: what it does while the database is away, refuses, or is used by others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve
from postgres_server import PostgresServer
from sqlalchemy.exc import OperationalError
from view_cases import Balance, Balances, Happened

from eventsrc import (
    Aggregate,
    MemoryLog,
    Runtime,
    ViewUnreachable,
    applies,
    between,
    command,
    event,
    handles,
)
from eventsrc.actors.views.sql import SqlViews


@command
class Do:
    amount: int


class Thing(Aggregate):
    amount: int = 0

    @handles
    def do(self, command: Do) -> Happened:
        return Happened(command.amount)

    @applies
    def happened(self, event: Happened) -> None:
        self.amount = evolve(event).amount + self.amount


@command
class DoOther:
    pass


@event("other.happened")
class OtherHappened:
    pass


class Other(Aggregate):
    @handles
    def do(self, command: DoOther) -> OtherHappened:
        return OtherHappened()

    @applies
    def happened(self, event: OtherHappened) -> None:
        pass


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not is_so():
            await trio.sleep(0.01)


async def test_a_runtime_keeps_its_view_in_a_database(sql: SqlViews, tmp_path: Path) -> None:
    path = tmp_path / "store"
    for run in range(1, 3):
        async with Runtime.open(path, aggregates=[Thing], projections=[Balances], views={Balances: sql}) as runtime:
            await runtime.actor(Thing, "a").ask_many([Do(1)] * 250)
            receipt = await runtime.actor(Thing, "b").ask(Do(2), wait_for=[Balances])
            view = runtime.view(Balances.rows)
            assert await view.get("a", at_least=receipt) == Balance("a", "ann", 250 * run)
            assert [row.account for row in await view.where(amount=between(1, 499)).order_by("amount").rows()] == (
                ["b", "a"] if run == 1 else ["b"]
            )
            await runtime.projections.rebuild(Balances)
            await until(lambda: not runtime.lag()["balances"].rebuilding)
            assert await view.all().count() == 2
            # The one before is removed in the background, or where it is opened next.
            await until(lambda: runtime._projections.get(Balances).is_tidy)
    assert [generation.number for generation in sql.generations("balances")] == [3]


async def test_commands_go_on_while_the_server_is_away(postgres_server: PostgresServer, postgres_url: str) -> None:
    views = SqlViews(postgres_url)
    async with Runtime.open(
        MemoryLog(), aggregates=[Thing], projections=[Balances], views={Balances: views}
    ) as runtime:
        thing = runtime.actor(Thing, "a")
        await thing.ask(Do(1), wait_for=[Balances])
        await trio.to_thread.run_sync(postgres_server.stop)
        try:
            for _ in range(10):
                await thing.ask(Do(1))
            await until(lambda: runtime.lag()["balances"].state == "retrying")
            assert "cannot be reached" in runtime.lag()["balances"].error
            with pytest.raises(ViewUnreachable):
                await runtime.view(Balances.rows).get("a")
        finally:
            await trio.to_thread.run_sync(postgres_server.start)
        receipt = await thing.ask(Do(1))
        assert await runtime.view(Balances.rows).get("a", at_least=receipt, timeout=30) == Balance("a", "ann", 12)
    views.close()


async def test_a_runtime_goes_on_after_a_commit_whose_answer_was_lost(
    sql: SqlViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = sql.engine.dialect.do_commit

    def lose_the_answer(connection: Any) -> None:
        commit(connection)
        monkeypatch.undo()
        raise OperationalError("COMMIT", {}, ConnectionError("the line is dead"))

    async with Runtime.open(MemoryLog(), aggregates=[Thing], projections=[Balances], views={Balances: sql}) as runtime:
        thing = runtime.actor(Thing, "a")
        await thing.ask(Do(1), wait_for=[Balances])
        monkeypatch.setattr(sql.engine.dialect, "do_commit", lose_the_answer)
        await thing.ask_many([Do(1), Do(1)])
        receipt = await thing.ask(Do(1), wait_for=[Balances])
        assert await runtime.view(Balances.rows).get("a", at_least=receipt) == Balance("a", "ann", 4)


async def test_a_runtime_closes_while_the_server_is_away(
    postgres_server: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    views = SqlViews(postgres_url)
    try:
        async with Runtime.open(
            MemoryLog(), aggregates=[Thing, Other], projections=[Balances], views={Balances: views}
        ) as runtime:
            await runtime.actor(Thing, "a").ask(Do(1), wait_for=[Balances])
            # Of no concern to the view, so that its checkpoint is written when it is closed.
            await runtime.actor(Other, "a").ask(DoOther(), wait_for=[Balances])
            await trio.to_thread.run_sync(postgres_server.stop)
    finally:
        await trio.to_thread.run_sync(postgres_server.start)
    views.close()
    assert "Unhandled" not in caplog.text


async def test_a_runtime_closes_after_another_process_has_gone_further(
    sql: SqlViews, caplog: pytest.LogCaptureFixture
) -> None:
    async with Runtime.open(
        MemoryLog(), aggregates=[Thing, Other], projections=[Balances], views={Balances: sql}
    ) as runtime:
        await runtime.actor(Thing, "a").ask(Do(1), wait_for=[Balances])
        await runtime.actor(Other, "a").ask(DoOther(), wait_for=[Balances])
        with sql.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE eventsrc_projections SET position = 2")
    assert "Unhandled" not in caplog.text
