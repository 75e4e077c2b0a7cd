"""`eventsrc bench`: measures on the user's own disk, with every commit synced, and compares within the same run."""

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import lmdb
import trio

from ..commands.output import bare_table, installed_version, make_console
from ..errors import PlaceUnusable
from . import embedding_measurements as embedding
from . import history_measurements as history
from . import measurements
from . import privacy_measurements as privacy
from . import saga_measurements as sagas
from . import view_measurements as views

T = TypeVar("T")


@attrs.define
class Row:
    """One figure. `ratio` is `value` to that of the row named `ratio_to`; `goal` is the condition behind `met`."""

    name: str
    value: float
    unit: str
    ratio: float | None = None
    ratio_to: str | None = None
    goal: str | None = None
    met: bool | None = None
    limited_by: str | None = None

    def as_data(self) -> dict[str, Any]:
        """The row for the JSON object, without the fields that do not apply."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)


@attrs.frozen
class Scale:
    """The sizes of the samples."""

    commands: int
    single_commands: int
    hydration_events: tuple[int, ...]
    resident_actors: int
    log_events: tuple[int, ...]
    view_events: int
    sagas: int
    waiting_sagas: int
    hashed_commands: int
    compacted_events: int


QUICK: Final = Scale(
    commands=10_000,
    single_commands=400,
    hydration_events=(100, 1_000, 20_000),
    resident_actors=2_000,
    log_events=(20_000, 100_000),
    view_events=50_000,
    sagas=1_500,
    waiting_sagas=2_000,
    hashed_commands=10_000,
    compacted_events=20_000,
)
FULL: Final = Scale(
    commands=100_000,
    single_commands=3_000,
    hydration_events=(100, 1_000, 100_000),
    resident_actors=10_000,
    log_events=(100_000, 1_000_000),
    view_events=200_000,
    sagas=20_000,
    waiting_sagas=100_000,
    hashed_commands=30_000,
    compacted_events=100_000,
)
LARGE: Final = attrs.evolve(FULL, log_events=(100_000, 1_000_000, 10_000_000))

COLLECTOR_THRESHOLDS: Final = (50_000, 20, 20)
"""The values that the README advises: with the defaults, CPython would scan all objects in flight again and again."""

CPU: Final = "one core of Python: sending, deciding, encoding, hashing and waking tasks"
VIEW: Final = "one core of Python: decoding, the projection's method, keys of rows and indexes (see bare_view)"
DISK: Final = "the disk's sync, and two hops between threads"


class Benchmark:
    """Measures row after row in `folder`, which must be on the disk to measure."""

    def __init__(self, folder: Path, scale: Scale, announce: Callable[[Row], None]) -> None:
        self._folder = folder
        self._scale = scale
        self._announce = announce
        self.rows: list[Row] = []
        self.fsync_seconds = measurements.fsync_seconds(folder)
        self._record_bytes = 0

    def run(self) -> None:
        """Measure everything."""
        self._single()
        self._pykka()
        self._concurrent()
        self._many()
        self._transactions()
        self._hydration()
        self._past()
        self._residents()
        self._sizes()
        self._views()
        self._sagas()
        self._history()
        self._privacy()
        self._embedding()

    def _single(self) -> None:
        store = self._folder / "single"
        count = self._scale.single_commands
        ours = _run(measurements.concurrent_asks, store, clients=1, commands=count)
        self._record_bytes = measurements.record_size_bytes(store)
        raw = self._raw("raw_lmdb_1", 1, commits=count)
        # Measured again after the raw loop, and the better one counts: the disk's speed changes within seconds.
        again = _run(measurements.concurrent_asks, store, clients=1, commands=count)
        microseconds, raw_microseconds = 1e6 / max(ours.per_second, again.per_second), 1e6 / raw.value
        row = Row("ask_1_client", microseconds, "us/command")
        beside = f"{microseconds - raw_microseconds:.0f} us beside the commit, however long the disk takes"
        row.limited_by = f"two hops between threads, and Python on both sides: {beside}"
        self._add(self._compare(row, raw_microseconds, raw.name, "at most 1.5 times raw", lambda ratio: ratio <= 1.5))

    def _pykka(self) -> None:
        rate = measurements.pykka_threads(
            self._folder, actors=100, commands=self._scale.single_commands, record_bytes=self._record_bytes
        )
        self._add(Row("pykka_100_thread_actors", rate, "commands/s", limited_by="a synced commit for each command"))

    def _concurrent(self) -> None:
        pykka_rate = self._value("pykka_100_thread_actors")
        for clients in (100, 1_000):
            measured = _run(
                measurements.concurrent_asks,
                self._folder / f"clients-{clients}",
                clients=clients,
                commands=self._scale.commands,
            )
            raw = self._raw(f"raw_lmdb_for_{clients}_clients", round(measured.events_per_commit))
            row = Row(f"ask_{clients}_clients", measured.per_second, "commands/s", limited_by=CPU)
            goal = ("at least 0.2 of raw", lambda ratio: ratio >= 0.2) if clients == 1_000 else None
            self._add(self._compare(row, raw.value, raw.name, *(goal or ())))
            if clients == 1_000:
                rate = Row("ask_1000_clients_rate", measured.per_second, "commands/s", limited_by=CPU)
                rate.goal = "at least 25,000/s (2 cores, 0.4 ms fsync)"
                rate.met = measured.per_second >= 25_000
                self._add(rate)
            else:
                row = Row("ask_100_clients_to_pykka", measured.per_second, "commands/s")
                self._add(self._compare(row, pykka_rate, "pykka_100_thread_actors"))

    def _many(self) -> None:
        measured = _run(measurements.many_at_once, self._folder / "many", commands=self._scale.commands)
        raw = self._raw("raw_lmdb_for_ask_many", round(measured.events_per_commit))
        row = Row("ask_many", measured.per_second, "commands/s")
        row.limited_by = "one core of Python, which is as fast on any disk; the raw loop gains by a fast one"
        self._add(self._compare(row, raw.value, raw.name, "at least 0.5 of raw", lambda ratio: ratio >= 0.5))

    def _transactions(self) -> None:
        store = self._folder / "transactions"
        alone, together = _run(measurements.transaction_seconds, store, commands=self._scale.single_commands)
        self._add(Row("ask_beside_transactions", alone * 1e6, "us/command", limited_by=DISK))
        row = Row("transact_2_aggregates", together * 1e6, "us/transaction", limited_by=DISK)
        goal = "at most 2.5 times one command"
        self._add(self._compare(row, alone * 1e6, "ask_beside_transactions", goal, lambda ratio: ratio <= 2.5))

    def _hydration(self) -> None:
        store, sizes = self._folder / "hydration", self._scale.hydration_events
        goal = "at most 1.5 times, and under 2 ms"
        for snapshots in (True, False):
            measured = _run(measurements.hydration_seconds, store, sizes=sizes, snapshots=snapshots)
            for events, seconds in measured.items():
                row = Row(f"hydrate_{events}_{'with' if snapshots else 'without'}_snapshots", seconds * 1e3, "ms")
                row.limited_by = "one core of Python: decoding the snapshot, then the events since"
                if snapshots and events == sizes[-1]:
                    base = "hydrate_1000_with_snapshots"
                    self._compare(row, measured[1_000] * 1e3, base, goal, lambda ratio: ratio <= 1.5)
                    row.met = bool(row.met) and row.value < 2.0
                self._add(row)

    def _past(self) -> None:
        events = self._scale.hydration_events[-1]
        travel, by_hand = _run(measurements.past_state_seconds, self._folder / "past", events=events)
        base = self._add(Row("snapshot_and_events", by_hand * 1e3, "ms"))
        row = Row(
            "state_at_version", travel * 1e3, "ms", limited_by="finding the version, checking the snapshot's event"
        )
        self._add(self._compare(row, base.value, base.name, "at most 1.2 times", lambda ratio: ratio <= 1.2))

    def _residents(self) -> None:
        size_bytes, seconds = _run(
            measurements.resident_actor_cost, self._folder / "residents", actors=self._scale.resident_actors
        )
        row = Row("resident_actor", size_bytes, "bytes", goal="at most 6,144 bytes", met=size_bytes <= 6_144)
        row.limited_by = "the actor's task, mailbox and state are Python objects"
        self._add(row)
        row = Row("activate_without_history", seconds * 1e6, "us", goal="under 150 us", met=seconds < 150e-6)
        row.limited_by = "one core of Python: making these, and looking for a snapshot and events"
        self._add(row)

    def _sizes(self) -> None:
        store = self._folder / "sizes"
        base = ""
        for events in self._scale.log_events:
            measurements.fill(store, events=events)
            measured = _run(measurements.concurrent_asks, store, clients=1_000, commands=self._scale.commands // 2)
            name = f"ask_at_{events}_events"
            row = Row(name, measured.per_second, "commands/s", limited_by=CPU)
            if base:
                self._compare(row, self._value(base), base, "at least 0.8", lambda ratio: ratio >= 0.8)
            base = base or name
            self._add(row)

    def _views(self) -> None:
        store = self._folder / "views"
        views.fill(store, events=self._scale.view_events)
        rates = _run(views.read_rates, self._folder, store)
        read = self._add(Row("read_decoded", rates.decoded, "events/s", limited_by="msgspec and cattrs"))
        scan = self._add(Row("bare_scan", rates.bare, "events/s", limited_by="msgspec"))
        replay = Row("replay_typed", rates.replayed, "events/s", limited_by="msgspec and cattrs")
        goal = "at least 300,000/s and 0.5 of a bare scan"
        self._add(self._compare(replay, scan.value, scan.name, goal, lambda ratio: ratio >= 0.5))
        replay.met = bool(replay.met) and replay.value >= 300_000
        bare = Row("bare_view", views.bare_view(self._folder, store), "events/s", limited_by="LMDB, two tables")
        self._add(self._compare(bare, read.value, read.name))
        caught_up = Row("view_catch_up", _run(views.catch_up, store), "events/s", limited_by=VIEW)
        goal = "at least 80,000/s and 0.25 of reading"
        self._add(self._compare(caught_up, read.value, read.name, goal, lambda ratio: ratio >= 0.25))
        caught_up.met = bool(caught_up.met) and caught_up.value >= 80_000
        rate = _run(views.sqlite_catch_up, self._folder, store)
        if rate is not None:
            sqlite = Row("view_sqlite_catch_up", rate, "events/s", goal="at least 60,000/s", met=rate >= 60_000)
            sqlite.limited_by = VIEW
            self._add(sqlite)
        steady = _run(views.steady_lag, self._folder / "steady", per_second=self._value("ask_100_clients") / 2)
        lag = Row("view_lag_p99", steady.lag_seconds * 1e3, "ms", goal="under 50 ms at half the command rate")
        lag.met = lag.value < 50
        lag.limited_by = f"the load was {steady.per_second:,.0f} commands/s"
        self._add(lag)
        alone, waiting = _run(views.waiting_cost, self._folder / "waiting", commands=self._scale.single_commands)
        self._add(Row("ask_beside_a_view", alone * 1e6, "us/command", limited_by=DISK))
        row = Row("ask_wait_for", waiting * 1e6, "us/command", limited_by="the view's commit after the command's")
        self._add(self._compare(row, alone * 1e6, "ask_beside_a_view", "at most 2 times", lambda ratio: ratio <= 2))
        beside = {
            count: _run(
                views.commands_with_projections,
                self._folder / f"projections-{count}",
                projections=count,
                commands=self._scale.commands // 4,
            )
            for count in (0, 64)
        }
        none = self._add(Row("ask_without_projections", beside[0], "commands/s", limited_by=CPU))
        row = Row("ask_with_64_projections", beside[64], "commands/s", limited_by="what followers take")
        self._add(self._compare(row, beside[0], none.name, "at least 0.5", lambda ratio: ratio >= 0.5))

    def _sagas(self) -> None:
        count = self._scale.sagas
        direct = self._add(Row("saga_directly", _run(sagas.directly, self._folder / "direct", sagas=count), "sagas/s"))
        direct.limited_by = CPU
        row = Row("saga_three_steps", _run(sagas.three_steps, self._folder / "sagas", sagas=count), "sagas/s")
        row.limited_by = "one core of Python: steps, records, and three commands for each"
        goal = "at least 0.4 of its commands and records, and 1,500/s"
        self._add(self._compare(row, direct.value, direct.name, goal, lambda ratio: ratio >= 0.4))
        row.met = bool(row.met) and row.value >= 1_500
        size_bytes, rate = _run(sagas.waiting, self._folder / "waiting-sagas", sagas=self._scale.waiting_sagas)
        row = Row("saga_waiting", size_bytes, "bytes", goal="at most 1,000 bytes", met=size_bytes <= 1_000)
        row.limited_by = "what the supervisor knows of each: Python objects"
        self._add(row)
        row = Row("saga_resume", rate, "sagas/s", goal="at least 10,000/s", met=rate >= 10_000)
        row.limited_by = "one core of Python: reading the rows of the view of sagas"
        self._add(row)

    def _history(self) -> None:
        bare, hashed = _run(history.hashing, self._folder / "hashing", commands=self._scale.hashed_commands)
        base = self._add(Row("ask_without_hashes", bare, "commands/s", limited_by=CPU))
        row = Row("ask_with_hashes", hashed, "commands/s", limited_by="SHA-256: three for each event, one core")
        self._add(self._compare(row, bare, base.name, "at least 0.85", lambda ratio: ratio >= 0.85))
        store = self._folder / "views"
        rate = history.verification(store)
        row = Row("verify", rate, "events/s", goal="at least 150,000/s", met=rate >= 150_000)
        row.limited_by = "one core of Python: hashing each record, and comparing every row of every table"
        self._add(row)
        plain, copied, whole = history.copies(store, self._folder / "copies")
        base = self._add(Row("cp", plain / 1e6, "MB/s", limited_by="the disk"))
        row = Row("backup_copy", copied / 1e6, "MB/s", limited_by="the disk")
        self._add(self._compare(row, plain / 1e6, base.name, "at least 0.5", lambda ratio: ratio >= 0.5))
        self._add(Row("backup_verified", whole / 1e6, "MB/s", limited_by="verifying the copy"))
        cost = _run(history.compaction, self._folder / "compaction", events=self._scale.compacted_events)
        self._add(Row("compaction", cost.events_per_second, "events/s", limited_by="bzip2, and its rests"))
        base = self._add(Row("ask_p99_usually", cost.usual_p99_seconds * 1e3, "ms"))
        row = Row("ask_p99_in_compaction", cost.during_p99_seconds * 1e3, "ms", limited_by="the interpreter's lock")
        self._add(self._compare(row, base.value, base.name, "at most 2 times", lambda ratio: ratio <= 2))
        share = cost.archived_share
        row = Row("archive_size", share, "of the log", goal="at most a third", met=share <= 1 / 3)
        row.limited_by = "the random ids of commands"
        self._add(row)

    def _privacy(self) -> None:
        scale = self._scale
        cost = _run(
            privacy.sealing, self._folder / "privacy", commands=scale.hashed_commands, people=scale.single_commands
        )
        if cost is not None:
            base = self._add(Row("ask_many_unsealed", cost.plain_per_second, "commands/s", limited_by=CPU))
            row = Row("ask_many_sealed", cost.sealed_per_second, "commands/s", limited_by="AES-SIV, there and back")
            self._add(self._compare(row, base.value, base.name))
            self._add(Row("forget", cost.forget_seconds * 1e3, "ms", limited_by="syncs of the keys and of the log"))

    def _embedding(self) -> None:
        rates = embedding.concurrent_asks(self._folder / "embedding", commands=self._scale.commands)
        base = self._add(Row("ask_beside_asyncio", rates.on_trio, "commands/s", limited_by=CPU))
        row = Row("ask_from_asyncio", rates.on_asyncio, "commands/s")
        row.limited_by = "a task on each side, and two loops that share the interpreter"
        self._add(self._compare(row, base.value, base.name))

    def _raw(self, name: str, batch_events: int, commits: int | None = None) -> Row:
        """The limit: a raw loop with as many records a commit as the measured run had; they differ from run to run."""
        rate = measurements.raw_append(
            self._folder,
            batch_events=batch_events,
            commits=commits or max(self._scale.commands // batch_events // 2, 200),
            record_bytes=self._record_bytes,
        )
        return self._add(Row(name, rate, "records/s", limited_by=f"the disk; records a commit: {batch_events}"))

    def _compare(
        self,
        row: Row,
        base: float,
        base_name: str,
        goal: str | None = None,
        met: Callable[[float], bool] | None = None,
    ) -> Row:
        row.ratio = row.value / base
        row.ratio_to = base_name
        if goal is not None and met is not None:
            row.goal, row.met = goal, met(row.ratio)
        return row

    def _value(self, name: str) -> float:
        return next(row.value for row in self.rows if row.name == name)

    def _add(self, row: Row) -> Row:
        self.rows.append(row)
        self._announce(row)
        # The measured objects are garbage now, which the next measurement should not have to collect.
        gc.collect()
        return row


def machine(fsync_seconds: float) -> dict[str, Any]:
    """The machine and software of the figures."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "fdatasync_us": round(fsync_seconds * 1e6, 1),
        "gc_thresholds": gc.get_threshold(),
        "versions": {
            name: installed_version(name) for name in ("eventsrc", "lmdb", "trio", "pykka", "msgspec", "cattrs")
        },
    }


