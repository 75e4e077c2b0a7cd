"""Databases that refuse the work and no row of it: it is tried again, and nothing is blamed on an event."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
import trio
from bank_domain import Account, Deposit, Note
from bank_views import Balance, Balances
from postgres_server import PostgresServer
from waiting import until

from eventsrc import Limits, Runtime, ViewClosed
from eventsrc.actors.views.errors import ViewReadFailed
from eventsrc.actors.views.sql import SqlViews, engine

QUICK = Limits(restart_backoff_seconds=0.01, restart_backoff_seconds_max=0.05)


@pytest.fixture
def administrator(postgres_url: str) -> Iterator[sqlalchemy.Engine]:
    """Connects as who may do everything; there is a role `clerk`, too, who may make tables."""
    engine = sqlalchemy.create_engine(
        postgres_url.replace("postgresql:", "postgresql+psycopg:"),
        isolation_level="AUTOCOMMIT",
        poolclass=sqlalchemy.NullPool,
    )
    execute(engine, "DO $$ BEGIN CREATE ROLE clerk LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    execute(engine, "REVOKE ALL ON SCHEMA public FROM PUBLIC")
    execute(engine, "GRANT ALL ON SCHEMA public TO clerk")
    yield engine
    engine.dispose()


def execute(engine: sqlalchemy.Engine, statement: str) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql(statement).close()


async def test_a_server_that_is_back_and_gives_no_rights_yet(
    tmp_path: Path, postgres_server: PostgresServer, postgres_url: str, administrator: sqlalchemy.Engine
) -> None:
    execute(administrator, "REVOKE ALL ON SCHEMA public FROM clerk")
    views = SqlViews(postgres_url.replace("eventsrc@", "clerk@"))
    postgres_server.stop()
    async with Runtime.open(
        tmp_path / "store", aggregates=[Account], projections=[Balances], views={Balances: views}, limits=QUICK
    ) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(10))
        await trio.to_thread.run_sync(postgres_server.start)
        await until(lambda: "schema" in runtime.lag()["balances"].error)
        await runtime.actor(Account, "ann").ask(Deposit(10))
        execute(administrator, "GRANT ALL ON SCHEMA public TO clerk")
        assert await runtime.view(Balances).get("ann", at_least=2, timeout=10) == Balance("ann", 20, 2)
    views.close()


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        ("REVOKE INSERT ON balances_rows_g1 FROM clerk", "GRANT INSERT ON balances_rows_g1 TO clerk"),
        (
            "ALTER TABLE balances_rows_g1 RENAME changes TO changes2",
            "ALTER TABLE balances_rows_g1 RENAME changes2 TO changes",
        ),
        (
            "ALTER TABLE balances_rows_g1 DROP CONSTRAINT balances_rows_g1_pkey",
            "ALTER TABLE balances_rows_g1 ADD CONSTRAINT balances_rows_g1_pkey PRIMARY KEY (account)",
        ),
    ],
)
async def test_what_is_wrong_with_a_table_is_no_fault_of_an_event(
    tmp_path: Path, postgres_url: str, administrator: sqlalchemy.Engine, fault: str, remedy: str
) -> None:
    views = SqlViews(postgres_url.replace("eventsrc@", "clerk@"))
    async with Runtime.open(
        tmp_path / "store", aggregates=[Account], projections=[Balances], views={Balances: views}, limits=QUICK
    ) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(10), wait_for=[Balances])
        execute(administrator, fault)
        errors: list[str] = []
        # Of an account that is new, so that no row of it is read.
        await runtime.actor(Account, "bob").ask(Deposit(10))
        with trio.fail_after(10):
            while len(errors) < 10:
                lag = runtime.lag()["balances"]
                if lag.error:
                    errors.append(lag.error)
                assert lag.state != "failed", lag.error
                await trio.sleep(0.05)
        assert all("refused" in error and "position" not in error for error in errors), errors
        execute(administrator, remedy)
        assert await runtime.view(Balances).get("bob", at_least=2, timeout=10) == Balance("bob", 10, 1)
    views.close()


async def test_a_query_without_rights_says_nothing_of_a_batch(
    tmp_path: Path, postgres_url: str, administrator: sqlalchemy.Engine
) -> None:
    views = SqlViews(postgres_url.replace("eventsrc@", "clerk@"))
    async with Runtime.open(
        tmp_path / "store", aggregates=[Account], projections=[Balances], views={Balances: views}, limits=QUICK
    ) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(10), wait_for=[Balances])
        execute(administrator, "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM clerk")
        with pytest.raises(ViewReadFailed, match="ask again"):
            await runtime.view(Balances).get("ann")
        execute(administrator, "GRANT ALL ON ALL TABLES IN SCHEMA public TO clerk")
        assert await runtime.view(Balances).get("ann") == Balance("ann", 10, 1)
    views.close()


async def test_a_database_that_hangs_holds_up_nobody_who_does_not_ask_it(
    tmp_path: Path, postgres_url: str, administrator: sqlalchemy.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LOCK_SECONDS_MAX", 600)
    views = SqlViews(postgres_url)
    async with Runtime.open(
        tmp_path / "store", aggregates=[Account], projections=[Balances], views={Balances: views}
    ) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(10), wait_for=[Balances])

        async def ask() -> None:
            assert await runtime.view(Balances).get("ann") == Balance("ann", 10, 1)

        with administrator.connect() as connection:
            connection.exec_driver_sql("BEGIN; LOCK TABLE balances_rows_g1 IN ACCESS EXCLUSIVE MODE")
            async with trio.open_nursery() as nursery:
                for _ in range(60):
                    nursery.start_soon(ask)
                await until(lambda: runtime._projections.queries.available_tokens == 0)
                with trio.fail_after(60):
                    async with runtime.consume("mailer") as consumer:
                        await (await anext(consumer)).ack()
                connection.exec_driver_sql("COMMIT")
    views.close()


async def test_a_query_that_was_cancelled_before_everything_closed_leaves_no_connection(
    tmp_path: Path, postgres_url: str, administrator: sqlalchemy.Engine
) -> None:
    views = SqlViews(postgres_url)
    with administrator.connect() as connection:
        async with Runtime.open(
            tmp_path / "store", aggregates=[Account], projections=[Balances], views={Balances: views}
        ) as runtime:
            await runtime.actor(Account, "ann").ask(Deposit(10), wait_for=[Balances])
            queries = runtime._projections.queries
            connection.exec_driver_sql("BEGIN; LOCK TABLE balances_rows_g1 IN ACCESS EXCLUSIVE MODE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(runtime.view(Balances).get, "ann")
                await until(lambda: waiting(administrator) == 1)
                nursery.cancel_scope.cancel()
        views.close()
        assert queries.borrowed_tokens == 1, "it still waits for the database"
        connection.exec_driver_sql("COMMIT")
        await until(lambda: queries.borrowed_tokens == 0)
    # The driver warns of a connection that nobody has closed, which fails the test.
    gc.collect()
    with pytest.raises(ViewClosed):
        views.generations("balances")


def waiting(administrator: sqlalchemy.Engine) -> int:
    """How many transactions wait for a lock."""
    with administrator.connect() as connection:
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return connection.exec_driver_sql(waits).scalar_one()


async def test_a_runtime_closes_beside_a_database_that_hangs_without_waiting_for_each_view(
    tmp_path: Path, postgres_url: str, administrator: sqlalchemy.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LOCK_SECONDS_MAX", 600)
    views = SqlViews(postgres_url)
    projections = [type(f"B{number}", (Balances,), {}) for number in range(5)]
    with administrator.connect() as connection:

        async def let_go_when_all_wait() -> None:
            try:
                with administrator.connect() as other, trio.fail_after(60):
                    while other.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").scalar_one() < 5:
                        await trio.sleep(0.01)
            finally:
                connection.exec_driver_sql("COMMIT")

        async with (
            trio.open_nursery() as nursery,
            Runtime.open(
                tmp_path / "store",
                aggregates=[Account],
                projections=projections,
                views=dict.fromkeys(projections, views),
            ) as runtime,
        ):
            await runtime.actor(Account, "ann").ask(Deposit(10), wait_for=projections)
            # Of no concern to the views, so that their checkpoints are written when they are closed.
            await runtime.actor(Account, "ann").ask(Note("x"), wait_for=projections)
            connection.exec_driver_sql("BEGIN; LOCK TABLE eventsrc_projections IN ACCESS EXCLUSIVE MODE")
            nursery.start_soon(let_go_when_all_wait)
    views.close()
