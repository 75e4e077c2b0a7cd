"""Activation, passivation, snapshots, and what closing does."""

import logging
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
import trio.testing
from bank_domain import Account, Deposit, Done, Grow, Note, Slow, Wait

from eventsrc import (
    Aggregate,
    EventLog,
    EventSourcingError,
    Limits,
    MemoryLog,
    Runtime,
    ShutdownTimeout,
    applies,
    handles,
)
from eventsrc.runtime.residents import Residents
from eventsrc.storage.commit import Appended, Commit
from eventsrc.storage.control.board import ControlBoard
from eventsrc.storage.reader import LogReader
from eventsrc.storage.snapshot import Snapshot


async def test_everything_answered_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with Runtime.open(path, aggregates=[Account]) as runtime:
        for number in range(1, 4):
            await runtime.actor(Account, f"a{number}").ask_many([Deposit(number)] * 250)
    async with Runtime.open(path, aggregates=[Account]) as runtime:
        assert runtime.last_position == 750
        for number in range(1, 4):
            assert (await runtime.actor(Account, f"a{number}").state()).balance == 250 * number


async def test_idle_actors_leave_memory_and_come_back_with_their_state(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = Limits(passivate_after_seconds=60)
    async with Runtime.open(MemoryLog(), aggregates=[Account], limits=limits) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(1))
        await trio.sleep(50)
        assert runtime.resident_actors == 1
        await trio.sleep(50)
        assert runtime.resident_actors == 0
        assert (await ann.ask(Deposit(1))).version == 2


async def test_residency_is_bounded_and_the_least_recently_used_leaves_first() -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Account], limits=Limits(resident_actors_max=3)) as runtime:
        for name in ("a", "b", "c", "a", "d"):
            await runtime.actor(Account, name).ask(Deposit(1))
            await trio.testing.wait_all_tasks_blocked()
        assert runtime.resident_actors == 3
        assert runtime.resident_streams == ["account-c", "account-a", "account-d"]


async def test_no_command_is_lost_between_passivation_and_activation() -> None:
    limits = Limits(resident_actors_max=2, passivate_after_seconds=0.001)
    async with Runtime.open(MemoryLog(), aggregates=[Account], limits=limits) as runtime:

        async def client(name: str) -> None:
            account = runtime.actor(Account, name)
            for _ in range(100):
                await account.ask(Deposit(1))
                await trio.lowlevel.checkpoint()

        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client, "a")
                nursery.start_soon(client, "b")
            await runtime.actor(Account, "c").ask(Deposit(1))
        assert (await runtime.actor(Account, "a").state()).balance == 300
        assert (await runtime.actor(Account, "b").state()).balance == 300


