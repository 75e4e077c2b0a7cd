"""What bad input gets: state, signals, keys and changed classes of sagas."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from saga_cases import AGGREGATES, Patient, open_runtime
from shop_domain import Create, Gateway, Order, PlaceOrder, PutBack, Stock, Take, Welcome

from eventsrc import (
    ArgumentInvalid,
    DefinitionError,
    EncodingError,
    EventTooLarge,
    Limits,
    MemoryLog,
    NothingToSkip,
    Retry,
    Runtime,
    RuntimeClosed,
    Saga,
    SagaContext,
    SagaInstance,
    SagaWaitsForItself,
    StreamNameInvalid,
    UnknownSaga,
    UnknownSignal,
    step,
)
from eventsrc.runtime.testing import FollowingClock
from eventsrc.storage.names import STREAM_NAME_BYTES_MAX
from eventsrc.storage.store import EventStore

# --- bad input ---


async def test_bad_input_is_refused_and_leaves_everything_working(store: EventStore | Path, gateway: Gateway) -> None:
    async with open_runtime(store) as runtime:
        with pytest.raises(UnknownSaga, match="not opened with Patient"):
            await runtime.start_saga(Patient([]), key="1")
        with pytest.raises(StreamNameInvalid):
            await runtime.start_saga(PlaceOrder("o1", 1), key="")
        with pytest.raises(EncodingError):
            await runtime.start_saga(PlaceOrder("o1", object()), key="1")  # type: ignore[arg-type]
        with pytest.raises(EncodingError, match=r"could not be read again: .*'many' is no int @ \$\.total"):
            await runtime.start_saga(PlaceOrder("o1", "many"), key="1")  # type: ignore[arg-type]
        with pytest.raises(ArgumentInvalid, match="give an object of the class"):
            await runtime.start_saga(PlaceOrder, key="1")  # type: ignore[type-var]
        with pytest.raises(StreamNameInvalid, match="the key of a saga is a text"):
            await runtime.start_saga(PlaceOrder("o1", 1), key=1)  # type: ignore[arg-type]
        with pytest.raises(ArgumentInvalid, match="deadline_seconds='5' cannot be used: give it in seconds"):
            await runtime.start_saga(PlaceOrder("o1", 1), key="1", deadline_seconds="5")  # type: ignore[arg-type]
        with pytest.raises(ArgumentInvalid, match=r"state='praked' cannot be used: it is one of running, .*parked"):
            runtime.sagas(state="praked")  # type: ignore[arg-type]
        with pytest.raises(EventTooLarge):
            await runtime.start_saga(PlaceOrder("x" * 70_000, 1), key="1")
        with pytest.raises(UnknownSaga, match="No saga 'saga_place_order-none' was started"):
            await runtime.saga(PlaceOrder, "none").status()
        with pytest.raises(UnknownSignal, match="has no signal 'go'"):
            await runtime.signal(PlaceOrder, "o1", "go")
        assert runtime.last_position == 0
        saga = await runtime.start_saga(PlaceOrder("o1", 10), key="o1")
        assert (await saga.wait(timeout=10)).state == "completed"
    async with Runtime.open(MemoryLog(), aggregates=AGGREGATES) as runtime:
        with pytest.raises(UnknownSaga, match="opened without sagas"):
            runtime.sagas()
    with pytest.raises(DefinitionError, match=r"Order'> is no saga"):
        async with Runtime.open(MemoryLog(), aggregates=AGGREGATES, sagas=[Order]):  # type: ignore[list-item]
            raise AssertionError("it opened")


@pytest.mark.parametrize(
    ("namespace", "words"),
    [
        (
            {"__annotations__": {"paid": bool}, "paid": attrs.field(default=False, init=False)},
            "Pay.paid has init=False",
        ),
        ({"__init__": lambda self: None}, "Pay has an __init__ of its own"),
        ({"__annotations__": {"paid": list}, "paid": []}, r"default of Pay.paid would be shared .*\(factory=list\)"),
    ],
)
def test_a_saga_is_made_from_its_fields(namespace: dict[str, Any], words: str) -> None:
    async def pay(self: Any, ctx: SagaContext) -> None: ...

    with pytest.raises(DefinitionError, match=words):
        type("Pay", (Saga,), namespace | {"pay": step()(pay)})


async def test_a_step_without_arguments_may_be_written_without_brackets_and_what_it_overcame_is_no_error(
    store: EventStore | Path,
) -> None:
    class Stubborn(Saga):
        tries: int = 0

        @step
        async def first(self, ctx: SagaContext) -> None: ...

        @step(retry=Retry(attempts=2, backoff_seconds=0.001))
        async def second(self, ctx: SagaContext) -> None:
            attempts.append(self)
            if len(attempts) < 2:
                raise OSError("not yet")

    attempts = list[Saga]()
    async with open_runtime(store, Stubborn) as runtime:
        saga = await runtime.start_saga(Stubborn(), key="1")
        outcome = await saga.wait(timeout=10)
        status = await saga.status()
    assert len(attempts) == 2
    assert (outcome.state, outcome.error, status.state, status.error) == ("completed", "", "completed", "")


def test_a_step_stands_over_a_method() -> None:
    with pytest.raises(DefinitionError, match=r"@step stands over a method, not 'undo': @step\(compensation="):
        step("undo")  # type: ignore[call-overload]


async def test_a_state_that_could_not_be_read_again_is_an_error_of_the_step_and_undone(
    store: EventStore | Path,
) -> None:
    class Sloppy(Saga):
        total: int = 0

        @step(compensation="put_back", retry=Retry(attempts=5))
        async def take(self, ctx: SagaContext) -> None:
            await ctx.ask(Stock, "all", Take(1))
            self.total = "one"  # type: ignore[assignment]

        @step()
        async def rest(self, ctx: SagaContext) -> None: ...

        async def put_back(self, ctx: SagaContext) -> None:
            await ctx.ask(Stock, "all", PutBack(1))

    async with open_runtime(store, Sloppy) as runtime:
        outcome = await (await runtime.start_saga(Sloppy(), key="1")).wait(timeout=10)
        assert (outcome.state, outcome.saga.total) == ("compensated", 0)
        assert outcome.error.startswith("EncodingError: The state of the saga could not be read again")
        stock = await runtime.actor(Stock, "all").state()
        assert (stock.count, stock.changes) == (100, 2)


async def test_a_saga_that_waits_for_itself_is_told(store: EventStore | Path) -> None:
    errors = []
    running: list[Runtime] = []

    class Narcissus(Saga):
        @step()
        async def only(self, ctx: SagaContext) -> None:
            try:
                await running[0].saga(Narcissus, ctx.key).wait()
            except SagaWaitsForItself as error:
                errors.append(error)

    async with open_runtime(store, Narcissus) as runtime:
        running.append(runtime)
        saga = await runtime.start_saga(Narcissus(), key="1")
        assert (await saga.wait(timeout=10)).state == "completed"
    assert errors[0].saga_id == "saga_narcissus-1"


def copy_of(function: Any, name: str) -> Any:
    return type(function)(function.__code__, function.__globals__, name)


async def test_a_step_that_the_class_no_longer_has_parks_the_saga() -> None:
    log = MemoryLog()

    def version(number: int, names: Sequence[str], **options: Any) -> type[Saga]:
        async def rest(self: Any, ctx: SagaContext) -> None:
            await ctx.approval("go")

        async def quick(self: Any, ctx: SagaContext) -> None:
            pass

        methods = {}
        for name in names:
            method = rest if name == "rest" else quick
            methods[name] = step()(copy_of(method, name))
        return type("Changing", (Saga,), methods, version=number, signals=["go"], **options)

    old = version(1, ["one", "rest"])
    async with open_runtime(log, old) as runtime:
        for key in ("a", "b", "c"):
            await runtime.start_saga(old(), key=key)
        with trio.fail_after(10):
            while await runtime.sagas(state="waiting").count() < 3:
                await trio.sleep(0.01)

    async def after_signal(saga_class: type[Saga], key: str) -> SagaInstance:
        async with open_runtime(log, saga_class) as runtime:
            await runtime.signal(saga_class, key, "go")
            with trio.fail_after(10):
                while (await runtime.saga(saga_class, key).status()).state == "waiting":
                    await trio.sleep(0.01)
                await runtime.saga(saga_class, key).wait()
                return await runtime.saga(saga_class, key).status()

    gone = await after_signal(version(2, ["other", "rest"]), "a")
    assert gone.state == "parked"
    assert gone.error.startswith("StepGone: Changing has no step 'one' any more, which this saga has begun.")
    assert (await after_signal(version(2, ["one", "rest", "more"]), "b")).state == "completed"
    assert (await after_signal(version(2, ["one", "rest"], older_instances="continue"), "c")).state == "completed"


@pytest.mark.parametrize(("rule", "state"), [("park", "parked"), ("compensate", "compensated")])
async def test_the_rule_for_older_instances_holds_at_once_also_for_those_that_wait(
    rule: str, state: str, store: EventStore | Path
) -> None:
    async def rest(self: Any, ctx: SagaContext) -> None:
        await ctx.approval("go")

    def version(number: int, **options: Any) -> type[Saga]:
        methods = {"rest": step()(copy_of(rest, "rest"))}
        return type("Ruled", (Saga,), methods, version=number, signals=["go"], **options)

    old, new = version(1), version(2, older_instances=rule)
    async with open_runtime(store, old) as runtime:
        await runtime.start_saga(old(), key="old")
        with trio.fail_after(10):
            while await runtime.sagas(state="waiting").count() < 1:
                await trio.lowlevel.checkpoint()
    async with open_runtime(store, new) as runtime:
        outcome = await runtime.saga(new, "old").wait(timeout=10)
        assert (outcome.state, outcome.error.split(":")[0]) == (state, "StepGone")
        await runtime.start_saga(new(), key="new")
    async with open_runtime(store, new) as runtime:
        await runtime.signal(new, "new", "go")
        assert (await runtime.saga(new, "new").wait(timeout=10)).state == "completed"


async def test_a_state_that_no_longer_fits_the_class_parks_the_saga() -> None:
    log = MemoryLog()

    class Old(Saga, name="growing", signals=["go"]):
        @step()
        async def only(self, ctx: SagaContext) -> None:
            await ctx.approval("go")

    class New(Saga, name="growing", signals=["go"]):
        amount: int

        @step()
        async def only(self, ctx: SagaContext) -> None:
            await ctx.approval("go")

    async with open_runtime(log, Old) as runtime:
        await runtime.start_saga(Old(), key="1")
        with trio.fail_after(10):
            while await runtime.sagas(state="waiting").count() < 1:
                await trio.sleep(0.01)
    async with open_runtime(log, New) as runtime:
        saga = runtime.saga(New, "1")
        await saga.signal("go")
        with trio.fail_after(10):
            while (status := await saga.status()).state != "parked":
                await trio.sleep(0.01)
        assert status.error.startswith("DecodingError: The data does not fit New")


async def test_who_waits_for_a_saga_is_told_when_the_runtime_closes() -> None:
    errors: list[Exception] = []

    async def wait(saga: Any) -> None:
        try:
            await saga.wait()
        except RuntimeClosed as error:
            errors.append(error)

    async with trio.open_nursery() as nursery, open_runtime(MemoryLog(), Patient) as runtime:
        saga = await runtime.start_saga(Patient([]), key="1")
        nursery.start_soon(wait, saga)
        await trio.testing.wait_all_tasks_blocked()
    assert len(errors) == 1


async def test_an_interrupted_shutdown_resumes_where_it_was(store: EventStore | Path, gateway: Gateway) -> None:
    entered = trio.Event()

    class Interrupted(Saga):
        @step(retry=Retry(attempts=1))
        async def only(self, ctx: SagaContext) -> None:
            await ctx.ask(Stock, "all", Take(1))
            if not entered.is_set():
                entered.set()
                await trio.sleep_forever()

    async with open_runtime(store, Interrupted, limits=Limits(shutdown_seconds=0.05)) as runtime:
        await runtime.start_saga(Interrupted(), key="1")
        await entered.wait()
    async with open_runtime(store, Interrupted) as runtime:
        assert (await runtime.saga(Interrupted, "1").wait(timeout=10)).state == "completed"
        assert (await runtime.actor(Stock, "all").state()).changes == 1


async def test_nothing_is_printed_by_default(capfd: pytest.CaptureFixture[str], gateway: Gateway) -> None:
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        async with open_runtime(MemoryLog()) as runtime:
            saga = await runtime.start_saga(PlaceOrder("o1", 200), key="o1")
            await saga.wait(timeout=10)
    finally:
        root.handlers = handlers
    assert capfd.readouterr() == ("", "")


# --- changed classes ---


def version_of(names: Sequence[str], number: int = 1, **options: Any) -> type[Saga]:
    """A class with these steps, each of which takes one from a stock of its name; "rest" waits for a signal."""

    async def rest(self: Any, ctx: SagaContext) -> None:
        await ctx.ask(Stock, "rest", Take(1))
        await ctx.approval("go")

    def take(name: str) -> Any:
        async def method(self: Any, ctx: SagaContext) -> None:
            await ctx.ask(Stock, name, Take(1))

        return method

    methods: dict[str, Any] = {}
    for name in names:
        method = rest if name == "rest" else take(name)
        method.__name__ = name
        methods[name] = step()(method)
    return type("Moving", (Saga,), methods, version=number, signals=["go"], **options)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("names", "error"),
    [
        (
            ["new", "one", "rest", "two"],
            "StepsChanged: The steps of Moving have changed: this saga has begun one, rest",
        ),
        (
            ["one", "new", "rest", "two"],
            "StepsChanged: The steps of Moving have changed: this saga has begun one, rest",
        ),
        (["rest", "one", "two"], "StepsChanged"),
        (["one", "renamed", "two"], "StepGone: Moving has no step 'rest' any more"),
        (["one", "rest"], ""),
        (["one", "rest", "new", "two"], ""),
    ],
)
async def test_a_changed_order_of_steps_never_runs_the_wrong_one(names: list[str], error: str, number: int) -> None:
    log = MemoryLog()
    async with open_runtime(log, old := version_of(["one", "rest", "two"])) as runtime:
        saga = await runtime.start_saga(old(), key="1")
        with trio.fail_after(10):
            while (await saga.status()).state != "waiting":
                await trio.sleep(0.01)
    async with open_runtime(log, new := version_of(names, number)) as runtime:
        await runtime.signal(new, "1", "go")
        outcome = await runtime.saga(new, "1").wait(timeout=10)
        changes = {name: (await runtime.actor(Stock, name).state()).changes for name in ("one", "rest", "two", "new")}
        if error:
            assert (outcome.state, outcome.error.startswith(error)) == ("parked", True), outcome.error
            assert "Put the steps back and retry the saga, or abandon it" in outcome.error
            with pytest.raises(NothingToSkip, match=r"not at a compensation that could be skipped: retry it .* Step"):
                await runtime.saga(new, "1").skip(reason="it is gone")
            assert changes == {"one": 1, "rest": 1, "two": 0, "new": 0}
        else:
            assert outcome.state == "completed"
            assert changes == {"one": 1, "rest": 1, "two": int("two" in names), "new": int("new" in names)}
    if error:
        async with open_runtime(log, old) as runtime:
            await runtime.saga(old, "1").retry(reason="put back")
            assert (await runtime.saga(old, "1").wait(timeout=10)).state == "completed"
            assert (await runtime.actor(Stock, "rest").state()).changes == 1, "not once more"


async def test_a_compensation_that_the_class_no_longer_has_can_be_skipped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Before(Saga, name="shrinking", signals=["go"]):
        @step(compensation="undo")
        async def first(self, ctx: SagaContext) -> None:
            await ctx.ask(Stock, "first", Take(1))

        @step()
        async def second(self, ctx: SagaContext) -> None:
            await ctx.approval("go")

        async def undo(self, ctx: SagaContext) -> None:
            await ctx.sleep(days=1)

    class After(Saga, name="shrinking", signals=["go"]):
        @step()
        async def second(self, ctx: SagaContext) -> None: ...

    log, clock = MemoryLog(), FollowingClock()
    async with open_runtime(log, Before, wall_clock=clock) as runtime:
        saga = await runtime.start_saga(Before(), key="1", deadline_seconds=60)
        with trio.fail_after(1000):
            while (status := await saga.status()).state != "waiting" or not status.is_compensating:
                await trio.sleep(10)
    async with open_runtime(log, After, wall_clock=clock) as runtime:
        await runtime.signal(After, "1", "go")
        assert (await runtime.saga(After, "1").wait(timeout=10)).error.startswith("StepGone")
        await runtime.saga(After, "1").skip(reason="it is gone")
        assert (await runtime.saga(After, "1").wait(timeout=10)).state == "compensated"


# --- keys ---


async def test_a_key_that_is_too_long_is_refused_and_the_longest_works(
    store: EventStore | Path, gateway: Gateway
) -> None:
    longest = "k" * (240 - len("saga_place_order-"))
    async with open_runtime(store) as runtime:
        for key in (longest + "k", "ä" * 150, "k" * 600):
            with pytest.raises(StreamNameInvalid, match=r"bytes and .* fit"):
                await runtime.start_saga(PlaceOrder("o1", 10), key=key)
        order_id = "o" * (STREAM_NAME_BYTES_MAX - len("order-"))
        saga = await runtime.start_saga(PlaceOrder(order_id, 200), key=longest)
        assert (await saga.wait(timeout=10)).state == "compensated"
        assert (await runtime.actor(Order, order_id).state()).state == "cancelled"
    async with open_runtime(store) as runtime:
        assert [row.key for row in await runtime.sagas(state="compensated").rows()] == [longest]


async def test_an_event_of_a_stream_with_a_long_name_starts_its_saga(store: EventStore | Path) -> None:
    async with open_runtime(store, Welcome) as runtime:
        await runtime.actor(Order, "o" * (STREAM_NAME_BYTES_MAX - len("order-"))).ask(Create(1))
        with trio.fail_after(10):
            while not (found := await runtime.sagas().rows()):
                await trio.sleep(0.01)
        outcome = await runtime.saga(Welcome, found[0].key).wait(timeout=10)
        assert outcome.saga.order_id == "o" * (STREAM_NAME_BYTES_MAX - len("order-"))


async def test_a_second_start_with_other_fields_finds_the_first(store: EventStore | Path, gateway: Gateway) -> None:
    async with open_runtime(store) as runtime:
        await (await runtime.start_saga(PlaceOrder("o1", 10), key="o1")).wait(timeout=10)
        again = await runtime.start_saga(PlaceOrder("o2", 20), key="o1")
        assert not again.was_started
        assert (await again.wait(timeout=10)).saga.order_id == "o1"
