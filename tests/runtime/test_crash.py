"""A runtime under load, which compacts meanwhile, is killed: nothing answered is missing, doubled or out of order."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trio
from bank_domain import Account, Note
from compaction_cases import LIMITS, sound

from eventsrc import CompactionRefused, Receipt, Runtime
from eventsrc.storage.environment.environment import Environment
from eventsrc.storage.reader import LogReader
from eventsrc.storage.verification.verify import verify

ANSWERS_MAX = 1_500
"""Of one life, at the end of which the process is killed: so many seconds may be next to nothing on a busy machine."""

MOVED = b"moved\n"

CHILD = """
import os, sys, trio
sys.path.insert(0, sys.argv[3])
from bank_domain import Account, Note
from eventsrc import CompactionRefused, Limits, Runtime

async def client(runtime, name, round_number):
    account = runtime.actor(Account, name)
    number = 0
    while True:
        text = f"{name}/{round_number}/{number}"
        receipt = await account.ask(Note(text), idempotency_key=text)
        # One write of one line, after the answer: what the parent reads was answered.
        os.write(1, f"{text} {receipt.stream} {receipt.version} {receipt.position}\\n".encode())
        number += 1

async def keep_house(runtime):
    # Whatever the clients do, streams go to the archive and come back.
    while True:
        for number in range(20):
            for action in (runtime.maintenance.compact, runtime.maintenance.uncompact)[: 1 + number % 2]:
                try:
                    await action(Account, f"a{number}")
                    if not number % 2:
                        os.write(1, b"moved\\n")
                except CompactionRefused:
                    await trio.sleep(0.001)

async def main():
    limits = Limits(snapshot_every_events=7, idempotency_window_seconds=1e6, compaction_events_min=10)
    async with Runtime.open(sys.argv[1], aggregates=[Account], limits=limits) as runtime:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_house, runtime)
            for number in range(20):
                nursery.start_soon(client, runtime, f"a{number}", int(sys.argv[2]))

trio.run(main)
"""


def kill_and_check(path: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    answered: list[tuple[str, str, int, int]] = []
    has_moved = False
    for round_number in range(rounds):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(round_number), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        read: list[bytes] = []
        answers = chance.randint(1, ANSWERS_MAX)
        # The first life lasts until a stream was compacted that is not brought back.
        while len(read) < answers or not has_moved:
            read.append(child.stdout.readline())
            assert read[-1], "it ended by itself"
            has_moved = has_moved or read[-1] == MOVED
        child.kill()
        output = b"".join(read) + child.stdout.read()
        child.wait()
        child.stdout.close()
        for line in output.replace(MOVED, b"").decode().splitlines():
            text, stream, version, position = line.split()
            answered.append((text, stream, int(version), int(position)))
    assert len(answered) > rounds * 20
    trio.run(check, path, answered)
    environment = Environment(path, read_only=True)
    findings = list(verify(environment))
    environment.close()
    assert not findings
    with closing(LogReader.open(path)) as log:
        assert log.compacted_streams(), "compaction went on meanwhile"


async def check(path: Path, answered: list[tuple[str, str, int, int]]) -> None:
    async with Runtime.open(path, aggregates=[Account]) as runtime:
        stored = [event async for event in runtime.events()]
        assert [event.position for event in stored] == list(range(1, len(stored) + 1))
        at = {event.position: event for event in stored}
        for text, stream, version, position in answered:
            event = at[position]
            assert (event.payload["text"], event.stream, event.version) == (text, stream, version)
        assert max(Counter(event.payload["text"] for event in stored).values()) == 1
        by_stream: dict[str, list[tuple[int, int]]] = {}
        for event in stored:
            _, round_number, number = event.payload["text"].split("/")
            by_stream.setdefault(event.stream, []).append((int(round_number), int(number)))
        for numbers in by_stream.values():
            assert numbers == sorted(numbers)
        for text, stream, version, position in answered[:: max(len(answered) // 200, 1)]:
            again = await runtime.actor(Account, stream.partition("-")[2]).ask(Note(text), idempotency_key=text)
            assert again == Receipt(stream, version, position, (again.events[0],), duplicate=True)
        assert runtime.last_position == len(stored)


@pytest.mark.slow
def test_nothing_that_was_answered_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    kill_and_check(tmp_path / "store", rounds=20 if os.environ.get("CI") else 50, seed=1)


KILLED_AT_A_FILE = """
import os, signal, sys, trio
sys.path.insert(0, sys.argv[3])
from bank_domain import Account
from compaction_cases import LIMITS, fill
from eventsrc import Runtime

left = int(sys.argv[2])

def kill_at_a_file(event, arguments):
    # Each step that Python takes with a file of the archive, and the folder that holds it.
    global left
    if event in ("open", "os.mkdir", "os.rename", "os.rmdir", "os.remove") and "archive" in str(arguments[0]):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with Runtime.open(sys.argv[1], aggregates=[Account], limits=LIMITS) as runtime:
        await fill(runtime)
        sys.addaudithook(kill_at_a_file)
        await runtime.maintenance.compact(Account, "ann")
        await runtime.maintenance.compact(Account, "bob")

trio.run(main)
"""


def test_a_kill_while_the_archive_is_begun_leaves_a_sound_store(tmp_path: Path) -> None:
    def killed_at(number: int) -> bool:
        path = tmp_path / f"store{number}"
        child = [sys.executable, "-c", KILLED_AT_A_FILE, str(path), str(number), str(Path(__file__).parent)]
        result = subprocess.run(child, check=False)
        assert result.returncode in (0, -signal.SIGKILL)
        assert sound(path)
        trio.run(compact_both, path)
        assert sound(path)
        return result.returncode != 0

    async def compact_both(path: Path) -> None:
        async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
            for name in ("ann", "bob"):
                with suppress(CompactionRefused):  # it was compacted before the kill
                    await runtime.maintenance.compact(Account, name)
                assert runtime.maintenance.compacted(Account, name) is not None
            assert len([event async for event in runtime.events()]) == 90

    steps = 1
    while killed_at(steps):
        steps += 1
    assert steps > 5
