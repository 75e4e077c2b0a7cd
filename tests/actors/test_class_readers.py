"""Readers of attrs classes do what the functions of cattrs do, for the classes that they are made for."""

import threading
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, NewType, Self, TypeVar

import attrs
import cattrs
import pytest
from cattrs.gen import override

from eventsrc.actors.serialization.class_readers import is_made_of_its_fields
from eventsrc.actors.serialization.serializer import make_converter

T = TypeVar("T")
Cents = NewType("Cents", int)


@attrs.frozen
class Line:
    item: str
    price: float = 0.0


@attrs.frozen(kw_only=True)
class Order:
    id: int
    _note: str = "none"
    open: bool = True
    lines: list[Line] = attrs.Factory(list)
    first: Line | None = None
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    cents: Cents = Cents(0)
    label: str = attrs.Factory(lambda self: f"order {self.id}", takes_self=True)
    anything: Any = None


@attrs.define
class Node:
    name: str
    children: "list[Node]" = attrs.Factory(list)


@attrs.frozen
class Left:
    right: "Right | None" = None


@attrs.frozen
class Right:
    left: Left | None = attrs.field(default=None, validator=attrs.validators.instance_of(Left | None))


@attrs.frozen
class Express(Order):
    hours: int


READ_BY_READERS = [
    (Order, {"id": 1}),
    (Order, {"id": 1, "_note": "x", "open": False, "lines": [{"item": "a"}, {"item": "b", "price": 2.5}], "more": 1}),
    (Order, {"id": 1, "first": {"item": "a"}, "at": "2026-02-03T04:05:06+00:00", "cents": 5, "anything": {"a": [1]}}),
    (Order, {"id": 7.0, "open": 1, "lines": [{"item": "a", "price": 2}]}),
    (Node, {"name": "a", "children": [{"name": "b", "children": [{"name": "c"}]}, {"name": "d"}]}),
    (Left, {"right": {"left": {"right": {}}}}),
]


def is_read_by_reader(converter: cattrs.Converter, cls: Any) -> bool:
    code = getattr(converter.get_structure_hook(cls), "__code__", None)
    return code is not None and str(code.co_filename).startswith("<reader of ")


@pytest.mark.parametrize(("cls", "data"), READ_BY_READERS)
def test_objects_are_what_cattrs_makes(cls: type, data: dict[str, Any]) -> None:
    converter = make_converter()
    assert is_read_by_reader(converter, cls)
    made = converter.structure(data, cls)
    assert made == converter.gen_structure_attrs_fromdict(cls)(data, cls)
    assert repr(made) == repr(converter.gen_structure_attrs_fromdict(cls)(data, cls))
    assert converter.structure(converter.unstructure(made), cls) == made


def test_a_field_by_place_behind_those_by_name_is_read() -> None:
    # cattrs writes a call with them in that order, which Python refuses.
    assert make_converter().structure({"id": 1, "hours": 3}, Express) == Express(3, id=1)


def test_objects_are_as_frozen_and_hashable_as_others() -> None:
    made = make_converter().structure({"item": "a"}, Line)
    assert hash(made) == hash(Line("a"))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.item = "b"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_default_is_made_for_each_object() -> None:
    converter = make_converter()
    one, other = (converter.structure({"name": "a"}, Node) for _ in range(2))
    one.children.append(other)
    assert other.children == []


@pytest.mark.parametrize("data", [{}, {"item": 1}, {"item": "a", "price": "2"}, {"item": None}, ["item"], None, 3])
def test_what_does_not_fit_is_refused_as_by_cattrs(data: Any) -> None:
    converter = make_converter()
    with pytest.raises(Exception) as by_cattrs:  # noqa: PT011 - the same, whichever it is
        converter.gen_structure_attrs_fromdict(Line)(data, Line)
    with pytest.raises(type(by_cattrs.value)) as by_reader:
        converter.structure(data, Line)
    if isinstance(data, dict):
        assert str(by_reader.value) == str(by_cattrs.value)


def test_hooks_of_a_program_go_before() -> None:
    converter = make_converter()
    converter.register_structure_hook(str, lambda value, _: value.upper())
    assert converter.structure({"item": "a"}, Line) == Line("A")
    converter.register_structure_hook(Line, lambda value, _: Line(value))
    assert converter.structure({"id": 1, "lines": ["x"]}, Order).lines == [Line("x")]

    by_factory = make_converter()
    by_factory.register_structure_hook_factory(
        attrs.has,
        lambda cls: cattrs.gen.make_dict_structure_fn(cls, by_factory, item=override(rename="sku")),
    )
    assert by_factory.structure({"sku": "a"}, Line) == Line("a")


