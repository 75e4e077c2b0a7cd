"""Snapshots: taken as the class says, proved in the background, and never loaded when their events say otherwise."""

import itertools
import logging
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import attrs
import msgspec
import pytest
import trio
import trio.testing
from bank_domain import Account, Deposit, Deposited, Withdraw
from cancelled_at_step import cancelled_at_step
from msgspec import structs
from waiting import until

from eventsrc import (
    Aggregate,
    DefinitionError,
    EventLog,
    Limits,
    MemoryLog,
    Rejected,
    Runtime,
    Snapshots,
    StoreFull,
    applies,
    command,
    event,
    handles,
)
from eventsrc.runtime.maintenance import snapshot_prover
from eventsrc.runtime.maintenance.snapshot_prover import SnapshotProver
from eventsrc.runtime.testing import WallClock
from eventsrc.storage.environment.environment import Environment
from eventsrc.storage.indexes import postings
from eventsrc.storage.snapshot import Snapshot
from eventsrc.storage.store import EventStore


@command
class Add:
    text: str


@event("list.added")
class Added:
    text: str


class Collection(Aggregate, category="list", snapshots=Snapshots.every(events=3)):
    items: set[str] = attrs.field(factory=set)
    by_length: dict[str, int] = attrs.field(factory=dict)

    @handles
    def add(self, command: Add) -> Added:
        return Added(command.text)

    @applies
    def added(self, event: Added) -> None:
        self.items.add(event.text)
        self.by_length[str(len(event.text))] = self.by_length.get(str(len(event.text)), 0) + 1


def policy(snapshots: Snapshots) -> type[Collection]:
    class Other(Collection, category="list", snapshots=snapshots):
        pass

    return Other


async def versions(aggregate_class: type[Collection], store: EventStore, count: int, clock: WallClock) -> list[int]:
    """The versions at which snapshots are taken of one that is changed once a minute."""
    async with Runtime.open(store, aggregates=[aggregate_class], wall_clock=clock) as runtime:
        ref = runtime.actor(aggregate_class, "1")
        for number in range(count):
            clock.advance(60)
            await ref.ask(Add(f"text {number:05}"))
        return sorted(snapshot.version for snapshot in store.snapshots("list-1"))


@pytest.mark.parametrize(
    ("snapshots", "expected"),
    [
        (Snapshots.every(events=4), [4, 8, 12]),
        (Snapshots.every(seconds=300), [6, 11]),
        (Snapshots.every(size_bytes=50), [3, 6, 9, 12]),
        (Snapshots.every(events=5, seconds=240), [5, 9, 10]),
        (Snapshots.when(lambda state: len(state.items) % 6 == 0), [6, 12]),
        (Snapshots.never(), []),
    ],
)
async def test_a_class_says_when(snapshots: Snapshots, expected: list[int]) -> None:
    assert await versions(policy(snapshots), MemoryLog(), 12, WallClock()) == expected


async def test_time_and_size_count_over_restarts() -> None:
    store, clock = MemoryLog(), WallClock()
    by_time = policy(Snapshots.every(seconds=300))
    assert await versions(by_time, store, 3, clock) == []
    assert await versions(by_time, store.reopen(), 3, clock) == [6]
    store, by_size = MemoryLog(), policy(Snapshots.every(size_bytes=50))
    assert await versions(by_size, store, 2, clock) == []
    assert await versions(by_size, store.reopen(), 2, clock) == [3]


async def test_a_child_takes_over_the_policy_of_its_parent() -> None:
    class Child(Collection, category="list"):
        pass

    assert await versions(Child, MemoryLog(), 6, WallClock()) == [3, 6]


@pytest.mark.parametrize(
    "bounds",
    [{}, {"events": 0}, {"seconds": -1.0}, {"events": 5, "size_bytes": 0}, {"seconds": float("nan")}, {"events": "5"}],
)
def test_a_policy_needs_bounds(bounds: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match="positive"):
        Snapshots.every(**bounds)


def test_what_is_no_policy_is_said_where_the_class_is_defined() -> None:
    wrong: Any = "daily"
    with pytest.raises(DefinitionError, match=r"needs a plain function of the state, .* 'daily' is none"):
        Snapshots.when(wrong)
    with pytest.raises(DefinitionError, match="snapshots='daily' of Other is no policy"):
        policy(wrong)


