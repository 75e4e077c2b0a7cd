"""What the tests of the runtime share."""

from pathlib import Path

import pytest
from shop_domain import Gateway, PlaceOrder

from eventsrc import MemoryLog
from eventsrc.storage.store import EventStore


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> EventStore | Path:
    """A store in memory, and a folder for one on LMDB."""
    return MemoryLog() if request.param == "memory" else tmp_path / "store"


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """A payment gateway of the test's own."""
    fresh = Gateway()
    monkeypatch.setattr(PlaceOrder, "gateway", fresh)
    return fresh
