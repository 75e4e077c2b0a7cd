"""Portals whose program is interrupted, forks, or fails at an odd moment."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from bank_domain import Account, Deposit

from eventsrc import BlockingPortal, MemoryLog, Runtime, RuntimeClosed
from eventsrc.runtime.embedding import blocking_portal
from eventsrc.runtime.embedding.handover import Handover
from eventsrc.runtime.embedding.runtime_thread import THREAD_NAME

pytestmark = pytest.mark.usefixtures("no_runtime_thread_is_left")


@contextmanager
def bank(path: Path | None = None) -> Iterator[BlockingPortal]:
    with BlockingPortal(Runtime.open(path or MemoryLog(), aggregates=[Account])) as portal:
        yield portal


def code_of_child(program: Callable[[], object]) -> int:
    """What a forked child ends with: 0 where the program returns, 3 where it raises `SystemExit`."""
    child = os.fork()
    if not child:
        code = 1
        try:
            program()
            code = 0
        except SystemExit:
            code = 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_portal_that_was_made_before_a_fork_is_entered_in_the_child(tmp_path: Path) -> None:
    portal = BlockingPortal(Runtime.open(tmp_path / "store", aggregates=[Account]))

    def worker() -> None:
        with portal:
            assert portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1)).version == 1
        assert not [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]

    assert code_of_child(worker) == 0
    with bank(tmp_path / "store") as again:
        assert again.runtime.last_position == 1


@pytest.mark.parametrize("ends", [False, True])
def test_a_forked_child_leaves_a_context_without_waiting(tmp_path: Path, ends: bool) -> None:
    with bank(tmp_path / "store") as portal:
        stay = portal.enter(portal.runtime.consume("mailer"))
        with stay:

            def leave() -> None:
                error = SystemExit() if ends else None
                if not stay.__exit__(error and type(error), error, None) and error:
                    raise error

            assert code_of_child(leave) == (3 if ends else 0)
        assert portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1)).version == 1


def test_what_sleeps_in_nurseries_of_its_own_is_told_that_the_runtime_was_closed() -> None:
    has_begun = threading.Event()

    async def work() -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(trio.sleep_forever)
            inner.start_soon(trio.sleep_forever)
            has_begun.set()
            await trio.sleep_forever()

    with ThreadPoolExecutor(1) as threads:
        with bank() as portal:
            working = threads.submit(portal.call, work)
            assert has_begun.wait(60)
        with pytest.raises(RuntimeClosed, match="before this was done"):
            working.result()


def test_a_call_that_was_interrupted_before_it_was_sent_never_takes_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    with bank() as portal:
        ann = portal.runtime.actor(Account, "ann")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(portal._thread, "begin", interrupted)
            portal.call(ann.ask, Deposit(1))
        call = portal._thread.call(ann.ask, Deposit(1))
        portal._thread.cancel(call)
        with pytest.raises(CancelledError):
            call.future.result(60)
        portal._thread.begin(call)
        assert portal.call(ann.state).balance == 0


def test_one_that_was_interrupted_when_it_had_just_been_sent_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    async def work() -> None:
        log.append("begun")
        try:
            await trio.sleep_forever()
        finally:
            log.append("ended")

    with bank() as portal, monkeypatch.context() as patch:
        begin = portal._thread.begin
        patch.setattr(portal._thread, "begin", lambda call: interrupted(begin(call)))
        with pytest.raises(KeyboardInterrupt):
            portal.call(work)
        assert log == ["begun", "ended"]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_portal_that_is_interrupted_while_its_thread_starts_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == THREAD_NAME:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_and_interrupt)
        with pytest.raises(KeyboardInterrupt), bank(tmp_path / "store"):
            pytest.fail("it was entered")
    with bank(tmp_path / "store") as portal:
        assert portal.runtime.last_position == 0


def test_the_first_ctrl_c_while_it_closes_waits_until_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled = blocking_portal._settled
    interrupts = [KeyboardInterrupt()]

    def settled_if_not_interrupted(future: Future[object]) -> Future[object]:
        if interrupts:
            raise interrupts.pop()
        return settled(future)

    with pytest.raises(KeyboardInterrupt), bank(tmp_path / "store") as portal:
        portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1))
        monkeypatch.setattr(blocking_portal, "_settled", settled_if_not_interrupted)
    with bank(tmp_path / "store") as portal:
        assert portal.runtime.last_position == 1


def test_a_handover_that_is_interrupted_while_it_wakes_loses_nobody_else() -> None:
    """Another thread has counted on the wake-up that did not come."""
    waiting: list[Callable[[], None]] = []
    done: list[str] = []
    interrupts = [KeyboardInterrupt()]

    def wake(function: Callable[[], None]) -> None:
        if interrupts:
            error = interrupts.pop()
            handover.put(lambda: done.append("other"))
            raise error
        waiting.append(function)

    handover = Handover(wake)
    with pytest.raises(KeyboardInterrupt):
        handover.put(lambda: done.append("first"))
    for function in waiting:
        function()
    assert done == ["first", "other"]
