"""Where views live, as fixtures: `views` is each store in turn, `sql` each database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from eventsrc.actors.views.lmdb_view import LmdbViews
from eventsrc.actors.views.sql import SqlViews
from eventsrc.actors.views.view_store import ViewStore


@pytest.fixture
def sql(url: str) -> Iterator[SqlViews]:
    views = SqlViews(url)
    yield views
    views.close()


@pytest.fixture(params=["lmdb", "sqlite", "postgresql"])
def views(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ViewStore]:
    if request.param == "lmdb":
        yield LmdbViews(tmp_path / "views")
        return
    url = f"sqlite:///{tmp_path / 'views.db'}"
    sql = SqlViews(request.getfixturevalue("postgres_url") if request.param == "postgresql" else url)
    yield sql
    sql.close()
