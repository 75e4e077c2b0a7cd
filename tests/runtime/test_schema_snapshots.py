"""Snapshots are of states as the events of their time were read: they serve no program that reads them otherwise."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from eventsrc import Aggregate, EventVersionUnknown, Runtime, applies, command, event, handles
from eventsrc.storage.reader import LogReader
from eventsrc.storage.verification.verify import verify


@command
class Pay:
    cents: int


@event("box.paid")
class PaidCents:
    amount: int


class FirstBox(Aggregate, category="box"):
    total: int = 0

    @handles
    def pay(self, command: Pay) -> PaidCents:
        return PaidCents(command.cents)

    @applies
    def paid(self, event: PaidCents) -> None:
        self.total += event.amount


def in_euros(payload: dict[str, Any]) -> dict[str, Any]:
    return {"amount": payload["amount"] // 100}


@event("box.paid", version=2, upcasters={1: in_euros})
class Paid:
    amount: int


class Box(Aggregate):
    """Of the very same fields, which mean something else."""

    total: int = 0

    @handles
    def pay(self, command: Pay) -> Paid:
        return Paid(command.cents // 100)

    @applies
    def paid(self, event: Paid) -> None:
        self.total += event.amount


async def pay(path: Path, box: type[Aggregate], times: int) -> int:
    async with Runtime.open(path, aggregates=[box]) as runtime:
        ref = runtime.actor(box, "a")
        await ref.ask_many([Pay(500)] * times)
        return (await ref.state()).total  # type: ignore[attr-defined,no-any-return]


async def test_a_snapshot_of_before_an_event_got_another_meaning_is_passed_over(tmp_path: Path) -> None:
    assert await pay(tmp_path / "s", FirstBox, 250) == 125_000
    async with Runtime.open(tmp_path / "s", aggregates=[Box]) as runtime:
        box = runtime.actor(Box, "a")
        assert (await box.state()).total == 1_250
        assert (await box.state(at_version=250)).total == 1_250
        assert (await runtime.diff(Box, "a", 249, 250)).changes == {"total": (1_245, 1_250)}
        replay = runtime.replay("from_snapshot", aggregate=(Box, "a"))
        await replay.run()
        assert (replay.state.total, replay.snapshot_version) == (1_250, 0)
        assert await runtime.maintenance.quarantined() == []
    # What is decided, and snapshots that are taken, go on from there.
    assert await pay(tmp_path / "s", Box, 250) == 2_500
    assert await pay(tmp_path / "s", Box, 0) == 2_500


async def test_until_a_newer_event_is_stored_older_code_has_its_snapshots_back(tmp_path: Path) -> None:
    await pay(tmp_path / "s", FirstBox, 250)
    assert await pay(tmp_path / "s", Box, 0) == 1_250
    assert await pay(tmp_path / "s", FirstBox, 0) == 125_000


async def test_a_reader_of_older_code_does_not_take_a_snapshot_for_the_events_that_it_cannot_read(
    tmp_path: Path,
) -> None:
    await pay(tmp_path / "s", FirstBox, 10)
    async with Runtime.open(tmp_path / "s", role="reader", aggregates=[FirstBox]) as reader:
        path = str(tmp_path / "s")
        script = f"import trio; from test_schema_snapshots import *; trio.run(pay, Path({path!r}), Box, 190)"
        await trio.run_process([sys.executable, "-c", script], cwd=Path(__file__).parent)
        with trio.fail_after(10):
            while reader.last_position < 200:
                await trio.sleep(0.01)
        with pytest.raises(EventVersionUnknown):
            await reader.actor(FirstBox, "a").state()


async def test_what_was_compacted_by_older_code_is_read_and_compacted_on_by_newer_code(tmp_path: Path) -> None:
    path = tmp_path / "s"
    await pay(path, FirstBox, 1_100)
    async with Runtime.open(path, aggregates=[FirstBox]) as runtime:
        await runtime.maintenance.compact(FirstBox, "a")
    assert await pay(path, Box, 1_100) == 11_000
    async with Runtime.open(path, aggregates=[Box]) as runtime:
        await runtime.maintenance.compact(Box, "a")
        box = runtime.actor(Box, "a")
        assert [(await box.state(at_version=version)).total for version in (7, 1_100, 2_100)] == [35, 5_500, 10_500]
        await runtime.maintenance.uncompact(Box, "a")
        assert (await box.state()).total == 11_000
    with closing(LogReader.open(path)) as log:
        assert list(verify(log)) == []
