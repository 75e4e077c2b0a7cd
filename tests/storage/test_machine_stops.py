"""The machine stops in the middle of something: what was begun is done again, and nothing of it is taken for damage."""

import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from environment_cases import fill

from eventsrc import EventLog, StoreTruncated
from eventsrc.storage.control.board import ControlBoard
from eventsrc.storage.environment import locks
from eventsrc.storage.environment.folder import DATA_FILE, GENERATION_FILE, ROWS_FOLDER, VIEWS_FOLDER, WRITER_FILE
from eventsrc.storage.environment.view_environment import MARK_FILE, ViewEnvironment
from eventsrc.storage.evidence.signed_checkpoint import new_signing_key
from eventsrc.storage.reader import LogReader
from eventsrc.storage.verification.verify import verify

PAGE_BYTES = 4096


def begun(folder: Path, mark: str) -> Path:
    """A store of whose first two pages only the second one is on disk."""
    folder.mkdir()
    with closing(EventLog(folder.with_name("other"))):
        second = (folder.with_name("other") / DATA_FILE).read_bytes()[PAGE_BYTES : 2 * PAGE_BYTES]
    (folder / DATA_FILE).write_bytes(bytes(PAGE_BYTES) + second)
    (folder / WRITER_FILE).write_text(mark)
    return folder


def test_a_store_that_was_not_created_to_its_end_is_created_anew(tmp_path: Path) -> None:
    path = begun(tmp_path / "store", "17 of-another-start creating")
    with closing(EventLog(path)) as log:
        fill(log, 3)
    with closing(EventLog(path)) as log:
        assert log.last_position == 3


def test_a_store_that_was_created_is_never_created_anew(tmp_path: Path) -> None:
    with pytest.raises(StoreTruncated, match="Restore it from a backup"):
        EventLog(begun(tmp_path / "store", "17 of-another-start"))
    with closing(EventLog(tmp_path / "new")):
        assert (tmp_path / "new" / WRITER_FILE).read_text().split()[2:] == []


def synced_folders(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    synced, fsync = set[Path](), os.fsync

    def sync(descriptor: int) -> None:
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    return synced


def test_all_new_folders_on_the_way_to_a_store_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = synced_folders(monkeypatch)
    EventLog(tmp_path / "of" / "last" / "year").close()
    assert synced >= {tmp_path, tmp_path / "of", tmp_path / "of" / "last", tmp_path / "of" / "last" / "year"}


def test_a_new_control_board_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = synced_folders(monkeypatch)
    ControlBoard(tmp_path / "control").close()
    assert synced >= {tmp_path, tmp_path / "control"}


def test_a_new_signing_key_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = synced_folders(monkeypatch)
    new_signing_key(tmp_path / "signing.pem")
    assert tmp_path in synced


def view_with_a_row(folder: Path) -> ViewEnvironment:
    view = ViewEnvironment(folder, {"rows": []})
    with view.write() as transaction:
        transaction.put(b"key", b"row", db=view.rows["rows"])
    return view


def row_in(folder: Path) -> bytes | None:
    with closing(ViewEnvironment(folder, {"rows": []})) as view, view.read() as transaction:
        return transaction.get(b"key", db=view.rows["rows"])


def test_a_view_whose_removal_is_interrupted_is_not_taken_for_a_valid_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view_with_a_row(tmp_path / "view").close()
    (tmp_path / "view" / MARK_FILE).write_text("another start of the machine")

    def interrupted(folder: Path) -> None:
        (folder / MARK_FILE).unlink()
        raise OSError("the machine stops")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(Exception, match="the machine stops"):
            ViewEnvironment(tmp_path / "view", {"rows": []})
    assert row_in(tmp_path / "view") is None


def test_a_view_that_a_killed_process_had_open_has_its_mark_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view_with_a_row(tmp_path / "view").close()
    mark = ViewEnvironment(tmp_path / "other", {"rows": []})
    shutil.copy(tmp_path / "other" / MARK_FILE, tmp_path / "view" / MARK_FILE)
    mark.close()
    synced = synced_folders(monkeypatch)
    view = ViewEnvironment(tmp_path / "view", {"rows": []})
    assert tmp_path / "view" in synced
    view.close()


def test_where_the_system_does_not_name_its_start_the_machine_may_have_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "BOOT_ID_FILE", tmp_path / "hidden")
    view_with_a_row(tmp_path / "view").close()
    assert row_in(tmp_path / "view") == b"row", "it was closed"
    (tmp_path / "view" / MARK_FILE).write_text(locks.boot_id())
    assert row_in(tmp_path / "view") is None, "it was open"
    EventLog(tmp_path / "store").close()
    (tmp_path / "store" / WRITER_FILE).write_text(f"17 {locks.boot_id()}")
    EventLog(tmp_path / "store").close()
    assert "checking its pages" in caplog.text


def test_a_view_that_is_made_anew_is_no_fault_of_its_store(path: Path) -> None:
    generation = path / VIEWS_FOLDER / "balances" / "1"
    view_with_a_row(generation / ROWS_FOLDER).close()
    (generation / GENERATION_FILE).write_text("{}")
    with (generation / ROWS_FOLDER / DATA_FILE).open("r+b") as file:
        file.write(bytes(PAGE_BYTES))
    with closing(LogReader.open(path)) as log:
        (found,) = verify(log)
        assert "its pages are damaged" in found.problem
        (generation / ROWS_FOLDER / MARK_FILE).write_text("another start of the machine")
        assert list(verify(log)) == []
