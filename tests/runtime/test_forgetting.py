"""Forgetting a subject: nobody can read again what was stored of it, wherever it was, and all else goes on."""

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from compaction_cases import sound
from people_domain import (
    OPENED,
    SECRETS,
    Directory,
    Message,
    Name,
    Names,
    Person,
    Register,
    Registered,
    Said,
    Say,
)
from projection_cases import settle

from eventsrc import (
    ArgumentInvalid,
    EncodingError,
    EventTooLarge,
    Forgotten,
    Limits,
    MemoryLog,
    PastReadOnly,
    Runtime,
    RuntimeReadOnly,
    StoreFull,
    SubjectForgotten,
    SubjectKeyMissing,
    SubjectKeys,
    SubjectKeysUnusable,
    UnknownSubject,
    ViewStillRemembers,
)
from eventsrc.runtime.testing import FaultyLog
from eventsrc.storage.keys.key_file import KeyFile
from eventsrc.storage.log import EventLog
from eventsrc.storage.reader import LogReader
from eventsrc.storage.store import EventStore

MESSAGES = 3_000
"""More than a view takes in at once."""
SNAPSHOTS = Limits(snapshot_every_events=2)
COMPACTED = Limits(snapshot_every_events=5, compaction_events_min=5)


async def fill(runtime: Runtime) -> None:
    ann, bob = runtime.actor(Person, "ann"), runtime.actor(Person, "bob")
    await ann.ask(Register("Ann Secret", "ann@example.org"))
    await bob.ask(Register("Bob", "bob@example.org"))
    await ann.ask(Say("something hushed"))
    await bob.ask(Say("hello"))


