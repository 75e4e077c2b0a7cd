"""The rows of an old generation are dropped in steps, between which everybody else goes on."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy
from view_cases import FIRST, apply, open_session, total

from eventsrc.actors.views import lmdb_view
from eventsrc.actors.views.lmdb_view import LmdbViews
from eventsrc.actors.views.sql import SqlViews, sql_view
from eventsrc.actors.views.view_store import Generation


def test_others_write_between_the_steps_in_which_old_rows_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_view, "ROWS_DROPPED", 10)
    with closing(SqlViews(f"sqlite:///{tmp_path}/views.db")) as views:
        apply(open_session(views), range(1, 101))
        other = open_session(views, Generation(2, 2, "second"))
        changing, steps = SqlViews._changing, 0

        @contextmanager
        def others_first(self: SqlViews) -> Iterator[sqlalchemy.Connection]:
            nonlocal steps
            steps += 1
            apply(other, range(steps, steps + 1))
            with changing(self) as connection:
                yield connection

        monkeypatch.setattr(SqlViews, "_changing", others_first)
        views.drop("balances", FIRST)
        assert steps > 10, "100 rows, 10 at a time"
        assert total(other.view) == steps


def test_a_large_file_is_given_back_in_steps_with_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = LmdbViews(tmp_path)
    session = open_session(views)
    apply(session, range(1, 1001))
    session.view.close()
    sizes: list[int] = []

    def look(seconds: float) -> None:
        (file,) = tmp_path.rglob("data.mdb")
        sizes.append(file.stat().st_size)

    monkeypatch.setattr(lmdb_view, "FREED_BYTES", 16_384)
    monkeypatch.setattr("time.sleep", look)
    views.drop("balances", FIRST)
    assert len(sizes) >= 3
    assert {before - after for before, after in pairwise(sizes)} == {16_384}
    assert list(tmp_path.rglob("data.mdb")) == []
