"""A runtime in a program on asyncio."""

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import ClassVar

import pytest
import trio
from bank_domain import Account, Deposit, Deposited
from bank_views import Balances
from portal_cases import bank, on_loop

from eventsrc import (
    Aggregate,
    AsyncioPortal,
    EventLog,
    MemoryLog,
    Receipt,
    Rejected,
    Runtime,
    RuntimeClosed,
    WrongThread,
    applies,
    command,
    event,
    handles,
    on_asyncio,
)
from eventsrc.runtime.embedding.runtime_thread import THREAD_NAME
from eventsrc.storage.errors import StoreInUse

pytestmark = pytest.mark.usefixtures("no_runtime_thread_is_left")


def test_commands_are_answered_and_read_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with bank(tmp_path / "store") as portal:
            ann = portal.runtime.actor(Account, "ann")
            receipt = await portal.call(ann.ask, Deposit(100), idempotency_key="first")
            assert (receipt.version, receipt.position) == (1, 1)
            assert (await portal.call(ann.state)).balance == 100
            view = portal.runtime.view(Balances.rows)
            row = await portal.call(view.get, "ann", at_least=receipt)
            assert row is not None
            assert row.amount == 100
            with pytest.raises(Rejected, match="must be positive"):
                await portal.call(ann.ask, Deposit(0))
            with pytest.raises(RuntimeError, match="StopIteration"):
                await portal.call(next, iter(()))
            assert (await portal.call(threading.current_thread)).name == THREAD_NAME

    on_loop(main)


def test_any_number_of_tasks_may_ask_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with bank(tmp_path / "store") as portal:
            ann = portal.runtime.actor(Account, "ann")
            asks = [portal.call(ann.ask, Deposit(number)) for number in range(1, 501)]
            receipts = await asyncio.gather(*asks)
            assert [receipt.events for receipt in receipts] == [(Deposited(number),) for number in range(1, 501)]
            assert sorted(receipt.version for receipt in receipts) == list(range(1, 501))
            assert (await portal.call(ann.state)).balance == sum(range(1, 501))

    on_loop(main)


def test_iterators_and_consumers_work_as_on_trio(tmp_path: Path) -> None:
    async def main() -> None:
        async with bank(tmp_path / "store") as portal:
            runtime = portal.runtime
            await portal.call(runtime.actor(Account, "ann").ask_many, [Deposit(1)] * 3)
            assert [stored.version async for stored in portal.iterate(runtime.events())] == [1, 2, 3]
            async for batch in portal.iterate(runtime.subscribe(after=1)):
                assert [stored.position for stored in batch] == [2, 3]
                break
            for expected in (1, 2):
                async with portal.enter(runtime.consume("mailer")) as consumer:
                    async for message in portal.iterate(consumer):
                        assert message.event.position == expected
                        await portal.call(message.ack)
                        break

    on_loop(main)


@asynccontextmanager
async def told(log: list[str], swallows: type[Exception] | tuple[()] = ()) -> AsyncIterator[str]:
    """Tells how it is entered and left, which takes a while."""
    log.append("entered")
    try:
        yield "value"
    except Exception as error:
        log.append(f"failed: {error}")
        if not isinstance(error, swallows):
            raise
    except BaseException as error:
        log.append(type(error).__name__)
        raise
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.01)
        log.append("left")


def test_a_context_is_left_with_what_became_of_its_block() -> None:
    log: list[str] = []

    async def block(portal: AsyncioPortal) -> None:
        async with asyncio.timeout(None) as time, portal.enter(told(log)):
            time.reschedule(0)
            await asyncio.Event().wait()

    async def main() -> None:
        async with bank() as portal:
            async with portal.enter(told(log, swallows=ZeroDivisionError)) as value:
                assert value == "value"
                raise ZeroDivisionError("of the block")
            error = ValueError("of another")
            with pytest.raises(ValueError, match="of another") as raised:
                async with portal.enter(told(log)):
                    raise error
            assert raised.value is error
            with pytest.raises(TimeoutError):
                await block(portal)
        assert log == [
            *("entered", "failed: of the block", "left"),
            *("entered", "failed: of another", "left"),
            *("entered", "Cancelled", "left"),
        ]

    on_loop(main)


