"""Projections whose views live in a database: exactly once, and a database that is away holds up no command."""

from pathlib import Path

import pytest
import trio
from bank_domain import Account, Deposit
from bank_views import Balance, Balances, Notes

from eventsrc import Limits, ProjectionUnavailable, Runtime, between
from eventsrc.actors.views.sql import SqlViews

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
