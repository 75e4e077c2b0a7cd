"""The system refuses a step with a file once: the error is ours and says so, and what it was about works afterwards."""

import errno
import fcntl
import os
import re
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any

import lmdb
import pytest

from eventsrc import (
    ArchiveUnreachable,
    EventLog,
    EventSourcingError,
    FileWriteFailed,
    SigningKeyInvalid,
    StoreFull,
    StorePathInvalid,
    StoreUnreadable,
    StoreWriteFailed,
)
from eventsrc.actors.views.lmdb_view import LmdbViews
from eventsrc.actors.views.view_store import Checkpoint, Generation
from eventsrc.storage.contract import append_to, appended, commit
from eventsrc.storage.control.board import ControlBoard
from eventsrc.storage.copies.backup import backup
from eventsrc.storage.copies.errors import DestinationUnusable
from eventsrc.storage.copies.partial import partial_file, partial_folder
from eventsrc.storage.environment.durable_file import write_durably
from eventsrc.storage.environment.folder import WRITER_FILE
from eventsrc.storage.environment.view_environment import ViewEnvironment
from eventsrc.storage.errors import VerificationImpossible
from eventsrc.storage.evidence.signed_checkpoint import new_signing_key
from eventsrc.storage.reader import LogReader
from eventsrc.storage.verification import followers
from eventsrc.storage.verification import verify as verification
from eventsrc.storage.verification.apart import verify_apart
from eventsrc.storage.verification.meta import MetaCheck
from eventsrc.storage.verification.verify import verify

GENERATION = Generation(1, 1, "")


class RefusedAt:
    """In place of a function of the system: refuses its n-th call."""

    def __init__(self, real: Callable[..., Any], number: int, code: int) -> None:
        self.real = real
        self.left = number
        self.code = code

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.left -= 1
        if not self.left:
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*args, **options)


@pytest.mark.parametrize(
    ("code", "kind", "advice"),
    [
        (errno.EMFILE, StorePathInvalid, r"Too many open files\. Look at the disk, and at the limits of this process"),
        (errno.EIO, StorePathInvalid, r"Input/output error\. Look at the disk"),
        (errno.EDQUOT, StoreFull, "free some space"),
    ],
)
@pytest.mark.parametrize("call", ["open", "fsync", "ftruncate", "write", "stat"])
def test_a_store_that_cannot_be_opened_can_be_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, kind: type[EventSourcingError], advice: str
) -> None:
    number = 1
    while True:
        path = tmp_path / str(number)
        with monkeypatch.context() as patch:
            refused = RefusedAt(getattr(os, call), number, code)
            patch.setattr(os, call, refused)
            told = ""
            try:
                EventLog(path).close()
            except kind as error:
                told = str(error)
        assert not told or re.search(advice, told)
        with closing(EventLog(path)) as log:
            appended(log.append([commit(1, append_to("a-1"))])[0])
        if refused.left > 0:
            break
        number += 1
    assert number > 1


def test_a_store_closes_where_its_mark_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = EventLog(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", RefusedAt(os.fsync, 1, errno.EIO))
        log.close()
    assert "cannot be marked so" in caplog.text
    EventLog(tmp_path / "store").close()
    assert (tmp_path / "store" / WRITER_FILE).read_text() == ""


def test_a_store_that_a_killed_process_made_has_its_name_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EventLog(tmp_path / "store").close()
    synced = []
    monkeypatch.setattr("eventsrc.storage.environment.folder.sync_folder", synced.append)
    EventLog(tmp_path / "store").close()
    assert synced == [tmp_path / "store", tmp_path]


def refuse_last_page(folder: str) -> Callable[[], None]:
    """Refuse what a commit writes last, by the descriptor that LMDB has for that; returns what ends it."""
    ours = [int(each.name) for each in Path("/proc/self/fd").iterdir()]
    files = [each for each in ours if os.path.realpath(f"/proc/self/fd/{each}") == str(Path(folder) / "data.mdb")]
    last = max(files)
    kept = os.dup(last)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, last)
    os.close(nowhere)

    def end() -> None:
        os.dup2(kept, last)
        os.close(kept)

    return end


def test_the_control_board_works_after_a_commit_that_failed_at_its_end(tmp_path: Path) -> None:
    with closing(ControlBoard(tmp_path)) as board:
        board.set_paused("first", paused=True)
        end = refuse_last_page(board.path)
        with pytest.raises(FileWriteFailed, match="See that its disk works"):
            board.set_paused("second", paused=True)
        end()
        assert board.paused() >= {"first"}
        board.set_paused("third", paused=True)
        assert board.paused() >= {"first", "third"}


