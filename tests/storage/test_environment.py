"""Stores that cannot be opened, disks that refuse, and processes that should not share: each has its error."""

import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import lmdb
import pytest

from eventsrc import (
    ANY,
    CorruptRecord,
    EventLog,
    StoreClosed,
    StoredEvent,
    StoreError,
    StoreForked,
    StoreFormatUnknown,
    StoreFull,
    StoreInUse,
    StorePathInvalid,
    StoreReadOnly,
)
from eventsrc.storage.commit import NewEvent, StreamAppend
from eventsrc.storage.contract import append_to, appended, commit, raised, refused
from eventsrc.storage.environment import FORMAT_VERSION, Environment
from eventsrc.storage.folder import DATA_FILE, WRITER_FILE
from eventsrc.storage.reader import LogReader
from eventsrc.storage.verify import verify

IS_ROOT = os.geteuid() == 0
NOBODY = 65_534


def fill(log: EventLog, count: int, *, size_bytes: int = 10, first: int | None = None) -> None:
    start = log.last_commit_id + 1 if first is None else first
    for number in range(start, start + count):
        event = NewEvent("thing.happened", {"text": "x" * size_bytes})
        appended(log.append([commit(number, StreamAppend(f"a-{number % 3}", ANY, [event]))])[0])


def every_event(log: LogReader) -> list[StoredEvent]:
    return log.read(limit=1_000_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with ten events, closed in order."""
    with closing(EventLog(tmp_path / "store")) as log:
        fill(log, 10)
    return tmp_path / "store"


def run_python(code: str, *arguments: object, user: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own; what it does to itself cannot harm this one."""
    # A user without rights to anything still needs the packages, whose folder it may not be allowed to see.
    prelude = "" if user is None else f"import os; os.setgroups([]); os.setgid({user}); os.setuid({user})\n"
    imports = (
        "import sys, os\n"
        "from eventsrc import EventLog, EventSourcingError, ANY\n"
        "from eventsrc.storage.commit import Commit, NewEvent, StreamAppend\n"
        "from eventsrc.storage.reader import LogReader\n"
        "from eventsrc.storage.verify import verify\n"
        "import json, encodings.idna, lmdb.verify\n"
        "def one(number, text=''):\n"
        "    return Commit(number, 1, [StreamAppend('a-1', ANY, [NewEvent('t', {'text': text})])])\n"
    )
    return subprocess.run(
        [sys.executable, "-c", imports + prelude + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"},
    )


OPEN_AND_TELL = """
    try:
        log = EventLog(sys.argv[1])
    except EventSourcingError as error:
        print(type(error).__name__, error)
    else:
        print("opened", log.last_position)
        log.close()
"""


# -- paths


def test_a_store_is_made_with_its_parents_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where"
    with closing(EventLog(path)) as log:
        fill(log, 3)
    with closing(EventLog(path, create=False)) as log:
        assert log.last_position == 3
    assert sorted(file.name for file in path.iterdir()) == [DATA_FILE, "lock.mdb", WRITER_FILE]
    assert (path / WRITER_FILE).read_text() == ""


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("something")
    for path in (file, file / "below"):
        error = raised(StorePathInvalid, lambda path=path: EventLog(path))
        assert error.path == str(path)
    assert "is a file. A store is a folder" in str(raised(StorePathInvalid, lambda: EventLog(file)))
    assert file.read_text() == "something"


def test_a_path_without_a_store_is_not_opened_for_reading(tmp_path: Path) -> None:
    assert "no store at" in str(raised(StorePathInvalid, lambda: LogReader.open(tmp_path / "none")))
    assert "without a store" in str(raised(StorePathInvalid, lambda: LogReader.open(tmp_path)))
    raised(StorePathInvalid, lambda: EventLog(tmp_path / "none", create=False))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not IS_ROOT, reason="only root can become a user without rights")
@pytest.mark.parametrize(("mode", "sub"), [(0o755, "new"), (0o755, "."), (0o700, "."), (0o700, "new")])
def test_a_folder_that_may_not_be_written(tmp_path: Path, mode: int, sub: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    folder.chmod(mode)
    ran = run_python(OPEN_AND_TELL, folder / sub, user=NOBODY)
    assert ran.stdout.startswith("StorePathInvalid"), ran
    assert "Permission denied" in ran.stdout
    assert list(folder.iterdir()) == []


# -- formats


def test_another_program_s_lmdb_environment(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), max_dbs=4) as environment:
        other = environment.open_db(b"other")
        with environment.begin(write=True) as transaction:
            transaction.put(b"k", b"v", db=other)
    for open_store in (EventLog, LogReader.open):
        error = raised(StoreFormatUnknown, lambda open_store=open_store: open_store(tmp_path))
        assert "not a store of eventsrc" in str(error)


@pytest.mark.parametrize("content", [b"x", b"garbage" * 5_000, bytes(20_000)])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATA_FILE).write_bytes(content)
    for open_store in (EventLog, LogReader.open):
        raised(StoreFormatUnknown, lambda open_store=open_store: open_store(tmp_path))
    assert (tmp_path / DATA_FILE).read_bytes() == content


