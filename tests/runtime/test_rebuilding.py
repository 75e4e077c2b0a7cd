"""A view that is built anew: what answers meanwhile, and that nothing is lost or seen to go back when it takes over."""

import errno
import shutil
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing
from bank_domain import Account, Deposit, Deposited
from bank_views import Balance, Balances
from projection_cases import settle
from waiting import until

from eventsrc import EventMeta, Limits, MemoryLog, Projection, ProjectionUnavailable, Runtime, Table, ViewTooOld, on
from eventsrc.actors.views.lmdb_view import LmdbViews
from eventsrc.actors.views.row_type import RowType
from eventsrc.actors.views.view_store import Generation, StoredView
from eventsrc.runtime.projections import generations
from eventsrc.storage.errors import ViewClosed
from eventsrc.storage.store import EventStore


class HeldViews:
    """Views on LMDB of which the next generation takes its place only when it is let."""

    def __init__(self, path: Path) -> None:
        self._views = LmdbViews(path)
        self.may_activate = threading.Event()
        self.may_activate.set()
        self.activating = threading.Event()

    def generations(self, projection: str) -> list[Generation]:
        return self._views.generations(projection)

    def open(self, projection: str, generation: Generation, tables: Iterable[RowType[Any]]) -> StoredView:
        return self._views.open(projection, generation, tables)

    def activate(self, projection: str, generation: Generation) -> None:
        self.activating.set()
        assert self.may_activate.wait(30)
        self._views.activate(projection, generation)

    def drop(self, projection: str, generation: Generation) -> None:
        self._views.drop(projection, generation)

    def tidy(self, projection: str) -> None:
        self._views.tidy(projection)


def stuck_when_second(stuck: threading.Event) -> type[Projection]:
    """Balances of which every building but the first stands still while `stuck` is set."""
    sessions: list[object] = []

    class Stuck(Balances, name="balances"):
        def add(self, account: str, amount: int) -> None:
            if self not in sessions:
                sessions.append(self)
            if stuck.is_set() and self is not sessions[0]:
                raise ValueError("stuck")
            super().add(account, amount)

    return Stuck


async def test_the_view_that_takes_over_is_at_least_as_far(tmp_path: Path) -> None:
    stuck = threading.Event()
    projection = stuck_when_second(stuck)
    views = HeldViews(tmp_path / "views")
    limits = Limits(restart_backoff_seconds=0.001, restart_backoff_seconds_max=0.001)
    async with Runtime.open(
        MemoryLog(), aggregates=[Account], projections=[projection], views={projection: views}, limits=limits
    ) as runtime:
        ann, view = runtime.actor(Account, "ann"), runtime.view(projection)
        await ann.ask(Deposit(1), wait_for=[projection])
        views.activating.clear()
        views.may_activate.clear()
        await runtime.projections.rebuild(projection)
        await until(views.activating.is_set)
        stuck.set()
        receipt = await ann.ask(Deposit(1), wait_for=[projection])
        views.may_activate.set()
        await until(lambda: "ValueError: stuck" in runtime.lag()["balances"].error)
        assert runtime.lag()["balances"].rebuilding, "the new view has not come so far"
        for _ in range(20):
            assert await view.get("ann", at_least=receipt, timeout=0) == Balance("ann", 2, 2)
            assert await view.get("ann") == Balance("ann", 2, 2), "what was seen is not taken back"
        stuck.clear()
        await runtime.projections.resume(projection)
        await settle(runtime, projection, building=True)
        assert await view.get("ann", at_least=receipt, timeout=0) == Balance("ann", 2, 2)
        await until(lambda: not runtime.lag()["balances"].error)


async def test_a_replaced_view_that_a_query_looks_at_is_closed_with_the_runtime(tmp_path: Path) -> None:
    with ExitStack() as query:
        async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
            await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
            running = runtime._projections.get(Balances)
            old = running.active
            assert old is not None
            query.enter_context(old.in_use())
            await runtime.projections.rebuild(Balances)
            await until(lambda: running.active is not old)
            assert old.view.checkpoint.position == 1
    with pytest.raises(ViewClosed):
        assert old.view.checkpoint


async def test_two_requests_to_rebuild_are_one(tmp_path: Path) -> None:
    def generations() -> list[str]:
        return [path.name for path in (tmp_path / "views" / "balances").iterdir() if path.is_dir()]

    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 200)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(runtime.projections.rebuild, Balances)
        await settle(runtime, building=True)
        assert await runtime.view(Balances).get("ann", at_least=200) == Balance("ann", 200, 200)
        # The first one is removed in the background.
        await until(lambda: generations() == ["2"])
    assert generations() == ["2"]