def test_a_copy_that_explains_reads_as_cattrs_does() -> None:
    explaining = make_converter().copy(detailed_validation=True)
    with pytest.raises(cattrs.ClassValidationError) as refused:
        explaining.structure({"item": 1, "price": "x"}, Line)
    assert len(refused.value.exceptions) == 2


@pytest.mark.parametrize(
    ("option", "data", "made"),
    [
        ({"use_alias": True}, {"id": 1, "note": "x"}, make_converter().structure({"id": 1, "_note": "x"}, Order)),
        ({"forbid_extra_keys": True}, {"id": 1, "x": 1}, None),
    ],
)
def test_what_a_converter_was_told_holds(option: dict[str, bool], data: dict[str, Any], made: Order | None) -> None:
    converter = make_converter().copy(**option)  # type: ignore[arg-type]
    if made is not None:
        assert converter.structure(data, Order) == made
    else:
        with pytest.raises(cattrs.ForbiddenExtraKeysError):
            converter.structure(data, Order)


@attrs.frozen
class Positive:
    amount: int = attrs.field(validator=attrs.validators.gt(0))


@attrs.frozen
class Doubled:
    amount: int = attrs.field(converter=lambda amount: amount * 2)


@attrs.frozen
class Summed:
    a: int
    total: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "total", self.a + 1)


@attrs.define
class Greeted:
    name: str

    def __init__(self, name: str) -> None:
        self.name = f"hello {name}"


class Undecorated(Line):
    def __init__(self, item: str, price: float = 0.0) -> None:
        super().__init__(f"<{item}>", price)


@attrs.frozen(slots=False)
class InDict:
    a: int


@attrs.frozen(cache_hash=True)
class Cached:
    a: int


@attrs.frozen
class Failure(Exception):
    reason: str


@attrs.frozen
class Renamed:
    a: Annotated[int, override(rename="b")]


@attrs.frozen
class Settled:
    a: Final = 3


@attrs.frozen
class Box(Generic[T]):
    content: T


@attrs.frozen
class LineBox(Box[Line]):
    size: int = 0


@attrs.frozen
class Counted:
    a: int
    made = 0

    def __new__(cls, *_: object, **__: object) -> Self:
        cls.made += 1
        return super().__new__(cls)


@pytest.mark.parametrize(
    ("cls", "data", "made"),
    [
        (Doubled, {"amount": 2}, Doubled(2)),
        (Summed, {"a": 1}, Summed(1)),
        (Greeted, {"name": "ann"}, Greeted("ann")),
        (Undecorated, {"item": "a"}, Undecorated("a")),
        (InDict, {"a": 1}, InDict(1)),
        (Cached, {"a": 1}, Cached(1)),
        (Renamed, {"b": 1}, Renamed(1)),
        (Box[Line], {"content": {"item": "a"}}, Box(Line("a"))),
        (LineBox, {"content": {"item": "a"}, "size": 2}, LineBox(Line("a"), 2)),
    ],
)
def test_classes_of_other_kinds_are_left_to_cattrs(cls: Any, data: dict[str, Any], made: object) -> None:
    converter = make_converter()
    assert converter.structure(data, cls) == made
    assert not is_read_by_reader(converter, cls)


def test_what_a_class_does_when_it_is_made_is_not_gone_around() -> None:
    converter = make_converter()
    with pytest.raises(ValueError, match="> 0"):
        converter.structure({"amount": 0}, Positive)
    assert converter.structure({"reason": "full"}, Failure).args == ("full",)
    before = Counted.made
    converter.structure({"a": 1}, Counted)
    assert Counted.made == before + 1
    assert converter.structure({}, Settled).a == 3
    assert hash(converter.structure({"a": 1}, Cached)) == hash(Cached(1))


def test_only_objects_that_are_nothing_but_their_fields_are_called_so() -> None:
    assert all(map(is_made_of_its_fields, (Line, Order, Express, Node, InDict, Positive)))
    assert not any(map(is_made_of_its_fields, (Doubled, Summed, Greeted, Undecorated, Cached, Failure, Counted)))


def test_readers_are_made_in_several_threads_at_once() -> None:
    converter = make_converter()
    together = threading.Barrier(4)
    made: list[Node] = []

    def read() -> None:
        together.wait()
        made.append(converter.structure({"name": "a", "children": [{"name": "b"}]}, Node))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [Node("a", [Node("b")])] * 4
