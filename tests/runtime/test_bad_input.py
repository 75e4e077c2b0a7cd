"""Bad input gets a clear error of its own class, and leaves everything else working."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from bank_domain import Account, Break, Deposit, Deposited, Grow, Grown, Note, Poison, ReturnNonsense

from eventsrc import (
    Aggregate,
    AggregateUnavailable,
    ApplierFailed,
    CommitTooLarge,
    CommitTooManyBytes,
    CorruptRecord,
    DefinitionError,
    EncodingError,
    EventLog,
    EventTooLarge,
    HandlerFailed,
    Limits,
    MemoryLog,
    NotAnEvent,
    Receipt,
    Runtime,
    RuntimeClosed,
    StoreFull,
    StoreInUse,
    StreamFull,
    StreamNameInvalid,
    TooManyStreams,
    UnknownAggregate,
    UnknownCommand,
    UnknownEvent,
    VersionConflict,
    WrongThread,
    applies,
    command,
    event,
    handles,
)
from eventsrc.runtime.testing import FaultyLog
from eventsrc.storage.commit import Commit, IdempotencyEntry, NewEvent, StreamAppend

Store = Path | MemoryLog


async def works(runtime: Runtime, aggregate_id: str = "ann") -> None:
    """The aggregate goes on after what went wrong."""
    account = runtime.actor(Account, aggregate_id)
    before = (await account.state()).balance
    assert isinstance(await account.ask(Deposit(1)), Receipt)
    assert (await account.state()).balance == before + 1


@command
class Stranger:
    pass


async def test_a_command_that_the_aggregate_does_not_know(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        with pytest.raises(UnknownCommand, match=r"Account has no handler for Stranger.*@handles"):
            await runtime.actor(Account, "ann").ask(Stranger())
        await works(runtime)


async def test_an_aggregate_that_the_runtime_does_not_know() -> None:
    class Other(Aggregate):
        pass

    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        with pytest.raises(UnknownAggregate, match=r"not opened with Other.*it knows Account"):
            runtime.actor(Other, "x")
        await works(runtime)


async def test_two_aggregates_of_one_category() -> None:
    class Other(Aggregate, category="account"):
        pass

    with pytest.raises(DefinitionError, match=r"Other and Account both have the category 'account'"):
        async with Runtime.open(MemoryLog(), aggregates=[Account, Other]):
            pass


async def test_a_handler_that_returns_no_event(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        with pytest.raises(NotAnEvent, match=r"ReturnNonsense of 'account-ann' returned 42"):
            await runtime.actor(Account, "ann").ask(ReturnNonsense())
        await works(runtime)


async def test_a_handler_that_raises_fails_its_command_and_not_the_actor(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        with pytest.raises(HandlerFailed, match=r"Break of 'account-ann' raised ZeroDivisionError") as caught:
            await runtime.actor(Account, "ann").ask(Break())
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        await works(runtime)
    assert any(record.message == "handler failed: account-ann" for record in caplog.records)


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@command
class Hush:
    later: bool


class Mute(Aggregate):
    balance: int = 0

    @handles
    async def hush(self, command: Hush) -> Deposited:
        if command.later:
            await trio.lowlevel.checkpoint()
        raise Speechless

    @handles
    def deposit(self, command: Deposit) -> Deposited:
        return Deposited(command.amount)

    @applies
    def deposited(self, event: Deposited) -> None:
        self.balance += event.amount


@pytest.mark.parametrize("later", [False, True])
async def test_an_exception_without_a_text_is_one_like_any_other(store: Store, later: bool) -> None:
    async with Runtime.open(store, aggregates=[Mute]) as runtime:
        mute = runtime.actor(Mute, "ann")
        answers = await mute.ask_many([Deposit(1), Hush(later), Deposit(2)])
        assert [type(answer) for answer in answers] == [Receipt, HandlerFailed, Receipt]
        with pytest.raises(HandlerFailed, match="raised Speechless, whose text cannot be had because of RuntimeError"):
            await mute.ask(Hush(later))
        assert (await mute.state()).balance == 3


async def test_an_applier_that_raises_on_a_new_event_stores_nothing_and_the_state_is_loaded_again(
    store: Store,
) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(5))
        with pytest.raises(ApplierFailed, match=r"'account.poisoned'.*version 2, which is not stored") as caught:
            await ann.ask(Poison())
        assert caught.value.position is None
        await works(runtime)
        assert [event.type async for event in runtime.events()] == ["account.deposited"] * 2


async def test_commands_beside_one_that_cannot_be_applied_are_decided_on_the_right_state(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        answers = await ann.ask_many([Deposit(5), Poison(), Deposit(7)])
        assert [type(answer) for answer in answers] == [Receipt, ApplierFailed, Receipt]
        assert (await ann.state()).balance == 12


async def test_an_applier_that_keeps_failing_makes_the_aggregate_rest_and_others_go_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Account], limits=Limits(restart_backoff_seconds=60)) as runtime:
        ann = runtime.actor(Account, "ann")
        for _ in range(2):
            with pytest.raises((ApplierFailed, AggregateUnavailable)):
                await ann.ask(Poison())
        with pytest.raises(AggregateUnavailable, match=r"not activated again for [\d.]+ seconds.*account.poisoned"):
            for _ in range(3):
                await ann.ask(Poison())
        await works(runtime, "bob")
        await trio.sleep(3600)
        assert isinstance(await ann.ask(Deposit(1)), Receipt)


async def test_a_stored_event_that_cannot_be_applied_is_named_with_its_position(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Account]) as runtime:
        await runtime.actor(Account, "bob").ask(Deposit(1))
    write_foreign_event(tmp_path / "store", "account-ann", "account.poisoned", {})
    async with Runtime.open(tmp_path / "store", aggregates=[Account]) as runtime:
        with pytest.raises(ApplierFailed, match=r"'account.poisoned' of 'account-ann' \(version 1, at position 2\)"):
            await runtime.actor(Account, "ann").ask(Deposit(1))
        await works(runtime, "bob")


async def test_a_stored_event_that_the_class_does_not_know_is_named_with_its_position(tmp_path: Path) -> None:
    write_foreign_event(tmp_path / "store", "account-ann", "account.renamed", {})
    async with Runtime.open(tmp_path / "store", aggregates=[Account]) as runtime:
        with pytest.raises(UnknownEvent, match=r"'account.renamed' \(position 1\) that Account does not apply"):
            await runtime.actor(Account, "ann").ask(Deposit(1))
        await works(runtime, "bob")


def write_foreign_event(path: Path, stream: str, name: str, payload: dict[str, object]) -> None:
    log = EventLog(path)
    commit = Commit(log.last_commit_id + 1, 1, [StreamAppend(stream, 0, [NewEvent(name, payload)])])
    assert not isinstance(log.append([commit])[0], Exception)
    log.close()


async def test_an_event_over_the_limit(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        with pytest.raises(EventTooLarge, match=r"'account.noted'.*Limits.event_size_bytes_max = 65,536"):
            await ann.ask(Note("x" * 70_000))
        answers = await ann.ask_many([Note("x" * 70_000), Deposit(1)])
        assert [type(answer) for answer in answers] == [EventTooLarge, Receipt], "others in the commit are not touched"
        await works(runtime)


async def test_many_large_events_are_split_into_commits(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        answers = await runtime.actor(Account, "ann").ask_many([Note("x" * 60_000)] * 60)
        assert all(isinstance(answer, Receipt) for answer in answers)


@command
class Flood:
    count: int
    size: int


@event("flood.drop")
class Drop:
    data: str


class Cloud(Aggregate):
    @handles
    def flood(self, command: Flood) -> list[Drop]:
        return [Drop("x" * command.size)] * command.count

    @applies
    def drop(self, event: Drop) -> None:
        pass


async def test_a_command_with_too_many_events_or_bytes(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Cloud]) as runtime:
        cloud = runtime.actor(Cloud, "c")
        with pytest.raises(CommitTooLarge, match=r"1,001 is over Limits.commit_events_max = 1,000"):
            await cloud.ask(Flood(1_001, 1))
        with pytest.raises(CommitTooManyBytes, match="commit_size_bytes_max"):
            await cloud.ask(Flood(50, 50_000))
        assert (await cloud.ask(Flood(1_000, 1))).version == 1_000


async def test_a_full_stream_and_a_full_store(store: Store) -> None:
    async with Runtime.open(
        store if isinstance(store, Path) else MemoryLog(limits=Limits(streams_max=2)),
        aggregates=[Account],
        limits=Limits(stream_events_max=3, streams_max=2),
    ) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask_many([Deposit(1)] * 3)
        with pytest.raises(StreamFull, match="stream_events_max = 3"):
            await ann.ask(Deposit(1))
        await runtime.actor(Account, "bob").ask(Deposit(1))
        with pytest.raises(TooManyStreams, match="streams_max = 2"):
            await runtime.actor(Account, "cid").ask(Deposit(1))
        await works(runtime, "bob")


@pytest.mark.parametrize("aggregate_id", ["", "a\0b", "tab\t", "x" * 500, "\ud800"])
async def test_an_id_that_cannot_be_a_key(store: Store, aggregate_id: str) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        with pytest.raises(StreamNameInvalid, match="cannot name a stream"):
            runtime.actor(Account, aggregate_id)
        await works(runtime)


async def test_metadata_that_cannot_be_stored(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        with pytest.raises(EncodingError, match="metadata of Deposit"):
            await runtime.actor(Account, "ann").ask(Deposit(1), metadata={"x": object()})
        await works(runtime)


class Counter(Aggregate):
    total: int = 0

    @handles
    def grow(self, command: Grow) -> Grown:
        return Grown(command.by)

    @applies
    def grown(self, event: Grown) -> None:
        self.total += event.by


async def test_a_number_that_is_too_large_for_the_log(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Counter]) as runtime:
        counter = runtime.actor(Counter, "c")
        with pytest.raises(EncodingError, match="Grown cannot be stored"):
            await counter.ask(Grow(2**70))
        assert (await counter.ask(Grow(1))).version == 1


async def test_a_state_that_cannot_be_encoded_costs_its_snapshots_and_nothing_else(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async with Runtime.open(store, aggregates=[Counter], limits=Limits(snapshot_every_events=2)) as runtime:
        counter = runtime.actor(Counter, "c")
        await counter.ask_many([Grow(2**62)] * 4)
        assert (await counter.ask(Grow(1))).version == 5
    assert any("no snapshot" in record.message for record in caplog.records)


async def test_a_call_after_the_runtime_was_closed(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
    with pytest.raises(RuntimeClosed, match="closed"):
        await ann.ask(Deposit(1))
    with pytest.raises(RuntimeClosed):
        ann.tell(Deposit(1))


async def test_calls_from_another_thread(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")

        def in_thread() -> None:
            assert ann.ask_from_thread(Deposit(3)).version == 1
            ann.tell(Deposit(4))
            with pytest.raises(WrongThread, match="ask_from_thread"):
                ann.ask(Deposit(5)).send(None)

        await trio.to_thread.run_sync(in_thread)
        assert (await ann.state()).balance == 7


async def test_a_store_that_is_open_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with Runtime.open(path, aggregates=[Account]) as runtime:
        with pytest.raises(StoreInUse, match="open for writing by process"):
            async with Runtime.open(path, aggregates=[Account]):
                pass
        code = (
            "import trio, sys\nfrom eventsrc import *\n"
            "async def main():\n"
            "    async with Runtime.open(sys.argv[1], aggregates=[]): pass\n"
            "try: trio.run(main)\nexcept StoreInUse as error: print(error)\n"
        )
        result = await trio.to_thread.run_sync(
            lambda: subprocess.run(
                [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=60
            )
        )
        assert "open for writing by process" in result.stdout
        await works(runtime)


async def test_a_failed_commit_fails_what_was_decided_on_it_and_the_actor_goes_on() -> None:
    log = FaultyLog()
    async with Runtime.open(log, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(10))
        log.fail_next(StoreFull("disk", "No space left on device"))
        with pytest.raises(StoreFull, match="nothing that was answered is lost"):
            await ann.ask(Deposit(5))
        assert (await ann.state()).balance == 10
        await works(runtime)


ON_A_FULL_DISK = """
import resource, sys, trio
sys.path.insert(0, sys.argv[2])
from bank_domain import Account, Note
from eventsrc import Runtime, StoreFull

