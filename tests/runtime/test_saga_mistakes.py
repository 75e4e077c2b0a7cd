"""What is wrong with a saga's class shows where the class is defined."""

from pathlib import Path
from typing import Any

import pytest
from saga_cases import open_runtime
from shop_domain import Create, Created

from eventsrc import DefinitionError, Retry, Saga, SagaContext, starts_on, step
from eventsrc.storage.store import EventStore


def test_a_mistake_in_the_class_shows_where_it_was_made() -> None:
    with pytest.raises(DefinitionError, match=r"names the compensation 'undo', which Forgot does not have"):

        class Forgot(Saga):
            @step(compensation="undo")
            async def first(self, ctx: SagaContext) -> None: ...

    with pytest.raises(DefinitionError, match=r"Plain.first must be async"):

        class Plain(Saga):
            @step()
            def first(self, ctx: SagaContext) -> None: ...

    with pytest.raises(DefinitionError, match=r"takes self and ctx, and nothing else"):

        class Greedy(Saga):
            @step()
            async def first(self, ctx: SagaContext, more: int) -> None: ...

    with pytest.raises(DefinitionError, match=r"Empty has no step"):

        class Empty(Saga):
            pass

    with pytest.raises(DefinitionError, match=r"takes an @event class"):
        starts_on(Create)
    with pytest.raises(DefinitionError, match=r"attempts begin at 1"):
        Retry(attempts=0)
    with pytest.raises(DefinitionError, match=r"must be positive"):
        step(timeout_seconds=0)
    for attempts in (2.5, "3", True):
        with pytest.raises(DefinitionError, match=r"attempts are a whole number"):
            Retry(attempts=attempts)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match=r"not as 3"):
        step(retry=3)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match=r"named by a text"):
        step(compensation=print)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match=r"signals of Spelled is a list of names, not 'go'"):

        class Spelled(Saga, signals="go"):
            @step()
            async def first(self, ctx: SagaContext) -> None: ...


def test_a_starting_event_that_would_start_nothing_shows_at_once() -> None:
    with pytest.raises(DefinitionError, match=r"@starts_on\(Created\) stands over the class Above"):

        @starts_on(Created)
        class Above(Saga):
            @step()
            async def first(self, ctx: SagaContext) -> None: ...

    with pytest.raises(DefinitionError, match=r"def on_created\(cls, event, meta\)"):

        class Narrow(Saga):
            @starts_on(Created)
            @classmethod
            def on_created(cls, event: Created) -> "Narrow":
                return cls()

            @step()
            async def first(self, ctx: SagaContext) -> None: ...


def test_setting_what_is_no_field_shows_before_anything_is_done() -> None:
    async def assign(self: Any, ctx: SagaContext) -> None:
        payment = await ctx.effect("charge", str)
        self.payment_id = payment

    async def assign_in_a_task(self: Any, ctx: SagaContext) -> None:
        async def task() -> None:
            print(self)

        for self.payment_id in await ctx.effect("charge", list):
            await task()

    async def nothing(self: Any, ctx: SagaContext) -> None:
        self.total = self.balance = 1
        self.nested.payment_id = ctx.key
        ctx.payment_id = 1  # type: ignore[attr-defined]

    def define(method: Any, undo: Any) -> type[Saga]:
        method.__name__ = "only"
        methods = {
            "only": step(compensation="undo")(method),
            "undo": undo,
            "balance": property(None, lambda self, value: None),
        }
        return type("Lossy", (Saga,), {**methods, "__annotations__": {"total": int, "nested": Any}})

    define(nothing, nothing)
    for method, undo in ((assign, nothing), (assign_in_a_task, nothing), (nothing, assign)):
        with pytest.raises(DefinitionError, match=r"Lossy\.\w+ sets self\.payment_id, which is no field of Lossy"):
            define(method, undo)


async def test_an_attribute_that_is_no_field_is_an_error_of_the_step(store: EventStore | Path) -> None:
    class Careless(Saga):
        @step()
        async def only(self, ctx: SagaContext) -> None:
            for name in ["payment"]:
                setattr(self, name, "lost")

    async with open_runtime(store, Careless) as runtime:
        saga = await runtime.start_saga(Careless(), key="1")
        status = await saga.wait(timeout=10)
        assert status.state == "compensated"
        assert "A step set self.payment, which is no field of Careless" in status.error
