"""Steering projections and subscriptions from the command line, of a store that is running and of one that is not."""

import itertools
from functools import partial
from pathlib import Path

import pytest
import trio
from bank_domain import Account, Deposit, Deposited
from bank_views import Balance, Balances
from command_cases import eventsrc, listed, one, rows
from waiting import until

from eventsrc import (
    EventMeta,
    Limits,
    Projection,
    ProjectionUnavailable,
    Runtime,
    Table,
    on,
)
from eventsrc.storage.control.board import ControlBoard, ControlRequest
from eventsrc.storage.record import StoredEvent

QUICK = Limits(restart_backoff_seconds=0.001, restart_backoff_seconds_max=0.002)
open_store = partial(Runtime.open, aggregates=[Account], projections=[Balances], limits=QUICK)


async def the_board_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once more, from its beginning to its end."""
    looks = 0
    requests = ControlBoard.requests

    def look(board: ControlBoard) -> list[ControlRequest]:
        nonlocal looks
        looks += 1
        return requests(board)

    with monkeypatch.context() as watched:
        watched.setattr(ControlBoard, "requests", look)
        await until(lambda: looks == 2)


async def test_a_running_projection_is_paused_and_resumed(tmp_path: Path) -> None:
    async with open_store(tmp_path) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(1), wait_for=[Balances])
        assert await one("projections", tmp_path, "pause", "balances") == {
            "at": "writer",
            "answer": "pause balances: done",
            "ok": True,
        }
        await ann.ask(Deposit(1))
        assert runtime.lag()["balances"].state == "paused"
        (row,) = await listed(lambda found: [row["behind"] for row in found] == [1], "projections", tmp_path)
        assert (row["projection"], row["position"]) == ("balances", 1)
        assert (row["state"], row["error"]) == ("paused", "")
        assert (await one("projections", tmp_path, "resume", "balances"))["ok"]
        assert await runtime.view(Balances).get("ann", at_least=2) == Balance("ann", 2, 2)


async def test_whoever_is_answered_finds_published_what_has_come_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, published = ControlBoard.done, list[str]()

    def look(board: ControlBoard, request: ControlRequest, answer: str) -> None:
        published.append(board.status()["projection balances"]["state"])
        done(board, request, answer)

    monkeypatch.setattr(ControlBoard, "done", look)
    async with open_store(tmp_path) as runtime:
        assert runtime._control is not None
        board = runtime._control._board
        request = board.request("pause", "balances")
        await until(lambda: board.answer(request) == "")
    assert published == ["paused"]


async def test_a_pause_holds_over_a_restart_until_it_is_resumed(tmp_path: Path) -> None:
    async with open_store(tmp_path) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        await runtime.projections.pause(Balances)
    async with open_store(tmp_path) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
        with pytest.raises(ProjectionUnavailable, match="paused"):
            await runtime.view(Balances).get("ann", at_least=2)
    listed = await one("projections", tmp_path)
    assert (listed["state"], listed["position"], listed["behind"]) == ("paused", 1, 1)
    assert listed["seconds"] > 0
    answer = await one("projections", tmp_path, "resume", "balances")
    assert answer["answer"] == "no runtime has the store open; balances will go on when one does"
    assert (await one("projections", tmp_path))["state"] == "not running"
    async with open_store(tmp_path) as runtime:
        assert await runtime.view(Balances).get("ann", at_least=2) == Balance("ann", 2, 2)


async def test_a_rebuild_is_done_now_or_when_the_store_is_opened(tmp_path: Path) -> None:
    async with open_store(tmp_path) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        first = generation(runtime)
        assert (await one("projections", tmp_path, "rebuild", "balances"))["ok"]
        await until(lambda: generation(runtime) != first)
        assert await runtime.view(Balances).get("ann") == Balance("ann", 1, 1)
    assert "will be rebuilt" in (await one("projections", tmp_path, "rebuild", "balances"))["answer"]
    async with open_store(tmp_path) as runtime:
        await until(lambda: generation(runtime) == first + 2)
        assert await runtime.view(Balances).get("ann") == Balance("ann", 1, 1)


def generation(runtime: Runtime) -> int:
    active = runtime._projections.get(Balances).active
    assert active is not None
    return active.generation.number


async def test_what_fails_when_asked_from_outside_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(projection: object) -> None:
        raise OSError("no such folder")

    async with open_store(tmp_path) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        with monkeypatch.context() as broken:
            broken.setattr(runtime.projections, "rebuild", fail)
            code, out, _ = await eventsrc("projections", tmp_path, "rebuild", "balances")
            assert (code, out) == (1, "writer: rebuild balances has failed: OSError: no such folder\n")
            broken.setattr(runtime.projections, "lags", lambda: {"balances": object()})
            await the_board_was_looked_at(monkeypatch)
        assert (await one("projections", tmp_path, "rebuild", "balances"))["ok"]
        await runtime.actor(Account, "ann").ask(Deposit(1))


class OtherBalances(Balances):
    pass


async def test_a_projection_that_hangs_holds_up_what_is_asked_of_it_and_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [Balances, OtherBalances]
    async with Runtime.open(tmp_path, aggregates=[Account], projections=views) as runtime:
        assert runtime._control is not None
        board, rebuild, is_back = runtime._control._board, runtime.projections.rebuild, trio.Event()

        async def hang(projection: type[Projection]) -> None:
            if projection is Balances:
                await is_back.wait()
            await rebuild(projection)

        monkeypatch.setattr(runtime.projections, "rebuild", hang)
        asked = [board.request(action, "balances") for action in ("rebuild", "resume")]
        for action in ("pause", "rebuild"):
            assert (await one("projections", tmp_path, action, "other_balances"))["ok"]
        asked += [board.request("pause", "balances")]
        (other,) = [row for row in await rows("projections", tmp_path) if row["projection"] == "other_balances"]
        assert other["state"] == "paused", "as it was published meanwhile"
        assert [board.answer(request) for request in asked] == [None] * len(asked)
        is_back.set()
        await until(lambda: [board.answer(request) for request in asked] == [""] * len(asked))
        assert runtime.lag()["balances"].state == "paused", "what was asked last was done last"


async def test_how_far_a_view_is_behind_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_store(tmp_path) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        await runtime.projections.pause(Balances)
        await runtime.actor(Account, "ann").ask(Deposit(1))
        await until(lambda: runtime.lag()["balances"].events == 1)
        await the_board_was_looked_at(monkeypatch)  # and with each look it is published how things are
    code, out, _ = await eventsrc("watch", tmp_path, "--seconds", 1)
    assert (code, "balances: paused, 1 events" in out) == (0, True), out
    (tmp_path / "data.mdb").rename(tmp_path / "away")
    row = await one("projections", tmp_path)
    assert (row["position"], row["behind"], row["seconds"]) == (1, None, None)
    code, out, _ = await eventsrc("projections", tmp_path)
    assert (code, "None" in out) == (0, False)


@pytest.mark.parametrize("action", ["fly", "named", "saga fly", "saga ", ""])
async def test_what_this_version_cannot_do_is_said(tmp_path: Path, action: str) -> None:
    """As where a newer version asks for it, or somebody for what other methods do."""
    async with open_store(tmp_path) as runtime:
        assert runtime._control is not None
        board = runtime._control._board
        request = board.request(action, "balances")  # type: ignore[arg-type]
        await until(lambda: board.answer(request) is not None)
        assert board.answer(request) == f"This version cannot {action!r}."


class BrokenOnTwo(Projection):
    rows = Table(Balance, key="account")
    is_repaired = False

    @on(Deposited)
    def deposited(self, event: Deposited, meta: EventMeta) -> None:
        if meta.position == 2 and not BrokenOnTwo.is_repaired:
            raise ValueError("cannot count to two")
        self.rows.put(Balance(meta.aggregate_id, meta.position, 0))


async def test_a_failed_projection_is_listed_with_its_error_and_tries_again_when_told(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[BrokenOnTwo], limits=QUICK) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 3)
        await until(lambda: runtime.lag()["broken_on_two"].state == "failed")
        (parked,) = await listed(
            lambda found: [row["position"] for row in found] == [1], "projections", tmp_path, "parked"
        )
        assert (parked["projection"], parked["position"], parked["state"]) == ("broken_on_two", 1, "failed")
        assert "ValueError: cannot count to two" in parked["error"]
        BrokenOnTwo.is_repaired = True
        assert (await one("projections", tmp_path, "retry", "broken_on_two"))["ok"]
        assert await runtime.view(BrokenOnTwo).get("ann", at_least=3) == Balance("ann", 3, 0)
        await listed(lambda found: found == [], "projections", tmp_path, "parked")


async def test_what_an_error_says_does_not_steer_the_terminal(tmp_path: Path) -> None:
    class Coloured(Projection):
        rows = Table(Balance, key="account")

        @on(Deposited)
        def deposited(self, event: Deposited, meta: EventMeta) -> None:
            raise ValueError("\x1b[2J gone\x9b0m\nand more")

    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Coloured], limits=QUICK) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
        await until(lambda: runtime.lag()["coloured"].state == "failed")
    code, out, _ = await eventsrc("projections", tmp_path)
    assert (code, "\\x1b[2J gone\\x9b0m" in out, "and more" in out) == (0, True, True)
    assert not {"\x1b", "\x9b"} & set(out)


async def test_parked_events_are_listed_and_handed_out_again(tmp_path: Path) -> None:
    handled: list[int] = []
    is_repaired = False

    async def handle(event: StoredEvent) -> None:
        if not is_repaired and event.position == 1:
            raise ValueError("no such address")
        handled.append(event.position)

    async with open_store(tmp_path) as runtime, trio.open_nursery() as nursery:

        async def consume() -> None:
            async with runtime.consume("mailer") as consumer:
                await consumer.run(handle)

        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 2)
        nursery.start_soon(consume)
        with trio.fail_after(10):
            while len(await runtime.subscriptions.parked("mailer")) < 2:
                await trio.lowlevel.checkpoint()
        first, second = await rows("subscriptions", tmp_path, "parked")
        assert (first["position"], first["error"], first["attempts"]) == (1, "ValueError: no such address", 5)
        assert (second["position"], second["error"]) == (2, "comes after a parked event of its stream")
        assert (await one("subscriptions", tmp_path))["parked"] == 2
        is_repaired = True
        assert (await one("subscriptions", tmp_path, "retry", "mailer", "--stream", "account-ann"))["ok"]
        await until(lambda: handled == [1, 2])
        nursery.cancel_scope.cancel()
    assert await rows("subscriptions", tmp_path, "parked", "mailer") == []


async def test_a_retry_waits_for_the_next_consumer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_store(tmp_path) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
        async with runtime.consume("mailer") as consumer:
            for _ in range(5):
                (await anext(consumer)).fail("no luck")
    listed = await one("subscriptions", tmp_path)
    assert listed == {
        "subscription": "mailer",
        "at": "writer",
        "position": 1,
        "read_through": 1,
        "streams_behind": 0,
        "parked": 1,
    }
    answer = await one("subscriptions", tmp_path, "retry", "mailer")
    assert answer["answer"] == "mailer will be handed its parked events when it is consumed next"
    async with open_store(tmp_path) as runtime:
        await the_board_was_looked_at(monkeypatch)
        assert len(await runtime.subscriptions.parked("mailer")) == 1
        async with runtime.consume("mailer") as consumer:
            with trio.fail_after(10):
                message = await anext(consumer)
            assert message.event.position == 1
            await message.ack()
        assert await runtime.subscriptions.parked("mailer") == []


async def test_a_retry_is_not_forgotten_where_the_last_consumer_has_left(tmp_path: Path) -> None:
    async with open_store(tmp_path) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
        async with runtime.consume("mailer") as consumer:
            for _ in range(5):
                (await anext(consumer)).fail("no luck")
        assert await runtime.subscriptions.retry("mailer") == 0
    async with open_store(tmp_path) as runtime:
        assert len(await runtime.subscriptions.parked("mailer")) == 1
        async with runtime.consume("mailer") as consumer:
            with trio.fail_after(10):
                await (await anext(consumer)).ack()
        assert await runtime.subscriptions.parked("mailer") == []
        assert await runtime.subscriptions.retry("mailer") == 0
        # Also one that has come back to the same runtime.
        await runtime.actor(Account, "ann").ask(Deposit(1))
        async with runtime.consume("mailer") as consumer:
            for _ in range(5):
                (await anext(consumer)).fail("no luck")
        assert await runtime.subscriptions.retry("mailer") == 0
        async with runtime.consume("mailer") as consumer:
            with trio.fail_after(10):
                assert (await anext(consumer)).event.position == 2
            assert await runtime.subscriptions.retry("mailer") == 0


async def test_a_subscription_is_deleted_from_outside(tmp_path: Path) -> None:
    async with open_store(tmp_path) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
        for name in ("mailer", "auditor"):
            async with runtime.consume(name) as consumer:
                await (await anext(consumer)).ack()
        assert (await one("subscriptions", tmp_path, "delete", "mailer"))["ok"]
        assert [row["subscription"] for row in await rows("subscriptions", tmp_path)] == ["auditor"]
    assert (await one("subscriptions", tmp_path, "delete", "auditor"))["answer"] == "auditor is deleted"
    assert await rows("subscriptions", tmp_path) == []


async def test_an_unknown_name_is_said(tmp_path: Path) -> None:
    async with open_store(tmp_path) as runtime:
        async with runtime.consume("mailer"):
            pass
        assert runtime.last_position == 0
        code, _, error = await eventsrc("subscriptions", tmp_path, "retry", "mailman")
        assert (code, error) == (
            1,
            "eventsrc: There is no subscription 'mailman'. Those that there are: mailer.\n",
        )
        assert await eventsrc("subscriptions", tmp_path, "parked", "mailman") == (code, "", error)
        answer = await eventsrc("subscriptions", tmp_path, "retry", "mailer", "--stream", "account-eve")
        assert answer == (1, "writer: no event of the stream 'account-eve' is parked in mailer\n", "")
    code, _, error = await eventsrc("projections", tmp_path, "pause", "balance")
    assert (code, error) == (1, f"eventsrc: {tmp_path} has no projection 'balance'. Those that it has: balances.\n")
    code, _, error = await eventsrc("projections", tmp_path, "pause")
    assert (code, error.splitlines()[-1]) == (2, "eventsrc projections: error: name it: pause NAME")
    code, _, error = await eventsrc("projections", tmp_path / "nowhere")
    assert (code, error) == (1, f"eventsrc: No runtime has ever run on a store at {tmp_path / 'nowhere'}.\n")


async def test_the_projections_of_readers_are_listed_and_steered_too(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account]) as writer:
        receipt = await writer.actor(Account, "ann").ask(Deposit(1))
    async with Runtime.open(tmp_path, role="reader", projections=[Balances]) as reader:
        await reader.view(Balances).get("ann", at_least=receipt)
        (row,) = await listed(lambda found: [row["position"] for row in found] == [1], "projections", tmp_path)
        assert (row["projection"], row["at"]) == ("balances", "reader 1")
        assert (await one("projections", tmp_path, "pause", "balances"))["ok"]
        assert reader.lag()["balances"].state == "paused"
        code, out, _ = await eventsrc("watch", tmp_path, "--seconds", 1)
        assert (code, "balances at reader 1: paused" in out) == (0, True)


async def test_watching_shows_what_a_running_store_does(tmp_path: Path) -> None:
    async with open_store(tmp_path) as runtime, trio.open_nursery() as nursery:

        async def client(name: str) -> None:
            while True:
                await runtime.actor(Account, name).ask(Deposit(1))

        async def importer() -> None:
            for number in itertools.count():  # in turns: one alone would reach Limits.stream_events_max
                await runtime.actor(Account, f"c{number % 20}").ask_many([Deposit(1)] * 100)

        for number in range(20):
            nursery.start_soon(client, f"c{number}")
        nursery.start_soon(importer)
        # In the second between two looks a busy machine may have published nothing, or stored nothing.
        rates = ("groups_per_second", "events_per_second")
        pictures = await listed(lambda found: all(found[-1][rate] for rate in rates), "watch", tmp_path, "--seconds", 1)
        nursery.cancel_scope.cancel()
    last = pictures[-1]
    assert last["is_running"]
    assert last["resident_actors"] == 20
    # What one call stores shares a transaction, too.
    assert last["events_per_group"] > 20
    assert last["commit_seconds"] > 0
    assert [(view["projection"], view["state"] in ("live", "catching_up")) for view in last["projections"]] == [
        ("balances", True)
    ]
    code, out, _ = await eventsrc("watch", tmp_path, "--seconds", 1)
    assert code == 0
    assert "events/s 0" in out
    assert "balances: not running, " in out


async def test_the_view_of_a_projection_that_no_program_has_any_more_is_deleted(tmp_path: Path) -> None:
    async with open_store(tmp_path) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
        await runtime.projections.pause(Balances)
        code, out, _ = await eventsrc("projections", tmp_path, "delete", "balances")
        assert (code, out) == (1, "writer: the runtime has balances; open it without, then delete\n")
        assert (tmp_path / "views" / "balances").exists()
    async with Runtime.open(tmp_path, aggregates=[Account]):
        await listed(lambda found: [row["state"] for row in found] == ["paused"], "projections", tmp_path)
        assert (await one("projections", tmp_path, "delete", "balances"))["answer"] == "balances is deleted"
        assert not (tmp_path / "views" / "balances").exists()
        assert await rows("projections", tmp_path) == []
    code, _, err = await eventsrc("projections", tmp_path, "delete", "balances")
    assert (code, "has no projection 'balances'" in err) == (1, True)
    async with open_store(tmp_path) as runtime:
        assert await runtime.view(Balances).get("ann", at_least=1) == Balance("ann", 1, 1)
