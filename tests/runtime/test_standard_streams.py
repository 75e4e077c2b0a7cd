"""The command line where standard streams are closed, on a full disk, or a pipe that nobody reads."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from bank_domain import Account, Deposit

from eventsrc import Runtime


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("closed") / "store"

    async def fill() -> None:
        async with Runtime.open(path, aggregates=[Account]) as runtime:
            await runtime.actor(Account, "ann").ask(Deposit(100))

    trio.run(fill)
    return path


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", ["streams", "events --json", "verify", "export -", "demo"])
def test_streams_that_are_closed_lead_nowhere(store: Path, arguments: str, closed: str) -> None:
    command, *rest = arguments.split()
    call = shlex.join([sys.executable, "-m", "eventsrc", command, *([] if command == "demo" else [str(store)]), *rest])
    ran = subprocess.run(["sh", "-c", f"exec {call} {closed}"], capture_output=True, check=False, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert bool(ran.stdout) == (closed in ("<&-", "2>&-"))


@pytest.mark.parametrize("closed", ["2>&-", "<&-"])
def test_without_a_stream_an_error_is_no_output(tmp_path: Path, closed: str) -> None:
    call = shlex.join([sys.executable, "-m", "eventsrc", "import", str(tmp_path / "new"), "-"])
    ran = subprocess.run(["sh", "-c", f"exec {call} {closed}"], capture_output=True, check=False, timeout=60, input=b"")
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert len(ran.stderr.splitlines()) == (closed == "<&-"), ran.stderr


@pytest.mark.parametrize("is_buffered", [False, True])
@pytest.mark.parametrize(
    "arguments", ["streams", "events", "events --json", "verify", "events --follow", "replay", "export -", "demo"]
)
def test_an_output_that_takes_no_more_is_one_line_of_error(store: Path, arguments: str, is_buffered: bool) -> None:
    command, *rest = arguments.split()
    path = [] if command == "demo" else [str(store)]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "eventsrc", command, *path, *rest],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
            env=os.environ | {"PYTHONUNBUFFERED": "" if is_buffered else "1"},
        )
    assert ran.returncode == 1
    (said,) = ran.stderr.splitlines()
    assert "standard output" in said
    assert "No space left on device" in said


@pytest.mark.parametrize("is_buffered", [False, True])
@pytest.mark.parametrize(
    "arguments",
    ["streams", "events", "events --json --follow", "verify", "replay", "export -", "watch", "demo", "demo bank"],
)
def test_an_output_that_nobody_reads_ends_it_in_order(
    store: Path, tmp_path: Path, arguments: str, is_buffered: bool
) -> None:
    command, *rest = arguments.split()
    path = [] if command == "demo" else [str(store)]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as unread:
        ran = subprocess.run(
            [sys.executable, "-m", "eventsrc", command, *path, *rest],
            stdout=unread,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
            env=os.environ | {"PYTHONUNBUFFERED": "" if is_buffered else "1", "TMPDIR": str(tmp_path)},
        )
    assert (ran.returncode, ran.stderr) == (141, "")
    assert list(tmp_path.iterdir()) == []
