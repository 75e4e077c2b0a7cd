"""Questions across aggregates: events by type, category, tag, metadata and time; and appends that depend on them."""

import random
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from eventsrc import (
    Aggregate,
    AnyOf,
    ArgumentInvalid,
    ConditionNotMet,
    DefinitionError,
    EncodingError,
    EventQuery,
    Rejected,
    Runtime,
    StoredEvent,
    SubscriptionNameInvalid,
    TagInvalid,
    TooManyTags,
    applies,
    command,
    event,
    handles,
)
from eventsrc.runtime.testing import WallClock
from eventsrc.storage.draft import Draft
from eventsrc.storage.query import QUERY_BATCH_EVENTS
from eventsrc.storage.store import EventStore


@command
class Register:
    name: str
    city: str = ""


@event("user.registered", tags=lambda event: [f"name:{event.name}", f"city:{event.city or 'none'}"])
class Registered:
    name: str
    city: str = ""


@command
class Rename:
    name: str


@event("user.renamed", tags=lambda event: [f"name:{event.name}"])
class Renamed:
    name: str


class User(Aggregate):
    name: str = ""

    @handles
    def register(self, command: Register) -> Registered:
        if self.name:
            raise Rejected("is registered")
        return Registered(command.name, command.city)

    @handles
    async def rename(self, command: Rename) -> Renamed:
        await trio.lowlevel.checkpoint()
        return Renamed(command.name)

    @applies
    def named(self, event: Registered | Renamed) -> None:
        self.name = event.name


START = datetime(2026, 1, 1, tzinfo=UTC)


async def test_metadata_are_asked_for_as_they_were_given(store: EventStore | Path) -> None:
    given: dict[str, Any] = {
        "run": UUID(int=7),
        "day": date(2026, 1, 1),
        "at": datetime(2026, 1, 1),
        "from": START.astimezone(timezone(timedelta(hours=2))),
        "path": ("a", ["b"]),
        "price": Decimal("1.50"),
    }
    async with Runtime.open(store, aggregates=[User]) as runtime:
        ann = runtime.actor(User, "ann")
        await ann.ask(Rename("ann"), metadata=given)
        for name, value in given.items():
            assert [found.position async for found in runtime.events(metadata={name: value})] == [1], name
            with pytest.raises(ConditionNotMet):
                await ann.ask(Rename("eve"), unless=EventQuery(metadata={name: AnyOf((0, value))}))
        assert [found async for found in runtime.events(metadata={**given, "run": UUID(int=8)})] == []
        with pytest.raises(ArgumentInvalid, match="as 'run': it is no plain data"):
            runtime.events(metadata={"run": object()})
        with pytest.raises(TypeError, match="as 'run': it is no plain data"):
            EventQuery(metadata={"run": AnyOf((1, 2**70))})


async def test_events_by_tag_metadata_and_time(store: EventStore | Path) -> None:
    clock = WallClock(START)
    async with Runtime.open(store, aggregates=[User], wall_clock=clock) as runtime:
        for number, city in enumerate(["rome", "oslo", "rome", "", "rome"]):
            by = {"by": "eve"} if number % 2 else None
            await runtime.actor(User, f"u{number}").ask(Register(f"n{number}", city), metadata=by)
            clock.advance(60)

        async def positions(**criteria: object) -> list[int]:
            return [found.position async for found in runtime.events(**criteria)]  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

        assert await positions(tag="city:rome") == [1, 3, 5]
        assert await positions(tag=["city:rome", "name:n2"]) == [3]
        assert await positions(tag="city:rome", after=1, before=5) == [3]
        assert await positions(tag="city:rome", backwards=True, limit=2) == [5, 3]
        assert await positions(metadata={"by": "eve"}) == [2, 4]
        assert await positions(metadata={"by": "eve"}, types=[Registered], after=2) == [4]
        assert await positions(since=START + timedelta(seconds=60), until=START + timedelta(seconds=180)) == [2, 3]
        assert await positions(until=START) == []
        times = [found.time async for found in runtime.events()]
        assert times == [START + timedelta(seconds=60 * number) for number in range(5)]
        assert await positions(since=times[3]) == [4, 5]
        assert await positions(since=START + timedelta(days=1)) == []
        assert await positions(since=START, tag="city:oslo") == [2]
        assert await positions(stream="user-u3", after=4) == []
        assert await positions(limit=0) == []
        assert [found.tags async for found in runtime.events(stream="user-u3")] == [("name:n3", "city:none")]
        with pytest.raises(ArgumentInvalid, match="limit=-1 cannot be used: it must be 0 or more"):
            runtime.events(limit=-1)
        with pytest.raises(ArgumentInvalid, match="has no time zone"):
            runtime.events(since=datetime(2026, 1, 1))
        with pytest.raises(DefinitionError, match="is not an @event class"):
            runtime.events(types=[User])


