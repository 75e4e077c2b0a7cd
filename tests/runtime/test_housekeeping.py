"""The commands for long histories, on a store that nobody has open and on one that is in use."""

import json
import sys
from pathlib import Path

import pytest
import trio
from bank_domain import Account, Deposit

from eventsrc import Limits, Runtime
from eventsrc.runtime.command_line import main
from eventsrc.runtime.maintenance import snapshot_prover

STEP = 100


async def fill(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account]) as runtime:
        for name, count in (("ann", 11), ("bob", 2)):
            for _ in range(count):
                await runtime.actor(Account, name).ask_many([Deposit(1)] * STEP)
        with trio.fail_after(30):
            names = ("ann", "bob")
            while not all(each.is_proved for name in names for each in runtime.maintenance.snapshots(Account, name)):
                await trio.sleep(0.01)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(snapshot_prover, "PROOF_DELAY_SECONDS", 0.0)
    trio.run(fill, tmp_path / "store")
    return tmp_path / "store"


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_on_a_store_that_nobody_has_open(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compact", path, "--dry-run", "--json") == 0
    candidate = {"stream": "account-ann", "events": 1100, "reason": "it has more than 1,000 events"}
    assert rows(capsys) == [candidate]
    assert run("compact", path, "account-ann") == 1
    assert "no class of the category 'account'" in capsys.readouterr().err
    assert run("compact", path, "account-bob", "--import", "bank_domain") == 1
    assert "it takes more than 1,000" in capsys.readouterr().err
    assert run("compact", path, "--import", "bank_domain", "--json") == 0
    (done,) = rows(capsys)
    assert (done["stream"], done["version"], done["events"]) == ("account-ann", 1100, 1100)
    assert run("compact", path, "--dry-run") == 0
    assert capsys.readouterr().out == "none\n"
    assert run("show", path, "account-ann", "--at", 3) == 0
    assert "versions 1 to 1100 are in the archive" in capsys.readouterr().out
    assert run("verify", path) == 0
    assert run("events", path, "--stream", "account-ann", "--json") == 0
    capsys.readouterr()
    assert run("uncompact", path, "account-ann", "--json") == 0
    assert rows(capsys) == [{"stream": "account-ann", "events": 1100}]
    assert run("uncompact", path, "account-ann") == 1
    assert "cannot be put back" in capsys.readouterr().err
    assert run("compact", path, "--import", "no_such_module") == 1
    assert "'no_such_module' cannot be imported: No module named 'no_such_module'.\n" in capsys.readouterr().err


def test_the_snapshots(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("snapshots", path, "--json") == 0
    found = rows(capsys)
    assert [row["version"] for row in found if row["stream"] == "account-ann"] == list(range(1100, 100, -100))
    assert {row["verdict"] for row in found} == {"proved"}
    assert run("snapshots", path, "account-bob") == 0
    assert "proved" in capsys.readouterr().out
    assert run("snapshots", path, "account-nobody") == 1
    assert "There is no stream 'account-nobody'" in capsys.readouterr().err


async def outside(*arguments: object) -> str:
    """The command in a process of its own; what it printed, with its exit code."""
    command = [sys.executable, "-m", "eventsrc", *map(str, arguments)]
    result = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    return f"{result.returncode}: {result.stdout.decode()}{result.stderr.decode()}"


async def test_on_a_store_that_is_in_use_its_runtime_does_it(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=Limits(compaction_events_min=150)) as runtime:
        assert (await outside("compact", path)).startswith("0: writer: compact all: done")
        for name, version in (("ann", 1100), ("bob", 200)):
            compacted = runtime.maintenance.compacted(Account, name)
            assert compacted is not None
            assert compacted.version == version
        assert (await outside("uncompact", path, "account-bob")) == "0: writer: uncompact account-bob: done\n"
        assert runtime.maintenance.compacted(Account, "bob") is None
        again = await outside("compact", path, "account-ann")
        assert again.startswith("1: writer: 'account-ann' cannot be compacted: 0 of its events are not in the archive")
        assert len(again.splitlines()) == 1, "no table of what was done before, as if it had been done now"
        refused = await outside("compact", path, "account-nobody")
        assert refused.startswith("1: writer: 'account-nobody' cannot be compacted: there is no such stream")
        await runtime.actor(Account, "ann").ask(Deposit(1))
