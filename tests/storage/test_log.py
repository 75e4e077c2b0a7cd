"""The log on LMDB fulfils the contract: wherever its indexes are, and however it ended before."""

import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest

from eventsrc import EventLog, Limits
from eventsrc.storage import log as log_module
from eventsrc.storage.contract import ReadingContract, WritingContract, append_to, commit
from eventsrc.storage.reader import LogReader
from eventsrc.storage.store import EventStore
from eventsrc.storage.verification.verify import verify


class TestEventLog(WritingContract, ReadingContract):
    """All indexes are in memory still."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path
        self.limits: Limits | None = None
        self.opened: list[EventLog] = []
        yield
        for log in self.opened:
            log.close()
        with closing(EventLog(self.opened[-1].path)) as log:
            assert list(verify(log)) == []

    def open_store(self, limits: Limits | None = None) -> EventStore:
        return self.open_at(self.folder / f"store-{len(self.opened)}", limits)

    def open_at(self, path: Path | str, limits: Limits | None) -> EventStore:
        self.limits = limits
        self.opened.append(EventLog(path, limits=limits))
        return self.opened[-1]


class TestFlushedEventLog(TestEventLog):
    """All indexes are on disk, and nothing else is in use."""

    def reopen(self, store: EventStore) -> EventStore:
        store.close()
        return self.open_at(store.path, self.limits)


class TestKilledEventLog(TestEventLog):
    """The process was killed: what the page cache has is there, and no index was flushed."""

    def reopen(self, store: EventStore) -> EventStore:
        copy = self.folder / f"copy-{len(self.opened)}"
        shutil.copytree(store.path, copy, ignore=shutil.ignore_patterns("lock.mdb"))
        return self.open_at(copy, self.limits)


@pytest.fixture
def tiny_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush all the time and in the smallest slices."""
    monkeypatch.setattr(log_module, "TAIL_WEIGHT_MAX", 5)
    monkeypatch.setattr(log_module, "FLUSH_CHUNK_ITEMS", 1)
    monkeypatch.setattr(log_module, "HEADS_CACHED_MAX", 2)


@pytest.mark.usefixtures("tiny_tails")
class TestFlushingEventLog(TestEventLog):
    """Some indexes are on disk, some are on their way, some are in memory."""


@pytest.mark.usefixtures("tiny_tails")
class TestKilledWhileFlushingEventLog(TestKilledEventLog):
    """The same, and the process is killed."""


def test_the_stored_types_are_those_on_disk_and_those_in_memory(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path)) as log:
        names = ["a", "a.b", "ab", "é"]
        for number, name in enumerate(names, 1):
            log.append([commit(number, append_to("s-1", 2, type=name))])
        assert log.names_in("types") == names
        log.flush()
        log.append([commit(5, append_to("s-1", 1, type="a.c")), commit(6, append_to("s-1", 1, type="a"))])
        assert log.names_in("types") == ["a", "a.b", "a.c", "ab", "é"]
    with closing(LogReader.open(tmp_path)) as reader:
        assert reader.names_in("types") == ["a", "a.b", "a.c", "ab", "é"]


def test_names_that_wait_for_a_growing_map_hold_up_nobody_who_reads(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append([commit(1, append_to("s-1", 2, type="a"))])
    gate = log.environment._gate
    names: list[str] = []

    def grow() -> None:
        with gate.alone():
            pass

    def read() -> None:
        with log.environment.read():
            for other in others:
                other.start()
            while not gate._waiting_alone:
                time.sleep(0.001)
            others[1].join(0.1)  # time to begin: it waits for the map, and that for this thread
            assert log.read_type("a", limit=1)

    others = [
        Thread(target=grow, daemon=True),
        Thread(target=lambda: names.extend(log.names_in("types")), daemon=True),
    ]
    reading = Thread(target=read, daemon=True)
    reading.start()
    for thread in (reading, *others):
        thread.join(10)
        assert not thread.is_alive()
    assert names == ["a"]
    log.close()  # not where a thread holds it: that would wait, too
