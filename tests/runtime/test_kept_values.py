"""What an event holds is in a state before a restart as it is after it, or the event is refused."""

import enum
from datetime import datetime
from typing import Any

import attrs
import pydantic
import pytest

from eventsrc import (
    Aggregate,
    EncodingError,
    MemoryLog,
    Runtime,
    applies,
    command,
    event,
    handles,
)
from eventsrc.runtime.testing import event_from, scenario


class Level(enum.Enum):
    LOW = 1


class Answer(enum.Enum):
    NONE = None


@attrs.define(eq=False)
class Mass:
    kilograms: float


@command
class Record:
    values: dict[str, Any]


@event("sample.taken")
class Taken:
    level: Level | int | None = None
    when: set[datetime | str] = attrs.field(factory=set)
    keys: dict[datetime | str, int] = attrs.field(factory=dict)
    answer: Answer | None = None
    mass: Mass | None = None


class Samples(Aggregate):
    taken: Taken | None = None

    @handles
    def record(self, command: Record) -> Taken:
        return Taken(**command.values)

    @applies
    def recorded(self, event: Taken) -> None:
        self.taken = event


@pytest.mark.parametrize(
    "values",
    [
        {"level": Level.LOW},
        {"when": {datetime(2026, 1, 1)}},
        {"keys": {datetime(2026, 1, 1): 1}},
        {"answer": Answer.NONE},
    ],
)
def test_an_event_with_a_value_that_would_come_back_as_another_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(EncodingError, match="would come back as"):
        scenario(Samples).when(Record(values))


def test_an_equal_number_is_taken_also_within_what_cannot_be_compared() -> None:
    scenario(Samples).when(Record({"mass": Mass(1)}))


# --- states ---


@command
class Name:
    pass


@event("crew.named")
class Named:
    pass


class Crew(Aggregate):
    names: list[str] = attrs.field(factory=list)

    @handles
    def name(self, command: Name) -> Named:
        return Named()

    @applies
    def named(self, event: Named) -> None:
        self.names = "ann"  # type: ignore[assignment]


async def test_a_state_in_which_a_text_stands_for_a_list_is_refused_and_not_shown_as_its_characters() -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Crew]) as runtime:
        await runtime.actor(Crew, "1").ask(Name())
        with pytest.raises(EncodingError, match=r"crew-1.*would come back as Crew\(names=\['a', 'n', 'n'\]\)"):
            await runtime.actor(Crew, "1").state()


# --- models ---


class Tagged(pydantic.BaseModel):
    tags: list[str]

    @pydantic.field_validator("tags", mode="before")
    @classmethod
    def _split(cls, tags: object) -> object:
        return tags.split(",") if isinstance(tags, str) else tags


@event("note.tagged")
class NoteTagged:
    note: Tagged
    notes: dict[str, list[Tagged]] = attrs.field(factory=dict)


def test_a_model_may_read_a_list_of_a_text_that_was_stored() -> None:
    older = {"note": {"tags": "a,b"}, "notes": {"x": [{"tags": "c"}]}}
    assert event_from(NoteTagged, older, version=1) == NoteTagged(Tagged(tags=["a", "b"]), {"x": [Tagged(tags=["c"])]})
