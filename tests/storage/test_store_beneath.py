"""What happens beneath a store that is read: its disk is full or read-only, it is moved away, another is put there."""

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from damage_store import make_store
from environment_cases import NOBODY, OPEN_AND_TELL, fill, run_python
from small_disk import fill_up

from eventsrc import ANY, EventLog, StoreReadOnly, StoreReplaced
from eventsrc.runtime.command_line import main
from eventsrc.storage.archive.archive import Archive
from eventsrc.storage.commit import NewEvent, StreamAppend
from eventsrc.storage.contract import commit, raised
from eventsrc.storage.control.board import ControlBoard
from eventsrc.storage.copies.backup import backup
from eventsrc.storage.environment.folder import LOCK_FILE
from eventsrc.storage.environment.lock_file import LOCK_FILE_SIZE_BYTES
from eventsrc.storage.errors import VerificationImpossible
from eventsrc.storage.reader import LogReader
from eventsrc.storage.verification import apart
from eventsrc.storage.verification.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("beneath") / "store"
    make_store(path)
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "store")
    return tmp_path / "store"


def move_away(store: Path, other: Path | None) -> None:
    store.rename(store.with_name("away"))
    if other is not None:
        shutil.copytree(other, store)


# --- moved away


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_store_that_is_moved_away_while_it_is_verified_is_not_damaged(
    made: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, is_replaced: bool
) -> None:
    def moved_meanwhile(*arguments: object, **options: object) -> object:
        move_away(store, made if is_replaced else None)
        return verify(*arguments, **options)  # type: ignore[arg-type]

    def no_process(*_: object, **__: object) -> None:
        raise OSError  # it is done in this one then

    monkeypatch.setattr(apart, "verify", moved_meanwhile)
    monkeypatch.setattr(subprocess, "Popen", no_process)
    with pytest.raises(
        VerificationImpossible, match=r"was moved, removed or replaced while it was open\. Open what is there now"
    ):
        apart.verify_apart(store)
    shutil.rmtree(store, ignore_errors=True)
    store.with_name("away").rename(store)
    assert main(["verify", str(store)]) == 1
    assert "DAMAGED" not in capsys.readouterr().out


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_store_that_is_moved_away_while_it_is_copied(
    made: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_replaced: bool
) -> None:
    copy = Archive.copy

    def moved_meanwhile(archive: Archive, folder: Path) -> None:
        move_away(store, made if is_replaced else None)
        copy(archive, folder)

    monkeypatch.setattr(Archive, "copy", moved_meanwhile)
    with closing(LogReader.open(store)) as log:
        raised(StoreReplaced, lambda: backup(log, tmp_path / "copy"))
    assert {each.name for each in tmp_path.iterdir()} <= {"store", "away"}


@pytest.mark.parametrize("is_replaced", [False, True])
@pytest.mark.parametrize("how", ["moved", "removed"])
def test_nothing_is_answered_by_who_writes_a_store_that_is_not_there_any_more(
    made: Path, store: Path, how: str, *, is_replaced: bool
) -> None:
    with closing(EventLog(store)) as log:
        before = log.last_position
        if how == "moved":
            move_away(store, made if is_replaced else None)
        else:
            shutil.rmtree(store)
            if is_replaced:
                shutil.copytree(made, store)
        for _ in range(2):
            event = StreamAppend("a-1", ANY, [NewEvent("thing.happened", {})])
            (outcome,) = log.append([commit(log.last_commit_id + 1, event)])
            assert isinstance(outcome, StoreReplaced), outcome
        assert log.last_position == before


def test_who_may_not_look_any_more_writes_on(tmp_path: Path) -> None:
    code = f"""
        log = EventLog(sys.argv[1])
        os.chmod(os.path.dirname(sys.argv[1]), 0)
        if os.getuid() == 0:
            os.setuid({NOBODY})
        print(*log.append([one(1)]))
    """
    folder = tmp_path / "closed"
    folder.mkdir()
    try:
        ran = run_python(code, folder / "store")
    finally:
        folder.chmod(0o700)
    assert ran.stdout.startswith("Appended("), ran
    with closing(LogReader.open(folder / "store")) as log:
        assert log.last_position == 1


# --- a full disk


@pytest.mark.parametrize("how", ["without", "sparse"])
def test_a_reader_on_a_full_disk_is_told_so_and_not_killed(disk: Callable[[str], Path], how: str) -> None:
    """LMDB maps its lock file into memory: where the disk has no room for it, whoever touches it is killed."""
    path = disk("size=1m") / "store"
    with closing(EventLog(path)) as log:
        fill(log, 10)
    (path / LOCK_FILE).unlink()
    if how == "sparse":
        (path / LOCK_FILE).touch()
        os.truncate(path / LOCK_FILE, LOCK_FILE_SIZE_BYTES)
    ballast = fill_up(path.parent)
    for code in (OPEN_AND_TELL, OPEN_AND_TELL.replace("EventLog(", "LogReader.open(")):
        ran = run_python(code, path)
        assert ran.returncode == 0, ran
        assert ran.stdout.startswith("StoreFull "), ran
    assert "cannot be read: there is no room for its lock.mdb, in which LMDB notes who reads" in ran.stdout
    ballast.unlink()
    with closing(LogReader.open(path)) as log:
        assert log.last_position == 10
        assert (path / LOCK_FILE).stat().st_blocks * 512 >= LOCK_FILE_SIZE_BYTES


def test_a_lock_file_without_its_room_is_given_it(path: Path) -> None:
    for _ in range(2):
        os.truncate(path / LOCK_FILE, 0)
        os.truncate(path / LOCK_FILE, LOCK_FILE_SIZE_BYTES)
        with closing(LogReader.open(path)) as log:
            assert log.last_position == 10
            assert (path / LOCK_FILE).stat().st_blocks * 512 >= LOCK_FILE_SIZE_BYTES


# --- a read-only file system


def test_a_control_board_on_a_read_only_file_system(disk: Callable[[str], Path]) -> None:
    path = disk("size=4m")
    ControlBoard(path / "control").close()
    disk("remount,ro")
    error = raised(StoreReadOnly, lambda: ControlBoard(path / "control"))
    assert str(error) == (
        f"{path}/control is on a read-only file system, and who looks at it is noted there. Copy the store to another."
    )
