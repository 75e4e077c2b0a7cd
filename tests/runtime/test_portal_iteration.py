"""Iterating through a portal: what came when whoever waited for it was cut off is not lost."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest
from portal_cases import bank, on_loop

from eventsrc import BlockingPortal, MemoryLog, Runtime
from eventsrc.runtime.embedding import blocking_portal

pytestmark = pytest.mark.usefixtures("no_runtime_thread_is_left")


class Numbers(AsyncIterator[int]):
    """1, 2, 3 and so on, on trio; `given` is set when one was."""

    def __init__(self, count: int = 3) -> None:
        self._numbers = iter(range(1, count + 1))
        self.given = threading.Event()

    async def __anext__(self) -> int:
        for number in self._numbers:
            self.given.set()
            return number
        raise StopAsyncIteration


class BareNumbers(Numbers):
    """Cannot be the key of a mapping."""

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(("kind", "begun_again"), [(Numbers, False), (Numbers, True), (BareNumbers, False)])
def test_what_came_when_the_task_was_cancelled_comes_next(kind: type[Numbers], begun_again: bool) -> None:
    async def main() -> None:
        async with bank() as portal:
            numbers = kind()
            items = portal.iterate(numbers)
            waiting = asyncio.create_task(anext(items))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            # The task is told of neither before this one goes on.
            assert numbers.given.wait(60)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            if begun_again:
                items = portal.iterate(numbers)
            assert [number async for number in items] == [1, 2, 3]
            assert [number async for number in items] == []

    on_loop(main)


def test_tasks_that_share_an_iterator_get_each_item_once() -> None:
    async def main() -> None:
        async with bank() as portal:
            items = portal.iterate(Numbers())
            got = await asyncio.gather(*(anext(items, None) for _ in range(5)))
            assert sorted(filter(None, got)) == [1, 2, 3]

    on_loop(main)


def test_threads_that_share_an_iterator_get_each_item_once() -> None:
    with BlockingPortal(Runtime.open(MemoryLog())) as portal, ThreadPoolExecutor(4) as threads:
        items = portal.iterate(Numbers(400))
        got = list(chain.from_iterable(threads.map(lambda _: list(items), range(4))))
    assert sorted(got) == list(range(1, 401))


def test_what_came_when_the_thread_was_interrupted_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    settled = blocking_portal._settled
    interrupts = [KeyboardInterrupt()]

    def settled_and_interrupted(future: Future[Any]) -> Future[Any]:
        settled(future)
        if interrupts:
            raise interrupts.pop()
        return future

    with BlockingPortal(Runtime.open(MemoryLog())) as portal:
        items = portal.iterate(Numbers())
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(blocking_portal, "_settled", settled_and_interrupted)
            next(items)
        assert list(items) == [1, 2, 3]
