"""Backups, restores and forks: sound, whole or not there, and never of two histories."""

import errno
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from threading import Semaphore, Thread

import pytest
from transfer_cases import SECOND, all_of, fill, groups, keyed, root, store_with

from eventsrc.storage.commit import ANY, Commit, NewEvent, StreamAppend
from eventsrc.storage.contract import appended
from eventsrc.storage.copies.backup import COPY_ATTEMPTS_MAX, backup, fork, restore
from eventsrc.storage.copies.errors import (
    CopyInterrupted,
    CopyUnsound,
    DestinationUnusable,
    ExportTruncated,
    HistoryDiverged,
    ImportGap,
    PointUnreachable,
)
from eventsrc.storage.copies.exporting import export_events
from eventsrc.storage.copies.importing import import_store
from eventsrc.storage.environment.environment import Environment
from eventsrc.storage.environment.gate import Gate
from eventsrc.storage.environment.outlet import Outlet
from eventsrc.storage.errors import StoreClosed
from eventsrc.storage.evidence.divergence import Divergence, StreamDivergence, divergence
from eventsrc.storage.evidence.signed_checkpoint import make_checkpoint, new_signing_key
from eventsrc.storage.log import EventLog
from eventsrc.storage.reader import LogReader
from eventsrc.storage.verification.verify import verify

WAIT_SECONDS = 60


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return store_with(tmp_path / "source", 150)


@pytest.fixture
def increments(source: Path, tmp_path: Path) -> list[Path]:
    """A backup of 450 events in `base`, 90 events in the first increment and 60 in the second."""
    files = []
    with closing(EventLog(source)) as log:
        backup(log, tmp_path / "base")
        for commits in (30, 20):
            after = log.last_position
            fill(log, commits)
            files.append(tmp_path / f"since-{after}.jsonl.gz")
            export_events(log, files[-1], after=after)
    return files


def restored(base: Path, to: Path, increments: list[Path], **point: int) -> int:
    with closing(LogReader.open(base)) as log:
        return restore(log, to, increments=increments, **point)  # type: ignore[arg-type]


# --- backups


def test_a_backup_is_a_sound_copy_while_the_store_is_written(source: Path, tmp_path: Path) -> None:
    with closing(EventLog(source)) as log:
        appended(log.append([keyed(log.last_commit_id + 1, "k", expires_ns=10**18)])[0])
        summary = backup(log, tmp_path / "copy")
        fill(log, 10)
    assert summary.events == 451
    assert repr(all_of(tmp_path / "copy")) == repr(all_of(source)[:451])
    with closing(EventLog(tmp_path / "copy")) as log:
        assert list(log.idempotency("keyed-k", ["k"], now_ns=1)) == ["k"]
        fill(log, 1)


def test_a_copy_of_a_damaged_store_is_refused_and_removed(source: Path, tmp_path: Path) -> None:
    with closing(EventLog(source)) as log:
        log.environment.write(lambda transaction: transaction.delete(b"u1-y", db=log.environment.table("heads")))
        with pytest.raises(CopyUnsound, match="u1-y") as caught:
            backup(log, tmp_path / "copy")
    assert caught.value.findings
    assert not list(tmp_path.glob("copy*"))


def test_a_disk_that_refuses_once_while_a_copy_is_written_refuses_the_copy(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, times = os.fsync, iter(range(1000))

    def refuse_first(descriptor: int) -> None:
        # The system tells of what it could not write once, and then forgets it.
        if next(times) == 0:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_first)
    with closing(LogReader.open(source)) as log, pytest.raises(DestinationUnusable, match="Input/output error"):
        backup(log, tmp_path / "copy")
    assert not list(tmp_path.glob("copy*"))


