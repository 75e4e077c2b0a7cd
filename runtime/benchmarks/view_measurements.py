"""Measurements of the query side: how fast views catch up, how far they lag, and the cost of waiting for them."""

import importlib.util
import math
import statistics
import struct
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import attrs
import lmdb
import msgspec
import trio

from ...actors.projections.projection import EventMeta, Projection, Table, on
from ...actors.projections.projector import WAITING_EVENTS_MAX, WAITING_ROWS_MAX
from ...actors.serialization.event_codecs import EventCodecs
from ...actors.serialization.serializer import Serializer
from ...storage.log import EventLog
from ...storage.record import StoredEvent
from ...storage.store import EventReader
from ..runtime import Runtime
from . import measurements
from .measurements import LIMITS, Account, Deposit, Deposited

READ_BATCH_EVENTS: Final = 1_000
READS: Final = 5
"""How often each way of reading is measured: other programs use the machine."""
LAG_SAMPLE_SECONDS: Final = 0.001
STEADY_SECONDS: Final = 2.0
STEADY_CLIENTS: Final = 20
NEVER: Final = 600.0


@attrs.frozen
class Balance:
    """A row with one index."""

    account: str
    amount: int


class Balances(Projection, name="bench_balances"):
    """The least that a view with one index can do."""

    rows = Table(Balance, key="account", indexes=["amount"])

    @on(Deposited)
    def deposited(self, event: Deposited, meta: EventMeta) -> None:
        row = self.rows.get(meta.aggregate_id) or Balance(meta.aggregate_id, 0)
        self.rows.put(Balance(row.account, row.amount + event.amount))


class ReadRates(msgspec.Struct, frozen=True):
    """Events a second of one log, read in three ways in turns; the best of `READS` counts."""

    decoded: float
    """Read in batches and decoded to their classes, without further work."""
    bare: float
    """From a bare LMDB with one record for each event, decoded by msgspec alone."""
    replayed: float
    """A full replay, as fast as possible, with each event decoded to its class."""


async def read_rates(folder: Path, store: Path) -> ReadRates:
    """Measure the three ways of reading."""
    environment = lmdb.open(str(folder / "bare"), map_size=measurements.MAP_SIZE_BYTES, max_dbs=1)
    table = environment.open_db(b"log")
    decode = EventCodecs([Deposited], Serializer()).decode
    best_seconds = [math.inf] * 3
    async with Runtime.open(store, aggregates=[Account], limits=LIMITS) as runtime:
        _copy_records(runtime._store, environment, table)
        for _ in range(READS):
            started = time.perf_counter()
            for batch in _batches(runtime._store):
                for stored in batch:
                    decode(stored)
            read = time.perf_counter()
            _scan(environment, table)
            scanned = time.perf_counter()
            await runtime.replay("full", into=runtime.decode).run()
            seconds = (read - started, scanned - read, time.perf_counter() - scanned)
            best_seconds = list(map(min, best_seconds, seconds))
        count = runtime.last_position
    environment.close()
    return ReadRates(*(count / seconds for seconds in best_seconds))


def _batches(store: EventReader) -> Iterator[list[StoredEvent]]:
    position = 0
    while batch := store.read(after=position, limit=READ_BATCH_EVENTS):
        yield batch
        position = batch[-1].position


def _copy_records(store: EventReader, environment: lmdb.Environment, table: Any) -> None:
    """Store one record under each position."""
    key = struct.Struct(">Q")
    with environment.begin(write=True) as transaction, transaction.cursor(table) as cursor:
        for batch in _batches(store):
            records = [(key.pack(stored.position), msgspec.msgpack.encode(stored)) for stored in batch]
            cursor.putmulti(records, append=True)


def _scan(environment: lmdb.Environment, table: Any) -> None:
    decode = msgspec.msgpack.Decoder(StoredEvent).decode
    with environment.begin() as transaction, transaction.cursor(table) as cursor:
        for value in cursor.iternext(keys=False):
            decode(value)


def bare_view(folder: Path, store: Path) -> float:
    """The limit: events a second of a loop around LMDB that keeps the same rows and index, in as few transactions."""
    log = EventLog(store, limits=LIMITS)
    try:
        events = log.read(limit=log.last_position)
        accounts = [event.aggregate_id.encode() for event in events]
    finally:
        log.close()
    environment = lmdb.open(str(folder / "bare-view"), map_size=measurements.MAP_SIZE_BYTES, max_dbs=2, sync=False)
    rows, index = environment.open_db(b"rows"), environment.open_db(b"amount")
    number = struct.Struct(">Q")
    amounts: dict[bytes, int] = {}
    left = iter(accounts)
    started = time.perf_counter()
    while changed := _changes_of(left, amounts):
        with environment.begin(write=True) as transaction, transaction.cursor(index) as cursor:
            for account in changed.keys() & amounts.keys():
                cursor.set_key(number.pack(amounts[account]) + account)
                cursor.delete()
            cursor.putmulti(sorted((number.pack(amount) + account, account) for account, amount in changed.items()))
            with transaction.cursor(rows) as row_cursor:
                row_cursor.putmulti(sorted((account, number.pack(amount)) for account, amount in changed.items()))
        amounts |= changed
    seconds = time.perf_counter() - started
    environment.close()
    return len(accounts) / seconds


