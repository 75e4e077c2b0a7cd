"""What the system refuses is not damage: a verification says what it could not look at, and why."""

import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import pytest
from damage_store import make_store
from environment_cases import run_python

from eventsrc import ArchiveUnreachable, BackupRefused, CopyUnverified, StorePathInvalid, StoreUnreadable
from eventsrc.runtime.command_line import main
from eventsrc.storage.control.board import ControlBoard
from eventsrc.storage.control.errors import ControlBoardUnreadable
from eventsrc.storage.copies.backup import backup
from eventsrc.storage.environment import folder, locks
from eventsrc.storage.environment.environment import Environment
from eventsrc.storage.environment.pages import page_problem
from eventsrc.storage.errors import VerificationImpossible
from eventsrc.storage.reader import LogReader
from eventsrc.storage.verification import apart, followers
from eventsrc.storage.verification import verify as verifying
from eventsrc.storage.verification.finding import Finding
from eventsrc.storage.verification.verify import verify

EIO = OSError(errno.EIO, os.strerror(errno.EIO))
NO_MEMORY = MemoryError()
NO_RIGHT = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
NO_DESCRIPTORS = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
REFUSALS = (EIO, NO_MEMORY, NO_RIGHT, NO_DESCRIPTORS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("refusals") / "store"
    make_store(path)
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "store")
    return tmp_path / "store"


def refusing(error: Exception, part: str = "", then: Callable[..., Any] = page_problem) -> Callable[..., Any]:
    """Fails for paths that end so, of any where none is given."""

    def refuse(path: object, *arguments: object, **options: object) -> Any:
        if str(path).endswith(part):
            raise error
        return then(path, *arguments, **options)

    return refuse


@pytest.mark.parametrize("limit", [5, 6, 7, 8])
def test_without_descriptors_it_says_what_it_could_not_look_at(store: Path, limit: int) -> None:
    code = """
        import resource
        from eventsrc.runtime.command_line import main
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        import eventsrc.storage.verification.apart
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), hard))
        sys.exit(main(["verify", sys.argv[1]]))
    """
    ran = run_python(code, store, limit)
    assert ran.returncode == 1, ran
    assert "DAMAGED" not in ran.stdout
    assert "Too many open files" in ran.stderr


@pytest.mark.parametrize("error", REFUSALS)
def test_the_store_itself(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    monkeypatch.setattr(verifying, "page_problem", refusing(error, "store"))
    assert main(["verify", str(store)]) == 1
    said = capsys.readouterr().err
    assert "cannot be read" in said
    assert (str(error) or "MemoryError") in said or os.strerror(errno.EACCES) in said


@pytest.mark.parametrize("error", REFUSALS)
def test_the_archive(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    monkeypatch.setattr(verifying, "page_problem", refusing(error, "archive"))
    assert main(["verify", str(store), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [(each["table"], each["is_damage"]) for each in report["findings"]] == [
        ("archive pages", False),
        ("archive", False),
    ]
    assert report["events"] > 1_000
    assert main(["verify", str(store)]) == 1
    said = capsys.readouterr()
    assert "sound as far as it could be looked at, but NOT all of it could" in said.out
    assert f"eventsrc: archive pages: they cannot be read: {str(error) or 'MemoryError'}" in said.err


@pytest.mark.parametrize("part", ["control", "rows"])
@pytest.mark.parametrize("error", [*REFUSALS, lmdb.ReadersFullError("full"), lmdb.Error("Input/output error")])
def test_what_follows_the_log(store: Path, monkeypatch: pytest.MonkeyPatch, part: str, error: Exception) -> None:
    monkeypatch.setattr(followers, "page_problem", refusing(error, part))
    with closing(Environment(store, read_only=True)) as environment:
        findings = list(verify(environment))
    expected = {"control"} if part == "control" else {"view balances/1", "view sagas/1"}
    assert {finding.table for finding in findings} == expected
    assert not any(finding.is_damage for finding in findings)
    assert all(finding.problem.startswith("it cannot be looked at: ") for finding in findings)


@pytest.mark.parametrize(("name", "tables"), [("views", {"views"}), ("balances", {"views"}), ("readers", {"readers"})])
def test_a_folder_that_cannot_be_listed(
    store: Path, monkeypatch: pytest.MonkeyPatch, name: str, tables: set[str]
) -> None:
    monkeypatch.setattr(Path, "iterdir", refusing(NO_RIGHT, name, Path.iterdir))
    with closing(Environment(store, read_only=True)) as environment:
        findings = list(verify(environment))
    assert {finding.table for finding in findings} == tables
    assert not any(finding.is_damage for finding in findings)


def test_damage_is_told_also_where_the_rest_is_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / "control" / "data.mdb").write_bytes(b"cut off")
    monkeypatch.setattr(verifying, "page_problem", refusing(EIO, "archive"))
    assert main(["verify", str(store)]) == 2
    said = capsys.readouterr()
    assert "control: it cannot be read: its pages are damaged" in said.out
    assert "DAMAGED" in said.out
    assert "archive pages" in said.err


def test_a_walk_that_is_cut_short_tells_what_it_had_found(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_short(*_: object, **__: object) -> Any:
        yield Finding("heads", "damaged")
        raise StoreUnreadable(str(store), "no locks")

    monkeypatch.setattr(apart, "verify", cut_short)
    monkeypatch.setattr(sys, "executable", str(store / "none"))
    report = apart.verify_apart(store)
    assert [(finding.table, finding.is_damage) for finding in report.findings] == [("heads", True), ("store", False)]
    assert (report.summary, report.is_complete) == (None, False)

    def refused(*_: object, **__: object) -> Any:
        yield Finding("control", "refused", is_damage=False)
        raise NO_MEMORY

    monkeypatch.setattr(apart, "verify", refused)
    with pytest.raises(VerificationImpossible, match="cannot be read to its end: MemoryError"):
        apart.verify_apart(store)


def test_whether_somebody_writes_is_not_guessed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that changes while it is read would look damaged, and a read without a lock meet pages that are reused."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: refusing(NO_DESCRIPTORS)(""))
    with pytest.raises(VerificationImpossible, match="Too many open files"):
        apart.verify_apart(store)
    with pytest.raises(StorePathInvalid, match="Too many open files"):
        Environment(store, read_only=True, leaves_no_trace=True)
    with (
        closing(ControlBoard(store / "control")) as board,
        pytest.raises(ControlBoardUnreadable, match="Too many open"),
    ):
        _ = board.has_runtime


def test_a_lock_that_may_not_be_looked_at_may_be_held(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", refusing(NO_RIGHT, folder.WRITER_FILE, Path.open))
    assert locks.is_open_for_writing(store)


@pytest.mark.parametrize("name", ["archive", "control"])
def test_a_copy_that_cannot_be_verified_is_not_told_as_damaged(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    refusal = EIO if name == "control" else ArchiveUnreachable("", None, "")
    if name == "archive":
        refusal.__cause__ = NO_DESCRIPTORS
        monkeypatch.setattr("eventsrc.storage.copies.backup._verified", refusing(refusal))
    else:
        monkeypatch.setattr(followers, "_is_begun", refusing(EIO, name))
    with (
        closing(LogReader.open(store)) as log,
        pytest.raises(CopyUnverified, match="could not be verified and was rem"),
    ):
        backup(log, tmp_path / "copy")
    assert issubclass(CopyUnverified, BackupRefused)
    assert [each.name for each in tmp_path.iterdir()] == ["store"]
