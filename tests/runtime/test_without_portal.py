"""What a program on asyncio gets where it forgot its portal: an error that says what to write, and nothing is done."""

from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from bank_domain import Account, Deposit
from bank_views import Balances
from portal_cases import on_loop

from eventsrc import ArgumentInvalid, AsyncioPortal, BlockingPortal, Runtime, Saga, SagaContext, WrongThread, step

pytestmark = pytest.mark.usefixtures("no_runtime_thread_is_left")


class Nothing(Saga, signals=["go"]):
    @step
    async def only(self, ctx: SagaContext) -> None:
        await ctx.approval("go")


def opening(path: Path) -> AbstractAsyncContextManager[Runtime]:
    return Runtime.open(path, aggregates=[Account], projections=[Balances], sagas=[Nothing])


def forgetful(runtime: Runtime, path: Path) -> dict[str, list[Callable[[], Awaitable[Any]]]]:
    """Calls without a portal, by what is to be written instead."""
    ann, saga, maintenance = runtime.actor(Account, "ann"), runtime.saga(Nothing, "1"), runtime.maintenance
    view = runtime.view(Balances.rows)

    async def first(items: AsyncIterable[Any]) -> None:
        async for _ in items:
            break

    async def entered(manager: AbstractAsyncContextManager[Any]) -> None:
        async with manager:
            pass

    return {
        r"portal\.call\(ref\.ask, command\)": [
            lambda: ann.ask(Deposit(1)),
            lambda: ann.ask(Deposit(1), wait_for=[Balances]),
            ann.delete,
        ],
        r"portal\.call\(ref\.ask_many, commands\)": [lambda: ann.ask_many([Deposit(1)])],
        r"portal\.call\(ref\.state\)": [ann.state, lambda: ann.state(at_version=0)],
        r"portal\.call\(ref\.version\)": [ann.version],
        r"portal\.call\(runtime\.transact, \.\.\.\)": [lambda: runtime.transact([(Account, "ann", Deposit(1))])],
        r"portal\.call\(runtime\.start_saga, \.\.\.\)": [lambda: runtime.start_saga(Nothing(), key="2")],
        r"portal\.call\(saga\.": [
            saga.status,
            saga.wait,
            lambda: saga.signal("go"),
            lambda: saga.abandon(reason="x"),
        ],
        r"portal\.call\(view\.get, key\) or portal\.call\(query\.rows\)": [
            lambda: view.get("ann"),
            lambda: view.all().rows(),
            lambda: view.where(amount=1).count(),
            lambda: runtime.sagas().first(),
        ],
        r"portal\.iterate\(": [
            lambda: first(view.all()),
            lambda: first(view.all().pages()),
            lambda: first(runtime.events()),
            lambda: first(runtime.streams()),
            lambda: first(runtime.subscribe()),
        ],
        r"portal\.enter\(": [
            lambda: entered(runtime.consume("mailer")),
            lambda: entered(runtime.as_of(position=1, timeout=1)),
            lambda: entered(runtime.replay("full", projection=Balances)),
        ],
        r"portal\.call\(runtime\.": [
            lambda: runtime.diff(Account, "ann", 0, 1),
            lambda: runtime.blame(Account, "ann"),
            lambda: runtime.trace(1),
            lambda: runtime.backup(path / "copy"),
            lambda: runtime.fork(1, path / "copy"),
        ],
        r"portal\.call\(replay\.run\)": [lambda: runtime.replay("full", into=print).run()],
        r"portal\.call\(projections\.": [
            lambda: runtime.projections.pause(Balances),
            lambda: runtime.projections.rebuild(Balances),
        ],
        r"portal\.call\(subscriptions\.": [runtime.subscriptions.parked],
        r"portal\.call\(maintenance\.": [
            maintenance.retain,
            lambda: maintenance.prove(Account, "ann"),
            lambda: maintenance.compact(Account, "ann"),
        ],
    }


def test_it_is_told_what_to_write_and_nothing_was_done(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncioPortal(opening(tmp_path / "store")) as portal:
            runtime = portal.runtime
            await portal.call(runtime.start_saga, Nothing(), key="1")
            await portal.call(runtime.actor(Account, "ann").ask, Deposit(1), wait_for=[Balances])
            position = runtime.last_position
            for instead, calls in forgetful(runtime, tmp_path).items():
                for call in calls:
                    with pytest.raises(WrongThread, match=rf"outside of the trio thread.*, write {instead}"):
                        await call()
            assert runtime.last_position == position
            assert (await portal.call(runtime.saga(Nothing, "1").status)).state in ("running", "waiting")

    on_loop(main)


def test_a_consumer_is_told_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            AsyncioPortal(opening(tmp_path / "store")) as portal,
            portal.enter(portal.runtime.consume("mailer")) as consumer,
        ):
            with pytest.raises(WrongThread, match=r"write portal\.iterate\(consumer\) or portal\.call\(consumer\.run"):
                async for _ in consumer:
                    pass

    on_loop(main)


def test_a_portal_takes_a_function_not_what_it_returned(tmp_path: Path) -> None:
    advice = r"function=<coroutine object .* cannot be used: give the function, .*portal\.call\(ref\.ask, command\)"

    async def main() -> None:
        async with AsyncioPortal(opening(tmp_path / "store")) as portal:
            ann = portal.runtime.actor(Account, "ann")
            with pytest.raises(ArgumentInvalid, match=advice):
                await portal.call(ann.ask(Deposit(1)))  # type: ignore[call-overload]
            assert (await portal.call(ann.state)).balance == 0

    on_loop(main)
    with BlockingPortal(opening(tmp_path / "store")) as portal, pytest.raises(ArgumentInvalid, match=advice):
        portal.call(portal.runtime.actor(Account, "ann").ask(Deposit(1)))  # type: ignore[call-overload]
