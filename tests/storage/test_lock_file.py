"""LMDB's lock file, which the system may refuse, or another program have: it is told apart from the data."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import lmdb
import pytest

from eventsrc import EventLog, FileWriteFailed, StorePathInvalid
from eventsrc.storage.contract import raised
from eventsrc.storage.control.board import ControlBoard
from eventsrc.storage.environment import lmdb_errors
from eventsrc.storage.environment.folder import DATA_FILE, LOCK_FILE
from eventsrc.storage.reader import LogReader


@contextmanager
def lock_file_of_another_program(path: Path) -> Iterator[None]:
    """A new lock file that LMDB finds locked, as it does where the system refuses its own lock once."""
    (path / LOCK_FILE).write_bytes(bytes(8_192))
    code = "import fcntl, sys; file = open(sys.argv[1]); fcntl.lockf(file, fcntl.LOCK_SH); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(path / LOCK_FILE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


REFUSALS = [
    (None, "its lock.mdb is not as this LMDB makes it, and another process has it locked"),
    (OSError(errno.EIO, os.strerror(errno.EIO)), "its lock.mdb: Input/output error"),
]


@pytest.mark.parametrize(("refusal", "words"), REFUSALS)
def test_a_lock_file_that_cannot_be_used_is_not_taken_for_another_format(
    path: Path, monkeypatch: pytest.MonkeyPatch, refusal: OSError | None, words: str
) -> None:
    with lock_file_of_another_program(path):
        if refusal is not None:
            monkeypatch.setattr(lmdb_errors, "_try_lock", raising(refusal))
        for open_store in (EventLog, LogReader.open):
            error = raised(StorePathInvalid, lambda open_store=open_store: open_store(path))
            assert str(error).startswith(f"{path} cannot be opened as a store: {words}. Look at the disk")
    monkeypatch.undo()
    with closing(EventLog(path)) as log:
        assert log.last_position == 10


def test_a_lock_that_was_refused_a_moment_ago(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock_file_of_another_program(path):
        monkeypatch.setattr(lmdb_errors, "_try_lock", lambda _: None)
        error = raised(StorePathInvalid, lambda: EventLog(path))
        assert "its lock.mdb could not be locked a moment ago. Look at the disk" in str(error)


def test_the_lock_file_of_a_control_board_is_not_taken_for_damage(tmp_path: Path) -> None:
    ControlBoard(tmp_path).close()
    with lock_file_of_another_program(tmp_path):
        error = raised(FileWriteFailed, lambda: ControlBoard(tmp_path))
        assert "its lock.mdb is not as this LMDB makes it" in str(error)
    ControlBoard(tmp_path).close()


@pytest.mark.parametrize("name", [LOCK_FILE, DATA_FILE])
def test_the_file_that_the_system_refuses_is_named(path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    refusal = OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr(lmdb, "open", raising(lmdb.Error(f"{path}: {refusal.strerror}")))
    monkeypatch.setattr(lmdb_errors, "_try_lock" if name == LOCK_FILE else "_try_read", raising(refusal))
    for open_store in (EventLog, LogReader.open):
        error = raised(StorePathInvalid, lambda open_store=open_store: open_store(path))
        assert str(error).startswith(f"{path} cannot be opened as a store: its {name}: Input/output error. Look at")


def raising(error: Exception) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise error

    return refuse
