"""Random operations on a store and on its model, each with what it must answer. See `test_whole.py`."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import trio
from whole_comparisons import PEOPLE, ROOMS, Comparisons, settled
from whole_domain import DAY_SECONDS, UNKNOWN, Idle, Introduce, Note, Pay, Room, Visit
from whole_model import Answered, Decided, Happened, Model

from eventsrc import (
    ANY,
    NO_STREAM,
    Aggregate,
    CompactionRefused,
    ConditionNotMet,
    Delete,
    EventQuery,
    EventSourcingError,
    Receipt,
    Recreate,
    Runtime,
    UnknownSubject,
    VersionConflict,
)
from eventsrc.runtime.testing import WallClock
from eventsrc.storage.record import utc_time

Target = tuple[type[Aggregate], str, str]
"""The class and the id of an aggregate, and its stream."""


class Operations:
    """Of one open runtime. After each the model has taken in all that the log has."""

    def __init__(
        self, runtime: Runtime, model: Model, clock: WallClock, jump: Callable[[], None], chance: random.Random
    ) -> None:
        self._runtime = runtime
        self._model = model
        self._clock = clock
        self._jump = jump
        self._chance = chance

    async def one(self) -> str:
        """Do one of them, let sagas go on as far as they can, and look at a little of everything; returns its name."""
        operations: dict[Callable[[], Any], int] = {
            self.ask: 8,
            self.ask_again: 3,
            self.ask_many: 2,
            self.ask_several_at_once: 2,
            self.transact: 4,
            self.ask_unless: 3,
            self.end_or_begin_anew: 2,
            self.start_saga: 3,
            self.signal: 1,
            self.let_time_pass: 2,
            self.forget: 2,
            self.compact: 4,
            self.uncompact: 1,
            self.retain: 1,
            self.prove: 1,
            self.rebuild: 1,
            self.look_back: 2,
        }
        (operation,) = self._chance.choices(list(operations), list(operations.values()))
        await operation()
        await self.settle()
        comparisons = Comparisons(self._runtime, self._model, self._chance)
        await comparisons.events()
        await comparisons.state(self._target()[2])
        await comparisons.view(self._chance.choice(self._model.generation.projections))
        return operation.__name__

    async def settle(self) -> None:
        await settled(self._runtime, self._jump, self._clock)
        await self._take_in()

    async def _take_in(self) -> None:
        async for stored in self._runtime.events(after=len(self._model.events)):
            self._model.take(stored)
        assert self._model.expected == []

    # --- what is chosen

    def _target(self) -> Target:
        if self._chance.random() < 0.3:
            room = self._chance.choice(ROOMS)
            return Room, room, f"room-{room}"
        person = self._chance.choice(PEOPLE)
        return self._model.generation.account, person, f"account-{person}"

    def _command(self, target: Target) -> object:
        choose = self._chance.choice
        if target[0] is Room:
            return Visit(choose(PEOPLE), choose(["hello", "...", "goodbye"]))
        return choose(
            [
                Pay(choose(range(-9, 20)), choose(["cash", "card", "forged"])),
                Pay(choose(range(9))),
                Introduce(choose(["Ann", UNKNOWN, "Bob"])),
                Note(choose(["a+b+c", "greet", "release", "d"]), choose([(), ("red",), ("red", "blue")])),
                Idle(),
            ]
        )

    def _options(self) -> dict[str, Any]:
        return self._chance.choice([{}, {"metadata": {"by": "me"}}, {"metadata": {"by": 1}, "correlation_id": "c"}])

    def _new_key(self) -> str:
        return f"{self._chance.getrandbits(64):x}"

    # --- commands

    async def ask(self) -> None:
        target, options = self._target(), self._options()
        stream, command = target[2], self._command(target)
        version = len(self._model.stream(stream))
        expected = self._chance.choice([None, None, ANY, NO_STREAM, version, version + 1])
        key = self._chance.choice([None, self._new_key()])
        is_refused = expected == version + 1 or (expected is NO_STREAM and version > 0)
        decided = VersionConflict if is_refused else self._model.decide(stream, command)
        asked = self._runtime.actor(*target[:2]).ask(command, expected_version=expected, idempotency_key=key, **options)
        await self._answered(target, command, decided, asked, options.get("metadata"), key)

    async def _answered(
        self,
        target: Target,
        command: object,
        decided: Decided,
        asked: Any,
        metadata: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> None:
        answer = await _answer(asked)
        if isinstance(decided, type):
            assert type(answer) is decided, (command, answer)
            return
        assert isinstance(answer, Receipt), (command, answer)
        self._model.expect(decided, metadata or {})
        await self._take_in()
        self._check(answer, target[2], decided)
        if key is not None:
            known = Answered(command, decided, answer.version, answer.position, self._model.expires_ns())
            self._model.answers[target[2], key] = known

    def _check(self, receipt: Receipt, stream: str, events: Sequence[Happened], *, duplicate: bool = False) -> None:
        assert (receipt.stream, receipt.duplicate) == (stream, duplicate)
        assert list(receipt.events) == [self._model.read(event) for event in events]
        if events:
            assert (receipt.version, receipt.position) == (events[-1].at.version, events[-1].at.position)

    async def ask_again(self) -> None:
        """A key within its window gives the receipt of before, whatever happened since; beyond it nobody knows it."""
        if not self._model.answers:
            return
        (stream, key), known = self._chance.choice(list(self._model.answers.items()))
        category, _, of = stream.partition("-")
        target = (Room if category == "room" else self._model.generation.account, of, stream)
        aggregate = self._runtime.actor(*target[:2])
        if known.expires_ns > self._clock():
            receipt = await aggregate.ask(known.command, idempotency_key=key)
            self._check(receipt, stream, known.events, duplicate=True)
            assert (receipt.version, receipt.position) == (known.version, known.position)
            return
        del self._model.answers[stream, key]
        decided = self._model.decide(stream, known.command)
        asked = aggregate.ask(known.command, idempotency_key=key)
        await self._answered(target, known.command, decided, asked, key=key)

    async def ask_many(self) -> None:
        target = self._target()
        commands = [self._command(target) for _ in range(self._chance.randint(1, 8))]
        decided = []
        for command in commands:
            events = self._model.decide(target[2], command)
            decided.append(events)
            if isinstance(events, list):
                self._model.expect(events, {})
        answers = await self._runtime.actor(*target[:2]).ask_many(commands)
        await self._take_in()
        for answer, events in zip(answers, decided, strict=True):
            if isinstance(answer, Receipt):
                assert isinstance(events, list)
                self._check(answer, target[2], events)
            else:
                assert type(answer) is events

    async def ask_several_at_once(self) -> None:
        targets = {target[2]: target for target in (self._target() for _ in range(4))}
        orders = [(target, self._command(target)) for target in targets.values()]
        decided = [self._model.decide(target[2], command) for target, command in orders]
        answers: dict[int, object] = {}

        async def ask(number: int, target: Target, command: object) -> None:
            answers[number] = await _answer(self._runtime.actor(*target[:2]).ask(command))

        async with trio.open_nursery() as nursery:
            for number, order in enumerate(orders):
                nursery.start_soon(ask, number, *order)
        for events in decided:
            self._model.expect(events if isinstance(events, list) else [], {})
        await self._take_in()
        for number, ((target, _), events) in enumerate(zip(orders, decided, strict=True)):
            answer = answers[number]
            if isinstance(answer, Receipt) and isinstance(events, list):
                self._check(answer, target[2], events)
            else:
                assert type(answer) is events

    async def transact(self) -> None:
        """All or nothing, also where one aggregate decides twice, and once for a key."""
        orders = [(target, self._command(target)) for target in (self._target() for _ in range(3))]
        _, of, stream = watched = self._target()
        version = len(self._model.stream(stream)) + self._chance.choice([0, 0, 1])
        events, refusal = [], None
        for target, command in orders:
            decided = self._model.decide(target[2], command)
            if isinstance(decided, type):
                refusal = decided
                break
            self._model.expect(decided, {})
            events.append(decided)
        if refusal is None and version > len(self._model.stream(stream)):
            refusal = VersionConflict
        if refusal is not None:
            self._model.expected.clear()
        key, commands = self._new_key(), [(target[0], target[1], command) for target, command in orders]
        for _ in range(2 if refusal is None else 1):
            unchanged = [(watched[0], of, version)]
            asked = self._runtime.transact(commands, unchanged=unchanged, idempotency_key=key)
            answers = await _answer(asked)
            await self._take_in()
            if not isinstance(answers, list):
                assert type(answers) is refusal, (commands, unchanged, answers)
                return
            is_again = bool(answers) and answers[0].duplicate
            for answer, (target, _), made in zip(answers, orders, events, strict=True):
                self._check(answer, target[2], made, duplicate=is_again)

    async def ask_unless(self) -> None:
        target, choose = self._target(), self._chance.choice
        command = self._command(target)
        after = choose(range(len(self._model.events) + 1))
        query, fits = choose(
            [
                (EventQuery(tags="label:red", after=after), lambda event: "label:red" in event.tags),
                (EventQuery(types="saga.completed", after=after), lambda event: event.type == "saga.completed"),
                (EventQuery(metadata={"by": 1}, after=after), lambda event: event.at.metadata.get("by") == 1),
            ]
        )
        found = [event.at.position for event in self._model.events if event.at.position > after and fits(event)]
        decided = self._model.decide(target[2], command)
        asked = self._runtime.actor(*target[:2]).ask(command, unless=query)
        if decided == []:
            # It is not laid down whether a command without events has a condition to meet.
            await _answer(asked)
        elif found and isinstance(decided, list):
            refusal = await _answer(asked)
            assert isinstance(refusal, ConditionNotMet)
            assert refusal.position == found[0]
        else:
            await self._answered(target, command, decided, asked)

    async def end_or_begin_anew(self) -> None:
        target = self._target()
        command = self._chance.choice([Delete(), Recreate(), Recreate()])
        decided = self._model.decide(target[2], command)
        await self._answered(target, command, decided, self._runtime.actor(*target[:2]).ask(command))

    # --- sagas and time

    async def start_saga(self) -> None:
        choose, key = self._chance.choice, f"{self._chance.randrange(30)}"
        waits_for = choose(["nothing", "time", "signal", "event"])
        note = choose(["given", "given", "forged"])
        saga = self._model.generation.transfer(choose(PEOPLE), choose(PEOPLE), choose(range(9)), waits_for, note)
        is_known = f"saga_transfer-{key}" in self._model.sagas(len(self._model.events))
        assert (await self._runtime.start_saga(saga, key=key)).was_started is not is_known

    async def signal(self) -> None:
        for row in await self._runtime.sagas(state="waiting").rows():
            if row.waits_for_signal:
                assert await self._runtime.signal(self._model.generation.transfer, row.key, "go")

    async def let_time_pass(self) -> None:
        self._clock.advance(self._chance.choice([0.001, 60, 400, 1.1 * DAY_SECONDS]))

    # --- upkeep

    async def forget(self) -> None:
        """Only what was stored before is forgotten, and it is found wherever it is."""
        subject, model = self._chance.choice(PEOPLE), self._model
        held = [event for event in model.events if event.subject == subject and model.is_known(event)]
        try:
            projections = self._chance.choice([[], model.generation.projections])
            forgotten = await self._runtime.forget(subject, wait_for=projections)
        except UnknownSubject:
            assert not held
            return
        assert (forgotten.events, forgotten.streams) == (len(held), sorted({event.stream for event in held}))
        model.forgotten[subject] += 1
        month = f"eventsrc.subjects-{utc_time(self._clock()):%Y-%m}"
        model.expect([Happened(month, "eventsrc.subject_forgotten", {"subject": subject}, kind="deleted")], {})

    async def compact(self) -> None:
        await self._or_refused(self._runtime.maintenance.compact(*self._target()[:2]))

    async def uncompact(self) -> None:
        await self._or_refused(self._runtime.maintenance.uncompact(*self._target()[:2]))

    async def _or_refused(self, asked: Any) -> None:
        answer = await _answer(asked)
        assert not isinstance(answer, EventSourcingError) or isinstance(answer, CompactionRefused)

    async def retain(self) -> None:
        report = await self._runtime.maintenance.retain()
        # What others compact meanwhile is refused as too small.
        assert all("saga" in reason or "not in the archive" in reason for reason in report.refused.values())

    async def prove(self) -> None:
        await self._runtime.maintenance.prove(*self._target()[:2])
        assert await self._runtime.maintenance.quarantined() == []

    async def keep_up(self) -> None:
        """Compact, prove and rebuild without an end, while other operations go on; it changes nothing that they see."""
        while True:
            for operation in (self.compact, self.uncompact, self.prove, self.rebuild):
                await operation()
                await trio.sleep(self._chance.choice([0, 0.1, 2]))

    async def rebuild(self) -> None:
        await self._runtime.projections.rebuild(self._chance.choice(self._model.generation.projections))

    async def look_back(self) -> None:
        comparisons = Comparisons(self._runtime, self._model, self._chance)
        await comparisons.states_of_the_past()
        await comparisons.difference()
        await comparisons.replays()
        await comparisons.as_of()


async def _answer(asked: Any) -> Any:
    """What it gives, or the error that it raises."""
    try:
        return await asked
    except EventSourcingError as error:
        return error
