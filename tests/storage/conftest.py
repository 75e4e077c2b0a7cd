"""Assertions of the contract explain themselves as those of tests do."""

from contextlib import closing
from pathlib import Path

import pytest

pytest.register_assert_rewrite("eventsrc.storage.contract")

from environment_cases import fill  # noqa: E402 (assertions are rewritten first)

from eventsrc import EventLog  # noqa: E402


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with ten events, closed in order."""
    with closing(EventLog(tmp_path / "store")) as log:
        fill(log, 10)
    return tmp_path / "store"
