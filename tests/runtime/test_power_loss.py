"""Whatever a power loss leaves of what was not synced: all that was answered is there, and goes on."""

import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from random import Random

import attrs
import pytest
import traced_life
import trio
from compaction_cases import sound
from people_domain import Directory, Names, Person, Register, Say
from power_loss import Disk, trace
from traced_life import LIMITS

from eventsrc import Runtime
from eventsrc.actors.views.sql import SqlViews
from eventsrc.storage.evidence.signed_checkpoint import load_signing_key
from eventsrc.storage.keys.key_file import KeyFile
from eventsrc.storage.reader import LogReader

STATES_PER_DISK = 8 if os.environ.get("CI") else 12
SECONDS_MAX = 30.0


@attrs.define
class Told:
    """What the life has told before the power was lost."""

    answered: list[tuple[str, int, str]] = attrs.field(factory=list)
    compacted: dict[str, str | None] = attrs.field(factory=dict)
    forgets: set[str] = attrs.field(factory=set)
    forgot: dict[str, int] = attrs.field(factory=dict)
    acknowledged: dict[str, set[int]] = attrs.field(factory=dict)
    made: dict[str, int] = attrs.field(factory=dict)
    is_open: bool = False

    def take(self, line: str) -> None:
        match json.loads(line):
            case ["opened"]:
                self.is_open = True
            case ["answered", name, position, text]:
                self.answered.append((name, position, text))
            case ["compacted", name, phase]:
                self.compacted[name] = phase
            case ["forgets", name]:
                self.forgets.add(name)
            case ["forgot", name, position]:
                self.forgot[name] = position
                self.compacted[name] = ""
            case ["acknowledged", name, position]:
                self.acknowledged.setdefault(name, set()).add(position)
            case ["made", name, position]:
                self.made[name] = position


@pytest.mark.slow
@pytest.mark.usefixtures("strace")
def test_what_was_promised_is_kept_whatever_a_power_loss_leaves(tmp_path: Path) -> None:
    root, told, state = tmp_path / "root", tmp_path / "told", tmp_path / "state"
    root.mkdir()
    calls = trace([sys.executable, traced_life.__file__, str(root), str(told)], tmp_path / "log")
    chance = Random(11)
    for journals, names_itself in ((True, True), (False, True), (False, False)):
        count = sum(1 for _ in Disk(root, told, journals=journals, names_itself=names_itself).made(calls))
        at = set(chance.sample(range(count), STATES_PER_DISK))
        disk = Disk(root, told, journals=journals, names_itself=names_itself)
        for number, call in enumerate(disk.made(calls)):
            if number in at:
                disk.write_left(state, chance, chance.choice(("none", "some", "some", "all")))
                so_far = Told()
                for line in disk.told:
                    so_far.take(line)
                try:
                    check(state, so_far)
                except BaseException as error:
                    error.add_note(f"after call {number}, {call.name} of {call.ended}: {disk.told[-1:]}")
                    raise
                shutil.rmtree(state)
        assert "safe.keys" in disk.told[-1], "the life was told to its end"


