"""Defaults that would be shared, that are no values, or that would not follow the state are told where they are."""

import dataclasses
from collections import deque
from collections.abc import Callable
from functools import cached_property
from types import MappingProxyType
from typing import Any

import attrs
import pytest

from eventsrc import Aggregate, DefinitionError, Saga, SagaContext, command, event, step


@attrs.define
class Line:
    quantity: int = 0


def an_aggregate(default: Any) -> type:
    class Basket(Aggregate):
        lines: Any = default

    return Basket


def a_saga(default: Any) -> type:
    class Buy(Saga):
        lines: Any = default

        @step
        async def pay(self, ctx: SagaContext) -> None: ...

    return Buy


def a_command(default: Any) -> type:
    @command
    class Fill:
        lines: Any = default

    return Fill


def an_event(default: Any) -> type:
    @event("basket.filled")
    class Filled:
        lines: Any = default

    return Filled


DECLARED = pytest.mark.parametrize("declared", [an_aggregate, a_saga, a_command, an_event])


@DECLARED
@pytest.mark.parametrize(
    ("default", "factory"),
    [
        ([], "list"),
        ({}, "dict"),
        (set(), "set"),
        ([1], r"lambda: list\(\.\.\.\)"),
        (deque([1]), r"lambda: deque\(\.\.\.\)"),
        (bytearray(), r"lambda: bytearray\(\.\.\.\)"),
        (Line(), r"lambda: Line\(\.\.\.\)"),
    ],
)
def test_a_default_that_objects_would_share(declared: Callable[..., type], default: Any, factory: str) -> None:
    words = rf"The default of \w+\.lines would be shared .*: \.\.\. = attrs\.field\(factory={factory}\)"
    with pytest.raises(DefinitionError, match=words):
        declared(default)


@DECLARED
def test_a_default_that_nobody_can_change_may_be_shared(declared: Callable[..., Any]) -> None:
    for default in ((), frozenset(), "", MappingProxyType({"a": 1}), attrs.field(factory=list)):
        declared(default)
    assert declared(attrs.field(factory=list))().lines == []


@DECLARED
def test_a_field_of_dataclasses(declared: Callable[..., type]) -> None:
    with pytest.raises(DefinitionError, match=r"\.lines is declared with dataclasses\.field.*Write lines: .*attrs"):
        declared(dataclasses.field(default_factory=list))


@DECLARED
def test_a_method_with_the_name_of_a_field(declared: Callable[..., type]) -> None:
    with pytest.raises(DefinitionError, match=r"\.lines is both a field and a method"):
        declared(lambda self: None)


def test_a_property_that_would_keep_its_first_value() -> None:
    words = r"\w+\.total is a cached_property, so it would keep its first value .*Make it a property"
    with pytest.raises(DefinitionError, match=words):

        class Basket(Aggregate):
            size: int = 0

            @cached_property
            def total(self) -> int:
                return self.size

    with pytest.raises(DefinitionError, match=words):

        class Buy(Saga):
            @cached_property
            def total(self) -> int:
                return 0

            @step
            async def pay(self, ctx: SagaContext) -> None: ...
