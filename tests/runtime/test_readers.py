"""Readers: other processes that follow a store which one process writes, each with views of its own."""

import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
from bank_domain import Account, Deposit
from bank_views import Balance, Balances

from eventsrc import (
    ArgumentInvalid,
    EventMeta,
    EventSourcingError,
    Limits,
    NoPlaceForProgress,
    Projection,
    Runtime,
    RuntimeReadOnly,
    Saga,
    SagaCompleted,
    SagaContext,
    SagaInstances,
    SagaStarted,
    StoreReplaced,
    Table,
    on,
    step,
)

HERE = Path(__file__).parent
IMPORTS = """
import random, sys, trio
from bank_domain import Account, Deposit
from bank_views import Balances
from eventsrc import Limits, Runtime
"""
WRITER = """
async def main():
    # However busy the machine is: no timeout is to end the writer.
    async with Runtime.open(sys.argv[1], aggregates=[Account], limits=Limits(command_timeout_seconds=60)) as runtime:
        async def write(number):
            while not stopped:
                await runtime.actor(Account, f"a{random.randrange(50)}").ask(Deposit(number))
        stopped = []
        async with trio.open_nursery() as nursery:
            for number in range(1, 9):
                nursery.start_soon(write, number)
            print("started", flush=True)
            await trio.to_thread.run_sync(sys.stdin.readline)
            stopped.append(True)
        print(runtime.last_position, flush=True)
trio.run(main)
"""
READER = """
async def main():
    async with Runtime.open(sys.argv[1], role="reader", projections=[Balances]) as runtime:
        print("started", flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            view = runtime.view(Balances)
            rows = await view.all().fresh(at_least=int(line), timeout=60).rows()
            print(runtime.last_position, sum(row.amount for row in rows), sum(row.changes for row in rows), flush=True)
trio.run(main)
"""


