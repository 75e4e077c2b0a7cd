"""What copies, exports and imports write is there as a whole or not at all, and never instead of something else."""

import errno
import os
import signal
from contextlib import closing
from pathlib import Path

import pytest
from environment_cases import IS_ROOT, NOBODY, run_python
from transfer_cases import all_of, root, store_with

from eventsrc.storage.copies.backup import backup
from eventsrc.storage.copies.errors import (
    DestinationExists,
    DestinationInUse,
    DestinationOverlaps,
    DestinationUnusable,
)
from eventsrc.storage.copies.exporting import export_events
from eventsrc.storage.copies.importing import import_store
from eventsrc.storage.copies.partial import partial_folder
from eventsrc.storage.reader import LogReader


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return store_with(tmp_path / "source", 150)


# --- destinations


def test_a_destination_that_is_taken_or_overlaps_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = sorted(source.iterdir())
    with closing(LogReader.open(source)) as log:
        for name, error, match in (
            ("file", DestinationExists, "is there already"),
            ("full", DestinationExists, "is there already"),
            ("loop", DestinationExists, "is there already"),
            ("source", DestinationOverlaps, "the store .* itself, or inside of it"),
            ("source/inside", DestinationOverlaps, "itself, or inside of it"),
            ("link", DestinationOverlaps, "itself, or inside of it"),
            ("link/inside", DestinationOverlaps, "itself, or inside of it"),
            ("missing/parent", DestinationUnusable, "there is no folder"),
            ("file/inside", DestinationUnusable, "there is no folder"),
            ("n" * 250, DestinationUnusable, "File name too long"),
        ):
            with pytest.raises(error, match=match):
                backup(log, tmp_path / name)
    assert sorted(source.iterdir()) == before
    assert (tmp_path / "file").read_text() == "mine"


def test_a_destination_may_be_relative_a_link_or_an_empty_folder(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "copy")
    with closing(LogReader.open("source")) as log:
        for name in ("relative", "empty", "link", "elsewhere/../dotted"):
            backup(log, name)
            assert len(all_of(tmp_path / name)) == 450
    assert (tmp_path / "elsewhere" / "copy" / "data.mdb").exists()


@pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody else")
def test_a_folder_that_may_not_be_written_is_an_error(source: Path, tmp_path: Path) -> None:
    result = run_python(
        """
        from eventsrc.storage.copies.errors import DestinationUnusable
        from eventsrc.storage.copies.partial import partial_folder
        try:
            with partial_folder(sys.argv[1]): pass
        except DestinationUnusable as error:
            print(error.reason)
        """,
        tmp_path / "copy",
        user=NOBODY,
    )
    assert result.stdout == "Permission denied\n", result.stderr


def test_two_copies_to_the_same_place_do_not_meet(source: Path, tmp_path: Path) -> None:
    with (
        closing(LogReader.open(source)) as log,
        partial_folder(tmp_path / "copy"),
        pytest.raises(DestinationInUse, match="Another process is writing"),
    ):
        backup(log, tmp_path / "copy")
    with closing(LogReader.open(source)) as log, pytest.raises(DestinationExists):
        backup(log, tmp_path)


def test_only_what_a_killed_copy_left_is_replaced(source: Path, tmp_path: Path) -> None:
    left = tmp_path / "copy.partial"
    (left / "archive").mkdir(parents=True)
    for name in ("data.mdb", "lock.mdb", "archive/data.mdb"):
        (left / name).write_text("half")
    (tmp_path / "mine.partial").mkdir()
    (tmp_path / "mine.partial" / "letter.txt").write_text("mine")
    with closing(LogReader.open(source)) as log:
        backup(log, tmp_path / "copy")
        with pytest.raises(DestinationExists, match=r"mine.partial is there already"):
            backup(log, tmp_path / "mine")
    assert not left.exists()
    assert len(all_of(tmp_path / "copy")) == 450
    assert (tmp_path / "mine.partial" / "letter.txt").read_text() == "mine"


# --- killed, and out of room

