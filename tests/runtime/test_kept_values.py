"""What an event holds is in a state before a restart as it is after it, or the event is refused."""

import enum
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import pydantic
import pytest

from eventsrc import (
    Aggregate,
    DecodingError,
    EncodingError,
    MemoryLog,
    Runtime,
    applies,
    command,
    event,
    handles,
    make_converter,
)
from eventsrc.runtime.testing import event_from, scenario


class Orbit(enum.Enum):
    EARTH = (149.6, 365)
    MARS = (227.9, 687)


class Era(enum.Enum):
    MODERN = date(1900, 1, 1)


class Status(enum.StrEnum):
    OPEN = "open"


class Kind(str, enum.Enum):  # noqa: UP042 (as it was written before there was StrEnum)
    PLANET = "planet"


class Place(NamedTuple):
    name: str


class Level(enum.Enum):
    LOW = 1


class Answer(enum.Enum):
    NONE = None


class Tagged(pydantic.BaseModel):
    tags: list[str]

    @pydantic.field_validator("tags", mode="before")
    @classmethod
    def _split(cls, tags: object) -> object:
        return tags.split(",") if isinstance(tags, str) else tags


@attrs.define(eq=False)
class Mass:
    kilograms: float


@command
class Record:
    values: dict[str, Any]


@event("sample.taken")
class Taken:
    orbit: Orbit = Orbit.MARS
    era: Era | None = None
    eras: dict[str, list[Era]] = attrs.field(factory=dict)
    name: str = ""
    status: Status = Status.OPEN
    either: Status | str = ""
    anything: Any = None
    level: Level | int | None = None
    when: set[datetime | str] = attrs.field(factory=set)
    keys: dict[datetime | str, int] = attrs.field(factory=dict)
    answer: Answer | None = None
    path: Path = Path("a")
    parts: Sequence[Any] = ()
    places: dict[date | str, Place] = attrs.field(factory=dict)
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
        {"orbit": Orbit.EARTH},
        {"era": Era.MODERN, "eras": {"a": [Era.MODERN]}},
        {"name": Kind.PLANET},
        {"name": Status.OPEN, "status": "open"},
        {"either": Status.OPEN},
        {"either": Kind.PLANET, "anything": Status.OPEN},
        {"anything": {"status": [Status.OPEN, Kind.PLANET, Level.LOW, Orbit.EARTH]}},
        {"path": "b/c", "anything": {"a": bytearray(b"a")}},
        {"level": 1, "when": {"today"}, "keys": {"today": 1}},
    ],
)
async def test_a_value_is_the_same_before_and_after_a_restart(tmp_path: Path, values: dict[str, Any]) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Samples]) as runtime:
        receipt = await runtime.actor(Samples, "1").ask(Record(values))
        before = await runtime.actor(Samples, "1").state()
    async with Runtime.open(tmp_path / "store", aggregates=[Samples]) as runtime:
        after = await runtime.actor(Samples, "1").state()
        assert repr(receipt.events[0]) == repr(before.taken) == repr(after.taken)


@pytest.mark.parametrize(
    "values",
    [
        {"level": Level.LOW},
        {"when": {datetime(2026, 1, 1)}},
        {"keys": {datetime(2026, 1, 1): 1}},
        {"answer": Answer.NONE},
        {"places": {date(2026, 1, 1): Place("a")}},
        {"path": None},
        {"path": Answer.NONE},
        {"parts": Tagged(tags=["a"])},
    ],
)
def test_an_event_with_a_value_that_would_come_back_as_another_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(EncodingError, match=r"would come back as|is no path"):
        scenario(Samples).when(Record(values))


def test_a_member_of_an_enum_that_is_gone_is_told() -> None:
    with pytest.raises(DecodingError, match=r"orbit"):
        event_from(Taken, {"orbit": [57.9, 88]}, version=1)


def test_an_equal_number_is_taken_also_within_what_cannot_be_compared() -> None:
    scenario(Samples).when(Record({"mass": Mass(1)}))


# --- hooks of one's own ---


class Stamp:
    def __init__(self, when: datetime) -> None:
        self.when = when

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stamp) and self.when == other.when

    __hash__ = None  # type: ignore[assignment]


@command
class Press:
    at: datetime


@event("stamp.pressed")
class Pressed:
    stamp: Stamp


class Desk(Aggregate):
    stamp: Stamp | None = None

    @handles
    def press(self, command: Press) -> Pressed:
        return Pressed(Stamp(command.at))

    @applies
    def pressed(self, event: Pressed) -> None:
        self.stamp = event.stamp


async def test_what_a_hook_makes_is_applied_as_it_is_read_after_a_restart(tmp_path: Path) -> None:
    converter = make_converter()
    converter.register_unstructure_hook(Stamp, lambda stamp: stamp.when)  # a time, which is written as a text
    converter.register_structure_hook(Stamp, lambda when, _: Stamp(when))
    async with Runtime.open(tmp_path / "store", aggregates=[Desk], converter=converter) as runtime:
        await runtime.actor(Desk, "1").ask(Press(datetime(2026, 1, 1)))
        before = await runtime.actor(Desk, "1").state()
    async with Runtime.open(tmp_path / "store", aggregates=[Desk], converter=converter) as runtime:
        assert (await runtime.actor(Desk, "1").state()).stamp == before.stamp


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


@event("note.tagged")
class NoteTagged:
    note: Tagged
    notes: dict[str, list[Tagged]] = attrs.field(factory=dict)


def test_a_model_may_read_a_list_of_a_text_that_was_stored() -> None:
    older = {"note": {"tags": "a,b"}, "notes": {"x": [{"tags": "c"}]}}
    assert event_from(NoteTagged, older, version=1) == NoteTagged(Tagged(tags=["a", "b"]), {"x": [Tagged(tags=["c"])]})