def found_in(*folders: Path) -> list[tuple[bytes, str]]:
    """Which of ann's secrets is in which file."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [(secret, path.name) for path in files for secret in SECRETS if secret in path.read_bytes()]


async def test_what_was_stored_of_a_subject_reads_as_forgotten_everywhere(store: EventStore | Path) -> None:
    async with Runtime.open(store, **OPENED, limits=SNAPSHOTS) as runtime:
        await fill(runtime)
        forgotten = await runtime.forget("ann", wait_for=[Names])
        assert forgotten == Forgotten("ann", 2, ["person-ann"], 5)

        state = await runtime.actor(Person, "ann").state()
        assert (state.name, state.nickname) == ("somebody", "somebody")
        assert state.messages == [Message("ann", "...")]
        assert await runtime.view(Names.rows).get("ann") == Name("ann", "somebody")
        events = [runtime.decode(stored) async for stored in runtime.events(stream="person-ann")]
        assert events == [Registered("ann", "somebody", None), Said(Message("ann", "..."))]
        async with runtime.as_of(position=3) as past:
            assert (await past.actor(Person, "ann").state()).nickname == "somebody"

        bob = await runtime.actor(Person, "bob").state()
        assert (bob.name, bob.messages) == ("Bob", [Message("bob", "hello")])
        assert await runtime.view(Names.rows).get("bob") == Name("bob", "Bob")


async def test_the_wait_for_views_that_are_to_forget_has_a_bound(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", **OPENED) as runtime:
        await fill(runtime)
        await runtime.actor(Person, "bob").ask_many([Say("hello")] * MESSAGES)
        await runtime.actor(Person, "bob").ask(Say("the last"), wait_for=[Names])
        with pytest.raises(ViewStillRemembers, match="built anew") as told:
            await runtime.forget("ann", wait_for=[Names], timeout=0)
        assert (told.value.name, told.value.subject) == ("names", "ann")
        assert (await runtime.actor(Person, "ann").state()).name == "somebody"
        await settle(runtime, Names, building=True)
        assert await runtime.view(Names.rows).get("ann") == Name("ann", "somebody")
        with pytest.raises(ArgumentInvalid, match="timeout"):
            await runtime.forget("bob", wait_for=[Names], timeout=-1)
        assert (await runtime.actor(Person, "bob").state()).name == "Bob"


async def test_it_stays_forgotten_when_the_store_is_opened_again(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", **OPENED, limits=SNAPSHOTS) as runtime:
        await fill(runtime)
        await runtime.forget("ann")
    async with Runtime.open(tmp_path / "store", **OPENED, limits=SNAPSHOTS) as runtime:
        assert (await runtime.actor(Person, "ann").state()).nickname == "somebody"
        assert (await runtime.actor(Person, "bob").state()).name == "Bob"
        await settle(runtime, Names, building=True)
        assert await runtime.view(Names.rows).get("ann") == Name("ann", "somebody")
    assert sound(tmp_path / "store")


async def test_personal_data_are_in_no_file_but_the_views_and_then_in_none(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", **OPENED) as runtime:
        await fill(runtime)
        await runtime.actor(Person, "ann").ask(Say("more"), wait_for=[Names, Directory])
    assert {name for _, name in found_in(tmp_path)} == {"data.mdb"}
    assert found_in(tmp_path / "store" / "control") == []
    shutil.copytree(tmp_path / "store", tmp_path / "copy", ignore=shutil.ignore_patterns("views"))
    assert found_in(tmp_path / "copy") == []
    async with Runtime.open(tmp_path / "store", **OPENED) as runtime:
        await runtime.forget("ann", wait_for=[Names])
        # A view that was built anew is a folder of its own, and that of the old one is gone.
        assert found_in(tmp_path / "store" / "views" / "names") == []


async def test_a_copy_that_was_made_before_cannot_be_read_either(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", **OPENED) as runtime:
        await fill(runtime)
        await runtime.backup(tmp_path / "backup")
        await runtime.fork(4, tmp_path / "fork")
        await runtime.forget("ann")
    for copy in ("backup", "fork"):
        async with Runtime.open(tmp_path / copy, **OPENED, keys=tmp_path / "store.keys") as runtime:
            assert (await runtime.actor(Person, "ann").state()).nickname == "somebody"
            assert (await runtime.actor(Person, "bob").state()).name == "Bob"
            assert await runtime.view(Names.rows).get("ann", at_least=4) == Name("ann", "somebody")


async def test_snapshots_with_what_is_not_marked_are_removed(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", **OPENED, limits=SNAPSHOTS) as runtime:
        await fill(runtime)
    with closing(LogReader.open(tmp_path / "store")) as log:
        assert [snapshot.state["nickname"] for snapshot in log.snapshots("person-ann")] == ["ann secret"]
    async with Runtime.open(tmp_path / "store", **OPENED, limits=SNAPSHOTS) as runtime:
        await runtime.forget("ann")
    with closing(LogReader.open(tmp_path / "store")) as log:
        assert log.snapshots("person-ann") == []
        assert len(log.snapshots("person-bob")) == 1


async def test_what_compaction_has_put_in_the_place_of_events_is_taken_back(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", **OPENED, limits=COMPACTED) as runtime:
        await fill(runtime)
        for number in range(12):
            await runtime.actor(Person, "ann").ask(Say(f"hush number {number}"))
        await runtime.maintenance.compact(Person, "ann")
        compacted = runtime.maintenance.compacted(Person, "ann")
        assert compacted is not None
        assert compacted.state["nickname"] == "ann secret"
        assert (await runtime.forget("ann")).events == 14
        assert runtime.maintenance.compacted(Person, "ann") is None
        state = await runtime.actor(Person, "ann").state()
        assert (state.nickname, {message.text for message in state.messages}) == ("somebody", {"..."})
        done = await runtime.maintenance.compact(Person, "ann")
        assert done.events > 5
    async with Runtime.open(tmp_path / "store", **OPENED, limits=COMPACTED) as runtime:
        assert (await runtime.actor(Person, "ann").state()).nickname == "somebody"
    assert sound(tmp_path / "store")


async def test_a_subject_that_comes_back_is_known_again(store: EventStore | Path) -> None:
    async with Runtime.open(store, **OPENED) as runtime:
        await fill(runtime)
        await runtime.forget("ann")
        await runtime.actor(Person, "ann").ask(Register("Ann Again"))
        assert (await runtime.actor(Person, "ann").state()).name == "Ann Again"
        names = [runtime.decode(each).name async for each in runtime.events(types=[Registered])]
        assert names == ["somebody", "Bob", "Ann Again"]
        assert (await runtime.forget("ann", wait_for=[Names])).events == 1
        assert await runtime.view(Names.rows).get("ann") == Name("ann", "somebody")


async def test_the_log_says_who_was_forgotten_and_who_asked_for_it(store: EventStore | Path) -> None:
    async with Runtime.open(store, **OPENED) as runtime:
        await fill(runtime)
        forgotten = await runtime.forget("ann", metadata={"principal": "bob"})
        (told,) = [stored async for stored in runtime.events(types=[SubjectForgotten])]
        assert (told.position, told.metadata) == (forgotten.position, {"principal": "bob"})
        assert told.category == "eventsrc.subjects"
        assert runtime.decode(told) == SubjectForgotten("ann")


async def test_a_projection_may_remove_a_subject_itself(store: EventStore | Path) -> None:
    async with Runtime.open(store, **OPENED) as runtime:
        await fill(runtime)
        forgotten = await runtime.forget("ann", wait_for=[Directory])
        rows = await runtime.view(Directory.rows).all().fresh(at_least=forgotten.position).rows()
        assert rows == [Name("bob", "Bob")]
        assert not runtime.lag()["directory"].rebuilding


async def test_all_that_is_held_of_a_subject_is_found(store: EventStore | Path) -> None:
    async with Runtime.open(store, **OPENED) as runtime:
        await fill(runtime)
        assert [stored.position async for stored in runtime.events(subject="ann")] == [1, 3]
        assert [stored.position async for stored in runtime.events(subject="ann", backwards=True)] == [3, 1]
        assert [stored.position async for stored in runtime.events(subject="bob", tag="room:main")] == [4]
        assert [stored async for stored in runtime.events(subject="nobody")] == []
        await runtime.forget("ann")
        assert [stored async for stored in runtime.events(subject="ann")] == []


async def test_a_command_that_was_answered_before_is_answered_with_what_is_left(store: EventStore | Path) -> None:
    async with Runtime.open(store, **OPENED) as runtime:
        ann = runtime.actor(Person, "ann")
        first = await ann.ask(Register("Ann Secret"), idempotency_key="once")
        assert first.events == (Registered("ann", "Ann Secret"),)
        await runtime.forget("ann")
        again = await ann.ask(Register("Ann Secret"), idempotency_key="once")
        assert (again.duplicate, again.position) == (True, first.position)
        assert again.events == (Registered("ann", "somebody"),)


async def test_commands_go_on_while_a_subject_is_forgotten(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", **OPENED, limits=SNAPSHOTS) as runtime:
        await fill(runtime)
        positions: list[int] = []

        async def talk(name: str) -> None:
            for number in range(40):
                receipt = await runtime.actor(Person, name).ask(Say(f"hush number {number}"))
                positions.append(receipt.position)

        async with trio.open_nursery() as nursery:
            for name in ("ann", "bob", "cat"):
                nursery.start_soon(talk, name)
            nursery.start_soon(runtime.forget, "ann")
        assert max(positions) <= runtime.last_position == 4 + 120 + 1
        assert len(set(positions)) == 120
        state = await runtime.actor(Person, "ann").state()
        assert (state.nickname, len(state.messages)) == ("somebody", 41)
        assert len((await runtime.actor(Person, "cat").state()).messages) == 40
    assert sound(tmp_path / "store")


async def test_whoever_asks_may_give_up_and_it_is_done_all_the_same(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", **OPENED) as runtime:
        await fill(runtime)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.forget, "ann")
            for _ in range(2):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        with trio.fail_after(60):
            while [stored async for stored in runtime.events(subject="ann")] or runtime.last_position == 4:
                await trio.sleep(0.001)
        assert (await runtime.actor(Person, "ann").state()).nickname == "somebody"


# --- refused ---


async def test_who_is_cancelled_before_asking_has_nobody_forgotten(store: EventStore | Path) -> None:
    async with Runtime.open(store, **OPENED) as runtime:
        await fill(runtime)
        with trio.CancelScope() as scope:
            scope.cancel()
            await runtime.forget("ann")
        assert scope.cancelled_caught
        await runtime.forget("bob")
        assert (await runtime.actor(Person, "ann").state()).name == "Ann Secret"


async def test_who_is_not_known_cannot_be_forgotten(store: EventStore | Path) -> None:
    async with Runtime.open(store, **OPENED) as runtime:
        await fill(runtime)
        await runtime.forget("ann")
        wrong: Any
        for subject in ("ann", "nobody"):
            with pytest.raises(UnknownSubject, match="forgotten before, or nothing personal was ever stored") as caught:
                await runtime.forget(subject)
            assert caught.value.subject == subject
        for wrong in ("", None, 5):
            with pytest.raises(ArgumentInvalid, match="give its id, a text"):
                await runtime.forget(wrong)
        with pytest.raises(ArgumentInvalid, match="not valid Unicode"):
            await runtime.forget("\ud800")
        for wrong in ("", 5):
            with pytest.raises(ArgumentInvalid, match="give its id, a text"):
                runtime.events(subject=wrong)
        with pytest.raises(ArgumentInvalid, match="mapping"):
            await runtime.forget("bob", metadata=wrong)
        with pytest.raises(EncodingError, match="cannot be stored"):
            await runtime.forget("bob", metadata={"who": object()})
        with pytest.raises(EventTooLarge):
            await runtime.forget("bob", metadata={"who": "x" * 70_000})
        assert (await runtime.actor(Person, "bob").state()).name == "Bob"


async def test_a_store_without_a_place_for_keys_knows_nobody(tmp_path: Path) -> None:
    class Elsewhere:
        """A store of somebody's own."""

        path = str(tmp_path / "own")

        def __getattr__(self, name: str) -> Any:
            return getattr(log, name)

    log = MemoryLog()
    store: Any = Elsewhere()
    (tmp_path / "own").mkdir()
    async with Runtime.open(store, aggregates=[]) as runtime:
        with pytest.raises(UnknownSubject):
            await runtime.forget("ann")


