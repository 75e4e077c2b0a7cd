"""A replay on the command line: typed lines steer it, and its progress is shown."""

import errno
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Final

import rich.console
import rich.progress
import trio

from ...storage.errors import EventSourcingError
from ..history.errors import ReplayHandlerFailed
from ..history.replay import Progress, Replay

HELP: Final = "p: pause, r: go on, s or Enter: one event, a position: on to there, q: end"
READ_BYTES: Final = 4_096
SHOWN_EVERY_SECONDS: Final = 0.2


async def run_on_console(replay: Replay, *, step: bool) -> None:
    """Run the replay to its end, or until a line ends it.

    Lines of standard input steer the replay where standard input is a terminal, or with `step`, which pauses the replay
    before its first event.
    """
    is_steered = step or is_typed()
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
        try:
            await replay.run()
        except ReplayHandlerFailed as error:
            # Printing failed: no event is to blame.
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise
        nursery.cancel_scope.cancel()


def is_typed() -> bool:
    """Whether standard input is a terminal, on which steering lines can be typed."""
    return sys.stdin is not None and sys.stdin.isatty()


async def _steer(replay: Replay, scope: trio.CancelScope) -> None:
    if sys.stdin is not None:
        async for line in _lines(sys.stdin.fileno()):
            if line.strip() in ("q", "quit"):
                scope.cancel()
                return
            if not _obey(replay, line.strip()):
                print(HELP, file=sys.stderr)
            # Lines from a pipe are taken one after the other; a person who types may change their mind.
            elif not is_typed() and not replay.goes_to_end:
                await replay.wait_paused()
    replay.resume()


def _obey(replay: Replay, word: str) -> bool:
    """Steer the replay by a word; returns False for an unknown word."""
    if word in ("p", "pause"):
        replay.pause()
    elif word in ("r", "resume"):
        replay.resume()
    elif word in ("", "s", "step"):
        replay.step()
    elif word.isdecimal():
        try:
            replay.run_to(int(word))
        except EventSourcingError as error:
            print(f"eventsrc: {error}", file=sys.stderr)
    else:
        return False
    return True


async def _lines(descriptor: int) -> AsyncIterator[str]:
    """Lines as they are typed, read without a thread, which could not be stopped."""
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
        rich.progress.TextColumn("replaying"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TextColumn("{task.fields[told]}"),
        console=console,
        transient=True,
        # Standard output is not the screen here, and must not be redirected to the progress bar.
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task("replaying", told="", total=1.0)
        while True:
            progress = replay.progress
            bar.update(task, completed=progress.fraction, told=told(progress, is_paused=replay.is_paused))
            await trio.sleep(SHOWN_EVERY_SECONDS)


def told(progress: Progress, *, is_paused: bool = False) -> str:
    """The progress in words: events, rate, time left."""
    total = "" if progress.events_total is None else f" of {progress.events_total:,}"
    words = [f"{progress.events:,}{total} events", f"position {progress.position:,}"]
    words.append(f"{progress.per_second:,.{0 if progress.per_second >= 10 else 1}f} a second")
    if is_paused:
        words.append("paused")
    elif progress.seconds_left is not None and progress.fraction < 1:
        words.append(f"{_duration(progress.seconds_left)} left")
    return ", ".join(words)


def _duration(seconds: float) -> str:
    with suppress(OverflowError):
        return str(timedelta(seconds=round(seconds)))
    return "ages"
