"""A runtime under load, which forgets subjects meanwhile, is killed: who was forgotten stays so, and nobody else is."""

import os
import random
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import attrs
import pytest
import trio
from compaction_cases import sound
from killed_life import told_until_killed
from people_domain import Name, Names, Person

from eventsrc import Runtime, SubjectForgotten, SubjectKeys
from eventsrc.storage.keys.key_file import KeyFile

LINES_MAX = 400
"""Of one life, at the end of which the process is killed."""

CHILD = """
import os, sys, trio
sys.path.insert(0, sys.argv[3])
from people_domain import Names, Person, Register, Say
from eventsrc import CompactionRefused, Limits, Runtime

def tell(*words):
    # One write of one line, after the answer: what the parent reads was answered.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def live(runtime, name):
    for number in range(1_000):
        subject = f"{name}.{number}"
        person = runtime.actor(Person, subject)
        for life in ("first", "second"):
            await person.ask(Register(f"secret-{subject}-{life}"))
            tell("named", subject, life)
            for count in range(6):
                receipt = await person.ask(Say(f"hush-{subject}-{life}-{count}"))
                tell("said", subject, life, count, receipt.position)
            if number % 3 == 2 and life == "first":
                try:
                    await runtime.maintenance.compact(Person, subject)
                except CompactionRefused:
                    pass
            if number % 3 == 0 or life == "second":
                break
            tell("asked", subject)
            forgotten = await runtime.forget(subject)
            tell("forgot", subject, forgotten.position)
            if number % 3 == 1:
                break

async def main():
    limits = Limits(snapshot_every_events=3, compaction_events_min=4)
    async with Runtime.open(sys.argv[1], aggregates=[Person], projections=[Names], limits=limits) as runtime:
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(live, runtime, f"p{sys.argv[2]}.{number}")

trio.run(main)
"""


@attrs.define
class Told:
    """What the lives that were killed have told."""

    named: dict[str, str] = attrs.field(factory=dict)
    said: dict[str, list[tuple[str, int]]] = attrs.field(factory=dict)
    asked: set[str] = attrs.field(factory=set)
    forgotten: dict[str, int] = attrs.field(factory=dict)

    def take(self, line: str) -> None:
        match line.split():
            case ["named", subject, life]:
                self.named[subject] = life
            case ["said", subject, life, count, position]:
                self.said.setdefault(subject, []).append((f"hush-{subject}-{life}-{count}", int(position)))
            case ["asked", subject]:
                self.asked.add(subject)
            case ["forgot", subject, position]:
                self.forgotten[subject] = int(position)

    def is_kept(self, subject: str, text: str) -> bool | None:
        """Whether it must be known still, what a subject said; None where it was killed while it was forgotten."""
        if subject not in self.asked or "-second-" in text:
            return True
        return False if subject in self.forgotten else None


@pytest.mark.slow
def test_who_was_forgotten_stays_so_when_the_process_is_killed(tmp_path: Path) -> None:
    chance, told, path = random.Random(5), Told(), tmp_path / "store"
    for number in range(10 if os.environ.get("CI") else 25):
        command = [sys.executable, "-c", CHILD, str(path), str(number), str(Path(__file__).parent)]
        for line in told_until_killed(command, chance.randint(1, LINES_MAX)):
            told.take(line)
        if number % 5 == 4:
            trio.run(check, path, told)
            assert sound(path)
    assert told.forgotten
    assert len(told.asked) > len(told.forgotten), "some were being forgotten when the process was killed"


async def check(path: Path, told: Told) -> None:
    async with Runtime.open(path, aggregates=[Person], projections=[Names]) as runtime:
        with trio.fail_after(60):
            # In the folder are the view that answers, which one that is, and what is on its way out.
            views, lag = path / "views" / "names", runtime.lag
            while unfinished(path) or lag()["names"].rebuilding or lag()["names"].events or len([*views.iterdir()]) > 2:
                await trio.sleep(0.01)
        positions = [event.position async for event in runtime.events()]
        assert positions == list(range(1, len(positions) + 1))
        await check_what_is_told_of_it(runtime, told)
        for subject, said in told.said.items():
            await check_subject(runtime, told, subject, said)
    files = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
    for subject in told.forgotten:
        for file, content in files.items():
            assert f"hush-{subject}-first".encode() not in content, file
            assert "names" not in file.parts or f"secret-{subject}-first".encode() not in content, file


async def check_what_is_told_of_it(runtime: Runtime, told: Told) -> None:
    events = [event async for event in runtime.events(types=[SubjectForgotten])]
    count = Counter(event.payload["subject"] for event in events)
    assert set(count) <= told.asked
    assert set(count.values()) <= {1}
    assert told.forgotten.items() <= {event.payload["subject"]: event.position for event in events}.items()


async def check_subject(runtime: Runtime, told: Told, subject: str, said: list[tuple[str, int]]) -> None:
    state = await runtime.actor(Person, subject).state()
    texts = [message.text for message in state.messages]
    by_position = {
        event.position: runtime.decode(event).message.text
        async for event in runtime.events(stream=f"person-{subject}", types=["person.said"])
    }
    assert list(by_position.values()) == texts
    for text, position in said:
        is_kept = told.is_kept(subject, text)
        possible = {True: [text], False: ["..."], None: [text, "..."]}[is_kept]
        assert by_position[position] in possible
    if subject in told.forgotten and told.named[subject] == "first" and "secret" not in state.name:
        assert (state.name, state.nickname) == ("somebody", "somebody")
        assert await runtime.view(Names.rows).get(subject) == Name(subject, "somebody")
    if subject not in told.asked:
        assert state.name == f"secret-{subject}-first"
        assert await runtime.view(Names.rows).get(subject) == Name(subject, state.name)


def unfinished(path: Path) -> dict[str, list[bytes]]:
    with closing(SubjectKeys(KeyFile(f"{path}.keys", "read"))) as keys:
        return keys.unfinished
