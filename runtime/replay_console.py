"""A replay on the command line: what is typed steers it, and how far it has come is shown."""

import errno
import os
import sys
from collections.abc import AsyncIterator
from typing import Final

import rich.console
import rich.progress
import trio

from .replay import Progress, Replay

HELP: Final = "p: pause, r: go on, s or Enter: one event, a position: on to there, q: end"
READ_BYTES: Final = 4_096
SHOWN_EVERY_SECONDS: Final = 0.2


async def run_on_console(replay: Replay, *, step: bool) -> None:
    """Run it to its end, or until told to end.

    Lines of standard input steer it where that is a terminal, or with `step`, which has it wait before the first event.
    """
    is_steered = step or sys.stdin.isatty()
    if step:
        replay.pause()
    if is_steered:
        print(HELP, file=sys.stderr)
    async with trio.open_nursery() as nursery:
        if is_steered:
            nursery.start_soon(_steer, replay, nursery.cancel_scope)
        # Where events are printed on the same screen, they are the progress.
        if sys.stderr.isatty() and not sys.stdout.isatty():
            nursery.start_soon(_show_progress, replay)
        await replay.run()
        nursery.cancel_scope.cancel()


async def _steer(replay: Replay, scope: trio.CancelScope) -> None:
    is_typed = sys.stdin.isatty()
    async for line in _lines(sys.stdin.fileno()):
        word = line.strip()
        if word == "p":
            replay.pause()
        elif word == "r":
            replay.resume()
        elif word == "q":
            scope.cancel()
        elif word in ("", "s") or word.isdecimal():
            if word.isdecimal():
                replay.run_to(int(word))
            else:
                replay.step()
            # Lines from a pipe are taken one after the other; who types may change their mind.
            while not is_typed and not replay.is_paused:
                await trio.lowlevel.checkpoint()
        else:
            print(HELP, file=sys.stderr)
    replay.resume()


async def _lines(descriptor: int) -> AsyncIterator[str]:
    """Lines as they are typed, without a thread that could not be stopped."""
    rest = b""
    while True:
        try:
            await trio.lowlevel.wait_readable(descriptor)
        except OSError as error:
            # A regular file is always readable, and epoll refuses it.
            if error.errno != errno.EPERM:
                raise
        content = os.read(descriptor, READ_BYTES)
        if not content:
            return
        *lines, rest = (rest + content).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")


async def _show_progress(replay: Replay) -> None:
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.TextColumn("{task.fields[rate]:,.0f} events/s"),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("replaying", rate=0.0, total=None)
        while True:
            progress: Progress = replay.progress
            bar.update(task, completed=progress.position, total=progress.last_position, rate=progress.per_second)
            await trio.sleep(SHOWN_EVERY_SECONDS)
