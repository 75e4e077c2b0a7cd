"""The system refuses a write to a view: every event takes effect once, and closing says so in one line."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from bank_domain import Account, Deposit, Note
from bank_views import Balances

from eventsrc import FileWriteFailed, Limits, MemoryLog, Runtime
from eventsrc.actors.views.lmdb_view import LmdbViews
from eventsrc.actors.views.view_store import Generation
from eventsrc.storage.environment.view_environment import ViewEnvironment

LIMITS = Limits(restart_backoff_seconds=0.001)


async def test_a_commit_of_which_the_system_said_that_it_failed_is_not_repeated_where_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ViewEnvironment.write

    @contextmanager
    def failing_after_all(environment: ViewEnvironment) -> Iterator[Any]:
        with write(environment) as transaction:
            yield transaction
        monkeypatch.undo()
        raise FileWriteFailed(environment.path, "Input/output error")

    async with Runtime.open(tmp_path / "store", aggregates=[Account], projections=[Balances], limits=LIMITS) as runtime:
        monkeypatch.setattr(ViewEnvironment, "write", failing_after_all)
        with trio.fail_after(10):
            receipt = await runtime.actor(Account, "ann").ask(Deposit(3), wait_for=[Balances])
            row = await runtime.view(Balances.rows).get("ann", at_least=receipt)
        assert row is not None
        assert (row.amount, row.changes) == (3, 1)


async def test_closing_where_the_last_checkpoint_cannot_be_stored_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refusing(environment: ViewEnvironment) -> Any:
        raise FileWriteFailed(environment.path, "Input/output error")

    async with Runtime.open(tmp_path / "store", aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask(Note("no matter to this view"), wait_for=[Balances])
        monkeypatch.setattr(ViewEnvironment, "write", refusing)
    monkeypatch.undo()
    said = [record for record in caplog.records if record.levelname != "INFO"]
    assert ["could not be stored" in record.getMessage() for record in said] == [True]
    assert not any(record.exc_info for record in said)
    async with Runtime.open(tmp_path / "store", aggregates=[Account], projections=[Balances]) as runtime:
        receipt = await runtime.actor(Account, "ann").ask(Deposit(3), wait_for=[Balances])
        row = await runtime.view(Balances.rows).get("ann", at_least=receipt)
        assert row is not None
        assert (row.amount, row.changes) == (3, 1)


async def test_a_generation_that_cannot_be_looked_for_again_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generations = LmdbViews.generations
    calls = 0

    def refusing(views: LmdbViews, projection: str) -> list[Generation]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise FileWriteFailed(str(views.path), "Too many open files")
        return generations(views, projection)

    monkeypatch.setattr(LmdbViews, "generations", refusing)
    with pytest.raises(FileWriteFailed, match="Too many") as caught:
        async with Runtime.open(tmp_path / "store", aggregates=[Account], projections=[Balances]):
            pass
    async with Runtime.open(tmp_path / "store", aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(3), wait_for=[Balances])
        calls = 0
        with pytest.raises(FileWriteFailed):
            await runtime.projections.rebuild(Balances)
        await runtime.projections.rebuild(Balances)
        with trio.fail_after(10):
            while runtime.lag()["balances"].rebuilding:
                await trio.sleep(0.001)
    assert caught.value, "what is left open must not be closed by being forgotten"


async def test_a_replay_for_whose_view_there_is_no_room_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").touch()
    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(3))
        with monkeypatch.context() as patched:
            patched.setattr(tempfile, "tempdir", str(tmp_path / "full"))
            with pytest.raises(FileWriteFailed, match="full cannot be written"):
                await runtime.replay("full", projection=Balances).__aenter__()
        async with runtime.replay("full", projection=Balances) as replay:
            await replay.run()
            assert [row.amount for row in replay.rows(Balances.rows)] == [3]
