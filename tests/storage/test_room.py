"""A full disk, a limit on files, a map that grows: nothing that was answered is lost, and the store works again."""

import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from environment_cases import IS_ROOT, every_event, fill, run_python

from eventsrc import (
    ANY,
    EventLog,
    FileWriteFailed,
    StoreClosed,
    StoreError,
    StoreFull,
    StoreReadOnly,
    SubjectKeys,
    ViewClosed,
)
from eventsrc.actors.views.lmdb_view import LmdbViews
from eventsrc.actors.views.view_store import Generation
from eventsrc.storage.commit import NewEvent, StreamAppend
from eventsrc.storage.contract import append_to, appended, commit, raised, refused
from eventsrc.storage.control.board import ControlBoard
from eventsrc.storage.environment import view_environment
from eventsrc.storage.environment.view_environment import ViewEnvironment
from eventsrc.storage.keys.key_file import KeyFile
from eventsrc.storage.reader import LogReader
from eventsrc.storage.verification.verify import verify


def test_the_map_grows_while_others_read(tmp_path: Path) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []
    with closing(EventLog(tmp_path / "store", map_size_bytes=64 * 1024)) as log:
        fill(log, 1)

        def read_on() -> None:
            try:
                while not stop.is_set():
                    (event,) = log.read_stream("a-1", limit=1)
                    assert event.version == 1
                    assert len(log.read(backwards=True, limit=10)) >= 1
                    time.sleep(0.001)  # two threads that never rest would keep the interpreter to themselves
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=read_on) for _ in range(2)]
        for thread in threads:
            thread.start()
        fill(log, 100, size_bytes=40_000)
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == []
        size_bytes, map_size_bytes = log.environment.sizes()
        assert 4_000_000 < size_bytes <= map_size_bytes
        assert list(verify(log)) == []
    with closing(EventLog(tmp_path / "store", map_size_bytes=64 * 1024)) as log:
        assert len(every_event(log)) == 101


def test_a_map_that_cannot_grow_is_an_error_and_the_store_goes_on(tmp_path: Path) -> None:
    code = """
        import resource
        size_bytes = 1 << 25
        log = EventLog(sys.argv[1], map_size_bytes=size_bytes)
        log.append([one(1)])
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        # Not enough for a map of twice the size in the place of this one.
        resource.setrlimit(resource.RLIMIT_AS, (used + size_bytes // 2, hard))
        for number in range(2, 5000):
            (outcome,) = log.append([one(number, os.urandom(30_000).hex())])
            if isinstance(outcome, Exception):
                break
        print(type(outcome).__name__, "|", outcome)
        print(log.environment.sizes()[1] == size_bytes)
        print(log.last_position == number - 1, len(log.read(after=number - 11)), log.read(limit=1)[0].position)
        print(type(log.append([one(number, os.urandom(30_000).hex())])[0]).__name__, log.last_position == number - 1)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        (works,) = log.append([one(number, os.urandom(30_000).hex())])
        print(works.last_position == number, log.environment.sizes()[1] == 2 * size_bytes, list(verify(log)))
        log.close()
    """
    ran = run_python(code, tmp_path / "store")
    lines = ran.stdout.splitlines()
    assert lines[0].startswith(f"StoreMapRefused | {tmp_path / 'store'} is full and cannot grow"), ran
    assert "67,108,864 bytes of address space" in lines[0]
    assert "ulimit -v unlimited" in lines[0]
    assert lines[1:] == ["True", "True 10 1", "StoreMapRefused True", "True True []"], ran


def test_the_map_of_a_view_that_cannot_grow_is_an_error_and_the_view_goes_on(tmp_path: Path) -> None:
    code = """
        import resource
        from eventsrc.storage.environment.view_environment import ViewEnvironment, ViewFull
        size_bytes = 1 << 22
        view = ViewEnvironment(sys.argv[1], {"rows": []}, map_size_bytes=size_bytes)
        def put(number):
            with view.write() as transaction, view.filling():
                transaction.put(b"%d" % number, bytes(20_000), db=view.rows["rows"])
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + size_bytes // 2, hard))
        number = 0
        try:
            while True:
                put(number)
                number += 1
        except EventSourcingError as error:
            print(type(error).__name__)
        with view.read() as transaction:
            print(transaction.stat(view.rows["rows"])["entries"] == number)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        try:
            put(number)
        except ViewFull:
            put(number)
        with view.read() as transaction:
            print(transaction.stat(view.rows["rows"])["entries"] == number + 1)
        view.close()
    """
    ran = run_python(code, tmp_path / "view")
    assert ran.stdout.split() == ["StoreMapRefused", "True", "True"], ran