def _changes_of(accounts: Iterator[bytes], amounts: Mapping[bytes, int]) -> dict[bytes, int]:
    """The new amounts that one transaction stores."""
    changed: dict[bytes, int] = {}
    for account in islice(accounts, WAITING_EVENTS_MAX):
        changed[account] = changed.get(account, amounts.get(account, 0)) + 1
        if len(changed) > WAITING_ROWS_MAX:
            break
    return changed


async def sqlite_catch_up(folder: Path, store: Path) -> float | None:
    """`catch_up` for a view on SQLite; None where SQLAlchemy is not installed."""
    if importlib.util.find_spec("sqlalchemy") is None:
        return None
    from ...actors.views.sql import SqlViews  # noqa: PLC0415 (an extra)

    views = SqlViews(f"sqlite:///{folder / 'views.sqlite'}")
    try:
        return await catch_up(store, views)
    finally:
        views.close()


async def catch_up(store: Path, views: Any = None) -> float:
    """Events a second at which a new view catches up with the log."""
    options: dict[str, Any] = {} if views is None else {"views": {Balances: views}}
    started = time.perf_counter()
    async with Runtime.open(store, aggregates=[Account], projections=[Balances], limits=LIMITS, **options) as runtime:
        position = runtime.last_position
        await runtime.view(Balances).all().fresh(at_least=position, timeout=NEVER).first()
        return position / (time.perf_counter() - started)


class Steady(msgspec.Struct, frozen=True):
    """Under a steady load: commands a second, and the lag of the view in seconds at the 99th percentile."""

    per_second: float
    lag_seconds: float


async def steady_lag(store: Path, *, per_second: float) -> Steady:
    """Send commands at a steady rate, and sample the view's lag."""
    lags: list[float] = []
    done = 0
    async with Runtime.open(store, aggregates=[Account], projections=[Balances], limits=LIMITS) as runtime:
        begin = trio.current_time() + 0.1
        end = begin + STEADY_SECONDS

        async def client(number: int) -> None:
            nonlocal done
            account = runtime.actor(Account, f"steady-{number}")
            due = begin + number / per_second
            while due < end:
                await trio.sleep_until(due)
                await account.ask(Deposit(1))
                done += 1
                due += STEADY_CLIENTS / per_second

        async def look() -> None:
            while trio.current_time() < end:
                await trio.sleep(LAG_SAMPLE_SECONDS)
                lags.append(runtime.lag()["bench_balances"].seconds)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            for number in range(STEADY_CLIENTS):
                nursery.start_soon(client, number)
    return Steady(done / STEADY_SECONDS, statistics.quantiles(lags, n=100)[98])


async def waiting_cost(store: Path, *, commands: int) -> tuple[float, float]:
    """Seconds of one command at a time: (alone, with `wait_for`), with the view running in both."""
    async with Runtime.open(store, aggregates=[Account], projections=[Balances], limits=LIMITS) as runtime:
        account = runtime.actor(Account, "waiting")
        await account.ask(Deposit(1), wait_for=[Balances])
        seconds = []
        for wait_for in ((), (Balances,)):
            started = time.perf_counter()
            for _ in range(commands):
                await account.ask(Deposit(1), wait_for=wait_for)
            seconds.append((time.perf_counter() - started) / commands)
        return seconds[0], seconds[1]


async def commands_with_projections(store: Path, *, projections: int, commands: int, clients: int = 100) -> float:
    """Commands a second while this many projections follow the log."""
    classes = [type(f"Number{number}", (Balances,), {}) for number in range(projections)]
    async with Runtime.open(store, aggregates=[Account], projections=classes, limits=LIMITS) as runtime:

        async def client(number: int) -> None:
            account = runtime.actor(Account, f"many-{number}")
            for _ in range(commands // clients):
                await account.ask(Deposit(1))

        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(clients):
                nursery.start_soon(client, number)
        return commands / (time.perf_counter() - started)


def fill(store: Path, *, events: int) -> None:
    """Fill a log to catch up with."""
    measurements.fill(store, events=events)
