"""Temporary folders of programs that were killed are removed by the next one, and nothing else is."""

import errno
import fcntl
import shutil
import tempfile
from pathlib import Path

import pytest
from environment_cases import run_python

from eventsrc import MemoryLog, Runtime
from eventsrc.storage.environment import temporary_folder
from eventsrc.storage.environment.temporary_folder import HELD_FILE, TemporaryFolder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def names(place: Path) -> set[str]:
    return {each.name for each in place.iterdir()}


def leave_one(place: Path, prefix: str = "mine-") -> Path:
    code = """
        import signal, tempfile
        from eventsrc.storage.environment.temporary_folder import TemporaryFolder
        tempfile.tempdir = sys.argv[1]
        folder = TemporaryFolder(sys.argv[2])
        (folder.path / "large").mkdir()
        print(folder.path, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ran = run_python(code, place, prefix)
    left = Path(ran.stdout.strip())
    assert (left / "large").is_dir()
    return left


def test_what_killed_programs_left_is_removed_by_the_next(place: Path) -> None:
    left = [leave_one(place), leave_one(place)]
    assert [each.exists() for each in left] == [False, True]
    folder = TemporaryFolder("mine-")
    assert names(place) == {folder.path.name}
    folder.remove()
    assert names(place) == set()


def test_what_is_held_or_of_others_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = TemporaryFolder("mine-")
    elsewhere = leave_one(place, "other-")
    for name in ("mine-without", "kept"):
        (place / name).mkdir()
    (place / "kept" / HELD_FILE).touch()
    (place / "mine-link").symlink_to(place / "kept")
    with monkeypatch.context() as patched:
        left = leave_one(place)
        patched.setattr(temporary_folder, "_is_ours", lambda _: False)
        TemporaryFolder("mine-").remove()
        assert left.exists()
    before = names(place)
    TemporaryFolder("mine-").remove()
    assert names(place) == before - {left.name}
    assert {held.path.name, elsewhere.name, "mine-without", "mine-link", "kept"} == names(place)
    held.remove()


def test_one_that_cannot_be_made_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="no locks"):
        TemporaryFolder("mine-")
    assert names(place) == set()


def test_one_that_cannot_be_removed_is_removed_by_the_next(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = TemporaryFolder("mine-")
    for name in ("any", "large", "other"):
        (folder.path / name).mkdir()
    remove = shutil.rmtree

    def refuse(path: Path) -> None:
        if path.name == "large":
            raise OSError(errno.EMFILE, "Too many open files")
        remove(path)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", refuse)
        folder.remove()
    assert "Too many open files" in caplog.text
    assert names(place) == {folder.path.name}
    TemporaryFolder("mine-").remove()
    assert names(place) == set()


async def test_a_runtime_without_a_folder_has_one_for_as_long_as_it_is_open(place: Path) -> None:
    left = leave_one(place, "eventsrc-views-")
    async with Runtime.open(MemoryLog()):
        (name,) = names(place)
        assert name.startswith("eventsrc-views-")
        assert name != left.name
    assert names(place) == set()