def test_a_view_that_is_still_looked_at_is_closed_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(view_environment, "ALONE_SECONDS_MAX", 0.01)
    view = ViewEnvironment(tmp_path / "rows", {})
    with view.write() as transaction:
        view.put_meta(transaction, b"key", b"value")
    with view.read() as transaction:
        view.close()
        assert view.meta(transaction, b"key") == b"value"
        with pytest.raises(ViewClosed):
            view.check_welcome()
    assert caplog.messages == ["a view is still looked at, and closed after that"]
    with closing(ViewEnvironment(tmp_path / "rows", {})) as again, again.read() as transaction:
        assert again.meta(transaction, b"key") == b"value"


def test_a_file_size_limit_is_a_full_store(path: Path) -> None:
    code = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        log = EventLog(sys.argv[1])
        answered = log.last_position
        limit = log.environment.sizes()[0] + 200_000
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        number = 100
        while True:
            number += 1
            (outcome,) = log.append([one(number, "x" * 20_000)])
            if isinstance(outcome, Exception):
                break
            answered = outcome.last_position
        print(type(outcome).__name__, "|", outcome)
        print(log.last_position == answered == len(log.read(limit=10**6)))
        (again,) = log.append([one(number + 1, "x" * 20_000)])
        print(type(again).__name__)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        (works,) = log.append([one(number + 2, "x" * 20_000)])
        print(works.last_position == answered + 1, list(verify(log)))
        log.close()
        log = EventLog(sys.argv[1])
        print(log.last_position == answered + 1, len(log.read(limit=10**6)) == answered + 1)
    """
    ran = run_python(code, path)
    lines = ran.stdout.splitlines()
    assert lines[1:] == ["True", "StoreFull", "True []", "True True"], ran
    assert lines[0].startswith("StoreFull | No room to write")
    assert "free some space" in lines[0]


def test_a_file_that_is_not_the_log_is_not_told_of_as_a_commit_that_failed(path: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "data.mdb").touch()
    views = tmp_path / "views"
    views.touch()
    with closing(LogReader.open(path)) as reader:
        writes: list[Callable[[], object]] = [
            lambda: reader.environment.copy(taken),
            lambda: ControlBoard(views / "control"),
            lambda: LmdbViews(views).activate("Balances", Generation(1, 1, "")),
        ]
        for write in writes:
            error = raised(FileWriteFailed, write)
            advice = "See that its disk works and has room, then do it again."
            assert str(error) == f"{error.path} cannot be written: {error.reason}. {advice}"


def test_a_copy_of_keys_for_which_there_is_no_room_is_told_of_and_the_older_one_stays(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with closing(SubjectKeys(KeyFile(tmp_path / "keys"))) as keys:
        sealed = keys.seal("ann", b"value")
        keys.flush()
        keys.copy_to(copy)
        keys.seal("bob", b"value")
        keys.flush()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            with pytest.raises(FileWriteFailed) as caught:
                keys.copy_to(copy)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.path == str(copy), "and not the file that is copied"
    with closing(SubjectKeys(KeyFile(copy, "read"))) as older:
        assert older.unseal(sealed) == b"value"
    assert {path.name for path in tmp_path.iterdir()} == {"keys", "copy"}


UNTIL_FULL = """
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    def until_full(log):
        # Append until the file has come to the limit for files; then take that away.
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes + 200_000, hard))
        while True:
            answered = log.last_position
            (outcome,) = log.append([one(log.last_commit_id + 1, "x" * 20_000)])
            if isinstance(outcome, Exception):
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                return outcome, answered
    os.chdir(os.path.dirname(sys.argv[1]))
    name = os.path.basename(sys.argv[1])
    log = EventLog(name)
    size_bytes = log.environment.sizes()[0]
