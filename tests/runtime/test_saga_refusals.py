"""Records of a saga that the store refuses, while the command that came after them would find room."""

import threading
from pathlib import Path

import trio
import trio.testing
from saga_cases import open_runtime, records
from shop_domain import Stock, Take

from eventsrc import Retry, Saga, SagaContext, StoreFull, step
from eventsrc.runtime.testing import FollowingClock

AGAIN_SECONDS = 60


class Disk(FollowingClock):
    """The journal asks for the time before it writes: here it can be stopped, and find no room."""

    def __init__(self) -> None:
        super().__init__()
        self._trio_thread = threading.get_ident()
        self._has_stopped = threading.Event()
        self._may_go_on = threading.Event()
        self._may_go_on.set()

    def __call__(self) -> int:
        if threading.get_ident() != self._trio_thread and not self._may_go_on.is_set():
            self._has_stopped.set()
            assert self._may_go_on.wait(60)
            raise StoreFull("disk", "no room, the test says")
        return super().__call__()

    def stop_at_next_write(self) -> None:
        self._may_go_on.clear()

    async def until_stopped(self) -> None:
        await trio.to_thread.run_sync(self._has_stopped.wait, 10)

    def refuse(self) -> None:
        self._may_go_on.set()


async def test_a_command_takes_no_effect_if_the_records_before_it_are_refused(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    disk, attempts = Disk(), 0

    class Stumble(Saga):
        @step(retry=Retry(attempts=2, backoff_seconds=AGAIN_SECONDS, backoff_seconds_max=AGAIN_SECONDS))
        async def stumble(self, ctx: SagaContext) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                raise OSError("try again")

        @step
        async def take(self, ctx: SagaContext) -> None:
            await disk.until_stopped()
            await ctx.ask(Stock, "s", Take(1))

    async with open_runtime(tmp_path / "store", Stumble, wall_clock=disk) as runtime:
        await runtime.actor(Stock, "s").ask(Take(1))
        saga = await runtime.start_saga(Stumble(), key="1")
        try:
            while "step_failed" not in await records(runtime, "saga_stumble-1"):
                await trio.testing.wait_all_tasks_blocked(0.01)
            disk.stop_at_next_write()
            mock_clock.jump(2 * AGAIN_SECONDS)
            await disk.until_stopped()
            await trio.testing.wait_all_tasks_blocked(0.01)
        finally:
            disk.refuse()
            mock_clock.autojump_threshold = 0.01

        assert (await saga.wait()).state == "completed"
        assert attempts == 3, "what the refused records say was done again"
        assert (await runtime.actor(Stock, "s").state()).changes == 2, "the command took effect once"
