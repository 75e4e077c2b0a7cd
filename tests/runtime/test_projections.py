"""Projections: views that are right, fresh when asked to be, and rebuilt without a gap."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from attrs import frozen
from bank_domain import Account, Deposit, Deposited, Note, Touch, Withdraw
from bank_views import Balance, Balances, Entry, Notes
from projection_cases import settle

from eventsrc import (
    ArgumentInvalid,
    DefinitionError,
    EventMeta,
    Limits,
    MemoryLog,
    Projection,
    ProjectionUnavailable,
    QueryInvalid,
    RowInvalid,
    Runtime,
    RuntimeClosed,
    Table,
    UnknownProjection,
    ViewTooOld,
    between,
    on,
    one_of,
    starting_with,
)
from eventsrc.actors.projections.projector import Projector
from eventsrc.actors.views.session import ViewSession
from eventsrc.storage.control.board import ControlBoard
from eventsrc.storage.environment.folder import CONTROL_FOLDER
from eventsrc.storage.record import StoredEvent
from eventsrc.storage.store import EventStore

# -- what a view holds


async def test_a_view_holds_what_the_events_say(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], projections=[Balances]) as runtime:
        for name, amount in (("ann", 10), ("bob", 20), ("ann", 5)):
            receipt = await runtime.actor(Account, name).ask(Deposit(amount))
        await runtime.actor(Account, "bob").ask(Withdraw(3), wait_for=[Balances])
        view = runtime.view(Balances)
        assert await view.get("ann", at_least=receipt) == Balance("ann", 15, 2)
        assert await view.get("bob") == Balance("bob", 17, 2)
        assert await view.get("eve") is None
        assert await view.all().count() == 2
        assert runtime.lag()["balances"].events == 0
        assert runtime.lag()["balances"].seconds == 0


async def test_a_view_is_there_after_reopening_and_goes_on(tmp_path: Path) -> None:
    for run in range(1, 4):
        async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
            await runtime.actor(Account, "ann").ask(Deposit(10), wait_for=[Balances])
            assert await runtime.view(Balances).get("ann") == Balance("ann", 10 * run, run)


async def test_a_view_that_is_added_later_catches_up(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 950)
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
        assert await runtime.view(Balances).get("ann", at_least=950) == Balance("ann", 950, 950)


async def test_no_event_is_skipped_when_a_view_is_stopped_and_started_while_it_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = Projector._apply

    async def once(self: Projector, *others: Any, **options: Any) -> None:
        await apply(self, *others, **options)
        applied.set()
        while not runtime._projections.get(Balances).is_paused:
            await trio.lowlevel.checkpoint()

    async with Runtime.open(tmp_path, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1), Note("x")] * 6000)
    positions = []
    monkeypatch.setattr(Projector, "_apply", once)
    for _ in range(4):
        applied = trio.Event()
        async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
            await applied.wait()
            await runtime.projections.pause(Balances)
            positions.append(runtime.view(Balances).position)
        # In between, as from the command line: resumed while it is open, it would go on.
        with closing(ControlBoard(tmp_path / CONTROL_FOLDER)) as board:
            board.set_paused("balances", paused=False)
    monkeypatch.undo()
    assert len(set(positions)) > 2, "it was stopped on its way"
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
        assert await runtime.view(Balances).get("ann", at_least=12000) == Balance("ann", 6000, 6000)


@pytest.mark.parametrize(("seconds_per_event", "largest"), [(1e-6, 50), (1e-4, 30), (1e-2, 10)])
async def test_what_is_behind_is_taken_in_steps_that_hold_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds_per_event: float, largest: int
) -> None:
    steps: list[int] = []
    now = 0.0

    class Slow(Balances):
        @on(Deposited)
        def deposited(self, event: Deposited, meta: EventMeta) -> None:
            nonlocal now
            now += seconds_per_event
            super().deposited(event, meta)

    def apply(session: ViewSession, events: Sequence[StoredEvent], *others: Any, **options: Any) -> bool:
        steps.append(len(events))
        return real_apply(session, events, *others, **options)

    real_apply = ViewSession.apply
    monkeypatch.setattr(ViewSession, "apply", apply)
    monkeypatch.setattr("eventsrc.actors.projections.projector.time", SimpleNamespace(perf_counter=lambda: now))
    limits = Limits(catch_up_batch_events=10)
    async with Runtime.open(tmp_path, aggregates=[Account], limits=limits) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 200)
    async with Runtime.open(tmp_path, projections=[Slow], limits=limits) as runtime:
        row = await runtime.view(Slow.rows).get("ann", at_least=200)
    assert (row, sum(steps)) == (Balance("ann", 200, 200), 200)
    assert (steps[0], max(steps)) == (10, largest)


async def test_several_tables_and_keys_of_several_fields(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], projections=[Notes]) as runtime:
        for text in ("one", "two", "three", "four"):
            await runtime.actor(Account, "ann").ask(Note(text), wait_for=[Notes])
        assert await runtime.view(Notes.newest).get("ann") == Entry("ann", 4, "four")
        entries = runtime.view(Notes.entries)
        assert await entries.get("ann", 1) is None
        assert await entries.get("ann", 2) == Entry("ann", 2, "two")
        assert [row.version for row in await entries.all().rows()] == [2, 3, 4]
        assert [row.version for row in await entries.where(text="three").rows()] == [3]
        with pytest.raises(DefinitionError, match=r"several tables; say which: view\(Notes.entries\)"):
            runtime.view(Notes)


# -- queries


async def test_queries(store: EventStore | Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "eventsrc.views")
    async with Runtime.open(store, aggregates=[Account], projections=[Balances]) as runtime:
        for number in range(20):
            await runtime.actor(Account, f"a{number:02}").ask(Deposit(100 - number), wait_for=[Balances])
        view = runtime.view(Balances.rows)
        names = lambda rows: [row.account for row in rows]  # noqa: E731
        assert names(await view.where(amount=between(95, 97)).rows()) == ["a05", "a04", "a03"]
        assert names(await view.where(amount=between(98, None)).order_by("account").rows()) == ["a00", "a01", "a02"]
        assert names(await view.where(amount=one_of(81, 100, 7)).order_by("amount").rows()) == ["a19", "a00"]
        assert names(await view.order_by("-amount").limit(2).rows()) == ["a00", "a01"]
        assert names(await view.all().order_by("amount").offset(1).limit(2).rows()) == ["a18", "a17"]
        assert names(await view.all().order_by("-account").limit(1).rows()) == ["a19"]
        assert await view.where(amount=between(None, 90)).count() == 10
        assert not caplog.records
        assert names(await view.where(account=starting_with("a1"), changes=1).order_by("-amount").rows())[:2] == [
            "a10",
            "a11",
        ]
        assert names(await view.where(account="a07").rows()) == ["a07"]
        late = view.where(amount=between(81, 90)).order_by("-amount").limit(2)
        assert names(await late.where(changes=1, account=one_of("a12", "a17", "a18")).rows()) == ["a12", "a17"]
        assert await view.all().where(amount=100).where(account="a01").count() == 0
        assert await view.where(changes=2).first() is None
        assert await view.count() == len(await view.rows()) == len([row async for row in view]) == 20
        assert [len(page) async for page in view.pages(15)] == [15, 5]
        assert names(await view.fresh(at_least=runtime.last_position).limit(1).rows()) == ["a00"]
        assert await view.limit(0).first() is None
        assert "a query looks at every row: rows by changes, and the indexes are on amount" in caplog.text
        caplog.clear()
        assert len(await view.where(changes=1).order_by("amount").limit(3).rows()) == 3
        assert len(await view.all().order_by("changes", "account").limit(3).rows()) == 3
        assert [set(record.__dict__["fields"]) for record in caplog.records] == [{"changes"}, {"changes", "account"}]
        assert [len(page) async for page in view.all().order_by("amount").pages(8)] == [8, 8, 4]
        assert [row.account async for row in view.where(amount=between(99, None))] == ["a01", "a00"]


async def test_rows_and_pages_that_have_ended_stay_ended(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], projections=[Balances]) as runtime:
        view = runtime.view(Balances)
        await runtime.actor(Account, "bob").ask(Deposit(1), wait_for=[Balances])
        rows, pages = aiter(view.order_by("-amount")), view.order_by("-amount").pages(5)
        assert [row.account async for row in rows] == [page[0].account async for page in pages] == ["bob"]
        await runtime.actor(Account, "ann").ask(Deposit(2), wait_for=[Balances])
        assert [row async for row in rows] == [page async for page in pages] == []


async def test_queries_that_make_no_sense(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], projections=[Balances]) as runtime:
        with pytest.raises(DefinitionError, match="table of Balance is in no projection: name one that is"):
            runtime.view(Table(Balance, key="account"))
        view = runtime.view(Balances)
        with pytest.raises(QueryInvalid, match="no field 'owner'; it has account, amount, changes"):
            view.where(owner="ann")
        for listed in (["ann", "bob"], one_of(("ann", "bob"))):
            with pytest.raises(QueryInvalid, match=r"account of rows is never a (list|tuple).*=one_of\(\*items\)"):
                view.where(account=listed)
        with pytest.raises(QueryInvalid, match="no field 'nothing'"):
            view.all().order_by("-nothing")
        with pytest.raises(QueryInvalid, match="limit"):
            view.all().limit(-1)
        with pytest.raises(QueryInvalid, match="no field 'owner'"):
            view.all().where(owner="ann")
        with pytest.raises(QueryInvalid, match=r"amount is asked for already, as Equal\(value=1\)"):
            view.where(amount=1).where(amount=between(0, 2))
        with pytest.raises(RowInvalid, match="The key of rows is account"):
            await view.get("ann", 3)
        assert await view.where(amount="text").rows() == []
        with pytest.raises(ArgumentInvalid, match=r"give a list of projections: \[Balances\]"):
            await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=Balances)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(UnknownProjection, match="was not opened with Notes; it has Balances"):
            runtime.view(Notes.newest)
        with pytest.raises(UnknownProjection):
            await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Notes])
        assert runtime.last_position == 0, "nothing was sent"


# -- freshness


async def test_a_wait_does_not_hang_when_a_command_made_no_events(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], projections=[Balances]) as runtime:
        ann = runtime.actor(Account, "ann")
        receipt = await ann.ask(Touch(), wait_for=[Balances])
        assert receipt.events == ()
        await ann.ask(Note("of no concern to the view"), wait_for=[Balances])
        await ann.ask(Touch(), wait_for=[Balances])


async def test_a_view_that_stays_behind(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], projections=[Balances]) as runtime:
        ann = runtime.actor(Account, "ann")
        view = runtime.view(Balances)
        await ann.ask(Deposit(1), wait_for=[Balances])
        with pytest.raises(ViewTooOld, match=r"has seen position 1, not 7, after 0.01 seconds") as caught:
            await view.get("ann", at_least=7, timeout=0.01)
        assert (caught.value.position, caught.value.wanted_position) == (1, 7)
        assert await view.get("ann", at_least=7, timeout=0.01, on_timeout="stale") == Balance("ann", 1, 1)
        await runtime.projections.pause(Balances)
        receipt = await ann.ask(Deposit(1))
        with pytest.raises(ProjectionUnavailable, match="'balances' is paused") as unavailable:
            await ann.ask(Deposit(1), wait_for=[Balances])
        assert unavailable.value.receipt is not None
        assert unavailable.value.receipt.version == 3
        assert await view.get("ann", at_least=receipt, on_timeout="stale") == Balance("ann", 1, 1)
        assert runtime.lag()["balances"].events == 2
        await runtime.projections.resume(Balances)
        assert await view.get("ann", at_least=3) == Balance("ann", 3, 3)


async def test_a_view_of_a_runtime_that_has_closed(store: EventStore | Path) -> None:
    async with trio.open_nursery() as nursery:
        async with Runtime.open(store, aggregates=[Account], projections=[Balances]) as runtime:
            await runtime.actor(Account, "ann").ask(Deposit(1))
            view = runtime.view(Balances)

            async def wait() -> None:
                with pytest.raises(ProjectionUnavailable, match=r"is closed .* What was written is on disk\.$"):
                    await view.get("ann", at_least=7, timeout=3_600)

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(10):
            for ask in (view.get("ann"), view.get("ann", at_least=7, on_timeout="stale"), view.all().rows()):
                with pytest.raises(RuntimeClosed, match="its view 'balances' cannot be queried any more"):
                    await ask


async def test_projections_that_are_waited_for_at_once_do_not_time_each_other_out(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], projections=[Balances, Notes]) as runtime:

        async def ask(name: str, both: list[type[Projection]]) -> None:
            for number in range(20):
                await runtime.actor(Account, name).ask(Deposit(number + 1), wait_for=both, timeout=60)
                await runtime.actor(Account, name).ask(Note("text"), wait_for=both[::-1], timeout=60)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "ann", [Balances, Notes])
            nursery.start_soon(ask, "bob", [Notes, Balances])
        assert runtime.last_position == 80


# -- failures


def fragile(failures: list[int]) -> type[Projection]:
    """Balances that raise as often as the first number says, on deposits of 13."""

    class Fragile(Balances, name="fragile"):
        @on(Deposited)
        def deposited(self, event: Deposited, meta: EventMeta) -> None:
            self.add(meta.aggregate_id, event.amount)
            if event.amount == 13 and failures[0]:
                failures[0] -= 1
                raise ValueError("bad luck")

    return Fragile


async def test_an_event_that_fails_is_tried_again_and_takes_effect_once(
    store: EventStore | Path, caplog: pytest.LogCaptureFixture
) -> None:
    projection = fragile([3])
    limits = Limits(restart_backoff_seconds=0.001)
    async with Runtime.open(store, aggregates=[Account], projections=[projection], limits=limits) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask_many([Deposit(1), Deposit(13), Deposit(2)])
        assert await runtime.view(projection).get("ann", at_least=3) == Balance("ann", 16, 3)
    assert caplog.text.count(f"projection will try again: {projection.__eventsrc_projection__.name}: ") == 3
    assert "ValueError: bad luck on 'account.deposited' at position 2" in caplog.text


@pytest.mark.filterwarnings("ignore")
async def test_a_projection_that_fails_for_good_stops_alone_and_can_be_resumed(store: EventStore | Path) -> None:
    failures = [10**6]
    projection = fragile(failures)
    limits = Limits(restart_backoff_seconds=0.001)
    classes = [projection, Balances]
    async with Runtime.open(store, aggregates=[Account], projections=classes, limits=limits) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask_many([Deposit(1), Deposit(13), Deposit(2)])
        with pytest.raises(ProjectionUnavailable, match=r"ValueError: bad luck on 'account.deposited' at position 2"):
            await runtime.view(projection).get("ann", at_least=3)
        assert runtime.lag()["fragile"].state == "failed"
        assert await runtime.view(projection).get("ann") == Balance("ann", 1, 1), "what came before it is there"
        assert await runtime.view(Balances).get("ann", at_least=3) == Balance("ann", 16, 3)
        failures[0] = 0
        await runtime.projections.resume(projection)
        await settle(runtime, projection)
        assert await runtime.view(projection).get("ann") == Balance("ann", 16, 3)


async def test_a_failure_at_another_event_begins_with_the_shortest_wait(autojump_clock: trio.abc.Clock) -> None:
    seen = set[int]()

    class Flaky(Balances):
        @on(Deposited)
        def deposited(self, event: Deposited, meta: EventMeta) -> None:
            if meta.position not in seen:
                seen.add(meta.position)
                raise ValueError("not the first time")
            super().deposited(event, meta)

    limits = Limits(restart_backoff_seconds=1)
    async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[Flaky], limits=limits) as runtime:
        started = trio.current_time()
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 20)
        assert await runtime.view(Flaky.rows).get("ann", at_least=20, timeout=1_000) == Balance("ann", 20, 20)
        assert 20 * 0.5 <= trio.current_time() - started <= 20 * 1.5


async def test_a_row_that_does_not_fit(store: EventStore | Path) -> None:
    @frozen
    class Odd:
        key: Any
        value: Any

    class Oddities(Projection):
        rows = Table(Odd, key="key", indexes=["value"])

        @on(Deposited)
        def deposited(self, event: Deposited, meta: EventMeta) -> None:
            bad: dict[int, Any] = {1: Odd([1], 1), 2: Odd("x" * 300, 1), 3: Odd(1, {}), 4: "no row"}
            self.rows.put(bad[event.amount])

    expected = {
        1: "cannot be a key",
        2: "takes 302 bytes",
        3: "cannot be indexed: dict",
        4: "holds rows of Odd, not str",
    }
    limits = Limits(restart_backoff_seconds=0.001)
    for amount, words in expected.items():
        async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[Oddities], limits=limits) as runtime:
            await runtime.actor(Account, "ann").ask(Deposit(amount))
            with pytest.raises(ProjectionUnavailable, match=words):
                await runtime.view(Oddities).get("k", at_least=1)
            assert await runtime.view(Oddities).all().rows() == []


# -- bounds on the lag


async def test_writers_are_slowed_down_so_that_the_bound_holds(store: EventStore | Path) -> None:
    behind: list[int] = []

    class Bounded(Balances):
        max_lag_events = 10
        on_lag = "slow_writers"

    async with Runtime.open(store, aggregates=[Account], projections=[Bounded]) as runtime:

        async def write(name: str) -> None:
            for _ in range(100):
                await runtime.actor(Account, name).ask(Deposit(1))
                behind.append(runtime.lag()["bounded"].events)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(write, f"a{number}")
        await runtime.actor(Account, "big").ask_many([Deposit(1)] * 50)
    assert len(behind) == 2_000
    assert max(behind) <= 10


async def test_commands_go_on_when_a_projection_that_slows_writers_has_failed() -> None:
    class Failing(Balances):
        max_lag_events = 1
        on_lag = "slow_writers"

        def add(self, account: str, amount: int) -> None:
            raise ValueError("no")

    limits = Limits(restart_backoff_seconds=0.001)
    async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[Failing], limits=limits) as runtime:
        for _ in range(20):
            await runtime.actor(Account, "ann").ask(Deposit(1), timeout=60)
        assert runtime.lag()["failing"].events == 20


async def test_a_projection_over_its_bound_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Reported(Balances):
        max_lag_events = 5

    async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[Reported]) as runtime:
        await runtime.projections.pause(Reported)
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 20)
        await runtime.projections.resume(Reported)
        await settle(runtime, Reported)
    assert "a projection is too far behind" in caplog.text