@contextmanager
def child(code: str, path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs code; killed at the end if it has not ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTS + textwrap.dedent(code), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with process:
        try:
            assert say(process, None) == "started"
            yield process
        finally:
            process.kill()


def say(process: "subprocess.Popen[str]", line: str | None) -> str:
    """Write a line to a child, and read its next one."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line is not None:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


def test_readers_that_are_killed_and_restarted_lose_and_double_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with child(WRITER, path) as writer:
        for _ in range(5):
            with child(READER, path) as first, child(READER, path) as second:
                assert int(say(first, "1").split()[0]) >= 1
                assert int(say(second, str(random.randrange(1, 100))).split()[0]) >= 1
                first.send_signal(signal.SIGKILL)
                second.send_signal(signal.SIGKILL)
        with child(READER, path) as first, child(READER, path) as second:
            last = say(writer, "stop")
            answers = [say(reader, last).split() for reader in (first, second)]
    with_sums = answers[0]
    assert answers[1] == with_sums
    position, total, changes = map(int, with_sums)
    assert position == int(last) == changes, "every event took effect exactly once"

    async def total_of_log() -> int:
        async with Runtime.open(path, aggregates=[Account]) as runtime:
            return sum([event.payload["amount"] async for event in runtime.events()])

    assert trio.run(total_of_log) == total
    assert sorted(folder.name for folder in (path / "readers").iterdir()) == ["1", "2"], "restarted readers took over"


NEWER_READER = """
class Newer(Balances, name="balances"):
    version = 2

    def add(self, account, amount):
        super().add(account, 10 * amount)

Balances = Newer
"""


def test_a_reader_goes_on_while_its_writer_is_restarted_and_compacts(tmp_path: Path) -> None:
    path = tmp_path / "store"

    async def write(amount: int, *, compacts: bool = False) -> str:
        async with Runtime.open(path, aggregates=[Account], limits=Limits(compaction_events_min=200)) as runtime:
            ann = runtime.actor(Account, "ann")
            for _ in range(120):
                await ann.ask(Deposit(amount))
            if compacts:
                await runtime.maintenance.compact(Account, "ann")
            return str(runtime.last_position)

    assert trio.run(write, 1) == "120"
    with child(READER, path) as reader:
        assert say(reader, "120") == "120 120 120"
        assert say(reader, trio.run(write, 2)) == "240 360 240"
        assert say(reader, trio.run(partial(write, 3, compacts=True))) == "360 720 360"
        with child(READER, path) as second:
            assert say(second, "360") == "360 720 360", "from the first event on, much of which is in the archive"
        with child(NEWER_READER + textwrap.dedent(READER), path) as newer:
            assert say(newer, trio.run(write, 4)) == "480 12000 480", "of another version, in the place of the second"
        assert say(reader, "480") == "480 1200 480"


async def test_a_reader_takes_no_commands(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(3))
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances], role="reader") as reader:
        assert await reader.view(Balances).get("ann", at_least=1) == Balance("ann", 3, 1)
        with pytest.raises(RuntimeReadOnly, match="takes no commands"):
            await reader.actor(Account, "ann").ask(Deposit(1))
        with pytest.raises(EventSourcingError):
            reader.actor(Account, "ann").tell(Deposit(1))
        assert [event.position async for event in reader.events()] == [1]
        assert (await reader.actor(Account, "ann").state()).balance == 3


async def test_a_reader_runs_no_sagas_and_shows_how_they_stand(tmp_path: Path) -> None:
    class Greet(Saga):
        @step
        async def only(self, ctx: SagaContext) -> None: ...

    @attrs.frozen
    class Stand:
        saga: str
        state: str

    class Stands(Projection):
        rows = Table(Stand, key="saga")

        @on(SagaStarted, SagaCompleted)
        def changed(self, event: SagaStarted | SagaCompleted, meta: EventMeta) -> None:
            self.rows.put(Stand(meta.stream, type(event).__name__))

    async with Runtime.open(tmp_path, sagas=[Greet]) as runtime:
        await (await runtime.start_saga(Greet(), key="1")).wait()
    with pytest.raises(RuntimeReadOnly, match="runs no sagas: leave out sagas="):
        async with Runtime.open(tmp_path, sagas=[Greet], role="reader"):
            pass
    async with Runtime.open(tmp_path, projections=[Stands], role="reader") as reader:
        for ask in (lambda: reader.saga(Greet, "1"), reader.sagas):
            with pytest.raises(RuntimeReadOnly, match=r"runs no sagas.*projections=\[SagaInstances\]"):
                ask()
        row = await reader.view(Stands).get("saga_greet-1", at_least=reader.last_position)
        assert row == Stand("saga_greet-1", "SagaCompleted")
    async with Runtime.open(tmp_path, projections=[SagaInstances], role="reader") as reader:
        assert [row.id for row in await reader.sagas(state="completed", saga=Greet).rows()] == ["saga_greet-1"]
        with pytest.raises(RuntimeReadOnly):
            await reader.start_saga(Greet(), key="2")
        async with reader.as_of(position=1, projections=[SagaInstances]) as past:
            assert [row.state for row in await past.sagas().rows()] == ["running"]


async def test_a_reader_keeps_progress_in_a_folder_of_its_own_or_not_at_all(
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(3)] * 2)
    async with Runtime.open(store, projections=[Balances], role="reader") as reader:
        with pytest.raises(NoPlaceForProgress, match="has no folder of its own"):
            async with reader.consume("mailer"):
                pass
    for position in (1, 2):
        async with (
            Runtime.open(store, projections=[Balances], role="reader", views=tmp_path / "own") as reader,
            reader.consume("mailer") as consumer,
        ):
            with trio.fail_after(10):
                message = await anext(consumer)
            assert message.event.position == position
            await message.ack()


async def test_a_reader_whose_store_is_replaced_ends_and_says_so(tmp_path: Path) -> None:
    path, other = tmp_path / "store", tmp_path / "other"
    for place, count in ((path, 20), (other, 13)):
        async with Runtime.open(place, aggregates=[Account]) as runtime:
            await runtime.actor(Account, "ann").ask_many([Deposit(1)] * count)
    with pytest.raises(ExceptionGroup) as ended:
        async with Runtime.open(path, aggregates=[Account], projections=[Balances], role="reader") as reader:
            assert (await reader.view(Balances).get("ann", at_least=20)) is not None
            path.rename(tmp_path / "before")
            other.rename(path)
            await trio.sleep(60)
    assert ended.group_contains(StoreReplaced, match="was moved, removed or replaced")
    async with Runtime.open(path, aggregates=[Account], projections=[Balances], role="reader") as reader:
        row = await reader.view(Balances).get("ann", at_least=13)
        assert row is not None
        assert row.amount == 13


async def test_a_role_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(ArgumentInvalid, match='"writer" or "reader"'):
        async with Runtime.open(tmp_path, role="owner"):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            pass