def test_a_cancelled_call_has_ended_when_its_task_goes_on() -> None:
    log: list[str] = []

    async def slow(tell_that_it_has_begun: Callable[[], object]) -> None:
        try:
            tell_that_it_has_begun()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.01)
            log.append("ended")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with bank() as portal:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as time:
                    await portal.call(slow, lambda: loop.call_soon_threadsafe(time.reschedule, 0))
            assert log == ["ended"]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await portal.call(trio.sleep_forever)

    on_loop(main)


def test_commands_of_cancelled_tasks_take_effect_once_or_not_at_all(tmp_path: Path) -> None:
    async def main() -> None:
        async with bank(tmp_path / "store") as portal:
            ann = portal.runtime.actor(Account, "ann")
            for number in range(100):
                task = asyncio.create_task(portal.call(ann.ask, Deposit(1), idempotency_key=f"{number}"))
                await asyncio.sleep(number / 100_000)
                task.cancel()
                await asyncio.wait([task])
                await portal.call(ann.ask, Deposit(1), idempotency_key=f"{number}")
            assert (await portal.call(ann.state)).balance == 100

    on_loop(main)


def test_a_call_is_answered_on_the_loop_that_it_comes_from() -> None:
    async def in_another_thread(portal: AsyncioPortal) -> int:
        async with portal.enter(told([])) as value:
            assert value == "value"
        return (await portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1))).version

    async def main() -> None:
        async with bank() as portal:
            answering = asyncio.to_thread(asyncio.run, in_another_thread(portal), debug=True)
            assert await asyncio.wait_for(answering, 60) == 1

    on_loop(main)


def test_off_asyncio_a_call_says_so_and_does_nothing() -> None:
    async def main() -> None:
        async with bank() as portal:
            ann = portal.runtime.actor(Account, "ann")

            async def elsewhere() -> None:
                await portal.call(ann.ask, Deposit(1))

            with pytest.raises(RuntimeError, match="no running event loop"):
                await asyncio.to_thread(trio.run, elsewhere)
            assert (await portal.call(ann.ask, Deposit(1))).version == 1

    on_loop(main)


# --- beginning and end ---


def test_what_cannot_be_opened_or_is_not_open_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with bank(tmp_path / "store"):
            other = AsyncioPortal(Runtime.open(tmp_path / "store", aggregates=[Account]))
            with pytest.raises(RuntimeClosed, match="async with portal"):
                await other.call(len, "")
            with pytest.raises(StoreInUse):
                async with other:
                    pytest.fail("it was opened twice")
        async with bank() as portal:
            with pytest.raises(WrongThread, match="Await the function itself"):
                await portal.call(lambda: portal.call(len, ""))
        with pytest.raises(RuntimeClosed, match="was not begun"):
            await portal.call(len, "")
        with pytest.raises(RuntimeClosed, match="entered once"):
            async with portal:
                pytest.fail("it was entered twice")

    on_loop(main)


def test_a_task_that_is_cancelled_while_it_opens_leaves_a_store_that_can_be_opened(tmp_path: Path) -> None:
    async def main() -> None:
        for number in range(30):
            try:
                async with asyncio.timeout(number / 1_000), bank(tmp_path / "store") as portal:
                    await portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1))
            except TimeoutError:
                pass
        async with bank(tmp_path / "store") as portal:
            ann = portal.runtime.actor(Account, "ann")
            assert (await portal.call(ann.ask, Deposit(1))).version == portal.runtime.last_position

    on_loop(main)


@command
class Pass:
    pass


@event("gate.passed")
class Passed:
    pass


class Gate(Aggregate):
    """Lets nobody pass before it is opened, and tells who comes."""

    opened: ClassVar[asyncio.Event]
    has_begun: ClassVar[asyncio.Event]

    @handles
    async def through(self, command: Pass) -> Passed:
        await on_asyncio(self.wait)()
        return Passed()

    @classmethod
    async def wait(cls) -> None:
        cls.has_begun.set()
        await cls.opened.wait()

    @applies
    def passed(self, event: Passed) -> None:
        pass


