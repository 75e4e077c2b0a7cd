"""Transactions: several aggregates decide in their own actors, and all of it is stored or nothing."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing
from bank_domain import Account, Break, Deposit, Deposited, Note, Poison, Slow, Touch, Wait, Withdraw, Withdrawn
from bank_views import Balance, Balances

from eventsrc import (
    Aggregate,
    ApplierFailed,
    ArgumentInvalid,
    CommitTooLarge,
    ConditionNotMet,
    EventQuery,
    HandlerFailed,
    Limits,
    MemoryLog,
    Rejected,
    Runtime,
    StoreFull,
    TransactionKeyReused,
    TransactionTimeout,
    TransactionTooLarge,
    UnknownAggregate,
    UnknownCommand,
    VersionConflict,
)
from eventsrc.runtime.testing import FaultyLog
from eventsrc.storage.environment.environment import Environment
from eventsrc.storage.store import EventStore
from eventsrc.storage.verification.verify import verify


def transfer(source: str, target: str, amount: int) -> list[tuple[type[Account], str, object]]:
    return [(Account, source, Withdraw(amount)), (Account, target, Deposit(amount))]


async def balances(runtime: Runtime, *names: str) -> list[int]:
    return [(await runtime.actor(Account, name).state()).balance for name in names]


async def test_all_events_are_one_commit_and_each_gets_its_receipt(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "bob").ask(Deposit(10))
        paid, got = await runtime.transact(transfer("bob", "ann", 4), metadata={"why": "rent"})
        assert (paid.stream, paid.version, paid.events) == ("account-bob", 2, (Withdrawn(4),))
        assert (got.stream, got.version, got.events) == ("account-ann", 1, (Deposited(4),))
        assert {paid.position, got.position} == {2, 3}
        assert await balances(runtime, "ann", "bob") == [4, 6]
        stored = [event async for event in runtime.events(after=1)]
        assert len({event.time_ns for event in stored}) == len({event.correlation_id for event in stored}) == 1
        assert [event.metadata for event in stored] == [{"why": "rent"}] * 2
        assert await runtime.transact([]) == []
    if isinstance(store, Path):
        async with Runtime.open(store, aggregates=[Account]) as runtime:
            assert await balances(runtime, "ann", "bob") == [4, 6]


async def test_where_one_refuses_nothing_is_stored_and_all_go_on(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(3))
        for commands in (
            transfer("ann", "bob", 4),
            [*transfer("ann", "bob", 2), *transfer("ann", "bob", 2)],
            [(Account, "bob", Deposit(1)), (Account, "ann", Withdraw(4))],
        ):
            with pytest.raises(Rejected) as refused:
                await runtime.transact(commands)
            assert refused.value.__notes__ == ["Withdraw to 'account-ann', in a transaction: nothing was stored"]
        assert runtime.last_position == 1
        assert await balances(runtime, "ann", "bob") == [3, 0]
        assert (await runtime.actor(Account, "bob").ask(Deposit(1))).version == 1


async def test_an_aggregate_decides_its_commands_one_after_the_other(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        receipts = await runtime.transact(
            [(Account, "ann", Deposit(5)), (Account, "bob", Deposit(1)), (Account, "ann", Withdraw(5))]
        )
        assert [(each.stream, each.version) for each in receipts] == [
            ("account-ann", 1),
            ("account-bob", 1),
            ("account-ann", 2),
        ]
        assert [each.position for each in receipts] == [1, 3, 2]
        stored = [event.position async for event in runtime.events(stream="account-ann")]
        assert stored == [1, 2]


async def test_a_command_without_events_may_be_part_of_it(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        touched, got = await runtime.transact([(Account, "ann", Touch()), (Account, "bob", Deposit(1))])
        assert (touched.version, touched.events, got.version) == (0, (), 1)
        (only,) = await runtime.transact([(Account, "ann", Touch())])
        assert (only.version, only.position) == (0, 0)
        assert runtime.last_position == 1


async def test_commands_without_events_have_expectations_and_keys_like_others(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(5))
        quiet: list[tuple[type[Account], str, object]] = [(Account, "ann", Touch()), (Account, "bob", Touch())]
        first = await runtime.transact(quiet, unchanged=[(Account, "ann", 1)], idempotency_key="quiet")
        assert [(each.version, each.position, each.events) for each in first] == [(1, 1, ()), (0, 0, ())]
        await runtime.actor(Account, "eve").ask(Deposit(5))
        again = await runtime.transact(quiet, idempotency_key="quiet")
        assert [(each.version, each.position, each.events) for each in again] == [(1, 1, ()), (0, 0, ())]
        with pytest.raises(VersionConflict):
            await runtime.transact(quiet, unchanged=[(Account, "eve", 0)])
        mixed = await runtime.transact([(Account, "ann", Touch()), (Account, "bob", Deposit(1))], idempotency_key="m")
        assert [(each.version, each.position) for each in mixed] == [(1, 1), (1, 3)]


async def test_what_it_changes_may_be_expected_at_a_version(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(5))
        await runtime.transact(transfer("ann", "bob", 1), unchanged=[(Account, "ann", 1), (Account, "bob", 0)])
        with pytest.raises(VersionConflict, match=r"'account-ann' is at version 2, but 1 was expected"):
            await runtime.transact(transfer("ann", "bob", 1), unchanged=[(Account, "ann", 1)])
        with pytest.raises(ArgumentInvalid, match="unchanged=-1"):
            await runtime.transact(transfer("ann", "bob", 1), unchanged=[(Account, "ann", -1)])
        assert await balances(runtime, "ann", "bob") == [4, 1]


async def test_one_too_large_for_a_commit_is_never_split(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], limits=Limits(commit_events_max=3)) as runtime:
        await runtime.transact(transfer_in("ann", "ann", "bob"))
        with pytest.raises(CommitTooLarge):
            await runtime.transact(transfer_in("ann", "ann", "ann", "ann", "bob"))
        assert runtime.last_position == 3
        assert await balances(runtime, "ann", "bob") == [2, 1]


async def test_it_fails_when_what_was_only_read_has_moved(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        rate = runtime.actor(Account, "rate")
        await rate.ask(Deposit(7))
        version = await rate.version()
        assert version == 1
        await runtime.transact([(Account, "ann", Deposit(7))], unchanged=[(Account, "rate", version)])
        await rate.ask(Deposit(1))
        with pytest.raises(VersionConflict, match=r"account-rate.*"):
            await runtime.transact([(Account, "ann", Deposit(7))], unchanged=[(Account, "rate", version)])
        assert await balances(runtime, "ann") == [7]
        assert (await runtime.actor(Account, "ann").ask(Deposit(1))).version == 2


async def test_a_second_one_with_its_key_changes_nothing(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(10))
        commands = [*transfer("ann", "bob", 2), *transfer("ann", "bob", 3)]
        first = await runtime.transact(commands, idempotency_key="rent")
        again = await runtime.transact(commands, idempotency_key="rent")
        assert [receipt.duplicate for receipt in again] == [True] * 4
        assert [(each.version, each.position, each.events) for each in again] == [
            (each.version, each.position, each.events) for each in first
        ]
        assert await balances(runtime, "ann", "bob") == [5, 5]
        with pytest.raises(TransactionKeyReused, match="account-eve"):
            await runtime.transact(transfer("ann", "eve", 2), idempotency_key="rent")
    if isinstance(store, Path):
        async with Runtime.open(store, aggregates=[Account]) as runtime:
            once_more = await runtime.transact(commands, idempotency_key="rent")
            assert once_more == again


async def test_a_second_one_that_names_its_aggregates_in_another_order_changes_nothing() -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        ann, bob = (Account, "ann", Deposit(1)), (Account, "bob", Deposit(2))
        first = await runtime.transact([ann, bob, bob], idempotency_key="rent")
        again = await runtime.transact([bob, ann, bob], idempotency_key="rent")
        assert [(each.position, each.duplicate) for each in again] == [
            (first[1].position, True),
            (first[0].position, True),
            (first[2].position, True),
        ]
        assert await balances(runtime, "ann", "bob") == [1, 4]


async def test_no_key_of_a_command_is_one_that_a_transaction_has_given() -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        await runtime.transact([(Account, "ann", Deposit(1)), (Account, "ann", Deposit(2))], idempotency_key="rent")
        ann = runtime.actor(Account, "ann")
        for separator in ("&", "-", "", "\n", "\x1e"):
            assert not (await ann.ask(Deposit(1), idempotency_key=f"rent{separator}1")).duplicate
        with pytest.raises(ArgumentInvalid, match=r"U\+001F"):
            await ann.ask(Deposit(1), idempotency_key="rent\x1f1")


async def test_it_may_depend_on_no_event_matching(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        no_deposit = EventQuery(types=[Deposited])
        await runtime.transact([(Account, "ann", Note("x")), (Account, "bob", Deposit(1))], unless=no_deposit)
        with pytest.raises(ConditionNotMet):
            await runtime.transact([(Account, "ann", Note("x")), (Account, "bob", Deposit(1))], unless=no_deposit)
        assert runtime.last_position == 2
        assert await balances(runtime, "bob") == [1]


async def test_a_view_can_be_waited_for(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.transact([(Account, "ann", Deposit(1)), (Account, "bob", Deposit(2))], wait_for=[Balances])
        assert await runtime.view(Balances.rows).all().rows() == [Balance("ann", 1, 1), Balance("bob", 2, 1)]


async def test_bad_input_stores_nothing_and_leaves_everything_working(store: EventStore | Path) -> None:
    limits = Limits(transaction_aggregates_max=2, restart_backoff_seconds=0.001)
    async with Runtime.open(store, aggregates=[Account], limits=limits) as runtime:
        with pytest.raises(HandlerFailed, match="account-bob"):
            await runtime.transact([(Account, "ann", Deposit(1)), (Account, "bob", Break())])
        with pytest.raises(ApplierFailed, match="account-bob"):
            await runtime.transact([(Account, "ann", Deposit(1)), (Account, "bob", Poison())])
        with pytest.raises(UnknownCommand):
            await runtime.transact([(Account, "ann", Deposit(1)), (Account, "bob", object())])
        with pytest.raises(UnknownAggregate):
            await runtime.transact([(Other, "ann", Deposit(1))])
        with pytest.raises(TransactionTooLarge, match="transaction_aggregates_max = 2"):
            await runtime.transact([(Account, name, Deposit(1)) for name in ("ann", "bob", "eve")])
        for wrong in ((Account, "ann", Deposit(1)), [(Account, "ann")], [Deposit(1)]):
            with pytest.raises(ArgumentInvalid, match="give a list of tuples"):
                await runtime.transact(wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert runtime.last_position == 0
        await runtime.transact(transfer_in("ann", "bob"))
        assert await balances(runtime, "ann", "bob") == [1, 1]


class Other(Account, category="other"):
    pass


def transfer_in(*names: str) -> list[tuple[type[Account], str, object]]:
    return [(Account, name, Deposit(1)) for name in names]


async def test_a_commit_that_fails_changes_no_aggregate() -> None:
    log = FaultyLog()
    async with Runtime.open(log, aggregates=[Account]) as runtime:
        await runtime.transact(transfer_in("ann", "bob"))
        log.fail_next(StoreFull("store", "test"))
        with pytest.raises(StoreFull):
            await runtime.transact(transfer("ann", "bob", 1))
        assert await balances(runtime, "ann", "bob") == [1, 1]
        await runtime.transact(transfer("ann", "bob", 1))
        assert await balances(runtime, "ann", "bob") == [0, 2]


async def test_one_that_waits_too_long_takes_no_effect(autojump_clock: trio.testing.MockClock) -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Account, Slow]) as runtime, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: runtime.actor(Slow, "s").ask(Wait(), timeout=500))
        await trio.sleep(1)
        both: list[tuple[type[Aggregate], str, object]] = [(Account, "ann", Deposit(1)), (Slow, "s", Wait())]
        with pytest.raises(TransactionTimeout, match="account-ann, slow-s") as late:
            await runtime.transact(both, timeout=2)
        assert not late.value.may_take_effect
        await runtime.actor(Account, "ann").ask(Deposit(5))
        assert await balances(runtime, "ann") == [5]
        await runtime.transact(both, timeout=500)
        assert await balances(runtime, "ann") == [6]


async def test_a_caller_that_is_cancelled_leaves_all_of_it_or_nothing(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1_000))

        async def cancel(scope: trio.CancelScope, turns: int) -> None:
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            scope.cancel()

        # Turns of the scheduler, not parts of a second: before anything is sent, while it is decided, and on the disk.
        for turns in [*range(8), 20, 40, 80, 160] * 20:
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as scope:
                    nursery.start_soon(cancel, scope, turns)
                    await runtime.transact(transfer("ann", "bob", 1))
                nursery.cancel_scope.cancel()
        ann, bob = await balances(runtime, "ann", "bob")
        assert ann + bob == 1_000
        assert 0 < bob < 240, "some were cancelled"
        await runtime.transact(transfer("ann", "bob", 1))
        assert await balances(runtime, "ann", "bob") == [ann - 1, bob + 1]


async def test_its_aggregates_may_leave_memory_once_it_is_answered_or_refused(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], limits=Limits(resident_actors_max=2)) as runtime:
        for _ in range(10):
            for source, target in (("ann", "bob"), ("cleo", "dan")):
                await runtime.transact([(Account, source, Deposit(1)), (Account, target, Deposit(1))])
                with pytest.raises(Rejected):
                    await runtime.transact(transfer(target, source, 1_000))
        assert await balances(runtime, "ann", "bob", "cleo", "dan") == [10, 10, 10, 10]


async def test_crossing_transfers_never_wait_for_each_other_and_conserve_money(store: EventStore | Path) -> None:
    names = [f"a{number}" for number in range(12)]
    # Fewer actors than accounts, so that they leave memory and come back meanwhile.
    limits = Limits(resident_actors_max=10, passivate_after_seconds=0.01, snapshot_every_events=20)
    done = refused = 0

    async with Runtime.open(store, aggregates=[Account], limits=limits) as runtime:
        for name in names:
            await runtime.actor(Account, name).ask(Deposit(100))

        async def client(seed: int) -> None:
            nonlocal done, refused
            chance = random.Random(seed)
            for _ in range(1_000):
                source, target = chance.sample(names, 2)
                commands = transfer(source, target, chance.randrange(1, 60))
                if chance.random() < 0.5:
                    commands.reverse()
                try:
                    await runtime.transact(commands)
                    done += 1
                except Rejected:
                    refused += 1

        with trio.fail_after(600):  # each waits for the disk; one that waited for another would time out by itself
            async with trio.open_nursery() as nursery:
                for seed in range(4):
                    nursery.start_soon(client, seed)
        assert done + refused == 4_000
        assert done > 1_000
        assert refused > 100
        assert sum(await balances(runtime, *names)) == 1_200
        assert runtime.last_position == len(names) + 2 * done


CHILD = """
import os, random, sys, trio
sys.path.insert(0, sys.argv[2])
from bank_domain import Account, Deposit, Withdraw
from eventsrc import Limits, Rejected, Runtime

