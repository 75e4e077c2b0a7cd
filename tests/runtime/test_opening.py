"""Opening a store that cannot be opened, and opening that is broken off."""

# pyright: reportUnnecessaryTypeIgnoreComment=error

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
from bank_domain import Account, Deposit
from bank_views import Balances, Notes

from eventsrc import ArgumentInvalid, MemoryLog, Projection, Runtime, StorePathInvalid, StoreTruncated, ViewStore
from eventsrc.actors.views.lmdb_view import LmdbViews
from eventsrc.runtime.runtime import Runtime as RuntimeClass
from eventsrc.storage.control import board as control
from eventsrc.storage.environment.folder import DATA_FILE


async def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("hello")
    with pytest.raises(StorePathInvalid, match="is a file"):
        async with Runtime.open(path, aggregates=[Account]):
            pass


@pytest.mark.parametrize("under", ["file", "file/views"])
async def test_a_place_for_views_that_is_a_file(tmp_path: Path, under: str) -> None:
    (tmp_path / "file").write_text("hello")
    with pytest.raises(StorePathInvalid, match=r"Views cannot live in .*Name a folder"):
        async with Runtime.open(tmp_path / "store", projections=[Balances], views=tmp_path / under):
            pass
    async with Runtime.open(tmp_path / "store", projections=[Balances], views=tmp_path / "free" / "views") as runtime:
        assert await runtime.view(Balances).all().count() == 0
    assert (tmp_path / "free" / "views" / "views").is_dir()


@pytest.mark.parametrize(
    "views", [7, "", "a\0b", {"Balances": LmdbViews(Path())}, {Balances: "folder"}, {Balances: None}]
)
async def test_views_that_are_no_place(tmp_path: Path, views: Any) -> None:
    with pytest.raises(ArgumentInvalid, match="views="):
        async with Runtime.open(tmp_path, projections=[Balances], views=views):
            pass


@pytest.mark.parametrize("keys", [5, b"keys", "", "a\0b"])
async def test_keys_that_are_no_file(tmp_path: Path, keys: Any) -> None:
    with pytest.raises(ArgumentInvalid, match="keys="):
        async with Runtime.open(tmp_path, keys=keys):
            pass


async def test_places_for_views_have_a_type_that_takes_what_is_right(tmp_path: Path) -> None:
    # What matters is what the checkers of types say; that a line is ignored without an error is one to them, too.
    place = LmdbViews(tmp_path / "place")
    one, two = {Balances: place}, {Balances: place, Notes: place}
    any_place: dict[type[Projection], ViewStore] = {Balances: place}
    async with Runtime.open(MemoryLog(), projections=[Balances], views=any_place):
        pass
    async with Runtime.open(MemoryLog(), projections=[Balances], views=two):
        pass
    async with Runtime.open(MemoryLog(), projections=[Balances], views=one):
        assert [folder.name for folder in place.path.iterdir()] == ["balances"]
    wrong = {Account: place}
    with pytest.raises(ArgumentInvalid):
        async with Runtime.open(MemoryLog(), views=wrong):  # pyright: ignore[reportArgumentType]
            pass
    with pytest.raises(ArgumentInvalid):
        async with Runtime.open(MemoryLog(), views={Balances: "x"}):  # pyright: ignore[reportArgumentType]
            pass


@pytest.mark.parametrize("size_bytes", [0, 100, 4_096])
@pytest.mark.parametrize("role", ["writer", "reader"])
async def test_a_store_of_which_nearly_nothing_is_left_is_not_begun_anew(
    tmp_path: Path, size_bytes: int, role: Literal["writer", "reader"]
) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
    os.truncate(tmp_path / DATA_FILE, size_bytes)
    with pytest.raises(StoreTruncated, match=rf"{size_bytes:,} bytes left: it was cut off\. Restore it from a backup"):
        async with Runtime.open(tmp_path, aggregates=[Account], role=role):
            pass
    assert (tmp_path / DATA_FILE).stat().st_size == size_bytes


def test_a_process_without_address_space_for_a_store(tmp_path: Path) -> None:
    script = f"""
import resource, trio
from eventsrc import Runtime, StoreMapRefused
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
async def main():
    try:
        async with Runtime.open({str(tmp_path / "store")!r}):
            pass
    except StoreMapRefused as error:
        print(error)
trio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "may not reserve 68,719,476,736 bytes of address space" in done.stdout


async def test_opening_can_be_cancelled_at_any_moment(tmp_path: Path) -> None:
    for number in range(40):
        with trio.fail_after(20), trio.move_on_after(number * 0.0005):
            async with Runtime.open(tmp_path / "store", aggregates=[Account]):
                await trio.lowlevel.checkpoint()
    async with Runtime.open(tmp_path / "store", aggregates=[Account]) as runtime:
        assert (await runtime.actor(Account, "ann").ask(Deposit(1))).version == 1


async def test_opening_is_cancelled_while_the_control_board_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = trio.CancelScope()
    original: Callable[..., None] = control.ControlBoard.__init__

    def slow(self: control.ControlBoard, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        trio.from_thread.run_sync(scope.cancel)

    monkeypatch.setattr(control.ControlBoard, "__init__", slow)
    with trio.fail_after(20), scope:
        async with Runtime.open(tmp_path / "store", aggregates=[Account]):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_runtime_that_cannot_be_made_leaves_the_store_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched, trio.fail_after(20):
        patched.setattr(RuntimeClass, "_start_writing", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            async with Runtime.open(tmp_path / "store", aggregates=[Account]):
                pass
    async with Runtime.open(tmp_path / "store", aggregates=[Account]) as runtime:
        assert (await runtime.actor(Account, "ann").ask(Deposit(1))).version == 1