async def test_a_predicate_that_fails_is_no_commands_fault(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Collection) -> bool:
        raise ZeroDivisionError

    assert await versions(policy(Snapshots.when(fail)), MemoryLog(), 2, WallClock()) == []
    assert "predicate for snapshots failed" in caplog.text


# --- proofs

LIMITS = Limits(snapshot_every_events=10)


async def test_snapshots_are_proved_in_the_background(
    store: EventStore | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_prover, "PROOF_DELAY_SECONDS", 0.01)
    async with Runtime.open(store, aggregates=[Account, Collection], limits=LIMITS) as runtime:
        for _ in range(30):
            await runtime.actor(Account, "ann").ask(Deposit(1))
        for number in range(7):
            await runtime.actor(Collection, "1").ask(Add(f"{number}"))
        await until(lambda: runtime.maintenance.proofs.proved == 5)
        kept = [*runtime.maintenance.snapshots(Account, "ann"), *runtime.maintenance.snapshots(Collection, "1")]
        assert kept
        assert all(snapshot.is_proved for snapshot in kept)
        assert await runtime.maintenance.quarantined() == []
        assert all(snapshot.is_proved for snapshot in await runtime.maintenance.prove(Account, "ann"))
        assert runtime.maintenance.proofs.proved == 5, "what was known is not counted again"


async def test_the_rate_of_proofs_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    limits = Limits(snapshot_every_events=100, proof_events_per_second=100)
    async with Runtime.open(MemoryLog(), aggregates=[Account], limits=limits) as runtime:
        begun = trio.current_time()
        for _ in range(10):
            await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 100)
        await until(lambda: runtime.maintenance.proofs.proved == 10)
        assert 10 <= trio.current_time() - begun <= 13, "a thousand events, at a hundred a second"


def forge(path: Path, stream: str, **changes: object) -> Snapshot:
    """Change the newest snapshot of a stream behind the back of the runtime."""
    with closing(EventLog(path)) as log:
        newest = (log.snapshots(stream) or log.snapshots(stream, quarantined=True))[0]
        forged = structs.replace(newest, **{"is_proved": False, **changes})
        log.append([], [forged])
        return forged