class HeldUp:
    """Copies go over a pipe that nobody empties before this says so, as to a slow disk, or they were cut off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copies = 0
        self._begun, self._may_go_on = Semaphore(0), Semaphore(0)
        real, close = Outlet.__init__, Outlet.close
        emptying: dict[Outlet, Thread] = {}

        def hold_up(outlet: Outlet, descriptor: int) -> None:
            self.copies += 1
            source, sink = os.pipe()
            real(outlet, sink)
            os.close(sink)
            emptying[outlet] = Thread(target=self._empty, args=(source, os.dup(descriptor), outlet))
            emptying[outlet].start()

        def close_emptied(outlet: Outlet) -> None:
            # A copy has ended for who reads it when all of it is in the file, not when the pipe has taken it.
            if outlet.is_cut:
                emptying[outlet].join()
            close(outlet)
            emptying[outlet].join()

        monkeypatch.setattr(Outlet, "__init__", hold_up)
        monkeypatch.setattr(Outlet, "close", close_emptied)

    def _empty(self, source: int, descriptor: int, outlet: Outlet) -> None:
        with os.fdopen(source, "rb") as pipe, os.fdopen(descriptor, "wb") as file:
            if not file.write(pipe.read(1)):
                return  # closed before anything was written
            self._begun.release()
            while not (outlet.is_cut or self._may_go_on.acquire(timeout=0.001)):
                pass
            # It is cut off on a thread; until then the copy could come to its end.
            while outlet.is_cut and not is_cut_off(outlet):
                pass
            shutil.copyfileobj(pipe, file)

    def wait(self) -> None:
        assert self._begun.acquire(timeout=WAIT_SECONDS)

    def go_on(self) -> None:
        self._may_go_on.release()


def is_cut_off(outlet: Outlet) -> bool:
    try:
        return os.path.sameopenfile(outlet.descriptor, outlet._nowhere)
    except OSError:
        return True  # and closed, since a write has failed


def append_large(log: EventLog) -> None:
    events = [NewEvent("t", {"text": os.urandom(30_000).hex()}) for _ in range(10)]
    appended(log.append([Commit(log.last_commit_id + 1, 1, [StreamAppend("a-1", ANY, events)])])[0])


def grow(log: EventLog) -> None:
    """Append until the map has grown, and read."""
    _, size_bytes = log.environment.sizes()
    while log.environment.sizes()[1] == size_bytes:
        append_large(log)
    assert log.read(limit=1)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[EventLog]:
    with closing(EventLog(tmp_path / "store", map_size_bytes=1 << 22)) as log:
        grow(log)
        yield log


def test_a_copy_that_takes_long_holds_up_neither_writers_nor_readers(
    large: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, stored = HeldUp(monkeypatch), large.last_position
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(backup, large, tmp_path / "copy")
        disk.wait()
        grow(large)
        disk.wait()
        disk.go_on()
        copied = copying.result(WAIT_SECONDS).events
    assert disk.copies == 2
    # The second one begins when the map has grown, which may be before what it grew for is stored.
    assert stored <= copied <= large.last_position
    assert repr(all_of(tmp_path / "copy")) == repr(large.read(limit=copied))


def test_a_copy_that_is_broken_off_each_time_is_given_up(
    large: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(transaction: object) -> None:
        raise ZeroDivisionError

    disk = HeldUp(monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(backup, large, tmp_path / "copy")
        for _ in range(COPY_ATTEMPTS_MAX):
            disk.wait()
            with pytest.raises(ZeroDivisionError):
                large.environment.write(fail)
        with pytest.raises(CopyInterrupted, match=f"eventsrc backup {tmp_path / 'store'}"):
            copying.result(WAIT_SECONDS)
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


def test_a_write_that_fails_ends_a_copy_once_however_long_it_takes(
    large: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(transaction: object) -> None:
        raise ZeroDivisionError

    def cleared_late(gate: Gate) -> None:
        # Once the copy that begins anew waits, or all attempts are over, each ended as soon as it began.
        while not (gate._condition._waiters or copying.done()):  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            time.sleep(0.001)
        cleared(gate)

    disk, cleared = HeldUp(monkeypatch), Gate.cleared
    monkeypatch.setattr(Gate, "cleared", cleared_late)
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(backup, large, tmp_path / "copy")
        disk.wait()
        with pytest.raises(ZeroDivisionError):
            large.environment.write(fail)
        disk.wait()
        disk.go_on()
        assert copying.result(WAIT_SECONDS).events == large.last_position
    assert disk.copies == 2


def test_a_copy_that_begins_anew_while_the_map_grows_keeps_it_from_nothing(
    large: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = large.environment._gate

    def grow_late(environment: Environment) -> None:
        # Once the copy, which was ended for it, begins anew and waits.
        while not gate._condition._waiters:  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            time.sleep(0.001)
        real(environment)

    disk, real = HeldUp(monkeypatch), Environment._grow
    monkeypatch.setattr(Environment, "_grow", grow_late)
    with ThreadPoolExecutor(2) as pool:
        copying = pool.submit(backup, large, tmp_path / "copy")
        disk.wait()
        growing = pool.submit(grow, large)
        waits_for_ever = not wait([growing], WAIT_SECONDS).done
        if waits_for_ever:  # and the other tests would, too
            gate.cleared()
            growing.result(WAIT_SECONDS)
            gate._clearing = 1
            gate.cleared()
        disk.wait()
        disk.go_on()
        assert copying.result(WAIT_SECONDS).events <= large.last_position
    assert not waits_for_ever
    assert disk.copies == 2


def test_a_store_is_closed_at_once_while_it_is_copied(
    large: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = HeldUp(monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(backup, large, tmp_path / "copy")
        disk.wait()
        large.close()
        with pytest.raises(StoreClosed):
            copying.result(WAIT_SECONDS)


# --- restoring


def test_a_store_is_restored_to_any_point(source: Path, tmp_path: Path, increments: list[Path]) -> None:
    whole = all_of(source)
    times = [event.time_ns for event in whole]
    points = {
        "all": ({}, 600),
        "in-base": ({"to_position": 300}, 300),
        "in-increment": ({"to_position": 555}, 555),
        "at-the-end": ({"to_position": 600}, 600),
        "time-in-base": ({"to_time_ns": 20 * SECOND}, sum(each <= 20 * SECOND for each in times)),
        "time-in-increment": ({"to_time_ns": 55 * SECOND + 1}, sum(each <= 55 * SECOND for each in times)),
        "after-the-last": ({"to_time_ns": 10**18}, 600),
        "both": ({"to_time_ns": 10**18, "to_position": 7}, 7),
    }
    for name, (point, expected) in points.items():
        assert restored(tmp_path / "base", tmp_path / name, increments, **point) == expected
        assert repr(all_of(tmp_path / name)) == repr(whole[:expected])
    assert groups(tmp_path / "all") == groups(source)
    assert root(tmp_path / "all") == root(source)


def test_old_checkpoints_hold_for_what_was_moved(source: Path, tmp_path: Path, increments: list[Path]) -> None:
    with closing(LogReader.open(tmp_path / "base")) as log:
        old = make_checkpoint(log, new_signing_key(tmp_path / "key.pem"), time_ns=1)
    restored(tmp_path / "base", tmp_path / "restored", increments)
    with closing(LogReader.open(source)) as log:
        export_events(log, tmp_path / "all.jsonl")
        fork(log, 500, tmp_path / "fork")
    import_store(str(tmp_path / "imported"), tmp_path / "all.jsonl")
    for name in ("restored", "imported", "fork"):
        with closing(LogReader.open(tmp_path / name)) as log:
            assert list(verify(log, statements=[old])) == []


def test_increments_that_do_not_fit_are_refused(source: Path, tmp_path: Path, increments: list[Path]) -> None:
    first, second = increments
    base, to = tmp_path / "base", tmp_path / "restored"
    for given in ([second], [second, first]):
        with pytest.raises(ImportGap, match=r"begins after position 540, and .* ends at 450: an increment is missing"):
            restored(base, to, given)
    other = store_with(tmp_path / "other", 149)
    with closing(EventLog(other)) as log:
        appended(log.append([Commit(150, 1, [StreamAppend("o-1", ANY, [NewEvent("t", {})] * 3)])])[0])
        export_events(log, tmp_path / "other.jsonl", after=450)
    with pytest.raises(HistoryDiverged, match="at position 450 or before"):
        restored(base, to, [tmp_path / "other.jsonl"])
    with pytest.raises(HistoryDiverged):
        restored(other, to, [first])
    second.write_bytes(second.read_bytes()[:-9])
    with pytest.raises(ExportTruncated):
        restored(base, to, increments)
    assert not list(tmp_path.glob("restored*"))
    # As far as it is whole, it helps to get back to a point.
    assert restored(base, to, increments, to_position=541) == 541


def test_a_point_that_is_not_reached_is_an_error(source: Path, tmp_path: Path, increments: list[Path]) -> None:
    with closing(EventLog(tmp_path / "late")) as log:
        appended(log.append([Commit(1, 5 * SECOND, [StreamAppend("o-1", ANY, [NewEvent("t", {})])])])[0])
    EventLog(tmp_path / "empty").close()
    for base, point, match in (
        ("base", {"to_position": 601}, "position 601: with the increments that were given it goes to 600"),
        ("base", {"to_position": 0}, "positions begin at 1"),
        ("late", {"to_time_ns": 4 * SECOND}, "does not reach 1970-01-01T00:00:04.*it begins at 1970-01-01T00:00:05"),
        ("empty", {"to_time_ns": 4 * SECOND}, "it is empty"),
    ):
        with pytest.raises(PointUnreachable, match=match):
            restored(tmp_path / base, tmp_path / "to", increments if base == "base" else [], **point)
    assert not list(tmp_path.glob("to*"))
    assert restored(tmp_path / "empty", tmp_path / "nothing", []) == 0


# --- forks


def test_a_fork_never_reaches_its_source(source: Path, tmp_path: Path) -> None:
    before = root(source), groups(source)
    with closing(LogReader.open(source)) as log:
        assert fork(log, 100, tmp_path / "fork") == 100
    with closing(EventLog(tmp_path / "fork")) as log:
        fill(log, 10)
    assert repr(all_of(tmp_path / "fork")[:100]) == repr(all_of(source)[:100])
    assert (root(source), groups(source)) == before


def test_a_fork_within_a_commit_has_its_events_up_to_there(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path / "source")) as log:
        appends = [StreamAppend(f"a-{name}", ANY, [NewEvent("t", {})] * 2) for name in ("ann", "bob")]
        appended(log.append([Commit(1, 1, appends)])[0])
        appended(log.append([Commit(2, 2, appends)])[0])
        fork(log, 6, tmp_path / "fork")
    with closing(EventLog(tmp_path / "fork")) as log:
        versions = [head and head.version for head in map(log.head, ("a-ann", "a-bob"))]
        assert versions == [4, 2]
        appended(log.append([Commit(3, 3, appends)])[0])
    all_of(tmp_path / "fork")


def test_a_fork_remembers_the_keys_of_the_commands_that_it_shares(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path / "source")) as log:
        appended(log.append([keyed(1, "shared", expires_ns=10**18)])[0])
        for outcome in log.append([keyed(2, "also", expires_ns=10**18), keyed(3, "later", expires_ns=10**18)]):
            appended(outcome)
        fork(log, 2, tmp_path / "fork")
    with closing(LogReader.open(tmp_path / "fork")) as log:
        known = [key for key in ("shared", "also", "later") if log.idempotency(f"keyed-{key}", [key], now_ns=1)]
    assert known == ["shared", "also"]


def test_a_fork_at_a_position_that_is_not_there_is_refused(source: Path, tmp_path: Path) -> None:
    with closing(LogReader.open(source)) as log:
        for position in (-1, 0, 451):
            with pytest.raises(PointUnreachable, match=f"position {position}: it goes from 1 to 450"):
                fork(log, position, tmp_path / "fork")
    EventLog(tmp_path / "empty").close()
    with closing(LogReader.open(tmp_path / "empty")) as log, pytest.raises(PointUnreachable, match="it is empty"):
        fork(log, 1, tmp_path / "fork")
    assert not list(tmp_path.glob("fork*"))


def test_two_logs_part_where_their_histories_do(source: Path, tmp_path: Path) -> None:
    with closing(LogReader.open(source)) as log:
        end = log.last_position
        fork(log, 100, tmp_path / "fork")
    with closing(LogReader.open(source)) as log, closing(EventLog(tmp_path / "fork")) as forked:
        assert divergence(log, forked).shared_position == 100
        head = forked.head("s0-x")
        assert head is not None
        events = [NewEvent("what.if", {})]
        forked.append([Commit(forked.last_commit_id + 1, 10**9, [StreamAppend("s0-x", ANY, events)])])
        forked.append([Commit(forked.last_commit_id + 1, 10**9, [StreamAppend("new-1", ANY, events)])])
        found = divergence(log, forked)
        assert found.shared_position == 100
        by_stream = {each.stream: each for each in found.streams}
        assert by_stream["s0-x"].shared_version == head.version
        assert by_stream["s0-x"].other_version == head.version + 1
        assert by_stream["new-1"] == StreamDivergence("new-1", 0, 0, 1)
        assert set(by_stream) == {event.stream for event in log.read(after=100, limit=end)} | {"new-1"}
        assert divergence(forked, log).streams[0].version == by_stream[found.streams[0].stream].other_version


def test_a_log_parts_from_itself_nowhere(source: Path, tmp_path: Path) -> None:
    with closing(LogReader.open(source)) as log:
        backup(log, tmp_path / "copy")
        with closing(LogReader.open(tmp_path / "copy")) as copy:
            assert divergence(log, copy) == Divergence(log.last_position, [])
    with closing(EventLog(tmp_path / "empty")) as empty, closing(LogReader.open(tmp_path / "copy")) as copy:
        assert divergence(empty, copy).shared_position == 0
