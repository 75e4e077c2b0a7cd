"""Projections that are paused, resumed, built anew and closed by whoever is cut off meanwhile."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import trio
from bank_domain import Account
from bank_views import Balances, Notes
from projection_cases import until

from eventsrc import Limits, MemoryLog, Runtime, ViewUnreachable
from eventsrc.actors.views.lmdb_view import LmdbView, LmdbViews
from eventsrc.actors.views.row_type import RowType
from eventsrc.actors.views.view_store import Checkpoint, Generation
from eventsrc.runtime.projections.open_generation import OpenGeneration

QUICK = Limits(restart_backoff_seconds=0.001, restart_backoff_seconds_max=0.001)


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
