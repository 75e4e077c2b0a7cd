"""Projections that are paused, resumed, built anew and closed by whoever is cut off meanwhile."""

import itertools
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from bank_domain import Account, Deposit
from bank_views import Balances, Notes
from cancelled_at_step import Moment, cancelled_at_step
from projection_cases import settle, tidied
from waiting import until

from eventsrc import Limits, MemoryLog, Runtime, ViewUnreachable
from eventsrc.actors.views.lmdb_view import LmdbView, LmdbViews
from eventsrc.actors.views.row_type import RowType
from eventsrc.actors.views.view_store import Checkpoint, Generation
from eventsrc.runtime.projections.open_generation import OpenGeneration

QUICK = Limits(restart_backoff_seconds=0.001, restart_backoff_seconds_max=0.001)
MOMENTS = pytest.mark.parametrize("moment", ["before", "after"])


@MOMENTS
async def test_what_answers_and_what_is_built_beside_it_go_on_together(moment: Moment) -> None:
    for step in itertools.count():
        async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[Balances]) as runtime:
            await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
            await runtime.projections.pause(Balances)
            await runtime.projections.rebuild(Balances)
            resume = partial(runtime.projections.resume, Balances)
            attempt = await cancelled_at_step(step, resume, moment=moment)
            await trio.testing.wait_all_tasks_blocked(0.01)
            if runtime.lag()["balances"].state != "paused":
                with trio.fail_after(10):
                    await settle(runtime, building=True)
        if attempt.is_over:
            assert step
            break


@MOMENTS
async def test_a_rebuilding_is_begun_or_leaves_nothing(tmp_path: Path, moment: Moment) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        running = runtime._projections.get(Balances)
        for step in itertools.count():
            attempt = await cancelled_at_step(step, partial(runtime.projections.rebuild, Balances), moment=moment)
            await settle(runtime, building=True)
            await tidied(runtime)
            assert running.active is not None
            assert LmdbViews(tmp_path / "views").generations("balances") == [running.active.generation]
            if attempt.is_over:
                assert step
                break


async def test_a_generation_is_closed_also_by_who_is_cancelled(tmp_path: Path) -> None:
    closed: list[LmdbView] = []

    class Watched(LmdbView):
        def close(self) -> None:
            closed.append(self)

    generation = Generation(1, 1, "")
    view = LmdbViews(tmp_path).open("balances", generation, [])
    watched = Watched(view._environment)
    with trio.CancelScope() as scope:
        scope.cancel()
        await OpenGeneration(generation, watched, {}, Checkpoint(0, b"")).close()
    assert closed == [watched]
    view.close()


class LateViews(LmdbViews):
    """Away until the runtime closes; then those that can be opened close slowly, in the hope of the others."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.is_there = threading.Event()
        self.opened_late = threading.Event()

    def generations(self, projection: str) -> list[Generation]:
        if projection == "balances" and not self.is_there.is_set():
            raise ViewUnreachable("views", "not there yet")
        return super().generations(projection)

    def open(self, projection: str, generation: Generation, tables: Iterable[RowType[Any]]) -> LmdbView:
        if projection == "balances":
            self.opened_late.set()
        return super().open(projection, generation, tables)


async def test_a_view_that_comes_back_while_the_runtime_closes_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, close = LateViews(tmp_path), LmdbView.close

    def close_slowly(view: LmdbView) -> None:
        late.is_there.set()
        late.opened_late.wait(0.2)
        close(view)

    monkeypatch.setattr(LmdbView, "close", close_slowly)
    other = LmdbViews(tmp_path / "other")
    async with Runtime.open(
        MemoryLog(),
        aggregates=[Account],
        projections=[Notes, Balances],
        views={Balances: late, Notes: other},
        limits=QUICK,
    ) as runtime:
        await until(lambda: runtime._projections.get(Notes).active is not None)
    assert not late.opened_late.is_set()