async def test_only_who_writes_forgets(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", **OPENED) as runtime:
        await fill(runtime)
        async with runtime.as_of(position=4) as past:
            with pytest.raises(PastReadOnly):
                await past.forget("ann")
    async with Runtime.open(tmp_path / "store", aggregates=[Person], role="reader") as reader:
        assert (await reader.actor(Person, "ann").state()).name == "Ann Secret"
        with pytest.raises(RuntimeReadOnly):
            await reader.forget("ann")


# --- keys ---


async def test_other_keys_than_those_of_the_store_are_noticed_at_once(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", **OPENED) as runtime:
        await fill(runtime)
    (tmp_path / "store.keys").rename(tmp_path / "elsewhere")
    with pytest.raises(SubjectKeyMissing, match=r"Runtime\.open\(\.\.\., keys=PATH\)"):
        async with Runtime.open(tmp_path / "store", **OPENED):
            pass
    async with Runtime.open(tmp_path / "store", **OPENED, keys=tmp_path / "elsewhere") as runtime:
        assert (await runtime.actor(Person, "ann").state()).name == "Ann Secret"


async def test_events_are_stored_only_when_their_keys_are(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    async with Runtime.open(tmp_path / "store", **OPENED, keys=tmp_path / "keys" / "store") as runtime:
        await fill(runtime)
        (tmp_path / "keys").rename(tmp_path / "gone")
        bob = runtime.actor(Person, "bob")
        await bob.ask(Say("the key is known"))
    async with Runtime.open(tmp_path / "store", aggregates=[], keys=tmp_path / "keys" / "store") as runtime:
        pass
    (tmp_path / "gone").rename(tmp_path / "keys")
    async with Runtime.open(tmp_path / "other", **OPENED, keys=tmp_path / "none" / "keys") as runtime:
        with pytest.raises(SubjectKeysUnusable, match="No such file or directory"):
            await runtime.actor(Person, "ann").ask(Register("Ann Secret"))
        assert runtime.last_position == 0
        (tmp_path / "none").mkdir()
        await runtime.actor(Person, "ann").ask(Register("Ann Secret"))
        assert (await runtime.actor(Person, "ann").state()).name == "Ann Secret"


async def test_keys_that_are_open_may_be_given(tmp_path: Path) -> None:
    log = MemoryLog()
    keys = SubjectKeys(log.keys)
    async with Runtime.open(log, **OPENED, keys=keys) as runtime:
        await fill(runtime)
        await runtime.forget("ann")
    assert keys.ids_of("ann") == []
    assert len(keys.ids_of("bob")) == 1


# --- interrupted ---


@pytest.mark.parametrize("broken", ["drop_snapshots", "append", "finish_forgetting"])
async def test_what_was_interrupted_is_finished_when_the_store_is_opened_again(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime.open(tmp_path / "store", **OPENED, limits=SNAPSHOTS) as runtime:
        await fill(runtime)
        with monkeypatch.context() as patched:

            def refuse(*_: object, **__: object) -> None:
                raise StoreFull(str(tmp_path), "no room, the test says")

            patched.setattr(SubjectKeys if broken == "finish_forgetting" else EventLog, broken, refuse)
            with pytest.raises(StoreFull):
                await runtime.forget("ann")
    async with Runtime.open(tmp_path / "store", **OPENED, limits=SNAPSHOTS) as runtime:
        with trio.fail_after(60):
            while runtime.last_position < 5 or keys_left(tmp_path / "store.keys"):
                await trio.sleep(0.001)
        told = [stored async for stored in runtime.events(types=[SubjectForgotten])]
        assert [stored.position for stored in told] == [5], "it is told once"
        assert (await runtime.actor(Person, "ann").state()).nickname == "somebody"
        assert await runtime.view(Names.rows).get("bob", at_least=5) == Name("bob", "Bob")
        await settle(runtime, Names, building=True)
        assert await runtime.view(Names.rows).get("ann") == Name("ann", "somebody")
    with closing(LogReader.open(tmp_path / "store")) as log:
        assert log.snapshots("person-ann") == []


async def test_what_failed_on_a_full_disk_is_finished_when_there_is_room(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The clock waits for threads a moment before it jumps.
    autojump_clock.autojump_threshold = 0.01
    log, full = FaultyLog(), StoreFull("disk", "no room, the test says")
    async with Runtime.open(log, **OPENED) as runtime:
        await fill(runtime)
        log.fail_next(full)
        with pytest.raises(StoreFull):
            await runtime.forget("ann")
        await settle(runtime, Names)
        assert await runtime.view(Names.rows).get("ann") == Name("ann", "Ann Secret"), "views were told nothing"
        await runtime.actor(Person, "ann").ask(Register("Ann again"))
        log.fail_next(full, times=2)
        with trio.fail_after(1_000_000):
            while runtime.last_position < 6:
                await trio.sleep(60)
        await settle(runtime, Names, building=True)
        told = [stored.position async for stored in runtime.events(types=[SubjectForgotten])]
        assert told == [6]
        registered = runtime.events(stream="person-ann", types=[Registered])
        names = [getattr(runtime.decode(stored), "name", None) async for stored in registered]
        assert names == ["somebody", "Ann again"], "who came back meanwhile stays"
        assert await runtime.view(Names.rows).get("ann") == Name("ann", "Ann again")
        await trio.sleep(600)
        assert runtime.last_position == 6, "it is done once"


def keys_left(path: Path) -> dict[str, list[bytes]]:
    with closing(SubjectKeys(KeyFile(path, "read"))) as keys:
        return keys.unfinished