async def test_a_rebuilding_waits_while_the_projection_is_paused(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        await runtime.projections.pause(Balances)
        await runtime.projections.rebuild(Balances)
        await trio.testing.wait_all_tasks_blocked()
        assert runtime.lag()["balances"].state == "paused"
        assert runtime.lag()["balances"].rebuilding
        assert await runtime.view(Balances).get("ann") == Balance("ann", 1, 1), "the old view answers"
        await runtime.projections.resume(Balances)
        await settle(runtime, building=True)
        assert await runtime.view(Balances).get("ann") == Balance("ann", 1, 1)


async def test_a_rebuilding_helps_a_projection_that_has_failed(store: EventStore | Path) -> None:
    failing = True

    class Failing(Balances):
        def add(self, account: str, amount: int) -> None:
            if failing:
                raise ValueError("no")
            super().add(account, amount)

    limits = Limits(restart_backoff_seconds=0.001)
    async with Runtime.open(store, aggregates=[Account], projections=[Failing], limits=limits) as runtime:
        view = runtime.view(Failing)
        receipt = await runtime.actor(Account, "ann").ask(Deposit(1))
        with pytest.raises(ProjectionUnavailable, match="failed"):
            await view.get("ann", at_least=receipt)
        failing = False
        await runtime.projections.rebuild(Failing)
        assert await view.get("ann", at_least=receipt) == Balance("ann", 1, 1)


async def test_what_a_killed_process_left_of_an_old_view_is_removed(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
    views = tmp_path / "views" / "balances"
    shutil.copytree(views / "1", views / "dropped-1-7")
    shutil.copytree(views / "1", views / "2")
    (views / "2" / "generation.json").write_bytes(b"{")  # as by a version that did not write it in one step
    (views / "current").write_bytes(b"")
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
        assert await runtime.view(Balances).get("ann") == Balance("ann", 1, 1)
        await runtime.projections.rebuild(Balances)
        await settle(runtime, building=True)
        assert await runtime.view(Balances).get("ann") == Balance("ann", 1, 1), "not what was half made"
        await until(lambda: sorted(path.name for path in views.iterdir()) == ["2", "current"])


async def test_a_query_of_a_view_that_lags_says_why() -> None:
    class Failing(Balances):
        def add(self, account: str, amount: int) -> None:
            raise ValueError("no such account")

    limits = Limits(restart_backoff_seconds=60, restart_backoff_seconds_max=60)
    async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[Failing], limits=limits) as runtime:
        receipt = await runtime.actor(Account, "ann").ask(Deposit(1))
        await until(lambda: runtime.lag()["failing"].state == "retrying")
        why = r"Its projection is retrying \(ValueError: no such account on 'account.deposited' at position 1\)"
        with pytest.raises(ViewTooOld, match=why) as caught:
            await runtime.view(Failing).get("ann", at_least=receipt, timeout=0.001)
        assert caught.value.state == "retrying"
        assert "no such account" in caught.value.reason


async def test_a_query_that_looks_at_many_rows_holds_up_nobody(store: EventStore | Path) -> None:
    class Entries(Projection):
        rows = Table(Balance, key="account")

        @on(Deposited)
        def deposited(self, event: Deposited, meta: EventMeta) -> None:
            for number in range(event.amount):
                self.rows.put(Balance(f"{number:05}", number, 0))

    async with Runtime.open(store, aggregates=[Account], projections=[Entries]) as runtime:
        view = runtime.view(Entries)
        await runtime.actor(Account, "ann").ask(Deposit(20_000), wait_for=[Entries], timeout=60)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            for ask, wanted in (
                (lambda: view.where(changes=1).count(), 0),
                (lambda: view.where(amount=19_999).first(), Balance("19999", 19_999, 0)),
                (lambda: view.all().order_by("-amount", "account").limit(1).first(), Balance("19999", 19_999, 0)),
            ):
                turns = 0
                assert await ask() == wanted
                assert turns > 3, "others had their turn"
            nursery.cancel_scope.cancel()
        assert await view.all().count() == 20_000


async def test_a_view_takes_its_place_later_where_files_cannot_be_read_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "SWAP_RETRY_SECONDS", 0.01)
    refusals = 0
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        nonlocal refusals
        if path.name == "current" and runtime.lag()["balances"].rebuilding and refusals < 3:
            refusals += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return read_bytes(path)

    async with Runtime.open(tmp_path / "store", aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        await runtime.projections.rebuild(Balances)
        monkeypatch.setattr(Path, "read_bytes", refuse)
        await settle(runtime, building=True)
        assert refusals == 3
        assert await runtime.view(Balances).get("ann") == Balance("ann", 1, 1)