async def test_a_snapshot_that_is_not_what_its_events_give_is_quarantined(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
    forge(tmp_path, "account-ann", state={"balance": 1_000_000, "notes": 0})
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.prove(Account, "ann")
        quarantined = await runtime.maintenance.quarantined()
        assert [(each.version, each.quarantined) for each in quarantined] == [
            (20, "its events give another state: balance differ")
        ]
        assert "snapshot quarantined" in caplog.text
        assert runtime.maintenance.proofs.quarantined == 1
        # The older one and the events since are used.
        assert (await runtime.actor(Account, "ann").state()).balance == 20


async def test_a_quarantine_that_could_not_be_stored_is_told_as_such(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
    forge(tmp_path, "account-ann", state={"balance": 1_000_000, "notes": 0})

    def refuse(self: Environment, work: Any) -> None:
        raise StoreFull(self.path, "no space left on device")

    with monkeypatch.context() as full:
        full.setattr(Environment, "write", refuse)
        async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
            with pytest.raises(StoreFull):
                await runtime.maintenance.prove(Account, "ann")
            assert "snapshots not stored: 1" in caplog.text
            assert "snapshot quarantined" not in caplog.text
            assert runtime.maintenance.proofs.quarantined == 0
            full.undo()
            await runtime.maintenance.prove(Account, "ann")
            assert runtime.maintenance.proofs.quarantined == 1


async def test_a_forged_snapshot_that_says_it_was_proved_is_quarantined(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
    forge(tmp_path, "account-ann", state={"balance": 1_000_000, "notes": 0}, is_proved=True)
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        await until(lambda: runtime.maintenance.proofs.quarantined == 1)
        assert (await runtime.actor(Account, "ann").state()).balance == 10


async def test_a_state_that_is_not_the_one_that_its_hash_is_of_is_quarantined(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
    with closing(EventLog(tmp_path)) as log:
        forged = structs.replace(log.snapshots("account-ann")[0], state={"balance": 999, "notes": 0})
        value = msgspec.msgpack.encode(forged)
        table, key = log.environment.table("snapshots"), postings.key_of("account-ann", 10)
        log.environment.write(lambda transaction: transaction.put(key, sha256(value).digest() + value, db=table))
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        (found,) = await runtime.maintenance.prove(Account, "ann")
        assert found.quarantined == "its state is not the one that its hash is of"


async def test_a_proof_does_not_outlive_the_appliers_that_it_was_made_by(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
        await runtime.maintenance.prove(Account, "ann")

    class Doubling(Account, category="account"):
        @applies
        def deposited(self, event: Deposited) -> None:
            self.balance += 2 * event.amount

    async with Runtime.open(tmp_path, aggregates=[Doubling], limits=LIMITS) as runtime:
        await until(lambda: runtime.maintenance.proofs.quarantined == 1)
        assert (await runtime.actor(Doubling, "ann").state()).balance == 20


async def test_an_aggregate_in_memory_lets_go_of_a_state_that_came_from_a_wrong_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
    forge(tmp_path, "account-ann", state={"balance": 1_000_000, "notes": 0})
    monkeypatch.setattr(SnapshotProver, "_scan", AsyncMock())  # not before the aggregate was loaded
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        ann = runtime.actor(Account, "ann")
        assert (await ann.state()).balance == 1_000_000
        await runtime.maintenance.prove(Account, "ann")
        assert (await ann.state()).balance == 10
        with pytest.raises(Rejected):
            await ann.ask(Withdraw(900))


async def test_it_does_so_whenever_whoever_had_that_proved_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
    monkeypatch.setattr(SnapshotProver, "_scan", AsyncMock())
    for step in itertools.count():
        forge(tmp_path, "account-ann", state={"balance": 1_000_000, "notes": 0}, quarantined="")
        async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
            ann = runtime.actor(Account, "ann")
            assert (await ann.state()).balance == 1_000_000
            prove = partial(runtime.maintenance.prove, Account, "ann")
            attempt = await cancelled_at_step(step, prove, moment="after")
            await runtime.actor(Account, "bob").ask(Deposit(1))  # behind what the journal was told
            is_in_use = bool(runtime.maintenance.snapshots(Account, "ann"))
            assert (await ann.state()).balance == (1_000_000 if is_in_use else 10)
        if attempt.is_over:
            assert step > 1
            break


async def test_a_snapshot_is_reported_as_quarantined_once_nothing_uses_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
    forge(tmp_path, "account-ann", state={"balance": 1_000_000, "notes": 0})
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        ann = runtime.actor(Account, "ann")
        assert (await ann.state()).balance in (10, 1_000_000)
        with trio.fail_after(10):
            while "snapshot quarantined" not in caplog.text:
                assert runtime.maintenance.proofs.quarantined == 0
                await trio.lowlevel.checkpoint()
        assert runtime.maintenance.proofs.quarantined == 1
        assert runtime.maintenance.snapshots(Account, "ann") == []
        assert (await ann.state()).balance == 10


async def test_a_snapshot_of_another_event_is_quarantined(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
    forge(tmp_path, "account-ann", event_hash=bytes(32))
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        (found,) = await runtime.maintenance.prove(Account, "ann")
        assert found.quarantined == "it was made from another event at this version"


async def test_a_snapshot_of_a_class_that_changed_shape_is_neither_used_nor_judged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
    forge(tmp_path, "account-ann", schema="of old", state={"balance": "ten"})
    caplog.set_level(logging.INFO, "eventsrc.recovery")
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        assert await runtime.maintenance.prove(Account, "ann") == []
        assert (await runtime.actor(Account, "ann").state()).balance == 10
    assert "snapshot of another shape of the class passed over" in caplog.text


async def test_equal_states_that_are_stored_differently_are_equal(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Collection]) as runtime:
        for text in ("a", "bb", "ccc"):
            await runtime.actor(Collection, "1").ask(Add(text))
    turned = {"items": ["ccc", "a", "bb"], "by_length": {"3": 1, "2": 1, "1": 1}}
    forge(tmp_path, "list-1", state=turned)
    async with Runtime.open(tmp_path, aggregates=[Collection]) as runtime:
        (found,) = await runtime.maintenance.prove(Collection, "1")
        assert found.is_proved


async def test_events_that_cannot_be_replayed_prove_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
    forge(tmp_path, "account-ann", state={"balance": 10, "notes": 0})

    class Forgetful(Aggregate, category="account"):
        balance: int = 0
        notes: int = 0

    caplog.set_level(logging.WARNING)
    async with Runtime.open(tmp_path, aggregates=[Forgetful], limits=LIMITS) as runtime:
        await until(lambda: runtime.maintenance.proofs.impossible == 1)
        assert await runtime.maintenance.quarantined() == []
    assert "cannot be proved" in caplog.text
