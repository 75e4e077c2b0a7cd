"""A verification in a process of its own: it changes nothing, ends where it must, and survives what ends others."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import lmdb
import msgspec
import pytest
from damage_store import make_store
from tampering import rows_of

from eventsrc.runtime.command_line import main
from eventsrc.storage.control.board import ControlBoard, SubscriptionProgress
from eventsrc.storage.environment import lock_file
from eventsrc.storage.environment.environment import Environment
from eventsrc.storage.errors import VerificationImpossible
from eventsrc.storage.verification import apart, followers
from eventsrc.storage.verification.finding import Finding
from eventsrc.storage.verification.verify import verify

encode = msgspec.msgpack.encode


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("apart") / "store"
    make_store(path)
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "store")
    return tmp_path / "store"


def state_of(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file and folder with its mode, its time and its content."""
    return {
        str(each): (each.stat().st_mode, each.stat().st_mtime_ns, each.read_bytes() if each.is_file() else b"")
        for each in [path, *path.rglob("*")]
    }


def put(path: Path, table: str, key: bytes, value: bytes) -> None:
    with lmdb.open(str(path), max_dbs=64) as environment:
        handle = environment.open_db(table.encode(), create=False)
        with environment.begin(write=True, db=handle) as transaction:
            transaction.put(key, value)


def test_a_sound_store_is_left_as_it_was(store: Path) -> None:
    for lock in store.rglob("lock.mdb"):
        lock.unlink()
    before = state_of(store)
    report = apart.verify_apart(store)
    assert (report.findings, report.is_complete) == ([], True)
    assert report.summary is not None
    assert report.summary.events > 1_000
    assert state_of(store) == before


def test_a_folder_that_cannot_be_written(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only file system, or of another user: LMDB's lock file is not needed."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not lock_file.needs_lock_file(store)
    for each in [*store.rglob("*"), store]:
        each.chmod(stat.S_IRUSR | (stat.S_IXUSR if each.is_dir() else 0))
    try:
        assert apart.verify_apart(store).findings == []
    finally:
        for each in [store, *store.rglob("*")]:
            each.chmod(stat.S_IRWXU)


def test_it_ends_after_so_many_findings_and_says_so(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key in rows_of(store, "heads"):
        put(store, "heads", key, b"no head")
    report = apart.verify_apart(store, findings_max=3)
    assert (len(report.findings), report.is_complete) == (3, False)
    assert apart.verify_apart(store).is_complete
    assert main(["verify", str(store)]) == 2
    assert "DAMAGED" in capsys.readouterr().out


def test_one_that_may_not_be_read(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(store / "data.mdb"))

    monkeypatch.setattr(apart, "verify_pages", refuse)
    with pytest.raises(VerificationImpossible, match=r"cannot be read \(Permission denied\)\. Verify it as a user who"):
        apart.verify_apart(store)


def test_there_is_no_store(tmp_path: Path, store: Path) -> None:
    with pytest.raises(VerificationImpossible, match="There is no store"):
        apart.verify_apart(tmp_path / "nothing")
    put(store, "meta", b"version", b"99")
    with pytest.raises(VerificationImpossible, match="has format 99"):
        apart.verify_apart(store)


def ending(code: str) -> Callable[..., "subprocess.Popen[bytes]"]:
    """Starts something else than the process that verifies."""

    def start(command: list[str], **options: object) -> "subprocess.Popen[bytes]":
        return popen([*command[:-2], "-c", code], **options)

    popen: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen
    return start


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('no memory')", "the process that is to read it ended with code 1 (no memory)"),
        (
            'import os; print(\'{"looking_at": "the table heads"}\', flush=True); os.kill(os.getpid(), 9)',
            "the process that reads the table heads of it was ended by SIGKILL (it said nothing)",
        ),
    ],
)
def test_a_process_that_is_ended_by_something_else_tells_nothing_of_the_store(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str, said: str
) -> None:
    monkeypatch.setattr(subprocess, "Popen", ending(code))
    assert main(["verify", str(store)]) == 1
    assert said in capsys.readouterr().err
    monkeypatch.setattr(apart, "verify_pages", lambda _: [Finding("archive pages", "damaged")])
    report = apart.verify_apart(store)
    assert [finding.is_damage for finding in report.findings] == [True, False]
    assert (report.summary, report.is_complete, report.is_damaged) == (None, False, True)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (
            'import os; print(\'{"looking_at": "the table heads"}\', flush=True); os.abort()',
            "the process that read the table heads was ended by SIGABRT",
        ),
        (
            "import sys; print('{\"looking_at\": \"the log\"}', flush=True); sys.exit('Assertion failed')",
            "the process that read the log ended with code 1 (Assertion failed)",
        ),
    ],
)
def test_a_page_that_ends_the_process_is_a_finding(
    store: Path, monkeypatch: pytest.MonkeyPatch, code: str, problem: str
) -> None:
    monkeypatch.setattr(subprocess, "Popen", ending(code))
    report = apart.verify_apart(store)
    (finding,) = report.findings
    assert finding.table == "pages"
    assert problem in finding.problem
    assert (report.summary, report.is_complete) == (None, False)


def test_where_no_process_can_be_started_it_is_done_in_this_one(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(store / "none"))
    report = apart.verify_apart(store)
    assert (report.findings, report.is_complete) == ([], True)


