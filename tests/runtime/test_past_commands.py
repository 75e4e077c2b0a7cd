"""The past on the command line: show, replay, diff and blame, as a user calls them."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import trio
from cart_domain import Cart, Change
from command_cases import shown_on

from eventsrc import EventLog, Limits, Runtime
from eventsrc.runtime import command_line
from eventsrc.runtime.testing import EPOCH, WallClock

DOMAIN = ("--import", "cart_domain")


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        assert self.code == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Result]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two carts with an event a minute in turns, seven of the first; a snapshot of it at version 3 and at 6."""
    path = tmp_path_factory.mktemp("past") / "store"

    async def fill() -> None:
        clock = WallClock()
        limits = Limits(snapshot_every_events=3)
        async with Runtime.open(path, aggregates=[Cart], limits=limits, wall_clock=clock) as runtime:
            for number in range(1, 8):
                for name in ("a[/b]", "two") if number < 4 else ("a[/b]",):
                    clock.advance(60)
                    change = Change(sku=f"[sku]{number}", amount=number, tag="[/x]" if number == 2 else "")
                    metadata = {"attempts": number, "text": f"{number}", "is_last": number == 7}
                    await runtime.actor(Cart, name).ask(change, metadata=metadata)

    trio.run(fill)
    return path


@pytest.fixture
def run(store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(Path(__file__).parent)

    def call(command: str, *arguments: object) -> Result:
        try:
            code = command_line.main([command, str(store), *map(str, arguments)])
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return Result(code, str(printed.out), str(printed.err))

    return call


ONE = "cart-a[/b]"


def minute(number: int) -> str:
    return (EPOCH + timedelta(minutes=number)).isoformat()


def test_show_as_of_a_version_a_position_or_a_time(run: Run) -> None:
    def shown(*arguments: object) -> tuple[int, int, int]:
        (data,) = run("show", ONE, *arguments, "--json").lines
        assert [event["version"] for event in data["events"]] == list(range(1, data["version"] + 1))
        snapshot = 0 if data["snapshot"] is None else data["snapshot"]["version"]
        return data["version"], data["head_version"], snapshot

    assert shown() == (7, 7, 6)
    assert shown("--at", 0) == (0, 7, 0)
    assert shown("--at", 4) == (4, 7, 3)
    assert shown("--at-position", 0) == (0, 7, 0)
    assert shown("--at-position", 4) == (2, 7, 0)
    assert shown("--at-position", 10) == (7, 7, 6)
    assert shown("--at-time", minute(5)) == (3, 7, 3)
    assert shown("--at-time", minute(5).removesuffix("+00:00")) == (3, 7, 3), "UTC unless it says otherwise"
    assert shown("--at-time", "2026-01-01T02:05:00+02:00") == (3, 7, 3)
    assert shown("--at-time", "2030-01-01") == (7, 7, 6)
    plain = run("show", ONE, "--at", 2, *DOMAIN)
    assert f"{ONE}: version 2 of 7" in plain.out
    assert '"tags":["[/x]"]' in plain.out, "brackets are text"
    (data,) = run("show", ONE, "--at", 1, *DOMAIN, "--json").lines
    assert (data["state"]["lines"], data["is_deleted"]) == ({"[sku]1": {"amount": 1, "price": 1.0}}, False)


def test_what_cannot_be_shown_is_said(run: Run) -> None:
    for arguments, words in (
        (("--at", 8), "has no version 8: it goes from 0 to 7"),
        (("--at-position", 11), "There is no position 11"),
        (("--at-time", "2020-01-01"), "nothing was stored yet"),
    ):
        result = run("show", ONE, *arguments)
        assert (result.code, result.out, words in result.err) == (1, "", True), result
    for arguments in (
        ("--at", 1, "--at-position", 1),
        ("--at", -1),
        ("--at-time", "noon"),
        ("--at", 1, "--at-time", 1),
    ):
        assert run("show", ONE, *arguments).code == 2


def test_an_unknown_stream_is_named_with_those_near_it(run: Run) -> None:
    for command, arguments in (
        ("show", ("cart-twoo",)),
        ("diff", ("cart-twoo", 1, 2)),
        ("diff", ("cart-twoo", 1, 2, *DOMAIN)),
        ("blame", ("cart-twoo", *DOMAIN)),
        ("replay", ("--stream", "cart-twoo")),
        ("snapshots", ("cart-twoo",)),
        ("compact", ("cart-twoo", "--dry-run")),
    ):
        result = run(command, *arguments)
        assert (result.code, result.out) == (1, "")
        assert "There is no stream 'cart-twoo' in" in result.err
        assert "Near it: cart-two" in result.err
    assert "`eventsrc streams" in run("show", "order-1").err


def test_what_is_no_number_or_no_time_is_said_in_the_users_words(run: Run) -> None:
    for command, arguments, words in (
        ("show", (ONE, "--at", "x"), "argument --at: give a whole number, not 'x'"),
        ("prove", ("1.5",), "argument POSITION: give a whole number, not '1.5'"),
        ("events", ("--limit", "few"), "argument --limit: give a whole number, not 'few'"),
        ("replay", ("--speed", "fast"), "argument --speed: give a number or \"flat\", not 'fast'"),
        ("replay", ("--wait-max", "long"), "argument --wait-max: give a number, not 'long'"),
        ("replay", ("--to-time", "0001-01-01T00:00:00+14:00"), "argument --to-time: write a time as 2026-01-31"),
    ):
        result = run(command, *arguments)
        assert (result.code, words in result.err) == (2, True), result.err


def test_the_last_moment_of_the_calendar_and_a_position_beyond_every_log_are_no_error(run: Run) -> None:
    whole = list(range(1, 11))
    assert positions(run("replay", "--json", "--to-time", "9999-12-31T23:59:59.999999Z")) == whole
    assert positions(run("events", "--json", "--until", "9999-12-31T23:59:59.999999Z")) == whole
    assert run("events", "--json", "--after", 2**70).lines == []
    assert run("events", "--json", "--stream", ONE, "--after", 2**64).lines == []
    assert positions(run("events", "--json", "--before", 2**70)) == whole
    assert positions(run("events", "--json", "--limit", 2**70)) == whole


def positions(result: Result) -> list[int]:
    return [line["position"] for line in result.lines]


def test_a_replay_begins_from_the_newest_usable_snapshot(run: Run) -> None:
    result = run("replay", "--stream", ONE, "--mode", "from_snapshot", "--json")
    assert positions(result) == [10]
    assert "from the snapshot at version 6" in result.err
    assert "1 of 1 events, position 10" in result.err
    *events, last = run("replay", "--stream", ONE, "--mode", "from_snapshot", "--json", *DOMAIN).lines
    assert (len(events), len(last["state"]["lines"])) == (1, 7)
    whole = run("replay", "--stream", "cart-two", "--mode", "from_snapshot", *DOMAIN)
    assert whole.out.startswith("state\t")
    assert "from the snapshot at version 3" in whole.err
    missing = run("replay", "--mode", "from_snapshot")
    assert (missing.code, "say which, by --stream" in missing.err) == (2, True)
    assert run("replay", *DOMAIN).code == 2


def test_snapshots_that_cannot_be_used_are_passed_over_and_named(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(store, tmp_path / "copy")
    with closing(EventLog(tmp_path / "copy")) as log:
        for version, changes in ((6, {"quarantined": "other state"}), (3, {"event_hash": b"of another history"})):
            (snapshot,) = log.snapshots(ONE, to_version=version, limit=1)
            log.append([], [msgspec.structs.replace(snapshot, **changes)])
    arguments = ["replay", str(tmp_path / "copy"), "--stream", ONE, "--mode", "from_snapshot"]
    assert command_line.main(arguments) == 0
    printed = capsys.readouterr()
    assert "no usable snapshot: from the first event; not usable: the one at 3, 6" in printed.err
    assert len(printed.out.splitlines()) == 7


def test_a_replay_selects_by_metadata_of_any_type(run: Run) -> None:
    def found(*pairs: str) -> list[int]:
        return positions(run("replay", "--json", *(word for pair in pairs for word in ("--metadata", pair))))

    assert found("attempts=2") == found("text=2") == [3, 4]
    assert found('text="2"') == [3, 4]
    assert found('attempts="2"') == [], "in quotes it is a text"
    assert found("is_last=true") == [10]
    assert found("is_last=1") == []
    assert found("attempts=2", "text=3") == []
    assert positions(run("events", "--json", "--metadata", "attempts=2")) == [3, 4]
    unknown = run("replay", "--type", "cart.change")
    assert (unknown.code, "Near it: cart.changed" in unknown.err) == (1, True)
    far = run("replay", "--type", "x", "--type", "cart.changed")
    assert "It has cart.changed" in far.err


def test_a_replay_refuses_what_it_cannot_do(run: Run) -> None:
    for speed in ("0", "-1", "nan", "inf", "100.1"):
        result = run("replay", f"--speed={speed}")
        assert (result.code, "0.1 to 100 times the original pace" in result.err) == (1, True)
    assert run("replay", "--speed", "fast").code == 2
    assert run("replay", "--to-version", 1, "--to-position", 1).code == 2
    assert "say which, by --stream" in run("replay", "--to-version", 1).err
    assert "has no version 9" in run("replay", "--stream", ONE, "--to-version", 9).err
    assert positions(run("replay", "--speed", "flat", "--json", "--to-time", minute(2))) == [1, 2]
    assert positions(run("replay", "--speed", "100", "--wait-max", "0", "--json")) == list(range(1, 11))


def test_the_difference_has_the_innermost_values(run: Run) -> None:
    (data,) = run("diff", ONE, 1, 3, *DOMAIN, "--json").lines
    assert [event["version"] for event in data["events"]] == [2, 3]
    assert set(data["changes"]) == {"lines", "tags", "log"}
    assert {"path": "tags{'[/x]'}", "after": "[/x]"} in data["values"]
    plain = run("diff", ONE, 1, 3, *DOMAIN)
    assert "lines['[sku]2']" in plain.out
    back = run("diff", ONE, 3, 1, *DOMAIN, "--json").lines[0]
    assert (back["events"], {"path": "tags{'[/x]'}", "before": "[/x]"} in back["values"]) == ([], True)
    assert run("diff", ONE, 2, 2, *DOMAIN, "--json").lines[0]["values"] == []
    assert [event["version"] for event in run("diff", ONE, 0, 7, "--json").lines[0]["events"]] == list(range(1, 8))


def test_the_state_in_a_fork_is_compared_field_by_field(store: Path, tmp_path: Path, run: Run) -> None:
    fork = tmp_path / "fork"
    assert run("fork", fork, "--at", 9).code == 0
    event, *fields = run("diff", ONE, "--with", fork, *DOMAIN, "--json").lines
    assert (event["store"], event["version"]) == (str(store), 7)
    sizes = {row["field"]: (len(row["here"]), len(row["there"])) for row in fields}
    assert sizes["lines"] == (7, 6), "they are values, as in other JSON"
    plain = run("diff", ONE, "--with", fork, *DOMAIN)
    assert "lines" in plain.out


def test_blame_names_every_field(run: Run) -> None:
    (data,) = run("blame", ONE, *DOMAIN, "--json").lines
    assert (data["tags"]["version"], data["tags"]["time"]) == (2, "2026-01-01T00:03:00.000000+00:00")
    assert (data["never"]["version"], data["never"]["time"], data["never"]["value"]) == (0, None, 7)
    assert "never set" in run("blame", ONE, *DOMAIN).out


def test_progress_is_shown_on_a_terminal_and_leaves_the_output_alone(store: Path, tmp_path: Path) -> None:
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "eventsrc", "replay", str(store), "--json"]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=terminal)
    os.close(terminal)
    shown = shown_on(master)
    assert process.wait(60) == 0
    assert "replaying" in shown
    assert "10 of 10 events" in shown
    written = (tmp_path / "out").read_text().splitlines()
    assert [json.loads(line)["position"] for line in written] == list(range(1, 11))


def test_a_paced_replay_is_steered_on_a_terminal(store: Path) -> None:
    master, terminal = pty.openpty()
    # A minute lies between two events, ten at this speed: what comes is what is asked for.
    command = [sys.executable, "-m", "eventsrc", "replay", str(store), "--json", "--speed", "0.1"]
    with subprocess.Popen(
        command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(terminal)
        assert process.stdout is not None
        assert process.stderr is not None
        seen = [json.loads(process.stdout.readline())["position"]]
        for typed, count in ((b"s\n", 1), (b"\n", 1), (b"step\n", 1)):
            os.write(master, typed)
            seen += [json.loads(process.stdout.readline())["position"] for _ in range(count)]
        os.write(master, b"1\n99\nnonsense\nq\n")
        rest, told = process.communicate(timeout=60)
        os.close(master)
    assert (seen, rest, process.returncode) == ([1, 2, 3, 4], "", 0)
    assert "beyond 1, and does not go backwards" in told
    assert "ends at position 10, so it cannot run to 99" in told
    assert told.count("p: pause") == 2
    assert "4 of 10 events, position 4" in told
