"""Everything at once, killed again and again: commands, sagas, views, mail, forgetting, compaction and rebuilding."""

import os
import random
import subprocess
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

import attrs
import pytest
import soak_life
import trio
from compaction_cases import sound
from soak_domain import FORGOTTEN, Balance, Balances, Owners, SqlBalances, Transfer, Wallet

from eventsrc import Runtime, StoredEvent

LIVES = 5 if os.environ.get("CI") else 20
LINES_MAX = 900
"""Of one life, at the end of which the process is killed."""
SETTLED_SECONDS_MAX = 120


@attrs.define
class Told:
    """What the lives that were killed have told."""

    credited: list[tuple[str, str, int, int]] = attrs.field(factory=list)
    started: set[str] = attrs.field(factory=set)
    mail: list[tuple[int, str]] = attrs.field(factory=list)
    introduced: set[str] = attrs.field(factory=set)
    forgotten: set[str] = attrs.field(factory=set)

    def take(self, line: str) -> None:
        match line.split():
            case ["credited", operation, stream, version, position]:
                self.credited.append((operation, stream, int(version), int(position)))
            case ["started", operation]:
                self.started.add(operation)
            case ["read", position, stream]:
                self.mail.append((int(position), stream))
            case ["introduced", wallet]:
                self.introduced.add(wallet)
            case ["forgot", wallet]:
                self.forgotten.add(wallet)


@pytest.mark.slow
def test_whatever_goes_on_when_the_process_is_killed_all_that_was_told_is_true(tmp_path: Path) -> None:
    chance, told, path = random.Random(3), Told(), tmp_path / "store"
    for number in range(LIVES):
        command = [sys.executable, soak_life.__file__, str(path), str(number)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(chance.randint(1, LINES_MAX))]
        assert lines[-1], "it ended by itself"
        child.kill()
        lines += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        for line in lines:
            told.take(line.decode())
    trio.run(check, path, told)
    assert sound(path)
    assert told.forgotten


async def check(path: Path, told: Told) -> None:
    async with soak_life.everything(path) as runtime:
        with trio.fail_after(SETTLED_SECONDS_MAX):
            states = await ended_sagas(runtime)
        events = [event async for event in runtime.events(category="wallet")]
        at = {event.position: event for event in events}
        for operation, stream, version, position in told.credited:
            event = at[position]
            assert (event.payload["operation"], event.stream, event.version) == (operation, stream, version)
        moves = [event for event in events if event.type != "wallet.introduced"]
        operations = Counter(event.payload["operation"] for event in moves)
        assert set(operations.values()) == {1}
        assert states.keys() >= told.started
        check_sagas(states, set(operations), Transfer.outside.read_text().splitlines())
        await check_views(runtime, moves)
        await check_mail(runtime, told.mail)
        await check_owners(runtime, told)


async def ended_sagas(runtime: Runtime) -> dict[str, str]:
    """How each saga ended, by its key, once all have."""
    while True:
        rows = await runtime.sagas().fresh(at_least=runtime.last_position).rows()
        states = {row.key: row.state for row in rows}
        if set(states.values()) <= {"completed", "compensated"}:
            return states
        await trio.sleep(0.05)


def check_sagas(states: dict[str, str], operations: set[str], outside: list[str]) -> None:
    """All of a saga is done or undone, in the store and outside of it."""
    # The same line with the same key twice is one for whoever is outside.
    said = Counter(line.rpartition(" ")[0] for line in set(outside))
    assert set(said.values()) == {1}
    for key, state in states.items():
        steps = [f"{key}/take" in operations, f"announced {key}" in said, key in operations]
        undone = [f"{key}/back" in operations, f"called-off {key}" in said]
        if state == "completed":
            assert (steps, undone) == ([True, True, True], [False, False])
        else:
            # Where there was not enough, nothing was begun; what is not wanted is undone.
            began = key.endswith("/unwanted") and steps[0]
            assert (steps, undone) == ([began, began, False], [began, began])
    assert {"completed", "compensated"} == set(states.values())


async def check_views(runtime: Runtime, moves: list[StoredEvent]) -> None:
    expected: dict[str, Balance] = {}
    for event in moves:
        cents = event.payload["cents"] * (1 if event.type == "wallet.credited" else -1)
        row = expected.get(event.aggregate_id) or Balance(event.aggregate_id, 0, 0)
        expected[row.wallet] = Balance(row.wallet, row.cents + cents, row.changes + 1)
    for projection in (Balances, SqlBalances):
        rows = await runtime.view(projection).all().fresh(at_least=runtime.last_position, timeout=60).rows()
        assert {row.wallet: row for row in rows} == expected
    for wallet, row in expected.items():
        assert (await runtime.actor(Wallet, wallet).state()).cents == row.cents >= 0
    # What was taken has come to its target, or back.
    deposits = sum(event.payload["cents"] for event in moves if event.payload["operation"].startswith("credit/"))
    assert sum(row.cents for row in expected.values()) == deposits


async def check_mail(runtime: Runtime, mail: list[tuple[int, str]]) -> None:
    """Read what was not read yet: every event once, but for the last before a kill, and those of a stream in order."""
    everything = {event.position async for event in runtime.events()}
    async with runtime.consume("mail") as consumer:
        unread = everything - {position for position, _ in mail}
        while unread:
            with trio.fail_after(SETTLED_SECONDS_MAX):
                message = await anext(consumer)
            mail.append((message.event.position, message.event.stream))
            unread.discard(message.event.position)
            await message.ack()
    by_stream = sorted(mail, key=lambda read: read[1])  # which leaves those of a stream in their order
    for stream, read in groupby(by_stream, key=lambda read: read[1]):
        positions = [position for position, _ in read]
        assert positions == sorted(positions), stream
    assert len(mail) - len(everything) <= LIVES


async def check_owners(runtime: Runtime, told: Told) -> None:
    for wallet in told.introduced:
        state = await runtime.actor(Wallet, wallet).state()
        row = await runtime.view(Owners).get(wallet, at_least=runtime.last_position)
        assert row is not None
        assert row.name == state.name
        if wallet in told.forgotten:
            assert state.name == FORGOTTEN
        else:
            assert state.name in (f"secret-{wallet}", FORGOTTEN)
