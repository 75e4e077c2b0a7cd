"""What domain code, which runs on trio, awaits of asyncio."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
import trio
from bank_domain import Account, Deposit
from portal_cases import bank, on_loop

from eventsrc import (
    Aggregate,
    AsyncioPortal,
    AsyncioTaskCancelled,
    HandlerFailed,
    Limits,
    MemoryLog,
    NoAsyncioLoop,
    Retry,
    Runtime,
    Saga,
    SagaContext,
    applies,
    command,
    event,
    handles,
    on_asyncio,
    step,
)
from eventsrc.runtime.embedding import asyncio_portal

pytestmark = pytest.mark.usefixtures("no_runtime_thread_is_left")

name_of_caller = contextvars.ContextVar("name_of_caller", default="nobody")


@command
class Think:
    prompt: str


@event("agent.thought")
class Thought:
    answer: str


class Agent(Aggregate):
    """Asks a model that has its client on asyncio."""

    model: ClassVar[Callable[[str], Awaitable[str]]]
    answers: int = 0

    @handles
    async def think(self, command: Think) -> Thought:
        return Thought(await on_asyncio(type(self).model)(command.prompt))

    @applies
    def thought(self, event: Thought) -> None:
        self.answers += 1


@asynccontextmanager
async def agents(model: Callable[[str], Awaitable[str]], limits: Limits | None = None) -> AsyncIterator[AsyncioPortal]:
    Agent.model = staticmethod(model)  # type: ignore[assignment]
    opening = Runtime.open(MemoryLog(), aggregates=[Agent, Account], sagas=[Research], limits=limits or Limits())
    async with AsyncioPortal(opening) as portal:
        yield portal


class Research(Saga):
    prompt: str
    answer: str = ""

    @step
    async def ask(self, ctx: SagaContext) -> None:
        self.answer = await ctx.effect("complete", on_asyncio(Agent.model), self.prompt)


def test_handlers_and_steps_await_functions_on_asyncio() -> None:
    async def model(prompt: str) -> str:
        await asyncio.sleep(0.001)
        assert threading.current_thread() is threading.main_thread()
        return prompt.upper()

    async def main() -> None:
        async with agents(model) as portal:
            receipt = await portal.call(portal.runtime.actor(Agent, "a").ask, Think("why"))
            assert receipt.events == (Thought("WHY"),)
            saga = await portal.call(portal.runtime.start_saga, Research("how"), key="r")
            assert (await portal.call(saga.wait)).saga.answer == "HOW"
            assert await on_asyncio(model)("here") == "HERE", "on asyncio it is the function"

    on_loop(main)


def test_what_is_done_on_asyncio_for_a_command_is_caused_by_it() -> None:
    portals: list[AsyncioPortal] = []

    async def model(prompt: str) -> str:
        account = portals[0].runtime.actor(Account, "ann")
        receipt = await portals[0].call(account.ask, Deposit(1))
        return f"{name_of_caller.get()}: {receipt.position}"

    async def main() -> None:
        async with agents(model) as portal:
            portals.append(portal)
            name_of_caller.set("ann")
            agent = portal.runtime.actor(Agent, "a")
            receipt = await portal.call(agent.ask, Think("pay"), correlation_id="conversation-1")
            assert receipt.position == 2
            stored = [each async for each in portal.iterate(portal.runtime.events())]
            assert [each.correlation_id for each in stored] == ["conversation-1"] * 2
            assert stored[0].metadata["caused_by"] == stored[1].causation_id

    on_loop(main)


def test_an_error_on_asyncio_is_that_of_the_handler() -> None:
    async def model(prompt: str) -> str:
        if prompt == "cancel":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        raise ValueError("the model is tired")

    async def main() -> None:
        async with agents(model) as portal:
            agent = portal.runtime.actor(Agent, "a")
            with pytest.raises(HandlerFailed, match="the model is tired"):
                await portal.call(agent.ask, Think("why"))
            with pytest.raises(AsyncioTaskCancelled, match=r"model was cancelled on asyncio"):
                await portal.call(agent.ask, Think("cancel"))

    on_loop(main)


async def cut_off(function: Callable[[Callable[[], None]], Awaitable[str]]) -> str:
    """Await a function on asyncio, and cancel that once it has begun, which it tells."""
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        return await on_asyncio(function)(lambda: token.run_sync_soon(scope.cancel))
    return "went on"


def test_a_task_on_asyncio_is_cancelled_with_what_awaits_it_and_ends_before() -> None:
    log: list[str] = []

    async def stubborn(tell_that_it_has_begun: Callable[[], None]) -> str:
        tell_that_it_has_begun()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            log.append("ended")
        return ""

    async def in_time(tell_that_it_has_begun: Callable[[], None]) -> str:
        tell_that_it_has_begun()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done in spite of it"
        return ""

    async def main() -> None:
        async with bank() as portal:
            assert await portal.call(cut_off, stubborn) == "went on"
            assert log == ["ended"]
            assert await portal.call(cut_off, in_time) == "done in spite of it"

    on_loop(main)


def test_one_that_does_not_end_is_waited_for_so_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asyncio_portal, "TASK_CANCEL_SECONDS", 0.02)

    async def main() -> None:
        until = asyncio.Event()

        async def deaf(tell_that_it_has_begun: Callable[[], None]) -> str:
            tell_that_it_has_begun()
            while not until.is_set():
                try:
                    await until.wait()
                except asyncio.CancelledError:
                    continue
            return ""

        async with bank() as portal:
            assert await portal.call(cut_off, deaf) == "went on"
            until.set()

    on_loop(main)
    assert "a task on asyncio was cancelled and goes on" in caplog.messages


def test_any_factory_of_tasks_will_do() -> None:
    async def model(prompt: str) -> str:
        await asyncio.sleep(0)
        return f"{name_of_caller.get()}: {prompt}"

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(lambda loop, work: asyncio.Task(work, loop=loop))  # type: ignore[arg-type]
        async with bank() as portal:
            name_of_caller.set("ann")
            assert await portal.call(on_asyncio(model), "why") == "ann: why"

    on_loop(main)


def test_a_factory_of_tasks_that_fails_is_told_to_whoever_awaits() -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise LookupError("no tasks here")

    async def model() -> str:
        return ""

    async def main() -> None:
        async with bank() as portal:
            asyncio.get_running_loop().set_task_factory(refuse)
            with pytest.raises(LookupError, match="no tasks here"):
                await portal.call(on_asyncio(model))
            asyncio.get_running_loop().set_task_factory(None)

    on_loop(main)


def test_what_awaits_asyncio_without_it_is_told_to_use_it() -> None:
    async def model(prompt: str) -> str:
        await asyncio.sleep(1)
        return prompt

    class Hasty(Saga):
        @step(retry=Retry(attempts=1))
        async def ask(self, ctx: SagaContext) -> None:
            await model("why")

    async def main() -> None:
        async with AsyncioPortal(Runtime.open(MemoryLog(), sagas=[Hasty])) as portal:
            saga = await portal.call(portal.runtime.start_saga, Hasty(), key="h")
            assert (
                "RuntimeError: no running event loop (it runs on trio: await on_asyncio("
                in (await portal.call(saga.wait)).error
            )
        with pytest.raises(HandlerFailed, match=r"no running event loop \(it runs on trio: await on_asyncio\("):
            async with AsyncioPortal(Runtime.open(MemoryLog(), aggregates=[Careless])) as portal:
                await portal.call(portal.runtime.actor(Careless, "c").ask, Think("why"))

    on_loop(main)


class Careless(Aggregate):
    @handles
    async def think(self, command: Think) -> None:
        await asyncio.sleep(1)


async def test_without_a_loop_it_says_how_to_have_one() -> None:
    with pytest.raises(NoAsyncioLoop, match=r"sleep runs on asyncio.* open the runtime by AsyncioPortal"):
        await on_asyncio(asyncio.sleep)(0)
