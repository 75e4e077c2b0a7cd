"""Who acknowledges while the control board cannot be written is told what became of it, and never waits for ever."""

from pathlib import Path
from typing import Any

import pytest
import trio
from bank_domain import Account, Deposit

from eventsrc import FileWriteFailed, Runtime, RuntimeClosed
from eventsrc.storage.environment.board_environment import BoardEnvironment


async def test_an_acknowledgement_that_a_closing_runtime_cannot_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(environment: BoardEnvironment, _: Any) -> Any:
        raise FileWriteFailed(environment.path, "No space left on device")

    told: list[str] = []
    full = trio.Event()

    async def consume(runtime: Runtime, name: str, reached: trio.Event) -> None:
        async with runtime.consume(name) as consumer:
            async for message in consumer:
                reached.set()
                await full.wait()
                with pytest.raises(RuntimeClosed, match="handed out again"):
                    await message.ack()
                told.append(name)

    with trio.fail_after(10):
        async with trio.open_nursery() as outside:
            with pytest.raises((FileWriteFailed, ExceptionGroup)):
                async with Runtime.open(tmp_path / "store", aggregates=[Account]) as runtime:
                    await runtime.actor(Account, "ann").ask(Deposit(1))
                    for name in ("first", "second"):
                        reached = trio.Event()
                        outside.start_soon(consume, runtime, name, reached)
                        await reached.wait()
                    monkeypatch.setattr(BoardEnvironment, "write", refusing)
                    full.set()
                    await trio.lowlevel.checkpoint()
    assert sorted(told) == ["first", "second"]
    monkeypatch.undo()
    async with Runtime.open(tmp_path / "store", aggregates=[Account]) as runtime, runtime.consume("first") as consumer:
        with trio.fail_after(10):
            async for message in consumer:
                await message.ack()
                break