def run(argv: Sequence[str]) -> int:
    """The command `eventsrc bench`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="eventsrc bench", description=__doc__)
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", action="store_true", help="smaller samples, under 40 seconds")
    scale.add_argument("--large", action="store_true", help="also at 10 million events (needs about 4 GB of disk)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--path", type=Path, help="a folder on the disk to measure (default: the current folder)")
    options = parser.parse_args(argv)
    if options.path is not None and not options.path.is_dir():
        parser.error(f"--path {options.path}: there is no such folder")
    console = make_console(sys.stderr)  # only the results go to standard output
    chosen = QUICK if options.quick else LARGE if options.large else FULL
    place = options.path or Path.cwd()
    if os.fsencode(place).decode(errors="replace") != str(place):
        parser.error(f"{place}: its name is not UTF-8, and the URL of a database, which is measured too, has to be")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="eventsrc-bench-", dir=place) as folder,
            console.status("measuring") as status,
        ):
            gc.set_threshold(*COLLECTOR_THRESHOLDS)
            benchmark = Benchmark(Path(folder), chosen, lambda row: status.update(f"measured {row.name}"))
            benchmark.run()
    except (OSError, lmdb.Error) as error:
        raise PlaceUnusable(place, error) from error
    if options.json:
        print(
            json.dumps({"machine": machine(benchmark.fsync_seconds), "rows": [row.as_data() for row in benchmark.rows]})
        )
    else:
        _print(benchmark)
    return 0


def _print(benchmark: Benchmark) -> None:
    facts = machine(benchmark.fsync_seconds)
    print(
        f"{facts['cores']} cores, Python {facts['python']}, fdatasync {facts['fdatasync_us']} us; every commit synced;"
    )
    print(f"gc.set_threshold{facts['gc_thresholds']}\n")
    # Without borders, the table fits into 80 columns.
    table = bare_table()
    for heading in ("measured", "value", "", "ratio", "goal"):
        table.add_column(heading, justify="right" if heading in ("value", "ratio") else "left", no_wrap=True)
    for row in benchmark.rows:
        goal = "" if row.met is None else "met" if row.met else "not met"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        style = "bold" if row.met is False else ""
        value = f"{row.value:,.2f}" if row.value < 100 else f"{row.value:,.0f}"
        table.add_row(row.name, value, row.unit, ratio, goal, style=style)
    console = make_console()
    console.print(table)
    for row in benchmark.rows:
        if row.met is False:
            against = "" if row.ratio is None else f" ({row.ratio:.2f} of {row.ratio_to})"
            print(f"\n{row.name}{against} is to be {row.goal};\n  what limits it: {row.limited_by}")


def _run(measure: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
    return trio.run(partial(measure, *args, **kwargs))
