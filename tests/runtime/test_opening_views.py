"""A view that cannot be opened at first: nothing answers before it is stored that it does."""

import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from bank_domain import Account, Deposit
from bank_views import Balance, Balances
from people_domain import Name, Names, Person, Register
from projection_cases import settle
from small_disk import fill_up
from waiting import until

from eventsrc import (
    EventLog,
    Limits,
    MemoryLog,
    Projection,
    ProjectionUnavailable,
    Runtime,
    StoreError,
    StoreFull,
    ViewUnreachable,
)
from eventsrc.actors.views.lmdb_view import LmdbViews
from eventsrc.actors.views.view_store import Generation

QUICK = Limits(restart_backoff_seconds=0.001, restart_backoff_seconds_max=0.001)


class LateViews(LmdbViews):
    """Views that are away when the runtime is opened, and of which the first one takes its place when it is let."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.activating, self.may_activate = threading.Event(), threading.Event()
        self._was_away = False

    def generations(self, projection: str) -> list[Generation]:
        if not self._was_away:
            self._was_away = True
            raise ViewUnreachable("views", "not there yet")
        return super().generations(projection)

    def activate(self, projection: str, generation: Generation) -> None:
        self.activating.set()
        assert self.may_activate.wait(60)
        super().activate(projection, generation)


@pytest.fixture
def late(tmp_path: Path) -> LateViews:
    return LateViews(tmp_path / "views")


async def until_opened(runtime: Runtime, projection: type[Projection]) -> None:
    await until(lambda: runtime._projections.get(projection).active is not None)


async def test_nothing_answers_before_it_is_stored_that_it_does(late: LateViews) -> None:
    """In a database, other programs find its rows by their name from then on."""
    async with Runtime.open(
        MemoryLog(), aggregates=[Account], projections=[Balances], views={Balances: late}, limits=QUICK
    ) as runtime:
        receipt = await runtime.actor(Account, "ann").ask(Deposit(1))
        await until(late.activating.is_set)
        with pytest.raises(ProjectionUnavailable, match=r"is retrying .*not there yet"):
            await runtime.view(Balances).get("ann")
        late.may_activate.set()
        assert await runtime.view(Balances).get("ann", at_least=receipt, timeout=60) == Balance("ann", 1, 1)


async def test_one_that_was_paused_meanwhile_stays_where_it_is(late: LateViews) -> None:
    async with Runtime.open(
        MemoryLog(), aggregates=[Account], projections=[Balances], views={Balances: late}, limits=QUICK
    ) as runtime:
        receipt = await runtime.actor(Account, "ann").ask(Deposit(1))
        await until(late.activating.is_set)
        await runtime.projections.pause(Balances)
        late.may_activate.set()
        await until_opened(runtime, Balances)
        assert await runtime.view(Balances).get("ann") is None
        assert (runtime.lag()["balances"].state, runtime.lag()["balances"].events) == ("paused", 1)
        await runtime.projections.resume(Balances)
        assert await runtime.view(Balances).get("ann", at_least=receipt, timeout=60) == Balance("ann", 1, 1)


async def test_who_is_forgotten_while_it_is_opened_is_not_in_it(late: LateViews) -> None:
    async with Runtime.open(
        MemoryLog(), aggregates=[Person], projections=[Names], views={Names: late}, limits=QUICK
    ) as runtime:
        await runtime.actor(Person, "ann").ask(Register("Ann Secret"))
        await until(late.activating.is_set)
        forgotten = await runtime.forget("ann")
        late.may_activate.set()
        await until_opened(runtime, Names)
        await settle(runtime, Names, building=True)
        assert await runtime.view(Names.rows).get("ann", at_least=forgotten.position) == Name("ann", "somebody")


@pytest.mark.parametrize("is_new", [False, True])
async def test_commands_go_on_while_there_is_no_room_to_open_a_view(
    tmp_path: Path, disk: Callable[[str], Path], is_new: bool
) -> None:
    small = disk("size=800k")
    opened = partial(
        Runtime.open,
        tmp_path / "store",
        aggregates=[Account],
        projections=[Balances],
        views=small / "views",
        limits=QUICK,
    )
    async with opened() as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
    if is_new:
        shutil.rmtree(small / "views" / "views")
    ballast = fill_up(small)
    async with opened() as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(2))
        with pytest.raises(ProjectionUnavailable, match=r"retrying .*No space left on device.* goes on by itself"):
            await runtime.view(Balances).get("ann")
        ballast.unlink()
        await until_opened(runtime, Balances)
        receipt = await ann.ask(Deposit(3), wait_for=[Balances], timeout=60)
        assert await runtime.view(Balances).get("ann", at_least=receipt) == Balance("ann", 6, 3)


async def test_a_view_that_cannot_be_opened_for_another_reason_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "balances").touch()
    with pytest.raises(StoreError, match="Not a directory"):
        async with Runtime.open(
            MemoryLog(), aggregates=[Account], projections=[Balances], views={Balances: LmdbViews(tmp_path / "views")}
        ):
            pytest.fail("it cannot be opened")


def test_a_store_on_a_full_disk_is_not_opened_to_write(disk: Callable[[str], Path]) -> None:
    path = disk("size=800k") / "store"
    EventLog(path).close()
    fill_up(path.parent)
    with pytest.raises(StoreFull, match=r"cannot be opened for writing: there is no room .* open it again"):
        EventLog(path)
