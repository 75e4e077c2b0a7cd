"""The whole runtime against a naive model of it: after any sequence of operations both say the same.

Everything is used at once on one store, with limits so low that snapshots, passivation, the archive and flushes of
indexes come about all the time. A seed that fails says which operations led to it.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
import trio.testing
from compaction_cases import sound
from whole_comparisons import Comparisons
from whole_copies import Copies
from whole_domain import NEW, OLD, Greet, Room
from whole_followers import Followers
from whole_model import KEY_SECONDS, Model
from whole_operations import Operations

from eventsrc import Limits, Runtime
from eventsrc.actors.views.sql import SqlViews
from eventsrc.runtime.maintenance import compactor
from eventsrc.runtime.testing import WallClock
from eventsrc.storage import log
from eventsrc.storage.archive import compaction
from eventsrc.storage.indexes import idempotency, postings

LIMITS = Limits(
    snapshot_every_events=3,
    snapshots_kept=2,
    compaction_events_min=4,
    retention_days=1,
    catch_up_batch_events=3,
    resident_actors_max=6,
    passivate_after_seconds=20,
    idempotency_window_seconds=KEY_SECONDS,
    command_timeout_seconds=10_000,
)
PACE = 20
"""Times faster than it is, so that rests between the steps of a compaction take no time."""
SAGA_CLOCK_SECONDS = 31
"""In this time sagas look at the wall clock."""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done in large portions is done in small ones."""
    monkeypatch.setattr(log, "TAIL_WEIGHT_MAX", 5)
    monkeypatch.setattr(log, "FLUSH_CHUNK_ITEMS", 2)
    monkeypatch.setattr(log, "HEADS_CACHED_MAX", 2)
    monkeypatch.setattr(log, "HEADS_LOADED_MAX", 3)
    monkeypatch.setattr(postings, "CHUNK_POSITIONS_MAX", 3)
    monkeypatch.setattr(idempotency, "CHUNK_ROWS_MAX", 2)
    monkeypatch.setattr(compaction, "STEP_EVENTS_MAX", 2)
    monkeypatch.setattr(compactor, "SEGMENT_EVENTS_MAX", 3)


class Life:
    """One store and its copies, from the first command of the older program to the last of the newer one."""

    def __init__(self, seed: int, folder: Path, mock_clock: trio.testing.MockClock) -> None:
        self._chance = random.Random(seed)
        self._clock = WallClock()
        self._mock_clock = mock_clock
        self._model = Model(self._clock, OLD)
        self._copies = Copies(folder, self._model, self._chance)
        self.done: list[str] = []

    async def run(self, operations_count: int) -> None:
        while len(self.done) < operations_count:
            left = await self._run_once()
            if left is not None:
                self._copies.path = left
            assert sound(self._copies.path)
            self.done.append(await self._copies.go_on())
            if self._chance.random() < 0.3:
                self._model.generation = NEW

    async def _run_once(self) -> Path | None:
        """Open the store and close it again; returns what it would have left had the process been killed, or None."""
        async with self._opened() as runtime:
            operations = self._operations(runtime, self._chance)
            await operations.settle()
            followers = Followers(runtime, self._model, self._copies.handed_out)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(followers.follow)
                nursery.start_soon(followers.consume)
                await self._operate(runtime, operations)
                await self._compare(runtime)
                await followers.check()
                if self._chance.random() < 0.3:
                    await self._copies.back_up(runtime)
                left = await self._copies.killed(runtime) if self._chance.random() < 0.3 else None
                nursery.cancel_scope.cancel()
            return left

    async def _operate(self, runtime: Runtime, operations: Operations) -> None:
        async with trio.open_nursery() as nursery:
            if self._chance.random() < 0.5:
                nursery.start_soon(self._operations(runtime, random.Random(len(self.done))).keep_up)
            for _ in range(self._chance.randint(5, 25)):
                self.done.append(await operations.one())
            nursery.cancel_scope.cancel()

    def _operations(self, runtime: Runtime, chance: random.Random) -> Operations:
        return Operations(runtime, self._model, self._clock, self._jump, chance)

    async def _compare(self, runtime: Runtime) -> None:
        comparisons = Comparisons(runtime, self._model, self._chance)
        await comparisons.everything(self._model.generation.projections)
        await comparisons.objects()
        await comparisons.sagas()
        comparisons.transfers()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Runtime]:
        generation, path = self._model.generation, self._copies.path
        with closing(SqlViews(f"sqlite:///{path}.sqlite")) as sql:
            async with Runtime.open(
                path,
                aggregates=[generation.account, Room],
                projections=generation.projections,
                sagas=[generation.transfer, Greet],
                views={generation.sql_balances: sql},
                limits=LIMITS,
                wall_clock=self._clock,
            ) as runtime:
                yield runtime

    def _jump(self) -> None:
        self._mock_clock.jump(SAGA_CLOCK_SECONDS)


async def live(seed: int, operations_count: int, folder: Path, mock_clock: trio.testing.MockClock) -> None:
    mock_clock.rate = PACE
    life = Life(seed, folder, mock_clock)
    try:
        await life.run(operations_count)
    except BaseException as error:
        error.add_note(f"seed {seed}, after {', '.join(life.done)}")
        raise


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("seed", range(3))
async def test_a_runtime_says_what_its_model_says(
    seed: int, tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    await live(seed, 40, tmp_path, mock_clock)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("seed", range(100, 110))
async def test_a_runtime_says_what_its_model_says_at_length(
    seed: int, tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    await live(seed, 120, tmp_path, mock_clock)
