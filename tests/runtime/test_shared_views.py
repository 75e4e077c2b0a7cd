"""One view in SQL that several processes keep: what becomes of the others when one of them builds it anew."""

import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from bank_domain import Account, Deposit
from bank_views import Balance, Balances
from projection_cases import settle
from test_readers import child, say
from waiting import until

from eventsrc import EventStore, Limits, MemoryLog, Projection, ProjectionUnavailable, Runtime, ViewRemoved
from eventsrc.actors.serialization.serializer import Serializer
from eventsrc.actors.views.row_type import RowType
from eventsrc.actors.views.sql import SqlViews
from eventsrc.actors.views.sql.generation import SqlView
from eventsrc.actors.views.view_store import Generation
from eventsrc.runtime import opening

WRITER = """
from eventsrc.actors.views.sql import SqlViews
async def main():
    views = SqlViews(f"sqlite:///{sys.argv[1]}/views.db")
    async with Runtime.open(
        sys.argv[1] + "/store", aggregates=[Account], projections=[Balances], views={Balances: views}
    ) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        print("started", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        print("done", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
trio.run(main)
"""
QUICK = Limits(restart_backoff_seconds=0.001, restart_backoff_seconds_max=0.01)


class Doubled(Balances, name="balances"):
    version = 2

    def add(self, account: str, amount: int) -> None:
        super().add(account, 2 * amount)


class Stuck(Balances, name="balances"):
    version = 2

    def add(self, account: str, amount: int) -> None:
        raise ValueError("stuck")


class SharedLog(MemoryLog):
    """A log that several runtimes may write: they stand for several processes, each with a copy of it."""

    def take(self) -> None:
        pass


@asynccontextmanager
async def opened(
    store: EventStore, url: str, projection: type[Projection] = Balances, views_class: type[SqlViews] = SqlViews
) -> AsyncIterator[Runtime]:
    """A runtime that keeps the view in the database. Several of them on one log stand for several processes."""
    views = views_class(url)
    async with Runtime.open(
        store, aggregates=[Account], projections=[projection], views={projection: views}, limits=QUICK
    ) as runtime:
        yield runtime
    views.close()


async def generations_are(url: str, *numbers: int) -> None:
    """Wait until these are there, and the others dropped, their tables, too."""
    views = SqlViews(url)

    def is_so() -> bool:
        generations = views.generations("balances")
        with views.engine.connect() as connection:
            left = connection.exec_driver_sql("SELECT generation FROM eventsrc_tables").all()
        return sorted(each.number for each in generations) == [*numbers] == sorted(each for (each,) in left)

    with trio.fail_after(30):
        while not await trio.to_thread.run_sync(is_so):
            await trio.sleep(0.01)
    views.close()


def notice(other: Runtime) -> None:
    """As a reader does that looks at the log."""
    other.feed.notify()


async def test_who_shares_a_view_goes_over_to_the_rebuilt_one(url: str) -> None:
    store = SharedLog()
    async with opened(store, url) as writer, opened(store, url) as other:
        ann = writer.actor(Account, "ann")
        for number in range(1, 6):
            receipt = await ann.ask(Deposit(1), wait_for=[Balances])
            notice(other)
            assert await other.view(Balances).get("ann", at_least=receipt) == Balance("ann", number, number)
            rebuilding = writer if number % 2 else other
            await rebuilding.projections.rebuild(Balances)
            await settle(rebuilding, building=True)
            await generations_are(url, number + 1)
        receipt = await ann.ask(Deposit(1), wait_for=[Balances])
        notice(other)
        assert await other.view(Balances).get("ann", at_least=receipt) == Balance("ann", 6, 6)
        for runtime in (writer, other):
            await settle(runtime, building=True)
            assert (runtime.lag()["balances"].state, runtime.lag()["balances"].error) == ("live", "")


async def test_a_query_that_meets_the_swap_is_answered_by_the_new_view(url: str) -> None:
    store = SharedLog()
    async with opened(store, url) as writer, opened(store, url) as other:
        await writer.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        notice(other)
        await settle(other)
        for number in (2, 3):
            await writer.projections.rebuild(Balances)
            await settle(writer, building=True)
            await generations_are(url, number)
            # Its projector has nothing to do, so that only the query finds out.
            assert await other.view(Balances).where(amount=1).rows() == [Balance("ann", 1, 1)]
            assert await other.view(Balances).get("ann") == Balance("ann", 1, 1)


