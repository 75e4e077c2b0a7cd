"""A runtime in a synchronous program."""

import asyncio
import contextlib
import contextvars
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import trio
from bank_domain import Account, Deposit, Deposited, Slow
from bank_views import Balances

from eventsrc import (
    Aggregate,
    BlockingPortal,
    EventLog,
    MemoryLog,
    Rejected,
    Runtime,
    RuntimeClosed,
    UnknownAggregate,
    WrongThread,
    applies,
    command,
    event,
    handles,
)
from eventsrc.runtime.embedding.runtime_thread import THREAD_NAME
from eventsrc.storage.errors import StoreForked, StoreInUse

name_of_caller = contextvars.ContextVar("name_of_caller", default="nobody")


pytestmark = pytest.mark.usefixtures("no_runtime_thread_is_left")


@contextmanager
def bank(path: Path | None = None) -> Iterator[BlockingPortal]:
    opening = Runtime.open(path or MemoryLog(), aggregates=[Account, Slow], projections=[Balances])
    with BlockingPortal(opening) as portal:
        yield portal


def test_commands_are_answered_and_read_back(tmp_path: Path) -> None:
    with bank(tmp_path / "store") as portal:
        ann = portal.runtime.actor(Account, "ann")
        receipt = portal.call(ann.ask, Deposit(100), idempotency_key="first")
        assert (receipt.version, receipt.position) == (1, 1)
        assert portal.call(ann.state).balance == 100
        row = portal.call(portal.runtime.view(Balances.rows).get, "ann", at_least=receipt)
        assert row is not None
        assert row.amount == 100
    with bank(tmp_path / "store") as portal:
        ann = portal.runtime.actor(Account, "ann")
        assert portal.call(ann.ask, Deposit(100), idempotency_key="first").duplicate


def test_errors_are_those_of_the_function() -> None:
    with bank() as portal:
        with pytest.raises(Rejected, match="must be positive"):
            portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(0))
        with pytest.raises(UnknownAggregate):
            portal.runtime.actor(Balances, "ann")  # type: ignore[type-var]
        with pytest.raises(SystemExit):
            portal.call(sys.exit, 3)
        with pytest.raises(RuntimeError, match="StopIteration"):
            portal.call(next, iter(()))
        assert portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1)).version == 1


def test_a_function_without_await_runs_on_the_runtimes_thread() -> None:
    with bank() as portal:
        assert portal.call(threading.current_thread).name == THREAD_NAME
        assert list(portal.call(portal.runtime.lag)) == ["balances"]


def test_any_number_of_threads_may_ask_at_once(tmp_path: Path) -> None:
    with bank(tmp_path / "store") as portal, ThreadPoolExecutor(20) as threads:
        ann = portal.runtime.actor(Account, "ann")
        receipts = list(threads.map(lambda number: portal.call(ann.ask, Deposit(number)), range(1, 201)))
        assert sorted(receipt.version for receipt in receipts) == list(range(1, 201))
        assert [receipt.events[0] for receipt in receipts] == [Deposited(number) for number in range(1, 201)]
        assert portal.call(ann.state).balance == sum(range(1, 201))


def test_a_call_sees_the_context_of_its_caller() -> None:
    async def name() -> str:
        await trio.lowlevel.checkpoint()
        return name_of_caller.get()

    with bank() as portal:
        assert portal.call(name) == "nobody"
        token = name_of_caller.set("ann")
        assert portal.call(name) == portal.call(name_of_caller.get) == "ann"
        name_of_caller.reset(token)


def test_iterators_are_left_at_any_time() -> None:
    with bank() as portal:
        runtime = portal.runtime
        portal.call(runtime.actor(Account, "ann").ask_many, [Deposit(1)] * 5)
        assert [stored.version for stored in portal.iterate(runtime.events())] == [1, 2, 3, 4, 5]
        for stored in portal.iterate(runtime.events(backwards=True)):
            assert stored.version == 5
            break
        for batch in portal.iterate(runtime.subscribe(after=3)):
            assert [stored.position for stored in batch] == [4, 5]
            break


def test_a_consumer_is_entered_and_acknowledges(tmp_path: Path) -> None:
    with bank(tmp_path / "store") as portal:
        portal.call(portal.runtime.actor(Account, "ann").ask_many, [Deposit(1)] * 3)
        for expected in (1, 2):
            with portal.enter(portal.runtime.consume("mailer")) as consumer:
                for message in portal.iterate(consumer):
                    assert message.event.position == expected
                    portal.call(message.ack)
                    break


