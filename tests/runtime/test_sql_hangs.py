"""A PostgreSQL server that is there and does nothing, as one whose disk hangs: commands go on, and so does closing."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from bank_domain import Account, Deposit, Deposited
from bank_views import Balance, Balances
from postgres_server import PostgresServer
from waiting import until

from eventsrc import EventMeta, Limits, Runtime, on
from eventsrc.actors.views.sql import SqlViews
from eventsrc.actors.views.sql.engine import unbounded
from eventsrc.actors.views.sql.postgresql import BoundedConnection

QUICK = Limits(restart_backoff_seconds=0.01, restart_backoff_seconds_max=0.05)


@contextmanager
def suspended(server: PostgresServer) -> Iterator[None]:
    server.suspend()
    try:
        yield
    finally:
        server.resume()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what has begun: the system itself waits two seconds for a connection."""
    monkeypatch.setattr(BoundedConnection, "answer_seconds_max", 0.2)


async def test_a_view_is_tried_again_and_sees_each_event_once(
    tmp_path: Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    with closing(SqlViews(f"{postgres_url}&connect_timeout=2")) as views:
        async with Runtime.open(
            tmp_path / "store", aggregates=[Account], projections=[Balances], views={Balances: views}, limits=QUICK
        ) as runtime:
            ann = runtime.actor(Account, "ann")
            await ann.ask(Deposit(1), wait_for=[Balances])
            with suspended(postgres_server):
                await ann.ask(Deposit(1))
                await until(lambda: runtime.lag()["balances"].state == "retrying")
                assert "cannot be reached" in runtime.lag()["balances"].error
                await ann.ask(Deposit(1))
            assert await runtime.view(Balances).get("ann", at_least=3, timeout=60) == Balance("ann", 3, 3)


class Hanging(Balances):
    """Its first event finds the server well, and what it writes does not."""

    suspend: ClassVar[list[Callable[[], None]]] = []

    @on(Deposited)
    def deposited(self, event: Deposited, meta: EventMeta) -> None:
        self.add(meta.aggregate_id, event.amount)
        if self.suspend:
            self.suspend.pop()()


async def test_one_that_hangs_in_the_middle_of_a_batch(
    tmp_path: Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    with closing(SqlViews(f"{postgres_url}&connect_timeout=2")) as views:
        async with Runtime.open(
            tmp_path / "store", aggregates=[Account], projections=[Hanging], views={Hanging: views}, limits=QUICK
        ) as runtime:
            Hanging.suspend.append(postgres_server.suspend)
            await runtime.actor(Account, "ann").ask(Deposit(1))
            try:
                await until(lambda: "said nothing for 0.2 seconds" in runtime.lag()["hanging"].error)
            finally:
                postgres_server.resume()
            await runtime.actor(Account, "ann").ask(Deposit(1))
            assert await runtime.view(Hanging).get("ann", at_least=2, timeout=60) == Balance("ann", 2, 2)


async def test_a_runtime_closes(tmp_path: Path, postgres_server: PostgresServer, postgres_url: str) -> None:
    with closing(SqlViews(f"{postgres_url}&connect_timeout=2")) as views:
        options = {"aggregates": [Account], "projections": [Balances], "views": {Balances: views}, "limits": QUICK}
        with ExitStack() as stack:
            async with Runtime.open(tmp_path / "store", **options) as runtime:
                await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
                stack.enter_context(suspended(postgres_server))
                await runtime.actor(Account, "ann").ask(Deposit(1))
        async with Runtime.open(tmp_path / "store", **options) as runtime:
            assert await runtime.view(Balances).get("ann", at_least=2, timeout=60) == Balance("ann", 2, 2)


async def test_a_query_may_take_its_time(tmp_path: Path, postgres_url: str) -> None:
    with closing(SqlViews(postgres_url)) as views, views.connected() as connection, unbounded(connection):
        connection.exec_driver_sql("SELECT pg_sleep(0.6)")