FORGETTING = """
import os, sys, trio
from pathlib import Path
from people_domain import Names, Person, Register
from eventsrc import Runtime
from eventsrc.actors.views.sql import SqlViews

async def live(root, told):
    views = SqlViews(f"sqlite:///{root}/views.db")
    async with Runtime.open(root / "store", aggregates=[Person], projections=[Names], views={Names: views}) as runtime:
        if told is None:
            await runtime.actor(Person, "ann").ask(Register("secret ann"), wait_for=[Names])
        else:
            await runtime.forget("ann", wait_for=[Names])
            told.write_text("forgot")
    views.close()

for told in (None, Path(sys.argv[2])):
    trio.run(live, Path(sys.argv[1]), told)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("strace")
def test_who_was_forgotten_in_sql_stays_so_whatever_a_power_loss_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, told, state = tmp_path / "root", tmp_path / "told", tmp_path / "state"
    root.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
    calls = trace([sys.executable, "-c", FORGETTING, str(root), str(told)], tmp_path / "log")
    disk, chance, count = Disk(root, told, journals=True, names_itself=True), Random(13), 0
    for _ in disk.made(calls):
        if disk.told:
            disk.write_left(state, chance, chance.choice(("none", "some")))
            assert "secret ann" not in names_in(state / "views.db")
            shutil.rmtree(state)
            count += 1
    assert count > 1


def names_in(path: Path) -> set[str]:
    """What the tables and views of the projection hold, for any client."""
    with closing(sqlite3.connect(path)) as views:
        shown = views.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name LIKE 'names%'")
        return {name for (table,) in shown.fetchall() for (name,) in views.execute(f'SELECT name FROM "{table}"')}


def check(root: Path, told: Told) -> None:
    path = root / "of" / "people.db"
    if told.is_open:
        assert sound(path)
        with closing(LogReader.open(path)) as log:
            phases = {name: getattr(log.compacted(f"person-{name}"), "phase", "") for name in told.compacted}
        assert all(phase in (None, phases[name]) for name, phase in told.compacted.items())
    if told.forgot:
        assert not any(b"secret ann" in file.read_bytes() for file in (path / "views" / "names").rglob("*.mdb"))
    check_copies(root, told)
    trio.run(check_store, root, path, told)
    assert sound(path)
    if "far" in told.acknowledged or (root / "a" / "b" / "views").exists():
        trio.run(check_reader, root, path, told)


def check_copies(root: Path, told: Told) -> None:
    for name in ("backup", "fork", "restored"):
        if name in told.made or (root / name).exists():
            assert sound(root / name)
    for name, position in told.made.items():
        assert (root / name).exists()
        if position:
            with closing(LogReader.open(root / name)) as log:
                assert log.last_position == position
    if "imported" in told.made:
        assert sound(root / "imported")
    if "signing.pem" in told.made:
        load_signing_key(root / "signing.pem")
    if "safe.keys" in told.made:
        with closing(KeyFile(root / "safe.keys", "read")) as keys:
            assert keys.problem() == ""
            assert [len(keys.of_subject(name)) for name in ("ann", "bob", "cid")] == [0, 1, 1]


async def check_store(root: Path, path: Path, told: Told) -> None:
    views = SqlViews(f"sqlite:///{root / 'views.db'}")
    with trio.fail_after(SECONDS_MAX):
        async with Runtime.open(
            path, aggregates=[Person], projections=[Names, Directory], limits=LIMITS, views={Directory: views}
        ) as runtime:
            await check_events(runtime, told)
            await check_answers(runtime, told)
            known = {event.aggregate_id async for event in runtime.events(types=["person.registered"])}
            for view in (Names.rows, Directory.rows):
                rows = await runtime.view(view).fresh(at_least=runtime.last_position).rows()
                assert {row.name for row in rows} >= {f"secret {name}" for name in known - {"ann"}}
            if told.acknowledged:
                await check_consumer(runtime, told, "mailer")
    views.close()


async def check_events(runtime: Runtime, told: Told) -> None:
    events = {event.position: event async for event in runtime.events()}
    assert [*events] == [*range(1, len(events) + 1)]
    for name, position, text in told.answered:
        event = runtime.decode(events[position])
        known = event.name if hasattr(event, "name") else event.message.text
        forgotten = {"somebody", "..."}
        possible = forgotten if name in told.forgot else {text, *forgotten} if name in told.forgets else {text}
        assert known in possible
    for name, position in told.forgot.items():
        assert events[position].payload == {"subject": name}


async def check_answers(runtime: Runtime, told: Told) -> None:
    """Commands that were answered take no effect again, and others do."""
    for name, position, text in told.answered:
        command = Register(text) if text.startswith("secret") else Say(text)
        key = name if isinstance(command, Register) else text.replace(" says", "")
        receipt = await runtime.actor(Person, name).ask(command, idempotency_key=key)
        assert (receipt.position, receipt.duplicate) == (position, True)
    new = runtime.actor(Person, "new")
    assert not (await new.ask(Register("secret new"))).duplicate
    assert (await new.state()).name == "secret new"


async def check_consumer(runtime: Runtime, told: Told, name: str) -> None:
    """All others are handed out, but for one, whose acknowledgement may have been under way."""
    acknowledged = told.acknowledged.get(name, set())
    missing = {*range(1, runtime.last_position + 1)} - acknowledged
    async with runtime.consume(name) as consumer:
        while len(missing) > 1:
            message = await anext(consumer)
            await message.ack()
            assert message.event.position not in acknowledged
            missing.remove(message.event.position)


async def check_reader(root: Path, path: Path, told: Told) -> None:
    with trio.fail_after(SECONDS_MAX):
        async with Runtime.open(path, role="reader", projections=[Names], views=root / "a" / "b") as runtime:
            await runtime.view(Names.rows).get("bob", at_least=runtime.last_position)
            await check_consumer(runtime, told, "far")
