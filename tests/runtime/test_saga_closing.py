"""What is asked of sagas of a runtime that closes or was closed."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from saga_cases import Patient, open_runtime

from eventsrc import MemoryLog, Runtime, RuntimeClosed, SagaNotParked, SagaRef
from eventsrc.actors.future import TrioFuture
from eventsrc.actors.sagas.orders import DecideParked, SagaOrder, SendSignal
from eventsrc.actors.sagas.supervisor import SagaSupervisor
from eventsrc.storage.store import EventStore

ASKED: dict[str, Callable[[Runtime, SagaRef[Patient]], Awaitable[Any]]] = {
    "start": lambda runtime, saga: runtime.start_saga(Patient([]), key="new"),
    "signal": lambda runtime, saga: saga.signal("release", 1),
    "Runtime.signal": lambda runtime, saga: runtime.signal(Patient, "1", "release"),
    "retry": lambda runtime, saga: saga.retry(reason="why"),
    "skip": lambda runtime, saga: saga.skip(reason="why"),
    "abandon": lambda runtime, saga: saga.abandon(reason="why"),
}
READ: dict[str, Callable[[Runtime, SagaRef[Patient]], Awaitable[Any]]] = {
    "status": lambda runtime, saga: saga.status(),
    "wait": lambda runtime, saga: saga.wait(),
}


@pytest.mark.parametrize("name", [*ASKED, *READ])
async def test_whatever_is_asked_of_a_saga_of_a_closed_runtime_is_refused_alike(
    store: EventStore | Path, name: str
) -> None:
    async with open_runtime(store, Patient) as runtime:
        saga = await runtime.start_saga(Patient([]), key="1")
    with trio.fail_after(60), pytest.raises(RuntimeClosed):
        await (ASKED | READ)[name](runtime, saga)


@pytest.mark.parametrize("name", ASKED)
async def test_an_actor_that_is_found_dead_is_a_closed_runtime(name: str) -> None:
    async with open_runtime(MemoryLog(), Patient) as runtime:
        saga = await runtime.start_saga(Patient([]), key="1")
    runtime._router.is_closing = False  # as if it was closed between the look at that and the order
    with trio.fail_after(60), pytest.raises(RuntimeClosed):
        await ASKED[name](runtime, saga)


async def test_an_order_in_the_mailbox_of_a_supervisor_that_ends_is_answered() -> None:
    async with open_runtime(MemoryLog(), Patient) as runtime:
        saga = await runtime.start_saga(Patient([]), key="1")
        await trio.testing.wait_all_tasks_blocked()
        orders: list[SagaOrder] = [DecideParked(saga.id, "retry", "why", TrioFuture()) for _ in range(2)]
        orders.append(SendSignal(saga.id, "release", 1, TrioFuture()))
        async with trio.open_nursery() as nursery:
            supervisor = SagaSupervisor(runtime._supervised, runtime.last_position)
            supervisor.start_in(nursery)
            await trio.testing.wait_all_tasks_blocked()
            for order in orders:
                supervisor.actor_ref.tell(order)
            nursery.cancel_scope.cancel()
        for order, error in zip(orders, [SagaNotParked, RuntimeClosed, RuntimeClosed], strict=True):
            with trio.fail_after(60), pytest.raises(error):
                await order.answer


async def test_who_begins_to_wait_for_a_saga_while_the_runtime_closes_is_told() -> None:
    async with open_runtime(MemoryLog(), Patient) as runtime:
        saga = await runtime.start_saga(Patient([]), key="1")
        await trio.testing.wait_all_tasks_blocked()
        await runtime._supervised.close(1)
        with trio.fail_after(60), pytest.raises(RuntimeClosed):
            await saga.wait()
