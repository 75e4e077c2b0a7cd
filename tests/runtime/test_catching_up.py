"""A view that is far behind: rows that change often are stored once, and it is right at every moment all the same."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from bank_domain import Account, Deposit, Deposited, Note, Noted
from bank_views import Balance, Balances

from eventsrc import EventMeta, FileWriteFailed, Limits, Projection, Runtime, Table, on
from eventsrc.actors.projections import projector
from eventsrc.actors.projections.projector import Projector
from eventsrc.actors.views.lmdb_reading import LmdbWriting
from eventsrc.storage.environment.view_environment import ViewEnvironment, ViewFull
from eventsrc.storage.record import StoredEvent

LIMITS = Limits(catch_up_batch_events=10, restart_backoff_seconds=0.001, restart_backoff_seconds_max=0.002)
NAMES = [f"a{number}" for number in range(20)]


async def fill(path: Path, events: int = 3_000, seed: int = 1) -> None:
    chance = random.Random(seed)
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime, trio.open_nursery() as nursery:
        for name in NAMES:
            commands = [chance.choice([Deposit(1), Deposit(1), Note("x")]) for _ in range(events // len(NAMES))]
            nursery.start_soon(runtime.actor(Account, name).ask_many, commands)


def expected(stored: list[StoredEvent], position: int) -> dict[str, int]:
    """Deposits of each account up to a position."""
    found: dict[str, int] = {}
    for event in stored[:position]:
        if event.type == "account.deposited":
            found[event.aggregate_id] = found.get(event.aggregate_id, 0) + 1
    return found


def count_written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    written: list[int] = []
    write = LmdbWriting.write

    def counted(self: LmdbWriting, table: object, changes: list[object]) -> None:
        written.append(len(changes))
        write(self, table, changes)  # type: ignore[arg-type]

    monkeypatch.setattr(LmdbWriting, "write", counted)
    return written


async def test_a_row_that_changes_often_is_stored_once_for_many_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path)
    written = count_written(monkeypatch)
    monkeypatch.setattr(projector, "WAITING_SECONDS_MAX", 60.0)
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances], limits=LIMITS) as runtime:
        rows = await runtime.view(Balances).all().fresh(at_least=runtime.last_position).rows()
        stored = [event async for event in runtime.events()]
    assert {row.account: row.amount for row in rows} == expected(stored, 3_000)
    assert sum(written) < 3_000 / 10


@pytest.mark.parametrize("bound", ["WAITING_ROWS_MAX", "WAITING_SECONDS_MAX", "WAITING_EVENTS_MAX"])
async def test_what_waits_to_be_stored_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    await fill(tmp_path)
    written = count_written(monkeypatch)
    monkeypatch.setattr(projector, "WAITING_SECONDS_MAX", 60.0)
    monkeypatch.setattr(projector, bound, 0)
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances], limits=LIMITS) as runtime:
        await runtime.view(Balances).all().fresh(at_least=runtime.last_position).rows()
    # Steps of 10 to 50 events: each is stored before the one after the next.
    assert len(written) >= 3_000 / 50 / 2


class Failing(Projection):
    """Counts deposits, and notes whom it looked for; raises where it is told to."""

    rows = Table(Balance, key="account", indexes=["amount"])

    chance = random.Random(0)
    failures_left = 0
    looks = 0

    @on(Deposited)
    def deposited(self, event: Deposited, meta: EventMeta) -> None:
        row = self.rows.get(meta.aggregate_id) or Balance(meta.aggregate_id, 0, 0)
        self.rows.put(attrs.evolve(row, amount=row.amount + 1, changes=row.changes + 1))
        if Failing.failures_left and self.chance.random() < 0.01:
            Failing.failures_left -= 1
            raise ValueError("in the middle of it")

    @on(Noted)
    def noted(self, event: Noted, meta: EventMeta) -> None:
        if self.chance.random() < 0.02:
            Failing.looks += 1
            assert all(row.amount == row.changes for row in self.rows.where(account=meta.aggregate_id))


@pytest.mark.parametrize("seed", range(8))
async def test_it_shows_the_events_up_to_its_position_and_no_other_whatever_fails_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    await fill(tmp_path, seed=seed)
    chance = Failing.chance = random.Random(seed)
    Failing.failures_left, Failing.looks = 30, 0
    monkeypatch.setattr(projector, "ATTEMPTS_MAX", 1_000)
    monkeypatch.setattr(projector, "WAITING_ROWS_MAX", chance.choice([3, 15, 100]))
    monkeypatch.setattr(projector, "WAITING_EVENTS_MAX", chance.choice([100, 300, 10_000]))
    write = LmdbWriting.write

    def refused_at_times(self: LmdbWriting, table: object, changes: list[object]) -> None:
        write(self, table, changes)  # type: ignore[arg-type]
        if chance.random() < 0.1:
            raise ViewFull("a view")

    monkeypatch.setattr(LmdbWriting, "write", refused_at_times)
    take_next, steps = Projector._take_next, 0

    async def only_a_few_between_looks(self: Projector) -> None:
        nonlocal steps
        steps -= 1
        if steps >= 0:
            await take_next(self)
        else:
            await trio.sleep(0.001)

    monkeypatch.setattr(Projector, "_take_next", only_a_few_between_looks)
    positions: set[int] = set()
    while max(positions, default=0) < 3_000:
        async with Runtime.open(tmp_path, aggregates=[Account], projections=[Failing], limits=LIMITS) as runtime:
            stored = [event async for event in runtime.events()]
            view = runtime.view(Failing)
            for _ in range(chance.randrange(1, 40)):
                rows = await view.all().rows()
                assert {row.account: row.amount for row in rows} == expected(stored, view.position)
                positions.add(view.position)
                steps = chance.choice([1, 2, 4])
                if chance.random() < 0.1:
                    await runtime.projections.pause(Failing)
                    await runtime.projections.resume(Failing)
                await trio.sleep(chance.choice([0, 0, 0.001]))
    assert len(positions) > 5
    assert Failing.looks
    assert Failing.failures_left < 30


async def test_rows_of_a_view_that_has_a_bound_on_its_lag_do_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bounded(Balances):
        max_lag_events = 5_000

    await fill(tmp_path)
    written = count_written(monkeypatch)
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Bounded], limits=LIMITS) as runtime:
        await runtime.view(Bounded).all().fresh(at_least=runtime.last_position).rows()
    assert len(written) >= 3_000 / 50


async def test_pausing_where_a_commit_took_effect_although_the_system_said_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path)
    write = ViewEnvironment.write

    @contextmanager
    def failing_after_all(environment: ViewEnvironment) -> Iterator[Any]:
        with write(environment) as transaction:
            yield transaction
        raise FileWriteFailed(environment.path, "Input/output error")

    take_next = Projector._take_next
    ahead = trio.Event()

    async def only_until_ahead(self: Projector) -> None:
        if self._is_ahead:
            ahead.set()
        else:
            await take_next(self)

    monkeypatch.setattr(Projector, "_take_next", only_until_ahead)
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances], limits=LIMITS) as runtime:
        await ahead.wait()
        monkeypatch.setattr(ViewEnvironment, "write", failing_after_all)
        await runtime.projections.pause(Balances)
        monkeypatch.undo()
        await runtime.projections.resume(Balances)
        rows = await runtime.view(Balances).all().fresh(at_least=runtime.last_position).rows()
        stored = [event async for event in runtime.events()]
    assert {row.account: row.amount for row in rows} == expected(stored, 3_000)
