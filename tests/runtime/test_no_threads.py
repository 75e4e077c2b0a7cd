"""The system starts no further thread, as where a container has a bound of processes: what is there goes on."""

import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pykka
import pytest
import trio
import trio.testing
from bank_domain import Account, Deposit
from bank_views import Balance, Balances, Notes
from saga_cases import open_runtime
from trio import _threads
from waiting import until

from eventsrc import BlockingPortal, Limits, MemoryLog, Runtime, Saga, SagaContext, ThreadRefused, step
from eventsrc.actors.views.sql import SqlViews
from eventsrc.storage.environment.outlet import Outlet

QUICK = Limits(restart_backoff_seconds=0.001, restart_backoff_seconds_max=0.001)
LONG = Limits(restart_backoff_seconds=0.001, command_timeout_seconds=1e9)  # of a clock that jumps


def refuse(*_: object) -> None:
    raise RuntimeError("can't start new thread")


@contextmanager
def no_threads(calls: int = 10**9) -> Iterator[None]:
    """No thread is started, nor one that trio keeps taken up, so many times."""
    hand_over, start, left = trio.lowlevel.start_thread_soon, threading.Thread.start, [calls]

    def or_refused(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            left[0] -= 1
            return function(*arguments) if left[0] < 0 else refuse()

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_threads, "start_thread_soon", or_refused(hand_over))
        patch.setattr(threading.Thread, "start", or_refused(start))
        yield


async def test_a_runtime_that_has_to_close_without_threads_leaves_nothing_open(tmp_path: Path) -> None:
    with closing(SqlViews(f"sqlite:///{tmp_path / 'views.db'}")) as views:
        for run in (1, 2):
            with ExitStack() as stack:
                async with Runtime.open(
                    tmp_path / "store",
                    aggregates=[Account],
                    projections=[Balances, Notes],
                    views={Balances: views},
                    limits=QUICK,
                ) as runtime:
                    ann = runtime.actor(Account, "ann")
                    await ann.ask(Deposit(1), wait_for=[Balances])
                    async with runtime.consume("mailer") as consumer:
                        message = await anext(aiter(consumer))
                        stack.enter_context(no_threads())
                        message.ack_soon()
                    await ann.ask(Deposit(1))
            assert (runtime.last_position, message.event.position) == (2 * run, run)


async def test_a_view_that_needs_a_thread_is_tried_again_and_commands_go_on(tmp_path: Path) -> None:
    with closing(SqlViews(f"sqlite:///{tmp_path / 'views.db'}")) as views:
        async with Runtime.open(
            tmp_path / "store", aggregates=[Account], projections=[Balances], views={Balances: views}, limits=QUICK
        ) as runtime:
            with no_threads():
                await runtime.actor(Account, "ann").ask(Deposit(1))
                await until(lambda: runtime.lag()["balances"].state == "retrying")
                assert "no further thread" in runtime.lag()["balances"].error
                with pytest.raises(ThreadRefused, match=r"ulimit -u"):
                    await runtime.view(Balances).get("ann")
            assert await runtime.view(Balances).get("ann", at_least=1) == Balance("ann", 1, 1)


@pytest.mark.parametrize("refused", range(1, 7))
async def test_a_rebuilt_view_takes_its_place_later(
    tmp_path: Path, refused: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Account], projections=[Balances], limits=LONG) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        await runtime.projections.rebuild(Balances)
        with no_threads(refused):
            await until(lambda: not runtime.lag()["balances"].rebuilding)
            await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        assert await runtime.view(Balances).get("ann") == Balance("ann", 2, 2)


async def test_an_opening_is_refused_and_can_be_tried_again(tmp_path: Path) -> None:
    for calls in range(12):
        try:
            with no_threads(calls):
                async with Runtime.open(tmp_path / str(calls), aggregates=[Account], projections=[Balances]) as runtime:
                    await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        except ThreadRefused:
            assert pykka.ActorRegistry.get_all() == []
        async with Runtime.open(tmp_path / str(calls), aggregates=[Account], projections=[Balances]) as runtime:
            await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])


@pytest.mark.parametrize("calls", range(1, 5))
async def test_a_backup_and_a_compaction(tmp_path: Path, calls: int) -> None:
    limits = Limits(compaction_events_min=1)
    async with Runtime.open(tmp_path / "store", aggregates=[Account], limits=limits) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 3)
        work: list[Callable[[], Awaitable[Any]]] = [
            lambda: runtime.backup(tmp_path / "copy"),
            lambda: runtime.maintenance.compact(Account, "ann"),
            lambda: runtime.maintenance.uncompact(Account, "ann"),
        ]
        for do in work:
            try:
                with no_threads(calls):
                    await do()
            except ThreadRefused:
                await do()
        assert (await runtime.actor(Account, "ann").state()).balance == 3


async def test_an_effect_that_gets_no_thread_is_tried_again_without_counting_an_attempt() -> None:
    class Once(Saga):
        result: Any = None

        @step
        async def only(self, ctx: SagaContext) -> None:
            self.result = await ctx.effect("it", lambda: 7)

    async with open_runtime(MemoryLog(), Once, limits=QUICK) as runtime:
        with no_threads(20):
            saga = await runtime.start_saga(Once(), key="1")
            outcome = await saga.wait(timeout=60)
        assert (outcome.state, outcome.saga.result) == ("completed", 7)


def test_a_portal_is_refused_at_once(tmp_path: Path) -> None:
    with no_threads(), pytest.raises(ThreadRefused), BlockingPortal(Runtime.open(tmp_path, aggregates=[Account])):
        pass
    with BlockingPortal(Runtime.open(tmp_path, aggregates=[Account])) as portal:
        portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1))


def test_a_copy_that_is_in_the_way_is_cut_off(tmp_path: Path) -> None:
    with (tmp_path / "copy").open("wb") as file, closing(Outlet(file.fileno())) as outlet:
        with no_threads():
            outlet.cut()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(outlet.descriptor, b"more")