def test_what_belongs_on_the_runtimes_thread_says_so_elsewhere_and_does_nothing(tmp_path: Path) -> None:
    with bank(tmp_path / "store") as portal:
        runtime = portal.runtime
        portal.call(runtime.actor(Account, "ann").ask_many, [Deposit(1)] * 2)
        with portal.enter(runtime.consume("mailer")) as consumer:
            message = next(portal.iterate(consumer))
            for method, arguments in ((message.ack_soon, ()), (message.fail, ("broken",)), (message.release, ())):
                with pytest.raises(WrongThread, match=r"write portal\.call\(message\."):
                    method(*arguments)
            assert message.is_in_hand
            portal.call(message.ack)
            assert next(portal.iterate(consumer)).event.position == 2
        assert runtime.lag()["balances"].events in (0, 1, 2), "which any thread may ask"


@asynccontextmanager
async def told(log: list[str], swallows: type[Exception] | tuple[()] = ()) -> AsyncIterator[str]:
    """Tells how it is entered and left; its nursery can be left by the task that entered it alone."""
    task = trio.lowlevel.current_task()
    log.append("entered")
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                yield "value"
            except Exception as error:
                log.append(f"failed: {error}")
                if not isinstance(error, swallows):
                    raise
            finally:
                nursery.cancel_scope.cancel()
    finally:
        assert trio.lowlevel.current_task() is task
        log.append("left")


def test_a_context_is_left_by_the_task_that_entered_it_with_the_error_of_its_block() -> None:
    log: list[str] = []
    with bank() as portal:
        with portal.enter(told(log)) as value:
            assert value == "value"
        assert log == ["entered", "left"]
        with portal.enter(told(log, swallows=ZeroDivisionError)):
            raise ZeroDivisionError("of the block")
        assert log[2:] == ["entered", "failed: of the block", "left"]


@asynccontextmanager
async def plain(log: list[str]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        log.append("left")


def test_an_error_that_a_context_does_not_swallow_is_raised() -> None:
    log: list[str] = []
    with bank() as portal:
        error = ZeroDivisionError("of the block")
        with pytest.raises(ZeroDivisionError) as raised, portal.enter(plain(log)):
            raise error
        assert raised.value is error
        with pytest.raises(KeyboardInterrupt), portal.enter(plain(log)):
            raise KeyboardInterrupt
        assert log == ["left", "left"]


def test_a_context_that_cannot_be_entered_says_why() -> None:
    @asynccontextmanager
    async def shut() -> AsyncIterator[None]:
        raise PermissionError("shut")
        yield

    with bank() as portal, pytest.raises(PermissionError, match="shut"), portal.enter(shut()):
        pytest.fail("it was entered")


@command
class Pass:
    pass


@event("gate.passed")
class Passed:
    pass


class Gate(Aggregate):
    """Lets nobody pass before the runtime closes."""

    has_begun: ClassVar[threading.Event]
    runtime: ClassVar[Runtime]

    @handles
    async def through(self, command: Pass) -> Passed:
        self.has_begun.set()
        while not self.runtime._router.is_closing:
            await trio.sleep(0.001)
        return Passed()

    @applies
    def passed(self, event: Passed) -> None:
        pass


def test_what_is_under_way_is_answered_while_the_runtime_closes(tmp_path: Path) -> None:
    Gate.has_begun = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        with BlockingPortal(Runtime.open(tmp_path / "store", aggregates=[Gate])) as portal:
            Gate.runtime = portal.runtime
            waiting = threads.submit(portal.call, portal.runtime.actor(Gate, "g").ask, Pass())
            assert Gate.has_begun.wait(60)
        assert waiting.result().version == 1
    with closing(EventLog(tmp_path / "store")) as log:
        assert log.last_position == 1


def test_what_would_never_end_is_ended_when_the_runtime_is_closed() -> None:
    has_begun, has_read = threading.Event(), threading.Event()

    async def forever() -> None:
        has_begun.set()
        await trio.sleep_forever()

    def follow(portal: BlockingPortal) -> str:
        for _ in portal.iterate(portal.runtime.subscribe()):
            has_read.set()
        return "the log has ended"

    with ThreadPoolExecutor(2) as threads:
        with bank() as portal:
            portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1))
            sleeping, following = threads.submit(portal.call, forever), threads.submit(follow, portal)
            assert has_begun.wait(60)
            assert has_read.wait(60)
        with pytest.raises(RuntimeClosed, match="same idempotency key"):
            sleeping.result()
        assert following.result() == "the log has ended"


