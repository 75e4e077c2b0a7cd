"""Projections whose views live in a database: exactly once, and a database that is away holds up no command."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy
import trio
from bank_domain import Account, Deposit
from bank_views import Balance, Balances, Notes
from waiting import until

from eventsrc import Limits, ProjectionUnavailable, Runtime, ViewReadFailed, ViewUnreachable, between
from eventsrc.actors.views.sql import SqlViews, engine, sql_view
from eventsrc.runtime.projections.generations import RunningProjection

QUICK = Limits(restart_backoff_seconds=0.01, restart_backoff_seconds_max=0.05)


async def test_a_view_in_sqlite_beside_one_in_lmdb(tmp_path: Path) -> None:
    for run in (1, 2):
        views = SqlViews(f"sqlite:///{tmp_path}/views.db")
        async with Runtime.open(
            tmp_path / "store", aggregates=[Account], projections=[Balances, Notes], views={Balances: views}
        ) as runtime:
            await runtime.actor(Account, "ann").ask(Deposit(10), wait_for=[Balances, Notes])
            assert await runtime.view(Balances).get("ann") == Balance("ann", 10 * run, run)
            assert await runtime.view(Balances).where(amount=between(1, 100)).count() == 1
            await runtime.projections.rebuild(Balances)
            with trio.fail_after(10):
                while runtime.lag()["balances"].rebuilding:
                    await trio.lowlevel.checkpoint()
            assert await runtime.view(Balances).get("ann") == Balance("ann", 10 * run, run)
        views.close()


async def test_a_server_that_cannot_be_reached_holds_up_no_command(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The folder of the database is not there yet, which to SQLite is what a server that is down is to others.
    views = SqlViews(f"sqlite:///{tmp_path}/later/views.db")
    async with Runtime.open(
        tmp_path / "store", aggregates=[Account], projections=[Balances], views={Balances: views}, limits=QUICK
    ) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(10))
        assert runtime.lag()["balances"].state == "retrying"
        assert runtime.lag()["balances"].error
        with pytest.raises(ProjectionUnavailable, match=r"'balances' is retrying .*no view can answer yet"):
            await runtime.view(Balances).get("ann")
        with pytest.raises(ProjectionUnavailable):
            await runtime.projections.rebuild(Balances)
        (tmp_path / "later").mkdir()
        assert await runtime.view(Balances).get("ann", at_least=1, timeout=10) == Balance("ann", 10, 1)
    assert "a view cannot be opened yet" in caplog.text
    views.close()


@contextmanager
def locked(url: str, table: str) -> Iterator[None]:
    """Hold a lock that nobody gets past: of a table, on SQLite of the whole database."""
    other = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sqlalchemy.NullPool)
    is_sqlite = other.dialect.name == "sqlite"
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_sqlite else f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
        connection.rollback()
    other.dispose()


@pytest.fixture
def short_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction waits a second for another one."""
    for module in (engine, sql_view):
        monkeypatch.setattr(module, "LOCK_SECONDS_MAX", 1)


