"""The locks of whoever writes: when they are given up, and what is stored where somebody has removed them."""

import os
import signal
from contextlib import closing
from pathlib import Path

import pytest
from environment_cases import fill, run_python

from eventsrc import EventLog
from eventsrc.storage.control.board import ControlBoard
from eventsrc.storage.reader import LogReader
from eventsrc.storage.verification.verify import verify


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_forked_child_that_outlives_the_store_does_not_keep_it_locked(path: Path, end: str) -> None:
    code = """
        import signal, warnings; warnings.simplefilter("ignore")
        from eventsrc.storage.control.board import ControlBoard
        log, board = EventLog(sys.argv[1]), ControlBoard(sys.argv[1] + "/control")
        board.take()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(1)
            os.close(2)
            os.write(writing, b"begun")
            signal.pause()
        os.read(reading, 5)
        print(child, flush=True)
        if sys.argv[2] == "close":
            log.close()
            board.close()
            log, board = EventLog(sys.argv[1]), ControlBoard(sys.argv[1] + "/control")
            board.take()
            print("again", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ran = run_python(code, path, end)
    child, *told = ran.stdout.split()
    try:
        assert told == (["again"] if end == "close" else []), ran
        with closing(EventLog(path)) as log, closing(ControlBoard(path / "control")) as board:
            board.take()
            fill(log, 1)
    finally:
        os.kill(int(child), signal.SIGKILL)


@pytest.mark.parametrize("optimized", [False, True])
def test_of_two_that_write_since_locks_were_removed_one_stores_nothing(path: Path, *, optimized: bool) -> None:
    code = """
        import subprocess
        log = EventLog(sys.argv[1])
        os.unlink(sys.argv[1] + "/writer.lock")
        other = "import sys; from eventsrc import EventLog; from environment_cases import fill; "
        subprocess.run([sys.executable, "-c", other + "fill(EventLog(sys.argv[1]), 1)", sys.argv[1]], check=True)
        for commit_id in 11, 20:
            print(*log.append([one(commit_id)]))
    """
    ran = run_python(code, path, flags=["-O"] if optimized else [])
    in_use = f"The store {path} is open for writing by another process, too, since its writer.lock was removed."
    assert [line.startswith(in_use) for line in ran.stdout.splitlines()] == [True, True], ran
    with closing(LogReader.open(path)) as reader:
        assert (reader.last_position, list(verify(reader))) == (11, [])
