"""Measurements of history: the cost of hashing, verification, backups, and compaction under load."""

import os
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from unittest import mock

import msgspec
import trio

from ...storage import draft
from ...storage.copies.backup import backup
from ...storage.evidence.merkle import Nodes, Tree
from ...storage.reader import LogReader
from ...storage.record import GENESIS_HASH
from ...storage.verification.verify import verify
from ..runtime import Runtime
from .measurements import LIMITS, Account, Deposit, concurrent_asks

HASHING_ROUNDS: Final = 5
COPIES: Final = 7
"""How often each kind is copied: the first copies of a file are slower, and other programs use the disk."""
HASHING_CLIENTS: Final = 100
LATENCY_CLIENTS: Final = 20
LATENCY_REST_SECONDS: Final = 0.01
"""The average rest of a client between two commands: the load is steady, not the most that a store can take."""
USUAL_SECONDS: Final = 1.5
"""Measured before the compaction, and again after it: the machine's speed changes meanwhile."""
NAMES: Final = ("ordering", "billing", "shipping", "support")


async def hashing(folder: Path, *, commands: int) -> tuple[float, float]:
    """Commands a second (without hash chains and Merkle tree, with both), taken in turns; the best of each."""
    bare = whole = 0.0
    for number in range(HASHING_ROUNDS):
        with _without_hashes():
            measured = await concurrent_asks(folder / f"bare-{number}", clients=HASHING_CLIENTS, commands=commands)
            bare = max(bare, measured.per_second)
        measured = await concurrent_asks(folder / f"hashed-{number}", clients=HASHING_CLIENTS, commands=commands)
        whole = max(whole, measured.per_second)
    return bare, whole


@contextmanager
def _without_hashes() -> Iterator[None]:
    """Store records with zeros for hashes, and no tree over them."""

    def seal(_: bytes, encoded: bytes) -> tuple[bytes, bytes]:
        return encoded, GENESIS_HASH

    def extended(tree: Tree, leaves: list[bytes]) -> tuple[Tree, Nodes]:
        return Tree(tree.size + len(leaves)), []

    with mock.patch.object(draft, "seal", seal), mock.patch.object(Tree, "extended", extended):
        yield


def verification(store: Path) -> float:
    """Events a second of `eventsrc verify`."""
    with closing(LogReader.open(store)) as reader:
        started = time.perf_counter()
        verifying = verify(reader)
        findings = list(verifying)
        seconds = time.perf_counter() - started
    assert not findings, findings[0]
    return verifying.summary.events / seconds


def copies(store: Path, folder: Path) -> tuple[float, float, float]:
    """Bytes a second of (`cp`, the copy that `backup` makes, `backup` with its verification), each synced.

    The two copies take turns, and their medians count; the verified backup is made once.
    """
    size_bytes = (store / "data.mdb").stat().st_size
    plain: list[float] = []
    copied: list[float] = []
    with closing(LogReader.open(store)) as reader:
        for _ in range(COPIES):
            plain.append(_copy_seconds(folder, lambda to: shutil.copyfile(store / "data.mdb", to / "data.mdb")))
            copied.append(_copy_seconds(folder, reader.environment.copy))
        whole = _copy_seconds(folder, lambda to: backup(reader, to))
    return size_bytes / statistics.median(plain), size_bytes / statistics.median(copied), size_bytes / whole


def _copy_seconds(folder: Path, copy: Callable[[Path], object]) -> float:
    to = folder / "copy"
    to.mkdir(parents=True)
    started = time.perf_counter()
    copy(to)
    descriptor = os.open(to / "data.mdb", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    seconds = time.perf_counter() - started
    shutil.rmtree(to)
    return seconds


class CompactionCost(msgspec.Struct, frozen=True):
    """What compacting one long stream costs the other clients, and the size of its archive."""

    usual_p99_seconds: float
    during_p99_seconds: float
    events_per_second: float
    archived_share: float
    """Bytes in the archive for each byte that the events took in the log."""


async def compaction(store: Path, *, events: int) -> CompactionCost:
    """Compact a stream of this many events while clients send commands to other streams at a steady rate."""
    async with Runtime.open(store, aggregates=[Account], limits=LIMITS) as runtime:
        long = runtime.actor(Account, "long")
        for number in range(0, events, 1_000):
            # Metadata such as a platform stores with each event; the ids are the runtime's own.
            metadata = {"principal": f"agent-{number % 7}", "service": NAMES[number // 1_000 % len(NAMES)]}
            await long.ask_many([Deposit(number + each) for each in range(1_000)], metadata=metadata)
        usual: list[float] = []
        await _usual_load(runtime, usual)
        during: list[float] = []
        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_load, runtime, during)
            done = await runtime.maintenance.compact(Account, "long")
            seconds = time.perf_counter() - started
            nursery.cancel_scope.cancel()
        await _usual_load(runtime, usual)
        compacted = runtime.maintenance.compacted(Account, "long")
        assert compacted is not None, "it was compacted just now"
        share = compacted.archived_size_bytes / compacted.size_bytes
        return CompactionCost(_p99(usual), _p99(during), done.events / seconds, share)


async def _usual_load(runtime: Runtime, latencies: list[float]) -> None:
    with trio.move_on_after(USUAL_SECONDS):
        await _load(runtime, latencies)


async def _load(runtime: Runtime, latencies: list[float]) -> None:
    async def client(number: int) -> None:
        ref = runtime.actor(Account, f"client-{number}")
        while True:
            await trio.sleep(random.uniform(0, 2 * LATENCY_REST_SECONDS))
            started = time.perf_counter()
            await ref.ask(Deposit(1))
            latencies.append(time.perf_counter() - started)

    async with trio.open_nursery() as nursery:
        for number in range(LATENCY_CLIENTS):
            nursery.start_soon(client, number)


def _p99(samples: list[float]) -> float:
    return statistics.quantiles(samples, n=100)[98]
