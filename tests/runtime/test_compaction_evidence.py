"""Compaction and its way back change no evidence: checkpoints hold, events are proved, a verification finds nothing."""

import threading
from contextlib import closing
from pathlib import Path

import attrs
import pytest
import trio
from bank_domain import Account, Deposit
from compaction_cases import LIMITS, fill

from eventsrc import Runtime
from eventsrc.storage import log as log_module
from eventsrc.storage.archive.archive import pack_segment
from eventsrc.storage.archive.compaction import reserve_segments
from eventsrc.storage.evidence.proof import prove, root_at
from eventsrc.storage.evidence.signed_checkpoint import SignedCheckpoint, make_checkpoint, new_signing_key
from eventsrc.storage.log import EventLog
from eventsrc.storage.reader import LogReader
from eventsrc.storage.record import GENESIS_HASH
from eventsrc.storage.verification.finding import Finding
from eventsrc.storage.verification.verify import verify


def checkpoint_of(path: Path, key: Path) -> SignedCheckpoint:
    with closing(LogReader.open(path)) as log:
        return make_checkpoint(log, new_signing_key(key), time_ns=1)


def found(path: Path, *statements: SignedCheckpoint) -> list[Finding]:
    with closing(LogReader.open(path)) as log:
        return list(verify(log, statements=statements))


async def test_checkpoints_hold_and_events_are_proved_after_each_step(path: Path, tmp_path: Path) -> None:
    first = checkpoint_of(path, tmp_path / "first.pem")
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
        await runtime.actor(Account, "ann").ask(Deposit(3))
    assert found(path, first) == []
    second = checkpoint_of(path, tmp_path / "second.pem")
    with closing(LogReader.open(path)) as log:
        for position in (1, 2, first.size // 2, first.size, second.size):
            proof = prove(log, position, size=second.size)
            assert (proof.root, proof.record) == (second.root, log.encoded(position))
        assert root_at(log, first.size) == first.root
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.uncompact(Account, "ann")
    assert found(path, first, second) == []


async def test_a_store_is_verified_while_events_are_moved_and_put_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Indexes are flushed and idempotency keys expire meanwhile, too."""
    monkeypatch.setattr(log_module, "TAIL_WEIGHT_MAX", 10)
    limits = attrs.evolve(LIMITS, idempotency_window_seconds=0.01)
    problems: list[Finding] = []
    rounds = 0
    is_over = threading.Event()

    async with Runtime.open(path, aggregates=[Account], limits=limits) as runtime:
        log = runtime._store
        assert isinstance(log, EventLog)

        def look(log: EventLog) -> None:
            nonlocal rounds
            while not is_over.is_set():
                problems.extend(verify(log))
                rounds += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, look, log)
            try:
                for number in range(4):
                    await runtime.maintenance.compact(Account, "ann")
                    for each in range(10):
                        await runtime.actor(Account, "bob").ask(Deposit(1), idempotency_key=f"key-{number}-{each}")
                    await runtime.maintenance.uncompact(Account, "ann")
                    await fill(runtime, 3)
                while not rounds:
                    await trio.sleep(0.001)
            finally:
                is_over.set()
    assert problems == []


async def test_a_copy_lacks_the_segments_that_were_begun_since(path: Path, tmp_path: Path) -> None:
    """The log is copied before the archive, which compaction may add to in between."""
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    copy = tmp_path / "copy"
    copy.mkdir()
    with closing(EventLog(path)) as log:
        log.environment.copy(copy)
        (number,) = reserve_segments(log, 1)
        log.archive.add(number, pack_segment("account-bob", 1, GENESIS_HASH, log.encoded_stream("account-bob", 1, 5)))
        log.archive.copy(copy)
    assert found(copy) == []
    assert found(path) == [], "in the store itself it is one that is to be dropped"
