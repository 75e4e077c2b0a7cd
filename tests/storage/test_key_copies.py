"""The keys after a process was killed, or the machine stopped: a copy has what it was made of, and no key is lost."""

import multiprocessing
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventsrc.storage.keys.key_file import KeyFile
from eventsrc.storage.keys.key_table import SubjectKey


def key(number: int, subject: str) -> SubjectKey:
    return SubjectKey(bytes([number]) * 16, subject, bytes([number]) * 64)


def add_and_end(path: Path, added: SubjectKey) -> None:
    KeyFile(path).add([added])
    os._exit(0)  # as if it were killed: the file is not closed


def in_killed_process(function: Callable[..., None], *arguments: object) -> None:
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_a_copy_takes_nothing_from_the_copy_before(tmp_path: Path) -> None:
    with closing(KeyFile(tmp_path / "keys")) as keys:
        keys.add([key(1, "ann")])
        keys.copy_to(tmp_path / "safe")
        in_killed_process(add_and_end, tmp_path / "safe", key(2, "cid"))
        keys.add([key(3, "bob")])
        keys.destroy("ann")
        keys.copy_to(tmp_path / "safe")
    with closing(KeyFile(tmp_path / "safe")) as copy:
        assert copy.of_subject("ann") == [], "who was forgotten stays so"
        assert copy.of_subject("bob") == [key(3, "bob")]
        assert copy.of_subject("cid") == []
        assert copy.problem() == ""


def test_keys_that_a_killed_process_has_stored_are_on_disk_before_they_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_killed_process(add_and_end, tmp_path / "keys", key(1, "ann"))
    synced, fsync = list[str](), os.fsync

    def sync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    with closing(KeyFile(tmp_path / "keys")) as keys:
        assert keys.of_subject("ann") == [key(1, "ann")]
        assert synced == ["keys-wal"]
