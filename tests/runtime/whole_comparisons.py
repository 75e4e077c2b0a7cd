"""Compares what a runtime says, of now or of the past, with what the model says. See `test_whole.py`."""

import random
from collections.abc import Callable
from typing import Any

import trio
from waiting import until
from whole_domain import Room
from whole_model import Happened, Model

from eventsrc import (
    AggregateDeleted,
    Projection,
    Query,
    Runtime,
    SagaInstances,
    between,
    one_of,
    starting_with,
)
from eventsrc.storage.record import utc_time

PEOPLE = ("ann", "bob", "cy")
ROOMS = ("hall", "lobby")
STREAMS = (*(f"account-{each}" for each in PEOPLE), *(f"room-{each}" for each in ROOMS))
TYPES = ("account.paid", "account.introduced", "account.noted", "room.visited", "eventsrc.deleted", "saga.started")
MICROSECOND_NS = 1_000


class Comparisons:
    """Of one runtime and the first events of the model, up to a position."""

    def __init__(self, runtime: Runtime, model: Model, chance: random.Random, position: int | None = None) -> None:
        self._runtime = runtime
        self._model = model
        self._chance = chance
        self._position = len(model.events) if position is None else position

    async def everything(self, projections: list[type[Projection]]) -> None:
        for _ in range(5):
            await self.events()
        await self.streams()
        for stream in STREAMS:
            await self.state(stream)
        for projection in projections:
            await self.view(projection)

    # --- the log

    async def events(self) -> None:
        filters, fits = self._random_filters()
        wanted = [event.at for event in self._model.events[: self._position] if fits(event)]
        if filters.get("backwards"):
            wanted.reverse()
        found = [event async for event in self._runtime.events(**filters)]
        assert found == wanted[: filters.get("limit")], filters

    def _random_filters(self) -> tuple[dict[str, Any], Callable[[Happened], bool]]:
        """Arguments of `Runtime.events`, and what they mean."""
        choose, model = self._chance.choice, self._model
        end = len(model.events) + 2
        time_ns = choose(model.events).at.time_ns if model.events else 0
        possible: dict[str, tuple[Any, Callable[[Happened, Any], bool]]] = {
            "stream": (choose(STREAMS), lambda event, value: event.stream == value),
            "types": (self._chance.sample(TYPES, 2), lambda event, value: event.type in value),
            "category": (choose(["account", "room", "saga_greet"]), lambda event, value: event.at.category == value),
            "tag": (choose(["label:red", "guest:ann"]), lambda event, value: value in event.tags),
            "subject": (choose(PEOPLE), lambda event, value: event.subject == value and model.is_known(event)),
            "metadata": ({"by": choose(["me", 1])}, lambda event, value: value.items() <= event.at.metadata.items()),
            "after": (choose(range(end)), lambda event, value: event.at.position > value),
            "before": (choose(range(end)), lambda event, value: event.at.position < value),
            "since": (utc_time(time_ns), lambda event, value: event.at.time >= value),
            "until": (utc_time(time_ns), lambda event, value: event.at.time < value),
        }
        chosen = {name: possible[name] for name in possible if self._chance.random() < 0.2}
        filters = {name: value for name, (value, _) in chosen.items()}
        filters |= {"backwards": choose([True, False])} | choose([{}, {"limit": choose(range(9))}])
        return filters, lambda event: all(fits(event, value) for value, fits in chosen.values())

    async def streams(self) -> None:
        newest = {event.stream: event.at for event in self._model.events[: self._position]}
        heads = [(head.stream, head.version, head.position) async for head in self._runtime.streams()]
        assert heads == [(stream, newest[stream].version, newest[stream].position) for stream in sorted(newest)]

    async def objects(self) -> None:
        for event in self._model.events[: self._position]:
            wanted = self._model.read(event)
            assert wanted is None or self._runtime.decode(event.at) == wanted

    # --- states

    async def state(self, stream: str) -> None:
        await self._compare_state(stream, self._model.state(stream, position=self._position), {})

    async def states_of_the_past(self) -> None:
        stream = self._chance.choice(STREAMS)
        version = self._chance.randint(0, len(self._model.stream(stream)))
        await self._compare_state(stream, self._model.state(stream, version=version), {"at_version": version})
        position = self._chance.randint(0, self._position)
        await self._compare_state(stream, self._model.state(stream, position=position), {"at_position": position})
        if position:
            time = self._model.events[position - 1].at.time
            last = self._model.position_at(self._model.events[position - 1].at.time_ns // MICROSECOND_NS * 1_000 + 999)
            await self._compare_state(stream, self._model.state(stream, position=last), {"at_time": time})

    async def _compare_state(self, stream: str, wanted: dict[str, Any] | None, moment: dict[str, Any]) -> None:
        aggregate = self._runtime.actor(*self._aggregate(stream))
        try:
            state = await aggregate.state(**moment)
        except AggregateDeleted:
            assert wanted is None, (stream, moment)
        else:
            assert wanted is not None, (stream, moment)
            assert {name: getattr(state, name) for name in wanted} == wanted, (stream, moment)

    def _aggregate(self, stream: str) -> tuple[Any, str]:
        category, _, aggregate_id = stream.partition("-")
        return (Room if category == "room" else self._model.generation.account), aggregate_id

    async def difference(self) -> None:
        stream = self._chance.choice(STREAMS)
        events = self._model.stream(stream)
        first, second = sorted(self._chance.choices(range(len(events) + 1), k=2))
        found = await self._runtime.diff(*self._aggregate(stream), first, second)
        assert found.events == [event.at for event in events[first:second]]
        before, after = (self._model.state(stream, version=version) for version in (first, second))
        if before is not None and after is not None:
            assert set(found.changes) == {name for name in after if before[name] != after[name]}

    async def replays(self) -> None:
        stream = self._chance.choice(STREAMS)
        newest = len(self._model.stream(stream))
        version = self._chance.randint(0, newest)
        for mode, options, wanted in (
            ("full", {}, newest),
            ("from_snapshot", {}, newest),
            ("time_travel", {"to_version": version}, version),
        ):
            replay = self._runtime.replay(mode, aggregate=self._aggregate(stream), **options)  # type: ignore[call-overload]
            state, fields = (await replay.run()).state, self._model.state(stream, version=wanted)
            assert state.is_deleted == (fields is None)
            assert {name: getattr(state, name) for name in fields or ()} == (fields or {}), (stream, mode)

    # --- views

    async def view(self, projection: type[Projection]) -> None:
        name = projection.__eventsrc_projection__.name
        steering = self._runtime.projections
        await until(lambda: not steering.lag(projection).events and not steering.lag(projection).rebuilding)
        rows = getattr(self._model, name.removeprefix("sql_"))(self._position)
        view = self._runtime.view(projection)
        assert await view.rows() == rows, name
        if rows:
            await self._queries(view.all(), rows)

    async def _queries(self, query: Query[Any], rows: list[Any]) -> None:
        """Whatever the criteria, the order and the limit are, the rows are those that looking at each row gives."""
        choose = self._chance.choice
        names = list(type(rows[0]).__annotations__)
        field, order = choose(names), choose(names)
        low, high = (getattr(choose(rows), field) for _ in range(2))
        criterion, fits = choose(
            [
                (low, lambda value: value == low),
                (one_of(low, high), lambda value: value in (low, high)),
                (between(low, high), lambda value: value is not None and low <= value <= high),
                (starting_with(str(low)[:1]), lambda value: isinstance(value, str) and value[:1] == str(low)[:1]),
            ]
        )
        found = [row for row in rows if fits(getattr(row, field))]
        is_descending = choose([True, False])
        found.sort(key=lambda row: (getattr(row, order), rows.index(row)), reverse=is_descending)
        query = query.where(**{field: criterion})
        assert await query.count() == len(found)
        limit = choose([1, 3, 100])
        query = query.order_by(f"-{order}" if is_descending else order).limit(limit)
        assert await query.rows() == found[:limit], (field, criterion, order, limit)
        assert [row async for page in query.pages(2) for row in page] == found[:limit]

    async def as_of(self) -> None:
        """A moment of the past is as the model was then, and as far as it still knows."""
        if not self._model.events:
            return
        position = self._chance.randint(1, self._position)
        chosen = self._chance.sample(self._model.generation.projections, 1)
        async with self._runtime.as_of(position=position, projections=[*chosen, SagaInstances]) as past:
            comparisons = Comparisons(past, self._model, self._chance, position)
            await comparisons.everything(chosen)
            await comparisons.sagas()

    # --- sagas

    async def sagas(self) -> None:
        """They are as their streams say, and each has taken and given once, or has given back."""
        wanted = self._model.sagas(self._position)
        rows = {row.id: row.state for row in await self._runtime.sagas().rows()}
        assert rows.keys() == wanted.keys()
        ended = {saga: state for saga, state in wanted.items() if state}
        assert {saga: rows[saga] for saga in ended} == ended
        assert all(rows[saga] in ("running", "compensating", "waiting") for saga in wanted.keys() - ended.keys())

    def transfers(self) -> None:
        moved = [event for event in self._model.events if "saga_call" in event.at.metadata]
        for saga, state in self._model.sagas(self._position).items():
            own = [event for event in moved if event.at.metadata["saga_call"].startswith(f"{saga}/")]
            counts = [sum(event.data.get("note") == note for event in own) for note in ("taken", "given", "back")]
            assert max(counts) <= 1, saga
            if saga.startswith("saga_transfer") and state == "completed":
                assert counts == [1, 1, 0], saga
            if state == "compensated":
                assert counts in ([0, 0, 0], [1, 0, 1]), saga


async def settled(runtime: Runtime, jump: Callable[[], None], now_ns: Callable[[], int]) -> None:
    """Wait until no saga has anything to do: neither by an event nor by the clock."""
    assert runtime._sagas is not None
    supervisor = runtime._sagas.supervisor
    with trio.fail_after(10_000):
        while True:
            end, counts = runtime.last_position, runtime.saga_counts
            has_followed = min(supervisor._position, supervisor._starter._position) >= end
            rows = await runtime.sagas(state="waiting").rows()
            late = [row for row in rows if row.wake_ns is not None and row.wake_ns <= now_ns()]
            if has_followed and not counts["running"] + counts["ready"] and not late and end == runtime.last_position:
                return
            if late:
                jump()
            await trio.sleep(0.001)