def test_a_store_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with bank(tmp_path / "store"):
        other = BlockingPortal(Runtime.open(tmp_path / "store", aggregates=[Account]))
        with pytest.raises(StoreInUse), other:
            pytest.fail("it was opened twice")
        with pytest.raises(RuntimeClosed):
            other.call(len, "")


def test_a_portal_is_used_within_its_block() -> None:
    portal = BlockingPortal(Runtime.open(MemoryLog(), aggregates=[Account]))
    with pytest.raises(RuntimeClosed, match=r"`with portal:`"):
        portal.call(len, "")
    with pytest.raises(RuntimeClosed, match=r"`with portal:`"):
        portal.runtime.actor(Account, "ann")
    with portal:
        ann = portal.runtime.actor(Account, "ann")
    with pytest.raises(RuntimeClosed, match="was not begun"):
        portal.call(ann.ask, Deposit(1))
    with pytest.raises(RuntimeClosed, match="entered once"), portal:
        pytest.fail("it was entered twice")


def test_a_function_on_the_runtimes_thread_awaits_instead_of_blocking_it() -> None:
    with bank() as portal:
        with pytest.raises(WrongThread, match="Await the function itself"):
            portal.call(lambda: portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1)))
        assert portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1)).version == 1


def test_a_failure_of_the_runtime_ends_the_calls_and_the_block(tmp_path: Path) -> None:
    @asynccontextmanager
    async def failing() -> AsyncIterator[Runtime]:
        async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime, trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            yield runtime

    failed = threading.Event()

    async def fail() -> None:
        await trio.to_thread.run_sync(failed.wait)
        raise OSError("the disk is gone")

    with pytest.raises(ExceptionGroup) as ended, BlockingPortal(failing()) as portal:
        failed.set()
        with pytest.raises(RuntimeClosed) as refused:
            portal.call(trio.sleep_forever)
        assert isinstance(refused.value.__cause__, ExceptionGroup)
        with pytest.raises(RuntimeClosed):
            portal.call(len, "")
    assert [str(error) for error in ended.value.exceptions] == ["the disk is gone"]


def test_a_forked_child_is_told_to_open_the_store_itself(tmp_path: Path) -> None:
    with bank(tmp_path / "store") as portal:
        child = os.fork()
        if not child:
            code = 1
            try:
                portal.call(len, "")
            except StoreForked:
                with contextlib.suppress(BaseException):
                    portal.__exit__(None, None, None)
                    code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1)).version == 1


def test_it_works_under_a_loop_of_asyncio_that_runs() -> None:
    async def cell_of_a_notebook() -> int:
        with bank() as portal:
            return portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1)).version

    assert asyncio.run(cell_of_a_notebook()) == 1


PROGRAM = """
    import signal, sys, trio, trio.testing
    sys.path.insert(0, sys.argv[2])
    from bank_domain import Account, Deposit, Deposited, Slow, Wait
    from eventsrc import BlockingPortal, Limits, Runtime

    # Ignored where the tests run in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    async def tell_that_it_waits(runtime):
        while not runtime._router.is_closing:
            await trio.sleep(0.001)
        await trio.testing.wait_all_tasks_blocked()
        print("closing", flush=True)

    async def forever():
        print("ready", flush=True)
        try:
            await trio.sleep_forever()
        finally:
            print("cancelled", flush=True)

    limits = Limits(shutdown_seconds=1000, command_timeout_seconds=1000)
    try:
        with BlockingPortal(Runtime.open(sys.argv[1], aggregates=[Account, Slow], limits=limits)) as portal:
            print(portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1)).version, flush=True)
            for _ in range(20):
                portal.runtime.actor(Account, "ann").tell(Deposit(1))
            if "slow" in sys.argv:
                portal.runtime.actor(Slow, "s").tell(Wait())
                portal.call(trio.lowlevel.spawn_system_task, tell_that_it_waits, portal.runtime)
            portal.call(forever)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@contextmanager
def program(store: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), store, Path(__file__).parent, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["1\n", "ready\n"]
            yield process
        finally:
            process.kill()


def test_ctrl_c_cancels_the_call_and_closes_in_order(tmp_path: Path) -> None:
    with program(tmp_path / "store") as process:
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "cancelled\ninterrupted\n", "")
    with closing(EventLog(tmp_path / "store")) as log:
        assert log.last_position == 21


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    with program(tmp_path / "store", "slow") as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "closing\n":
            assert line == "cancelled\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (output, errors) == ("interrupted\n", "")
    with closing(EventLog(tmp_path / "store")) as log:
        assert log.last_position >= 1, "what was answered is there"