OPERATIONS = {
    "backup": "backup(LogReader.open(source), to)",
    "restore": "restore(LogReader.open(source), to, to_position=140)",
    "fork": "fork(LogReader.open(source), 140, to)",
    "export": "export_events(LogReader.open(source), Path(to))",
    "import": "import_store(to, Path(source).parent / 'all.jsonl')",
}
PRELUDE = """
    from pathlib import Path
    from eventsrc.storage.copies.backup import backup, fork, restore
    from eventsrc.storage.copies.exporting import export_events
    from eventsrc.storage.copies.importing import import_store
    source, to, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
"""
COUNTED = """
    import signal
    calls = 0
    def count(frame, event, argument):
        global calls
        if event == "call" and "storage" in frame.f_code.co_filename:
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(count)
    {operation}
    sys.setprofile(None)
    print(calls)
"""
SHARES = (0.3, 0.9, 0.99)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_killed_leaves_nothing_that_looks_finished(tmp_path: Path, name: str) -> None:
    source = store_with(tmp_path / "source", 50)
    with closing(LogReader.open(source)) as log:
        export_events(log, tmp_path / "all.jsonl")
    before = root(source)
    script = PRELUDE + COUNTED.format(operation=OPERATIONS[name])
    calls = int(run_python(script, source, tmp_path / "whole", -1).stdout)
    for share in SHARES:
        to = tmp_path / f"to-{share}"
        assert run_python(script, source, to, int(calls * share)).returncode == -signal.SIGKILL
        if to.exists():
            assert name == "import" or share > 0.9
        else:
            assert run_python(script, source, to, -1).returncode == 0
        assert not list(tmp_path.glob("*.partial"))
        if name == "export":
            assert to.read_bytes() == (tmp_path / "all.jsonl").read_bytes()
        else:
            assert all_of(to) == all_of(tmp_path / "whole")
    assert root(source) == before


@pytest.mark.slow
def test_an_import_into_a_store_that_is_killed_goes_on_with_the_next_run(tmp_path: Path) -> None:
    source = store_with(tmp_path / "source", 1_500)
    with closing(LogReader.open(source)) as log:
        export_events(log, tmp_path / "all.jsonl")
    script = PRELUDE + COUNTED.format(operation=OPERATIONS["import"])
    store_with(tmp_path / "whole", 50)
    calls = int(run_python(script, source, tmp_path / "whole", -1).stdout)
    for share in (0.5, 0.95):
        to = store_with(tmp_path / f"to-{share}", 50)
        assert run_python(script, source, to, int(calls * share)).returncode == -signal.SIGKILL
        assert 150 <= len(all_of(to)) <= 4_500
        assert run_python(script, source, to, -1).returncode == 0
        assert root(to) == root(source)
        all_of(to)


def test_a_disk_that_fills_during_an_import_into_a_store_leaves_it_whole(tmp_path: Path) -> None:
    source = store_with(tmp_path / "source", 2_500)
    with closing(LogReader.open(source)) as log:
        export_events(log, tmp_path / "all.jsonl")
    to = store_with(tmp_path / "to", 50)
    result = run_python(
        PRELUDE
        + """
    import resource
    from eventsrc import StoreFull
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, at))
    try:
        import_store(to, Path(source).parent / 'all.jsonl')
    except StoreFull:
        print("full")
        """,
        source,
        to,
        600_000,
    )
    assert result.stdout == "full\n", result.stderr
    stored = len(all_of(to))
    assert 150 <= stored < 7_500
    assert import_store(str(to), tmp_path / "all.jsonl") == (7_500 - stored, 7_500)
    assert root(to) == root(source)


@pytest.mark.parametrize("room_bytes", [20_000, 40_000])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_full_disk_is_said_and_leaves_nothing(source: Path, tmp_path: Path, name: str, room_bytes: int) -> None:
    with closing(LogReader.open(source)) as log:
        export_events(log, tmp_path / "all.jsonl")
    result = run_python(
        PRELUDE
        + f"""
    import resource
    from eventsrc.storage.copies.errors import DestinationFull
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, at))
    try:
        {OPERATIONS[name]}
    except DestinationFull as error:
        print(error)
        """,
        source,
        tmp_path / "to",
        room_bytes,
    )
    assert result.stdout.startswith(f"There is no room to write {tmp_path / 'to'}"), result.stderr
    assert not list(tmp_path.glob("to*"))
    assert len(all_of(source)) == 450


# --- without descriptors


def test_what_is_not_finished_is_removed_also_without_descriptors(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with (
        closing(LogReader.open(source)) as log,
        monkeypatch.context() as patched,
        pytest.raises(
            DestinationUnusable, match=r"Too many open files\. Look at the disk, and at the limits of this proc"
        ),
        partial_folder(tmp_path / "copy") as folder,
    ):
        log.environment.copy(folder)
        (folder / "archive").mkdir()
        (folder / "archive" / "data.mdb").touch()
        for name in ("open", "scandir", "listdir"):
            patched.setattr(os, name, refuse)
        os.open(folder, os.O_RDONLY)
    with monkeypatch.context() as patched, pytest.raises(DestinationUnusable, match="Too many open files"):
        patched.setattr(os, "open", refuse)
        with partial_folder(tmp_path / "copy"):
            pass
    assert [each.name for each in tmp_path.iterdir()] == ["source"]


def test_what_cannot_be_removed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError), partial_folder(tmp_path / "copy"):
        patched.setattr(Path, "rmdir", refuse)
        raise ZeroDivisionError
    assert f"{tmp_path / 'copy.partial'} stays, since it cannot be removed (Input/output error)" in caplog.text
    with partial_folder(tmp_path / "copy"):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["copy"]
