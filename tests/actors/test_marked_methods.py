"""A decorator without effect is told where the class is defined: on no plain method, elsewhere, or twice."""

from collections.abc import AsyncIterator, Callable, Iterator
from functools import singledispatchmethod
from typing import Any

import attrs
import pytest

from eventsrc import (
    Aggregate,
    DefinitionError,
    EventMeta,
    Projection,
    Saga,
    SagaContext,
    Table,
    applies,
    command,
    event,
    handles,
    on,
    starts_on,
    step,
)


@command
class Deposit:
    amount: int


@command
class Withdraw:
    amount: int


@event("account.deposited")
class Deposited:
    amount: int


@event("account.withdrawn")
class Withdrawn:
    amount: int


@attrs.frozen
class Row:
    account: str


Wrapper = Callable[[Any], Any]
NO_METHODS = pytest.mark.parametrize("wrapper", [staticmethod, classmethod, property, singledispatchmethod])


@NO_METHODS
def test_a_mark_below_what_is_no_plain_method(wrapper: Wrapper) -> None:
    with pytest.raises(DefinitionError, match=rf"Account\.deposit has @handles or .* is a {wrapper.__name__}"):

        class Account(Aggregate):
            @wrapper
            @handles
            def deposit(self, command: Deposit) -> None: ...

    with pytest.raises(DefinitionError, match=rf"Rows\.deposited has @on and is a {wrapper.__name__}"):

        class Rows(Projection):
            rows = Table(Row, key="account")

            @wrapper
            @on(Deposited)
            def deposited(self, event: Deposited, meta: EventMeta) -> None: ...

    with pytest.raises(DefinitionError, match=rf"Book\.pay has @step and is a {wrapper.__name__}.*Make it a plain"):

        class Book(Saga):
            @wrapper
            @step
            async def pay(self, ctx: SagaContext) -> None: ...


@pytest.mark.parametrize("wrapper", [staticmethod, classmethod, singledispatchmethod])
def test_a_mark_above_what_is_no_plain_method(wrapper: Wrapper) -> None:
    with pytest.raises(DefinitionError, match=f"is a {wrapper.__name__}"):

        class Account(Aggregate):
            @applies
            @wrapper
            def deposited(self, event: Deposited) -> None: ...


def test_a_mark_of_another_kind_of_class() -> None:
    with pytest.raises(DefinitionError, match=r"Account\.deposited has @on, which is for methods of a Projection"):

        class Account(Aggregate):
            @on(Deposited)
            def deposited(self, event: Deposited, meta: EventMeta) -> None: ...

    with pytest.raises(DefinitionError, match=r"Rows\.deposited has @handles or @applies, .* methods of an Aggregate"):

        class Rows(Projection):
            rows = Table(Row, key="account")

            @applies
            def deposited(self, event: Deposited) -> None: ...

    with pytest.raises(DefinitionError, match=r"Till\.pay has @step, which is for methods of a Saga"):

        class Till(Aggregate):
            @step
            async def pay(self, ctx: SagaContext) -> None: ...

    with pytest.raises(DefinitionError, match=r"Book\.pay has @handles or @applies"):

        class Book(Saga):
            @handles
            def pay(self, command: Deposit) -> None: ...


def test_two_methods_of_one_name_of_which_the_first_would_be_lost() -> None:
    with pytest.raises(DefinitionError, match=r"Account\.handle is defined twice with @handles.*a name of its own"):

        class Account(Aggregate):
            @handles
            def handle(self, command: Deposit) -> None: ...  # pyright: ignore[reportRedeclaration]

            @handles
            def handle(self, command: Withdraw) -> None: ...  # noqa: F811

    with pytest.raises(DefinitionError, match=r"Rows\.apply is defined twice with @on"):

        class Rows(Projection):
            rows = Table(Row, key="account")

            @on(Deposited)
            def apply(self, event: Deposited, meta: EventMeta) -> None: ...  # pyright: ignore[reportRedeclaration]

            @on(Withdrawn)
            def apply(self, event: Withdrawn, meta: EventMeta) -> None: ...  # noqa: F811

    with pytest.raises(DefinitionError, match=r"Book\.pay is defined twice with @step"):

        class Book(Saga):
            @step
            async def pay(self, ctx: SagaContext) -> None: ...  # pyright: ignore[reportRedeclaration]

            @step
            async def pay(self, ctx: SagaContext) -> None: ...  # noqa: F811

    with pytest.raises(DefinitionError, match=r"Buy\.begin is defined twice with @starts_on"):

        class Buy(Saga):
            @starts_on(Deposited)
            @classmethod
            def begin(cls, event: Deposited, meta: EventMeta) -> None: ...  # pyright: ignore[reportRedeclaration]

            @starts_on(Withdrawn)
            @classmethod
            def begin(cls, event: Withdrawn, meta: EventMeta) -> None: ...  # noqa: F811


def test_a_subclass_may_have_a_method_of_the_same_name() -> None:
    class Account(Aggregate):
        @handles
        def handle(self, command: Deposit) -> None: ...

    class Savings(Account):
        @handles
        def handle(self, command: Deposit) -> None: ...

    assert Savings.__eventsrc_definition__.handlers[Deposit] is Savings.handle


def test_a_method_of_which_nothing_would_be_run() -> None:
    with pytest.raises(DefinitionError, match=r"Account\.deposited applies an event, .* must not yield"):

        class Account(Aggregate):
            @applies
            def deposited(self, event: Deposited) -> Iterator[None]:
                yield

    with pytest.raises(DefinitionError, match=r"Till\.deposit is async and yields"):

        class Till(Aggregate):
            @handles
            async def deposit(self, command: Deposit) -> AsyncIterator[Deposited]:
                yield Deposited(1)

            @applies
            def deposited(self, event: Deposited) -> None: ...

    handler: Any = on(Deposited)
    with pytest.raises(DefinitionError, match=r"Rows\.deposited yields, .*self\.rows\.put"):

        class Rows(Projection):
            rows = Table(Row, key="account")

            @handler
            def deposited(self, event: Deposited, meta: EventMeta) -> Iterator[Row]:
                yield Row(meta.aggregate_id)


def test_methods_of_a_saga_that_could_not_be_called() -> None:
    with pytest.raises(DefinitionError, match=r"Book\.pay takes self and ctx"):

        class Book(Saga):
            @step
            async def pay(self, *, ctx: SagaContext) -> None: ...

    with pytest.raises(DefinitionError, match=r"Buy\.begin makes a saga at once: make it a plain def"):

        class Buy(Saga):
            @starts_on(Deposited)
            @classmethod
            async def begin(cls, event: Deposited, meta: EventMeta) -> "Buy":
                return cls()

            @step
            async def pay(self, ctx: SagaContext) -> None: ...


def test_a_step_is_no_compensation() -> None:
    with pytest.raises(DefinitionError, match=r"Book\.pay names 'give_back' as its compensation, which is a step"):

        class Book(Saga):
            @step(compensation="give_back")
            async def pay(self, ctx: SagaContext) -> None: ...

            @step
            async def give_back(self, ctx: SagaContext) -> None: ...
