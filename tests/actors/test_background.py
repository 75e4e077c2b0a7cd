"""Work beside the caller's own."""

import signal

import pytest
import trio

from eventsrc.actors.background import in_background


def test_ctrl_c_while_it_runs_reaches_the_main_task_and_does_not_end_it() -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        signal.raise_signal(signal.SIGINT)
        ended.append(name)
        await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_background, work, "background")
            with pytest.raises(KeyboardInterrupt):
                await trio.sleep_forever()
            ended.append("main")

    # Ignored where the tests run in the background of a shell.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        trio.run(main)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == ["background", "main"]
