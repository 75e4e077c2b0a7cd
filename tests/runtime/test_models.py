"""Models of pydantic and structs of msgspec are types of fields as any other, in events, states and rows."""

import types
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import attrs
import msgspec
import pydantic
import pytest

from eventsrc import (
    Aggregate,
    DecodingError,
    DefinitionError,
    EncodingError,
    EventMeta,
    Limits,
    Projection,
    Runtime,
    SchemaError,
    Table,
    applies,
    command,
    event,
    handles,
    on,
)
from eventsrc.actors.aggregates.aggregate_type import AggregateType
from eventsrc.actors.serialization.schema import schema_of
from eventsrc.actors.serialization.serializer import Serializer, make_converter
from eventsrc.actors.views.sql.sql_view import SqlViews
from eventsrc.runtime.testing import event_from

P = TypeVar("P")


class Text(pydantic.BaseModel):
    kind: Literal["text"] = "text"
    text: str


class ToolUse(pydantic.BaseModel):
    kind: Literal["tool"] = "tool"
    name: str
    arguments: dict[str, Any]


class Message(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    role: Literal["user", "assistant"]
    content: list[Annotated[Text | ToolUse, pydantic.Field(discriminator="kind")]]
    sent: datetime
    cost: Decimal = Decimal("0.00")
    max_tokens: int = pydantic.Field(default=10, alias="maxTokens")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def length(self) -> int:
        return len(self.content)


class Page(pydantic.BaseModel, Generic[P]):
    items: tuple[P, ...]


class Names(pydantic.RootModel[list[str]]):
    pass


class Card(msgspec.Struct, tag=True, frozen=True):
    number: str


class Cash(msgspec.Struct, tag=True, frozen=True):
    pass


class Usage(msgspec.Struct, frozen=True):
    tokens: int
    model: str
    since: datetime
    digest: bytes = b"\xff"
    place: Path = Path("/")


MESSAGE = Message(
    role="assistant",
    content=[Text(text="hi"), ToolUse(name="search", arguments={"q": ["é", 1, None]})],
    sent=datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
    cost=Decimal("1.10"),
)
USAGE = Usage(5, "small", datetime(2026, 1, 2, tzinfo=UTC))


@command
class Say:
    said: Any


@event("chat.said")
class Said:
    message: Message
    usage: Usage
    block: Text | ToolUse | str | None = None
    blocks: list[Text | ToolUse] = attrs.Factory(list)
    page: Page[int] | None = None
    names: Names = attrs.Factory(lambda: Names([]))
    paid: Card | Cash | None = None
    tips: list[Card | Cash] = attrs.Factory(list)


class Chat(Aggregate):
    messages: list[Message] = attrs.Factory(list)
    last: Said | None = None

    @handles
    def say(self, command: Say) -> Said:
        if isinstance(command.said, Said):
            return command.said
        return Said(command.said, USAGE)

    @applies
    def said(self, event: Said) -> None:
        self.messages = [*self.messages, event.message]
        self.last = event


@attrs.frozen
class Last:
    chat: str
    message: Message
    usage: Usage


class Lasts(Projection):
    rows = Table(Last, key="chat")

    @on(Said)
    def said(self, event: Said, meta: EventMeta) -> None:
        self.rows.put(Last(meta.aggregate_id, event.message, event.usage))


EVERYTHING = Said(
    MESSAGE,
    USAGE,
    ToolUse(name="x", arguments={}),
    [Text(text="a"), ToolUse(name="b", arguments={})],
    Page[int](items=(1, 2)),
    Names(["ann"]),
    Cash(),
    [Cash(), Card("1")],
)


@pytest.fixture(params=["lmdb", "sqlite"])
def views(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[type[Lasts], SqlViews] | None]:
    if request.param == "lmdb":
        yield None
        return
    with closing(SqlViews(f"sqlite:///{tmp_path}/views.db")) as views:
        yield {Lasts: views}


async def test_they_come_back_from_the_log_from_a_snapshot_and_from_a_view(
    tmp_path: Path, views: dict[type[Lasts], SqlViews] | None
) -> None:
    limits = Limits(snapshot_every_events=2)
    for _ in range(2):
        async with Runtime.open(
            tmp_path / "store", aggregates=[Chat], projections=[Lasts], views=views, limits=limits
        ) as runtime:
            chat = runtime.actor(Chat, "one")
            for said in (MESSAGE, MESSAGE, EVERYTHING):
                (told,) = (await chat.ask(Say(said), wait_for=[Lasts])).events
            assert told == EVERYTHING
            assert (await chat.state()).last == EVERYTHING
            assert await runtime.view(Lasts).get("one") == Last("one", MESSAGE, USAGE)
    async with Runtime.open(tmp_path / "store", aggregates=[Chat]) as runtime:
        state = await runtime.actor(Chat, "one").state()
        assert (state.messages, state.last) == ([MESSAGE] * 6, EVERYTHING)
        assert isinstance(state.messages[0].content[1], ToolUse)
        assert (await runtime.actor(Chat, "one").state(at_version=3)).messages == [MESSAGE] * 3
        assert runtime.decode(await anext(aiter(runtime.events(limit=1)))).message == MESSAGE


async def test_what_is_stored_is_plain_data_under_the_names_of_the_model(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Chat]) as runtime:
        await runtime.actor(Chat, "one").ask(Say(MESSAGE))
        (stored,) = [each async for each in runtime.events()]
    message = stored.payload["message"]
    assert (message["sent"], message["cost"], message["maxTokens"]) == ("2026-01-02T03:04:05.000006Z", "1.10", 10)
    assert "length" not in message
    assert stored.payload["usage"] == {
        "tokens": 5,
        "model": "small",
        "since": "2026-01-02T00:00:00Z",
        "digest": b"\xff",
        "place": "/",
    }


