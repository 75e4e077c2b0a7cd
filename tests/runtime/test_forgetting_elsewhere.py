"""Forgetting where several have a part in it: other processes, databases, the command line; and in the past."""

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
import trio
import trio.testing
from people_domain import OPENED, Directory, Message, Name, Names, Person, Register, Registered, Say
from projection_cases import settle
from test_command_line import eventsrc
from test_readers import child, say

from eventsrc import EventMeta, MemoryLog, Projection, ReplayHandlerFailed, Runtime, SubjectForgotten, Table, on
from eventsrc.actors.views.sql import SqlViews
from eventsrc.runtime import command_line
from eventsrc.storage.store import EventStore

READER = """
from people_domain import Directory, Names
async def main():
    async with Runtime.open(sys.argv[1], role="reader", projections=[Names, Directory]) as runtime:
        print("started", flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            if line.strip() == "forget":
                with trio.fail_after(60):
                    while (await runtime.view(Names.rows).get("ann")).name == "Ann Secret":
                        await trio.sleep(0.01)
            rows = await runtime.view(Names.rows).all().fresh(at_least=4, timeout=60).rows()
            print(sorted(row.name for row in rows), flush=True)
trio.run(main)
"""


async def fill(runtime: Runtime) -> None:
    for name in ("ann", "bob"):
        await runtime.actor(Person, name).ask(Register(f"{name.title()} Secret"))
        await runtime.actor(Person, name).ask(Say("hushed"))


async def test_a_reader_forgets_along_and_so_does_one_that_comes_later(tmp_path: Path) -> None:
    store = tmp_path / "store"
    async with Runtime.open(store, **OPENED) as runtime:
        await fill(runtime)
        with child(READER, store) as reader:
            assert say(reader, "rows") == "['Ann Secret', 'Bob Secret']"
            await runtime.forget("ann")
            assert await trio.to_thread.run_sync(say, reader, "forget") == "['Bob Secret', 'somebody']"
        await runtime.forget("bob")
        with child(READER, store) as reader:
            with trio.fail_after(60):
                while await trio.to_thread.run_sync(say, reader, "rows") != "['somebody', 'somebody']":
                    await trio.sleep(0.01)


async def test_a_view_that_nobody_had_open_is_built_anew_when_it_is_opened(tmp_path: Path) -> None:
    store = tmp_path / "store"
    async with Runtime.open(store, **OPENED) as runtime:
        await fill(runtime)
        await runtime.actor(Person, "ann").ask(Say("more"), wait_for=[Names, Directory])
    async with Runtime.open(store, aggregates=[Person]) as runtime:
        await runtime.forget("ann")
    for _ in (1, 2):
        async with Runtime.open(store, **OPENED) as runtime:
            await settle(runtime, Names, building=True)
            assert await runtime.view(Names.rows).get("ann", at_least=6) == Name("ann", "somebody")
            assert await runtime.view(Directory.rows).get("ann", at_least=6) is None
    assert (store / "views" / "names" / "current").read_bytes() == b"2", "it was built anew once"


async def test_a_paused_view_costs_one_task_however_many_are_forgotten() -> None:
    async with Runtime.open(MemoryLog(), **OPENED) as runtime:
        for name in ("ann", "bob", "cat"):
            await runtime.actor(Person, name).ask(Register(name), wait_for=[Names])
        await runtime.projections.pause(Names)
        for name in ("ann", "bob"):
            await runtime.forget(name)
        with trio.fail_after(60):
            while [task.name for task in _tasks(trio.lowlevel.current_root_task())].count("names: forgetting") > 1:
                await trio.sleep(0.01)
        await runtime.projections.resume(Names)
        await runtime.forget("cat", wait_for=[Names])
        assert {row.name for row in await runtime.view(Names.rows).all().rows()} == {"somebody"}