def set_meta(path: Path, key: bytes, value: bytes) -> None:
    with lmdb.open(str(path), max_dbs=16) as environment:
        table = environment.open_db(b"meta", create=False)
        with environment.begin(write=True) as transaction:
            transaction.put(key, value, db=table)


def test_a_newer_format(path: Path) -> None:
    set_meta(path, b"version", str(FORMAT_VERSION + 1).encode())
    for open_store in (EventLog, LogReader.open):
        error = raised(StoreFormatUnknown, lambda open_store=open_store: open_store(path))
        assert f"format {FORMAT_VERSION + 1}" in str(error)
        assert f"knows format {FORMAT_VERSION}" in str(error)
        assert "install" in str(error)
    set_meta(path, b"version", str(FORMAT_VERSION).encode())
    with closing(EventLog(path)) as log:
        assert log.last_position == 10


@pytest.mark.parametrize("version", [b"", b"one", b"\xff"])
def test_a_format_version_that_is_no_number(path: Path, version: bytes) -> None:
    set_meta(path, b"version", version)
    raised(StoreFormatUnknown, lambda: EventLog(path))


def test_a_creation_that_was_interrupted_is_begun_again(tmp_path: Path) -> None:
    for name, make in (
        ("empty file", lambda at: at.write_bytes(b"")),
        ("no table", lambda at: lmdb.open(str(at.parent))),
    ):
        folder = tmp_path / name
        folder.mkdir()
        made = make(folder / DATA_FILE)
        if isinstance(made, lmdb.Environment):
            made.close()
        with closing(EventLog(folder)) as log:
            fill(log, 2)
        with closing(LogReader.open(folder)) as reader:
            assert reader.last_position == 2


# -- damage


@pytest.mark.parametrize("share", [0.9, 0.5, 0.25])
def test_a_file_that_was_cut_off(tmp_path: Path, share: float) -> None:
    path = tmp_path / "store"
    with closing(EventLog(path)) as log:
        fill(log, 50, size_bytes=10_000)
    data_file = path / DATA_FILE
    os.truncate(data_file, int(data_file.stat().st_size * share))
    for code in (OPEN_AND_TELL, OPEN_AND_TELL.replace("EventLog(", "LogReader.open(")):
        ran = run_python(code, path)
        assert ran.returncode == 0, ran
        assert ran.stdout.startswith("StoreTruncated"), ran
        assert "was cut off" in ran.stdout
        assert "backup" in ran.stdout


def mark_of_another_boot(path: Path) -> None:
    (path / WRITER_FILE).write_text(f"{os.getpid()} 00000000-0000-0000-0000-000000000000")


