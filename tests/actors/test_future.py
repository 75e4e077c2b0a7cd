"""What holds for the answer of a trio actor."""

import contextlib
import gc
import queue
import threading
import traceback
from functools import partial

import pykka
import pytest
import trio
import trio.lowlevel
import trio.testing

from eventsrc.actors.errors import WouldDeadlock
from eventsrc.actors.future import TrioFuture


async def collect(future: pykka.Future[int], into: list[int]) -> None:
    into.append(await future)


async def test_an_await_returns_the_value_that_was_set() -> None:
    future: TrioFuture[int] = TrioFuture()
    future.set(7)
    assert await future == 7
    assert await future == 7
    assert future.get() == 7


async def test_any_number_of_tasks_may_wait_for_one_future() -> None:
    future: TrioFuture[int] = TrioFuture()
    values: list[int] = []
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(collect, future, values)
        await trio.testing.wait_all_tasks_blocked()
        assert values == []
        assert future.settle(3)
    assert values == [3] * 5


async def test_a_cancelled_wait_leaves_the_future_and_others_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    future: TrioFuture[int] = TrioFuture()
    values: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, future, values)
        with trio.move_on_after(30) as scope:
            await future
        assert scope.cancelled_caught
        assert trio.current_time() == 30
        future.set(1)
    assert values == [1]
    assert await future == 1


async def test_a_task_that_is_cancelled_after_the_value_came_still_finds_it_later() -> None:
    future: TrioFuture[int] = TrioFuture()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, future, [])
            await trio.testing.wait_all_tasks_blocked()
            future.set(1)
            scope.cancel()
    assert await future == 1


async def test_awaiting_is_a_checkpoint_whether_or_not_it_is_settled() -> None:
    future: TrioFuture[int] = TrioFuture()
    future.set(1)
    with trio.testing.assert_checkpoints():
        await future
    with trio.CancelScope() as scope:
        scope.cancel()
        await future
    assert scope.cancelled_caught


async def test_an_error_is_raised_by_every_wait_with_a_traceback_that_does_not_grow() -> None:
    future: TrioFuture[int] = TrioFuture()
    try:
        raise KeyError("missing")
    except KeyError:
        future.set_exception()
    lengths = []
    for _ in range(3):
        with pytest.raises(KeyError, match="missing") as caught:
            await future
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(set(lengths)) == 1


async def test_an_exception_class_in_exc_info_is_instantiated() -> None:
    future: TrioFuture[int] = TrioFuture()
    future.set_exception((LookupError, None, None))
    with pytest.raises(LookupError):
        await future


def test_set_exception_without_any_exception_says_so() -> None:
    with pytest.raises(TypeError, match="exc_info"):
        TrioFuture[int]().set_exception()


def test_a_second_set_raises_and_keeps_the_first_value() -> None:
    future: TrioFuture[int] = TrioFuture()
    future.set(1)
    with pytest.raises(queue.Full):
        future.set(2)
    with pytest.raises(queue.Full):
        future.set_exception((KeyError, KeyError(), None))
    with pytest.raises(queue.Full):
        future.set_get_hook(lambda timeout: 3)
    assert future.get() == 1


def test_settle_and_fail_tell_whether_they_came_first() -> None:
    future: TrioFuture[int] = TrioFuture()
    assert not future.is_settled()
    assert future.fail(TimeoutError())
    assert future.is_settled()
    assert not future.settle(1)
    assert not future.fail(KeyError())
    with pytest.raises(TimeoutError):
        future.get()


def test_its_repr_tells_its_state() -> None:
    futures = [TrioFuture[int]() for _ in range(4)]
    futures[1].set(1)
    futures[2].fail(KeyError())
    futures[3].set_get_hook(lambda timeout: 1)
    states = ["pending", "settled", "failed", "hooked"]
    assert [repr(future) for future in futures] == [f"<TrioFuture {state}>" for state in states]


async def test_get_on_the_trio_thread_raises_at_once_when_it_would_block() -> None:
    future: TrioFuture[int] = TrioFuture()
    with pytest.raises(WouldDeadlock, match="await future") as caught:
        future.get(timeout=5)
    assert caught.value.future is future
    assert caught.value.code == "would_deadlock"
    future.set(1)
    assert future.get() == 1


def test_get_in_a_thread_without_trio_times_out() -> None:
    future: TrioFuture[int] = TrioFuture()
    with pytest.raises(pykka.Timeout, match="0 seconds"):
        future.get(timeout=0)
    future.set(1)
    assert future.get(timeout=0) == 1