def _tasks(task: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    """A task and all that it has started."""
    assert task is not None
    yield task
    for nursery in task.child_nurseries:
        for each in nursery.child_tasks:
            yield from _tasks(each)


async def test_who_forgets_often_does_not_keep_a_view_from_being_built(store: EventStore | Path) -> None:
    async with Runtime.open(store, **OPENED) as runtime:
        await fill(runtime)
        await runtime.actor(Person, "cat").ask(Register("Cat Secret"), wait_for=[Names])
        names = runtime._projections.get(Names)
        await runtime.projections.pause(Names)
        await runtime.forget("ann")
        with trio.fail_after(60):
            while names.building is None:
                await trio.sleep(0.001)
        begun = names.building
        await runtime.forget("bob")
        await trio.testing.wait_all_tasks_blocked()
        assert names.building is begun, "it shows one of them less, and takes its place before the next is begun"
        await runtime.projections.resume(Names)
        await runtime.forget("cat", wait_for=[Names])
        assert {row.name for row in await runtime.view(Names.rows).all().rows()} == {"somebody"}


async def test_a_view_in_sql_is_built_anew(tmp_path: Path, url: str) -> None:
    with closing(SqlViews(url)) as views:
        where = {Names: views, Directory: views}
        async with Runtime.open(tmp_path / "store", **OPENED, views=where) as runtime:
            await fill(runtime)
            await runtime.actor(Person, "ann").ask(Say("more"), wait_for=[Names, Directory])
            forgotten = await runtime.forget("ann", wait_for=[Names])
            names = await runtime.view(Names.rows).all().fresh(at_least=forgotten.position).rows()
            assert sorted(row.name for row in names) == ["Bob Secret", "somebody"]
            rows = await runtime.view(Directory.rows).all().fresh(at_least=forgotten.position).rows()
            assert rows == [Name("bob", "Bob Secret")]
        async with Runtime.open(tmp_path / "store", **OPENED, views=where) as runtime:
            assert not runtime.lag()["names"].rebuilding
            assert (await runtime.view(Names.rows).all().fresh(at_least=forgotten.position).count()) == 2
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        left = [
            value
            for table in sqlalchemy.inspect(engine).get_table_names()
            for row in connection.execute(sqlalchemy.text(f'SELECT * FROM "{table}"'))
            for value in row
        ]
    engine.dispose()
    assert "Bob Secret" in left
    assert "Ann Secret" not in left


async def test_a_sink_is_told(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", **OPENED) as runtime:
        await fill(runtime)
        await runtime.forget("ann")
        async with runtime.consume("search", types=[Registered, SubjectForgotten]) as consumer:
            seen = []
            async for message in consumer:
                seen.append(runtime.decode(message.event))
                await message.ack()
                if message.event.position == runtime.last_position:
                    break
    assert seen == [Registered("ann", "somebody"), Registered("bob", "Bob Secret"), SubjectForgotten("ann")]


# --- the command line ---


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    async def write() -> None:
        async with Runtime.open(tmp_path / "store", **OPENED) as runtime:
            await fill(runtime)

    trio.run(write)
    return tmp_path / "store"


def test_a_subject_is_forgotten_where_no_runtime_has_the_store_open(filled: Path) -> None:
    held = [json.loads(line) for line in out("events", filled, "--subject", "ann", "--unseal", "--json")]
    assert [event["position"] for event in held] == [1, 2]
    assert held[0]["payload"] == {"person": "ann", "name": "Ann Secret", "email": None}
    assert held[1]["payload"]["message"]["text"] == "hushed"
    (line,) = out("forget", filled, "ann", "--json")
    assert json.loads(line) == {"subject": "ann", "events": 2, "streams": ["person-ann"], "position": 5}
    again = eventsrc("forget", filled, "ann")
    assert again.returncode == 1
    assert "it was forgotten before" in again.stderr
    assert "it was forgotten before" in eventsrc("events", filled, "--subject", "ann").stderr
    assert "all sound" in out("verify", filled)[-1]
    left = [
        json.loads(line)["payload"] for line in out("events", filled, "--stream", "person-ann", "--unseal", "--json")
    ]
    assert left[0]["name"].keys() == left[1]["message"]["text"].keys() == {"sealed_with"}


async def test_a_running_store_is_asked_to_forget(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", **OPENED) as runtime:
        await fill(runtime)
        asked = await trio.to_thread.run_sync(eventsrc, "forget", tmp_path / "store", "ann")
        assert (asked.stdout, asked.returncode) == ("writer: forget ann: done\n", 0)
        assert (await runtime.actor(Person, "ann").state()).messages == [Message("ann", "...")]
        asked = await trio.to_thread.run_sync(eventsrc, "forget", tmp_path / "store", "ann")
        assert "it was forgotten before" in asked.stdout
        assert asked.returncode != 0
        asked = await trio.to_thread.run_sync(eventsrc, "forget", tmp_path / "store", "\udcff")
        assert asked.stderr.endswith("This one is not valid Unicode.\n")


def test_what_is_sealed_is_shown_as_that_and_a_state_as_it_is(
    filled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = out("events", filled)[0]
    assert '"name":{"sealed_with":"' in shown
    assert "Secret" not in shown
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for keys in ([], ["--keys", f"{filled}.keys"]):
        assert command_line.main(["show", str(filled), "person-ann", "--import", "people_domain", "--json", *keys]) == 0
        assert json.loads(capsys.readouterr().out)["state"]["name"] == "Ann Secret"
    assert command_line.main(["blame", str(filled), "person-ann", "--import", "people_domain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"]["value"] == "Ann Secret"
    assert command_line.main(["diff", str(filled), "person-ann", "0", "1", "--import", "people_domain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changes"]["name"] == {"before": "", "after": "Ann Secret"}
    (filled.parent / "store.keys").rename(filled.parent / "away")
    assert command_line.main(["show", str(filled), "person-ann", "--import", "people_domain"]) == 1
    assert "Give the file of keys that belongs to this store" in capsys.readouterr().err


async def test_the_keys_of_a_store_in_use_are_copied_with_the_newest(tmp_path: Path) -> None:
    copy = tmp_path / "safe.keys"
    async with Runtime.open(tmp_path / "store", **OPENED) as runtime:
        await fill(runtime)
        await runtime.backup(tmp_path / "backup")
        for _ in ("none is there", "an older one is there"):
            done = await trio.to_thread.run_sync(eventsrc, "keys", tmp_path / "store", copy)
            assert (done.returncode, done.stderr) == (0, "")
    assert copy.stat().st_mode & 0o777 == 0o600
    async with Runtime.open(tmp_path / "backup", **OPENED, keys=copy) as runtime:
        for name in ("ann", "bob"):
            assert (await runtime.actor(Person, name).state()).name == f"{name.title()} Secret"
    assert set(os.listdir(tmp_path)) == {"store", "store.keys", "backup", copy.name}  # noqa: PTH208 (in an async test)


def test_keys_that_cannot_be_copied_are_told(filled: Path) -> None:
    nowhere = filled.parent / "nowhere"
    for arguments, said in (
        ((filled, nowhere / "copy"), "cannot be written: "),
        ((filled, filled.parent / "copy", "--keys", nowhere), "there is no such file"),
        ((filled, f"{filled}.keys"), "a copy cannot take its own place"),
    ):
        refused = eventsrc("keys", *arguments)
        assert refused.returncode == 1
        assert said in refused.stderr


def out(*arguments: object) -> list[str]:
    done = eventsrc(*arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


# --- the past, and replays ---


@pytest.mark.parametrize("projection", [Names, Directory])
async def test_views_of_the_past_forget_along(store: MemoryLog | Path, projection: type[Names | Directory]) -> None:
    """Also that of a projection that removes who is forgotten itself: in that past nobody is."""
    async with Runtime.open(store, aggregates=[Person], projections=[projection]) as runtime:
        await runtime.actor(Person, "ann").ask(Register("Ann Secret"))
        async with runtime.as_of(position=1, projections=[projection]) as past:
            assert await past.view(projection.rows).get("ann") == Name("ann", "Ann Secret")
            await runtime.forget("ann", wait_for=[projection])
            with trio.fail_after(60):
                while await past.view(projection.rows).get("ann") != Name("ann", "somebody"):
                    await trio.sleep(0.001)


class Welcomed(Projection):
    """Takes no name that is not one, and removes who is forgotten itself, which a replay of before does not see."""

    rows = Table(Name, key="person")

    @on(Registered)
    def registered(self, event: Registered, meta: EventMeta) -> None:
        if event.name == "somebody":
            raise ValueError("nobody can be welcomed")
        self.rows.put(Name(event.person, event.name))

    @on(SubjectForgotten)
    def forgotten(self, event: SubjectForgotten, meta: EventMeta) -> None:
        self.rows.delete(event.subject)


@pytest.mark.parametrize(
    ("when", "shown"),
    [("before", set()), ("paused", {"Ann Secret", "Bob"}), ("at the end", {"Ann Secret", "Bob", "Cleo"})],
)
async def test_a_replay_into_a_view_forgets_along(store: MemoryLog | Path, when: str, shown: set[str]) -> None:
    async with Runtime.open(store, aggregates=[Person]) as runtime:
        for name in ("Ann Secret", "Bob", "Cleo"):
            await runtime.actor(Person, name[:3].lower()).ask(Register(name))
        async with runtime.replay("full", projection=Names) as replay, trio.open_nursery() as nursery:
            if when == "paused":
                replay.run_to(2)
                nursery.start_soon(replay.run)
                await replay.wait_paused()
            elif when == "at the end":
                await replay.run()
            folder = replay._folder
            assert folder is not None
            shown = {row.name for row in replay.rows(Names.rows)}
            assert shown == set(
                {"before": (), "paused": ("Ann Secret", "Bob")}.get(when, ("Ann Secret", "Bob", "Cleo"))
            )
            await runtime.forget("ann")
            with trio.fail_after(60):
                while [each.name for each in (folder.path / "names").iterdir()] != ["2"]:
                    await trio.sleep(0.001)
            assert {row.name for row in replay.rows(Names.rows)} == {
                "somebody" if name == "Ann Secret" else name for name in shown
            }
            assert not any(b"Ann Secret" in file.read_bytes() for file in folder.path.rglob("*") if file.is_file())
            replay.resume()
            if when == "before":
                await replay.run()
            with trio.fail_after(60):
                while len(replay.rows(Names.rows)) < 3:
                    await trio.sleep(0.001)
            assert {row.name for row in replay.rows(Names.rows)} == {"somebody", "Bob", "Cleo"}


async def test_a_replay_whose_projection_cannot_take_what_is_left_says_so(store: MemoryLog | Path) -> None:
    async with Runtime.open(store, aggregates=[Person]) as runtime:
        for name in ("Bob", "Ann Secret", "Cleo"):
            await runtime.actor(Person, name[:3].lower()).ask(Register(name))
        async with runtime.replay("full", projection=Welcomed) as replay:
            replay.run_to(2)
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    with pytest.raises(ReplayHandlerFailed, match="nobody can be welcomed") as caught:
                        await replay.run()
                    assert caught.value.position == 2

                nursery.start_soon(run)
                await replay.wait_paused()
                await runtime.forget("ann")
                with trio.fail_after(60):
                    while len(replay.rows(Welcomed.rows)) > 1:
                        await trio.sleep(0.001)
                replay.resume()
            assert [row.name for row in replay.rows(Welcomed.rows)] == ["Bob"]
