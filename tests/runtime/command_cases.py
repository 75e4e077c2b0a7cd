"""Runs commands of `eventsrc` beside a runtime of the test's own."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio


async def eventsrc(*arguments: object) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "eventsrc", *map(str, arguments)]
    with trio.fail_after(60):
        result = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    return result.returncode, result.stdout.decode(), result.stderr.decode()


async def rows(*arguments: object) -> list[dict[str, Any]]:
    code, out, error = await eventsrc(*arguments, "--json")
    assert (code, error) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


async def one(*arguments: object) -> dict[str, Any]:
    (row,) = await rows(*arguments)
    return row


async def listed(condition: Callable[[list[dict[str, Any]]], bool], *arguments: object) -> list[dict[str, Any]]:
    """The rows of a command once they are so: a runtime publishes now and then how it is."""
    with trio.fail_after(60):
        while not condition(found := await rows(*arguments)):
            pass
        return found


def shown_on(master: int) -> str:
    """All that is written to a terminal until nobody holds it any more."""
    shown = b""
    # Reading from a terminal that nobody holds any more is an error on Linux, and its end elsewhere.
    with suppress(OSError):
        while content := os.read(master, 4096):
            shown += content
    os.close(master)
    return shown.decode()
