"""Paths that are no text: what the system takes as the name of a file is the path of a store, and nothing else is."""

import json
import os
from contextlib import closing
from pathlib import Path

import pytest
import trio
from environment_cases import fill

from eventsrc import (
    DestinationUnusable,
    EventLog,
    ExportUnreadable,
    Runtime,
    StoreInUse,
    StorePathInvalid,
)
from eventsrc.runtime.command_line import main
from eventsrc.runtime.errors import ArgumentInvalid
from eventsrc.storage.contract import raised
from eventsrc.storage.copies.backup import backup, fork, restore
from eventsrc.storage.copies.exporting import export_events
from eventsrc.storage.copies.importing import import_store
from eventsrc.storage.environment import environment, folder
from eventsrc.storage.errors import VerificationImpossible
from eventsrc.storage.reader import LogReader
from eventsrc.storage.verification.apart import verify_apart

NAME = os.fsdecode(b"store \xff")
"""What Python makes of a name that is not UTF-8."""
IMPOSSIBLE = ["\ud800", "a\0b"]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    with closing(EventLog(tmp_path / NAME)) as log:
        fill(log, 10)
        raised(StoreInUse, lambda: EventLog(tmp_path / NAME))
    assert [os.fsencode(each.name) for each in tmp_path.iterdir()] == [b"store \xff"]
    return tmp_path / NAME


def test_a_store_may_have_a_name_that_is_not_utf8(odd: Path, tmp_path: Path) -> None:
    with closing(LogReader.open(odd)) as log:
        assert log.last_position == 10
        for name in ("plain", os.fsdecode(b"odd \xfe")):
            assert backup(log, tmp_path / f"backup {name}").events == 10
            assert restore(log, tmp_path / f"restored {name}") == 10
            assert fork(log, 5, tmp_path / f"fork {name}") == 5
            assert export_events(log, tmp_path / f"export {name}") == 10
            assert import_store(str(tmp_path / f"imported {name}"), tmp_path / f"export {name}") == (10, 10)
    for path in tmp_path.iterdir():
        if path.is_dir():
            assert verify_apart(path).findings == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("streams",),
        ("events",),
        ("show", "a-1"),
        ("replay",),
        ("diff", "a-1", "1", "2"),
        ("verify",),
        ("compact", "--dry-run"),
        ("snapshots",),
        ("prove", "3"),
        ("backup", "COPY"),
        ("restore", "COPY"),
        ("fork", "COPY", "--at", "3"),
        ("export", "COPY"),
        ("backup", "COPY", "--since", "3"),
    ],
    ids=" ".join,
)
def test_every_command_takes_it(odd: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    command, *rest = [argument.replace("COPY", str(odd.with_name(os.fsdecode(b"copy \xff")))) for argument in arguments]
    assert main([command, str(odd), *rest]) == 0
    capfd.readouterr()


def test_what_is_measured_needs_a_text(odd: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--quick", "--path", str(odd)])
    assert "its name is not UTF-8" in capfd.readouterr().err


async def test_commands_of_a_runtime_take_it(odd: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with Runtime.open(odd):
        pass
    for command in (["projections"], ["subscriptions"], ["sagas"], ["watch", "--seconds", "0"]):
        assert main([command[0], str(odd), *command[1:]]) == 0
    assert main(["import", str(odd), str(odd / "none")]) == 1
    assert "none cannot be read as an export" in capfd.readouterr().err


def test_a_finding_names_it(
    odd: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (odd / "control").mkdir()
    (odd / "control" / "data.mdb").write_bytes(b"cut off")
    (odd / "readers").mkdir()
    (odd / "readers" / NAME).mkdir()
    (odd / "control").rename(odd / "readers" / NAME / "control")
    assert main(["verify", str(odd), "--json"]) == 2
    (finding,) = json.loads(capfd.readouterr().out)["findings"]
    assert finding["table"].startswith("control of reader store ")
    monkeypatch.chdir(tmp_path)
    assert main(["verify", os.fsdecode(b"none \xff")]) == 1
    assert r"There is no store at " in capfd.readouterr().err


@pytest.mark.parametrize("name", IMPOSSIBLE)
async def test_what_no_file_can_be_called_is_refused(path: Path, tmp_path: Path, name: str) -> None:
    for open_store in (EventLog, LogReader.open, environment.Environment):
        error = raised(StorePathInvalid, lambda open_store=open_store: open_store(tmp_path / name))
        assert "cannot be the path of a store: it has" in str(error)
    with pytest.raises(ArgumentInvalid, match="only what the name of a file can have"):
        async with Runtime.open(tmp_path / name):
            pass
    with closing(LogReader.open(path)) as log:
        for copy in (
            lambda: backup(log, tmp_path / name),
            lambda: restore(log, tmp_path / name),
            lambda: fork(log, 3, tmp_path / name),
            lambda: export_events(log, tmp_path / name),
        ):
            assert "it has" in str(raised(DestinationUnusable, copy))
        export_events(log, tmp_path / "export")
    raised(DestinationUnusable, lambda: import_store(str(tmp_path / name), tmp_path / "export"))
    raised(ExportUnreadable, lambda: import_store(str(tmp_path / "new"), tmp_path / name))
    raised(VerificationImpossible, lambda: verify_apart(tmp_path / name))
    assert folder.path_problem(tmp_path) == ""
    assert all(
        each.name in ("export", "store") for each in await trio.to_thread.run_sync(lambda: [*tmp_path.iterdir()])
    )