class LongMessage(Message):
    summary: str


class Blob(pydantic.BaseModel):
    content: bytes


@event("blob.put")
class Put:
    blob: Blob


class Store(Aggregate):
    blob: Blob | None = None

    @handles
    def say(self, command: Say) -> Put:
        return Put(command.said)

    @applies
    def put(self, event: Put) -> None:
        self.blob = event.blob


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Said("hi", USAGE), "cannot be stored"),  # type: ignore[arg-type]
        (Said(MESSAGE, Usage("many", "small", USAGE.since)), "could not be read again"),  # type: ignore[arg-type]
        (
            Said(LongMessage(**MESSAGE.model_dump(by_alias=True, exclude={"length"}), summary="s"), USAGE),
            r"could not be read again: Message: summary: Extra inputs are not permitted @ \$\.message",
        ),
        (Said(MESSAGE.model_copy(update={"cost": "free"}), USAGE), "cannot be stored.*Expected `decimal`"),
    ],
)
async def test_what_would_not_come_back_is_refused(tmp_path: Path, said: Said, reason: str) -> None:
    async with Runtime.open(tmp_path, aggregates=[Chat]) as runtime:
        chat = runtime.actor(Chat, "one")
        with pytest.raises(EncodingError, match=f"(?s){reason}"):
            await chat.ask(Say(said))
        assert (await chat.ask(Say(MESSAGE))).version == 1


async def test_bytes_that_are_no_text_need_a_model_that_says_how_they_are_written(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Store]) as runtime:
        with pytest.raises(EncodingError, match="utf-8"):
            await runtime.actor(Store, "one").ask(Say(Blob(content=b"\xff")))
        await runtime.actor(Store, "one").ask(Say(Blob(content=b"plain")))
        assert (await runtime.actor(Store, "one").state()).blob == Blob(content=b"plain")


def test_data_that_do_not_fit_say_where() -> None:
    payload = {"message": {"role": "user", "content": [], "sent": "yesterday"}, "usage": {}}
    with pytest.raises(DecodingError, match=r"does not fit Said: Message: sent: Input should be .* @ \$\.message"):
        event_from(Said, payload, version=1)
    payload["message"] = MESSAGE.model_dump(mode="json", by_alias=True, round_trip=True)
    with pytest.raises(DecodingError, match=r"does not fit Said: Usage: .*missing required field `tokens` @ \$\.usage"):
        event_from(Said, payload, version=1)


def test_the_shape_of_a_class_covers_its_models() -> None:
    def shape(kind: type) -> str:
        model = pydantic.create_model("Model", a=(kind, ...))
        return schema_of(attrs.make_class("Holder", {"model": attrs.field(type=model)}))

    assert shape(int) == shape(int) != shape(str)
    structs = [msgspec.defstruct("Struct", [("a", kind)]) for kind in (int, int, str)]
    first, same, other = [schema_of(attrs.make_class("Holder", {"s": attrs.field(type=each)})) for each in structs]
    assert first == same != other


def test_the_shape_is_the_same_in_every_process() -> None:
    def shape(kind: type) -> str:
        checked = Annotated[kind, pydantic.AfterValidator(lambda value: value)]  # of another address each time
        model = pydantic.create_model("Model", one=(checked, ...), many=(list[checked] | None, ...))  # type: ignore[valid-type]
        return schema_of(attrs.make_class("Holder", {"model": attrs.field(type=model)}))

    assert shape(int) == shape(int) != shape(str)


class Untagged(msgspec.Struct):
    tokens: int


def test_structs_that_cannot_be_told_apart_are_refused() -> None:
    holder = attrs.make_class("Holder", {"value": attrs.field(type=Usage | Untagged)})
    with pytest.raises(SchemaError, match=r"Holder.value cannot be .*all Struct types must be tagged"):
        Serializer().prepare(holder)


@pytest.mark.parametrize("base", [pydantic.BaseModel, msgspec.Struct])
@pytest.mark.parametrize("declare", [command, event("model.made")])
def test_a_command_or_an_event_is_no_model_itself(base: type, declare: Callable[[type], type]) -> None:
    made = types.new_class("Made", (base,))
    with pytest.raises(DefinitionError, match=r"makes Made an attrs class.*types of its fields may be such"):
        declare(made)


def wrapped(value: Any) -> dict[str, Any]:
    return {"mine": value.model_dump() if isinstance(value, pydantic.BaseModel) else msgspec.to_builtins(value)}


