"""What was interrupted is finished when the store is opened, and whoever asks for the same meanwhile waits for it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from bank_domain import Account
from compaction_cases import LIMITS, all_events, fill, sound, stored_values

from eventsrc import CompactionRefused, Runtime, RuntimeClosed, StoreWriteFailed
from eventsrc.runtime.maintenance import compactor
from eventsrc.storage.archive.archive import Archive
from eventsrc.storage.archive.compacted import Compacted
from eventsrc.storage.archive.compaction import store_compacted
from eventsrc.storage.log import EventLog


@pytest.mark.parametrize(
    ("asked", "interrupted_at"),
    [("compact", "move_step"), ("uncompact", "restore_step"), ("uncompact", "forget_compacted")],
)
@pytest.mark.parametrize("asked_again", ["compact", "uncompact"])
async def test_what_is_asked_for_while_it_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, interrupted_at: str, asked_again: str
) -> None:
    path = tmp_path / "store"

    def refused(*_: Any) -> Any:
        raise StoreWriteFailed(str(path), "Input/output error")

    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await fill(runtime)
    before, values = all_events(path), stored_values(path)
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        if asked == "uncompact":
            await runtime.maintenance.compact(Account, "ann")
        with monkeypatch.context() as patch:
            patch.setattr(compactor, interrupted_at, refused)
            with pytest.raises(StoreWriteFailed):
                await getattr(runtime.maintenance, asked)(Account, "ann")
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        with suppress(CompactionRefused):  # it was done already
            await getattr(runtime.maintenance, asked_again)(Account, "ann")
        is_compacted = runtime.maintenance.compacted(Account, "ann") is not None
        assert is_compacted == (asked_again == "compact")
    assert sound(path)
    assert all_events(path) == before
    assert (stored_values(path) == values) == (not is_compacted)


async def test_work_of_a_compaction_that_meets_the_end_of_the_runtime_is_done_and_no_more_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    submit = ThreadPoolExecutor.submit
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await fill(runtime)
        compacting = runtime.maintenance._compacting("account-ann")
        with monkeypatch.context() as patch:
            async with trio.open_nursery() as nursery:

                def submitted(executor: ThreadPoolExecutor, function: Any, *arguments: Any) -> Any:
                    patch.undo()
                    nursery.start_soon(compacting.close)
                    return submit(executor, function, *arguments)

                patch.setattr(ThreadPoolExecutor, "submit", submitted)
                with pytest.raises(RuntimeClosed, match="in the middle of a compaction"):
                    await compacting.compact("account-ann")
    assert sound(path)


async def test_the_archive_is_not_closed_under_what_a_compaction_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB waits forever, or ends the process, when it is closed under a transaction of another thread."""
    path = tmp_path / "store"
    begun, may_end = threading.Event(), threading.Event()
    is_writing_at_the_end: list[bool] = []
    add, close, shutdown = Archive.add, Archive.close, ThreadPoolExecutor.shutdown

    def slow_add(archive: Archive, number: int, segment: bytes) -> None:
        begun.set()
        may_end.wait(60)
        add(archive, number, segment)
        begun.clear()

    def noted_close(archive: Archive) -> None:
        is_writing_at_the_end.append(begun.is_set())
        may_end.set()
        close(archive)

    def waited_for(executor: ThreadPoolExecutor, wait: bool = True) -> None:
        if wait:
            may_end.set()
        shutdown(executor, wait)

    async def compact() -> None:
        with pytest.raises(RuntimeClosed):
            await runtime.maintenance.compact(Account, "ann")

    async with trio.open_nursery() as outside, Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await fill(runtime)
        monkeypatch.setattr(Archive, "add", slow_add)
        monkeypatch.setattr(Archive, "close", noted_close)
        monkeypatch.setattr(ThreadPoolExecutor, "shutdown", waited_for)
        outside.start_soon(compact)
        assert await trio.to_thread.run_sync(begun.wait, 60)
    monkeypatch.undo()
    assert is_writing_at_the_end == [False]
    assert sound(path)


async def test_one_that_is_cancelled_ends_what_it_has_the_journal_do_before_another_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the other drops the segments that are not in use yet, and the log is told of them after that."""
    path = tmp_path / "store"
    storing, may_store = threading.Event(), threading.Event()

    def store_late(log: EventLog, compacted: Compacted) -> None:
        storing.set()
        assert may_store.wait(60)
        store_compacted(log, compacted)

    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await fill(runtime)
    before = all_events(path)
    monkeypatch.setattr(compactor, "store_compacted", store_late)
    async with (
        Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime,
        trio.open_nursery() as others,
        trio.open_nursery() as callers,
    ):
        callers.start_soon(runtime.maintenance.compact, Account, "ann")
        await trio.to_thread.run_sync(storing.wait, 60)
        others.start_soon(runtime.maintenance.compact, Account, "ann")
        callers.cancel_scope.cancel()
        # What another one does in threads has time to be done.
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked(0.1)
        others.cancel_scope.cancel()
        may_store.set()
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        with suppress(CompactionRefused):  # it was finished already
            await runtime.maintenance.compact(Account, "ann")
    assert sound(path)
    assert all_events(path) == before
