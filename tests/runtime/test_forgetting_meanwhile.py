"""What goes on while a subject is forgotten: nothing of what it has in memory is stored again."""

import fcntl
import shutil
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import attrs
import pytest
import trio
import trio.testing
from people_domain import Message, Name, Names, Person, Register, Registered, Said, Say
from projection_cases import settle, tidied

from eventsrc import (
    Aggregate,
    AggregateRef,
    Forgotten,
    Limits,
    MemoryLog,
    Personal,
    Runtime,
    RuntimeClosed,
    Saga,
    SagaContext,
    SagaHoldsSubject,
    SubjectForgotten,
    SubjectKeyMissing,
    SubjectKeys,
    SubjectKeysUnusable,
    applies,
    command,
    event,
    handles,
    step,
)
from eventsrc.actors.journal.thread_journal import ThreadJournal
from eventsrc.actors.projections.projector import Projector
from eventsrc.runtime.forgetting import Forgetting


@command
class Quote:
    """Say your own name."""


@command
class QuoteLater:
    """The same once it is time."""


@command
class Leave:
    """Have yourself forgotten, and say so."""


class Talker(Aggregate):
    """Says what is in its state, of which it has copied a personal value."""

    copied: str = ""
    texts: list[str] = attrs.Factory(list)
    began: ClassVar[trio.Event]
    may_end: ClassVar[trio.Event]

    @handles
    def register(self, command: Register) -> Registered:
        return Registered(self.id, command.name)

    @handles
    def quote(self, command: Quote) -> Said:
        return Said(Message(self.id, self.copied))

    @handles
    async def quote_later(self, command: QuoteLater) -> Said:
        copied = self.copied
        type(self).began.set()
        await type(self).may_end.wait()
        return Said(Message(self.id, copied))

    @applies
    def registered(self, event: Registered) -> None:
        self.copied = event.name

    @applies
    def said(self, event: Said) -> None:
        self.texts = [*self.texts, event.message.text]


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryLog | Path:
    return MemoryLog() if request.param == "memory" else tmp_path / "store"


async def test_a_handler_under_way_stores_nothing_of_what_it_has_read(store: MemoryLog | Path) -> None:
    Talker.began, Talker.may_end = trio.Event(), trio.Event()
    async with Runtime.open(store, aggregates=[Talker]) as runtime, trio.open_nursery() as nursery:
        ann = runtime.actor(Talker, "ann")
        await ann.ask(Register("Ann Secret"))
        nursery.start_soon(ann.ask, QuoteLater())
        await Talker.began.wait()
        forgetting = trio.Event()

        async def forget() -> None:
            assert (await runtime.forget("ann")).events == 2
            forgetting.set()

        nursery.start_soon(forget)
        with trio.fail_after(60):
            while not runtime._keys or runtime._keys.ids_of("ann"):
                await trio.sleep(0.001)
        assert not forgetting.is_set(), "it waits for the handler"
        Talker.may_end.set()
        await forgetting.wait()
        state = await ann.state()
        assert (state.copied, state.texts) == ("somebody", ["..."])
        assert [stored async for stored in runtime.events(subject="ann")] == []


async def test_a_runtime_that_closes_meanwhile_says_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise RuntimeClosed("The runtime was closed before this was stored; it took no effect.")

    async with Runtime.open(tmp_path / "store", aggregates=[Person]) as runtime:
        await runtime.actor(Person, "ann").ask(Register("Ann Secret"))
        with monkeypatch.context() as patched:
            patched.setattr(ThreadJournal, "run", refuse)
            with pytest.raises(RuntimeClosed, match="the rest is done when the store is opened again"):
                await runtime.forget("ann")
        assert (await runtime.actor(Person, "ann").state()).nickname == "somebody"