async def test_a_snapshot_is_made_every_hundred_events_and_ten_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with Runtime.open(path, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        for _ in range(13):
            await ann.ask_many([Deposit(1)] * 100)
    log = EventLog(path)
    snapshots = log.snapshots("account-ann")
    log.close()
    assert [snapshot.version for snapshot in snapshots] == list(range(1300, 300, -100))
    assert snapshots[0].state == {"balance": 1300, "notes": 0}


async def test_recovery_uses_the_snapshot_and_the_events_since(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with Runtime.open(path, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 100)
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 50)
    log = EventLog(path)
    newest = log.snapshots("account-ann")[0]
    # A snapshot that says something else than its events shows which of the two was used.
    forged = Snapshot("account-ann", 100, newest.schema, 1, newest.event_hash, {"balance": 1_000_100, "notes": 0})
    log.append([], [forged])
    log.close()
    async with Runtime.open(path, aggregates=[Account]) as runtime:
        assert (await runtime.actor(Account, "ann").state()).balance == 1_000_150


async def test_a_damaged_snapshot_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "store"
    async with Runtime.open(path, aggregates=[Account], limits=Limits(snapshot_every_events=5)) as runtime:
        for number in range(7):
            await runtime.actor(Account, "ann").ask(Note(f"n{number}"))
    data = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(data.replace(b"\xa7balance\x00\xa5notes\x05", b"\xa7balance\x00\xa5notes\x09"))
    async with Runtime.open(path, aggregates=[Account]) as runtime:
        assert (await runtime.actor(Account, "ann").state()).notes == 7
    assert any("damaged snapshot" in record.message for record in caplog.records)


async def test_a_snapshot_of_a_class_that_changed_shape_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with Runtime.open(path, aggregates=[Slow], limits=Limits(snapshot_every_events=5)) as runtime:
        await runtime.actor(Slow, "s").ask_many([Grow(1)] * 7)

    class Changed(Aggregate, category="slow"):
        done: int = 0
        doubled: int = 0

        @handles
        def grow(self, command: Grow) -> Done:
            return Done()

        @applies
        def finished(self, event: Done) -> None:
            self.done += 1
            self.doubled += 2

    async with Runtime.open(path, aggregates=[Changed]) as runtime:
        assert (await runtime.actor(Changed, "s").state()).doubled == 14


async def test_closing_drains_the_mailboxes(autojump_clock: trio.testing.MockClock) -> None:
    log = MemoryLog()
    async with Runtime.open(log, aggregates=[Slow], limits=Limits(shutdown_seconds=1e6)) as runtime:
        slow = runtime.actor(Slow, "s")
        for _ in range(5):
            slow.tell(Wait())
    assert log.last_position == 5


async def test_closing_does_not_wait_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    log = MemoryLog()
    with pytest.raises(ShutdownTimeout, match=r"After 30 seconds 1 aggregates were still at work \(slow-s\)"):
        async with Runtime.open(log, aggregates=[Slow]) as runtime:
            slow = runtime.actor(Slow, "s")
            for _ in range(5):
                slow.tell(Wait())
    assert log.last_position == 0


async def test_closing_whose_time_is_over_when_all_have_just_ended(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Residents.stop

    async def stop_and_wait(residents: Residents) -> None:
        await stop(residents)
        await trio.sleep_forever()

    monkeypatch.setattr(Residents, "stop", stop_and_wait)
    log = MemoryLog()
    async with Runtime.open(log, aggregates=[Slow]) as runtime:
        runtime.actor(Slow, "s").tell(Grow(1))
    assert log.last_position == 1


class Relay(Aggregate):
    """Sends commands to another aggregate once it is let to."""

    runtime: ClassVar[Runtime]
    let: ClassVar[trio.Event]
    done: int = 0

    @handles
    async def relay(self, command: Wait) -> Done:
        await self.let.wait()
        account = self.runtime.actor(Account, "ann")
        await account.ask(Deposit(1))
        account.tell(Deposit(1))
        await self.runtime.transact([(Account, "bob", Deposit(1)), (Account, "cid", Deposit(1))])
        return Done()

    @applies
    def relayed(self, event: Done) -> None:
        self.done += 1


class LogOnASlowDisk(EventLog):
    """Commits when it is let to."""

    let: ClassVar[threading.Event]

    def append(
        self, commits: Sequence[Commit], snapshots: Sequence[Snapshot] = ()
    ) -> list[Appended | EventSourcingError]:
        assert self.let.wait(20)
        return super().append(commits, snapshots)


@pytest.mark.parametrize("is_resident", [False, True])
async def test_a_command_that_is_handled_while_closing_may_send_others(tmp_path: Path, is_resident: bool) -> None:
    """Also to aggregates that are not in memory yet, or that were told to stop and wait for the disk."""
    Relay.let, LogOnASlowDisk.let = trio.Event(), threading.Event()

    async def let_them() -> None:
        await trio.testing.wait_all_tasks_blocked()
        Relay.let.set()
        await trio.testing.wait_all_tasks_blocked()
        LogOnASlowDisk.let.set()

    store = LogOnASlowDisk(tmp_path)
    async with trio.open_nursery() as nursery, Runtime.open(store, aggregates=[Relay, Account]) as runtime:
        Relay.runtime = runtime
        if is_resident:
            runtime.actor(Account, "ann").tell(Deposit(1))
        runtime.actor(Relay, "r").tell(Wait())
        nursery.start_soon(let_them)
    with closing(EventLog(tmp_path)) as log:
        versions = {head.stream: head.version for head in log.streams()}
    assert versions == {"account-ann": 2 + is_resident, "account-bob": 1, "account-cid": 1, "relay-r": 1}


async def test_an_error_in_the_block_comes_out_as_it_is_and_everything_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with pytest.raises(KeyError, match="mine"):
        async with Runtime.open(path, aggregates=[Account]) as runtime:
            runtime.actor(Account, "ann").tell(Deposit(1))
            raise KeyError("mine")
    log = EventLog(path)
    assert log.last_position == 1
    log.close()


async def test_cancelling_the_block_stores_what_was_sent(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with trio.CancelScope() as scope:
        async with Runtime.open(path, aggregates=[Account]) as runtime:
            runtime.actor(Account, "ann").tell(Deposit(1))
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    log = EventLog(path)
    assert log.last_position == 1
    log.close()


SERVER = """
    import signal, sys, trio, trio.testing
    sys.path.insert(0, sys.argv[2])
    from bank_domain import Account, Deposit, Slow, Wait
    from eventsrc import Limits, Runtime

    # Ignored where the tests run in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    async def tell_that_it_waits(runtime):
        while not runtime._router.is_closing:
            await trio.sleep(0.001)
        await trio.testing.wait_all_tasks_blocked()
        print("closing", flush=True)

    async def main():
        limits = Limits(shutdown_seconds=1000, command_timeout_seconds=1000)
        async with Runtime.open(sys.argv[1], aggregates=[Account, Slow], limits=limits) as runtime:
            print((await runtime.actor(Account, "ann").ask(Deposit(1))).version, flush=True)
            for _ in range(20):
                runtime.actor(Account, "ann").tell(Deposit(1))
            if "slow" in sys.argv:
                runtime.actor(Slow, "s").tell(Wait())
                trio.lowlevel.spawn_system_task(tell_that_it_waits, runtime)
            print("ready", flush=True)
            await trio.sleep_forever()

    try:
        trio.run(main)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@contextmanager
def server(path: Path, *extra: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVER), str(path), str(Path(__file__).parent), *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "1\n"
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_ctrl_c_closes_in_order_and_prints_nothing(tmp_path: Path) -> None:
    with server(tmp_path / "store") as process:
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "interrupted\n", "")
    log = EventLog(tmp_path / "store")
    assert log.last_position == 21
    log.close()


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    with server(tmp_path / "store", "slow") as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        # One that comes before the runtime has begun to close would be to it as if there were no other.
        assert process.stdout.readline() == "closing\n"
        with closing(LogReader.open(tmp_path / "store")) as log:
            while log.last_position < 21:
                assert process.poll() is None, "it waits for the slow one"
                log.refresh()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (output, errors) == ("interrupted\n", "")
    with closing(EventLog(tmp_path / "store")) as log:
        assert log.last_position == 21, "what was answered is there"


def test_a_program_that_ends_prints_nothing_of_ours_or_of_pykka(tmp_path: Path) -> None:
    code = """
        import sys, trio
        sys.path.insert(0, sys.argv[2])
        from bank_domain import Account, Deposit, Break, Poison
        from eventsrc import EventSourcingError, Runtime
        async def main():
            async with Runtime.open(sys.argv[1], aggregates=[Account]) as runtime:
                ann = runtime.actor(Account, "ann")
                for command in (Deposit(1), Deposit(0)):
                    try:
                        await ann.ask(command)
                    except EventSourcingError:
                        pass
                ann.tell(Deposit(1))
        trio.run(main)
    """
    result = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            textwrap.dedent(code),
            str(tmp_path / "store"),
            str(Path(__file__).parent),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


async def test_logging_is_structured_and_below_our_own_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with Runtime.open(tmp_path / "store", aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
    opened = next(record for record in caplog.records if record.message == "opened")
    assert opened.name == "eventsrc.runtime"
    assert opened.__dict__["path"] == str(tmp_path / "store")
    ours = [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert {record.name.split(".")[0] for record in ours} == {"eventsrc"}


async def test_the_control_board_is_closed_after_the_last_write_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB waits forever when it is closed under a transaction of another thread."""
    writing, closed_under_a_write = threading.Event(), threading.Event()
    finish = threading.Event()
    set_status, close = ControlBoard.set_status, ControlBoard.close

    def slow_set_status(board: ControlBoard, status: dict[str, Any]) -> None:
        writing.set()
        finish.wait(60)
        set_status(board, status)
        writing.clear()

    def watched_close(board: ControlBoard) -> None:
        if writing.is_set():
            closed_under_a_write.set()
            finish.set()
        close(board)

    monkeypatch.setattr(ControlBoard, "set_status", slow_set_status)
    monkeypatch.setattr(ControlBoard, "close", watched_close)
    async with trio.open_nursery() as nursery, Runtime.open(tmp_path / "store", aggregates=[Account]):
        assert await trio.to_thread.run_sync(writing.wait, 60)

        async def let_it_finish() -> None:
            await trio.testing.wait_all_tasks_blocked()  # whoever closes waits for the write
            finish.set()

        nursery.start_soon(let_it_finish)
    assert not closed_under_a_write.is_set()
