"""Commands: what their senders get back, and what is in the log afterwards."""

import math
from contextvars import ContextVar
from pathlib import Path
from typing import ClassVar

import pytest
import trio
from bank_domain import Account, Deposit, Deposited, Note, Touch, Withdraw, Withdrawn

from eventsrc import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    Aggregate,
    ArgumentInvalid,
    EventSourcingError,
    IdempotencyKeyInvalid,
    Limits,
    MemoryLog,
    Receipt,
    Rejected,
    Runtime,
    StoredEvent,
    VersionConflict,
    applies,
    command,
    event,
    handles,
)
from eventsrc.runtime.testing import WallClock
from eventsrc.storage.limits import IDEMPOTENCY_WINDOW_SECONDS_MAX

Store = Path | MemoryLog


async def stored(runtime: Runtime, stream: str | None = None) -> list[StoredEvent]:
    return [event async for event in runtime.events(stream=stream)]


async def test_an_answer_tells_where_the_events_are(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        assert await ann.ask(Deposit(100)) == Receipt("account-ann", 1, 1, (Deposited(100),))
        assert await ann.ask(Withdraw(30)) == Receipt("account-ann", 2, 2, (Withdrawn(30),))
        assert (await ann.state()).balance == 70


async def test_a_refused_command_stores_nothing_and_the_next_one_works(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        with pytest.raises(Rejected, match="balance is too small"):
            await ann.ask(Withdraw(1))
        await ann.ask(Deposit(1))
        assert [event.type for event in await stored(runtime)] == ["account.deposited"]


async def test_a_command_without_events_is_answered_with_the_stream_as_it_is(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        assert await ann.ask(Touch()) == Receipt("account-ann", 0, 0, ())
        await ann.ask(Deposit(5))
        await runtime.actor(Account, "bob").ask(Deposit(5))
        assert await ann.ask(Touch()) == Receipt("account-ann", 1, 1, ())


async def test_the_log_holds_what_is_needed_to_explain_an_event(store: Store) -> None:
    clock = WallClock()
    async with Runtime.open(store, aggregates=[Account], wall_clock=clock) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), correlation_id="order-7", metadata={"user": "eve"})
        (event,) = await stored(runtime)
    assert (event.stream, event.type, event.schema_version, event.kind) == (
        "account-ann",
        "account.deposited",
        1,
        "created",
    )
    assert (event.payload, event.metadata, event.correlation_id) == ({"amount": 1}, {"user": "eve"}, "order-7")
    assert event.time_ns == clock.now_ns
    assert event.causation_id


async def test_expected_versions_are_checked_and_a_conflict_names_both(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(1), expected_version=NO_STREAM)
        await ann.ask(Deposit(1), expected_version=1)
        await ann.ask(Deposit(1), expected_version=STREAM_EXISTS)
        await ann.ask(Deposit(1), expected_version=ANY)
        with pytest.raises(VersionConflict) as caught:
            await ann.ask(Deposit(1), expected_version=2)
        assert (caught.value.expected, caught.value.actual) == (2, 4)
        with pytest.raises(VersionConflict, match="no stream"):
            await ann.ask(Deposit(1), expected_version=NO_STREAM)
        with pytest.raises(VersionConflict, match="an existing stream"):
            await runtime.actor(Account, "bob").ask(Deposit(1), expected_version=STREAM_EXISTS)
        assert (await ann.state()).balance == 4


async def test_a_repeated_idempotency_key_gets_the_first_receipt_and_no_new_event(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        first = await ann.ask(Deposit(10), idempotency_key="a")
        await ann.ask(Deposit(10))
        again = await ann.ask(Deposit(10), idempotency_key="a")
        assert (first.duplicate, again.duplicate) == (False, True)
        assert (again.version, again.position, again.events) == (first.version, first.position, first.events)
        assert (await ann.state()).balance == 20


async def test_two_commands_with_one_key_at_the_same_time_take_effect_once(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        receipts: list[Receipt] = []

        async def deposit() -> None:
            receipts.append(await ann.ask(Deposit(10), idempotency_key="same"))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(deposit)
        assert sorted(receipt.duplicate for receipt in receipts) == [False, True, True, True, True]
        assert {receipt.version for receipt in receipts} == {1}
        assert (await ann.state()).balance == 10


async def test_a_refused_command_does_not_use_up_its_key(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        with pytest.raises(Rejected):
            await ann.ask(Withdraw(5), idempotency_key="rent")
        await ann.ask(Deposit(5))
        assert not (await ann.ask(Withdraw(5), idempotency_key="rent")).duplicate


async def test_a_command_without_events_is_remembered_by_its_key(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        assert not (await ann.ask(Touch(), idempotency_key="t")).duplicate
        assert (await ann.ask(Touch(), idempotency_key="t")).duplicate


async def test_a_key_may_be_remembered_for_a_hundred_years(store: Store) -> None:
    longest = Limits(idempotency_window_seconds=IDEMPOTENCY_WINDOW_SECONDS_MAX)
    async with Runtime.open(store, aggregates=[Account], limits=longest) as runtime:
        ann = runtime.actor(Account, "ann")
        assert not (await ann.ask(Deposit(1), idempotency_key="k")).duplicate
        assert (await ann.ask(Deposit(1), idempotency_key="k")).duplicate
    for longer in (math.inf, math.nan, 1e11):
        with pytest.raises(ValueError, match="idempotency_window_seconds"):
            Limits(idempotency_window_seconds=longer)


async def test_keys_survive_a_restart_and_end_with_their_window(tmp_path: Path) -> None:
    clock = WallClock()
    path = tmp_path / "store"
    async with Runtime.open(path, aggregates=[Account], wall_clock=clock) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), idempotency_key="d")
        await runtime.actor(Account, "ann").ask(Withdraw(1), idempotency_key="w")
    async with Runtime.open(path, aggregates=[Account], wall_clock=clock) as runtime:
        ann = runtime.actor(Account, "ann")
        clock.advance(299)
        assert (await ann.ask(Deposit(1), idempotency_key="d")).duplicate
        clock.advance(2)
        assert not (await ann.ask(Deposit(1), idempotency_key="d")).duplicate, "the default window is five minutes"
        assert (await ann.ask(Withdraw(1), idempotency_key="w")).duplicate, "Withdraw says an hour"


async def test_a_clock_that_is_set_back_ends_no_key_before_its_time(tmp_path: Path) -> None:
    clock, path = WallClock(), tmp_path / "store"
    async with Runtime.open(path, aggregates=[Account], wall_clock=clock) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), idempotency_key="before")
    clock.advance(-3_600)
    for _ in range(2):
        async with Runtime.open(path, aggregates=[Account], wall_clock=clock) as runtime:
            ann = runtime.actor(Account, "ann")
            await ann.ask(Deposit(1), idempotency_key="after")
            await ann.ask(Deposit(1), idempotency_key="another")
    clock.advance(299)
    async with Runtime.open(path, aggregates=[Account], wall_clock=clock) as runtime:
        for key in ("before", "after", "another"):
            assert (await runtime.actor(Account, "ann").ask(Deposit(1), idempotency_key=key)).duplicate


async def test_an_idempotency_key_must_have_a_sensible_length() -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        with pytest.raises(IdempotencyKeyInvalid, match="idempotency_key_bytes_max"):
            await runtime.actor(Account, "ann").ask(Deposit(1), idempotency_key="x" * 513)


async def test_ask_many_answers_in_order_with_errors_in_their_places(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        answers = await ann.ask_many([Deposit(5), Deposit(0), Withdraw(3), Touch(), Withdraw(9)])
        assert [type(answer) for answer in answers] == [Receipt, Rejected, Receipt, Receipt, Rejected]
        assert [answer.version for answer in answers if isinstance(answer, Receipt)] == [1, 2, 2]


async def test_ask_many_takes_any_number_of_commands(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account], limits=Limits(mailbox_commands_max=10)) as runtime:
        ann = runtime.actor(Account, "ann")
        answers = await ann.ask_many([Deposit(1)] * 2_345)
        assert [answer.version for answer in answers if isinstance(answer, Receipt)] == list(range(1, 2_346))
        assert await ann.ask_many([]) == []


async def test_ask_many_with_keys_is_repeatable(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        keys = [f"k{number}" for number in range(250)]
        await ann.ask_many([Deposit(1)] * 250, idempotency_keys=keys)
        again = await ann.ask_many([Deposit(1)] * 250, idempotency_keys=keys)
        assert all(isinstance(answer, Receipt) and answer.duplicate for answer in again)
        assert runtime.last_position == 250
        of_some = await ann.ask_many([Deposit(1)] * 2, idempotency_keys=["k0", None])
        assert [isinstance(answer, Receipt) and answer.duplicate for answer in of_some] == [True, False]
        with pytest.raises(ArgumentInvalid, match="as many keys"):
            await ann.ask_many([Deposit(1)], idempotency_keys=[])


async def test_told_commands_take_effect_in_order(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        for number in range(5):
            ann.tell(Note(str(number)))
        assert (await ann.state()).notes == 5
        assert [event.payload["text"] for event in await stored(runtime)] == list("01234")


async def test_the_state_is_a_copy(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(1))
        (await ann.state()).balance = 1_000_000
        assert (await ann.state()).balance == 1
        assert (await ann.state()).id == "ann"


@command
class Order:
    amount: int


@event("shop.ordered")
class Ordered:
    receipt_version: int


class Shop(Aggregate):
    """Pays from an account while it handles a command."""

    @handles
    async def order(self, command: Order) -> Ordered:
        receipt = await RUNTIMES[self.id].actor(Account, "ann").ask(Deposit(command.amount))
        return Ordered(receipt.version)

    @applies
    def ordered(self, event: Ordered) -> None:
        pass


RUNTIMES: dict[str, Runtime] = {}


async def test_correlation_and_causation_go_from_a_command_to_the_commands_it_causes(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account, Shop]) as runtime:
        RUNTIMES["shop"] = runtime
        await runtime.actor(Shop, "shop").ask(Order(7), correlation_id="trace-1")
        deposited, ordered = await stored(runtime)
        RUNTIMES.clear()
    assert deposited.type == "account.deposited"
    assert deposited.correlation_id == ordered.correlation_id == "trace-1"
    assert deposited.metadata["caused_by"] == ordered.causation_id
    assert deposited.causation_id != ordered.causation_id


async def test_unrelated_commands_get_correlations_of_their_own(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
        await runtime.actor(Account, "ann").ask(Deposit(1))
        first, second = await stored(runtime)
        assert first.correlation_id != second.correlation_id


async def test_events_are_found_by_stream_type_and_category(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        for name in ("ann", "bob"):
            await runtime.actor(Account, name).ask(Deposit(3))
            await runtime.actor(Account, name).ask(Withdraw(1))

        async def positions(**criteria: object) -> list[int]:
            return [event.position async for event in runtime.events(**criteria)]  # type: ignore[arg-type]

        assert await positions() == [1, 2, 3, 4]
        assert await positions(backwards=True, limit=3) == [4, 3, 2]
        assert await positions(stream="account-bob") == [3, 4]
        assert await positions(types=[Deposited]) == [1, 3]
        assert await positions(types=[Deposited, "account.withdrawn"], after=1) == [2, 3, 4]
        assert await positions(category="account", after=2) == [3, 4]
        assert await positions(category="other") == []
        assert [head.stream async for head in runtime.streams()] == ["account-ann", "account-bob"]


async def test_answers_in_a_list_are_errors_of_ours(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        (answer,) = await runtime.actor(Account, "ann").ask_many([object()])
        assert isinstance(answer, EventSourcingError)


# --- in whose turn a command is decided


tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@command
class Look:
    pass


@command
class LookLater:
    pass


@command
class Exit:
    pass


class Watcher(Aggregate):
    count: int = 0
    seen: ClassVar[list[str]] = []

    @handles
    def look(self, command: Look) -> None:
        self.seen.append(tenant.get())

    @handles
    async def look_later(self, command: LookLater) -> None:
        await trio.lowlevel.checkpoint()
        self.seen.append(tenant.get())

    @handles
    def deposit(self, command: Deposit) -> Deposited:
        return Deposited(command.amount)

    @handles
    def exit(self, command: Exit) -> None:
        raise SystemExit

    @applies
    def deposited(self, event: Deposited) -> None:
        self.count += event.amount


async def test_handlers_see_the_context_of_the_runtime_whoever_asks(store: Store) -> None:
    Watcher.seen.clear()
    async with Runtime.open(store, aggregates=[Watcher]) as runtime:
        watcher = runtime.actor(Watcher, "1")
        for name in ("ann", "bob"):
            tenant.set(name)
            for ask in (Look(), LookLater()):
                await watcher.ask(ask)
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(watcher.ask, Look())
    assert Watcher.seen == ["nobody"] * 10


async def test_commands_are_decided_in_the_order_in_which_they_were_sent(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.state()
        order: list[int] = []

        async def client(number: int) -> None:
            receipt = await ann.ask(Deposit(number))
            assert receipt.events == (Deposited(number),)
            order.append(receipt.version)

        async with trio.open_nursery() as nursery:
            for number in range(1, 40):
                if number % 3:
                    nursery.start_soon(client, number)
                else:
                    ann.tell(Touch())
        versions = [event.payload["amount"] for event in await stored(runtime)]
        assert sorted(order) == list(range(1, len(versions) + 1))


async def test_a_handler_that_would_end_the_program_ends_its_callers_wait_and_no_aggregate(store: Store) -> None:
    async with Runtime.open(store, aggregates=[Watcher]) as runtime:
        watcher = runtime.actor(Watcher, "1")
        await watcher.ask(Deposit(1))
        with pytest.raises(SystemExit):
            await watcher.ask(Exit())
        assert (await watcher.ask(Deposit(1))).version == 2
        assert (await watcher.state()).count == 2