class Panicking:
    """An environment whose last commit failed in its last step: LMDB does nothing more with it."""

    def __init__(self, real: Any) -> None:
        self.close = real.close

    def begin(self, **_: object) -> Any:
        raise lmdb.PanicError("mdb_txn_begin", -30795)


def test_a_view_works_after_a_commit_that_failed_at_its_end(tmp_path: Path) -> None:
    view = ViewEnvironment(tmp_path, {"rows": []})
    with closing(view):
        view._environment = Panicking(view._environment)  # type: ignore[assignment]
        with pytest.raises(FileWriteFailed), view.write():
            pass
        with view.write() as transaction:
            transaction.put(b"key", b"value", db=view.rows["rows"])
        with view.read() as transaction:
            assert transaction.get(b"key", db=view.rows["rows"]) == b"value"


def test_a_view_that_cannot_be_opened_again_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = ViewEnvironment(tmp_path, {"rows": []})
    with closing(view):
        view._environment = Panicking(view._environment)  # type: ignore[assignment]
        with monkeypatch.context() as patch:
            patch.setattr(lmdb, "open", RefusedAt(lmdb.open, 1, errno.EIO))
            with pytest.raises(FileWriteFailed), view.write():
                pass
        with view.read() as transaction:
            assert transaction.get(b"key", db=view.rows["rows"]) is None


