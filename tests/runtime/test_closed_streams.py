"""The command line where the caller has closed standard streams."""

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