"""


def test_a_program_may_go_to_another_folder(path: Path) -> None:
    code = """
    os.chdir("/")
    error, answered = until_full(log)
    print(type(error).__name__, log.append([one(log.last_commit_id + 1)])[0].last_position - answered, log.path)
    log.close()
    """
    ran = run_python(UNTIL_FULL + code, path)
    assert ran.stdout == f"StoreFull 1 {path}\n", ran


def test_a_store_that_could_not_be_opened_again_is_let_go_of(path: Path) -> None:
    code = """
    def move_away():
        if os.path.exists(name):
            os.rename(name, "away")
    log.environment.check_in_place = move_away  # just after it was looked at
    error, answered = until_full(log)
    print(type(error).__name__)
    os.rename("away", name)
    again = EventLog(name)
    print(again.append([one(again.last_commit_id + 1)])[0].last_position - answered)
    log.close()
    again.close()
    """
    ran = run_python(UNTIL_FULL + code, path)
    assert ran.stdout == "StoreOutcomeUnknown\n1\n", ran


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount a small file system in memory; needs root and a kernel that lets it."""
    mounted: list[Path] = []

    def mount_at(name: str, options: str) -> Path:
        at = tmp_path / name
        at.mkdir(exist_ok=True)
        if at in mounted:
            command = ["mount", "-o", f"remount,{options}", str(at)]
        else:
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)]
        if (
            not IS_ROOT
            or shutil.which("mount") is None
            or subprocess.run(command, capture_output=True, check=False).returncode
        ):
            pytest.skip("no right to mount a file system")
        if at not in mounted:
            mounted.append(at)
        return at

    yield mount_at
    for at in mounted:
        subprocess.run(["umount", "-l", str(at)], check=True)


def test_a_full_disk_loses_nothing_and_works_again_with_room(mount: Callable[..., Path]) -> None:
    disk = mount("disk", "size=1m")
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(400_000))
    with closing(EventLog(disk / "store")) as log:
        answered: list[int] = []
        number = 0
        while True:
            number += 1
            event = NewEvent("thing.happened", {"text": "x" * 20_000})
            commits = [commit(number * 10 + at, StreamAppend(f"a-{at}", ANY, [event])) for at in (1, 2)]
            outcomes = log.append([*commits, commit(number * 10 + 3, append_to("a-1", expected=0))])
            if any(isinstance(outcome, StoreError) for outcome in outcomes):
                break
            answered += [appended(outcome).last_position for outcome in outcomes[:2]]
        assert [type(outcome).__name__ for outcome in outcomes] == ["StoreFull", "StoreFull", "VersionConflict"]
        assert [event.position for event in every_event(log)] == answered == list(range(1, len(answered) + 1))
        large = [StreamAppend(stream, ANY, [event]) for stream in ("a-1", "b-1")]
        refused(log.append([commit(number * 10 + 4, *large)])[0], StoreFull)
        assert log.head("b-1") is None
        ballast.unlink()
        appended(log.append([commit(number * 10 + 5, append_to("b-1"))])[0])
        assert list(verify(log)) == []
        expected = every_event(log)
    with closing(EventLog(disk / "store")) as log:
        assert every_event(log) == expected
        assert log.last_position == len(answered) + 1
        assert list(verify(log)) == []


def test_a_store_cannot_be_made_on_a_full_disk_and_can_when_there_is_room(mount: Callable[..., Path]) -> None:
    disk = mount("disk", "size=1m")
    ballast = disk / "ballast"
    ballast.write_bytes(b"")
    with ballast.open("ab", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    raised(StoreFull, lambda: EventLog(disk / "store"))
    ballast.unlink()
    with closing(EventLog(disk / "store")) as log:
        fill(log, 1)


def test_closing_on_a_full_disk_loses_nothing(mount: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    disk = mount("disk", "size=1m")
    log = EventLog(disk / "store")
    fill(log, 20)
    with (disk / "ballast").open("ab", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    log.close()
    assert "indexes not flushed" in caplog.text
    (disk / "ballast").unlink()
    with closing(EventLog(disk / "store")) as log:
        assert len(every_event(log)) == 20
        assert list(verify(log)) == []


def test_a_read_only_file_system(mount: Callable[..., Path]) -> None:
    disk = mount("disk", "size=4m")
    with closing(EventLog(disk / "store")) as log:
        fill(log, 5)
    mount("disk", "ro")
    for path in (disk / "store", disk / "new"):
        error = raised(StoreReadOnly, lambda path=path: EventLog(path))
        assert "read-only file system" in str(error)
    with closing(LogReader.open(disk / "store")) as reader:
        assert len(every_event(reader)) == 5
    mount("disk", "rw")
    with closing(EventLog(disk / "store")) as log:
        assert log.last_position == 5


def test_a_closed_store_is_closed_for_good(path: Path) -> None:
    log = EventLog(path)
    log.close()
    log.close()
    raised(StoreClosed, log.read)
    raised(StoreClosed, lambda: log.append([commit(50, append_to("a-0"))]))
    with closing(EventLog(path)) as again:
        fill(again, 1)


def test_limits_of_this_process_are_untouched() -> None:
    """The tests above bound their children, not the tests after them."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