async def test_a_database_that_is_locked_while_a_runtime_opens_holds_up_no_command(
    tmp_path: Path, url: str, short_locks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener, open_one, tried = trio.lowlevel.current_task(), RunningProjection.open, list[str]()

    async def noted(running: RunningProjection) -> None:
        if trio.lowlevel.current_task() is opener:
            tried.append(running.name)
        await open_one(running)

    monkeypatch.setattr(RunningProjection, "open", noted)
    with closing(SqlViews(url)) as views:
        views.generations("balances")
        projections = [Balances, *(type(f"Balances{number}", (Balances,), {}) for number in range(9))]
        with locked(url, "eventsrc_projections"):
            async with Runtime.open(
                tmp_path / "store",
                aggregates=[Account],
                projections=projections,
                views=dict.fromkeys(projections, views),
                limits=QUICK,
            ) as runtime:
                assert tried == ["balances"], "it waits for the lock once, and not for each view"
                await runtime.actor(Account, "ann").ask(Deposit(10))
                assert {lag.state for lag in runtime.lag().values()} == {"retrying"}
                with pytest.raises(ProjectionUnavailable, match=r"'balances' is retrying .*is locked"):
                    await runtime.view(Balances).get("ann")
        async with Runtime.open(
            tmp_path / "store", aggregates=[Account], projections=projections, views=dict.fromkeys(projections, views)
        ) as runtime:
            for projection in projections:
                assert await runtime.view(projection).get("ann", at_least=1, timeout=10) == Balance("ann", 10, 1)


async def test_a_view_is_opened_once_the_lock_on_it_is_gone(tmp_path: Path, url: str, short_locks: None) -> None:
    with closing(SqlViews(url)) as views:
        views.generations("balances")
        async with Runtime.open(tmp_path / "store", aggregates=[Account]) as runtime:
            await runtime.actor(Account, "ann").ask(Deposit(10))
        with ExitStack() as locks:
            locks.enter_context(locked(url, "eventsrc_tables"))
            async with Runtime.open(
                tmp_path / "store", aggregates=[Account], projections=[Balances], views={Balances: views}, limits=QUICK
            ) as runtime:
                assert runtime.lag()["balances"].state == "retrying"
                locks.close()
                assert await runtime.view(Balances).get("ann", at_least=1, timeout=10) == Balance("ann", 10, 1)


async def test_a_query_of_a_locked_table_is_told_that_it_is(
    tmp_path: Path, postgres_url: str, short_locks: None
) -> None:
    with closing(SqlViews(postgres_url)) as views:
        async with Runtime.open(
            tmp_path / "store", aggregates=[Account], projections=[Balances], views={Balances: views}, limits=QUICK
        ) as runtime:
            await runtime.actor(Account, "ann").ask(Deposit(10), wait_for=[Balances])
            with locked(postgres_url, "balances_rows_g1"):
                with pytest.raises(ViewUnreachable, match=r"is locked: .* which other transaction it waits for"):
                    await runtime.view(Balances).get("ann")
                receipt = await runtime.actor(Account, "ann").ask(Deposit(10))
                await until(lambda: "is locked" in runtime.lag()["balances"].error)
            assert await runtime.view(Balances).get("ann", at_least=receipt, timeout=10) == Balance("ann", 20, 2)


async def test_a_server_that_lets_no_statement_wait_for_a_lock(tmp_path: Path, postgres_url: str) -> None:
    with closing(SqlViews(f"{postgres_url}&options=-c%20statement_timeout%3D500")) as views:
        views.generations("balances")
        with ExitStack() as locks:
            locks.enter_context(locked(postgres_url, "eventsrc_tables"))
            async with Runtime.open(
                tmp_path / "store", aggregates=[Account], projections=[Balances], views={Balances: views}, limits=QUICK
            ) as runtime:
                assert "is locked: canceling statement" in runtime.lag()["balances"].error
                locks.close()
                await runtime.actor(Account, "ann").ask(Deposit(10))
                assert await runtime.view(Balances).get("ann", at_least=1, timeout=10) == Balance("ann", 10, 1)
                with locked(postgres_url, "balances_rows"), pytest.raises(ViewReadFailed, match="statement timeout"):
                    await runtime.view(Balances).get("ann")


async def test_a_limit_beyond_all_numbers_of_rows_is_none(tmp_path: Path) -> None:
    await limits_beyond(tmp_path, None)


async def test_a_limit_beyond_all_numbers_of_a_database_is_none(tmp_path: Path, url: str) -> None:
    await limits_beyond(tmp_path, url)


async def limits_beyond(path: Path, url: str | None) -> None:
    views = None if url is None else SqlViews(url)
    async with Runtime.open(
        path / "store", aggregates=[Account], projections=[Balances], views=None if views is None else {Balances: views}
    ) as runtime:
        for amount in (1, 2, 3):
            await runtime.actor(Account, f"a{amount}").ask(Deposit(amount), wait_for=[Balances])
        rows = runtime.view(Balances).all()
        for count in (2**62, 2**63 - 1, 2**63, 10**30):
            assert len(await rows.limit(count).rows()) == 3
            assert len(await rows.order_by("-amount").offset(1).limit(count).rows()) == 2
            assert len(await rows.order_by("changes").offset(1).limit(count).rows()) == 2
            assert await rows.offset(count).first() is None
            assert [len(page) async for page in rows.offset(1).pages(count)] == [2]
    if views is not None:
        views.close()