@pytest.mark.parametrize("cancels", [0, 1])
def test_what_is_under_way_is_answered_while_it_closes_though_its_task_is_cancelled(
    tmp_path: Path, cancels: int
) -> None:
    answers: list[asyncio.Task[Receipt]] = []

    async def program() -> None:
        async with AsyncioPortal(Runtime.open(tmp_path / "store", aggregates=[Gate])) as portal:
            gate = portal.runtime.actor(Gate, "g")
            answers.append(asyncio.create_task(portal.call(gate.ask, Pass())))
            await Gate.has_begun.wait()

    async def main() -> None:
        Gate.opened, Gate.has_begun = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(program())
        await Gate.has_begun.wait()
        await asyncio.sleep(0.01)
        for _ in range(cancels):
            running.cancel()
            await asyncio.sleep(0.01)
        assert not running.done()
        Gate.opened.set()
        await asyncio.wait([running])
        assert running.cancelled() == bool(cancels)
        assert (await answers[0]).version == 1
        with closing(EventLog(tmp_path / "store")) as log:
            assert log.last_position == 1

    on_loop(main)


def test_a_task_that_is_cancelled_twice_leaves_the_closing_to_the_thread(tmp_path: Path) -> None:
    async def program() -> None:
        async with AsyncioPortal(Runtime.open(tmp_path / "store", aggregates=[Gate])) as portal:
            portal.runtime.actor(Gate, "g").tell(Pass())
            await asyncio.Event().wait()

    async def main() -> None:
        Gate.opened, Gate.has_begun = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(program())
        await Gate.has_begun.wait()
        for _ in range(2):
            running.cancel()
            await asyncio.sleep(0.01)
        await asyncio.wait([running], timeout=60)
        assert running.cancelled()
        Gate.opened.set()
        while any(thread.name == THREAD_NAME for thread in threading.enumerate()):
            await asyncio.sleep(0.001)
        with closing(EventLog(tmp_path / "store")) as log:
            assert log.last_position == 1

    on_loop(main)


def test_what_ends_a_runtime_is_logged_where_its_task_was_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def failing() -> AsyncIterator[Runtime]:
        async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
            yield runtime
        await on_asyncio(closing_goes_on.wait)()
        raise OSError("the disk is gone")

    is_open, closing_goes_on = asyncio.Event(), asyncio.Event()

    async def program() -> None:
        async with AsyncioPortal(failing()):
            is_open.set()

    async def main() -> None:
        running = asyncio.create_task(program())
        await is_open.wait()
        running.cancel()
        await asyncio.sleep(0.01)
        closing_goes_on.set()
        await asyncio.wait([running])
        assert running.cancelled()

    on_loop(main)
    assert "the runtime ended with an error" in caplog.messages


PROGRAM = """
    import asyncio, signal, sys, trio, trio.testing
    sys.path.insert(0, sys.argv[2])
    from bank_domain import Account, Deposit, Slow, Wait
    from eventsrc import AsyncioPortal, Limits, Runtime

    # Ignored where the tests run in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    async def main():
        limits = Limits(shutdown_seconds=1000, command_timeout_seconds=1000)
        async with AsyncioPortal(Runtime.open(sys.argv[1], aggregates=[Account, Slow], limits=limits)) as portal:
            print((await portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1))).version, flush=True)
            for _ in range(20):
                portal.runtime.actor(Account, "ann").tell(Deposit(1))
            if "slow" in sys.argv:
                portal.runtime.actor(Slow, "s").tell(Wait())
            print("ready", flush=True)
            await portal.call(trio.lowlevel.spawn_system_task, tell_that_it_waits, portal.runtime)
            await asyncio.Event().wait()

    async def tell_that_it_waits(runtime):
        while not runtime._router.is_closing:
            await trio.sleep(0.001)
        await trio.testing.wait_all_tasks_blocked()
        print("closing", flush=True)

    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_closes_in_order_and_a_second_one_stops_at_once(tmp_path: Path, interrupts: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), tmp_path / "store", Path(__file__).parent]
    command += ["slow"] if interrupts == 2 else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["1\n", "ready\n"]
            process.send_signal(signal.SIGINT)
            if interrupts == 2:
                # One that comes before it has begun to close would be to it as if there were no other.
                assert process.stdout.readline() == "closing\n"
                process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, output.removeprefix("closing\n"), errors) == (0, "interrupted\n", "")
    with closing(EventLog(tmp_path / "store")) as log:
        assert log.last_position == 21 if interrupts == 1 else log.last_position >= 1
