"""Commands that are stored, rejected, refused by the store, given up or sent twice, all at once.

Whatever became of its neighbours, each caller was told the truth about its own command.
"""

import random
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from short_of_room import short_of_room

from eventsrc import (
    ANY,
    NO_STREAM,
    Aggregate,
    EventQuery,
    EventSourcingError,
    Limits,
    Receipt,
    Rejected,
    Runtime,
    applies,
    command,
    event,
    handles,
)

CLIENTS, COMMANDS_EACH = 30, 25


@command
class Write:
    lines: tuple[str, ...]
    is_welcome: bool = True


@command
class WriteSlowly:
    line: str
    steps: int


@event("pad.line_written", tags=lambda written: [f"line:{written.line}"])
class LineWritten:
    line: str


class Pad(Aggregate):
    lines: tuple[str, ...] = ()

    @handles
    def write(self, command: Write) -> list[LineWritten]:
        if not command.is_welcome:
            raise Rejected("the pad is full of it")
        return [LineWritten(line) for line in command.lines]

    @handles
    async def write_slowly(self, command: WriteSlowly) -> LineWritten:
        for _ in range(command.steps):
            await trio.lowlevel.checkpoint()
        return LineWritten(command.line)

    @applies
    def written(self, event: LineWritten) -> None:
        self.lines = (*self.lines, event.line)


@attrs.define
class Told:
    """What the callers were told about each line: where it is, that it is nowhere, or nothing."""

    places: dict[str, tuple[str, int, int]] = attrs.field(factory=dict)
    refused: set[str] = attrs.field(factory=set)

    def stored(self, receipt: Receipt) -> None:
        for ahead, written in enumerate(reversed(receipt.events)):
            place = receipt.stream, receipt.version - ahead, receipt.position - ahead
            assert self.places.setdefault(written.line, place) == place, "it was stored once"


class Crowd:
    """Clients of a few pads, who do one thing after the other at random."""

    def __init__(self, runtime: Runtime, chance: random.Random, told: Told) -> None:
        self._runtime = runtime
        self._chance = chance
        self._told = told
        self._line_count = 0
        self._keyed: list[tuple[str, str]] = []

    @property
    def sent_again(self) -> set[str]:
        """The lines that may be stored although they were refused: they were sent again."""
        return {line for _, line in self._keyed}

    async def client(self) -> None:
        ways = [self._one, self._several, self._twice, self._first, self._together, self._given_up]
        for _ in range(COMMANDS_EACH):
            for _ in range(self._chance.randrange(self._chance.choice([1, 4, 30]))):
                await trio.lowlevel.checkpoint()
            lines = tuple(self._new_line() for _ in range(self._chance.randrange(1, 4)))
            await self._tell_of(lines, partial(self._chance.choice(ways), lines))

    def _new_line(self) -> str:
        self._line_count += 1
        return str(self._line_count)

    def _pad(self) -> str:
        return f"p{self._chance.randrange(8)}"

    async def _tell_of(self, lines: tuple[str, ...], way: Callable[[], Awaitable[Any]]) -> None:
        try:
            answers = await way()
        except EventSourcingError as error:
            if not getattr(error, "may_take_effect", False):
                self._told.refused |= {*lines}
            return
        for answer in answers:
            if isinstance(answer, Receipt):
                self._told.stored(answer)

    async def _one(self, lines: tuple[str, ...]) -> list[Receipt]:
        command = Write(lines, is_welcome=self._chance.random() < 0.8)
        return [
            await self._runtime.actor(Pad, self._pad()).ask(
                command, expected_version=self._chance.choice([None, ANY, NO_STREAM, 3])
            )
        ]

    async def _several(self, lines: tuple[str, ...]) -> list[Receipt | EventSourcingError]:
        answers = await self._runtime.actor(Pad, self._pad()).ask_many([WriteSlowly(line, 2) for line in lines])
        self._told.refused |= {
            line for line, answer in zip(lines, answers, strict=True) if isinstance(answer, EventSourcingError)
        }
        return answers

    async def _twice(self, lines: tuple[str, ...]) -> list[Receipt]:
        if self._chance.random() < 0.5 or not self._keyed:
            self._keyed.append((self._pad(), lines[0]))
        pad, line = self._chance.choice(self._keyed)
        return [await self._runtime.actor(Pad, pad).ask(Write((line,)), idempotency_key=line)]

    async def _first(self, lines: tuple[str, ...]) -> list[Receipt]:
        unless = EventQuery(tags=[f"line:{self._line_count - self._chance.randrange(20)}"])
        return [await self._runtime.actor(Pad, self._pad()).ask(Write(lines), unless=unless)]

    async def _together(self, lines: tuple[str, ...]) -> list[Receipt]:
        return await self._runtime.transact([(Pad, self._pad(), Write((line,))) for line in lines])

    async def _given_up(self, lines: tuple[str, ...]) -> list[Receipt]:
        receipts = []
        with trio.move_on_after(self._chance.choice([0, 0.0001, 0.001])):
            receipts.append(await self._runtime.actor(Pad, self._pad()).ask(Write(lines)))
        return receipts


@pytest.mark.parametrize("seed", range(12))
async def test_each_caller_is_told_what_became_of_its_own_command(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    limits = Limits(
        streams_max=chance.choice([4, 8]),
        stream_events_max=chance.choice([40, 1_000]),
        commit_events_max=chance.choice([2, 1_000]),
        mailbox_commands_max=chance.choice([3, 1_000]),
        resident_actors_max=chance.choice([4, 1_000]),
        snapshot_every_events=3,
    )
    told = Told()
    async with Runtime.open(tmp_path / "store", aggregates=[Pad], limits=limits) as runtime:
        with monkeypatch.context() as faults:
            short_of_room(faults, chance, often=chance.choice([0, 0.02, 0.2]))
            crowd = Crowd(runtime, chance, told)
            async with trio.open_nursery() as nursery:
                for _ in range(CLIENTS):
                    nursery.start_soon(crowd.client)

    async with Runtime.open(tmp_path / "store", aggregates=[Pad], limits=limits) as runtime:
        places: dict[str, tuple[str, int, int]] = {}
        lines: dict[str, tuple[str, ...]] = {}
        async for stored in runtime.events():
            written = runtime.decode(stored)
            assert isinstance(written, LineWritten)
            assert written.line not in places, "it was stored once"
            places[written.line] = stored.stream, stored.version, stored.position
            lines[stored.aggregate_id] = (*lines.get(stored.aggregate_id, ()), written.line)
        assert {line: places.get(line) for line in told.places} == told.places
        assert not (told.refused - crowd.sent_again) & places.keys()
        assert told.places
        assert told.refused
        for aggregate_id, written_there in lines.items():
            assert (await runtime.actor(Pad, aggregate_id).state()).lines == written_there
