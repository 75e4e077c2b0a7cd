"""What upcasters may return, and how what they should not is told."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import attrs
import pytest

from eventsrc import ArgumentInvalid, DecodingError, DefinitionError, EventVersionUnknown, UpcasterFailed, event
from eventsrc.runtime.testing import event_from


def noted(upcaster: Any) -> type:
    """An event class whose fields all have defaults, so that almost anything would be taken for one of its payloads."""

    @event("thing.noted", version=2, upcasters={1: upcaster})
    class Noted:
        note: str = ""
        tags: list[str] = attrs.field(factory=list)
        rest: Any = None

    return Noted


def counted() -> Iterator[tuple[str, int]]:
    yield "note", 1


async def later() -> dict[str, Any]:
    return {"note": "late"}


@pytest.mark.parametrize(
    ("upcaster", "reason"),
    [
        (lambda old: [old], r"returned \[{'text': 'x'}\] for the event 'thing\.noted' of 'test-1' at position 1"),
        (lambda old: "note", "returned 'note' for the event"),
        (lambda old: set(old.items()), r"returned {\('text', 'x'\)} for"),
        (lambda old: counted(), "returned <generator object"),
        (lambda old: later(), "returned <coroutine object"),
        (lambda old: old.update(note="x"), "returned None for"),
        (lambda old: {"note": "x", "tags": {"a"}}, "returned {'tags': {'a'}}, which is no plain data for"),
        (lambda old: {"rest": datetime.now(UTC)}, r"returned {'rest': datetime\.datetime.* no plain data"),
        (lambda old: {"rest": {"price": Decimal(1)}}, r"returned {'rest': {'price': Decimal.* no plain data"),
        (lambda old: {datetime.now(UTC): None}, r"returned {datetime\.datetime.* no plain data"),
        (lambda old: {"rest": object()}, "returned what is no plain data .*object is unsupported"),
    ],
)
def test_what_an_upcaster_returned_that_could_not_be_stored_is_told(
    upcaster: Callable[[Any], Any], reason: str
) -> None:
    with pytest.raises(UpcasterFailed, match=f"from version 1 to 2 {reason}.*a dict of plain data as it would"):
        event_from(noted(upcaster), {"text": "x"}, version=1)


def test_an_upcaster_may_return_any_mapping_of_plain_data() -> None:
    rest = {"a": [1, None, 1.5, True, b"x"], "b": ("t",), "nan": float("nan")}
    some = noted(lambda old: MappingProxyType({"note": old["text"], "rest": rest, "unknown": 1}))
    assert event_from(some, {"text": "x"}, version=1) == some("x", rest=rest)


def test_the_next_upcaster_gets_a_dict_of_its_own() -> None:
    kept = {"note": "x"}

    def change(old: dict[str, Any]) -> dict[str, Any]:
        old["note"] += "!"
        return old

    @event("thing.noted", version=3, upcasters={1: lambda old: MappingProxyType(kept), 2: change})
    class Noted:
        note: str

    assert [event_from(Noted, {}, version=1) for _ in range(2)] == [Noted("x!"), Noted("x!")]
    assert kept == {"note": "x"}


def test_where_upcasters_make_what_does_not_fit_they_are_named_as_what_is_to_be_mended() -> None:
    with pytest.raises(
        DecodingError,
        match=r"position 1, stored with version 1, does not fit Noted: .* @ \$\.tags\. Mend the upcasters that lead "
        r"from there to version 2; where .* version=3",
    ):
        event_from(noted(lambda old: {"tags": 5}), {"text": "x"}, version=1)
    with pytest.raises(DecodingError, match=r"position 1 does not fit Noted: .* Where the class was changed, raise"):
        event_from(noted(dict), {"tags": 5}, version=2)


@event("thing.shared")
class Shared:
    names: list[str] = attrs.field(factory=list)
    pair: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset()
    groups: frozenset[frozenset[str]] = attrs.field(default=frozenset(), kw_only=True)
    note: str = ""
    parts: dict[str, list[str]] = attrs.field(factory=dict)


@pytest.mark.parametrize(
    "payload",
    [
        {"names": "ann"},
        {"names": {"ann": 1}},
        {"pair": "ab"},
        {"kinds": b"ab"},
        {"groups": ["ab"]},
        {"note": None},
        {"parts": {"a": "ann"}},
    ],
)
def test_a_field_that_has_changed_its_type_is_told_and_not_read_as_something_else(payload: dict[str, Any]) -> None:
    with pytest.raises(DecodingError, match=r"does not fit Shared: .*(would be read as|is no str).*raise its version"):
        event_from(Shared, payload, version=1)


def test_what_fits_is_read_whatever_other_fields_were_stored() -> None:
    stored = {"names": ["ann"], "kinds": ["b", "a"], "groups": [["c"]], "parts": {"a": ["b"]}, "removed": "x"}
    assert event_from(Shared, stored, version=1) == Shared(
        ["ann"], (), frozenset("ab"), "", {"a": ["b"]}, groups=frozenset({frozenset("c")})
    )


# --- `event_from` ---


def test_event_from_takes_a_class_and_a_payload_as_it_was_stored() -> None:
    some = noted(dict)
    assert event_from(some, {"note": "x", "tags": ("a",)}, version=2) == some("x", ["a"])
    with pytest.raises(EventVersionUnknown):
        event_from(some, {}, version=3)
    for version in (0, "1", None):
        with pytest.raises(ArgumentInvalid, match="version="):
            event_from(some, {}, version=version)  # type: ignore[arg-type]
    for payload in ([1], {"note": object()}, None):
        with pytest.raises(ArgumentInvalid, match="give a dict of plain data, as it was stored"):
            event_from(some, payload, version=1)  # type: ignore[arg-type]
    for no_class in ("thing.noted", some()):
        with pytest.raises(DefinitionError, match="takes the class of an event, not"):
            event_from(no_class, {}, version=1)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="dict is not an @event class"):
        event_from(dict, {}, version=1)