def unwrapped(data: dict[str, Any], cls: Any) -> Any:
    return msgspec.convert(data["mine"], cls) if issubclass(cls, msgspec.Struct) else cls.model_validate(data["mine"])


@pytest.mark.parametrize("base", [pydantic.BaseModel, msgspec.Struct])
@pytest.mark.parametrize("is_predicate", [True, False])
def test_hooks_of_the_program_for_such_classes_go_first_in_unions_too(base: type, is_predicate: bool) -> None:
    converter = make_converter()
    if is_predicate:
        converter.register_unstructure_hook_func(lambda cls: isinstance(cls, type) and issubclass(cls, base), wrapped)
        converter.register_structure_hook_func(lambda cls: isinstance(cls, type) and issubclass(cls, base), unwrapped)
    else:
        converter.register_unstructure_hook(base, wrapped)
        converter.register_structure_hook(base, unwrapped)
    value, other = (Text(text="a"), ToolUse) if base is pydantic.BaseModel else (Card("1"), Cash)
    cls: Any = type(value)
    hints: list[Any] = [cls, cls | None, cls | str, list[cls]]
    for hint in hints:
        holder = attrs.make_class("Holder", {"value": attrs.field(type=hint)})
        serializer = Serializer(converter)
        serializer.prepare(holder)
        for held in ([value], []) if hint == list[cls] else (value, *(["s"] if hint == cls | str else [])):
            data = serializer.unstructure(holder(held))
            assert "mine" in str(data) or held in ("s", [])
            assert serializer.structure(data, holder) == holder(held)
    holder = attrs.make_class("Holder", {"value": attrs.field(type=cls | other)})
    with pytest.raises(SchemaError, match=r"Holder.value cannot be .*there has to be one that tells them apart"):
        Serializer(converter).prepare(holder)


class Labelled(msgspec.Struct, Generic[P]):
    label: P


@pytest.mark.parametrize("hint", [Labelled[datetime], Labelled[datetime] | None, list[Labelled[datetime]]])
def test_a_generic_struct_is_of_its_parameters(hint: Any) -> None:
    holder = attrs.make_class("Holder", {"value": attrs.field(type=hint)})
    serializer = Serializer()
    serializer.prepare(holder)
    labelled = Labelled(datetime(2026, 1, 2, tzinfo=UTC))
    value = [labelled] if hint == list[Labelled[datetime]] else labelled
    data = serializer.unstructure(holder(value))
    assert "2026-01-02T00:00:00Z" in str(data)
    assert serializer.structure(data, holder) == holder(value)


@pytest.mark.parametrize("base", [pydantic.BaseModel, msgspec.Struct])
def test_the_base_class_of_all_is_no_type_of_a_field(base: type) -> None:
    holder = attrs.make_class("Holder", {"value": attrs.field(type=base)})
    with pytest.raises(SchemaError, match=r"Holder.value cannot be turned into data"):
        Serializer().prepare(holder)


class Euros(pydantic.BaseModel):
    amount: int


class Dollars(pydantic.BaseModel):
    amount: int


class Price(pydantic.BaseModel):
    of: Euros | Dollars


class Login(pydantic.BaseModel):
    password: pydantic.SecretStr


class Cached(pydantic.BaseModel):
    """With what is no part of its data."""

    text: str
    length: int = pydantic.Field(default=0, exclude=True)
    _words: int = pydantic.PrivateAttr(default=0)


def encoded(hint: Any, value: Any) -> Any:
    """As an event with a field of this type is applied."""
    kept = event("thing.kept")(
        types.new_class("Kept", exec_body=lambda body: body.update(__annotations__={"thing": hint}))
    )

    class Keeping(Aggregate):
        @applies
        def keep(self, event: kept) -> None: ...  # type: ignore[valid-type]

    aggregate_type = AggregateType(Keeping, Serializer())
    return aggregate_type.encode_event(aggregate_type.codecs[kept], kept(value))[1].thing


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Euros | Dollars, Dollars(amount=1)),
        (dict[str, list[Euros | Dollars]], {"a": [Euros(amount=1), Dollars(amount=1)]}),
        (Price, Price(of=Dollars(amount=1))),
        (Euros, Dollars(amount=1)),
        (Login, Login(password=pydantic.SecretStr("secret"))),
    ],
)
def test_a_model_that_would_come_back_as_another_is_refused(hint: Any, value: Any) -> None:
    with pytest.raises(EncodingError, match="would come back as"):
        encoded(hint, value)


def test_what_is_no_part_of_the_data_of_a_model_does_not_come_back() -> None:
    assert encoded(Cached, Cached(text="a", length=1)) == Cached(text="a")
    assert encoded(Euros | Dollars, Euros(amount=1)) == Euros(amount=1)


def test_a_struct_that_names_what_is_not_there_is_refused() -> None:
    struct = msgspec.defstruct("Struct", [("value", "list[Absent]")])
    holder = attrs.make_class("Holder", {"value": attrs.field(type=struct)})
    with pytest.raises(SchemaError, match="Struct cannot be turned into data: name 'Absent' is not defined"):
        Serializer().prepare(holder)