def test_damaged_pages_of_the_archive_keep_nothing_else_from_being_verified(store: Path) -> None:
    file = store / "archive" / "data.mdb"
    data = bytearray(file.read_bytes())
    data[2 * 4_096 :] = os.urandom(len(data) - 2 * 4_096)
    file.write_bytes(data)
    put(store, "heads", b"account-bob", b"no head")
    report = apart.verify_apart(store)
    assert {finding.table for finding in report.findings} == {"archive pages", "archive", "heads"}
    assert report.summary is not None


# --- what follows the log


@pytest.mark.parametrize(
    ("table", "key", "value", "problem"),
    [
        ("subscriptions", b"mailer", b"\xff", "it cannot be read"),
        (
            "subscriptions",
            b"mailer",
            encode(SubscriptionProgress(99_999, bytes(32), [])),
            "is at position 99999, and the log ends",
        ),
        ("subscriptions", b"mailer", encode(SubscriptionProgress(60, bytes(32), [])), "where another event is"),
        ("subscriptions", b"mailer", encode(SubscriptionProgress(60, b"", [61])), "what is pending does not ascend"),
        ("parked", b"mailer\0" + bytes(8), b"", "it cannot be read"),
        ("parked", b"x", encode(("mailer", 3, "account-ann", "why", 1, 1)), "it holds what 'mailer' has parked"),
        ("requests", b"x", b"", "it cannot be read"),
        (
            "requests",
            bytes(7) + b"\1",
            encode((1, "fly", "balances")),
            "it asks for 'fly', which this version",
        ),
        ("answers", b"x", b"", "it cannot be read"),
        ("paused", b"balances", b"x", "should be empty"),
        ("positions", b"follower", b"x", "it cannot be read"),
        ("positions", b"follower", (99_999).to_bytes(8, "big"), "is at position 99999"),
        ("status", b"x", b"\xc1", "it cannot be read"),
    ],
)
def test_the_progress_of_followers(store: Path, table: str, key: bytes, value: bytes, problem: str) -> None:
    put(store / "control", table, key, value)
    findings = apart.verify_apart(store).findings
    assert {finding.table for finding in findings} == {table}
    assert any(problem in finding.problem for finding in findings), findings


def test_the_checkpoint_of_a_view(store: Path) -> None:
    (rows,) = store.glob("views/balances/*/rows")
    put(rows, "meta", b"checkpoint", encode((99_999, bytes(32))))
    (finding,) = apart.verify_apart(store).findings
    assert finding.table.startswith("view balances/")
    assert finding.position == 99_999


@pytest.mark.parametrize("content", [b"\xff" * 8_192, b"", b"cut off"], ids=["overwritten", "emptied", "cut off"])
@pytest.mark.parametrize("part", ["control", "views/balances/*/rows"])
def test_a_file_of_followers_that_is_destroyed(store: Path, part: str, content: bytes) -> None:
    (folder,) = store.glob(part)
    (folder / "data.mdb").write_bytes(content)
    (finding,) = apart.verify_apart(store).findings
    generation = folder.parent.name
    assert finding.table == ("control" if part == "control" else f"view balances/{generation}")
    assert finding.problem.startswith("it cannot be read: its pages are damaged: ")
    assert main(["verify", str(store)]) == 2


@pytest.mark.parametrize("part", ["control", "views/balances/*/rows"])
def test_a_page_of_followers_that_is_damaged(store: Path, part: str) -> None:
    """LMDB may end the process that reads it: it is found without LMDB, and the rest is looked at."""
    (folder,) = store.glob(part)
    file = folder / "data.mdb"
    content = bytearray(file.read_bytes())
    content[2 * 4_096 :] = os.urandom(len(content) - 2 * 4_096)
    file.write_bytes(content)
    put(store, "heads", b"account-bob", b"no head")
    report = apart.verify_apart(store)
    assert report.summary is not None
    assert [finding.table.split("/")[0] for finding in report.findings if finding.table != "heads"] == [
        "control" if part == "control" else "view balances"
    ]


def test_what_a_runtime_writes_meanwhile_is_not_taken_for_damage(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "page_problem", lambda _: "changes all the time")
    with closing(Environment(store, read_only=True)) as environment:
        with closing(ControlBoard(store / "control")) as board:
            board.take()
            assert list(verify(environment)) == []
        assert {finding.table.split("/")[0] for finding in verify(environment)} == {
            "control",
            "view balances",
            "view sagas",
        }


def test_a_table_of_the_control_board_that_should_not_be_there(store: Path) -> None:
    with lmdb.open(str(store / "control"), max_dbs=64) as environment, environment.begin(write=True) as transaction:
        table = environment.open_db(b"strange", txn=transaction)
        for number in range(3):
            transaction.put(bytes([number]), b"", db=table)
        transaction.put(b"stray", b"no table at all")
    put(store / "control", "paused", b"balances", b"x")
    assert [(finding.table, finding.problem) for finding in apart.verify_apart(store).findings] == [
        ("paused", "the entry 'balances': it has a value, and should be empty"),
        ("control", "the table b'strange' should not be there"),
        ("control", "the table b'stray' should not be there"),
    ]


def test_a_view_that_is_being_dropped_may_be_cut_off(store: Path) -> None:
    (generation,) = store.glob("views/balances/[0-9]*")
    dropped = generation.with_name(f"dropped-{generation.name}-1")
    shutil.copytree(generation, dropped)
    os.truncate(dropped / "rows" / "data.mdb", 4_096)
    assert apart.verify_apart(store).findings == []
