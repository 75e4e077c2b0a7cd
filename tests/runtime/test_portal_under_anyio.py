"""A portal in a program that is written with anyio, as web frameworks are: its scopes cancel a task again and again."""

import asyncio
from contextlib import AsyncExitStack, closing
from pathlib import Path

import anyio
import pytest
import trio
from bank_domain import Account, Deposit
from portal_cases import bank, on_loop

from eventsrc import AsyncioPortal, EventLog, Runtime

OPENED_SECONDS = 0.05


def test_a_cancelled_call_has_ended_when_its_scope_is_left() -> None:
    log: list[str] = []

    async def slow(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.01)
            log.append(name)

    async def main() -> None:
        async with bank() as portal:

            async def call_slow() -> None:
                await portal.call(slow, "group")

            with anyio.move_on_after(0.05) as scope:
                await portal.call(slow, "timeout")
            assert scope.cancelled_caught
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call_slow)
                await asyncio.sleep(0.01)
                tasks.cancel_scope.cancel()
            assert log == ["timeout", "group"]
            assert (await portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1))).version == 1

    on_loop(main)


@pytest.mark.parametrize("is_in_group", [True, False])
def test_a_cancelled_call_is_waited_for_when_another_scope_is_cancelled_meanwhile(is_in_group: bool) -> None:
    log: list[str] = []

    async def slow() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.2)
            log.append("ended")

    async def main() -> None:
        async with bank() as portal:
            with anyio.CancelScope() as outer, anyio.CancelScope() as inner:
                asyncio.get_running_loop().call_later(0.05, outer.cancel)
                if is_in_group:
                    # The group cancels its own scope as soon as this task has left it.
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(portal.call, slow)
                        await anyio.sleep_forever()
                asyncio.get_running_loop().call_later(0.1, inner.cancel)
                await portal.call(slow)
            assert outer.cancelled_caught
            assert log == ["ended"]

    on_loop(main)


@pytest.mark.parametrize("message", [None, "stop"])
def test_a_plain_task_leaves_a_call_at_once_when_it_is_cancelled_again(message: str | None) -> None:
    ended: list[float] = []

    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        ended.append(trio.current_time())

    async def main() -> None:
        async with bank() as portal:
            task = asyncio.create_task(portal.call(stubborn))
            for _ in range(2):
                await asyncio.sleep(0.05)
                task.cancel(message)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not ended

    on_loop(main)


@pytest.mark.parametrize("is_cancelled_in_block", [True, False])
def test_a_runtime_is_closed_in_order_when_its_scope_is_left(tmp_path: Path, is_cancelled_in_block: bool) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with AsyncioPortal(Runtime.open(tmp_path / "store", aggregates=[Account])) as portal:
                for _ in range(20):
                    portal.runtime.actor(Account, "ann").tell(Deposit(1))
                scope.cancel()
                if is_cancelled_in_block:
                    await anyio.sleep_forever()
        assert scope.cancelled_caught
        with closing(EventLog(tmp_path / "store")) as log:
            assert log.last_position == 20

    on_loop(main)


def test_a_context_is_left_when_its_scope_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with bank(tmp_path / "store") as portal:
            await portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1))
            with anyio.move_on_after(OPENED_SECONDS):
                async with portal.enter(portal.runtime.consume("mailer")) as consumer:
                    await portal.call(anext, consumer)
                    await anyio.sleep_forever()
            # What was not acknowledged goes to the next one at once.
            async with portal.enter(portal.runtime.consume("mailer")) as consumer:
                assert (await portal.call(anext, consumer)).event.position == 1

    on_loop(main)


@pytest.mark.parametrize("manager", ["portal", "context"])
def test_what_a_cancelled_block_fails_with_is_not_lost(tmp_path: Path, manager: str) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            scope = stack.enter_context(anyio.CancelScope())
            portal = await stack.enter_async_context(AsyncioPortal(Runtime.open(tmp_path, aggregates=[Account])))
            if manager == "context":
                await stack.enter_async_context(portal.enter(portal.runtime.consume("mailer")))
            scope.cancel()
            try:
                await anyio.sleep_forever()
            finally:
                raise OSError("while cleaning up")

    with pytest.raises(OSError, match="while cleaning up"):
        on_loop(main)
