"""Measurements of the raw disk, Pykka's thread actors and the runtime, with every commit synced."""

import os
import statistics
import struct
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import lmdb
import msgspec
import pykka
import trio

from ...actors.aggregates.aggregate import Aggregate, applies, handles
from ...actors.aggregates.aggregate_type import AggregateType
from ...actors.aggregates.recovery import apply_event
from ...actors.messages import command, event
from ...actors.serialization.serializer import Serializer
from ...storage.commit import Commit, NewEvent, StreamAppend
from ...storage.limits import Limits
from ...storage.log import EventLog
from ..reference import AggregateRef
from ..runtime import Runtime

MAP_SIZE_BYTES: Final = 1 << 36
FSYNC_SAMPLES: Final = 200
FILL_BATCH_EVENTS: Final = 1_000
FILL_STREAMS: Final = 10_000
OPENING_SECONDS: Final = 0.005
"""A runtime's work on opening is over by then; proving snapshots goes on at its own pace."""
NO_SNAPSHOT: Final = 1 << 60
LIMITS: Final = Limits(
    streams_max=200_000, stream_events_max=100_000_000, resident_actors_max=50_000, command_timeout_seconds=600
)


@command
class Deposit:
    """Asks for one event."""

    amount: int


@event("bench.deposited")
class Deposited:
    """The smallest event that has a payload."""

    amount: int


class Account(Aggregate, category="bench"):
    """The least that an aggregate can do, so that the measurement is of the runtime."""

    balance: int = 0

    @handles
    def deposit(self, command: Deposit) -> Deposited:
        return Deposited(command.amount)

    @applies
    def deposited(self, event: Deposited) -> None:
        self.balance += event.amount


class Throughput(msgspec.Struct, frozen=True):
    """Commands a second, and how many events the commits held on average."""

    per_second: float
    events_per_commit: float


def fsync_seconds(folder: Path) -> float:
    """The median time of an fdatasync after writing one page."""
    samples = []
    path = folder / "fsync"
    page = os.urandom(4096)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for number in range(FSYNC_SAMPLES):
            os.pwrite(descriptor, page, number * len(page))
            started = time.perf_counter()
            os.fdatasync(descriptor)
            samples.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(samples)


def raw_append(folder: Path, *, batch_events: int, commits: int, record_bytes: int) -> float:
    """Records a second that a loop around LMDB stores: appended to one table, one synced transaction for each batch."""
    environment = lmdb.open(
        str(folder / f"raw-{batch_events}-{time.monotonic_ns()}"), map_size=MAP_SIZE_BYTES, max_dbs=1
    )
    table = environment.open_db(b"log")
    record = os.urandom(record_bytes)
    key = struct.Struct(">Q")
    position = 0
    started = time.perf_counter()
    for _ in range(commits):
        items = [(key.pack(position + number), record) for number in range(batch_events)]
        with environment.begin(write=True) as transaction, transaction.cursor(table) as cursor:
            _, added = cursor.putmulti(items, append=True)
            assert added == batch_events, f"LMDB stored {added} of {batch_events} records"
        position += batch_events
    seconds = time.perf_counter() - started
    environment.close()
    return position / seconds


