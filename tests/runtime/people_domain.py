"""A domain with personal data: people, who say things to each other, and a saga that welcomes them."""

from typing import Annotated, Any

import attrs

from eventsrc import (
    Aggregate,
    EventMeta,
    Personal,
    Projection,
    Saga,
    SagaContext,
    SubjectForgotten,
    Table,
    applies,
    command,
    event,
    handles,
    on,
    step,
)


@command
class Register:
    name: str
    email: str | None = None


@command
class Say:
    text: str


@event("person.registered")
class Registered:
    person: str
    name: Annotated[str, Personal("person", forgotten="somebody")]
    email: Annotated[str | None, Personal("person")] = None


@attrs.frozen
class Message:
    author: str
    text: Annotated[str, Personal("author", forgotten="...")]


@event("person.said", tags=lambda said: [f"room:{said.room}"])
class Said:
    message: Message
    room: str = "main"


class Person(Aggregate):
    """`nickname` is made of the name, and not marked."""

    name: Annotated[str, Personal("id", forgotten="somebody")] = ""
    nickname: str = ""
    messages: list[Message] = attrs.Factory(list)

    @handles
    def register(self, command: Register) -> Registered:
        return Registered(self.id, command.name, command.email)

    @handles
    def say(self, command: Say) -> Said:
        return Said(Message(self.id, command.text))

    @applies
    def registered(self, event: Registered) -> None:
        self.name = event.name
        self.nickname = event.name[:40].lower()

    @applies
    def said(self, event: Said) -> None:
        self.messages = [*self.messages, event.message]


@attrs.frozen
class Name:
    person: str
    name: str


class Names(Projection):
    """Has to be built anew when somebody is forgotten."""

    rows = Table(Name, key="person", indexes=["name"])

    @on(Registered)
    def registered(self, event: Registered, meta: EventMeta) -> None:
        self.rows.put(Name(event.person, event.name))


class Directory(Projection):
    """Removes who is forgotten itself."""

    rows = Table(Name, key="person")

    @on(Registered)
    def registered(self, event: Registered, meta: EventMeta) -> None:
        self.rows.put(Name(event.person, event.name))

    @on(SubjectForgotten)
    def forgotten(self, event: SubjectForgotten, meta: EventMeta) -> None:
        self.rows.delete(event.subject)


class Welcome(Saga, signals=["go"]):
    """Waits until it is told to go on; its state holds a name."""

    person: str
    name: Annotated[str, Personal("person", forgotten="somebody")]

    @step
    async def wait(self, ctx: SagaContext) -> None:
        await ctx.approval("go")

    @step
    async def greet(self, ctx: SagaContext) -> None:
        await ctx.ask(Person, f"{self.person}-greeter", Say(f"welcome, {self.name}"))


OPENED: dict[str, Any] = {"aggregates": [Person], "projections": [Names, Directory]}
SECRETS = (b"Ann Secret", b"ann secret", b"ann@example.org", b"something hushed", b"hush number")
"""Of ann, as they would be in a file."""
