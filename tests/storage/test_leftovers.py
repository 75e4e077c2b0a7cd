"""What killed processes leave is one of each name, and the next that writes the same replaces it."""

from contextlib import closing
from pathlib import Path

from environment_cases import run_python

from eventsrc import EventLog
from eventsrc.storage.archive.archive import BEGUN_FOLDER
from eventsrc.storage.environment.durable_file import write_durably
from eventsrc.storage.reader import LogReader


def test_an_archive_that_was_begun_is_replaced(path: Path) -> None:
    code = """
        import signal
        from pathlib import Path
        Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        log = EventLog(sys.argv[1])
        log.archive.add(1, b"")
    """
    for _ in range(2):
        run_python(code, path)
        assert sorted(each.name for each in path.iterdir() if "archive" in each.name) == [BEGUN_FOLDER]
    with closing(LogReader.open(path)) as log:
        assert not log.archive.exists
    with closing(EventLog(path)) as log:
        log.archive.add(1, b"")
        log.archive.check_has([1])
    assert sorted(each.name for each in path.iterdir() if "archive" in each.name) == ["archive"]


def test_a_small_file_that_was_begun_is_replaced(tmp_path: Path) -> None:
    code = """
        import signal
        from pathlib import Path
        from eventsrc.storage.environment.durable_file import write_durably
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        write_durably(Path(sys.argv[1]), b"new")
    """
    for _ in range(2):
        run_python(code, tmp_path / "current")
        assert [each.name for each in tmp_path.iterdir()] == [".current.new"]
    write_durably(tmp_path / "current", b"newer")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("current", b"newer")]
