"""Sagas that fail, wait, are signalled and are cut off, on a disk that refuses writes: each takes effect once."""

import random
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest
import trio
from short_of_room import short_of_room

from eventsrc import (
    Aggregate,
    EventSourcingError,
    Limits,
    Rejected,
    Retry,
    Runtime,
    Saga,
    SagaContext,
    SagaEnded,
    applies,
    command,
    event,
    handles,
    step,
)

PURSES = ("ann", "bob", "cat")
AGAIN = Retry(attempts=6, backoff_seconds=0.001, backoff_seconds_max=0.002)


@command
class Move:
    cents: int
    operation: str


@event("purse.moved")
class Moved:
    cents: int
    operation: str


class Purse(Aggregate):
    cents: int = 1_000

    @handles
    def move(self, command: Move) -> Moved:
        if self.cents + command.cents < 0 or command.operation.endswith("unwanted"):
            raise Rejected("no")
        return Moved(command.cents, command.operation)

    @applies
    def moved(self, event: Moved) -> None:
        self.cents += event.cents


class Pay(Saga, signals=["go"]):
    chance: ClassVar[random.Random]
    failing: ClassVar[float]
    told: ClassVar[Counter[str]]

    payer: str
    payee: str
    cents: int
    operation: str
    ways: str

    @step(compensation="take_back", retry=AGAIN)
    async def take(self, ctx: SagaContext) -> None:
        await ctx.ask(Purse, self.payer, Move(-self.cents, f"{self.operation}/take"))
        self.fail_at_times()

    @step(compensation="call_off", retry=AGAIN)
    async def announce(self, ctx: SagaContext) -> None:
        if "sleep" in self.ways:
            await ctx.sleep(seconds=0.01)
        await ctx.effect("announce", self.tell, idempotent="again" in self.ways)
        self.fail_at_times()

    @step(retry=AGAIN)
    async def wait(self, ctx: SagaContext) -> None:
        if "signal" in self.ways:
            await ctx.approval("go", timeout_seconds=0.3)
        if "together" in self.ways:
            moves = [(self.payee, Move(1, f"{self.operation}/in")), (self.payer, Move(-1, f"{self.operation}/out"))]
            await ctx.transact([(Purse, purse, move) for purse, move in moves])
        self.fail_at_times()

    @step(retry=AGAIN)
    async def give(self, ctx: SagaContext) -> None:
        await ctx.ask(Purse, self.payee, Move(self.cents, self.operation))

    async def call_off(self, ctx: SagaContext) -> None:
        self.fail_at_times()

    async def take_back(self, ctx: SagaContext) -> None:
        await ctx.ask(Purse, self.payer, Move(self.cents, f"{self.operation}/back"))

    async def tell(self, idempotency_key: str) -> None:
        await trio.lowlevel.checkpoint()
        self.fail_at_times()
        self.told[self.operation] += 1

    def fail_at_times(self) -> None:
        if self.chance.random() < self.failing:
            raise OSError("at times")


async def start(runtime: Runtime, chance: random.Random, started: dict[str, Pay]) -> None:
    for _ in range(chance.randrange(1, 15)):
        operation = f"{len(started)}-{chance.choice(['', '', '', 'unwanted'])}"
        ways = "".join(way for way in ("sleep", "signal", "again", "together") if chance.random() < 0.4)
        pay = Pay(chance.choice(PURSES), chance.choice(PURSES), chance.randrange(1, 400), operation, ways)
        started[operation] = pay
        try:
            saga = await runtime.start_saga(pay, key=operation)
            for _ in range(chance.randrange(40)):
                await trio.lowlevel.checkpoint()
            if chance.random() < 0.7:
                await saga.signal("go")
        except EventSourcingError:
            continue  # the disk was full, or the saga has ended


@pytest.mark.parametrize("seed", range(6))
async def test_each_operation_takes_effect_once_or_not_at_all(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = Pay.chance = random.Random(seed)
    Pay.told = Counter()
    started: dict[str, Pay] = {}
    limits = Limits(snapshot_every_events=3, restart_backoff_seconds=0.001, restart_backoff_seconds_max=0.005)
    for _ in range(3):
        Pay.failing = chance.choice([0, 0.05, 0.2])
        async with Runtime.open(tmp_path / "store", aggregates=[Purse], sagas=[Pay], limits=limits) as runtime:
            with monkeypatch.context() as faults:
                short_of_room(faults, chance, often=chance.choice([0, 0.05, 0.1]))
                async with trio.open_nursery() as nursery:
                    for _ in range(5):
                        nursery.start_soon(start, runtime, chance, started)
                await trio.sleep(chance.random() * 0.05)

    Pay.failing = 0
    ended: dict[str, str] = {}
    async with Runtime.open(tmp_path / "store", aggregates=[Purse], sagas=[Pay], limits=limits) as runtime:
        known = {instance.key async for instance in runtime.sagas()}
        for operation in started.keys() & known:
            with suppress(SagaEnded):
                await runtime.signal(Pay, operation, "go")
            with trio.fail_after(60):
                ended[operation] = (await runtime.saga(Pay, operation).wait()).state
        moved = Counter([runtime.decode(each).operation async for each in runtime.events(types=[Moved])])  # type: ignore[attr-defined]

    assert {*ended.values()} == {"completed", "compensated"}
    assert set(moved.values()) == {1}, "nothing took effect twice"
    for operation, state in ended.items():
        taken, given, back = (operation + part in moved for part in ("/take", "", "/back"))
        assert (taken, given, back) == ((True, True, False) if state == "completed" else (taken, False, taken))
        if "again" not in started[operation].ways:
            assert Pay.told[operation] <= 1
    assert not {operation.partition("/")[0] for operation in moved} - known
