"""Forgetting a subject of whom sagas hold something."""

from functools import partial
from pathlib import Path
from typing import Annotated

import pytest
import trio
import trio.testing
from people_domain import OPENED, Person, Register, Welcome
from test_forgetting import found_in

from eventsrc import Personal, Runtime, Saga, SagaContext, SagaInstances, SubjectInSagas, step
from eventsrc.storage.store import EventStore


async def test_a_saga_under_way_keeps_what_it_needs(store: EventStore | Path) -> None:
    async with Runtime.open(store, **OPENED, sagas=[Welcome]) as runtime:
        await runtime.actor(Person, "ann").ask(Register("Ann Secret"))
        saga = await runtime.start_saga(Welcome("ann", "Ann Secret"), key="ann")
        with pytest.raises(SubjectInSagas, match="even_in_sagas=True") as caught:
            await runtime.forget("ann")
        assert caught.value.sagas == ["saga_welcome-ann"]
        assert (await runtime.actor(Person, "ann").state()).name == "Ann Secret"
        assert await saga.signal("go")
        with trio.fail_after(60):
            outcome = await saga.wait()
        forgotten = await runtime.forget("ann")
        assert "saga_welcome-ann" in forgotten.streams
        assert outcome.saga.name == "Ann Secret"
        assert (await saga.wait()).saga.name == "somebody"


async def test_a_saga_may_go_on_without_what_was_forgotten(store: EventStore | Path) -> None:
    async with Runtime.open(store, **OPENED, sagas=[Welcome]) as runtime:
        saga = await runtime.start_saga(Welcome("ann", "Ann Secret"), key="ann")
        forgotten = await runtime.forget("ann", even_in_sagas=True)
        assert forgotten.streams == ["saga_welcome-ann"]
        assert await saga.signal("go")
        assert (await saga.wait()).state == "completed"
        said = (await runtime.actor(Person, "ann-greeter").state()).messages
        assert [message.text for message in said] == ["welcome, somebody"]


async def test_what_a_step_under_way_stores_is_forgotten_too(store: EventStore | Path) -> None:
    began, may_end = trio.Event(), trio.Event()

    class Slow(Saga):
        person: str
        name: Annotated[str, Personal("person", forgotten="somebody")]

        @step
        async def rest(self, ctx: SagaContext) -> None:
            began.set()
            await may_end.wait()
            self.name += " again"

    async with Runtime.open(store, **OPENED, sagas=[Slow]) as runtime:
        saga = await runtime.start_saga(Slow("ann", "Ann Secret"), key="ann")
        await began.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(runtime.forget, "ann", even_in_sagas=True))
            await trio.testing.wait_all_tasks_blocked()
            may_end.set()
        outcome = await saga.wait()
        assert (outcome.state, outcome.saga.name) == ("completed", "somebody")
        assert [stored async for stored in runtime.events(subject="ann")] == []


async def test_sagas_hold_nothing_that_can_be_read(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Person], sagas=[Welcome]) as runtime:
        await runtime.start_saga(Welcome("ann", "Ann Secret"), key="ann")
    assert found_in(tmp_path) == []


@pytest.mark.parametrize("is_forgotten", [False, True])
async def test_a_store_whose_sagas_hold_something_personal_is_opened_again(tmp_path: Path, is_forgotten: bool) -> None:
    async with Runtime.open(tmp_path / "store", **OPENED, sagas=[Welcome]) as runtime:
        await runtime.start_saga(Welcome("ann", "Ann Secret"), key="ann")
        if is_forgotten:
            await runtime.forget("ann", even_in_sagas=True)
    async with Runtime.open(tmp_path / "store", **OPENED, sagas=[Welcome]) as runtime:
        saga = runtime.saga(Welcome, "ann")
        assert await saga.signal("go")
        assert (await saga.wait()).saga.name == ("somebody" if is_forgotten else "Ann Secret")
    async with Runtime.open(tmp_path / "store", projections=[SagaInstances], role="reader") as reader:
        assert [row.state async for row in reader.sagas()] == ["completed"]
