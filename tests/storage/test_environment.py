"""Stores that cannot be opened, disks that refuse, and processes that should not share: each has its error."""

import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import lmdb
import pytest
from environment_cases import IS_ROOT, NOBODY, OPEN_AND_TELL, every_event, fill, run_python

from eventsrc import (
    ANY,
    CorruptRecord,
    EventLog,
    StoreForked,
    StoreFormatUnknown,
    StoreInUse,
    StoreMapOutgrown,
    StorePathInvalid,
)
from eventsrc.storage.commit import NewEvent, StreamAppend
from eventsrc.storage.contract import append_to, appended, commit, raised
from eventsrc.storage.environment.environment import Environment
from eventsrc.storage.environment.folder import DATA_FILE, LOCK_FILE, WRITER_FILE
from eventsrc.storage.environment.store_format import FORMAT_VERSION
from eventsrc.storage.reader import LogReader
from eventsrc.storage.verification.verify import verify

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
    assert "in it. Name the folder of a store" in str(raised(StorePathInvalid, lambda: LogReader.open(tmp_path)))
    raised(StorePathInvalid, lambda: EventLog(tmp_path / "none", create=False))
    assert list(tmp_path.iterdir()) == []


def show_the_way_to(folder: Path) -> None:
    """Let other users reach what is in it."""
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)


@pytest.mark.skipif(not IS_ROOT, reason="only root can become a user without rights")
@pytest.mark.parametrize(("mode", "sub"), [(0o755, "new"), (0o755, "."), (0o700, "."), (0o700, "new")])
def test_a_folder_that_may_not_be_written(tmp_path: Path, mode: int, sub: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    show_the_way_to(tmp_path)
    folder.chmod(mode)
    ran = run_python(OPEN_AND_TELL, folder / sub, user=NOBODY)
    assert ran.stdout.startswith("StorePathInvalid"), ran
    assert "Permission denied" in ran.stdout
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not IS_ROOT, reason="only root can become a user without rights")
@pytest.mark.parametrize(
    ("closed_file", "error", "words"),
    [
        (LOCK_FILE, "StoreReadOnly", "may not write its lock.mdb, in which LMDB notes who reads"),
        (DATA_FILE, "StorePathInvalid", "data.mdb may not be read"),
    ],
)
def test_a_store_of_another_user_says_which_right_is_missing(
    path: Path, closed_file: str, error: str, words: str
) -> None:
    for parent in (path, *path.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    (path / closed_file).chmod(0o600)
    ran = run_python(OPEN_AND_TELL.replace("EventLog(", "LogReader.open("), path, user=NOBODY)
    assert ran.stdout.startswith(error), ran
    assert words in ran.stdout
    with closing(EventLog(path)) as log:
        assert log.last_position == 10


@pytest.mark.skipif(not IS_ROOT, reason="only root can become a user without rights")
def test_whoever_may_read_a_store_and_not_write_to_its_folder_is_told_what_to_do(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path / "store")) as log:
        fill(log, 3)
    show_the_way_to(tmp_path / "store")
    ran = run_python(OPEN_AND_TELL.replace("EventLog", "LogReader.open"), tmp_path / "store", user=NOBODY)
    assert ran.stdout.startswith("StoreReadOnly"), ran
    assert "Get the right, or read a copy" in ran.stdout
    mine = tmp_path / "mine"
    shutil.copytree(tmp_path / "store", mine)
    for path in (mine, *mine.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    ran = run_python(OPEN_AND_TELL.replace("EventLog", "LogReader.open"), mine, user=NOBODY)
    assert ran.stdout == "opened 3\n", ran


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
        raised(StorePathInvalid, partial(LogReader.open, folder))  # and not another program's environment
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


WRITE_MORE = "log = EventLog(sys.argv[1]); [log.append([one(n, os.urandom(30_000).hex())]) for n in range(11, 51)]"


def test_readers_go_on_when_another_finds_that_the_map_has_grown(path: Path) -> None:
    found: list[int] = []
    with closing(LogReader(Environment(path, read_only=True, map_size_bytes=1 << 16))) as reader:

        def read_on() -> None:
            reader.refresh()
            found.append(reader.last_position)

        with reader.environment.read() as transaction:
            before = transaction.get(b"version", db=reader.environment.table("meta"))
            ran = run_python(WRITE_MORE, path)
            assert ran.returncode == 0, ran
            raised(StoreMapOutgrown, reader.read)  # it would take the map away from its own transaction
            thread = threading.Thread(target=read_on)
            thread.start()
            thread.join(0.05)
            assert found == []
            assert transaction.get(b"version", db=reader.environment.table("meta")) == before
        thread.join(10)
        assert found == [50]
        assert len(every_event(reader)) == 50


def test_a_reader_that_may_not_map_as_much_as_its_writer_maps_what_is_stored(path: Path) -> None:
    code = f"""
        import resource, subprocess
        from contextlib import closing
        from eventsrc.storage.environment.environment import Environment
        prelude = sys.orig_argv[2].split("import resource, subprocess")[0]
        with closing(LogReader(Environment(sys.argv[1], read_only=True, map_size_bytes=1 << 16))) as reader:
            subprocess.run([sys.executable, "-c", prelude + {WRITE_MORE!r}, sys.argv[1]], check=True)
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
            reader.refresh()
            print(reader.last_position, len(reader.read(limit=1000)))
    """
    ran = run_python(code, path)
    assert ran.stdout == "50 50\n", ran
