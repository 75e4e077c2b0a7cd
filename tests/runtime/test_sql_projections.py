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
