"""The machine stops in the middle of something: what was begun is done again, and nothing of it is taken for damage."""

import os
from pathlib import Path

import pytest

from eventsrc import EventLog
from eventsrc.storage.control.board import ControlBoard

PAGE_BYTES = 4096


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