class _Writer(pykka.ThreadingActor):
    """The one thread that may write, built with nothing but Pykka: one transaction for each message."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder
        self._position = 0

    def on_start(self) -> None:
        self._environment = lmdb.open(self._folder, map_size=MAP_SIZE_BYTES, max_dbs=1)
        self._table = self._environment.open_db(b"log")

    def on_receive(self, message: Any) -> int:
        self._position += 1
        with self._environment.begin(write=True) as transaction:
            transaction.put(self._position.to_bytes(8, "big"), message, db=self._table, append=True)
        return self._position

    def on_stop(self) -> None:
        self._environment.close()


class _ThreadAccount(pykka.ThreadingActor):
    """An account as a Pykka thread actor, which answers when its event is on disk."""

    def __init__(self, writer: pykka.ActorRef[_Writer], record: bytes) -> None:
        super().__init__()
        self._writer = writer
        self._record = record
        self._balance = 0

    def on_receive(self, message: int) -> int:
        self._writer.ask(self._record)
        self._balance += message
        return self._balance


def pykka_threads(folder: Path, *, actors: int, commands: int, record_bytes: int) -> float:
    """Durable commands a second with Pykka's own thread actors, all of them busy at once."""
    writer = _Writer.start(str(folder / f"pykka-{time.monotonic_ns()}"))
    accounts = [_ThreadAccount.start(writer, os.urandom(record_bytes)) for _ in range(actors)]
    started = time.perf_counter()
    for _ in range(commands // actors):
        for future in [account.ask(1, block=False) for account in accounts]:
            future.get()
    seconds = time.perf_counter() - started
    for account in accounts:
        account.stop()
    writer.stop()
    return commands // actors * actors / seconds


async def concurrent_asks(store: Path, *, clients: int, commands: int, limits: Limits = LIMITS) -> Throughput:
    """Each client sends to an aggregate of its own, the next command when the last one is answered."""
    async with Runtime.open(store, aggregates=[Account], limits=limits) as runtime:
        accounts = [runtime.actor(Account, f"client-{number}") for number in range(clients)]

        async def client(account: AggregateRef[Account], count: int) -> None:
            for _ in range(count):
                await account.ask(Deposit(1))

        async def round_of(count: int) -> None:
            async with trio.open_nursery() as nursery:
                for account in accounts:
                    nursery.start_soon(client, account, count)

        await round_of(1)
        groups_before, _ = runtime.journal_counts
        position_before = runtime.last_position
        started = time.perf_counter()
        await round_of(max(commands // clients, 1))
        seconds = time.perf_counter() - started
        events = runtime.last_position - position_before
        groups, _ = runtime.journal_counts
        return Throughput(events / seconds, events / (groups - groups_before))


async def many_at_once(store: Path, *, commands: int) -> Throughput:
    """One call of `ask_many` to one aggregate."""
    async with Runtime.open(store, aggregates=[Account], limits=LIMITS) as runtime:
        account = runtime.actor(Account, "many")
        await account.ask(Deposit(1))
        groups_before, _ = runtime.journal_counts
        started = time.perf_counter()
        answers = await account.ask_many([Deposit(1)] * commands)
        seconds = time.perf_counter() - started
        failed = [answer for answer in answers if isinstance(answer, Exception)]
        assert not failed, failed[0]
        groups, _ = runtime.journal_counts
        return Throughput(commands / seconds, commands / (groups - groups_before))


async def transaction_seconds(store: Path, *, commands: int) -> tuple[float, float]:
    """Seconds of (one command, one transaction over two aggregates), one at a time, taken in turns."""
    async with Runtime.open(store, aggregates=[Account], limits=LIMITS) as runtime:
        ann, both = runtime.actor(Account, "ann"), [(Account, "ann", Deposit(1)), (Account, "bob", Deposit(1))]
        await runtime.transact(both)
        alone = together = 0.0
        for _ in range(commands):
            started = time.perf_counter()
            await ann.ask(Deposit(1))
            between = time.perf_counter()
            await runtime.transact(both)
            alone += between - started
            together += time.perf_counter() - between
        return alone / commands, together / commands


async def hydration_seconds(
    store: Path, *, sizes: Sequence[int], snapshots: bool, repeats: int = 11
) -> dict[int, float]:
    """The median time to load the state of an aggregate that is not in memory, by the number of events in its stream.

    The sizes take turns.
    """
    every = LIMITS.snapshot_every_events if snapshots else NO_SNAPSHOT
    limits = attrs.evolve(LIMITS, snapshot_every_events=every)
    names = {events: f"hydrate-{events}-{snapshots}" for events in sizes}
    async with Runtime.open(store, aggregates=[Account], limits=limits) as runtime:
        for events, name in names.items():
            await runtime.actor(Account, name).ask_many([Deposit(1)] * events)
    samples: dict[int, list[float]] = {events: [] for events in sizes}
    for _ in range(repeats):
        for events, name in names.items():
            async with Runtime.open(store, aggregates=[Account], limits=limits) as runtime:
                await trio.sleep(OPENING_SECONDS)
                started = time.perf_counter()
                state = await runtime.actor(Account, name).state()
                samples[events].append(time.perf_counter() - started)
                assert state.balance == events, f"{state.balance} of {events} events came back"
    return {events: statistics.median(seconds) for events, seconds in samples.items()}


async def past_state_seconds(store: Path, *, events: int, repeats: int = 21) -> tuple[float, float]:
    """Median seconds of (the state at a past version, the same state from the nearest snapshot and events by hand)."""
    async with Runtime.open(store, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.actor(Account, "past").ask_many([Deposit(1)] * events)
    async with Runtime.open(store, aggregates=[Account], limits=LIMITS) as runtime:
        await trio.sleep(OPENING_SECONDS)
        ann = runtime.actor(Account, "past")
        version = events - LIMITS.snapshot_every_events // 2
        aggregate_type = AggregateType(Account, Serializer())
        travels, by_hand = [], []
        for _ in range(repeats):
            started = time.perf_counter()
            state = await ann.state(at_version=version)
            travels.append(time.perf_counter() - started)
            assert state.balance == version, f"{state.balance} of {version}"
            started = time.perf_counter()
            snapshot = next(each for each in runtime._store.snapshots(ann.stream) if each.version <= version)
            base = aggregate_type.decode_state(snapshot.state, "past")
            for stored in runtime._store.read_stream(ann.stream, from_version=snapshot.version + 1, to_version=version):
                apply_event(aggregate_type, base, stored)
            by_hand.append(time.perf_counter() - started)
        return statistics.median(travels), statistics.median(by_hand)


async def resident_actor_cost(store: Path, *, actors: int) -> tuple[float, float]:
    """(bytes of memory, seconds to activate) for one idle resident aggregate without history."""
    async with Runtime.open(store, aggregates=[Account], limits=LIMITS) as runtime:
        started = time.perf_counter()
        for number in range(actors):
            await runtime.actor(Account, f"timed-{number}").state()
        seconds = (time.perf_counter() - started) / actors
    async with Runtime.open(store, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.actor(Account, "first").state()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for number in range(actors):
            await runtime.actor(Account, f"idle-{number}").state()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return (after - before) / actors, seconds


def fill(store: Path, *, events: int) -> None:
    """Bring a store to `events` events, spread over many streams."""
    log = EventLog(store, limits=LIMITS)
    try:
        payload = msgspec.Raw(msgspec.msgpack.encode({"amount": 1}))
        filler = [NewEvent("bench.deposited", payload, correlation_id="fill", causation_id="fill")]
        commit_id = log.last_commit_id
        position = log.last_position
        versions = {head.stream: head.version for head in log.streams(category="fill", limit=FILL_STREAMS)}
        while position < events:
            commits = []
            for _ in range(min(FILL_BATCH_EVENTS, events - position)):
                commit_id += 1
                position += 1
                stream = f"fill-{position * 7919 % FILL_STREAMS}"
                version = versions.get(stream, 0)
                versions[stream] = version + 1
                commits.append(Commit(commit_id, time.time_ns(), [StreamAppend(stream, version, filler)]))
            refused = [outcome for outcome in log.append(commits) if isinstance(outcome, Exception)]
            assert not refused, refused[0]
    finally:
        log.close()


def record_size_bytes(store: Path) -> int:
    """The size of one stored record of the benchmark's event, so that the raw loop writes as much."""
    log = EventLog(store, limits=LIMITS)
    try:
        newest = log.read(backwards=True, limit=1)
    finally:
        log.close()
    return len(msgspec.msgpack.encode(newest[0]))