async def test_a_thread_waits_for_a_value_set_on_the_trio_thread() -> None:
    future: TrioFuture[int] = TrioFuture()
    values: list[int] = []

    def wait() -> None:
        values.append(future.get())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(trio.to_thread.run_sync, wait)
        while future._settled is None:
            await trio.lowlevel.checkpoint()
        future.set(4)
    assert values == [4, 4, 4]


async def test_a_value_set_in_a_thread_wakes_tasks_and_threads() -> None:
    future: TrioFuture[int] = TrioFuture()
    values: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, future, values)
        nursery.start_soon(collect, future, values)
        await trio.testing.wait_all_tasks_blocked()
        await trio.to_thread.run_sync(future.set, 9)
    assert values == [9, 9]


async def test_a_task_cancelled_while_a_foreign_value_is_on_its_way_is_woken_once() -> None:
    future: TrioFuture[int] = TrioFuture()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, future, [])
            await trio.testing.wait_all_tasks_blocked()
            thread = threading.Thread(target=future.set, args=(1,))
            thread.start()
            thread.join()
            scope.cancel()
    assert await future == 1


async def test_settling_races_with_waiting_and_neither_is_lost() -> None:
    for _ in range(200):
        future: TrioFuture[int] = TrioFuture()
        thread = threading.Thread(target=future.settle, args=(5,))
        thread.start()
        with trio.fail_after(10):
            assert await future == 5
        thread.join()


def test_of_many_threads_that_settle_exactly_one_comes_first() -> None:
    for _ in range(50):
        future: TrioFuture[int] = TrioFuture()
        gate = threading.Barrier(4)
        firsts: list[int] = []

        def contend(number: int, future: TrioFuture[int] = future, gate: threading.Barrier = gate) -> None:
            gate.wait()
            if future.settle(number):
                firsts.append(number)  # noqa: B023

        threads = [threading.Thread(target=contend, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert firsts == [future.get()]


def test_a_waiter_whose_trio_run_is_over_does_not_disturb_setting() -> None:
    future: TrioFuture[int] = TrioFuture()

    async def give_up() -> None:
        with trio.move_on_after(0):
            await future

    trio.run(give_up)
    trio.run(give_up)
    future.set(1)
    assert future.get() == 1


async def test_a_get_hook_produces_the_value_once() -> None:
    calls: list[float | None] = []

    def hook(timeout: float | None) -> int:
        calls.append(timeout)
        return 5

    future: TrioFuture[int] = TrioFuture()
    future.set_get_hook(hook)
    with pytest.raises(queue.Full):
        future.set(1)
    assert future.get(timeout=2) == 5
    assert await future == 5
    assert calls == [2]


async def test_a_hook_set_while_tasks_wait_is_run_for_them() -> None:
    future: TrioFuture[int] = TrioFuture()
    values: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, future, values)
        await trio.testing.wait_all_tasks_blocked()
        future.set_get_hook(lambda timeout: 2)
    assert values == [2]


async def test_mapped_and_joined_futures_can_be_awaited_before_their_sources_are_settled() -> None:
    first: TrioFuture[int] = TrioFuture()
    second: TrioFuture[int] = TrioFuture()
    joined = first.map(lambda value: value + 1).join(second).map(sum)
    values: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, joined, values)
        await trio.testing.wait_all_tasks_blocked()
        second.set(10)
        await trio.testing.wait_all_tasks_blocked()
        assert values == []
        first.set(1)
    assert values == [12]


async def test_a_would_deadlock_that_is_an_answer_is_raised_rather_than_waited_out() -> None:
    other: TrioFuture[int] = TrioFuture()
    source: TrioFuture[int] = TrioFuture()
    mapped = source.map(lambda value: value)
    try:
        other.get()
    except WouldDeadlock:
        source.set_exception()
    with pytest.raises(WouldDeadlock):
        await mapped


async def test_a_failed_future_leaves_no_reference_cycle() -> None:
    gc.collect()
    gc.disable()
    others = {id(found) for found in gc.get_objects() if isinstance(found, TrioFuture)}
    try:
        future: TrioFuture[int] = TrioFuture()
        for _ in range(20):
            future = TrioFuture()
            future.fail(KeyError())
            with contextlib.suppress(KeyError):
                await future
        del future
        assert not [found for found in gc.get_objects() if isinstance(found, TrioFuture) and id(found) not in others]
    finally:
        gc.enable()


async def test_no_threading_primitive_is_made_for_tasks() -> None:
    future: TrioFuture[int] = TrioFuture()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, future, [])
        await trio.testing.wait_all_tasks_blocked()
        await trio.to_thread.run_sync(partial(future.set, 1))
    assert future._settled is None
