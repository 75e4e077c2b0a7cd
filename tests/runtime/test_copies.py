"""Copies of a store that is in use: streams are compacted and made whole again meanwhile, and commands go on."""

from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from bank_domain import Account, Deposit, Withdraw
from compaction_cases import LIMITS, all_events, fill, sound

from eventsrc import ArchiveUnreachable, BackupRefused, CopyUnsound, EventLog, Runtime
from eventsrc.storage.archive.archive import Archive
from eventsrc.storage.archive.compaction import unused_segments
from eventsrc.storage.copies import transfer
from eventsrc.storage.copies.backup import backup, fork, restore
from eventsrc.storage.copies.exporting import export_events
from eventsrc.storage.copies.importing import import_store
from eventsrc.storage.environment.environment import Environment
from eventsrc.storage.reader import LogReader


async def test_copies_take_the_archive_along(path: Path, tmp_path: Path) -> None:
    events = all_events(path)
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
        await runtime.backup(tmp_path / "backup")
        await runtime.fork(50, tmp_path / "fork")
    with closing(LogReader.open(path)) as log:
        root = log.tree
        backup(log, tmp_path / "second")
        restore(log, tmp_path / "restored")
        export_events(log, tmp_path / "all.jsonl.gz")
    import_store(str(tmp_path / "imported"), tmp_path / "all.jsonl.gz")
    for name in ("backup", "second", "restored", "imported"):
        assert all_events(tmp_path / name) == events
        assert sound(tmp_path / name)
        with closing(LogReader.open(tmp_path / name)) as log:
            assert log.tree == root
    assert all_events(tmp_path / "fork") == events[:50]
    # A store with the events themselves takes, and compares, what comes of one whose events are in the archive.
    assert import_store(str(tmp_path / "second"), tmp_path / "all.jsonl.gz") == (0, 90)


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def during(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], Awaitable[object]], times: int = 1
) -> list[int]:
    """Have something done in the runtime's own thread before a function is called in a worker thread."""
    original = getattr(owner, name)
    calls: list[int] = []

    def intercepted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) <= times:
            trio.from_thread.run(act)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, intercepted)
    return calls


async def test_a_backup_begins_anew_where_a_stream_was_made_whole_in_between(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, log = all_events(path), EventLog(path)
    async with Runtime.open(log, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")

        async def make_whole() -> None:
            await runtime.maintenance.uncompact(Account, "ann")
            # As the next opening does.
            log.archive.drop(unused_segments(log))

        copies = during(monkeypatch, Archive, "copy", make_whole)
        assert (await runtime.backup(tmp_path / "backup")).events == 90
        assert len(copies) == 2
    assert all_events(tmp_path / "backup") == events
    assert sound(tmp_path / "backup")


async def test_a_backup_is_sound_where_a_stream_is_compacted_in_between(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = all_events(path)
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:

        async def compact() -> None:
            await runtime.maintenance.compact(Account, "ann")
            await runtime.actor(Account, "ann").ask(Deposit(1))

        during(monkeypatch, Archive, "copy", compact)
        await runtime.backup(tmp_path / "backup")
    assert all_events(tmp_path / "backup") == events
    assert sound(tmp_path / "backup")
    async with Runtime.open(tmp_path / "backup", aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
        assert (await runtime.actor(Account, "ann").state(at_version=3)).balance == 6
    assert sound(tmp_path / "backup")


async def test_an_export_reads_again_what_came_back_from_the_archive(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(path)
    async with Runtime.open(log, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")

        async def make_whole() -> None:
            await runtime.maintenance.uncompact(Account, "ann")
            log.archive.drop(unused_segments(log))

        reads = during(monkeypatch, transfer, "_records", make_whole)
        await trio.to_thread.run_sync(export_events, log, tmp_path / "all.jsonl")
        assert len(reads) > 1
    assert import_store(str(tmp_path / "imported"), tmp_path / "all.jsonl") == (90, 90)


async def test_what_the_store_itself_lacks_is_said_at_once(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    (path / "archive").rename(tmp_path / "elsewhere")
    copied: list[Path] = []
    original = Environment.copy

    def copy(self: Environment, folder: Path) -> None:
        copied.append(folder)
        original(self, folder)

    monkeypatch.setattr(Environment, "copy", copy)
    with closing(LogReader.open(path)) as log:
        with pytest.raises(ArchiveUnreachable):
            backup(log, tmp_path / "backup")
        with pytest.raises(ArchiveUnreachable):
            export_events(log, tmp_path / "all.jsonl")
        with pytest.raises(ArchiveUnreachable):
            fork(log, 50, tmp_path / "fork")
    assert len(copied) == 1
    assert names_in(tmp_path) == ["elsewhere", "store"]


async def test_commands_go_on_during_a_backup_and_a_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Account], limits=LIMITS) as runtime:
        await fill(runtime, 10)

        async def go_on() -> None:
            await runtime.actor(Account, "ann").ask(Deposit(1))

        during(monkeypatch, Environment, "copy", go_on)
        during(monkeypatch, transfer, "_read_groups", go_on)
        assert (await runtime.backup(tmp_path / "backup")).events == 21
        await runtime.fork(20, tmp_path / "fork")
        assert runtime.last_position == 22
        with pytest.raises(BackupRefused, match="itself, or inside of it"):
            await runtime.backup(tmp_path / "store" / "views")
    async with Runtime.open(tmp_path / "fork", aggregates=[Account], limits=LIMITS) as what_if:
        await what_if.transact([(Account, "ann", Withdraw(5)), (Account, "bob", Deposit(5))])
    assert len(all_events(tmp_path / "store")) == 22
    assert sound(tmp_path / "fork")
    assert sound(tmp_path / "backup")


async def test_damaged_numbers_of_segments_are_a_finding_of_the_copy(path: Path, tmp_path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    with closing(EventLog(path)) as log:
        log.environment.write(
            lambda transaction: transaction.put(b"segments", b"\xc1", db=log.environment.table("meta"))
        )
        with pytest.raises(CopyUnsound, match="segments"):
            backup(log, tmp_path / "backup")
    assert names_in(tmp_path) == ["store"]