async def test_rows_that_are_being_removed_are_not_taken_for_all(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SharedLog()
    async with opened(store, url) as writer, opened(store, url) as other:
        await writer.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        notice(other)
        await settle(other)
        with monkeypatch.context() as stopped:
            stopped.setattr(SqlViews, "_remove", lambda *_: None)
            await writer.projections.rebuild(Balances)
            await settle(writer, building=True)
            for _ in range(100):
                assert await other.view(Balances).get("ann") == Balance("ann", 1, 1)


class Held(SqlViews):
    """A generation takes its place only when it is let."""

    may_activate = threading.Event()
    activating = threading.Event()

    def activate(self, projection: str, generation: Generation) -> None:
        if generation.number > 1:
            self.activating.set()
            assert self.may_activate.wait(30)
        super().activate(projection, generation)


async def test_what_another_process_has_let_be_seen_is_not_taken_back(url: str) -> None:
    store = SharedLog()
    async with opened(store, url) as writer, opened(store, url, views_class=Held) as other:
        ann, view = writer.actor(Account, "ann"), other.view(Balances)
        await ann.ask(Deposit(1), wait_for=[Balances])
        notice(other)
        await settle(other)
        Held.activating.clear()
        Held.may_activate.clear()
        await other.projections.rebuild(Balances)
        await until(Held.activating.is_set)
        await ann.ask(Deposit(1), wait_for=[Balances])
        assert view.position == 1, "it has not looked at the log"
        assert await view.get("ann") == Balance("ann", 2, 2)
        Held.may_activate.set()
        for _ in range(50):
            await trio.sleep(0.001)
            assert await view.get("ann") == Balance("ann", 2, 2)
        notice(other)
        await settle(other, building=True)
        assert await view.get("ann") == Balance("ann", 2, 2)


async def test_a_paused_one_goes_over_too(url: str) -> None:
    store = SharedLog()
    async with opened(store, url) as writer, opened(store, url) as other:
        await writer.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        notice(other)
        await settle(other)
        await other.projections.pause(Balances)
        await writer.projections.rebuild(Balances)
        await settle(writer, building=True)
        await generations_are(url, 2)
        assert await other.view(Balances).get("ann") == Balance("ann", 1, 1)
        assert other.lag()["balances"].state == "paused"


async def test_an_older_version_stops_when_a_newer_one_takes_over(url: str) -> None:
    store = SharedLog()
    async with opened(store, url) as old:
        ann = old.actor(Account, "ann")
        await ann.ask(Deposit(1), wait_for=[Balances])
        async with opened(store, url, Doubled) as new:
            await settle(new, Doubled, building=True)
            await generations_are(url, 2)
            await ann.ask(Deposit(1))
            await until(lambda: old.lag()["balances"].state == "failed")
            assert "taken over the view with version 2" in old.lag()["balances"].error
            with pytest.raises(ProjectionUnavailable, match=r"is failed .*here it has version 1"):
                await old.view(Balances).get("ann")
            await old.projections.resume(Balances)
            await until(lambda: old.lag()["balances"].state == "failed")
            notice(new)
            assert await new.view(Doubled).get("ann", at_least=2) == Balance("ann", 4, 2)
            await generations_are(url, 2)
            # Whoever wants to have it back says so.
            await old.projections.rebuild(Balances)
            await settle(old, building=True)
            assert await old.view(Balances).get("ann", at_least=2) == Balance("ann", 2, 2)
            await ann.ask(Deposit(1), wait_for=[Balances])
            async with opened(store, url, Doubled) as newest:
                await settle(newest, Doubled, building=True)
                await generations_are(url, 4)
                assert await newest.view(Doubled).get("ann") == Balance("ann", 6, 3)
                notice(new)
                assert await new.view(Doubled).get("ann", at_least=3) == Balance("ann", 6, 3), "it is of its version"
                await ann.ask(Deposit(1))
                await until(lambda: old.lag()["balances"].state == "failed")


async def test_a_generation_that_was_being_built_and_was_removed_is_begun_again(url: str) -> None:
    store = SharedLog()
    async with opened(store, url) as writer:
        await writer.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        await writer.projections.pause(Balances)
        await writer.projections.rebuild(Balances)
        async with opened(store, url, Stuck) as other:
            await until(lambda: other.lag()["balances"].error != "")
            await generations_are(url, 1, 3)
            await writer.projections.resume(Balances)
            running = writer._projections.get(Balances)
            await until(lambda: running.active is not None and running.active.generation.number == 4)
            assert await writer.view(Balances).get("ann") == Balance("ann", 1, 1)


class Raced(SqlViews):
    """Another process is faster to begin a generation, of another version, under the same number."""

    def open(self, projection: str, generation: Generation, tables: Iterable[RowType[Any]]) -> SqlView:
        wanted = list(tables)
        if generation.number in (2, 3):
            super().open(projection, Generation(generation.number, 9, "other"), wanted).close()
        return super().open(projection, generation, wanted)


async def test_two_versions_do_not_project_into_one_generation(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'views.db'}"
    async with opened(SharedLog(), url, views_class=Raced) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        await runtime.projections.rebuild(Balances)
        await settle(runtime, building=True)
        active = runtime._projections.get(Balances).active
        assert active is not None
        assert active.generation.number == 4
        assert await runtime.view(Balances).get("ann") == Balance("ann", 1, 1)


def test_a_removed_view_says_so(url: str) -> None:
    views = SqlViews(url)
    generation = Generation(1, 1, "")
    table = RowType(Balances.rows, Serializer())
    view = views.open("balances", generation, [table])
    views.drop("balances", generation)
    with pytest.raises(ViewRemoved, match=r"generation 1 in .* was removed by another"), view.reading() as reading:
        reading.count(table, {})
    with pytest.raises(ViewRemoved), view.writing():
        raise AssertionError("nor be changed")
    views.close()


async def test_a_reader_whose_log_is_behind_the_shared_view_does_not_build_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'views.db'}"

    class Moving(SqlViews):
        def open(self, projection: str, generation: Generation, tables: Iterable[RowType[Any]]) -> SqlView:
            say(writer, "store an event and project it")
            return super().open(projection, generation, tables)

    monkeypatch.setattr(opening, "READER_POLL_SECONDS", 3600)
    with child(WRITER, tmp_path) as writer:
        views = Moving(url)
        async with Runtime.open(
            tmp_path / "store", role="reader", projections=[Balances], views={Balances: views}
        ) as reader:
            running = reader._projections.get(Balances)
            assert running.active is not None
            assert running.active.generation.number == 1
            assert await reader.view(Balances).get("ann", at_least=2) == Balance("ann", 2, 2)
        views.close()