def test_after_the_machine_stopped_the_pages_are_checked(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mark_of_another_boot(path)
    with closing(EventLog(path)) as log:
        assert log.last_position == 10
    assert "checking its pages" in caplog.text
    caplog.clear()
    with closing(EventLog(path)):
        assert not caplog.text


def test_damaged_pages_are_found_after_the_machine_stopped(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with closing(EventLog(path)) as log:
        fill(log, 200, size_bytes=500)
    page_size = os.sysconf("SC_PAGE_SIZE")
    data_file = path / DATA_FILE
    content = bytearray(data_file.read_bytes())
    leaf_flag = 2
    leaves = [
        at
        for at in range(2 * page_size, len(content), page_size)
        if struct.unpack_from("<H", content, at + 10)[0] == leaf_flag
        and b"thing.happened" in content[at : at + page_size]
    ]
    page = leaves[len(leaves) // 2]  # the first and the last ones may be free
    content[page + 12 : page + 16] = b"\xff\xff\xff\xff"  # its lower and upper bounds
    data_file.write_bytes(content)
    mark_of_another_boot(path)
    ran = run_python(OPEN_AND_TELL, path)
    assert ran.returncode == 0, ran
    assert ran.stdout.startswith("StoreTruncated"), ran
    assert "are damaged" in ran.stdout


def damage_record(path: Path, marker: bytes) -> None:
    data_file = path / DATA_FILE
    content = data_file.read_bytes()
    assert marker in content
    data_file.write_bytes(content.replace(marker, bytes(len(marker))))


def test_a_damaged_record_is_never_returned(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with closing(EventLog(path)) as log:
        for number, text in enumerate(["first", "the-marked-one", "third"], 1):
            event = NewEvent("thing.happened", {"text": text})
            appended(log.append([commit(number, StreamAppend("a-1", ANY, [event]))])[0])
    damage_record(path, b"the-marked-one")
    with closing(EventLog(path)) as log:
        for read in (
            log.read,
            lambda: log.read_stream("a-1"),
            lambda: log.read_type("thing.happened"),
            lambda: log.read_category("a", backwards=True),
            lambda: log.read_stream("a-1", from_version=2, limit=1),
        ):
            error = raised(CorruptRecord, read)
            assert error.position == 2
            assert "position 2" in str(error)
            assert "eventsrc verify" in str(error)
        assert [event.version for event in log.read_stream("a-1", from_version=3)] == [3], "the others can be read"
        appended(log.append([commit(9, append_to("b-1"))])[0])
        (damage, *consequences) = verify(log)
        assert (damage.table, damage.position) == ("log", 2)
        assert "checksum" in damage.problem
        assert [(found.stream, found.version, found.position) for found in consequences] == [("a-1", 3, 3)]


def test_a_store_with_a_damaged_end_does_not_open_and_verify_says_where(tmp_path: Path) -> None:
    path = tmp_path / "store"
    copy = tmp_path / "copy"
    with closing(EventLog(path)) as log:
        fill(log, 3)
        appended(log.append([commit(4, StreamAppend("a-1", ANY, [NewEvent("t", {"text": "the-last-one"})]))])[0])
        shutil.copytree(path, copy)  # no index was flushed, so opening reads the log
    damage_record(copy, b"the-last-one")
    assert raised(CorruptRecord, lambda: EventLog(copy)).position == 4
    with closing(Environment(copy, read_only=True)) as environment:
        assert [(found.table, found.position) for found in verify(environment)] == [("log", 4)]


# -- other users of the store


def test_a_store_that_is_open_in_this_process(path: Path) -> None:
    with closing(EventLog(path)) as log:
        error = raised(StoreInUse, lambda: EventLog(path))
        assert str(os.getpid()) in error.owner
        fill(log, 1)
    with closing(EventLog(path)) as log:
        assert log.last_position == 11


def test_a_store_that_is_open_in_another_process(path: Path) -> None:
    code = "log = EventLog(sys.argv[1]); print(os.getpid(), flush=True); sys.stdin.read()"
    script = f"import sys, os\nfrom eventsrc import EventLog\n{code}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as child:
        assert child.stdout is not None
        pid = child.stdout.readline().strip()
        error = raised(StoreInUse, lambda: EventLog(path))
        assert error.owner == f"process {pid}"
        assert f"process {pid}" in str(error)
        with closing(LogReader.open(path)) as reader:
            assert reader.last_position == 10, "reading is possible beside it"
        child.send_signal(signal.SIGKILL)
    with closing(EventLog(path)) as log:
        assert log.last_position == 10


def test_a_forked_child_may_not_use_the_store(path: Path) -> None:
    code = """
        import warnings; warnings.simplefilter("ignore")
        log = EventLog(sys.argv[1])
        pid = os.fork()
        if pid == 0:
            for use in (lambda: log.read(), lambda: log.append([one(99)]), lambda: log.streams()):
                try:
                    use()
                    print("no error", flush=True)
                except EventSourcingError as error:
                    print(type(error).__name__, flush=True)
            log.close()
            os._exit(0)
        os.waitpid(pid, 0)
        log.append([one(99)])
        print(log.last_position, "spawn" , flush=True)
    """
    ran = run_python(code, path)
    assert ran.stdout.split() == [*[StoreForked.__name__] * 3, "11", "spawn"], ran


def test_a_reader_follows_a_writer_in_another_process(path: Path) -> None:
    """Also when the writer lets the map grow."""
    with closing(LogReader.open(path)) as reader:
        code = "log = EventLog(sys.argv[1]); [log.append([one(n, 'x' * 50_000)]) for n in range(11, 91)]; log.close()"
        ran = run_python(code, path)
        assert ran.returncode == 0, ran
        assert reader.last_position == 10
        assert reader.refresh()
        assert not reader.refresh()
        assert (reader.last_position, len(every_event(reader))) == (90, 90)


# -- room


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
