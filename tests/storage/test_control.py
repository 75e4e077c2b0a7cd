"""The control board says what is wrong with it, and refuses what would harm it."""

import fcntl
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TextIO

import lmdb
import pytest

from eventsrc import ControlBoardUnreadable, EventLog, StoreClosed, StoreInUse
from eventsrc.storage.control.board import ControlBoard, ParkedEvent, SubscriptionProgress
from eventsrc.storage.environment import folder
from eventsrc.storage.environment.board_environment import READERS_MAX

PROGRESS = SubscriptionProgress(1, bytes(32), [])
PARKED = ParkedEvent("mailer", 1, "account-ann", "why", 1, 1)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[ControlBoard]:
    with closing(ControlBoard(tmp_path / "control")) as board:
        board.save("mailer", PROGRESS, [PARKED], [], create=True)
        board.request("pause", "balances")
        board.set_positions({"follower": 1})
        board.set_status({"runtime": {}})
        yield board


READS: list[tuple[str, bytes, Callable[[ControlBoard], object]]] = [
    ("subscriptions", b"mailer", lambda board: board.subscriptions()),
    ("subscriptions", b"mailer", lambda board: board.progress("mailer")),
    ("subscriptions", b"mailer", lambda board: board.is_ahead_of(0)),
    ("subscriptions", b"mailer", lambda board: board.cut(0, b"")),
    ("parked", b"mailer\0" + (1).to_bytes(8, "big"), lambda board: board.parked()),
    ("parked", b"mailer\0" + (1).to_bytes(8, "big"), lambda board: board.delete("mailer")),
    ("requests", (1).to_bytes(8, "big"), lambda board: board.requests()),
    ("requests", (1).to_bytes(8, "big"), lambda board: board.request("resume", "balances")),
    ("answers", (2).to_bytes(8, "big"), lambda board: board.answer(2)),
    ("positions", b"follower", lambda board: board.position("follower")),
    ("status", b"runtime", lambda board: board.status()),
]


@pytest.mark.parametrize(("table", "key", "read"), READS)
def test_a_damaged_row(board: ControlBoard, table: str, key: bytes, read: Callable[[ControlBoard], object]) -> None:
    handle = board._environment.opened.open_db(table.encode())
    with board._environment.opened.begin(write=True) as transaction:
        transaction.put(key, b"\xc1", db=handle)
    with pytest.raises(ControlBoardUnreadable, match=r"cannot be read: a row of it is damaged \(.*eventsrc verify"):
        read(board)


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"\xff" * 8_192)
    for _ in range(2):
        with pytest.raises(ControlBoardUnreadable, match=r"not an LMDB file.*eventsrc verify"):
            ControlBoard(tmp_path)


def test_one_that_cannot_be_opened_to_its_end_is_let_go_of(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), lib_version=0) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"parked", b"is no table")
    for _ in range(2):
        with pytest.raises(ControlBoardUnreadable, match="MDB_INCOMPATIBLE"):
            ControlBoard(tmp_path)


def test_too_many_look_at_it(board: ControlBoard) -> None:
    with ExitStack() as stack:
        for _ in range(READERS_MAX):
            stack.enter_context(board._environment.opened.begin())
        with pytest.raises(ControlBoardUnreadable, match=r"126 look at it already\. End some"):
            board.subscriptions()
    assert board.subscriptions() == {"mailer": PROGRESS}


def test_one_that_is_closed(board: ControlBoard) -> None:
    board.close()
    for use in (board.subscriptions, lambda: board.set_paused("balances", paused=True)):
        with pytest.raises(StoreClosed):
            use()


def test_one_that_this_process_has_open(board: ControlBoard) -> None:
    with pytest.raises(StoreInUse, match="by this process"):
        ControlBoard(board.path)


FORKING = """
import os, sys, warnings
from eventsrc import StoreForked
from eventsrc.storage.control.board import ControlBoard
warnings.simplefilter("ignore")
board = ControlBoard(sys.argv[1])
board.take()
if not os.fork():
    for use in (board.subscriptions, lambda: board.set_paused("balances", paused=True)):
        try:
            use()
        except StoreForked as error:
            print(type(error).__name__, flush=True)
    board.close()
    os._exit(0)
os.wait()
board.set_paused("balances", paused=True)
print(board.paused(), board.has_runtime)
"""


def test_a_forked_child_may_not_use_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKING, tmp_path]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "StoreForked\nStoreForked\n{'balances'} True\n", ran


def test_who_only_looks_whether_a_runtime_is_there_keeps_none_out(
    board: ControlBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lock, take in (
        (Path(board.path) / folder.RUNTIME_FILE, board.take),
        (tmp_path / folder.WRITER_FILE, lambda: EventLog(tmp_path).close()),
    ):
        looking = lock.open("a")
        fcntl.flock(looking, fcntl.LOCK_SH)
        looks = itertools.count(1)

        def sleep(_: float, file: TextIO = looking, looks: Iterator[int] = looks) -> None:
            if next(looks) == 1_000:  # the machine is busy
                file.close()

        monkeypatch.setattr("time.sleep", sleep)
        take()
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("who holds it is not waited for"))
    with pytest.raises(StoreInUse, match="another runtime"):
        board.take()