NAMES = [f"a{number}" for number in range(10)]

async def client(runtime, seed):
    chance = random.Random(seed)
    while True:
        source, target = chance.sample(NAMES, 2)
        amount = chance.randrange(1, 50)
        key = f"{seed}-{chance.random()}"
        commands = [(Account, source, Withdraw(amount)), (Account, target, Deposit(amount))]
        try:
            receipts = await runtime.transact(commands, idempotency_key=key)
        except Rejected:
            continue
        os.write(1, (" ".join(str(receipt.position) for receipt in receipts) + "\\n").encode())

async def main():
    limits = Limits(snapshot_every_events=7, resident_actors_max=9)
    async with Runtime.open(sys.argv[1], aggregates=[Account], limits=limits) as runtime:
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(client, runtime, sys.argv[3] + str(number))

trio.run(main)
"""


@pytest.mark.slow
async def test_money_is_conserved_when_the_process_is_killed(tmp_path: Path) -> None:
    names = [f"a{number}" for number in range(10)]
    async with Runtime.open(tmp_path / "store", aggregates=[Account]) as runtime:
        await runtime.transact([(Account, name, Deposit(100)) for name in names])
    chance = random.Random(2)
    answered: set[int] = set()
    for round_number in range(10 if os.environ.get("CI") else 30):
        command = [sys.executable, "-c", CHILD, str(tmp_path / "store"), str(Path(__file__).parent), f"{round_number}"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        # So many answers, not so many seconds, in which a busy machine may do next to nothing.
        read = [child.stdout.readline() for _ in range(chance.randint(1, 300))]
        child.kill()
        output = b"".join(read) + child.stdout.read()
        child.wait()
        child.stdout.close()
        answered |= {int(position) for position in output.split()}
        async with Runtime.open(tmp_path / "store", aggregates=[Account]) as runtime:
            assert sum(await balances(runtime, *names)) == 1_000
            assert max(answered) <= runtime.last_position
    assert len(answered) > 500
    environment = Environment(tmp_path / "store", read_only=True)
    assert not list(verify(environment))
    environment.close()