async def main():
    async with Runtime.open(sys.argv[1], aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        answered = 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        try:
            while True:
                await ann.ask(Note("x" * 20_000))
                answered += 1
        except StoreFull as error:
            print(error)
        assert (await ann.state()).notes == answered > 10
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print((await ann.ask(Note("y"))).version - answered)
trio.run(main)
"""


async def test_a_full_disk_fails_the_command_and_the_runtime_goes_on_when_there_is_room(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path / "store"), str(Path(__file__).parent)]
    ran = await trio.to_thread.run_sync(
        lambda: subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    )
    said, counted = ran.stdout.splitlines()
    assert "nothing that was answered is lost: free some space and send the command again" in said
    assert counted == "1"
    async with Runtime.open(tmp_path / "store", aggregates=[Account]) as runtime:
        assert (await runtime.actor(Account, "ann").state()).notes == runtime.last_position > 10


async def test_a_conflict_with_an_append_from_outside_is_told_and_the_next_command_sees_it() -> None:
    log = MemoryLog()
    async with Runtime.open(log, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(10))
        outside = StreamAppend("account-ann", 1, [NewEvent("account.deposited", {"amount": 5})])
        assert not isinstance(log.append([Commit(log.last_commit_id + 1, 1, [outside])])[0], Exception)
        with pytest.raises(VersionConflict):
            await ann.ask(Deposit(1))
        assert (await ann.ask(Deposit(1))).version == 3
        assert (await ann.state()).balance == 16


async def test_a_corrupt_record_stops_its_aggregate_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with Runtime.open(path, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Note("needle-in-the-file"))
        await runtime.actor(Account, "bob").ask(Deposit(1))
    data = (path / "data.mdb").read_bytes()
    assert b"needle-in-the-file" in data
    (path / "data.mdb").write_bytes(data.replace(b"needle-in-the-file", b"noodle-in-the-file"))
    async with Runtime.open(path, aggregates=[Account]) as runtime:
        with pytest.raises(CorruptRecord, match=r"position 1 .* checksum"):
            await runtime.actor(Account, "ann").ask(Deposit(1))
        await works(runtime, "bob")


async def test_a_look_up_that_fails_is_told_at_once_and_fails_no_neighbour() -> None:
    class Unreadable(MemoryLog):
        def idempotency(self, stream: str, keys: Sequence[str], *, now_ns: int) -> dict[str, IdempotencyEntry]:
            raise CorruptRecord(self.path, 7, "a key")

    async with Runtime.open(Unreadable(), aggregates=[Account]) as runtime, trio.open_nursery() as nursery:
        ann = runtime.actor(Account, "ann")
        nursery.start_soon(ann.ask, Deposit(1))  # the aggregate is loaded meanwhile, so all three are one turn
        nursery.start_soon(ann.ask, Deposit(1))
        await trio.lowlevel.checkpoint()
        with trio.fail_after(60), pytest.raises(CorruptRecord):
            await ann.ask_many([Deposit(1)], idempotency_keys=["a"])
        await works(runtime)