async def test_commands_meanwhile_seal_nothing_with_a_new_key(store: MemoryLog | Path) -> None:
    async def quote(person: AggregateRef[Talker]) -> None:
        while True:
            await person.ask(Quote())

    async with Runtime.open(store, aggregates=[Talker]) as runtime:
        for number in range(20):
            person = runtime.actor(Talker, f"ann{number}")
            await person.ask(Register("Ann Secret"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(quote, person)
                await person.ask(Quote())
                await runtime.forget(f"ann{number}")
                nursery.cancel_scope.cancel()
            assert set((await person.state()).texts) <= {"...", "somebody"}


async def test_what_is_stored_before_the_event_that_says_so_can_be_read_by_nobody(store: MemoryLog | Path) -> None:
    async def register(person: AggregateRef[Person]) -> None:
        while True:
            await person.ask(Register("Ann Secret"))

    async with Runtime.open(store, aggregates=[Person]) as runtime:
        for number in range(20):
            person = runtime.actor(Person, f"ann{number}")
            await person.ask(Register("Ann Secret"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(register, person)
                forgotten = await runtime.forget(f"ann{number}")
                nursery.cancel_scope.cancel()
            before = runtime.events(stream=f"person-ann{number}", before=forgotten.position)
            assert {runtime.decode(stored).name async for stored in before} == {"somebody"}


async def test_nor_where_the_process_was_killed_before_it_was_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeClosed("The process was killed, the test says.")

    async with Runtime.open(tmp_path / "store", aggregates=[Person]) as runtime:
        for name in ("ann", "bob"):
            await runtime.actor(Person, name).ask(Register("Secret"))
            with monkeypatch.context() as patched, pytest.raises(RuntimeClosed):
                patched.setattr(Forgetting, "_tell", refuse)
                await runtime.forget(name)
    async with Runtime.open(tmp_path / "store", aggregates=[Person]) as runtime:
        with trio.fail_after(60):
            while len(told := [stored async for stored in runtime.events(types=[SubjectForgotten])]) < 2:
                for name in ("ann", "bob"):
                    await runtime.actor(Person, name).ask(Register("Secret"))
        for name, stored in zip(("ann", "bob"), told, strict=True):
            before = runtime.events(stream=f"person-{name}", before=stored.position)
            assert {runtime.decode(event).name async for event in before} == {"somebody"}


async def test_a_handler_may_have_its_own_subject_forgotten(store: MemoryLog | Path) -> None:
    class Leaver(Person):
        runtime: ClassVar[Runtime]

        @handles
        async def leave(self, command: Leave) -> Said:
            await type(self).runtime.forget(self.id)
            return Said(Message("the house", "left"))

    async with Runtime.open(store, aggregates=[Leaver]) as runtime:
        Leaver.runtime = runtime
        ann = runtime.actor(Leaver, "ann")
        await ann.ask(Register("Ann Secret"))
        await ann.ask(Leave())
        state = await ann.state()
        assert (state.nickname, state.messages) == ("somebody", [Message("the house", "left")])


async def test_a_step_cannot_forget_what_its_saga_holds(store: MemoryLog | Path) -> None:
    refused: list[SagaHoldsSubject] = []

    class Leaving(Saga):
        person: str
        name: Annotated[str, Personal("person", forgotten="somebody")]

        @step
        async def forget(self, ctx: SagaContext) -> None:
            with pytest.raises(SagaHoldsSubject, match="Let the saga hold the id alone") as caught:
                await runtime.forget(self.person, even_in_sagas=True)
            refused.append(caught.value)

    async with Runtime.open(store, aggregates=[Person], sagas=[Leaving]) as runtime:
        saga = await runtime.start_saga(Leaving("ann", "Ann Secret"), key="ann")
        assert (await saga.wait()).saga.name == "Ann Secret"
        assert (refused[0].subject, refused[0].saga) == ("ann", "saga_leaving-ann")
        assert (await runtime.forget("ann")).streams == ["saga_leaving-ann"]


async def test_a_proof_under_way_does_not_bring_a_snapshot_back(tmp_path: Path) -> None:
    limits = Limits(snapshot_every_events=2, proof_events_per_second=1)
    async with Runtime.open(tmp_path / "store", aggregates=[Person], limits=limits) as runtime:
        ann = runtime.actor(Person, "ann")
        await ann.ask(Register("Ann Secret"))
        await ann.ask(Say("something hushed"))
        with trio.fail_after(60):
            while not runtime.maintenance.snapshots(Person, "ann"):
                await trio.sleep(0.001)
        async with trio.open_nursery() as nursery:
            # It has replayed the two events, and rests a while before it keeps what it found out.
            nursery.start_soon(runtime.maintenance.prove, Person, "ann")
            await trio.lowlevel.checkpoint()
            await runtime.forget("ann")
        assert runtime.maintenance.snapshots(Person, "ann") == await runtime.maintenance.quarantined() == []
        assert runtime.maintenance.proofs.quarantined == 0


async def test_a_compaction_under_way_is_taken_back(tmp_path: Path) -> None:
    limits = Limits(snapshot_every_events=5, compaction_events_min=5)
    async with Runtime.open(tmp_path / "store", aggregates=[Person], limits=limits) as runtime:
        ann = runtime.actor(Person, "ann")
        await ann.ask(Register("Ann Secret"))
        for _ in range(12):
            await ann.ask(Say("something hushed"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.maintenance.compact, Person, "ann")
            await trio.lowlevel.checkpoint()
            await runtime.forget("ann")
        assert runtime.maintenance.compacted(Person, "ann") is None
        assert runtime.maintenance.snapshots(Person, "ann") == []
        assert (await ann.state()).nickname == "somebody"


async def test_what_waits_for_a_view_that_slows_writers_down_is_counted(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = Projector._apply

    async def slowly(self: Projector, *others: Any, **options: Any) -> None:
        await trio.sleep(1)
        await apply(self, *others, **options)

    monkeypatch.setattr(Projector, "_apply", slowly)

    class Bounded(Names):
        max_lag_events = 1
        on_lag = "slow_writers"

    async with (
        Runtime.open(MemoryLog(), aggregates=[Person], projections=[Bounded]) as runtime,
        trio.open_nursery() as nursery,
    ):
        for name in ("bob", "ann", "cleo"):
            nursery.start_soon(partial(runtime.actor(Person, name).ask, Register(name), timeout=100))
            await trio.testing.wait_all_tasks_blocked()
        assert runtime.last_position == 1
        assert await runtime.forget("ann") == Forgotten("ann", 1, ["person-ann"], 4)


# --- elsewhere ---


async def test_views_of_readers_that_are_gone_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with Runtime.open(path, aggregates=[Person]) as runtime:
        await runtime.actor(Person, "ann").ask(Register("Ann Secret"))
    here = partial(Runtime.open, path, aggregates=[Person], projections=[Names], role="reader")
    async with here() as reader:
        assert await reader.view(Names.rows).get("ann", at_least=1) == Name("ann", "Ann Secret")
    folder = path / "readers" / "1"
    shutil.copytree(folder, path / "readers" / "2")
    async with Runtime.open(path, aggregates=[Person]) as runtime:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            await runtime.forget("ann")
    assert [each.parent.name for each in (path / "readers").glob("*/views")] == ["1"], "of one that is there"
    async with here() as reader:
        await settle(reader, Names, building=True)
        assert await reader.view(Names.rows).get("ann") == Name("ann", "somebody")
        await tidied(reader, Names)
    assert not any(b"Ann Secret" in file.read_bytes() for file in path.rglob("*") if file.is_file())


async def test_who_was_forgotten_is_forgotten_again_with_an_older_copy_of_the_keys(tmp_path: Path) -> None:
    path, keys = tmp_path / "store", tmp_path / "store.keys"
    async with Runtime.open(path, aggregates=[Person]) as runtime:
        for name in ("ann", "bob", "cat"):
            await runtime.actor(Person, name).ask(Register(f"Secret {name}"))
        await runtime.forget("bob")
    shutil.copy(keys, tmp_path / "copy")
    async with Runtime.open(path, aggregates=[Person]) as runtime:
        await runtime.forget("ann")
    shutil.copy(tmp_path / "copy", keys)
    async with Runtime.open(path, aggregates=[Person]) as runtime:
        states = [(await runtime.actor(Person, name).state()).name for name in ("ann", "bob", "cat")]
        assert states == ["somebody", "somebody", "Secret cat"]
        await runtime.actor(Person, "ann").ask(Register("Ann Again"))
        assert (await runtime.actor(Person, "ann").state()).name == "Ann Again"


# --- limits ---


@event("people.met")
class Met:
    messages: list[Message]


@command
class Meet:
    people: int


class Party(Aggregate):
    @handles
    def meet(self, command: Meet) -> Met:
        return Met([Message(f"guest {number}", "hello") for number in range(command.people)])

    @applies
    def met(self, event: Met) -> None:
        pass


async def test_an_event_may_be_about_many_subjects(store: MemoryLog | Path) -> None:
    async with Runtime.open(store, aggregates=[Party]) as runtime:
        await runtime.actor(Party, "one").ask(Meet(50))
        assert [stored.position async for stored in runtime.events(subject="guest 49")] == [1]
        assert (await runtime.forget("guest 49")).events == 1
        (stored,) = [runtime.decode(each) async for each in runtime.events(types=[Met])]
        assert [message.text for message in stored.messages] == ["hello"] * 49 + ["..."]


async def test_a_store_that_is_full_of_streams_forgets(store: MemoryLog | Path) -> None:
    async with Runtime.open(store, aggregates=[Person], limits=Limits(streams_max=2, stream_events_max=1)) as runtime:
        for name in ("ann", "bob"):
            await runtime.actor(Person, name).ask(Register("Secret"))
        for position, name in enumerate(("ann", "bob"), 3):
            assert (await runtime.forget(name)).position == position
        assert len([stored async for stored in runtime.events(types=[SubjectForgotten])]) == 2


# --- faults ---


async def test_what_is_sealed_elsewhere_is_no_fault_of_the_event(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Person]) as runtime:
        await runtime.actor(Person, "ann").ask(Register("Ann Secret"))
        (stored,) = [each async for each in runtime.events()]
    async with Runtime.open(MemoryLog(), aggregates=[Person]) as runtime:
        with pytest.raises(SubjectKeyMissing):
            runtime.decode(stored)


async def test_keys_that_were_taken_away_keep_an_event_from_being_stored(tmp_path: Path) -> None:
    keys = tmp_path / "store.keys"
    async with Runtime.open(tmp_path / "store", aggregates=[Person]) as runtime:
        await runtime.actor(Person, "ann").ask(Register("Ann"))
        keys.rename(tmp_path / "away")
        for refused in (runtime.actor(Person, "bob").ask(Register("Bob")), runtime.forget("ann")):
            with pytest.raises(SubjectKeysUnusable, match="moved, removed or replaced"):
                await refused
        assert runtime.last_position == 1
        (tmp_path / "away").rename(keys)
        await runtime.actor(Person, "bob").ask(Register("Bob"))
        assert (await runtime.actor(Person, "bob").state()).name == "Bob"
        assert (await runtime.actor(Person, "ann").state()).name == "Ann"


async def test_a_fault_of_ours_ends_no_runtime(store: MemoryLog | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async with Runtime.open(store, aggregates=[Person]) as runtime:
        await runtime.actor(Person, "ann").ask(Register("Ann Secret"))
        with monkeypatch.context() as patched:
            patched.setattr(SubjectKeys, "forget", fail)
            with pytest.raises(ZeroDivisionError):
                await runtime.forget("ann")
        assert (await runtime.actor(Person, "ann").state()).name == "Ann Secret"
        assert (await runtime.forget("ann")).events == 1


async def test_the_keys_are_beside_the_folder_by_whatever_path_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "store")
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(tmp_path / "store")
    for number, path in enumerate((tmp_path / "store", ".", "../link", f"{tmp_path}/store/")):
        async with Runtime.open(path, aggregates=[Person]) as runtime:
            await runtime.actor(Person, f"{number}").ask(Register("somebody else"))
            assert (await runtime.actor(Person, "0").state()).name == "somebody else"
    assert keys_in(tmp_path) == ["store.keys"]


def keys_in(folder: Path) -> list[str]:
    return [each.name for each in folder.rglob("*keys")]