def test_a_view_on_a_full_disk_can_be_read_after_a_commit_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is opened anew then, for which there may be no room for a file of a few bytes."""
    with closing(ViewEnvironment(tmp_path, {"rows": []})) as view:
        with view.write() as transaction:
            transaction.put(b"key", b"value", db=view.rows["rows"])
        view._environment = Panicking(view._environment)  # type: ignore[assignment]

        def without_room(path: Path, content: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("eventsrc.storage.environment.view_environment.write_durably", without_room)
        with pytest.raises(FileWriteFailed), view.write():
            pass
        with view.read() as transaction:
            assert transaction.get(b"key", db=view.rows["rows"]) == b"value"


@pytest.mark.parametrize("step", ["read_bytes", "iterdir", "unlink"])
def test_files_of_a_view_that_cannot_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    views = LmdbViews(tmp_path)
    with closing(views.open("any", GENERATION, [])) as view:
        with view.writing() as writing:
            writing.save(Checkpoint(3, b""))
        views.activate("any", GENERATION)
        with monkeypatch.context() as patch:
            patch.setattr(Path, step, RefusedAt(getattr(Path, step), 1, errno.EMFILE))
            if step == "unlink":
                view.close()  # its mark stays, and it is closed all the same
            else:
                with pytest.raises(FileWriteFailed, match="Too many open files"):
                    views.generations("any")
        assert views.generations("any") == [GENERATION]
    with closing(views.open("any", GENERATION, [])) as view:
        assert view.checkpoint.position == 3


def test_a_lock_that_the_system_refuses_is_not_held_by_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(ControlBoard(tmp_path)) as board:
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", RefusedAt(fcntl.flock, 1, errno.ENOLCK))
            with pytest.raises(FileWriteFailed, match="No locks available"):
                board.take()
        board.take()


def test_what_was_killed_while_it_was_made_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "store"
    EventLog(path).close()
    views = LmdbViews(path / "views")
    views.open("any", GENERATION, []).close()
    generation = path / "views" / "any" / "1"
    (generation / "generation.json").unlink()
    (path / "control").mkdir()
    for folder in (path / "control", generation / "rows"):
        (folder / "data.mdb").write_bytes(b"")
    with closing(LogReader.open(path)) as log:
        assert list(verify(log)) == []
    with closing(ControlBoard(path / "control")) as board:
        board.take()
    (path / "control" / "data.mdb").write_bytes(b"")
    with closing(LogReader.open(path)) as log:
        assert [finding.table for finding in verify(log)] == ["control"]


def test_what_a_killed_process_leaves_of_a_small_file_is_replaced(tmp_path: Path) -> None:
    write_durably(tmp_path / "file", b"old")
    beside = set(tmp_path.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        # The process ends before the new one is in its place.
        patch.setattr(Path, "replace", lambda *_: None)
        write_durably(tmp_path / "file", b"new")
        patch.setattr(os, "getpid", lambda: 1)
        write_durably(tmp_path / "file", b"newer")
    assert len(set(tmp_path.iterdir()) - beside) == 1
    write_durably(tmp_path / "file", b"newest")
    assert {each.name for each in tmp_path.iterdir()} == {"file"}


def test_a_generation_that_could_not_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = LmdbViews(tmp_path)
    for number in (1, 2):  # its mark, and what it says of itself
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", RefusedAt(os.fsync, 2 * number - 1, errno.ENOSPC))
            with pytest.raises(EventSourcingError, match="No space left"):
                views.open("any", GENERATION, [])
        assert list(tmp_path.glob("any/*")) == []
    views.open("any", GENERATION, []).close()


def test_an_old_generation_of_which_only_a_part_is_left_is_removed(tmp_path: Path) -> None:
    views = LmdbViews(tmp_path)
    views.open("any", GENERATION, []).close()
    dropped = tmp_path / "any" / "dropped-1-7"
    (tmp_path / "any" / "1").rename(dropped)
    (dropped / "rows" / "data.mdb").unlink()  # so far it came before it was killed
    views.tidy("any")
    assert list(tmp_path.glob("any/*")) == []


@pytest.mark.parametrize("make", [partial_folder, partial_file])
def test_what_is_written_is_not_there_where_its_name_is_not_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], AbstractContextManager[Any]]
) -> None:
    synced = []

    def sync(folder: Path) -> None:
        synced.append(folder)
        if folder == tmp_path and len(synced) <= 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("eventsrc.storage.copies.partial.sync_folder", sync)
    with pytest.raises(DestinationUnusable, match="Input/output error"), make(tmp_path / "new"):
        pass
    assert synced[-1] == tmp_path
    assert list(tmp_path.iterdir()) == []
    synced += [tmp_path, tmp_path]
    with make(tmp_path / "new"):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["new"]


def test_a_copy_that_cannot_be_looked_at_is_not_said_to_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = lmdb.open

    def refused(path: bytes, **options: Any) -> Any:
        if b"partial" in path:
            raise lmdb.Error(f"{os.fsdecode(path)}: {os.strerror(errno.EMFILE)}")
        return real(path, **options)

    EventLog(tmp_path / "store").close()
    with closing(LogReader.open(tmp_path / "store")) as log:
        with monkeypatch.context() as patch:
            patch.setattr(lmdb, "open", refused)
            with pytest.raises(DestinationUnusable, match="Too many open files"):
                backup(log, tmp_path / "copy")
        backup(log, tmp_path / "copy")


def test_a_key_that_could_not_be_written_is_not_in_the_way_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", RefusedAt(os.fsync, 1, errno.ENOSPC))
        with pytest.raises(SigningKeyInvalid, match="No space left"):
            new_signing_key(tmp_path / "key")
    new_signing_key(tmp_path / "key")


def test_a_store_that_too_many_read_says_so_and_can_be_read_later(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path)) as log, ExitStack() as stack:
        appended(log.append([commit(1, append_to("a-1"))])[0])
        with (
            pytest.raises(StoreUnreadable, match=r"126 reads at a time in all processes: end some"),
            ExitStack() as crowd,
        ):
            while True:
                crowd.enter_context(log.environment.read())
        stack.enter_context(log.environment.read())
        assert len(log.read()) == 1


def test_an_archive_that_cannot_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(EventLog(tmp_path)) as log, monkeypatch.context() as patch:
        patch.setattr(Path, "exists", RefusedAt(Path.exists, 1, errno.EIO))
        with pytest.raises(ArchiveUnreachable, match="cannot be looked at: Input/output error"):
            log.archive.drop([1])


def test_a_store_goes_on_while_its_disk_syncs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise lmdb.Error("mdb_txn_commit", errno.EIO)

    with closing(EventLog(tmp_path)) as log:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", RefusedAt(os.fsync, 1, errno.EIO))
            with pytest.raises(StoreWriteFailed, match="does not hold this commit"):
                log.environment.write(refused)
        appended(log.append([commit(1, append_to("a-1"))])[0])


def test_what_cannot_be_looked_at_for_want_of_files_is_not_verified_and_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EventLog(tmp_path).close()

    def no_process(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EAGAIN, "no process")  # it is done in this one then

    monkeypatch.setattr(subprocess, "Popen", no_process)
    with monkeypatch.context() as patch:
        patch.setattr(followers, "_folders_in", RefusedAt(followers._folders_in, 1, errno.EMFILE))
        report = verify_apart(tmp_path)
        assert not report.is_damaged
        assert ["Too many open files" in finding.problem for finding in report.findings] == [True]
    with monkeypatch.context() as patch:
        patch.setattr(verification, "MetaCheck", RefusedAt(MetaCheck, 1, errno.EMFILE))
        with pytest.raises(VerificationImpossible, match=r"cannot be read to its end: .*Too many open files"):
            verify_apart(tmp_path)
    assert verify_apart(tmp_path).findings == []