async def test_one_text_is_one_tag_or_type_and_none_at_all_is_a_mistake(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[User]) as runtime:
        ann = runtime.actor(User, "1")
        await ann.ask(Register("ann"), unless=EventQuery(tags="name:ann"))
        with pytest.raises(ConditionNotMet):
            await ann.ask(Rename("ann"), unless=EventQuery(tags="name:ann"))
        with pytest.raises(ConditionNotMet):
            await ann.ask(Rename("ann"), unless=EventQuery(types="user.registered"))
        with pytest.raises(ConditionNotMet):
            await ann.ask(Rename("ann"), unless=EventQuery(types=Registered))
        assert [found.position async for found in runtime.events(types="user.registered")] == [1]
        for empty in ({"types": []}, {"tag": ()}):
            with pytest.raises(ArgumentInvalid, match="is empty: leave it out"):
                runtime.events(**empty)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="tags is empty: leave it out"):
            EventQuery(tags=[])
        with pytest.raises(TypeError, match="tags must be texts, not 7"):
            EventQuery(tags=["a", 7])


async def test_an_empty_text_does_not_ask_for_every_event(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[User]) as runtime:
        await runtime.actor(User, "1").ask(Register("ann"))
        for empty in ({"tag": ""}, {"tag": ["name:ann", ""]}, {"types": ""}, {"category": ""}):
            for ask in (runtime.events, runtime.subscribe):
                with pytest.raises(ArgumentInvalid, match=r"empty text|category=''"):
                    ask(**empty)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        for empty in ({"tags": ""}, {"types": [""]}, {"category": ""}):
            with pytest.raises(ValueError, match=r"has an empty text|category is empty"):
                EventQuery(**empty)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_questions_that_cannot_be_asked(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[User]) as runtime:
        for criteria, message in (
            ({"limit": 1.5}, "limit=1.5 cannot be used: give a whole number"),
            ({"before": "x"}, "before='x' cannot be used: give a whole number"),
            ({"since": "yesterday"}, "give a datetime with a time zone"),
            ({"stream": 7}, "stream=7 cannot be used: give the name of one"),
            ({"types": [7]}, "types must be stored names or event classes"),
            ({"tag": 7}, "tags must be texts, not 7"),
            ({"category": 7}, "category=7 cannot be used"),
            ({"after": "x"}, "after='x' cannot be used"),
        ):
            with pytest.raises(ArgumentInvalid, match=message):
                runtime.events(**criteria)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        for category in ("", 7):
            with pytest.raises(ArgumentInvalid, match=f"category={category!r} cannot be used: give the name of one"):
                runtime.streams(category=category)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(ArgumentInvalid, match="unless='name:ann' cannot be used: give an EventQuery"):
            await runtime.actor(User, "1").ask(Register("ann"), unless="name:ann")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_question_that_finds_little_lets_others_run(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[User]) as runtime, trio.open_nursery() as nursery:
        await runtime.actor(User, "1").ask_many([Rename("ann")] * 2_000)
        turns = 0

        async def run_beside() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(run_beside)
        assert [found async for found in runtime.events(metadata={"by": "eve"})] == []
        assert turns >= 2_000 // QUERY_BATCH_EVENTS - 1, "others had their turn between the steps"
        turns = 0
        await runtime.actor(User, "2").ask(Rename("bob"), unless=EventQuery(metadata={"by": "eve"}))
        assert turns >= 2_000 // QUERY_BATCH_EVENTS - 1, "others had their turn between the steps"
        nursery.cancel_scope.cancel()


