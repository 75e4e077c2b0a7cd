"""A method that overrides a marked one, and has no mark of its own."""

from typing import Self

from eventsrc import (
    Aggregate,
    Delete,
    Deleted,
    EventMeta,
    Rejected,
    Saga,
    SagaContext,
    applies,
    command,
    event,
    handles,
    starts_on,
    step,
)
from eventsrc.runtime.testing import scenario


@command
class Open:
    pass


@event("door.opened")
class Opened:
    pass


class Door(Aggregate):
    opened: int = 0

    @handles
    def open(self, command: Open) -> Opened | None:
        return Opened()

    @applies
    def was_opened(self, event: Opened) -> None:
        self.opened += 1


class Safe(Door):
    def open(self, command: Open) -> Opened | None:
        if self.opened:
            raise Rejected("is open")
        return super().open(command)

    def was_opened(self, event: Opened) -> None:
        super().was_opened(event)
        self.opened += 10

    def decide_deletion(self, command: Delete) -> Deleted:
        raise Rejected("a safe stays")


def test_of_an_aggregate_it_handles_or_applies_the_same() -> None:
    safe = scenario(Safe).when(Open()).then(Opened())
    assert safe.state.opened == 11
    safe.when(Open()).then_rejected("is open")
    safe.when(Delete()).then_rejected("a safe stays")
    assert scenario(Door).given(Opened()).when(Delete()).then(Deleted("")).state.is_deleted


def test_of_an_aggregate_it_may_be_marked_otherwise_or_taken_away() -> None:
    class Shut(Door):
        open = None  # type: ignore[assignment]

        @handles
        def was_opened(self, command: Open) -> None: ...  # type: ignore[override]

    definition = Shut.__eventsrc_definition__
    assert definition.handlers[Open].__qualname__.endswith("Shut.was_opened")
    assert Opened not in definition.appliers


class Visit(Saga):
    door: str

    @classmethod
    @starts_on(Opened)
    def begin(cls, event: Opened, meta: EventMeta) -> Self | None:
        return cls(meta.aggregate_id)

    @step(compensation="leave", timeout_seconds=7)
    async def enter(self, ctx: SagaContext) -> None: ...

    async def leave(self, ctx: SagaContext) -> None: ...


class Burglary(Visit):
    @classmethod
    def begin(cls, event: Opened, meta: EventMeta) -> Self | None:
        return None

    @step
    async def search(self, ctx: SagaContext) -> None: ...

    async def enter(self, ctx: SagaContext) -> None: ...


def test_of_a_saga_it_is_the_same_step_and_starts_on_the_same_event() -> None:
    definition = Burglary.__eventsrc_saga__
    enter = definition.steps["enter"]
    assert list(definition.steps) == ["enter", "search"]
    assert (enter.method, enter.compensation, enter.timeout_seconds) == (Burglary.enter, "leave", 7)
    assert definition.starts_on == {Opened: vars(Burglary)["begin"].__func__}
