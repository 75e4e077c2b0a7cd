"""Measurements of sagas: their rate, their cost beside their commands, and the cost of waiting sagas."""

import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import msgspec
import trio

from ...actors.journal.journal import CommitSeries, Write
from ...actors.messages import SAGA_STEP
from ...actors.sagas.context import SagaContext
from ...actors.sagas.saga import Saga, step
from ...storage.commit import Appended, NewEvent, StreamAppend
from ...storage.errors import EventSourcingError
from ..runtime import Runtime
from .measurements import LIMITS, Account, Deposit

SAGA_LIMITS: Final = attrs.evolve(LIMITS, streams_max=1_000_000, mailbox_commands_max=10_000)
SAGAS_AT_ONCE: Final = 1_000
ACCOUNTS: Final = 1_000


class ThreeSteps(Saga, name="bench_three_steps"):
    """Three commands to three aggregates."""

    number: int

    @step(compensation="undo")
    async def first(self, ctx: SagaContext) -> None:
        await ctx.ask(Account, f"first-{self.number % ACCOUNTS}", Deposit(1))

    @step(compensation="undo")
    async def second(self, ctx: SagaContext) -> None:
        await ctx.ask(Account, f"second-{self.number % ACCOUNTS}", Deposit(1))

    @step(compensation="undo")
    async def third(self, ctx: SagaContext) -> None:
        await ctx.ask(Account, f"third-{self.number % ACCOUNTS}", Deposit(1))

    async def undo(self, ctx: SagaContext) -> None:
        """Never needed."""


class Waiting(Saga, name="bench_waiting"):
    """Sleeps for a day."""

    @step()
    async def rest(self, ctx: SagaContext) -> None:
        await ctx.sleep(days=1)


async def three_steps(store: Path, *, sagas: int) -> float:
    """Sagas a second, a thousand of them at once, each begun when another has ended."""
    async with Runtime.open(store, aggregates=[Account], sagas=[ThreeSteps], limits=SAGA_LIMITS) as runtime:
        numbers = iter(range(sagas))

        async def client() -> None:
            for number in numbers:
                saga = await runtime.start_saga(ThreeSteps(number), key=f"{number}")
                await saga.wait()

        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(SAGAS_AT_ONCE):
                nursery.start_soon(client)
        return sagas / (time.perf_counter() - started)


async def directly(store: Path, *, sagas: int) -> float:
    """Sagas a second, where the same commands and as many equal records are stored without a saga around them."""
    async with Runtime.open(store, aggregates=[Account], limits=SAGA_LIMITS) as runtime:
        numbers = iter(range(sagas))
        journal = runtime._router.journal
        payload = msgspec.Raw(msgspec.msgpack.encode({"step": "second", "state": {"number": 1}}))
        record = NewEvent("bench.record", payload, kind=SAGA_STEP, correlation_id="bench", causation_id="bench")

        async def append(stream: str, version: int, count: int, series: CommitSeries) -> None:
            settled = trio.Event()

            def settle(outcome: Appended | EventSourcingError) -> None:
                assert isinstance(outcome, Appended), outcome
                settled.set()

            journal.submit(Write((StreamAppend(stream, version, [record] * count),), (), count, 1, series, settle))
            if version == 0:
                await settled.wait()

        async def client() -> None:
            for number in numbers:
                stream, series = f"bench-{number}", CommitSeries()
                await append(stream, 0, 1, series)
                version = 1
                for name in ("first", "second", "third"):
                    await append(stream, version, 1, series)
                    await runtime.actor(Account, f"{name}-{number % ACCOUNTS}").ask(
                        Deposit(1), idempotency_key=f"{stream}/{name}", metadata={"saga_call": f"{stream}/{name}"}
                    )
                    await append(stream, version + 1, 1, series)
                    version += 2
                await append(stream, version, 1, series)

        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(SAGAS_AT_ONCE):
                nursery.start_soon(client)
        return sagas / (time.perf_counter() - started)


async def waiting(store: Path, *, sagas: int) -> tuple[float, float]:
    """(bytes of memory for each waiting saga, waiting sagas resumed a second after a restart)."""
    open_it = partial(Runtime.open, store, aggregates=[Account], sagas=[Waiting], limits=SAGA_LIMITS)
    async with open_it() as runtime:
        numbers = iter(range(sagas))

        async def start() -> None:
            for number in numbers:
                await runtime.start_saga(Waiting(), key=f"{number}")

        async with trio.open_nursery() as nursery:
            for _ in range(SAGAS_AT_ONCE):
                nursery.start_soon(start)
        for number in range(sagas):
            while (await runtime.saga(Waiting, f"{number}").status()).state != "waiting":
                await trio.lowlevel.checkpoint()
    started = time.perf_counter()
    async with open_it() as runtime:
        assert runtime.saga_counts["waiting"] == sagas, runtime.saga_counts
        seconds = time.perf_counter() - started
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    async with open_it() as runtime:
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert runtime.saga_counts["waiting"] == sagas, runtime.saga_counts
    return (after - before) / sagas, sagas / seconds
