"""What the tests of the runtime share."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from answers import kept
from bank_domain import Account
from compaction_cases import LIMITS, fill
from shop_domain import Gateway, PlaceOrder

from eventsrc import MemoryLog, Runtime
from eventsrc.runtime.embedding.runtime_thread import THREAD_NAME
from eventsrc.storage.store import EventStore


@pytest.fixture(params=["memory", "lmdb"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EventStore | Path]:
    """A store in memory, and a folder for one on LMDB, in which everything that was answered must be at the end."""
    if request.param == "memory":
        yield MemoryLog()
        return
    with kept(tmp_path / "store", monkeypatch):
        yield tmp_path / "store"


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """A payment gateway of the test's own."""
    fresh = Gateway()
    monkeypatch.setattr(PlaceOrder, "gateway", fresh)
    return fresh


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """The folder of a store with 45 events of each of two accounts."""
    async with Runtime.open(tmp_path / "store", aggregates=[Account], limits=LIMITS) as runtime:
        await fill(runtime)
    return tmp_path / "store"


@pytest.fixture
def no_runtime_thread_is_left() -> Iterator[None]:
    """Whoever leaves a portal finds its thread gone."""
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name == THREAD_NAME] == []
