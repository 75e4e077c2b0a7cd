"""What an effect of a saga returns comes back as what it was, when its type is told."""

import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, assert_type
from uuid import UUID

import attrs
import pydantic
import pytest
from saga_cases import open_runtime

from eventsrc import Personal, Retry, Runtime, Saga, SagaContext, step
from eventsrc.storage.store import EventStore


class Completion(pydantic.BaseModel):
    text: str
    cost: Decimal


@attrs.frozen
class Ticket:
    seat: int
    price: Decimal


@attrs.frozen
class Passenger:
    id: str
    name: Annotated[str, Personal("id")]


class Profile(pydantic.BaseModel):
    id: str
    name: Annotated[str, Personal("id")]


def saga_of(returned: object, returns: Any, seen: list[Any]) -> type[Saga]:
    """A saga whose only step fails once behind its effect, so that it is run again."""

    class Asking(Saga):
        calls: int = 0

        @step(retry=Retry(attempts=2, backoff_seconds=0.001))
        async def only(self, ctx: SagaContext) -> None:
            seen.append(await ctx.effect("ask", answer, returns=returns))
            if len(seen) == 1:
                raise OSError("once more")

    async def answer() -> object:
        calls.append(1)
        return returned

    calls: list[int] = []
    return Asking


async def outcome_of(runtime: Runtime, saga_class: type[Saga]) -> tuple[str, str]:
    saga = await runtime.start_saga(saga_class(), key="1")
    status = await saga.wait(timeout=10)
    return status.state, status.error


@pytest.mark.parametrize(
    ("returned", "returns"),
    [
        (Completion(text="é", cost=Decimal("0.10")), Completion),
        (Ticket(4, Decimal("1.50")), Ticket),
        ([Ticket(4, Decimal("1.50"))], list[Ticket]),
        ({"a": Completion(text="a", cost=Decimal(1))}, dict[str, Completion]),
        (3, int),
    ],
)
async def test_a_step_that_is_run_again_gets_an_object_of_the_type(
    store: EventStore | Path, returned: object, returns: type
) -> None:
    seen: list[Any] = []
    saga_class = saga_of(returned, returns, seen)
    async with open_runtime(store, saga_class) as runtime:
        assert await outcome_of(runtime, saga_class) == ("completed", "")
        effects = [event async for event in runtime.events(types=["saga.effect_done"])]
    assert seen == [returned, returned]
    assert [type(each) for each in seen] == [type(returned)] * 2
    assert len(effects) == 1


@pytest.mark.parametrize(
    ("returned", "returns", "error"),
    [
        ("a text", Completion, "EncodingError: The effect 'ask' returned what is no Completion"),
        (Ticket(1, "free"), Ticket, "EncodingError: The effect 'ask' returned what is no Ticket"),  # type: ignore[arg-type]
        ([UUID(int=1)], list[str], "EncodingError: The effect 'ask' returned what would come back as ['0000"),
        ([1], list[Ticket], "EncodingError: The effect 'ask' returned what is no list[test_effect_results.Ticket]"),
        (Passenger("p", "Ann"), Passenger, "DefinitionError: The effect 'ask' returns Passenger, which has personal"),
        (None, Profile, "DefinitionError: What the effect 'ask' returns would not be sealed: Profile.name is marked"),
        (Passenger("p", "Ann"), None, "EncodingError: Passenger.name is marked as personal, and would not be sealed"),
        ({"a": [Passenger("p", "Ann")]}, dict[str, Any], "EncodingError: Passenger.name is marked as personal"),
        (None, complex, "DefinitionError: What the effect 'ask' returns cannot be turned into data"),
    ],
)
async def test_what_would_not_come_back_fails_the_step_and_is_not_asked_for_again(
    store: EventStore | Path, returned: object, returns: type, error: str
) -> None:
    seen: list[Any] = []
    saga_class = saga_of(returned, returns, seen)
    async with open_runtime(store, saga_class) as runtime:
        state, reason = await outcome_of(runtime, saga_class)
        begun = [event async for event in runtime.events(types=["saga.effect_begun"])]
    assert (state, reason.startswith(error)) == ("compensated", True), reason
    assert len(begun) == (error.startswith("Encoding"))
    assert not seen


async def test_a_result_that_is_unequal_to_itself_comes_back(store: EventStore | Path) -> None:
    seen: list[Any] = []
    saga_class = saga_of([math.nan, 1.5], list[float], seen)
    async with open_runtime(store, saga_class) as runtime:
        assert await outcome_of(runtime, saga_class) == ("completed", "")
    assert repr(seen) == "[[nan, 1.5], [nan, 1.5]]"


async def test_a_result_that_no_longer_fits_its_type_is_said(store: EventStore | Path) -> None:
    returns: list[type] = [Ticket, Completion]

    class Asking(Saga):
        @step(retry=Retry(attempts=2, backoff_seconds=0.001))
        async def only(self, ctx: SagaContext) -> None:
            await ctx.effect("ask", lambda: Ticket(4, Decimal(1)), returns=returns.pop(0))
            raise OSError("once more")

    async with open_runtime(store, Asking) as runtime:
        state, reason = await outcome_of(runtime, Asking)
    assert state == "compensated"
    assert reason == (
        "DecodingError: What the effect 'ask' returned before does not fit Completion: text: Field required; "
        "cost: Field required @ $"
    )


def test_the_type_is_that_of_the_call() -> None:
    async def typed(ctx: SagaContext, complete: Callable[[], Completion]) -> None:
        assert_type(await ctx.effect("a", complete, returns=Completion), Completion)
        assert_type(await ctx.effect("b", complete, returns=list[Ticket], idempotent=True), list[Ticket])
        assert_type(await ctx.effect("c", complete), Any)

    assert typed.__name__ == "typed", "mypy looks at the rest"