async def test_a_condition_costs_the_journal_only_what_has_come_since_it_was_asked(
    store: EventStore | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[EventQuery] = []
    check = Draft._check_condition

    def listen(draft: Draft, condition: EventQuery) -> None:
        asked.append(condition)
        check(draft, condition)

    monkeypatch.setattr(Draft, "_check_condition", listen)
    async with Runtime.open(store, aggregates=[User]) as runtime:
        await runtime.actor(User, "1").ask_many([Rename("ann")] * 300)
        await runtime.actor(User, "1").ask(Rename("eve"), metadata={"by": "eve"})
        await runtime.actor(User, "2").ask(Rename("bob"), unless=EventQuery(metadata={"by": "bob"}))
        with pytest.raises(ConditionNotMet) as caught:
            await runtime.actor(User, "2").ask(Rename("bob"), unless=EventQuery(metadata={"by": "eve"}))
        assert caught.value.position == 301
        await runtime.transact([(User, "3", Rename("bob"))], unless=EventQuery(metadata={"by": "bob"}))
        assert [condition.after for condition in asked] == [301, 300, 302]


async def test_the_narrowest_index_serves(store: EventStore | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Runtime.open(store, aggregates=[User]) as runtime:
        for number in range(60):
            await runtime.actor(User, f"u{number}").ask(Register(f"n{number}", "rome" if number % 30 else "oslo"))
        looked_at: list[str] = []
        fits = EventQuery.matches

        def listen(query: EventQuery, found: StoredEvent) -> bool:
            looked_at.append(found.stream)
            return fits(query, found)

        monkeypatch.setattr(EventQuery, "matches", listen)
        for criteria, expected, count in (
            ({"types": [Registered], "tag": ["city:oslo"], "category": "user"}, [1, 31], 2),
            ({"tag": ["city:rome", "name:n7"]}, [8], 1),
            ({"types": [Registered], "category": "account"}, [], 0),
            ({"types": [Renamed], "category": "user"}, [], 0),
        ):
            looked_at.clear()
            found = runtime.events(**criteria)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            assert [event.position async for event in found] == expected
            assert len(looked_at) == count


async def test_a_name_is_claimed_once_over_all_aggregates(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[User]) as runtime:
        free = EventQuery(tags=["name:ann"])
        first = await runtime.actor(User, "1").ask(Register("ann"), unless=free)
        with pytest.raises(ConditionNotMet, match="event at position 1 matches the query") as caught:
            await runtime.actor(User, "2").ask(Register("ann"), unless=free)
        assert caught.value.position == first.position
        assert (await runtime.actor(User, "2").state()).name == "", "its state is what is stored"
        await runtime.actor(User, "2").ask(Register("bob"), unless=EventQuery(tags=["name:bob"]))
        with pytest.raises(ConditionNotMet):
            await runtime.actor(User, "2").ask(Rename("ann"), unless=EventQuery(types=[Registered, Renamed], after=1))
        await runtime.actor(User, "2").ask(Rename("bobby"), unless=EventQuery(tags=["name:bobby"], types=[Renamed]))
        with pytest.raises(DefinitionError):
            await runtime.actor(User, "2").ask(Rename("x"), unless=EventQuery(types=[User]))


async def test_a_refused_condition_is_no_other_command_s(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[User]) as runtime:
        await runtime.actor(User, "1").ask(Register("ann"))
        user = runtime.actor(User, "2")
        outcomes: list[object] = [None] * 30

        async def send(number: int) -> None:
            unless = EventQuery(tags=["name:ann"]) if number % 3 == 0 else None
            try:
                outcomes[number] = (await user.ask(Rename(f"n{number}"), unless=unless)).version
            except ConditionNotMet:
                outcomes[number] = "refused"

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(send, number)
        assert outcomes.count("refused") == 10
        assert sorted(each for each in outcomes if isinstance(each, int)) == list(range(1, 21))
        assert all((outcome == "refused") == (number % 3 == 0) for number, outcome in enumerate(outcomes))


async def test_many_that_want_the_same_names_at_once(store: EventStore | Path) -> None:
    chance = random.Random(7)
    async with Runtime.open(store, aggregates=[User]) as runtime:
        won: list[str] = []

        async def claim(number: int) -> None:
            name = f"n{chance.randrange(20)}"
            try:
                await runtime.actor(User, str(number)).ask(Register(name), unless=EventQuery(tags=[f"name:{name}"]))
            except ConditionNotMet:
                return
            won.append(name)

        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(claim, number)
        assert len(won) == len(set(won)) == 20
        names = [found.payload["name"] async for found in runtime.events(types=[Registered])]
        assert sorted(names) == sorted(won)


async def test_tags_that_cannot_be_stored(store: EventStore | Path) -> None:
    @event("odd.happened", tags=lambda event: event.tags)
    class OddHappened:
        tags: Any

    @command
    class BeOdd:
        tags: Any

    class Odd(Aggregate):
        @handles
        def be(self, command: BeOdd) -> OddHappened:
            return OddHappened(command.tags)

        @applies
        def odd(self, event: OddHappened) -> None: ...

    async with Runtime.open(store, aggregates=[Odd]) as runtime:
        odd = runtime.actor(Odd, "1")
        with pytest.raises(TagInvalid, match=r"cannot be a tag of event 'odd.happened': it is empty"):
            await odd.ask(BeOdd([""]))
        with pytest.raises(TagInvalid, match=r"those that begin with eventsrc\.key: are the runtime's own"):
            await odd.ask(BeOdd(["eventsrc.key:mine"]))
        with pytest.raises(EncodingError, match="must be texts"):
            await odd.ask(BeOdd([7]))
        with pytest.raises(TooManyTags, match="16"):
            await odd.ask(BeOdd([str(number) for number in range(17)]))
        receipt = await odd.ask(BeOdd(["a", "b", "a"]))
        assert receipt.version == 1
        await odd.ask(BeOdd("abc"))
        assert [found.tags async for found in runtime.events()] == [("a", "b"), ("abc",)]


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "x" * 600])
async def test_a_text_that_nothing_is_stored_under_finds_nothing(store: EventStore | Path, text: str) -> None:
    async with Runtime.open(store, aggregates=[User]) as runtime:
        ann = runtime.actor(User, "1")
        await ann.ask(Register("ann"))
        for criteria in ({"tag": text}, {"tag": ["name:ann", text]}, {"types": [text]}, {"category": text}):
            found = runtime.events(**criteria)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            assert [event.position async for event in found] == []
        receipt = await ann.ask(Rename("bob"), unless=EventQuery(tags=[text]))
        assert receipt.position == 2
        for call in (runtime.subscriptions.parked, runtime.subscriptions.delete):
            with pytest.raises(SubscriptionNameInvalid):
                await call(text)
