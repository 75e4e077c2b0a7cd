"""The command line, as a user calls it."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import trio
from bank_domain import Account, Deposit, Withdraw
from command_cases import shown_on

from eventsrc import Limits, Runtime, StoreFull
from eventsrc.runtime import command_line
from eventsrc.runtime.benchmarks import benchmark
from eventsrc.runtime.commands import output


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "store"

    async def fill() -> None:
        async with Runtime.open(path, aggregates=[Account], limits=Limits(snapshot_every_events=3)) as runtime:
            for name in ("ann", "bob"):
                account = runtime.actor(Account, name)
                await account.ask(Deposit(100))
                await account.ask(Withdraw(30))
                await account.ask(Withdraw(20))

    trio.run(fill)
    return path


def eventsrc(*arguments: object, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eventsrc", *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def on_a_terminal(*arguments: object) -> str:
    master, terminal = pty.openpty()
    with subprocess.Popen([sys.executable, "-m", "eventsrc", *map(str, arguments)], stdout=terminal) as process:
        os.close(terminal)
        shown = shown_on(master)
    assert process.returncode == 0
    return shown


def lines(*arguments: object) -> list[Any]:
    result = eventsrc(*arguments, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_streams(store: Path) -> None:
    assert lines("streams", store) == [
        {"stream": "account-ann", "version": 3, "position": 3},
        {"stream": "account-bob", "version": 3, "position": 6},
    ]
    assert lines("streams", store, "--category", "other") == []
    assert "account-bob" in eventsrc("streams", store).stdout


def test_events_and_their_filters(store: Path) -> None:
    def positions(*arguments: object) -> list[int]:
        return [event["position"] for event in lines("events", store, *arguments)]

    assert positions() == [1, 2, 3, 4, 5, 6]
    assert positions("--stream", "account-bob") == [4, 5, 6]
    assert positions("--type", "account.deposited") == [1, 4]
    assert positions("--type", "account.deposited", "--type", "account.withdrawn", "--limit", 2) == [1, 2]
    assert positions("--category", "account", "--after", 5) == [6]
    first = lines("events", store)[0]
    assert first["payload"] == {"amount": 100}
    assert first["kind"] == "created"


def test_events_of_what_is_not_there(store: Path) -> None:
    missing = eventsrc("events", store, "--stream", "account-eve")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert f"no stream 'account-eve' in {store}. Near it: account-bob, account-ann." in missing.stderr
    mistyped = eventsrc("events", store, "--type", "account.deposit")
    assert (mistyped.returncode, mistyped.stdout) == (1, "")
    assert "no event of the type 'account.deposit'" in mistyped.stderr
    assert "account.deposited" in mistyped.stderr
    for limit in ("0", "-1"):
        refused = eventsrc("events", store, "--limit", limit)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "--limit: must be 1 or more" in refused.stderr
    for empty in ("--tag=", "--type=", "--category="):
        refused = eventsrc("events", store, empty)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "it is empty: leave it out to ask for all events" in refused.stderr


def test_events_are_plain_lines_when_piped(store: Path) -> None:
    output = eventsrc("events", store).stdout.splitlines()
    assert len(output) == 6
    assert output[0].split("\t")[2:] == ["account-ann", "1", "account.deposited", '{"amount":100}']


def test_tables_are_drawn_on_a_terminal_and_plain_when_piped(store: Path) -> None:
    piped = eventsrc("streams", store).stdout.splitlines()
    assert [line.split() for line in piped] == [
        ["stream", "version", "position"],
        ["account-ann", "3", "3"],
        ["account-bob", "3", "6"],
    ]
    assert eventsrc("streams", store, "--category", "other").stdout == "none\n"
    for command in ("streams", "events"):
        assert "account-ann │" in on_a_terminal(command, store)


def test_many_events_come_in_several_tables(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "ROWS_PER_TABLE", 4)
    printed = StringIO()
    with redirect_stdout(printed):
        output.print_tables(["number"], ([f"{number}"] for number in range(9)))
    assert [line.strip() for line in printed.getvalue().splitlines() if "number" not in line] == list("012345678")
    assert printed.getvalue().count("number") == 3


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_the_output_cannot_encode_is_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    name, stream = "日本 😀", "account-日本 😀"

    async def fill() -> None:
        async with Runtime.open(tmp_path, aggregates=[Account]) as runtime:
            await runtime.actor(Account, name).ask(Deposit(1), metadata={"by": name})

    trio.run(fill)
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    for command in (("streams",), ("events",), ("show", stream)):
        printed = eventsrc(command[0], tmp_path, *command[1:])
        assert (printed.returncode, printed.stderr) == (0, "")
        assert (stream if encoding == "utf-8" else r"account-\u65e5\u672c \U0001f600") in printed.stdout
    (event,) = lines("events", tmp_path)
    assert (event["stream"], event["metadata"]) == (stream, {"by": name})


def test_show_a_stream_as_it_is_and_as_it_was(store: Path) -> None:
    (now,) = lines("show", store, "account-ann")
    assert (now["version"], len(now["events"])) == (3, 3)
    assert now["snapshot"]["state"] == {"balance": 50, "notes": 0}
    (then,) = lines("show", store, "account-ann", "--at", 2)
    assert (then["version"], len(then["events"]), then["snapshot"]) == (2, 2, None)
    missing = eventsrc("show", store, "account-eve")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "no stream 'account-eve'" in missing.stderr
    assert "has no version 9: it goes from 0 to 3" in eventsrc("show", store, "account-ann", "--at", 9).stderr


def test_verify_a_sound_and_a_damaged_store(store: Path, tmp_path: Path) -> None:
    assert "all sound" in eventsrc("verify", store).stdout
    (report,) = lines("verify", store)
    assert (report["events"], report["streams"], report["findings"]) == (6, 2, [])
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    data = (store / "data.mdb").read_bytes()
    (damaged / "data.mdb").write_bytes(data.replace(b"account.deposited", b"account.deposit3d"))
    result = eventsrc("verify", damaged)
    assert result.returncode == 2
    assert "DAMAGED" in result.stdout
    assert "position" in result.stdout


def test_a_path_without_a_store_is_one_line_of_error(tmp_path: Path) -> None:
    for command in ("streams", "events", "verify"):
        result = eventsrc(command, tmp_path / "nothing")
        assert result.returncode == 1
        assert result.stderr.startswith("eventsrc: There is no store at")
        assert len(result.stderr.splitlines()) == 1


def test_follow_prints_events_as_they_come_while_the_store_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "store"

    async def main() -> list[int]:
        async with Runtime.open(path, aggregates=[Account]) as runtime:
            ann = runtime.actor(Account, "ann")
            await ann.ask(Deposit(1))
            process = subprocess.Popen(
                [sys.executable, "-m", "eventsrc", "events", str(path), "--follow", "--json", "--limit", "3"],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdout is not None
            first = await trio.to_thread.run_sync(process.stdout.readline)
            await ann.ask(Deposit(2))
            second = await trio.to_thread.run_sync(process.stdout.readline)
            await ann.ask(Deposit(3))
            rest, _ = await trio.to_thread.run_sync(process.communicate)
            return [json.loads(line)["payload"]["amount"] for line in (first, second, rest)]

    started = time.monotonic()
    assert trio.run(main) == [1, 2, 3]
    assert time.monotonic() - started < 60


def test_the_demos_are_listed() -> None:
    output = eventsrc("demo").stdout
    assert "bank" in output
    assert "flights" in output
    rows = [json.loads(line) for line in eventsrc("demo", "--json").stdout.splitlines()]
    assert [row["name"] for row in rows] == ["agent", "bank", "flights", "forget", "orders", "upgrade"]


def test_what_many_commands_were_told_at_once_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: object) -> int:
        nested = ExceptionGroup("", [StoreFull("bank.db", "no room"), StoreFull("other.db", "no room")])
        raise ExceptionGroup("", [nested, StoreFull("bank.db", "no room")])

    monkeypatch.setattr(benchmark, "run", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # of this process nothing is to change
    assert command_line.bench_main([]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.split("(")[0] for line in said] == [
        "eventsrc: No room to write to the store bank.db ",
        "eventsrc: No room to write to the store other.db ",
    ]


@pytest.mark.parametrize(("sent", "ignored", "code"), [(2, 0, 130), (15, 0, 130), (1, 0, 130), (15, 2, -15)])
def test_it_ends_when_it_is_told_to(store: Path, sent: int, ignored: int, code: int) -> None:
    # The tests may be a job in the background, which ignores interrupts.
    how = "--ignore-signal=INT" if ignored else "--default-signal=INT,HUP"
    command = ["env", how, sys.executable, "-m", "eventsrc", "events", str(store), "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("1\t")
        process.send_signal(sent)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (code, "")


def test_the_version() -> None:
    assert eventsrc("--version").stdout == f"eventsrc {version('eventsrc')}\n"


def test_without_an_installation_all_but_the_version_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(output, "version", missing)
    with pytest.raises(SystemExit):
        command_line.main(["streams", "--help"])
    with pytest.raises(SystemExit):
        command_line.main(["--version"])
    assert capsys.readouterr().out.endswith("eventsrc not installed\n")


def test_the_installed_names() -> None:
    scripts = Path(sys.executable).parent
    for name, command in (
        ("eventsrc", "eventsrc [-h]"),
        ("es", "eventsrc [-h]"),
        ("eventsrc-demo", "eventsrc demo [-h]"),
        ("eventsrc-bench", "eventsrc bench [-h]"),
        ("es-bench", "eventsrc bench [-h]"),
    ):
        result = subprocess.run([scripts / name, "--help"], capture_output=True, text=True, check=False, timeout=60)
        assert result.returncode == 0, f"{name}: {result.stderr}"
        assert result.stdout.startswith(f"usage: {command}"), name


# -- the past


def test_a_replay_is_steered_by_what_is_typed(store: Path) -> None:
    def positions(typed: str) -> list[int]:
        result = subprocess.run(
            [sys.executable, "-m", "eventsrc", "replay", store, "--step", "--json"],
            input=typed,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert "s or Enter: one event" in result.stderr
        return [json.loads(line)["position"] for line in result.stdout.splitlines()]

    everything = positions("r\n")
    assert everything == list(range(1, len(everything) + 1))
    assert positions("\ns\nq\n") == [1, 2]
    assert positions("3\n\nwhat\nq\n") == [1, 2, 3, 4]
    assert positions("q\n") == []
    assert positions("") == everything, "nobody is there to steer it"


def test_two_stores_are_compared(store: Path, tmp_path: Path) -> None:
    fork = tmp_path / "fork"
    assert eventsrc("fork", store, fork, "--at", 2).returncode == 0
    compared = eventsrc("diff", store, "--with", fork, "--json")
    assert "the same up to position 2" in compared.stderr
    rows = [json.loads(line) for line in compared.stdout.splitlines()]
    assert rows
    assert all(row["version"] > row["other_version"] for row in rows)
    stream = rows[0]["stream"]
    events = [
        json.loads(line) for line in eventsrc("diff", store, "--with", fork, stream, "--json").stdout.splitlines()
    ]
    assert {event["store"] for event in events} == {str(store)}
    assert events[0]["version"] == rows[0]["shared_version"] + 1
    assert eventsrc("diff", store).returncode == 2
    unknown = eventsrc("diff", store, "account-eve", "--with", fork)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "no stream 'account-eve'" in unknown.stderr
    versions = eventsrc("diff", store, stream, 1, 2, "--with", fork)
    assert (versions.returncode, versions.stdout) == (2, "")
    assert "leave out the versions" in versions.stderr


def test_a_replay_prints_what_is_asked_for(store: Path) -> None:
    def positions(*arguments: object) -> list[int]:
        result = eventsrc("replay", store, *arguments, "--json")
        assert result.returncode == 0, result.stderr
        return [json.loads(line)["position"] for line in result.stdout.splitlines()]

    assert positions() == [1, 2, 3, 4, 5, 6]
    assert positions("--type", "account.deposited") == [1, 4]
    assert positions("--to-position", 2) == [1, 2]
    assert positions("--stream", "account-bob", "--to-version", 2) == [4, 5]
    assert positions("--speed", 100) == [1, 2, 3, 4, 5, 6]
    wrong = eventsrc("replay", store, "--mode", "full", "--category", "account")
    assert (wrong.returncode, "use the mode 'selective'" in wrong.stderr) == (2, True)
    fast = eventsrc("replay", store, "--speed", 1000)
    assert (fast.returncode, "0.1 to 100 times the original pace" in fast.stderr) == (1, True)


def test_the_difference_between_two_versions_and_who_set_what(store: Path) -> None:
    domain = ("--import", "bank_domain")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "eventsrc", *map(str, arguments)]
        folder = Path(__file__).parent
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)

    difference = json.loads(run("diff", store, "account-ann", 1, 3, *domain, "--json").stdout)
    assert [event["version"] for event in difference["events"]] == [2, 3]
    assert difference["changes"]["balance"] == {"before": 100, "after": 50}
    plain = run("diff", store, "account-ann", 1, 3)
    assert (plain.returncode, len(plain.stdout.splitlines())) == (0, 2)
    blamed = json.loads(run("blame", store, "account-ann", *domain, "--json").stdout)
    assert (blamed["balance"]["value"], blamed["balance"]["version"]) == (50, 3)
    assert "balance" in run("blame", store, "account-ann", *domain).stdout
    future = run("diff", store, "account-ann", 1, 9)
    assert (future.returncode, "has no version 9: it goes from 0 to 3" in future.stderr) == (1, True)
    unknown = run("blame", store, "order-1", *domain)
    assert (unknown.returncode, "No aggregate of the category 'order'" in unknown.stderr) == (1, True)


# -- moving


def test_backup_restore_fork_export_and_import(store: Path, tmp_path: Path) -> None:
    def done(*arguments: object) -> dict[str, Any]:
        (line,) = lines(*arguments)
        assert isinstance(line, dict)
        return line

    def positions(path: Path) -> list[int]:
        return [event["position"] for event in lines("events", path)]

    assert done("backup", store, tmp_path / "copy")["verified"]
    assert positions(tmp_path / "copy") == [1, 2, 3, 4, 5, 6]
    assert done("fork", store, tmp_path / "fork", "--at", 2)["position"] == 2
    assert done("backup", store, tmp_path / "since.jsonl.gz", "--since", 2)["events"] == 4
    assert done("restore", tmp_path / "fork", tmp_path / "whole", tmp_path / "since.jsonl.gz")["position"] == 6
    assert lines("events", tmp_path / "whole") == lines("events", store)
    part = done("restore", tmp_path / "copy", tmp_path / "part", "--to-position", 4)
    assert part["position"] == 4
    third = lines("events", store)[2]["time"]
    assert done("restore", tmp_path / "copy", tmp_path / "then", "--to-time", third)["position"] == 3
    too_early = eventsrc("restore", tmp_path / "copy", tmp_path / "never", "--to-time", "2001-01-01T00:00:00Z")
    assert (too_early.returncode, "does not reach 2001-01-01" in too_early.stderr) == (1, True)
    assert done("export", store, tmp_path / "all.jsonl")["events"] == 6
    assert done("import", tmp_path / "new", tmp_path / "all.jsonl") == {"events": 6, "position": 6}
    assert lines("events", tmp_path / "new") == lines("events", store)
    assert eventsrc("verify", tmp_path / "new").returncode == 0
    assert done("import", tmp_path / "new", tmp_path / "all.jsonl") == {"events": 0, "position": 6}
    overwritten = eventsrc("export", store, tmp_path / "all.jsonl")
    assert (overwritten.returncode, "is there already" in overwritten.stderr) == (1, True)
    gap = eventsrc("import", tmp_path / "other", tmp_path / "since.jsonl.gz")
    assert (gap.returncode, "begins after position 2" in gap.stderr, (tmp_path / "other").exists()) == (1, True, False)
    missing = eventsrc("import", tmp_path / "other", tmp_path / "missing.jsonl")
    assert (missing.returncode, "cannot be read as an export" in missing.stderr) == (1, True)
    too_far = eventsrc("fork", store, tmp_path / "beyond", "--at", 7)
    assert (too_far.returncode, "does not reach position 7" in too_far.stderr) == (1, True)
    through_a_pipe = eventsrc("export", store, "-").stdout
    assert through_a_pipe == (tmp_path / "all.jsonl").read_text(encoding="utf-8")
    piped = eventsrc("import", tmp_path / "piped", "-", "--json", given=through_a_pipe)
    assert json.loads(piped.stdout) == {"events": 6, "position": 6}
    cut = eventsrc("import", tmp_path / "cut", "-", given=through_a_pipe[:-99])
    assert (cut.returncode, "is cut off after position 6" in cut.stderr, (tmp_path / "cut").exists()) == (
        1,
        True,
        False,
    )
    taken = eventsrc("backup", store, tmp_path / "copy")
    assert (taken.returncode, "is there already" in taken.stderr) == (1, True)
