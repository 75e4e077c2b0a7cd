"""What is wrong with a saga's class shows where the class is defined."""

from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from saga_cases import open_runtime
from shop_domain import Create, Created

from eventsrc import DefinitionError, Rejected, Retry, Saga, SagaContext, starts_on, step
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"signals": "go"}, "signals of Spelled is a list of names, not 'go'"),
        ({"signals": 7}, "signals of Spelled is a list of names, not 7"),
        ({"deadline_seconds": "5"}, "deadline_seconds of Spelled must be positive .* not '5'"),
        ({"deadline_seconds": True}, "deadline_seconds of Spelled must be positive .* not True"),
        ({"name": 7}, "7 cannot be the name of Spelled"),
    ],
)
def test_what_stands_beside_the_class_is_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):

        class Spelled(Saga, **options):
            @step()
            async def first(self, ctx: SagaContext) -> None: ...


@pytest.mark.parametrize("seconds", ["5", None, True, float("nan")])
def test_what_is_no_time_is_told_where_it_is_declared(seconds: Any) -> None:
    with pytest.raises(DefinitionError, match=r"timeout_seconds of a step must be positive, not"):
        step(timeout_seconds=seconds)
    with pytest.raises(DefinitionError, match=r"backoff_seconds is positive"):
        Retry(backoff_seconds=seconds)
    with pytest.raises(DefinitionError, match=r"backoff_seconds_max no smaller"):
        Retry(backoff_seconds_max=seconds)


def test_signals_may_be_made_one_by_one() -> None:
    names: Any = (f"go{number}" for number in range(2))

    class Counted(Saga, signals=names):
        @step()
        async def first(self, ctx: SagaContext) -> None: ...

    assert Counted.__eventsrc_saga__.signals == ("go0", "go1")


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


def test_what_a_method_sets_is_a_field() -> None:
    class Base(Saga, name="base"):
        total: int
        balance = property(None, lambda self, value: None)

        @step(compensation="undo")
        async def first(self, ctx: SagaContext) -> None:
            self.total = self.balance = 1
            for self.payment_id in await ctx.effect("charge", list):
                self._keep(ctx.key)
            ctx.other = 1  # type: ignore[attr-defined]

        async def undo(self, ctx: SagaContext) -> None:
            self.refund_id = ctx.key

        def _keep(self, receipt: Any) -> None:
            self.receipt, self.first_seen = receipt, None

    class Later(Base, name="later"):
        receipt: str = ""

        @step()
        async def second(self, ctx: SagaContext) -> None:
            self.done_by = ctx.key

    assert Base.__eventsrc_saga__.fields == {"total", "payment_id", "refund_id", "receipt", "first_seen"}
    assert Base.__eventsrc_saga__.untyped == {"payment_id", "refund_id", "receipt", "first_seen"}
    assert Later.__eventsrc_saga__.untyped == {"payment_id", "refund_id", "first_seen", "done_by"}
    assert Later(5).payment_id is None


def test_setting_an_attribute_of_the_class_shows_before_anything_is_done() -> None:
    for lost in (None, 7, print):
        with pytest.raises(DefinitionError, match=r"Lossy.only sets self\.kept, which is no field of Lossy"):

            class Lossy(Saga):
                kept: ClassVar[Any] = lost

                @step()
                async def only(self, ctx: SagaContext) -> None:
                    self.kept = await ctx.effect("charge", str)  # type: ignore[misc]


@pytest.mark.parametrize("value", [datetime(2026, 1, 31), (1, 2), [(1,)], {1, 2}, object()])
async def test_what_is_set_without_a_type_comes_back_as_it_is_or_fails_the_step(
    store: EventStore | Path, value: Any
) -> None:
    class Keeper(Saga):
        @step()
        async def keep(self, ctx: SagaContext) -> None:
            self.kept = value

    async with open_runtime(store, Keeper) as runtime:
        saga = await runtime.start_saga(Keeper(), key="1")
        outcome = await saga.wait(timeout=10)
        assert outcome.state == "compensated"
        assert f"Declare it with its type: kept: {type(value).__name__} | None = None" in outcome.error


async def test_what_is_set_without_a_type_is_there_after_a_restart(store: EventStore | Path) -> None:
    class Buyer(Saga, signals=["go"]):
        @step(compensation="refund")
        async def charge(self, ctx: SagaContext) -> None:
            self.payment = await ctx.effect("charge", lambda: {"id": "pay-1", "parts": [1, 2.5, None, True]})

        @step()
        async def ship(self, ctx: SagaContext) -> None:
            await ctx.approval("go")
            raise Rejected("out of stock")

        async def refund(self, ctx: SagaContext) -> None:
            self.refunded = self.payment

    async with open_runtime(store, Buyer) as runtime:
        await runtime.start_saga(Buyer(), key="1")
    async with open_runtime(store, Buyer) as runtime:
        await runtime.saga(Buyer, "1").signal("go")
        outcome = await runtime.saga(Buyer, "1").wait(timeout=10)
        assert outcome.state == "compensated"
        assert outcome.saga.refunded == {"id": "pay-1", "parts": [1, 2.5, None, True]}


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
